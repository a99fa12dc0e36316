"""The boards' files keep to their schema, and a wrong file says which field is wrong."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from pydantic import ValidationError

from haste_edge import targets
from haste_edge.errors import TargetError
from haste_edge.targets import list_targets, load_target
from haste_runtime.errors import HasteError

BOARDS = [
    "rpi-zero2w",
    "rpi3",
    "rpi4",
    "rpi5",
    "jetson-nano",
    "jetson-xavier-nx",
    "jetson-orin-nano",
    "generic-aarch64",
    "generic-armv7",
    "host",
]


def _text(name: str) -> str:
    return (targets._folder() / f"{name}.toml").read_text(encoding="utf-8")


def _write(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_all_boards_are_there() -> None:
    assert set(BOARDS) <= set(list_targets())
    assert list_targets() == sorted(list_targets())


@pytest.mark.parametrize("name", list_targets())
def test_target_is_plausible(name: str) -> None:
    target = load_target(name)
    assert target.name == name
    caches = [cache.kib for cache in (target.caches.l1d, target.caches.l2, target.caches.l3) if cache]
    assert caches == sorted(caches)
    assert target.caches.last.kib == caches[-1]
    assert 1 <= target.peak_gmac_s <= 400
    assert target.memory.peak_gb_s is None or target.memory.bandwidth_gb_s <= target.memory.peak_gb_s
    if target.architecture in ("aarch64", "armv7l"):
        assert target.simd.lanes == 4  # NEON


def test_peak_is_lanes_times_pipes_times_clock() -> None:
    assert load_target("rpi5").peak_gmac_s == pytest.approx(4 * 2 * 2.4)


def test_target_is_frozen() -> None:
    with pytest.raises(ValidationError):
        load_target("rpi4").cores = 8


def test_path_and_name_give_the_same(tmp_path: Path) -> None:
    path = _write(tmp_path, _text("rpi4"))
    assert load_target(path) == load_target(str(path)) == load_target("rpi4")


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("cores = 4", "cores = 0", "cores"),
        ("lanes = 4", 'lanes = "four"', "simd.lanes"),
        ("l1d = { kib = 32, shared = false }", "l1d = { kib = 32 }", "caches.l1d.shared"),
        ("bandwidth_gb_s = 5.5", "bandwidth = 5.5", "memory.bandwidth"),
        ("clock_mhz = 1800", "clock_mhz = 1800\nturbo = true", "turbo"),
        ('core = "Raspberry Pi documentation, page BCM2711"', "", "sources.core"),
        ('architecture = "aarch64"', 'architecture = "arm"', "architecture"),
    ],
)
def test_wrong_file_names_file_and_field(tmp_path: Path, old: str, new: str, field: str) -> None:
    text = _text("rpi4")
    assert old in text
    path = _write(tmp_path, text.replace(old, new))
    with pytest.raises(TargetError) as caught:
        load_target(path)
    assert str(path) in caught.value.message
    assert field in caught.value.message
    assert caught.value.hint
    assert isinstance(caught.value, HasteError)


def test_not_toml_names_the_file(tmp_path: Path) -> None:
    path = _write(tmp_path, "name = ")
    with pytest.raises(TargetError, match=r"mine\.toml is not a TOML file"):
        load_target(path)


def test_missing_file_and_unknown_name_list_what_there_is(tmp_path: Path) -> None:
    for name in (tmp_path / "none.toml", "rpi9"):
        with pytest.raises(TargetError) as caught:
            load_target(name)
        assert "rpi4" in caught.value.hint


def test_every_figure_has_a_source() -> None:
    figures = {"core", "cores", "clock_mhz", "simd", "caches", "memory_size", "memory_bandwidth", "software"}
    for name in BOARDS:
        assert set(tomllib.loads(_text(name))["sources"]) == figures
