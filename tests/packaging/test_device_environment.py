"""haste-runtime where a device has it: beside numpy and safetensors alone, with the oldest numpy and the newest."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from builders import GraphBuilder, alike_channels, bundle_for
from wheel_tools import ROOT, install, run

from haste_runtime.bundle import write_bundle
from haste_runtime.graph import Graph

pytestmark = pytest.mark.packaging

RUN_LEVELS = ROOT / "tests/run_levels.py"


def network() -> Graph:
    """Every convolution that merges reads the network's input, so that at every level its input is the same, bit for
    bit, on every computer: what the layer contract promises is then true of the network's outputs too."""
    b = GraphBuilder(5, x=(8, 13, 11))
    b.conv("wide", "x", 8, 10, 5, activation="relu6")
    b.conv("halved", "x", 8, 7, 3, 2, activation="relu")
    b.conv("point", "x", 8, 9, 1)
    for name in ("wide", "halved", "point"):
        b.node(f"{name}_mean", "mean", name, keepdim=0)
    b.node("features", "concat", "wide_mean", "halved_mean", "point_mean", axis=0)
    b.linear("logits", "features", 26, 5)
    return b.graph("wide", "halved", "point", "logits")


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle, inputs, and what the environment of this test computes from them."""
    folder = tmp_path_factory.mktemp("case")
    write_bundle(folder / "net.haste", bundle_for(network()))
    rng = np.random.default_rng(6)
    np.savez(folder / "inputs.npz", x=np.stack([alike_channels(rng, (8, 13, 11)) for _ in range(3)]))
    subprocess.run([sys.executable, RUN_LEVELS, "net.haste", "inputs.npz", "here.npz"], cwd=folder, check=True)
    return folder


@pytest.fixture(scope="module", params=["oldest", "newest"])
def device(request: pytest.FixtureRequest, wheels: dict[str, Path]) -> Path:
    """The Python of one of the two environments, with the runtime's wheel in it."""
    environment = ROOT / f".venv-{request.param}"
    assert environment.is_dir(), "run `python3 tools/run.py test --only device`, which makes the environment first"
    python = environment / ("Scripts" if os.name == "nt" else "bin") / "python"
    install(python, wheels["haste_runtime"])
    return python


def test_only_numpy_and_safetensors_are_there(device: Path, tmp_path: Path) -> None:
    script = "from importlib.metadata import distributions; print(*sorted(d.name for d in distributions()))"
    names = set(run(device, "-c", script, cwd=tmp_path).split())
    assert names - {"pip", "setuptools"} == {"haste-runtime", "numpy", "safetensors"}


def test_its_requirements_are_met(device: Path, tmp_path: Path) -> None:
    assert "No broken requirements" in run(device, "-m", "pip", "check", cwd=tmp_path)


def test_commands_start(device: Path, tmp_path: Path) -> None:
    assert "infer" in run(device.parent / "haste-run", "--help", cwd=tmp_path)
    assert "numpy" in run(device.parent / "haste-run", "doctor", cwd=tmp_path)


def test_every_level_computes_the_same(device: Path, case: Path, tmp_path: Path) -> None:
    run(device, RUN_LEVELS, case / "net.haste", case / "inputs.npz", tmp_path / "there.npz", cwd=tmp_path)
    with np.load(case / "here.npz") as here, np.load(tmp_path / "there.npz") as there:
        assert set(there) == set(here)
        assert {name.partition("/")[0] for name in here} == {"0", "1", "2", "3"}
        for name in here:
            if "/codes/" in name:
                np.testing.assert_array_equal(there[name], here[name], err_msg=name)
            else:
                tolerance = 1e-4 * np.abs(here[name]).max()
                np.testing.assert_allclose(there[name], here[name], rtol=0, atol=tolerance, err_msg=name)
