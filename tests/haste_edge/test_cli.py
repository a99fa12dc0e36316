"""``haste-edge``: what each command prints where, how it ends, and that its help is quick."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from waiting import heed_ctrl_c

from haste_edge import cli, demo
from haste_edge import compile as compiler
from haste_edge.cli import common, tables
from haste_edge.targets import list_targets
from haste_runtime import Session
from haste_runtime.bundle import inspect_bundle
from haste_runtime.cli.common import EXIT_CODES

MODELS = """
import torch
from torch import nn


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5),
    )


def thin():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten())


class Sine(nn.Module):
    def forward(self, x):
        return torch.sin(x).flatten(1)
"""
COMPILE = ("compile", "models_for_cli:network", "--input", "1x3x16x16")
KEYS = {"level", "frames", "top1", "agreement", "flops_reduction", "flops_reduction_network", "ms_p50", "ms_p90"}

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """models_for_cli.py, net.haste made of it with four levels, and pictures.npz."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "models_for_cli.py").write_text(MODELS)
    namespace: dict[str, Any] = {}
    exec(MODELS, namespace)
    levels = {"levels": 4, "objective": "flops"}
    compiler.compile_model(namespace["network"](), folder / "net.haste", input_shape="1x3x16x16", **levels)
    rng = np.random.default_rng(0)
    np.savez(folder / "pictures.npz", x=rng.integers(0, 256, (6, 16, 16, 3), np.uint8), y=rng.integers(0, 5, 6))
    return folder


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs a command line in the folder: exit code, stdout, stderr."""
    monkeypatch.chdir(folder)
    monkeypatch.delenv("HASTE_DEBUG", raising=False)

    def command(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["haste-edge", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        captured = capfd.readouterr()
        return int(end.value.code or 0), captured.out, captured.err

    return command


def process(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """The real command in its own process."""
    return subprocess.Popen(
        [sys.executable, "-c", "from haste_edge.cli import main; main()", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_ctrl_c,
    )


# --- compile --------------------------------------------------------------------------------------------------------


def test_compile_says_why_there_is_no_level_above_0_and_what_to_do(run: Run, tmp_path: Path) -> None:
    code, printed, _ = run(
        "compile", "models_for_cli:thin", "--input", "1x3x9x9", "--target", "rpi4", "-o", str(tmp_path / "n.haste")
    )
    assert code == 0
    assert len(inspect_bundle(tmp_path / "n.haste")["levels"]) == 1
    assert all(words in printed for words in ("no level above 0", "quicker on rpi4", "--objective flops"))
    exact = run(
        "compile", "models_for_cli:thin", "--input", "1x3x9x9", "--levels", "0", "-o", str(tmp_path / "n.haste")
    )
    assert "no level above 0" not in exact[1]


def test_compile_ends_with_what_to_do_next(run: Run, tmp_path: Path) -> None:
    code, printed, _ = run(*COMPILE, "-o", str(tmp_path / "n.haste"), "--levels", "4", "--objective", "flops")
    assert code == 0
    assert printed.splitlines()[-1] == f"Next: haste-run bench {tmp_path / 'n.haste'}"
    assert "largest error of level 0 against the original" in printed
    assert [path.name for path in tmp_path.iterdir()] == ["n.haste"]
    assert len(inspect_bundle(tmp_path / "n.haste")["levels"]) == 5


def test_compile_says_what_rounding_changes_and_costs(run: Run, tmp_path: Path) -> None:
    code, printed, _ = run(*COMPILE, "-o", str(tmp_path / "n.haste"), "--levels", "1", "--dtype", "int8")
    assert code == 0
    (line,) = [line for line in printed.splitlines() if line.startswith("storing weights as int8 changes")]
    assert f"haste-edge evaluate {tmp_path / 'n.haste'}" in line
    assert inspect_bundle(tmp_path / "n.haste", verify=True)["dtype"] == "int8"


def test_compile_prints_json_alone(run: Run, tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("a\nb b\nc\nd\n[e]\n\n")
    options = ("--mean", "0.5,0.4,0.3", "--std", "0.25,0.2,0.1", "--scale", "1", "--colour", "bgr")
    options += ("--crop", "0.875", "--dtype", "fp16")
    more = ("--classes", str(tmp_path / "classes.txt"), "--target", "rpi4", "--objective", "time", "--levels", "4")
    code, printed, said = run(*COMPILE, "-o", str(tmp_path / "n.haste"), *options, *more, "--explain", "--json")
    assert code == 0
    about = json.loads(printed)
    assert about["largest_error"] <= about["tolerance"]
    assert about["rounding_error"] > 0
    assert (about["target"], about["dtype"], about["objective"]) == ("rpi4", "fp16", "time")
    assert about["classes"] == ["a", "b b", "c", "d", "[e]"]
    assert about["preprocessing"] == {
        "mean": [0.5, 0.4, 0.3],
        "std": [0.25, 0.2, 0.1],
        "scale": 1.0,
        "layout": "NCHW",
        "colour": "BGR",
        "fit": "cover",
        "crop": 0.875,
        "fill": 0.0,
    }
    assert "reason" in said  # the plan's table, as --explain asks for


def test_compile_explains_each_layer(run: Run, tmp_path: Path) -> None:
    code, printed, _ = run(*COMPILE, "-o", str(tmp_path / "n.haste"), "--levels", "4", "--explain")
    assert code == 0
    for layer in inspect_bundle(tmp_path / "n.haste")["layers"]:
        (line,) = [line for line in printed.splitlines() if line.split()[:1] == [layer["name"]] and "->" in line]
        assert " ".join(layer["reason"].split()[:3]) in line


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("models_for_cli:network",), 2, "--input 1x3x32x32"),
        (("models_for_cli:nothing", "--input", "1x3x16x16"), 2, "nothing"),
        (("models_for_cli:network", "--input", "16"), 2, "input shape"),
        (("models_for_cli:network", "--input", "1x3x16x16", "--target", "abacus"), 2, "Known targets"),
        (("models_for_cli:network", "--input", "1x3x16x16", "--mean", "a,b"), 2, "list of numbers"),
        (("models_for_cli:network", "--input", "1x3x16x16", "--layout", "HWC"), 2, "NCHW, NHWC"),
        (("models_for_cli:network", "--input", "1x3x16x16", "--dtype", "int4"), 2, "fp32, fp16, int8"),
        (("models_for_cli:network", "--input", "1x3x16x16", "--objective", "beauty"), 2, "flops, time"),
        (("models_for_cli:network", "--input", "1x3x16x16", "--classes", "nothing.txt"), 2, "class names"),
        (("models_for_cli:network", "--input", "1x3x16x16", "--levels", "-1"), 2, "levels"),
        (("models_for_cli:Sine", "--input", "1x3x16x16"), 5, "sin"),
    ],
)
def test_compile_refuses_with_a_sentence(
    run: Run, tmp_path: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    got, printed, said = run("compile", *arguments, "-o", str(tmp_path / "n.haste"))
    assert (got, printed) == (code, "")
    assert words in said
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


def test_a_result_that_is_wrong_has_its_own_code(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "difference", lambda wanted, got: 0.5)
    code, printed, said = run(*COMPILE, "-o", str(tmp_path / "n.haste"), "--levels", "4")
    assert (code, printed) == (6, "")
    assert "differs from the original by 5.0e-01" in said
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_leaves_nothing_half_written(folder: Path, tmp_path: Path) -> None:
    with process(folder, *COMPILE, "-o", str(tmp_path / "n.haste")) as compiling:
        assert compiling.stderr is not None
        for line in compiling.stderr:
            if line.startswith("Planning"):
                break
        compiling.send_signal(signal.SIGINT)
        assert compiling.wait(60) == 130
        assert compiling.stderr.read().splitlines()[-1] == "Interrupted."
    assert list(tmp_path.iterdir()) == []


# --- inspect --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verify", [False, True])
def test_inspect(run: Run, verify: bool) -> None:
    arguments = ("inspect", "net.haste", *(["--verify"] if verify else []))
    code, printed, _ = run(*arguments, "--json")
    assert code == 0
    assert json.loads(printed) == inspect_bundle("net.haste", verify)
    code, printed, _ = run(*arguments)
    assert code == 0
    assert ("tensors ok" if verify else "tensors not checked") in printed
    assert all(layer["name"] in printed for layer in inspect_bundle("net.haste")["layers"])


def test_inspect_finds_damage_only_where_it_looks(run: Run, folder: Path, tmp_path: Path) -> None:
    damaged = bytearray((folder / "net.haste").read_bytes())
    damaged[-1] ^= 1
    (tmp_path / "damaged.haste").write_bytes(damaged)
    assert run("inspect", str(tmp_path / "damaged.haste"))[0] == 0
    code, printed, said = run("inspect", str(tmp_path / "damaged.haste"), "--verify", "--json")
    assert (code, printed) == (3, "")
    assert said.startswith("Error: ")
    assert said.splitlines()[1].startswith("Hint: ")


# --- evaluate -------------------------------------------------------------------------------------------------------

EVALUATE = ("evaluate", "net.haste", "--data", "pictures.npz", "--backend", "numpy")


def test_evaluate_prints_json_alone(run: Run) -> None:
    code, printed, _ = run(*EVALUATE, "--levels", "0,3..4", "--limit", "5", "--json")
    assert code == 0
    about = json.loads(printed)
    assert [row["level"] for row in about["levels"]] == [0, 3, 4]
    for row in about["levels"]:
        assert set(row) == KEYS
        assert row["frames"] == 5
        assert 0 <= row["top1"] <= 100
        assert 0 <= row["agreement"] <= 100
    first = about["levels"][0]
    assert (first["agreement"], first["flops_reduction"], first["flops_reduction_network"]) == (100.0, 0.0, 0.0)
    assert about["levels"][2]["flops_reduction"] != 0
    assert (about["backend"], about["dtype"], about["pictures"], about["complete"]) == ("numpy", "fp32", 5, True)


def test_evaluate_prints_a_table(run: Run) -> None:
    code, printed, _ = run(*EVALUATE)
    assert code == 0
    assert [line.split()[0] for line in printed.splitlines() if line.split()[:1] and line.split()[0].isdigit()][:5] == [
        "0",
        "1",
        "2",
        "3",
        "4",
    ]
    assert printed.splitlines()[-1] == "6 pictures, fp32 weights, numpy backend, 1 thread"


def test_evaluate_without_labels_has_no_top1(run: Run, folder: Path, tmp_path: Path) -> None:
    with np.load(folder / "pictures.npz") as arrays:
        np.savez(tmp_path / "x.npz", x=arrays["x"])
    arguments = ("evaluate", "net.haste", "--data", str(tmp_path / "x.npz"), "--backend", "numpy", "--levels", "0")
    code, printed, _ = run(*arguments, "--json")
    assert code == 0
    assert json.loads(printed)["levels"][0]["top1"] is None
    assert run(*arguments)[0] == 0


@pytest.mark.parametrize("as_json", [False, True])
def test_evaluate_prints_what_was_done_when_interrupted(
    run: Run, monkeypatch: pytest.MonkeyPatch, as_json: bool
) -> None:
    frames, answer = 0, Session.run

    def interrupted(session: Session, x: Any) -> Any:
        nonlocal frames
        frames += 1
        if frames > 2 + 6 + 3:  # the first frame of two levels, level 0, half of level 2
            raise KeyboardInterrupt
        return answer(session, x)

    monkeypatch.setattr(Session, "run", interrupted)
    code, printed, said = run(*EVALUATE, "--levels", "0,2", *(["--json"] if as_json else []))
    assert code == 130
    assert "Interrupted" in said
    if as_json:
        about = json.loads(printed)
        assert about["complete"] is False
        assert [(row["level"], row["frames"]) for row in about["levels"]] == [(0, 6), (2, 3)]
    else:
        assert "pictures" in printed.splitlines()[1]  # a column says how many each level has seen


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("net.haste", "--data", "nothing.npz"), 3, "nothing.npz"),
        (("net.haste", "--data", "net.haste"), 3, "npz"),
        (("nothing.haste", "--data", "pictures.npz"), 3, "nothing.haste"),
        (("net.haste", "--data", "pictures.npz", "--levels", "9"), 2, "level 9"),
        (("net.haste", "--data", "pictures.npz", "--backend", "gpu"), 4, "gpu"),
        (("net.haste",), 2, "--data"),
    ],
)
def test_evaluate_refuses_with_a_sentence(run: Run, arguments: tuple[str, ...], code: int, words: str) -> None:
    got, printed, said = run("evaluate", *arguments)
    assert (got, printed) == (code, "")
    assert words in said


# --- targets, doctor ------------------------------------------------------------------------------------------------


def test_targets(run: Run) -> None:
    code, printed, _ = run("targets", "--json")
    assert code == 0
    assert [target["name"] for target in json.loads(printed)["targets"]] == list_targets()
    code, printed, _ = run("targets")
    assert code == 0
    assert all(f" {name} " in printed for name in list_targets())
    code, printed, _ = run("targets", "rpi4")
    assert code == 0
    assert "memory_bandwidth" in printed
    assert run("targets", "abacus")[0] == 2


def test_doctor(run: Run) -> None:
    code, printed, _ = run("doctor", "--json")
    assert code == 0
    findings = json.loads(printed)
    assert findings["compiler"]["torch"] == torch.__version__
    assert findings["targets"]["found"] == list_targets()
    assert findings["python"]["bits"] in (32, 64)
    code, printed, _ = run("doctor")
    assert code == 0
    assert any(line.startswith("compiler:") for line in printed.splitlines())


def test_doctor_never_fails(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any) -> None:
        raise OSError("no such luck")

    monkeypatch.setattr("haste_edge.targets.list_targets", broken)
    monkeypatch.setattr(demo, "images_path", broken)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, printed, _ = run("doctor", "--json")
    assert code == 0
    findings = json.loads(printed)
    assert [topic for topic in ("compiler", "targets", "demo") if "error" in findings[topic]] == [
        "compiler",
        "targets",
        "demo",
    ]
    assert len(findings["advice"]) >= 3


# --- the command itself ---------------------------------------------------------------------------------------------


def test_help_names_every_exit_code(run: Run) -> None:
    code, printed, _ = run("--help")
    assert code == 0
    words = " ".join(printed.split())
    assert all(f"{number} {meaning}" in words for number, meaning in EXIT_CODES.items())
    assert all(name in printed for name in ("demo", "compile", "inspect", "evaluate", "visualize", "doctor", "targets"))
    assert run("--version")[1].startswith("haste-edge ")
    assert run("nonsense")[0] == 2


def test_a_defect_asks_for_a_report(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any) -> None:
        raise RuntimeError("something odd")

    monkeypatch.setattr("haste_runtime.bundle.inspect_bundle", broken)
    code, printed, said = run("inspect", "net.haste")
    assert (code, printed) == (70, "")
    assert said.startswith("Error: This is a defect of haste-edge (RuntimeError: something odd).\nHint: ")
    assert "report" in said
    code, _, said = run("inspect", "net.haste", "--debug")
    assert code == 70
    assert said.startswith("Traceback")


def test_help_is_quick() -> None:
    """What takes long to import is not imported. (How long help takes depends on the machine, so no test tells.)"""
    script = "import sys, haste_edge.cli as cli\nprint(*sys.modules)\nsys.argv = ['haste-edge', 'compile', '--help']\n"
    script += "try:\n    cli.main()\nfinally:\n    print('modules:', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    said, modules = done.stdout.rsplit("modules:", 1)
    assert "--weights" in said
    assert "haste_edge.cli.compile" in modules.split()
    assert not {"torch", "numba", "matplotlib", "PIL"} & set(modules.split())
    assert "pydantic" not in said.splitlines()[0].split()  # typer's own printing of help takes it, where it is


# --- progress, numbers ----------------------------------------------------------------------------------------------


def test_progress_is_a_bar_on_a_terminal_and_lines_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(common, "PLAIN_SECONDS", 0.0)
    with common.Reporter("  ") as reporter:
        reporter.step("Planning")
        for done in (1, 2, 3):
            reporter.progress("layer", done, 3)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == ["  Planning", *[f"  layer: {done} of 3" for done in (1, 2, 3)]]
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with common.Reporter() as reporter:
        reporter.progress("layer", 1, 3)
        reporter.step("Next")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "1/3" in captured.err
    assert captured.err.endswith("Next\n")


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1234, "1.2 kB"), (5.61e6, "5.6 MB"), (2e9, "2.0 GB")]
)
def test_sizes_are_for_people(count: float, text: str) -> None:
    assert tables.size(count) == text
