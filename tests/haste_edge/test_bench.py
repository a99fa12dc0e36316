"""``haste-edge bench``: taking turns, processes that end, outputs that differ, runtimes that are missing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from haste_edge import cli, processes
from haste_edge import compile as compiler
from haste_edge.bench import compare, environments, own_exports, peers, rounds
from haste_edge.bench.foreign.worker import load_adapter
from haste_edge.bench.peers import Export, Peer
from haste_edge.bench.plot import save_comparison_plot
from haste_edge.bench.report import COLUMNS, cells, ordered
from haste_edge.bench.source import FOREIGN, folder_of, read_source, save_program
from haste_edge.frontends import load_model
from haste_runtime.bundle import read_bundle
from haste_runtime.errors import HasteError, InputError

Run = Callable[..., tuple[int, str, str]]

NETWORK = """
import torch
from torch import nn


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4),
    )
"""

# A runtime that computes the mean over each frame, or something else, or fails when it is told to.
ADAPTER = """
import numpy as np, os, sys, time

def load(model, threads):
    print("chatter on stdout")
    told = (model / "told.txt").read_text()
    if told == "no load":
        raise ValueError("a broken file")

    def run(x):
        if told == "die" :
            os._exit(3)
        if told == "slow":
            time.sleep(0.002)
        return x.mean(axis=(1, 2, 3), keepdims=False)[None] * (2 if told == "wrong" else 1)

    return {"version": "1.0", "settings": "fake", "variants": {"": run}, "prepare": lambda x: x, "networks": 1}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """models_for_bench.py, net.haste of it with two levels, pictures.npz, and a fake adapter."""
    folder = tmp_path_factory.mktemp("bench")
    (folder / "models_for_bench.py").write_text(NETWORK)
    (folder / "adapter.py").write_text(ADAPTER)
    namespace: dict[str, Any] = {}
    exec(NETWORK, namespace)
    levels = {"levels": 2, "objective": "flops"}
    compiler.compile_model(namespace["network"](), folder / "net.haste", input_shape="1x3x16x16", **levels)
    rng = np.random.default_rng(0)
    np.savez(folder / "pictures.npz", x=rng.integers(0, 256, (6, 16, 16, 3), np.uint8), y=rng.integers(0, 4, 6))
    return folder


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """haste-edge in ``folder``: (exit code, stdout, stderr)."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(cli.sys, "argv", ["haste-edge"])

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["haste-edge", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capfd.readouterr()
        return int(ended.value.code or 0), out, err

    return call


@pytest.fixture
def fakes(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Two peers that run in this environment: "same", which is the bundle itself, and "wrong". Returns the cache."""
    adapter = tmp_path / "twice.py"
    adapter.write_text(
        f"import sys\nsys.path.insert(0, {str(Path(compare.haste_runtime.__file__).parents[1])!r})\n"
        "from haste_runtime import Session\n"
        "def load(model, threads):\n"
        f"    session = Session({str(folder / 'net.haste')!r}, 'numpy')\n"
        "    return {'version': '9', 'settings': 'fake', 'prepare': lambda x: x, 'networks': 1,\n"
        "            'variants': {'same': session.run, 'wrong': lambda x: 1.01 * session.run(x)}}\n"
    )
    export = Export("export_nothing.py", "none", "nothing")
    failing = Export(str(tmp_path / "export_failing.py"), "none", "failing")
    (tmp_path / "export_nothing.py").write_text("")
    (tmp_path / "export_failing.py").write_text("print('Error: no such operator')\nraise SystemExit(1)\n")
    table = {
        "fake": Peer("fake", "none", str(adapter), (Export(str(tmp_path / "export_nothing.py"), "none", "nothing"),)),
        "unexported": Peer("unexported", "none", str(adapter), (failing,)),
        "uninstalled": Peer("uninstalled", "missing", str(adapter), (export,)),
    }

    def python_of(name: str, requirements: object, root: Path, on_step: object) -> Path:
        if name == "missing":
            raise processes.ProcessError("ERROR: No matching distribution found for fake")
        return Path(sys.executable)

    monkeypatch.setattr(peers, "PEERS", table)
    monkeypatch.setattr(compare, "requirements", lambda name: ())
    monkeypatch.setattr(compare, "python_of", python_of)
    monkeypatch.setenv("HASTE_CACHE", str(os.environ.get("HASTE_CACHE") or tmp_path / "cache"))
    monkeypatch.setattr(compare, "bench_folder", lambda: tmp_path)
    return tmp_path


