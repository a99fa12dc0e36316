"""Steered sessions: frames stay right, levels follow signals, and nothing a signal or a callback does breaks them."""

from __future__ import annotations

import gc
import json
import logging
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import bundle_for, conv_graph, random_network, sign_changing
from waiting import eventually, our_threads

from haste_runtime.errors import HasteError, LevelError, PolicyError, SignalError
from haste_runtime.governor.follow import Governor
from haste_runtime.governor.policy import read_policy
from haste_runtime.governor.trace import TraceError, replay
from haste_runtime.session import Session
from haste_runtime.signals import Callback, Latency, Reading, Scripted, Signal, Source, smoothed
from haste_runtime.signals.latency import Frame, percentile

LOW = {"signal": "battery", "below": 20, "leave": 25, "min_level": 2}
FAST = {"period_s": 0.01, "dwell_s": 0, "rules": [LOW]}


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert our_threads() == []


@pytest.fixture
def session() -> Iterator[Session]:
    """Levels 0 to 3."""
    with Session(bundle_for(random_network(5), levels=(12, 6, 2)), backend="numpy") as session:
        yield session


def frames(session: Session, count: int = 1) -> np.ndarray:
    (info,) = session.inputs
    return sign_changing(np.random.default_rng(0), (count, *(int(n) for n in info.shape[1:] if n)))


# --- the governor, step by step --------------------------------------------------------------------------------------


class Board:
    """A governor without a thread, on a clock that the test moves."""

    def __init__(self, policy: Any, *sources: Source, levels: int = 4, **options: Any) -> None:
        self.now, self.level, self.told, self.ended = 100.0, 0, list[tuple[int, int, str]](), 0
        self.governor = Governor(
            read_policy(policy),
            sources,
            level=0,
            costs=[1 - 0.1 * n for n in range(levels)],
            set_level=lambda level: setattr(self, "level", level),
            changed=lambda *change: self.told.append(change),
            ended=lambda _: setattr(self, "ended", self.ended + 1),
            clock=lambda: self.now,
            **options,
        )

    def after(self, seconds: float) -> int:
        self.now += seconds
        self.governor.step()
        return self.level


def test_a_scripted_battery_moves_the_level() -> None:
    board = Board({"dwell_s": 0, "rules": [LOW]}, Scripted("battery", [(0, 50), (10, 18), (20, 22), (30, 26)], "%"))
    assert [board.after(5) for _ in range(8)] == [0, 0, 2, 2, 2, 2, 0, 0]
    assert board.told == [
        (0, 2, "battery 18 % is below 20 %: at least level 2"),
        (2, 0, "battery 26 % is not below 20 %"),
    ]
    assert board.governor.readings["battery"] == Reading(26.0, "%", board.now, True)
    assert board.governor.decision.level == 0


def test_the_first_source_that_has_a_value_counts() -> None:
    gone, other = Scripted("battery", [(0, None), (10, 50)]), Scripted("battery", [(0, 10)])
    board = Board({"dwell_s": 0, "rules": [LOW]}, gone, other)
    assert [board.after(5) for _ in range(4)] == [2, 2, 0, 0]


class Rude(Source):
    """Breaks every promise of a source."""

    def start(self, period_s: float) -> None:
        raise RuntimeError("start")

    def readings(self, now: float) -> dict[str, Reading]:
        raise RuntimeError("readings")

    def close(self) -> None:
        raise RuntimeError("close")


def test_a_source_that_raises_is_missing_and_the_others_count(caplog: pytest.LogCaptureFixture) -> None:
    board = Board({"dwell_s": 0, "rules": [LOW]}, Rude(), Scripted("battery", [(0, 10)]))
    assert board.after(1) == 2
    assert "RuntimeError: readings" in caplog.text
    board.governor.start()
    board.governor.stop()
    assert "RuntimeError: start" in caplog.text
    assert "RuntimeError: close" in caplog.text


def test_a_callback_that_raises_is_logged_and_steering_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    board = Board({"dwell_s": 0, "rules": [LOW]}, Scripted("battery", [(0, 10), (5, 90)]))

    def changed(old: int, new: int, reason: str) -> None:
        raise ValueError("of the user")

    board.governor._changed = changed
    assert [board.after(3) for _ in range(3)] == [2, 2, 0]
    assert caplog.text.count("ValueError: of the user") == 2


