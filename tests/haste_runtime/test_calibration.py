"""Calibration: what is measured holds for what was measured, and levels that do not pay are not used."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import bundle_for, random_network

from haste_runtime import Session, cli
from haste_runtime.bundle import write_bundle
from haste_runtime.calibration import measure, sidecar
from haste_runtime.calibration.measure import calibrate
from haste_runtime.calibration.record import Calibration, CalibrationError, Cost, Key, spread
from haste_runtime.calibration.sidecar import find, key_for, places, store
from haste_runtime.cli.frames import frames_for
from haste_runtime.errors import BackendError, PolicyError
from haste_runtime.governor.cost import past_dominated
from haste_runtime.governor.decide import State
from haste_runtime.governor.policy import read_policy
from haste_runtime.signals.signal import Signal

KEY = Key("b", "r", "numba", "c", "cpu")


def of_times(*by_threads: list[float], mj: list[float] | None = None) -> Calibration:
    """The ms of each level, on 1, 2, 4, ... threads."""
    costs = [
        Cost(level, 1 << n, ms, 1.2 * ms, None if mj is None else mj[level], 10)
        for n, row in enumerate(by_threads)
        for level, ms in enumerate(row)
    ]
    return Calibration(KEY, tuple(costs), "2026-01-01T00:00:00+00:00")


# --- what follows from the figures -----------------------------------------------------------------------------------


def test_levels_that_save_nothing_are_dropped() -> None:
    calibration = of_times([30, 28, 29, 27.9, 20, 20.5])
    assert calibration.dominated() == {2: 1, 3: 1, 5: 4}  # 27.9 is less, but by less than a percent
    assert calibration.useful() == (0, 1, 4)
    assert calibration.relative() == [30, 28, 29, 28, 20, 20.5]


def test_a_level_that_saves_energy_pays_too() -> None:
    calibration = of_times([30, 31, 31], mj=[100, 80, 90])
    assert calibration.useful() == (0, 1)


def test_the_level_for_a_deadline() -> None:
    calibration = of_times([30, 28, 29, 20, 15])
    assert [calibration.level_for(ms) for ms in (100, 30, 29, 28, 25, 15, 1)] == [0, 0, 1, 1, 3, 4, 4]
    assert calibration.level_for(30, percentile=90) == 3
    for wrong in (0, -1, float("nan"), float("inf")):
        with pytest.raises(CalibrationError, match="makes no sense"):
            calibration.level_for(wrong)


def test_more_threads_are_best_only_where_they_are_never_worse() -> None:
    assert of_times([30, 20], [16, 11], [10, 9]).best_threads == 4
    assert of_times([30, 20], [16, 11], [10, 21]).best_threads == 2, "four are slower at level 1"
    assert of_times([30, 20], [31, 5]).best_threads == 1
    assert of_times([30, 20], [29.5, 19.8]).best_threads == 1, "not worth another core"


def test_costs_are_those_of_the_nearest_number_of_threads() -> None:
    calibration = of_times([30, 20], [16, 11])
    assert [calibration.at_threads(n)[0].ms for n in (1, 2, 3, 8)] == [30, 16, 16, 16]


def test_steps_go_past_levels_that_do_not_pay() -> None:
    costs = of_times([30, 28, 29, 20, 21]).relative()
    assert [past_dominated(n, n + 1, costs) for n in range(4)] == [1, 3, 3, 3]
    assert [past_dominated(n, n - 1, costs) for n in (3, 2, 1)] == [1, 1, 0]
    assert past_dominated(2, 2, costs) == 2


def test_the_spread_of_rounds() -> None:
    assert spread([10.0] * 9) == 0
    assert spread([10, 10, 10, 12, 10, 10, 8, 10, 10]) == 0, "single rounds do not matter"
    assert spread([8, 8, 8, 10, 10, 10, 12, 12, 12]) == pytest.approx(0.4)


# --- the sidecar -----------------------------------------------------------------------------------------------------


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle with the levels 0 to 3, and a cache folder of its own."""
    monkeypatch.setenv("HASTE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "net.haste"
    write_bundle(path, bundle_for(random_network(5), levels=(12, 6, 2)))
    return path


@pytest.fixture
def session(net: Path) -> Iterator[Session]:
    with Session(net, "numpy") as session:
        yield session


def kept(net: Path, session: Session, *times: float) -> Calibration:
    calibration = replace(of_times(list(times)), key=key_for(net, session._running()))
    store(net, calibration)
    return calibration


def test_it_comes_back_as_it_was_and_the_bundle_stays_as_it_is(net: Path, session: Session) -> None:
    before = net.read_bytes()
    calibration = kept(net, session, 30, 20, 25, 10)
    assert net.read_bytes() == before
    assert session.calibration == calibration
    assert str(places(net, calibration.key.bundle)[0]) in session.calibration_reason
    assert session.level_for(latency_ms=22) == 1
    assert session._costs() == [30, 20, 25, 10]


def test_without_one_flops_are_used_and_milliseconds_are_refused(net: Path, session: Session) -> None:
    assert session.calibration is None
    assert session.calibration_reason == sidecar.NONE_YET
    assert session._costs() == pytest.approx([1, 0.9, 0.8, 0.7])
    with pytest.raises(CalibrationError, match="Nobody knows here") as caught:
        session.level_for(40)
    assert "haste-run calibrate" in caught.value.hint
    with Session(session.bundle, "numpy") as in_memory:
        assert "only in memory" in in_memory.calibration_reason


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        ("runtime", "haste-runtime was other and is"),
        ("backend", "the backend was other and is numpy"),
        ("code", "a library under it is another one"),
        ("cpu", "the processor was other and is"),
    ],
)
def test_what_has_changed_is_told(net: Path, session: Session, field: str, reason: str) -> None:
    calibration = kept(net, session, 30, 20, 25, 10)
    store(net, replace(calibration, key=replace(calibration.key, **{field: "other"})))
    assert session.calibration is None
    assert reason in session.calibration_reason
    assert session.calibration_reason.endswith("run haste-run calibrate again")


