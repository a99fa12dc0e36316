"""Both wheels, installed (not editable) in a fresh environment and used from another folder."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from wheel_tools import ROOT, install, run

pytestmark = pytest.mark.packaging

BOARDS = sorted(path.stem for path in (ROOT / "targets").glob("*.toml"))


@pytest.fixture(scope="module")
def bin_folder(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands of a fresh environment are. It borrows torch and the like from the one that runs this test:
    a line in a .pth file names their folder, whose own .pth files, and so this checkout, then do not count."""
    environment = tmp_path_factory.mktemp("user") / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    scripts = environment / Path(sysconfig.get_path("scripts")).name
    for wheel in wheels.values():
        install(scripts / "python", wheel)
    (site_packages,) = environment.rglob("site-packages")
    (site_packages / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
    return scripts


def test_wheels_hold_the_packages_and_nothing_else(wheels: dict[str, Path]) -> None:
    names = {package: zipfile.ZipFile(wheel).namelist() for package, wheel in wheels.items()}
    for package, files in names.items():
        assert {name.partition("/")[0].partition("-")[0] for name in files} == {package}
    packaged = [Path(name).stem for name in names["haste_edge"] if name.startswith("haste_edge/_targets/")]
    assert sorted(packaged) == BOARDS
    assert "haste_runtime/simulation/devices/rpi4.sim" in names["haste_runtime"]
    assert {"haste_edge/demo/demo.safetensors", "haste_edge/demo/images.npz"} < set(names["haste_edge"])


def test_the_installed_packages_are_the_ones_that_run(bin_folder: Path, tmp_path: Path) -> None:
    script = "import haste_edge, haste_runtime; print(haste_edge.__file__, haste_runtime.__file__, sep='\\n')"
    for file in run(bin_folder / "python", "-c", script, cwd=tmp_path).splitlines():
        assert Path(file).is_relative_to(bin_folder.parent)


def test_versions_are_those_of_the_sources(bin_folder: Path, tmp_path: Path) -> None:
    script = (
        "import haste_edge, haste_runtime; from importlib.metadata import version;"
        "assert version('haste-edge') == haste_edge.__version__;"
        "assert version('haste-runtime') == haste_runtime.__version__"
    )
    run(bin_folder / "python", "-c", script, cwd=tmp_path)


def test_help_names_the_commands(bin_folder: Path, tmp_path: Path) -> None:
    host, device = (run(bin_folder / name, "--help", cwd=tmp_path) for name in ("haste-edge", "haste-run"))
    assert all(command in host for command in ("demo", "compile", "inspect", "evaluate", "doctor"))
    assert all(command in device for command in ("infer", "bench", "doctor"))


@pytest.mark.parametrize("name", ["haste-edge", "haste-run"])
def test_doctor_runs(bin_folder: Path, tmp_path: Path, name: str) -> None:
    assert "numpy" in run(bin_folder / name, "doctor", cwd=tmp_path)


def test_all_targets_are_found(bin_folder: Path, tmp_path: Path) -> None:
    script = "from haste_edge import targets as t; print(*[t.load_target(name).name for name in t.list_targets()])"
    assert run(bin_folder / "python", "-c", script, cwd=tmp_path).split() == BOARDS


def test_demo_network_and_pictures_are_found(bin_folder: Path, tmp_path: Path) -> None:
    script = "from haste_edge import demo; demo.load(); x, y = demo.images(); print(x.shape, y.shape)"
    assert run(bin_folder / "python", "-c", script, cwd=tmp_path).strip() == "(500, 32, 32, 3) (500,)"


NETWORK = """
from torch import nn

def network():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5),
    ).eval()
"""


def test_a_network_of_the_current_folder_compiles_and_its_bundle_runs(bin_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(NETWORK)
    compile_ = [bin_folder / "haste-edge", "compile", "mine:network", "--input", "1x3x16x16", "--target", "rpi4"]
    run(*compile_, "-o", "mine.haste", cwd=tmp_path)
    described = json.loads(run(bin_folder / "haste-edge", "inspect", "mine.haste", "--json", cwd=tmp_path))
    assert described
    script = "import numpy; numpy.save('x.npy', numpy.ones((1, 3, 16, 16), numpy.float32))"
    run(bin_folder / "python", "-c", script, cwd=tmp_path)
    infer = [bin_folder / "haste-run", "infer", "mine.haste", "x.npy", "--backend", "numpy", "--json"]
    assert json.loads(run(*infer, cwd=tmp_path))