def test_levels_above_the_top_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    board = Board({"dwell_s": 0, "rules": [LOW | {"min_level": 9, "name": "low"}]}, Scripted("battery", [(0, 10)]))
    assert [board.after(1) for _ in range(3)] == [3, 3, 3]
    assert caplog.text.count("min_level of the rule 'low' is 9, but the top level of this bundle is 3") == 1


def test_a_missing_signal_is_warned_of_once_and_its_return_noted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "haste_runtime")
    board = Board({"dwell_s": 0, "rules": [LOW]}, Scripted("battery", [(0, 50), (10, None), (30, 50), (40, None)]))
    for _ in range(50):
        board.after(1)
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        "The signal battery is missing: it gave no value.",
        "The signal battery is back.",
        "The signal battery is missing: it gave no value.",
    ]


def test_targets_that_come_with_latency() -> None:
    assert Board({}, Latency(target_ms=40)).governor.policy.targets.latency_ms == 40
    assert Board({"targets": {"latency_ms": 40}}, Latency(target_ms=40)).governor.policy.targets.latency_ms == 40
    with pytest.raises(PolicyError, match="is 50, but Latency has target_ms=40"):
        Board({"targets": {"latency_ms": 50}}, Latency(target_ms=40))


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(PolicyError, match="decides nothing"):
        Board({}, Latency())
    with pytest.raises(SignalError, match="function is not a signal"):
        Board(FAST, lambda: 3)  # type: ignore[arg-type]


def test_frames_steer_by_their_latency() -> None:
    """A frame every 50 ms that takes 44 ms at level 0, and 10 % less with each level, under a target of 40 ms."""
    board = Board({"period_s": 0.1, "dwell_s": 0.3, "targets": {"latency_ms": 40}})
    board.governor._latency.level_changed(board.now)

    def run(seconds: float, slow: float) -> int:
        for i in range(round(seconds / 0.05)):
            board.now += 0.05
            board.governor.frame(board.level, slow * (1 - 0.1 * board.level))
            if i % 2:
                board.governor.step()
        return board.level

    assert run(0.4, 0.044) == 0  # too few frames to tell
    assert run(2, 0.044) == 2  # 0.044 * 0.8 = 0.0352
    assert run(5, 0.044) == 2
    assert run(8, 0.020) == 0
    assert [new for _, new, _ in board.told] == [2, 0]


# --- latency ---------------------------------------------------------------------------------------------------------


def test_percentiles_are_nearest_ranks() -> None:
    assert percentile([1, 2, 3, 4, 5, 6, 7, 8, 9, 99], 90) == 9
    assert percentile([1, 2, 3], 50) == 2
    assert percentile([7], 90) == 7


def test_latency_is_that_of_the_frames_since_the_change() -> None:
    latency = Latency(min_frames=3)
    assert latency.readings(100.0)["frame_age"].reason == "no frame yet"
    latency.level_changed(100.0)
    latency.add(Frame(100.1, 5, 0.9))  # had begun before
    for i in range(2):
        latency.add(Frame(100.2 + i / 10, 0, 0.02))
    few = latency.readings(100.4)
    assert few["latency"].reason == "2 of 3 frames since the level changed"
    assert few["frame_age"].value == pytest.approx(0.1)
    latency.add(Frame(100.4, 0, 0.04))
    enough = latency.readings(100.5)
    assert enough["latency"].value == pytest.approx(40)
    assert enough["latency_p50"].value == pytest.approx(20)
    assert enough["duty"].value == pytest.approx(0.08 / 0.5)
    latency.level_changed(101.0)
    assert not latency.readings(101.0)["latency"].ok
    assert latency.readings(101.0)["frame_age"].value == pytest.approx(0.6)


def test_the_window_moves_and_slow_networks_keep_enough_frames() -> None:
    latency = Latency(min_frames=3, window_s=1)
    latency.level_changed(100.0)
    for i in range(20):
        latency.add(Frame(100.1 + i / 10, 0, 0.01 * (i + 1)))
    assert latency.readings(102.0)["latency_p50"].value == pytest.approx(150)  # the last eleven of them
    slow = Latency(min_frames=3, window_s=1)
    slow.level_changed(100.0)
    for i in range(5):
        slow.add(Frame(102.0 + 2 * i, 0, 1.5))
    assert slow.readings(110.0)["latency"].value == pytest.approx(1500)
    assert slow.readings(110.0)["duty"].value == pytest.approx(3 * 1.5 / 5.5)
    assert slow.readings(120.0)["duty"].value == pytest.approx(3 * 1.5 / 15.5)  # frames have stopped


