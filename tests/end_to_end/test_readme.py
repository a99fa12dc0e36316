"""The examples of both READMEs and of docs/service.md are run: a stranger copies them.

Blocks of ``python`` are run in one namespace per file, lines of ``console`` that begin with "$ " in a shell, all in the
order in which they stand, in a folder that holds what a reader would have: a network, its weights, class names,
pictures. A block that cannot be run follows a comment ``<!-- not run ...: reason -->``.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from haste_edge.targets import list_targets
from haste_runtime.cli.common import EXIT_CODES

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "runtime" / "README.md", ROOT / "docs" / "service.md"]
FENCE = re.compile(
    r"(?P<reason><!-- not run[^\n]*: (?P<why>[^\n]+) -->\n)?```(?P<kind>\w*)\n(?P<text>.*?)```\n", re.DOTALL
)

NETWORK = """
from torch import nn


def network():
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 48, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10),
    )
"""


class Block(NamedTuple):
    kind: str
    text: str
    line: int
    reason: str  # why it is not run; empty where it is


def blocks(path: Path) -> Iterator[Block]:
    text = path.read_text("utf-8")
    for match in FENCE.finditer(text):
        yield Block(match["kind"], match["text"], text[: match.start()].count("\n") + 1, match["why"] or "")


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of someone who follows the README, with both commands on the PATH."""
    (tmp_path / "my_models.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(str(tmp_path))
    namespace: dict[str, Any] = {}
    exec(NETWORK, namespace)
    torch.manual_seed(0)
    save_file(namespace["network"]().state_dict(), tmp_path / "weights.safetensors")
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (30, 32, 32, 3), np.uint8)
    np.savez(tmp_path / "pictures.npz", x=pictures, y=rng.integers(0, 10, 30))
    pytest.importorskip("PIL.Image").fromarray(pictures[0]).save(tmp_path / "picture.png")
    (tmp_path / "pictures").mkdir()
    np.save(tmp_path / "pictures" / "one.npy", pictures[0])
    np.save(tmp_path / "frames.npy", pictures[:5])
    (tmp_path / "policy.toml").write_text('[[rules]]\nwhen = "battery < 20"\nmin_level = 2\n')
    (tmp_path / "classes.txt").write_text("\n".join(f"kind {i}" for i in range(10)) + "\n")
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, module in (("haste-edge", "haste_edge.cli"), ("haste-run", "haste_runtime.cli")):
        script = commands / name
        script.write_text(f"#!{sys.executable}\nfrom {module} import main\nmain()\n")
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_blocks(path: Path) -> int:
    """How many were run."""
    namespace: dict[str, Any] = {}
    done = 0
    for block in blocks(path):
        where = f"{path.name}, line {block.line}"
        if block.reason or block.kind not in ("python", "console"):
            continue
        if block.kind == "python":
            exec(compile(block.text, where, "exec"), namespace)
        else:
            for line in block.text.splitlines():
                assert line.startswith("$ "), f"{where}: only commands are expected, no output: {line}"
                shell = subprocess.run(line[2:], shell=True, capture_output=True, text=True, timeout=500)
                assert shell.returncode == 0, f"{where}: {line}\n{shell.stdout}{shell.stderr}"
        done += 1
    return done


@pytest.mark.slow
def test_the_examples_of_the_readmes_run(reader: Path) -> None:
    assert run_blocks(ROOT / "README.md") >= 5
    assert (reader / "net.haste").is_file()
    assert run_blocks(ROOT / "runtime" / "README.md") >= 2  # with the bundle that the first one made
    assert run_blocks(ROOT / "docs" / "service.md") >= 4


@pytest.mark.parametrize("path", DOCUMENTS, ids=["edge", "runtime", "service"])
def test_blocks_are_either_run_or_say_why_not(path: Path) -> None:
    found = list(blocks(path))
    assert len(found) == path.read_text("utf-8").count("```") / 2
    assert {block.kind for block in found} <= {"python", "console", "text"}
    assert all(len(block.reason) > 20 for block in found if block.reason)


def test_the_exit_codes_are_those_of_the_commands() -> None:
    rows = re.findall(r"^\| (\d+) \| ([^|]+) \|$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    assert {int(code): meaning for code, meaning in rows} == EXIT_CODES


def test_every_target_is_named() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert [name for name in list_targets() if f"`{name}`" not in text] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=["edge", "runtime", "service"])
def test_named_files_exist(path: Path) -> None:
    text = path.read_text("utf-8")
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    folders = re.findall(r"^\| `([\w/]+/)` \|", text, re.MULTILINE)
    assert [name for name in links + folders if not (path.parent / name).exists()] == []
