"""Readings, signals of every elementary kind, and filters: nothing raises, whatever a sensor does."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from waiting import eventually

from haste_runtime.errors import SignalError
from haste_runtime.signals.background import Background
from haste_runtime.signals.callback import Callback
from haste_runtime.signals.filters import clamped, hysteresis, smoothed, stale_after
from haste_runtime.signals.push import Reports
from haste_runtime.signals.reading import Reading, aged, judge
from haste_runtime.signals.scripted import Scripted
from haste_runtime.signals.signal import Signal, Source, require


class Measured(Signal):
    """What the test gives, one after the other; an exception is raised."""

    def __init__(self, *values: Any, **options: Any) -> None:
        super().__init__("measured", "%", **options)
        self.values: Iterator[Any] = iter(values)
        self.closed = 0

    def measure(self) -> float | None:
        value = next(self.values)
        if isinstance(value, Exception):
            raise value
        return value

    def close(self) -> None:
        self.closed += 1


# --- readings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [57.5, 57, True, np.float32(3.5), np.int64(4), np.array(2.5)])
def test_numbers_are_readings(value: Any) -> None:
    reading = judge(value, "%", 7.0, 0, 100)
    assert reading == Reading(float(value), "%", 7.0, True, "")
    assert type(reading.value) is float


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "it gave no value"),
        (math.nan, "it gave nan"),
        (math.inf, "it gave inf"),
        (-5, "it gave -5 %, and only from 0 to 100 is plausible"),
        (101, "it gave 101 %, and only from 0 to 100 is plausible"),
        ("57", "it gave '57', which is not a number"),
        (b"57", "it gave b'57', which is not a number"),
        ([1, 2], "it gave list, which is not a number"),
        (np.zeros(3), "it gave ndarray, which is not a number"),
        (10**400, "it gave int, which is not a number"),
        (object(), "it gave object, which is not a number"),
    ],
)
def test_everything_else_is_missing(value: Any, reason: str) -> None:
    assert judge(value, "%", 7.0, 0, 100) == Reading(None, "%", 7.0, False, reason)


def test_readings_in_words() -> None:
    assert str(judge(18, "%", 0)) == "18 %"
    assert str(judge(0.123456, "", 0)) == "0.1235"
    assert str(judge(None, "%", 0)) == "missing (it gave no value)"
    assert judge(-3, "W", 0, 0).reason == "it gave -3 W, and only 0 or more is plausible"


def test_old_readings_keep_their_value_and_are_not_ok() -> None:
    reading = judge(18, "%", 100.0)
    assert aged(reading, 109.0, 10) == reading
    assert aged(reading, 112.5, 10) == Reading(18.0, "%", 100.0, False, "the last value is 12.5 s old")
    assert aged(reading, 1e9, None) == reading
    missing = judge(None, "%", 100.0)
    assert aged(missing, 1e9, 10) == missing


# --- signals ---------------------------------------------------------------------------------------------------------


def test_a_signal_never_raises() -> None:
    signal = Measured(5, ValueError("bad"), OSError(), None, math.nan, -1, low=0, high=100)
    readings = [signal.read(float(now)) for now in range(6)]
    assert readings[0] == Reading(5.0, "%", 0.0, True)
    assert [reading.reason for reading in readings[1:]] == [
        "ValueError: bad",
        "OSError",
        "it gave no value",
        "it gave nan",
        "it gave -1 %, and only from 0 to 100 is plausible",
    ]
    assert signal.read(7.0).reason == "StopIteration"


def test_companions_come_along() -> None:
    signal = Measured(5, companions=[Scripted("other", [(0, 1)])])
    assert signal.names == ("measured", "other")
    assert {name: reading.value for name, reading in signal.readings(0.0).items()} == {"measured": 5, "other": 1}


@pytest.mark.parametrize("name", ["", "Battery", "a b", "1st", "a.b", "and", "not", None, 3])
def test_names_are_plain(name: Any) -> None:
    with pytest.raises(SignalError, match="cannot be the name"):
        Scripted(name, [])


def test_a_missing_package_names_its_extra() -> None:
    with pytest.raises(SignalError, match=r'a_package.* pip install "haste-runtime\[serial\]"'):
        require("a_package.of_nobody", "serial", "A serial port")


def test_callbacks() -> None:
    answers: list[Any] = [41, None, KeyError("x")]

    def function() -> float | None:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    signal = Callback(function, "battery", "%", low=0, high=100)
    assert signal.may_block
    assert [str(signal.read(0.0)) for _ in range(3)] == [
        "41 %",
        "missing (it gave no value)",
        "missing (KeyError: 'x')",
    ]
    with pytest.raises(SignalError, match="float instead of a function"):
        Callback(41.0, "battery")  # type: ignore[arg-type]


def test_reports_are_kept_until_the_next_one() -> None:
    reports = Reports()
    assert reports.readings(0.0) == {}
    reports.report("battery", 41, 10.0, unit="%")
    reports.report("motion", True, 10.0, valid_s=5)
    assert reports.names == ("battery", "motion")
    assert {name: str(reading) for name, reading in reports.readings(15.0).items()} == {
        "battery": "41 %",
        "motion": "1",
    }
    later = reports.readings(1000.0)
    assert later["battery"].ok
    assert later["motion"].reason == "the last value is 990.0 s old"
    reports.report("battery", None, 1000.0)
    reports.report("motion", float("nan"), 1000.0)
    assert [reading.ok for reading in reports.readings(1000.0).values()] == [False, False]
    with pytest.raises(SignalError):
        reports.report("Battery", 41, 0.0)


def test_scripts() -> None:
    signal = Scripted("battery", [(1, 50), (3, None), (4, 40)], "%")
    values = [signal.read(100.0 + seconds).value for seconds in (0, 1, 2.9, 3, 4, 1000)]
    assert values == [None, 50, 50, None, 40, 40]
    assert Scripted("battery", [(1, 50)]).read(5.0).reason == "its script has not begun"
    with pytest.raises(SignalError, match="order"):
        Scripted("battery", [(1, 50), (0, 40)])


# --- in the background -----------------------------------------------------------------------------------------------


def signal_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("haste-signal")]


def test_what_blocks_is_read_by_a_thread_of_its_own() -> None:
    now, entered, go_on = [100.0], threading.Event(), threading.Event()

    def function() -> float:
        entered.set()
        assert go_on.wait(10)
        return 41

    source = Background(Callback(function, "battery", "%"), stale_after_s=10, clock=lambda: now[0])
    assert source.names == ("battery",)
    source.start(0.01)
    assert entered.wait(10)
    assert source.readings(100.0)["battery"].reason == "it has not answered yet"  # and this did not wait
    assert signal_threads() == ["haste-signal-battery"]
    now[0] = 104.0
    go_on.set()
    eventually(lambda: source.readings(104.0)["battery"].ok)
    assert source.readings(104.0)["battery"] == Reading(41.0, "%", 104.0, True)
    go_on.clear()
    entered.clear()
    assert entered.wait(10)
    assert source.readings(115.0)["battery"].reason == "the last value is 11.0 s old"
    go_on.set()
    source.close()
    source.close()
    assert signal_threads() == []


def test_a_callback_that_hangs_does_not_hang_the_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("haste_runtime.signals.background.JOIN_S", 0.05)
    go_on = threading.Event()
    source = Background(Callback(lambda: go_on.wait(10), "battery"))
    source.start(0.01)
    eventually(signal_threads)
    source.close()
    assert "battery hangs" in caplog.text
    go_on.set()
    eventually(lambda: not signal_threads())


def test_close_reaches_the_source() -> None:
    inner = Measured()
    Background(inner).close()
    smoothed(inner, 1).close()
    assert inner.closed == 2


# --- filters ---------------------------------------------------------------------------------------------------------


def filtered(make: Callable[[Signal], Signal], *values: Any, every: float = 1.0) -> list[float | None]:
    signal = make(Measured(*values))
    return [signal.read(i * every).value for i in range(len(values))]


def test_smoothed_is_a_mean_that_forgets() -> None:
    rise = filtered(lambda s: smoothed(s, 10), 0, *[100] * 30)
    assert rise[10] == pytest.approx(100 * (1 - math.exp(-1)))
    assert filtered(lambda s: smoothed(s, 10), 5, 5, 5) == [5, 5, 5]
    assert filtered(lambda s: smoothed(s, 1), 0, 100, every=3)[1] == 100  # after a pause it begins anew
    signal = smoothed(Measured(10, None, 20, 30), 10)
    assert [signal.read(now).ok for now in (0.0, 1.0)] == [True, False]
    assert 10 < (signal.read(2.0).value or 0) < 20
    before = signal.read(2.0 - 100).value  # a clock that went back moves nothing
    assert before is not None
    assert 10 < before < 20


@given(st.lists(st.tuples(st.floats(0, 50), st.floats(-100, 100)), min_size=1, max_size=20), st.floats(0.1, 100))
def test_smoothed_stays_among_what_was_measured(steps: list[tuple[float, float]], seconds: float) -> None:
    signal, now = smoothed(Measured(*(value for _, value in steps)), seconds), 0.0
    for i, (wait, _) in enumerate(steps):
        now += wait
        value = signal.read(now).value
        assert value is not None
        seen = [value for _, value in steps[: i + 1]]
        assert min(seen) - 1e-9 <= value <= max(seen) + 1e-9


def test_clamped_and_hysteresis() -> None:
    assert filtered(lambda s: clamped(s, 0, 100), -5, 50, 105, None) == [0, 50, 100, None]
    assert filtered(lambda s: hysteresis(s, 2), 50, 51, 52, 52.1, 51, 50.1, 50) == [50, 50, 50, 52.1, 52.1, 52.1, 50]


def test_filters_compose_and_keep_name_unit_and_companions() -> None:
    inner = Callback(lambda: 41, "battery", "%")
    signal = stale_after(hysteresis(clamped(smoothed(inner, 60), 0, 100), 1), 30)
    assert (signal.name, signal.unit, signal.may_block) == ("battery", "%", True)
    assert signal.read(0.0) == Reading(41.0, "%", 0.0, True)
    assert smoothed(Measured(1, companions=[Scripted("other", [])]), 1).names == ("measured", "other")


def test_stale_after_looks_at_the_age() -> None:
    class Old(Signal):
        def read(self, now: float) -> Reading:
            return Reading(3.0, "", now - 10, True)

    assert stale_after(Old("old"), 11).read(100.0).ok
    assert stale_after(Old("old"), 9).read(100.0).reason == "the last value is 10.0 s old"


@pytest.mark.parametrize(
    "make",
    [
        lambda s: smoothed(s, 0),
        lambda s: smoothed(s, math.nan),
        lambda s: hysteresis(s, -1),
        lambda s: stale_after(s, math.inf),
        lambda s: clamped(s, 2, 1),
        lambda s: smoothed(Source(), 1),
    ],
)
def test_filters_refuse_what_makes_no_sense(make: Callable[[Signal], Signal]) -> None:
    with pytest.raises(SignalError):
        make(Measured())