@pytest.mark.parametrize("options", [{"target_ms": 0}, {"target_ms": float("nan")}, {"window_s": 0}, {"min_frames": 0}])
def test_latency_refuses_what_makes_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(SignalError):
        Latency(**options)


# --- sessions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_every_frame_is_its_level_while_a_battery_goes_up_and_down(backend: str) -> None:
    """None is dropped, none is wrong: each output is, to the byte, what its level computes; the callback is told of
    each change in order."""
    if backend == "numba":
        pytest.importorskip("numba")
    told: list[tuple[int, int, str]] = []
    battery = [50.0]
    rules = [LOW, {"signal": "battery", "below": 10, "leave": 15, "min_level": 3}]
    with Session(bundle_for(random_network(5), levels=(12, 6, 2)), backend=backend) as session:
        x = frames(session)
        expected = []
        for session.level in range(4):
            expected.append(session.run(x).tobytes())
        assert len(set(expected)) == 4
        session.level = 0
        session.when_level_changed = lambda *change: told.append(change)
        session.on_signal(lambda: battery[0], name="battery", policy=FAST | {"rules": rules}, unit="%")
        seen: list[int] = []

        def run() -> None:
            result = session.run(x).tobytes()
            assert result == expected[session.stats.level]
            seen.append(session.stats.level)

        for battery[0], level in [(50, 0), (19, 2), (22, 2), (9, 3), (14, 3), (16, 2), (30, 0), (5, 3)]:
            eventually(lambda level=level: run() or (seen[-1] == level and session.level == level))
            run()
        assert set(seen) == {0, 2, 3}
        assert len(seen) >= 16
        eventually(lambda: len(told) == 5)
    assert [(old, new) for old, new, _ in told] == [(0, 2), (2, 3), (3, 2), (2, 0), (0, 3)]
    assert told[0][2] == "battery 19 % is below 20 %: at least level 2"