def worker(folder: Path, tmp_path: Path, told: str, timeout: float = 60) -> processes.Worker:
    (tmp_path / "told.txt").write_text(told)
    command = [sys.executable, FOREIGN / "worker.py", folder / "adapter.py", tmp_path, "1"]
    return processes.Worker(command, tmp_path / "log", processes.environment(), timeout)


# --- workers --------------------------------------------------------------------------------------------------------


def test_a_worker_answers_in_turn_and_ends(folder: Path, tmp_path: Path) -> None:
    frames = np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2)
    np.save(tmp_path / "frames.npy", frames)
    one = worker(folder, tmp_path, "well")
    assert one.hello == {"version": "1.0", "settings": "fake", "variants": [""], "kernels_mb": None}
    assert one.ask(do="inputs", path=str(tmp_path / "frames.npy")) == {}
    answer = one.ask(do="outputs", variant="", path=str(tmp_path / "outputs.npy"))
    assert answer["memory_mb"] is None or answer["memory_mb"] >= 0
    assert np.load(tmp_path / "outputs.npy").reshape(-1).tolist() == [5.5, 17.5]
    burst = one.ask(do="burst", variant="", warm=1, frames=5)
    assert [len(burst[clock]) for clock in ("wall", "cpu")] == [5, 5]
    assert min(burst["wall"]) > 0
    one.close()
    assert one._process.returncode == 0
    one.close()  # again does no harm


@pytest.mark.parametrize(("told", "reason"), [("no load", "ValueError: a broken file"), ("die", "its process ended")])
def test_a_worker_that_fails_says_why(folder: Path, tmp_path: Path, told: str, reason: str) -> None:
    np.save(tmp_path / "frames.npy", np.zeros((1, 3, 2, 2), np.float32))
    with pytest.raises(processes.ProcessError, match=reason):  # noqa: PT012
        one = worker(folder, tmp_path, told)
        try:
            one.ask(do="inputs", path=str(tmp_path / "frames.npy"))
            one.ask(do="burst", variant="", warm=0, frames=1)
        finally:
            one.close()


def test_a_worker_that_does_not_answer_is_given_up(folder: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "frames.npy", np.zeros((1, 3, 2, 2), np.float32))
    one = worker(folder, tmp_path, "slow")
    one.ask(do="inputs", path=str(tmp_path / "frames.npy"))
    one._timeout = 0.2
    with pytest.raises(processes.ProcessError, match="did not answer"):
        one.ask(do="burst", variant="", warm=0, frames=100_000)
    one.close()
    assert one._process.returncode is not None


