"""What the emulation tools work out by themselves, without an emulator."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from builders import bundle_for, conv_graph

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

import compare_arm
import count_layers
import measure_arm
import write_arm
from emulation import packages, root
from emulation.architectures import ARCHITECTURES, EmulationError, architecture_of
from emulation.counting import Block, read_marks
from emulation.machine import environment

from haste_runtime.table import build_table


def test_marks_and_blocks_are_read() -> None:
    totals, blocks = read_marks("mark 100\nblock 7 4010 1f2003d5c0035fd6\nmark 250\nmark 260\nblock 1 40 00\n")
    assert totals == [100, 250, 260]
    assert blocks == [[Block(7, 0x4010, bytes.fromhex("1f2003d5c0035fd6"))], [], [Block(1, 0x40, b"\0")]]


def test_processors_have_an_architecture() -> None:
    for one in ARCHITECTURES.values():
        assert all(architecture_of(cpu) is one for cpu in one.cpus)
    with pytest.raises(EmulationError, match="z80") as caught:
        architecture_of("z80")
    assert "cortex-a72" in caught.value.hint


def test_versions_are_read_off_packages(tmp_path: Path) -> None:
    assert root.glibc_version(["libcrypt1_1.deb", "libc6_2.36-9+deb12u14_arm64.deb"]) == (2, 36)
    (tmp_path / "usr/bin").mkdir(parents=True)
    with pytest.raises(EmulationError):
        root.python_version(tmp_path)
    for name in ("python3.11-config", "python3.11", "python3"):
        (tmp_path / "usr/bin" / name).touch()
    assert root.python_version(tmp_path) == (3, 11)
    tags = packages.platforms("aarch64", (2, 28))
    assert tags[0] == "manylinux_2_28_aarch64"
    assert {"manylinux_2_17_aarch64", "manylinux2014_aarch64"} < set(tags)
    assert not any("2_29" in tag or "2_16" in tag for tag in tags)


def test_missing_programs_are_named() -> None:
    packages.need("sh")
    with pytest.raises(EmulationError, match="no-such-program") as caught:
        packages.need("sh", "no-such-program")
    assert "apt-get install" in caught.value.hint


def test_an_overlay_is_made_anew_only_for_another_wheel(tmp_path: Path) -> None:
    from zipfile import ZipFile

    here = root.Root(ARCHITECTURES["arm64"], tmp_path / "kept")
    for number in (1, 2):
        with ZipFile(tmp_path / "a.whl", "w") as wheel:
            wheel.writestr(f"package/part{number}.py", "")
        folder = here.wheel(tmp_path / "a.whl")
        assert [path.name for path in folder.rglob("*.py")] == [f"part{number}.py"]
        (folder / "package/mine.py").touch()
        assert (here.wheel(tmp_path / "a.whl") / "package/mine.py").exists()


def test_nothing_of_this_computer_leaks_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("PYTHONHOME", "HASTE_LANES", "NUMBA_DISABLE_JIT", "OPENBLAS_CORETYPE"):
        monkeypatch.setenv(name, "x")
    variables = environment([tmp_path, Path("/other")], {"HASTE_CPU": "cortex-a53"})
    assert {key for key in variables if key.startswith(("HASTE_", "NUMBA_", "PYTHON"))} == {"HASTE_CPU", "PYTHONPATH"}
    assert "OPENBLAS_CORETYPE" not in variables
    assert variables["PYTHONPATH"] == f"{tmp_path}:/other"


def test_the_level_with_fewest_instructions_that_is_accurate_enough() -> None:
    levels = ((0, 90.0, 100), (1, 89.0, 80), (2, 88.8, 70), (3, 88.5, 60))
    rows = [{"runtime": "native", "level": n, "top1": top1, "instructions": i} for n, top1, i in levels]
    rows.append({"runtime": "ncnn", "level": None, "top1": 90.0, "instructions": 1})
    assert measure_arm.chosen_level(rows) == 2
    assert measure_arm.chosen_level(rows, 0.5) == 0


def test_pictures_whose_bytes_differ_are_counted() -> None:
    expected = {"0/output/y": np.float32([[1, 2], [4, 3]]), "0/flops": np.array([1, 1])}
    found = {"0/output/y": np.float32([[1, 2], [3, 4]]), "0/flops": np.array([1, 1])}
    (row,) = compare_arm.rows_of(found, expected)
    assert row == {"level": 0, "pictures": 2, "identical": 1, "largest_error": 0.25, "same_top1": 0.5}


def test_the_page_compares_with_the_fewest_of_the_others() -> None:
    row = {"version": "1", "variant": "", "level": None, "instructions": 50, "frames": [50], "top1": 90.0}
    ours = row | {"runtime": "native", "level": 0, "instructions": 40}
    rows = [ours, row | {"runtime": "ncnn"}, row | {"runtime": "litert", "instructions": 80}]
    result = {
        "name": "demo", "cpu": "cortex-a72", "target": "rpi4", "abi": 2, "pictures": 9, "chosen_level": 0, "rows": rows,
        "missing": [{"runtime": "tflite", "reason": "it fails"}], "loops": {},
    }  # fmt: skip
    assert write_arm.share(result, 0) == 0.8
    start = {"bundle": "demo", "cpu": "cortex-a72", "native_ms": 10, "numba_ms": None, "limit_ms": 200}
    page = write_arm.page([result], [], [start])
    assert "not times" in page
    assert "| demo | 0.80 | met | 0 | 0.80 | 0.65 | not met |" in page
    assert "| demo | cortex-a72 | 10 | more than 200 | less than 0.05 |" in page
    assert "| haste-edge, native, level 0 (chosen) | 0.00 | 0.80 | 90.0 |" in page
    assert "tflite takes no part: it fails" in page


def test_parts_of_a_bundle_are_told_apart() -> None:
    """Names, kinds and multiply-adds stand beside the rows of the execution table in their order."""
    bundle = bundle_for(conv_graph(3, 4, 3, 1, 8, 8))
    rows = count_layers.operations(bundle, 0)
    assert len(rows) == len(build_table(bundle, 4).operations)
    assert (rows[0][1], rows[0][2]) == ("3x3 3-4 8x8 direct", 8 * 8 * 4 * 3 * 9)