def test_a_batch_changes_level_between_its_frames(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """The battery falls within the fourth frame, which goes on until the level has changed: it keeps its own level,
    the fifth has the new one."""
    x = np.repeat(frames(session), 8, axis=0)
    expected = {}
    for session.level in (2, 0):
        expected[session.level] = session.run(x[:1])[0].tobytes()
    backend, calls = session._running(), []
    original = backend.run

    def run(given: Any, level: int) -> Any:
        calls.append(level)
        if len(calls) == 4:
            session.report("battery", 10)
            eventually(lambda: session.level == 2)
        return original(given, level)

    monkeypatch.setattr(backend, "run", run)
    session.follow(policy=FAST)
    assert [frame.tobytes() for frame in session.run(x)] == [expected[0]] * 4 + [expected[2]] * 4
    assert calls == [0] * 4 + [2] * 4


def test_reports_and_latency_need_no_source(session: Session) -> None:
    session.report("battery", 10)  # before anything follows
    governor = session.follow(policy=FAST)
    eventually(lambda: session.level == 2)
    session.report("battery", 90)
    eventually(lambda: session.level == 0)
    session.run(frames(session, 12))
    eventually(lambda: governor.readings["latency"].ok)
    with pytest.raises(SignalError):
        session.report("Battery", 3)


def test_override_and_clearing(session: Session) -> None:
    told: list[tuple[int, int, str]] = []
    session.when_level_changed = lambda *change: told.append(change)
    governor = session.follow(policy=FAST)
    session.report("battery", 10)
    eventually(lambda: session.level == 2)
    session.level = 1
    assert session.level == 1  # at once
    assert governor.decision.reason == "override by the user"
    step = governor.decision
    eventually(lambda: governor.decision is not step)
    assert session.level == 1
    for wrong in (4, -1, 1.5):
        with pytest.raises(LevelError):
            session.level = wrong  # type: ignore[assignment]
    session.level = None
    assert session.level == 2
    eventually(lambda: len(told) == 3)
    assert [change[:2] for change in told] == [(0, 2), (2, 1), (1, 2)]
    session.unfollow()
    with pytest.raises(LevelError):
        session.level = None
    session.level = 3
    assert session.level == 3


def test_a_signal_that_hangs_holds_up_nobody(session: Session) -> None:
    go_on = threading.Event()
    governor = session.on_signal(lambda: go_on.wait(10), name="stuck", policy=FAST)
    session.report("battery", 10)
    eventually(lambda: session.level == 2)
    session.run(frames(session, 3))
    assert not governor.readings["stuck"].ok
    go_on.set()


def test_callbacks_of_the_user_may_do_anything(session: Session, caplog: pytest.LogCaptureFixture) -> None:
    calls = []

    def changed(old: int, new: int, reason: str) -> None:
        calls.append(new)
        session.run(frames(session))
        if len(calls) == 1:
            session.level = 3  # an override from inside
        if len(calls) == 2:
            raise KeyError("of the user")
        if len(calls) == 3:
            session.unfollow()

    session.when_level_changed = changed
    session.follow(policy=FAST)
    session.report("battery", 10)
    eventually(lambda: len(calls) == 2)
    session.level = None
    eventually(lambda: session.governor is None)
    assert calls == [2, 3, 2]
    assert "KeyError: 'of the user'" in caplog.text
    eventually(lambda: not [t for t in threading.enumerate() if t.name == "haste-governor"])


def test_following_anew_replaces_and_a_wrong_policy_does_not(session: Session) -> None:
    first = session.follow(policy=FAST)
    session.report("battery", 10)
    eventually(lambda: session.level == 2)
    with pytest.raises(PolicyError):
        session.follow(policy={"rule": []})
    with pytest.raises(PolicyError, match="decides nothing"):
        session.follow()
    assert session.governor is first
    second = session.follow(policy=FAST | {"min_level": 3, "rules": []})
    eventually(lambda: session.level == 3)
    assert session.governor is second
    assert len([t for t in threading.enumerate() if t.name == "haste-governor"]) == 1


def test_functions_are_added_to_what_is_followed(session: Session) -> None:
    with pytest.raises(PolicyError, match="decides nothing"):
        session.on_signal(lambda: 1, name="hot")
    rules = [LOW, {"when": "hot", "min_level": 3}]
    governor = session.on_signal(lambda: 10, name="battery", policy=FAST | {"rules": rules})
    eventually(lambda: session.level == 2)
    assert session.on_signal(lambda: True, name="hot") is governor
    eventually(lambda: session.level == 3)


def test_the_end(session: Session) -> None:
    with session.follow(Callback(lambda: 10, "battery"), policy=FAST) as governor:
        eventually(lambda: session.level == 2)
        assert session.governor is governor
    assert session.governor is None
    assert session.level == 2  # stays
    session.unfollow()
    governor.stop()
    session.follow(smoothed(Callback(lambda: 90, "battery"), 0.001), policy=FAST)
    eventually(lambda: session.level == 0)
    session.close()
    with pytest.raises(HasteError, match="closed"):
        session.follow(policy=FAST)


def test_a_session_that_nobody_closed_ends_its_threads() -> None:
    def follow_and_forget() -> None:
        session = Session(bundle_for(conv_graph(8, 8, 3)), "numpy")
        session.on_signal(lambda: 10, name="battery", policy=FAST)
        eventually(lambda: session.level == 2)

    follow_and_forget()
    gc.collect()
    eventually(lambda: not our_threads())


def test_a_defect_of_ours_does_not_end_steering(
    session: Session, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    governor = session.follow(policy=FAST)
    monkeypatch.setattr(governor, "_read", lambda now: 1 / 0)
    eventually(lambda: "ZeroDivisionError" in caplog.text)
    monkeypatch.undo()
    session.report("battery", 10)
    eventually(lambda: session.level == 2)


class Counted(Signal):
    def __init__(self) -> None:
        super().__init__("battery")
        self.asked = 0

    def measure(self) -> float:
        self.asked += 1
        return 10 if self.asked % 2 else 90


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_a_thousand_switches_leave_nothing_behind(backend: str) -> None:
    """Ten frames after each switch with the compiled backend, one with numpy; in the second half neither threads nor
    blocks of memory become more."""
    if backend == "numba":
        pytest.importorskip("numba")
    each = 10 if backend == "numba" and not os.environ.get("NUMBA_DISABLE_JIT") else 1
    signal, changes = Counted(), list[int]()
    with Session(bundle_for(conv_graph(8, 8, 3), levels=(12, 3)), backend) as session:
        x = frames(session)
        expected = {}
        for session.level in (2, 0):
            expected[session.level] = session.run(x).tobytes()
        session.when_level_changed = lambda old, new, reason: changes.append(new)
        governor = session.follow(signal, policy=FAST | {"period_s": 1000.0})  # its thread sleeps, the test steps
        eventually(lambda: signal.asked == 1)
        threads, blocks = threading.active_count(), 0
        for i in range(1000):
            level = governor.step().level
            for _ in range(each):
                assert session.run(x).tobytes() == expected[level]
            if i == 499:
                gc.collect()
                blocks = sys.getallocatedblocks()
        gc.collect()
        assert sys.getallocatedblocks() - blocks < 2000  # four a switch would be more
        assert threading.active_count() == threads
        assert not governor._pending
    assert len(changes) >= 999
    assert set(changes) == {0, 2}


# --- traces ----------------------------------------------------------------------------------------------------------


def test_a_trace_is_decided_again(tmp_path: Path, session: Session) -> None:
    board = Board(
        {"dwell_s": 2, "rules": [LOW], "targets": {"temperature_c": 60}},
        Scripted("battery", [(0, 50), (10, 18), (20, None), (30, 26)], "%"),
        Scripted("temperature", [(0, 55), (35, 61.7)], "°C"),
        trace=tmp_path / "trace.jsonl",
    )
    for i in range(50):
        board.after(1.1)
        if i in (15, 20):
            board.governor.override(1 if i == 15 else None)
    board.governor.stop()
    assert board.ended == 1
    again = list(replay(tmp_path / "trace.jsonl"))
    assert len(again) == 52
    assert all((d.level, d.reason) == (d.level_again, d.reason_again) for d in again)
    assert again[0].at == 0
    assert {d.level for d in again} >= {0, 1, 2}
    other = list(replay(tmp_path / "trace.jsonl", read_policy({"max_level": 1, "rules": [LOW]})))
    assert [d.level for d in other] == [d.level for d in again]
    assert max(d.level_again for d in other) == 1


def test_a_session_writes_its_trace(tmp_path: Path, session: Session) -> None:
    session.follow(policy=FAST, trace=tmp_path / "trace.jsonl")
    session.report("battery", 10)
    eventually(lambda: session.level == 2)
    session.close()
    assert list(replay(tmp_path / "trace.jsonl"))[-1].level_again == 2
    with Session(session.bundle, "numpy") as other, pytest.raises(TraceError, match="cannot be written"):
        other.follow(policy=FAST, trace=tmp_path / "no" / "folder")


class FullDisk:
    """A file on a disk that is full."""

    closed = False

    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")

    def flush(self) -> None: ...

    def close(self) -> None:
        raise OSError(28, "No space left on device")


def test_a_full_disk_ends_the_trace_not_the_steering(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    board = Board({"dwell_s": 0, "rules": [LOW]}, Scripted("battery", [(0, 10), (5, 90)]), trace=tmp_path / "trace")
    writer: Any = board.governor._trace
    writer._file.close()
    writer._file = FullDisk()
    assert [board.after(3) for _ in range(3)] == [2, 2, 0]
    assert caplog.text.count("ends here") == 1
    board.governor.stop()


HEAD = {"haste_trace": 1, "policy": {"rules": [LOW]}, "level": 0, "costs": [1.0, 0.9]}
LINE = {"at": 1.0, "level": 0, "reason": "", "override": None, "readings": {}}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "line 1, is not a line of a trace"),
        ([HEAD | {"haste_trace": 2}], "version 2"),
        ([HEAD | {"costs": []}], "line 1"),
        ([HEAD | {"costs": [1, 0]}], "line 1"),
        ([HEAD | {"level": 7}], "line 1"),
        ([HEAD, LINE, {"at": 2}], "line 3"),
        ([HEAD, [1]], "line 2"),
        ([HEAD, LINE | {"readings": {"battery": {"value": 3}}}], "line 2"),
        ([HEAD, LINE | {"readings": 3}], "line 2"),
        (["no JSON"], "line 1"),
    ],
)
def test_what_is_no_trace_is_refused(tmp_path: Path, lines: list[Any], message: str) -> None:
    path = tmp_path / "trace"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(TraceError, match=message):
        list(replay(path))
    path.write_bytes(b"\xff\xfe\n")
    with pytest.raises(TraceError, match="not JSON lines"):
        list(replay(path))
    with pytest.raises(TraceError, match="cannot be read"):
        list(replay(tmp_path / "nothing"))


def test_a_trace_that_was_cut_off_is_read_up_to_there(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_text(f"{json.dumps(HEAD)}\n{json.dumps(LINE)}\n{json.dumps(LINE)[:20]}")
    assert len(list(replay(path))) == 1
