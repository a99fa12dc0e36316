"""A target measured here is one that the compiler takes, from its file too."""

from __future__ import annotations

from pathlib import Path

import pytest

from haste_edge import measured_target
from haste_edge.measured_target import as_toml, measure_target
from haste_edge.targets import load_target
from haste_runtime.kernels.lanes import lanes

SIZES = {"L1": 32 << 10, "L2": 1 << 20, "L3": 64 << 20}


@pytest.fixture(autouse=True)
def figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """A computer that reads 8 MiB of its last cache at full speed; the others have the rest."""

    def reading(size: int) -> float:
        return 200e9 if size <= 32 << 10 else 100e9 if size <= 1 << 20 else 40e9 if size <= 8 << 20 else 10e9

    monkeypatch.setattr(measured_target, "cache_sizes", lambda: SIZES)
    monkeypatch.setattr(measured_target, "measure_reading", reading)
    monkeypatch.setattr(measured_target, "measure_peak", lambda: lanes() * 6e9)


def test_figures_are_those_measured() -> None:
    target = measure_target()
    assert target.clock_mhz == 3000
    assert target.peak_gmac_s == pytest.approx(6 * lanes())
    assert target.memory.bandwidth_gb_s == 10
    caches = target.caches
    assert [caches.l1d.gb_s, caches.l2 and caches.l2.gb_s, caches.l3 and caches.l3.gb_s] == [200, 100, 40]
    assert caches.last.kib == 8 << 10


def test_file_gives_the_same_target(tmp_path: Path) -> None:
    target = measure_target("mine")
    path = tmp_path / "mine.toml"
    path.write_text(as_toml(target))
    assert load_target(path) == target


def test_without_a_last_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured_target, "cache_sizes", lambda: {"L1": 32 << 10, "L2": 1 << 20})
    caches = measure_target().caches
    assert caches.l3 is None
    assert caches.last == caches.l2
