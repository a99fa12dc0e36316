"""What a device can rely on: haste_runtime needs numpy and safetensors alone, and keeps to a few rules of import."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from builders import alike_channels, bundle_for, random_network

import haste_runtime
from haste_runtime import Session
from haste_runtime.bundle import write_bundle

SOURCES = Path(haste_runtime.__file__).parent
RUN_LEVELS = Path(__file__).resolve().parents[1] / "run_levels.py"

# --- rules over the sources -----------------------------------------------------------------------------------------


def imported(tree: ast.Module) -> Iterator[str]:
    """Top-level packages of all import statements, those inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield (node.module or "").partition(".")[0]


def imports_of_the_host(tree: ast.Module) -> list[str]:
    return sorted({"haste_edge", "torch"} & set(imported(tree)))


def pickles(tree: ast.Module) -> list[str]:
    """Modules that run code while loading data, and numpy's switch that allows it."""
    loaders = {"pickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    found = sorted(loaders & set(imported(tree)))
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            found += [] if isinstance(node.value, ast.Constant) and node.value.value is False else ["allow_pickle"]
    return found


def loose_arithmetic(tree: ast.Module) -> list[str]:
    """Flags that let LLVM assume there is no NaN or infinity; "fast" and True stand for all of them."""
    found = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and n.value in ("nnan", "ninf")]
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg in ("fastmath", "flags"):
            values = [n.value for n in ast.walk(node.value) if isinstance(n, ast.Constant)]
            found += [f"{node.arg}={value!r}" for value in values if value is True or value == "fast"]
    return sorted(found)


RULES = [
    (
        imports_of_the_host,
        "def f():\n    from torch.nn import Conv2d\n    import haste_edge.cli",
        ["haste_edge", "torch"],
    ),
    (
        pickles,
        "import pickle\nnp.load(p, allow_pickle=True)\nnp.load(p, allow_pickle=False)",
        ["pickle", "allow_pickle"],
    ),
    (
        loose_arithmetic,
        "FLAGS = {'nsz', 'nnan'}\nnjit(fastmath=True)(f)\nbuilder.fadd(a, b, flags=('fast',))",
        ["fastmath=True", "flags='fast'", "nnan"],
    ),
]


@pytest.mark.parametrize(("rule", "bad", "findings"), RULES, ids=[rule.__name__ for rule, *_ in RULES])
def test_sources_keep_the_rule(rule: Callable[[ast.Module], list[str]], bad: str, findings: list[str]) -> None:
    assert rule(ast.parse(bad)) == findings, "the rule does not see what it is for"
    modules = sorted(SOURCES.rglob("*.py"))
    broken = {str(m.relative_to(SOURCES)): found for m in modules if (found := rule(ast.parse(m.read_text("utf-8"))))}
    assert not broken


# --- in a Python without torch, numba and haste_edge ----------------------------------------------------------------

BLOCK = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "numba", "llvmlite", "haste_edge", "smbus2", "serial", "paho", "PIL",
                                      "psutil", "matplotlib"):
            raise ModuleNotFoundError(f"{name} is blocked", name=name)

sys.meta_path.insert(0, Blocker())
"""


def blocked(script: str, *arguments: str | Path) -> str:
    """Standard output of a script in a fresh Python that finds numpy and safetensors, but none of the names above."""
    command = [sys.executable, "-c", f"{BLOCK}\nexec(sys.argv.pop(1))", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_blocker_blocks() -> None:
    with pytest.raises(AssertionError, match="numba is blocked"):
        blocked("import numba")


def test_every_level_runs_with_numpy_and_safetensors_alone(tmp_path: Path) -> None:
    graph = random_network(3)
    write_bundle(tmp_path / "net.haste", bundle_for(graph))
    x = alike_channels(np.random.default_rng(0), (2, *graph.inputs[0].shape))
    np.savez(tmp_path / "inputs.npz", x=x)
    blocked(RUN_LEVELS.read_text("utf-8"), tmp_path / "net.haste", tmp_path / "inputs.npz", tmp_path / "out.npz")
    with Session(tmp_path / "net.haste", backend="numpy") as session, np.load(tmp_path / "out.npz") as there:
        for level in session.levels:
            session.level = level.number
            np.testing.assert_array_equal(there[f"{level.number}/output/logits"], session.run(x))


def test_without_numba_auto_means_numpy(tmp_path: Path) -> None:
    write_bundle(tmp_path / "net.haste", bundle_for(random_network(4)))
    script = (
        "from haste_runtime import Session\nprint(Session(sys.argv[1]).backend, Session(sys.argv[1]).backend_reason)"
    )
    said = blocked(script, tmp_path / "net.haste")
    assert said.startswith("numpy native cannot run (No native kernels are installed); numba cannot be imported")


STEERED = """
import time
from haste_runtime import Session, signals
from haste_runtime.errors import SignalError

with Session(sys.argv[1]) as session:
    policy = {"period_s": 0.01, "rules": [{"signal": "battery", "below": 20, "min_level": 2}]}
    session.follow(signals.Battery(), signals.Thermal(), signals.Latency(), policy=policy)
    session.report("battery", 10)
    while session.level != 2:
        time.sleep(0.01)
for source, *arguments in ((signals.SerialPort, "/dev/ttyUSB0"), (signals.Max17040,), (signals.Mqtt, "host", {})):
    try:
        source(*arguments)
    except SignalError as error:
        print(error.hint)
"""


def test_steering_needs_nothing_else_and_names_its_extras(tmp_path: Path) -> None:
    write_bundle(tmp_path / "net.haste", bundle_for(random_network(4)))
    hints = blocked(STEERED, tmp_path / "net.haste").splitlines()
    assert hints == [f'Install it: pip install "haste-runtime[{extra}]"' for extra in ("serial", "i2c", "mqtt")]


SIMULATED = """
import json
from haste_runtime.cli import run

level = {"inference_ms": {"median": 100}, "flops_reduction_network": 0, "agreement": 100}
levels = [level | {"level": 0}, level | {"level": 1}]
times = {"cpu": {"model": "x"}, "backend": "numpy", "threads": 1, "levels": levels}
open("times.json", "w").write(json.dumps(times))
open("p.toml", "w").write("min_level = 1\\n")
simulated = ["simulate", "--times", "times.json", "--policy", "p.toml", "--hours", "0.1"]
print(run(simulated), run([*simulated, "--plot", "day.svg"]))
"""


def test_simulating_needs_nothing_else_and_the_plot_names_its_extra(tmp_path: Path) -> None:
    pytest.importorskip("tomllib")
    lines = blocked(f"import os\nos.chdir(sys.argv[1])\n{SIMULATED}", tmp_path).splitlines()
    assert lines[-1] == "0 2"
    assert lines[3].startswith("governor")


def test_importing_brings_no_network_module() -> None:
    network = {"asyncio", "ftplib", "http", "paho", "smtplib", "socket", "ssl", "urllib.request", "xmlrpc"}
    script = "import haste_runtime, haste_runtime.cli\nprint(*sys.modules)"
    assert not network & set(blocked(script).split())
    assert "socket" in blocked(f"import http.client\n{script}").split(), "a network module would not be seen"
