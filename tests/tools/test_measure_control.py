"""What tools/measure_control.py makes of frames, and that it listens to a wire."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from builders import bundle_for, random_network

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

import measure_control
from measure_control import Ran

from haste_runtime.bundle import write_bundle


def frames(*parts: tuple[float, float]) -> list[Ran]:
    """Ten frames a second; each part lasts so many seconds, and each of its frames so many ms."""
    times = [ms for seconds, ms in parts for _ in range(round(10 * seconds))]
    return [Ran(number / 10, 0, ms) for number, ms in enumerate(times)]


def test_p90_rolls_over_a_second() -> None:
    windows = measure_control.rolling(frames((2, 10), (2, 20)))
    assert windows[0] == (0.9, 10)
    assert windows[-1] == (3.9, 20)
    assert [value for at, value in windows if at < 2] == [10] * 11
    assert next(at for at, value in windows if value == 20) == pytest.approx(2.1), "one bad frame of ten is none"


def test_the_target_is_kept_from_there_on() -> None:
    def back(*parts: tuple[float, float]) -> Any:
        return measure_control.settled(measure_control.rolling(frames(*parts)), 15)

    assert back((3, 20), (10, 10)) == pytest.approx(3.9, abs=0.11), "when one frame of the last second is slow"
    assert back((3, 20), (3, 10), (1, 20), (10, 10)) == pytest.approx(7.9, abs=0.11), "not while it is missed again"
    assert back((3, 20), (9, 10), (1, 20), (10, 10)) == pytest.approx(3.9, abs=0.11), "five seconds are enough"
    assert back((10, 10), (3, 20)) == pytest.approx(0.9), "never missed"
    assert back((3, 20), (5, 10)) is None, "too short to tell"


def test_a_wire_steers(tmp_path: Path) -> None:
    pytest.importorskip("serial")
    path = tmp_path / "net.haste"
    write_bundle(path, bundle_for(random_network(5), levels=(12, 6, 2)))
    told = measure_control.signal(path, count=2)
    assert told["wrong_outputs"] == 0
    assert told["changes"] == 2
    assert told["frames"] >= 2
    assert 0 < told["seconds"]["median"] <= told["seconds"]["longest"]