def test_a_worker_ends_when_its_parent_is_killed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "told.txt").write_text("well")
    script = (
        "import sys, time; from pathlib import Path; from haste_edge import processes\n"
        f"one = processes.Worker([sys.executable, {str(FOREIGN / 'worker.py')!r}, {str(folder / 'adapter.py')!r}, "
        f"{str(tmp_path)!r}, '1'], Path({str(tmp_path / 'log')!r}), processes.environment())\n"
        "print(one._process.pid, flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 30
    while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
        if "Z" in Path(f"/proc/{child}/stat").read_text().split(")")[1].split()[0]:
            break  # ended, only nobody has asked how
        time.sleep(0.05)
    else:
        assert not Path(f"/proc/{child}").exists()


def test_what_a_child_inherits(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in processes.NOT_INHERITED:
        monkeypatch.setenv(name, "x")
    variables = processes.environment(3)
    assert not set(processes.NOT_INHERITED) & set(variables)
    assert variables["OMP_NUM_THREADS"] == "3"
    assert processes.environment(1, Path("/somewhere"))["PYTHONPATH"] == "/somewhere"


def test_a_job_that_fails_gives_its_reason_and_an_interrupted_one_ends(tmp_path: Path) -> None:
    log = tmp_path / "log"
    script = "print('reading'); print('ERROR: no wheel'); print('bye'); raise SystemExit(1)"
    with pytest.raises(processes.ProcessError, match="ERROR: no wheel"):
        processes.run([sys.executable, "-c", script], log, processes.environment())
    with pytest.raises(processes.ProcessError, match="did not end"):
        processes.run([sys.executable, "-c", "import time; time.sleep(60)"], log, processes.environment(), 0.5)


# --- environments ---------------------------------------------------------------------------------------------------


def test_an_environment_is_made_once_and_nothing_is_left_of_one_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    def run(command: Any, log: Path, variables: Any, timeout: float = 0) -> None:
        commands.append([str(part) for part in command])
        if "venv" in commands[-1]:
            Path(commands[-1][-1]).mkdir()
        if "nothing-like-it" in commands[-1]:
            raise processes.ProcessError("ERROR: No matching distribution found for nothing-like-it")

    monkeypatch.setattr(processes, "run", run)
    said: list[str] = []
    python = environments.python_of("a", ("numpy",), tmp_path, said.append)
    assert python == environments.folder_for("a", ("numpy",), tmp_path) / "bin" / "python"
    assert commands[1][-2:] == ["install", "numpy"]
    environments.python_of("a", ("numpy",), tmp_path, said.append)
    assert (len(commands), len(said)) == (2, 1)
    with pytest.raises(processes.ProcessError, match="No matching distribution"):
        environments.python_of("b", ("nothing-like-it",), tmp_path, said.append)
    assert not environments.folder_for("b", ("nothing-like-it",), tmp_path).exists()
    assert environments.folder_for("a", ("numpy<2",), tmp_path) != environments.folder_for("a", ("numpy",), tmp_path)


def test_every_peer_has_its_scripts_and_requirements() -> None:
    for peer in peers.PEERS.values():
        assert (FOREIGN / peer.adapter).is_file()
        assert all(isinstance(step, Export) or step.file in own_exports.WRITERS for step in peer.own)
        for step in (*peer.exports, *(step for step in peer.own if isinstance(step, Export))):
            assert (FOREIGN / step.script).is_file()
            assert f"torch=={torch.__version__.partition('+')[0]}" in peers.requirements(step.environment)
        assert "numpy" in " ".join(peers.requirements(peer.environment))
    assert [peer.name for peer in peers.choose("ncnn, litert,ncnn")] == ["ncnn", "litert"]
    assert len(peers.choose("all")) == len(peers.PEERS)
    with pytest.raises(InputError, match="no runtime called 'tensorrt'"):
        peers.choose("ncnn,tensorrt")


# --- rounds ---------------------------------------------------------------------------------------------------------


class Clockwork:
    """Answers bursts with times of its own, and writes down whose turn it was."""

    def __init__(self, name: str, ns: int, turns: list[str], fails_at: int = 10**9) -> None:
        self._name, self._ns, self._turns, self._left = name, ns, turns, fails_at

    def ask(self, **message: Any) -> dict[str, Any]:
        self._turns.append(self._name)
        self._left -= 1
        if self._left < 0:
            raise processes.ProcessError("it broke")
        return {clock: [self._ns] * message["frames"] for clock in ("wall", "cpu")}


def test_everybody_has_a_turn_in_every_round_in_changing_order() -> None:
    turns: list[str] = []
    times = {"a": 10**6, "b": 2 * 10**6, "c": 10**7, "d": 10**9}
    all_ = [rounds.Contestant(name, "", Clockwork(name, ns, turns)) for name, ns in times.items()]
    done = list(rounds.run_rounds(all_, 6, 0.05))
    assert done == list(range(1, 1 + rounds.steps(all_, 6)))
    orders = [tuple(turns[i : i + 4]) for i in range(0, len(turns), 4)]
    assert all(sorted(order) == list("abcd") for order in orders)
    assert len(set(orders)) > 3
    assert [one.frames for one in all_] == [50, 25, 5, rounds.FEWEST]
    assert rounds.summary(all_[1].wall) == {"min": 2.0, "median": 2.0, "p90": 2.0}
    assert rounds.relative(all_[2], all_[0]) == pytest.approx(10)
    again: list[str] = []
    list(rounds.run_rounds([rounds.Contestant(n, "", Clockwork(n, 10**6, again)) for n in "abcd"], 6, 0.05))
    assert again == turns  # drawn from a seed


def test_one_that_fails_stops_and_the_others_go_on() -> None:
    turns: list[str] = []
    good, bad = (rounds.Contestant(n, "", Clockwork(n, 10**6, turns, at)) for n, at in (("good", 99), ("bad", 3)))
    failed: list[str] = []
    list(rounds.run_rounds([good, bad], 5, 0.01, on_failure=lambda one: failed.append(one.runtime)))
    assert (len(good.wall), len(bad.wall), bad.failure, failed) == (5, 2, "it broke", ["bad"])
    assert turns.count("bad") == 4
    assert rounds.relative(bad, good) == 1


@pytest.mark.parametrize(
    ("got", "error"), [([1, 2, -4], 0.0), ([1, 2.4, -4], 0.1), ([1, 2], np.inf), ([1, 2, np.nan], np.inf)]
)
def test_largest_error_is_a_share_of_the_largest_output(got: list[float], error: float) -> None:
    expected = np.array([1, 2, -4], np.float32)
    assert rounds.largest_error(np.array([got], np.float32), expected) == pytest.approx(error, rel=1e-5)


# --- the network ----------------------------------------------------------------------------------------------------


def test_the_source_is_the_model_or_the_bundles_own_network(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    bundle = read_bundle("net.haste")
    own, model = read_source(bundle, None, None, None), read_source(bundle, "models_for_bench:network", None, None)
    frames = np.random.default_rng(0).standard_normal((2, 3, 16, 16), np.float32)
    assert rounds.largest_error(own.outputs(frames), model.outputs(frames)) < 1e-5
    assert own.key != model.key == read_source(bundle, "models_for_bench:network", None, None).key
    for source in (own, model):
        kept = folder_of(source, tmp_path)
        save_program(source, kept)
        saved = torch.export.load(kept / "source.pt2").module()
        with torch.no_grad():
            assert np.allclose(saved(torch.from_numpy(frames[:1])).numpy(), source.outputs(frames)[0], atol=1e-5)
    with pytest.raises(HasteError, match=r"takes .* the bundle"):
        read_source(bundle, "models_for_bench:network", None, "1x3x8x8")


def test_only_some_exported_networks_are_kept(folder: Path, tmp_path: Path) -> None:
    source = read_source(read_bundle(folder / "net.haste"), None, None, None)
    for number in range(9):
        (tmp_path / f"old{number}").mkdir()
        os.utime(tmp_path / f"old{number}", (number, number))
    folder_of(source, tmp_path)
    left = sorted(path.name for path in tmp_path.iterdir() if path.is_dir())
    assert left == sorted([source.key, *(f"old{number}" for number in range(4, 9))])


def test_slices_with_a_step_become_pools_for_pnnx() -> None:
    exporter = load_adapter(str(FOREIGN / "export_torchscript.py"))

    class Slices(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, :, ::2, ::3] + x[:, :, :3, :2]

    x = torch.randn(1, 2, 6, 6)
    program = torch.export.export(Slices(), (x,), strict=False).module()
    exporter.pool_instead_of_slice(program, torch.ops.aten)
    targets = [str(node.target) for node in program.graph.nodes]
    assert targets.count("aten.max_pool2d.default") == 2
    assert torch.equal(program(x), Slices()(x))


# --- the command ----------------------------------------------------------------------------------------------------


def test_bench_compares_what_runs_and_names_what_does_not(fakes: Path, run: Run) -> None:
    plot = fakes / "plot.png"
    code, out, err = run(
        "bench", "net.haste", "--source", "models_for_bench:network", "--against", "all", "--rounds", "2", "--burst",
        "2", "--data", "pictures.npz", "--json", "--plot", str(plot),
    )  # fmt: skip
    assert code == 0, err
    result = json.loads(out)
    assert [(row["runtime"], row["variant"]) for row in result["rows"]] == [
        *(("haste-edge", f"level {n}") for n in range(3)), ("fake", "same"),
    ]  # fmt: skip
    for row in result["rows"]:
        assert row["wall_ms"]["min"] <= row["wall_ms"]["median"] <= row["wall_ms"]["p90"]
        assert row["cpu_ms"]["median"] > 0
        assert row["rounds"] == 2
        assert row["frames"] >= 6
        assert 0 <= row["top1"] <= 100
        assert not row["failure"]
    assert result["rows"][0]["relative"] == 1
    assert 0 <= result["rows"][0]["kernels_mb"] < result["rows"][0]["memory_mb"]
    assert {missing["runtime"]: missing["reason"].split(":")[0] for missing in result["missing"]} == {
        "fake wrong": "wrong differs by 1.0e-02 of the largest output",
        "unexported": "Error",
        "uninstalled": "ERROR",
    }
    assert result["threads"] == 1
    assert result["complete"]
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert not list(fakes.glob(".plot*"))


def test_bench_prints_a_table_and_prepares_only_when_told(fakes: Path, run: Run) -> None:
    code, out, _ = run(
        "bench", "net.haste", "--against", "uninstalled", "--levels", "2", "--rounds", "1", "--burst", "1"
    )
    assert code == 0
    assert "haste-edge level 0" in out  # the base of what is compared
    assert "haste-edge level 2" in out
    assert "level 1" not in out
    assert "uninstalled: left out, ERROR: No matching distribution found for fake" in out
    code, out, _ = run("bench", "net.haste", "--against", "fake,unexported", "--prepare", "--json")
    assert (code, json.loads(out)["ready"]) == (0, ["fake"])


def test_a_bundle_of_another_model_is_an_error(fakes: Path, run: Run, folder: Path) -> None:
    (folder / "another_for_bench.py").write_text(NETWORK.replace("manual_seed(0)", "manual_seed(1)"))
    code, out, err = run("bench", "net.haste", "--source", "another_for_bench:network", "--against", "fake")
    assert (code, out) == (6, "")
    assert "differs from the source" in err


def test_top1_can_be_taken_from_an_evaluation(fakes: Path, run: Run, folder: Path) -> None:
    (folder / "evaluated.json").write_text(json.dumps({"levels": [{"level": 0, "top1": 71.0, "agreement": 100.0}]}))
    arguments = ("bench", "net.haste", "--against", "fake", "--levels", "0", "--rounds", "1", "--burst", "1", "--json")
    code, out, _ = run(*arguments, "--evaluated", "evaluated.json")
    assert [row["top1"] for row in json.loads(out)["rows"]] == [71.0, 71.0]
    (folder / "broken.json").write_text("{")
    code, _, err = run(*arguments, "--evaluated", "broken.json")
    assert code == 3
    assert "haste-edge evaluate --json" in err


def test_an_interrupted_bench_leaves_no_process(fakes: Path, folder: Path) -> None:
    """Ctrl-C in the middle: what was measured is printed, and every worker has ended."""
    script = (
        "import sys; from haste_edge import cli; from haste_edge.bench import compare\n"
        "sys.argv = ['haste-edge', 'bench', 'net.haste', '--against', 'onnxruntime', '--rounds', '100000', '--json']\n"
        f"compare.bench_folder = lambda: __import__('pathlib').Path({str(fakes)!r})\n"
        "def none(*a): raise compare.ProcessError('not here')\n"
        "compare.python_of = none\n"
        "cli.main()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as command:
        assert command.stderr is not None
        for line in command.stderr:
            if line.startswith("Measuring"):
                break
        time.sleep(2)  # a few rounds
        children = Path(f"/proc/{command.pid}/task/{command.pid}/children").read_text().split()
        command.send_signal(signal.SIGTERM)
        out, err = command.communicate(timeout=60)
    assert command.returncode == 130, err
    assert not json.loads(out)["complete"]
    assert children
    assert not [child for child in children if Path(f"/proc/{child}").exists()]


# --- report ---------------------------------------------------------------------------------------------------------


def row(runtime: str, ms: float | None, level: int | None = None, top1: float | None = None) -> dict[str, Any]:
    times = None if ms is None else {"min": ms, "median": ms, "p90": 2 * ms}
    return {
        "runtime": runtime, "version": "1", "variant": "", "level": level, "largest_error": 1e-6, "memory_mb": None,
        "wall_ms": times, "cpu_ms": times, "relative": None if ms is None else ms, "top1": top1, "agreement": top1,
    }  # fmt: skip


def test_the_table_has_our_levels_first_and_then_the_fastest() -> None:
    rows = ordered([row("b", 3), row("x", None), row("us", 5, 1), row("a", 2), row("us", 9, 0)])
    assert [(r["runtime"], r["level"]) for r in rows] == [("us", 0), ("us", 1), ("a", None), ("b", None), ("x", None)]
    for one in rows:
        assert len(cells(one)) == len(COLUMNS)
    assert cells(rows[2])[2:6] == ["2.000", "4.000", "2.000", "2.00x"]


@pytest.mark.parametrize("top1", [None, 90.0])
def test_a_plot_with_and_without_accuracy(tmp_path: Path, top1: float | None) -> None:
    rows = [row("us", 5, 0, top1), row("us", 4, 1, top1), row("a", 3, None, top1), row("x", None)]
    save_comparison_plot(rows, tmp_path / "plot.png", "title", "subtitle")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_a_model_of_one_batch_size_is_given_to_the_others_by_our_own_exports(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(folder)
    module = load_model("models_for_bench:network", None, "1x3x16x16").reference
    assert isinstance(module, nn.Module)
    torch.export.save(torch.export.export(module, (torch.zeros(2, 3, 16, 16),)), tmp_path / "fixed.pt2")
    source = read_source(read_bundle("net.haste"), str(tmp_path / "fixed.pt2"), None, None)
    assert source.own is not None
    frames = np.random.default_rng(0).standard_normal((3, 3, 16, 16), np.float32)
    with torch.no_grad():
        assert np.allclose(source.outputs(frames)[:, 0], module(torch.from_numpy(frames)).numpy(), atol=1e-5)