def test_another_bundle_under_the_same_name_is_another_one(net: Path, session: Session) -> None:
    kept(net, session, 30, 20, 25, 10)
    write_bundle(net, bundle_for(random_network(6), levels=(12, 6, 2)))
    with Session(net, "numpy") as other:
        assert other.calibration is None
        assert "the bundle is another one" in other.calibration_reason
        assert other.best_threads() == 1


def test_a_read_only_folder_and_a_read_only_home(
    net: Path, session: Session, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The bundle's folder refuses, so it goes to the cache; where that refuses too, the next folder, and then us."""
    refused: list[Path] = [net.parent]
    write = sidecar.write_whole

    def write_whole(path: Path, text: str) -> None:
        if path.parent in refused:
            raise OSError(30, "Read-only file system")
        write(path, text)

    monkeypatch.setattr(sidecar, "write_whole", write_whole)
    calibration = kept(net, session, 30, 20, 25, 10)
    folders = [place.parent for place in places(net, calibration.key.bundle)]
    assert folders[1] == tmp_path / "cache/calibrations"
    assert find(net, calibration.key, 4)[0] == calibration
    assert not places(net, calibration.key.bundle)[0].exists()
    refused.append(folders[1])
    assert store(net, calibration).parent == folders[2] == tmp_path / "user/haste-edge/calibrations"
    refused += folders
    with pytest.raises(CalibrationError, match="Read-only file system"):
        store(net, calibration)


@pytest.mark.parametrize(
    "damage",
    [
        lambda table: table | {"haste_calibration": 2},
        lambda table: table | {"costs": []},
        lambda table: table | {"costs": table["costs"][1:]},
        lambda table: table | {"costs": [*table["costs"], table["costs"][0]]},
        lambda table: table | {"costs": [cost | {"threads": 2} for cost in table["costs"]]},
        lambda table: table | {"costs": [cost | {"ms": -1} for cost in table["costs"]]},
        lambda table: table | {"costs": [cost | {"ms": "1"} for cost in table["costs"]]},
        lambda table: table | {"costs": 3},
        lambda table: table | {"key": {}},
        lambda table: {key: value for key, value in table.items() if key != "warnings"},
        lambda table: [],
        lambda table: "x",
    ],
)
def test_damaged_files_are_not_believed(net: Path, session: Session, damage: Any) -> None:
    kept(net, session, 30, 20, 25, 10)
    place = Path(f"{net}{sidecar.SUFFIX}")
    place.write_text(json.dumps(damage(json.loads(place.read_text()))))
    assert session.calibration is None
    assert "is not a calibration" in session.calibration_reason


def test_a_file_that_is_cut_off_or_no_text(net: Path, session: Session) -> None:
    kept(net, session, 30, 20, 25, 10)
    place = Path(f"{net}{sidecar.SUFFIX}")
    place.write_bytes(place.read_bytes()[:100])
    assert "is not a calibration" in find(net, key_for(net, session._running()), 4)[1]
    place.write_bytes(b"\xff\xfe")
    assert "cannot be read" in find(net, key_for(net, session._running()), 4)[1]
    assert find(net, key_for(net, session._running()), 4)[0] is None


def test_another_ladder(net: Path, session: Session) -> None:
    kept(net, session, 30, 20, 25)
    assert "has not every level" in session.calibration_reason


# --- measuring -------------------------------------------------------------------------------------------------------


class Power(Signal):
    def __init__(self, watts: float | None) -> None:
        super().__init__("power", "W", low=0)
        self._watts = watts

    def measure(self) -> float | None:
        return self._watts


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Visits of a few frames; a test is about what is done with them."""
    monkeypatch.setattr(measure, "VISIT_S", 0.001)
    monkeypatch.setattr(measure, "POWER_VISIT_S", 0.05)
    monkeypatch.setattr(measure, "IDLE_S", 0.05)


def test_every_level_is_measured_and_the_level_is_put_back(session: Session, net: Path, short: None) -> None:
    session.level, seen = 2, []
    calibration = calibrate(
        session,
        frames_for(session, None),
        key_for(net, session._running()),
        quick=True,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert session.level == 2
    assert [cost.level for cost in calibration.costs] == [0, 1, 2, 3]
    assert all(cost.frames >= measure.QUICK_ROUNDS and 0 < cost.ms <= cost.p90_ms for cost in calibration.costs)
    assert seen == [(n, 12) for n in range(1, 13)]
    assert calibration.quick
    assert calibration.idle_w is None
    assert all(cost.mj is None for cost in calibration.costs)


def test_energy_is_power_by_time(session: Session, net: Path, short: None) -> None:
    key, frames = key_for(net, session._running()), frames_for(session, None)
    calibration = calibrate(session, frames, key, quick=True, power=Power(2.5))
    assert calibration.idle_w == 2.5
    assert all(cost.mj == pytest.approx(2.5 * cost.ms, abs=1e-3) for cost in calibration.costs)
    silent = calibrate(session, frames, key, quick=True, power=Power(None))
    assert silent.costs[0].mj is None
    assert silent.warnings[-1] == "the power sensor did not answer: it gave no value"


def test_what_speaks_against_the_figures_is_told(session: Session, net: Path, short: None, tmp_path: Path) -> None:
    flags = tmp_path / "sys/devices/platform/soc/soc:firmware/get_throttled"
    flags.parent.mkdir(parents=True)
    flags.write_text("4\n")
    key, frames = key_for(net, session._running()), frames_for(session, None)
    assert (
        "the processor was held back (throttled)" in calibrate(session, frames, key, quick=True, root=tmp_path).warnings
    )
    steady = {(1, level): measure._Taken(rounds=[10.0] * 9) for level in range(3)}
    assert measure._warnings(steady, 0.99, set()) == []
    assert "took 20 % of the processor's time" in measure._warnings(steady, 0.8, set())[0]
    rising = {(1, level): measure._Taken(rounds=[10 + 0.2 * n for n in range(9)]) for level in range(3)}
    assert "longer towards the end" in measure._warnings(rising, 1, set())[-1]
    noisy = {(1, level): measure._Taken(rounds=[10, 14, 9, 13, 10, 14, 9, 13, 10]) for level in range(3)}
    assert "busy with something else" in measure._warnings(noisy, 1, set())[0]


def test_threads_are_taken_in_turn_and_outputs_stay_right(net: Path, short: None) -> None:
    """Fewer threads than the session was opened with compute the same, and count the same."""
    pytest.importorskip("numba")
    if os.environ.get("NUMBA_DISABLE_JIT"):
        pytest.skip("interpreted kernels have one thread")
    with Session(net, "numba", threads=3) as session:
        (x, *_) = frames_for(session, None)
        session.level, results, counts = 2, [], []
        for session.threads in (3, 1, 2, 3):
            (result,) = session.run(x).values()
            results.append(result.tobytes())
            counts.append(session.stats)
        assert len(set(results)) == 1
        assert len({(stats.flops_done, tuple(stats.layers.items())) for stats in counts}) == 1
        for wrong in (0, 4):
            with pytest.raises(BackendError, match="cannot run on"):
                session.threads = wrong
        key = key_for(net, session._running())
        calibration = calibrate(session, frames_for(session, None), key, thread_counts=(2, 3), quick=True)
        assert calibration.thread_counts == (1, 2, 3)
        assert session.threads == 3
        store(net, replace(calibration, costs=of_times([30, 20, 15, 10], [20, 10, 9, 8]).costs))
    with Session(net, "numba", threads="auto") as session:
        assert session.threads == 2
        assert session.level_for(9) == 2


# --- who uses it -----------------------------------------------------------------------------------------------------


def test_rules_may_ask_for_milliseconds(net: Path, session: Session) -> None:
    policy = {"rules": [{"when": "battery < 20", "latency_ms": 22}, {"when": "hot", "latency_ms": 9, "max_level": 1}]}
    with pytest.raises(CalibrationError, match="Nobody knows"):
        session.follow(policy=policy)
    kept(net, session, 30, 20, 25, 10)
    with Session(net, "numpy") as calibrated, calibrated.follow(policy=policy) as governor:
        bounds = [(rule.min_level, rule.max_level, rule.latency_ms) for rule in governor.policy.rules]
        assert bounds == [(1, None, None), (3, 3, None)]
    parsed = read_policy(policy)
    assert read_policy(parsed.to_dict()) == parsed
    with pytest.raises(PolicyError, match="asks for 22 ms"):
        State.start(parsed, 0, [1, 0.9])


def test_the_command(
    net: Path, short: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HASTE_DEBUG", raising=False)
    assert cli.run(["calibrate", "net.haste", "--backend", "numpy", "--quick", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["saved"] == "net.haste.calibration.json"
    assert [row["level"] for row in answer["levels"]] == [0, 1, 2, 3]
    assert answer["best_threads"] == 1
    slowest = max(row["ms"] for row in answer["levels"])
    assert cli.run(["calibrate", "net.haste", "--backend", "numpy", "--quick", "--no-save"]) == 0
    assert "best number of threads: 1" in capsys.readouterr().out

    np.save("picture.npy", np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8))
    infer = ["infer", "net.haste", "picture.npy", "--backend", "numpy", "--json"]
    assert cli.run([*infer, "--latency-ms", str(2 * slowest), "--threads", "auto"]) == 0
    assert json.loads(capsys.readouterr().out)["level"] == 0
    assert cli.run([*infer, "--latency-ms", "1e-6"]) == 0
    printed = capsys.readouterr()
    assert "No level meets 1e-06 ms here" in printed.err
    bench = ["bench", "net.haste", "--backend", "numpy", "--runs", "1", "--latency-ms", str(2 * slowest), "--json"]
    assert cli.run(bench) == 0
    assert [row["level"] for row in json.loads(capsys.readouterr().out)["levels"]] == [0]

    Path("net.haste.calibration.json").unlink()
    assert cli.run([*infer, "--latency-ms", "5"]) == 2
    assert "Run `haste-run calibrate BUNDLE`" in capsys.readouterr().err
    for wrong in (["--threads", "0"], ["--threads", "x"], ["--power", "nuclear"], ["--power", "ina219:x"]):
        assert cli.run(["calibrate", "net.haste", *wrong]) == 2
