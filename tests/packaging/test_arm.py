"""haste-runtime on ARM: the part of the suite that a board can run, under emulation, on several processors.

Each test is a whole run of pytest in a root that holds Python, numpy, safetensors and our wheel (pytest itself is laid
over it). Two run at a time. Where emulation is missing these tests fail in CI, and are skipped elsewhere.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from wheel_tools import ROOT

sys.path.insert(0, str(ROOT / "tools"))

from emulation.architectures import ARCHITECTURES, EmulationError, architecture_of
from emulation.machine import Machine
from emulation.packages import OLDEST_GLIBC, platforms
from emulation.root import Root

from haste_edge.cross.wheels import build_runtime

pytestmark = pytest.mark.packaging

CONTRACTS = "tests/arm/contracts.py"
RUNTIME = "tests/haste_runtime"


@dataclass(frozen=True)
class Run:
    """One start of pytest. least: tests that must have passed, so that none is lost by mistake."""

    name: str
    cpu: str
    files: tuple[str, ...]
    least: int
    expression: str = ""
    native: str = ""  # kernels to take: HASTE_CPU, since the emulator shows this computer's /proc/cpuinfo


# Left out of test_run_cli: what needs Pillow, and what is about signals, pipes and time, which are the emulator's.
RUNS = (
    Run("native-a72", "cortex-a72", (CONTRACTS,), 31, "this_is or compiled", "cortex-a72"),
    Run("native-a53", "cortex-a53", (CONTRACTS,), 13, "this_is or compiled and not layer", "cortex-a53"),
    Run("native-n1", "neoverse-n1", (CONTRACTS,), 13, "this_is or compiled and not layer", "cortex-a72"),
    Run("native-armhf", "cortex-a7", (CONTRACTS,), 13, "this_is or compiled and not layer", "armv7-neon-vfpv4"),
    Run("numpy-a72", "cortex-a72", (CONTRACTS,), 31, "not compiled"),
    Run(
        "suite-a72", "cortex-a72",
        (f"{RUNTIME}/test_bundle_versions.py", f"{RUNTIME}/test_bundle_causes.py", f"{RUNTIME}/test_run_cli.py"), 100,
        "not image_files and not ctrl_c and not closed_pipe and not at_once and not cadence",
    ),
    Run("operators-a53", "cortex-a53", (f"{RUNTIME}/test_operators.py",), 100),
    Run("numpy-n1", "neoverse-n1", (CONTRACTS,), 3, "not compiled and (this or classifier)"),
    Run(
        "numpy-armhf", "cortex-a7", (CONTRACTS, f"{RUNTIME}/test_bundle_versions.py"), 15,
        "not compiled and not layer",
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Ours, by machine."""
    made = build_runtime(["rpi4", "generic-armv7"], tmp_path_factory.mktemp("wheels"), lambda *_: None, jobs=2)
    return {wheel.machine: wheel.path for wheel in made}


@pytest.fixture(scope="module")
def roots(request: pytest.FixtureRequest) -> dict[str, Root]:
    """By Debian's name, with our wheel for that machine and the tests' needs as overlays."""
    made = {name: Root(architecture) for name, architecture in ARCHITECTURES.items()}
    try:
        for root in made.values():
            root.tests()
    except EmulationError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    wheels = request.getfixturevalue("wheels")
    for root in made.values():
        root.wheel(wheels[root.architecture.machine])
    return made


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What this computer computes, with vectors as long as ARM's."""
    folder = tmp_path_factory.mktemp("cases")
    variables = os.environ | {"HASTE_LANES": "4"}
    subprocess.run([sys.executable, ROOT / "tests/arm/cases.py", folder], env=variables, check=True)
    return folder


@pytest.fixture(scope="module")
def started(
    roots: dict[str, Root], cases: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[tuple[subprocess.CompletedProcess[str], Path]]]]:
    """All runs, begun: each gives what pytest said, and its report."""
    reports = tmp_path_factory.mktemp("reports")

    def start(run: Run) -> tuple[subprocess.CompletedProcess[str], Path]:
        root, report = roots[architecture_of(run.cpu).debian], reports / f"{run.name}.xml"
        done = Machine(root, run.cpu).run(
            "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", run.expression, f"--junitxml={report}",
            "--basetemp", reports / run.name, *run.files,
            overlays=(root.folder / "runtime", root.folder / "tests"), cwd=ROOT,
            variables={"HASTE_ARM_CASES": str(cases), "CI": "true", "HASTE_CPU": run.native or "cortex-a72"},
        )  # fmt: skip
        return done, report

    with ThreadPoolExecutor(2) as pool:
        yield {run.name: pool.submit(start, run) for run in RUNS}


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_suite(started: dict[str, Future[tuple[subprocess.CompletedProcess[str], Path]]], run: Run) -> None:
    done, report = started[run.name].result()
    assert done.returncode == 0, done.stdout[-20_000:]
    suites = list(ElementTree.parse(report).getroot().iter("testsuite"))
    tests, skipped = (sum(int(suite.get(key, "0")) for suite in suites) for key in ("tests", "skipped"))
    assert skipped == 0, done.stdout
    assert tests >= run.least
    print(f"{run.name}: {tests} passed")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_only_numpy_and_safetensors_are_there(roots: dict[str, Root], architecture: str) -> None:
    """And our wheel runs beside them. Debian's numpy brings a part of setuptools."""
    root = roots[architecture]
    script = "from importlib.metadata import distributions; print(*sorted(d.name for d in distributions()))"
    overlays = (root.folder / "runtime",)
    machine = Machine(root, root.architecture.cpus[0])
    done = machine.run("-c", script, overlays=overlays)
    assert set(done.stdout.split()) - {"setuptools"} == {"haste-runtime", "numpy", "safetensors"}
    doctor = machine.run("-m", "haste_runtime.cli", "doctor", overlays=overlays)
    assert doctor.returncode == 0, doctor.stdout
    assert root.architecture.machine in doctor.stdout


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_install_and_run(
    roots: dict[str, Root], wheels: dict[str, Path], cases: Path, architecture: str, tmp_path: Path
) -> None:
    """pip takes the wheel for that machine's; then a frame runs there with compiled code, to the host's bytes, where
    nothing but Python, numpy and safetensors is beside it."""
    root = roots[architecture]
    tags = platforms(root.architecture.machine, (2, OLDEST_GLIBC))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-index", "--no-deps"]
    only = ["--only-binary=:all:", "--target", tmp_path / "site", *(p for tag in tags for p in ("--platform", tag))]
    subprocess.run([*map(str, [*pip, *only, wheels[root.architecture.machine]])], check=True)
    with np.load(cases / "classifier.x.npz") as x, np.load(cases / "classifier.numba.npz") as expected:
        np.save(tmp_path / "x.npy", x["x"][:1])
        logits = expected["0/output/logits"][0]
    cpu, kernels = {"arm64": ("cortex-a72", "cortex-a72"), "armhf": ("cortex-a7", "armv7-neon-vfpv4")}[architecture]
    command = ["-m", "haste_runtime.cli", "infer", cases / "classifier.haste", tmp_path / "x.npy", "--json"]
    machine, variables = Machine(root, cpu), {"HASTE_CPU": kernels}
    done = machine.run(*command, overlays=(tmp_path / "site",), variables=variables, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    said = json.loads(done.stdout)
    assert said["backend"] == "native"
    np.testing.assert_array_equal(np.float32(said["frames"][0]["outputs"]["logits"]["values"]), logits)
