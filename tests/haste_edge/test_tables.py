"""``haste-edge inspect`` as people see it: policies, bits and budgets per layer, expected agreement per level."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from builders import bundle_for, random_network

from haste_edge.cli import common
from haste_edge.cli.inspect import inspect_
from haste_runtime.bundle import Bundle, write_bundle


def mixed() -> Bundle:
    """Three variants a layer, one of each policy, at five levels; level 2 leaves "strided" dense."""
    bundle = bundle_for(
        random_network(3), (3, 8, 4), 12, (12, 6, 9, 3, 10), policy=("mean", "scaled", "budget"), budget=0.123456
    )
    levels = list(bundle.plan.levels)
    for number, agreement in enumerate((100.0, 99.46, None, 97.5, 90.0, 0.0)):
        levels[number] = replace(levels[number], agreement=agreement)
    levels[2] = replace(levels[2], choices={n: c for n, c in levels[2].choices.items() if n != "strided"})
    third = {**levels[5].choices, "stem": replace(levels[5].choices["stem"], variant=2, bits=7, budget=2.0)}
    levels[5] = replace(levels[5], choices=third)
    return replace(bundle, plan=replace(bundle.plan, levels=tuple(levels)))


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row on one line."""
    monkeypatch.setattr(common, "PIPE_WIDTH", 300)


def inspected(bundle: Bundle, folder: Path, capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    """What is printed, each line cut where two or more spaces are."""
    write_bundle(folder / "net.haste", bundle)
    inspect_(folder / "net.haste")
    return [re.split(r"\s{2,}", line.strip()) for line in capsys.readouterr().out.splitlines()]


def test_layers_show_policy_and_what_decides_at_each_level(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = inspected(mixed(), tmp_path, capsys)
    assert ["layer", "shape", "kernel", "choice", "bits or budget at levels", "reason"] in lines
    rows = {line[0]: line[3:] for line in lines}
    assert rows["residual"] == [
        "mean, patch 3; scaled, patch 8; budget, patch 4, 9 bits",
        "12 6 0.123 3 10",
        "merged in tests",
    ]
    assert rows["stem"][:2] == ["mean, patch 3; scaled, patch 8; budget, patch 4, 7 to 9 bits", "12 6 0.123 3 2"]
    assert rows["strided"][1] == "12 . 0.123 3 10"
    assert rows["depthwise"][0] == "dense"


def test_levels_show_the_agreement_expected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = inspected(mixed(), tmp_path, capsys)
    head = next(line for line in lines if line[0] == "level")
    assert head[-1] == "agreement % (expected)"
    rows = lines[lines.index(head) + 1 :]
    assert [line[-1] for line in rows if line[0].isdigit()] == ["100.0", "99.5", "-", "97.5", "90.0", "0.0"]
    assert any("Without --images they are noise" in word for line in rows for word in line)  # it is no promise


@pytest.mark.parametrize(("policy", "shown"), [("mean", False), ("budget", True)])
def test_importance_takes_memory_only_where_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], policy: str, shown: bool
) -> None:
    lines = inspected(bundle_for(random_network(3), policy=policy), tmp_path, capsys)
    (memory,) = (line[-1] for line in lines if line[0] == "memory:")
    assert ("importance" in memory) == shown
    assert memory.startswith("file ")
