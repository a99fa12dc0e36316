"""Wheels for devices: what is in them, what their metadata say, and that they repeat. The kernels in them are small."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.tags import Tag
from packaging.utils import parse_wheel_filename
from typer.testing import CliRunner
from wheel.wheelfile import WheelFile

import haste_runtime
from haste_edge import targets
from haste_edge.cli import app
from haste_edge.cross import libraries as made_here
from haste_edge.cross.cores import CORES, Core
from haste_edge.cross.wheels import Wheel, build_runtime, cores_for
from haste_edge.errors import BuildError
from haste_runtime.kernels import layout
from haste_runtime.kernels.codegen import compile_object
from haste_runtime.kernels.exports import ABOUT, FRAME, exports
from haste_runtime.kernels.jit import kernel
from haste_runtime.native.libraries import read_index

VERSION = haste_runtime.__version__
METADATA = f"Metadata-Version: 2.4\nName: haste-runtime\nVersion: {VERSION}\nRequires-Dist: numpy>=1.24\n"
COMMANDS = "[console_scripts]\nhaste-run = haste_runtime.cli:main\n"


@kernel
def nothing(
    table, operations, levels, slots, arena, packed, index, scratch, room, counters, trace, staged, inputs, given,
    meeting, worker, workers,
):  # fmt: skip
    arena[0] = packed[0]


def say_nothing(*_: object) -> None:
    pass


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> metadata.Distribution:
    """The metadata of haste-runtime as pip would have left them; small kernels in place of all."""
    known = exports()
    functions = {FRAME: (nothing, known[FRAME][1]), ABOUT: known[ABOUT]}
    made: dict[object, bytes] = {}

    def small(core: Core, progress: object) -> bytes:
        if core.llvm not in made:
            made[core.llvm] = compile_object(functions, core.llvm).code
        return made[core.llvm]

    monkeypatch.setattr(made_here, "object_for", small)
    folder = tmp_path / f"haste_runtime-{VERSION}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(METADATA)
    (folder / "entry_points.txt").write_text(COMMANDS)
    return metadata.PathDistribution(folder)


def build(installed: metadata.Distribution, folder: Path, *targets: str) -> list[Wheel]:
    return build_runtime(targets, folder, say_nothing, distribution=installed)


def test_one_wheel_for_each_machine_with_all_its_cores(installed: metadata.Distribution, tmp_path: Path) -> None:
    wheels = build(installed, tmp_path / "wheels", "all")
    assert [wheel.machine for wheel in wheels] == ["aarch64", "armv7l", "x86_64"]
    assert sorted(path.name for path in (tmp_path / "wheels").iterdir()) == sorted(w.path.name for w in wheels)
    for wheel in wheels:
        name, version, _, tags = parse_wheel_filename(wheel.path.name)
        assert (name, str(version)) == ("haste-runtime", VERSION)
        assert Tag("py3", "none", f"manylinux2014_{wheel.machine}") in tags
        with WheelFile(wheel.path) as opened:  # checks RECORD's digests while it reads
            names = opened.namelist()
            for entry in names:
                opened.read(entry)
            tagged = opened.read(f"{opened.dist_info_path}/WHEEL").decode()
            assert opened.read(f"{opened.dist_info_path}/METADATA").decode() == METADATA
            assert opened.read(f"{opened.dist_info_path}/entry_points.txt").decode() == COMMANDS
            opened.extractall(tmp_path / wheel.machine)
        assert {line.removeprefix("Tag: ") for line in tagged.splitlines() if line.startswith("Tag: ")} == set(
            map(str, tags)
        )
        assert "Root-Is-Purelib: false" in tagged
        assert "haste_runtime/session.py" in names
        assert not any("__pycache__" in entry or entry.endswith(".pyc") for entry in names)
        there = read_index(str(tmp_path / wheel.machine / "haste_runtime" / "native"))  # as the device reads it
        assert [library.name for library in there.libraries] == [c.name for c in CORES if c.machine == wheel.machine]
        assert all(Path(library.path).is_file() for library in there.libraries)


def test_the_same_input_gives_the_same_bytes(installed: metadata.Distribution, tmp_path: Path) -> None:
    (first,), (second,) = (build(installed, tmp_path / name, "rpi4") for name in ("first", "second"))
    assert first.path.read_bytes() == second.path.read_bytes()
    assert {entry.date_time[0] for entry in zipfile.ZipFile(first.path).infolist()} == {1980}


@pytest.mark.parametrize(
    ("boards", "names"),
    [
        (["rpi4"], ["cortex-a72", "cortex-a53"]),
        (["rpi3"], ["cortex-a53"]),
        (["rpi5", "rpi4"], ["cortex-a76", "cortex-a72", "cortex-a53"]),
        (["generic-armv7", "jetson-xavier-nx"], ["carmel", "cortex-a53", "armv7-neon-vfpv4"]),
    ],
)
def test_a_boards_wheel_has_its_core_and_the_most_general(boards: list[str], names: list[str]) -> None:
    chosen = [core.name for core in cores_for(boards)]
    assert sorted(chosen) == sorted(names)
    assert chosen == [core.name for core in CORES if core.name in names], "the most capable first"


def test_a_board_is_one_file(tmp_path: Path) -> None:
    """Nothing but a file is added: bundles are planned for the board, and the wheel has its kernels."""
    text = (targets._folder() / "rpi4.toml").read_text(encoding="utf-8")
    for old, new in (('name = "rpi4"', 'name = "my-board"'), ("cortex-a72", "cortex-a55"), ("= 1800", "= 900")):
        assert old in text
        text = text.replace(old, new)
    file = tmp_path / "my-board.toml"
    file.write_text(text, encoding="utf-8")
    assert [core.name for core in cores_for([str(file)])] == ["cortex-a55", "cortex-a53"]
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n\n"
        "def network():\n    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 2))\n"
    )
    arguments = ["compile", "mine:network", "--input", "1x3x8x8", "--target", str(file), "-o", "mine.haste", "--json"]
    script = "import sys; from haste_edge.cli import main; sys.argv[0] = 'haste-edge'; main()"
    paths = [str(tmp_path), *filter(None, sys.path)]
    command = [sys.executable, "-c", f"import sys; sys.path[:0] = {paths!r}; {script}", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    from haste_runtime.bundle import read_bundle

    assert read_bundle(tmp_path / "mine.haste").target == "my-board"


def test_a_failed_build_leaves_nothing(
    installed: metadata.Distribution, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> list[tuple[str, bytes]]:
        raise OSError("disk full")

    monkeypatch.setattr("haste_edge.cross.wheels.package_files", fail)
    with pytest.raises(OSError, match="disk full"):
        build(installed, tmp_path / "wheels", "rpi3")
    assert list((tmp_path / "wheels").iterdir()) == []


def test_metadata_are_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr("haste_edge.cross.wheels.metadata.distribution", missing)
    with pytest.raises(BuildError, match="haste-runtime is not installed"):
        build_runtime(["rpi3"], tmp_path, say_nothing)


def test_the_command_tells_what_it_wrote(
    installed: metadata.Distribution, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("haste_edge.cross.wheels.metadata.distribution", lambda name: installed)
    out = tmp_path / "wheels"
    arguments = ["build-runtime", "--target", "rpi5", "--target", "generic-armv7", "-o", str(out)]
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    arm64, arm32 = json.loads(done.stdout)["wheels"]
    assert [library["name"] for library in arm64["libraries"]] == ["cortex-a76", "cortex-a53"]
    assert arm32["machine"] == "armv7l"
    for wheel in (arm64, arm32):
        assert Path(wheel["file"]).stat().st_size == wheel["bytes"]
        assert 0 < wheel["libraries_packed_bytes"] < wheel["libraries_bytes"]
    for_people = CliRunner().invoke(app, arguments)
    assert "cortex-a76, cortex-a53" in for_people.stdout


def test_abi_of_the_index_is_the_layouts(installed: metadata.Distribution, tmp_path: Path) -> None:
    (wheel,) = build(installed, tmp_path / "wheels", "rpi3")
    with zipfile.ZipFile(wheel.path) as opened:
        index = json.loads(opened.read("haste_runtime/native/index.json"))
    assert (index["abi"], index["runtime_version"]) == (layout.ABI, VERSION)
