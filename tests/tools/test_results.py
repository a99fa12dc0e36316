"""The tools behind docs/results.md: settings for all layers, what is read off the curves, and the page."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import GraphBuilder

from haste_edge.study.configuration import BASELINES, Configuration
from haste_runtime.plan import POLICIES
from haste_runtime.preprocessing import Preprocessing

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

import measure_method
import write_results
from measure_ablations import configurations
from measure_method import BUDGETS, FEWER, PAPER_BITS, Run, finalists, grid_of, make_bundle, measure, runs
from measured import Series, hand_made, read
from write_results import spread


def network() -> Any:
    b = GraphBuilder(0, x=(3, 8, 8))
    b.conv("stem", "x", 3, 16, 3, activation="relu")
    b.conv("a", "stem", 16, 32, 3, activation="relu")
    b.conv("b", "a", 32, 16, 1, padding=(0, 0, 0, 0), activation="relu")
    b.node("mean", "mean", "b", keepdim=0)
    b.linear("scores", "mean", 16, 5)
    return b.graph()


@pytest.mark.parametrize(
    ("policy", "levels"),
    [("mean", len(PAPER_BITS)), ("budget", len(BUDGETS) + 1), ("affine", len(BUDGETS) + 1), ("drop", len(BUDGETS) + 1)],
)
def test_one_setting_for_all_layers(policy: str, levels: int) -> None:
    bundle = make_bundle(Run("net", "uniform", policy, 4, 0, 6), network(), Preprocessing())
    assert len(bundle.plan.levels) == levels + 1
    for level in bundle.plan.levels[1:]:
        assert set(level.choices) == {"a", "b"}
        assert len({(choice.bits, choice.budget) for choice in level.choices.values()}) == 1
    x = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
    rows = measure(bundle, x, np.zeros(6, np.int64))
    assert rows[0]["saved"] == rows[0]["saved_half_adds"] == rows[0]["saved_kept_only"] == 0.0
    assert rows[0]["agreement"] == 100.0
    for row in rows[1:]:
        assert row["saved"] < row["saved_kept_only"]
        assert set(row["kept"]) == {"a", "b"}
    if policy != "mean":
        kept = [np.mean(list(row["kept"].values())) for row in rows[1:-1]]
        assert kept[-1] < kept[0] <= np.mean(list(rows[-1]["kept"].values()))  # the last level has no budget at all


def test_every_run_is_listed_once() -> None:
    listed = list(runs("net", 5000))
    assert len(listed) == len(set(listed))
    assert {run.policy for run in listed} == set(POLICIES)
    assert set(grid_of("net", FEWER)) <= set(listed)


def test_a_line_that_was_cut_off_is_taken_out(tmp_path: Path) -> None:
    file, run = tmp_path / "net.jsonl", Run("net", "ladder", "budget", 0, 0, 10)
    line = json.dumps({"run": asdict(run), "levels": []}) + "\n"
    file.write_text(line + line[:20])
    assert measure_method._done(file) == {run}
    assert file.read_text() == line


def test_the_best_of_the_grid_are_measured_again(tmp_path: Path) -> None:
    """Not before all of it is there; then those that save most within the drop that counts, for the ladder's table."""

    def line(run: Run, *points: tuple[float, float]) -> str:
        levels = [row(0.0, 90.0), *(row(saved, 90.0 + change) for saved, change in points)]
        return json.dumps({"run": asdict(run), "levels": levels}) + "\n"

    file, grid = tmp_path / "demo.jsonl", list(grid_of("demo", FEWER))
    last, second, best = grid[-1], grid[3], grid[7]
    lines = [line(run, (10.0, -2.5)) for run in grid if run not in (last, second, best)]
    lines += [line(second, (10.0, 0.0), (30.0, -1.0)), line(best, (10.0, 0.0), (40.0, -1.0))]
    file.write_text("".join(lines))
    assert finalists(file, "demo", 5000) == []
    file.write_text("".join([*lines, line(last, (80.0, -9.0))]))
    again = finalists(file, "demo", 5000)
    assert [(r.kind, r.policy, r.patch, r.limit) for r in again] == [
        ("hand", best.policy, best.patch, 5000),
        ("hand", second.policy, second.patch, 5000),
    ]
    with file.open("a") as more:
        more.write(line(again[0], (25.0, -1.25)) + line(again[1], (20.0, -1.25)))
        more.write(line(Run("demo", "ladder", "affine", 0, 0, 5000), (24.0, -1.25)))
    section = write_results.by_hand_section({"demo": read(file)})
    assert f"| The demo network | 24.0 | 25.0 | -1.0 | {best.policy}, patch {best.patch} |" in section


def test_no_best_is_named_of_policies_that_were_not_measured(tmp_path: Path) -> None:
    file = tmp_path / "demo.jsonl"
    whole = [
        json.dumps({"run": asdict(run), "levels": [row(0.0, 90.0), row(30.0, 89.0)]}) for run in grid_of("demo", 9)
    ]
    file.write_text("\n".join(line for line in whole if '"mean"' in line) + "\n")
    assert hand_made(read(file)) is None
    file.write_text("\n".join(whole) + "\n")
    assert hand_made(read(file)) is not None


def test_ablations_say_what_differs_from_the_paper() -> None:
    def lines(configuration: Configuration, drop: float) -> list[dict[str, Any]]:
        shared = {"pictures": 50, "flops_reduction_kept": 30.0, "flops_reduction_network": 20.0}
        return [
            {"configuration": asdict(replace(configuration, seed=seed)), "drop": drop + seed, **shared}
            for seed in range(3)
        ]

    every = configurations()
    assert len(every) == 3 * (2 + len(BASELINES) - 1 + 3) + 1  # "dead" has no seed
    usual = next(c for c in every if c.policy == "mean" and c.sparsity == 2 / 3)
    shuffled = next(c for c in every if c.policy == "random")
    found = lines(shuffled, 20.0) + lines(replace(usual, sparsity=0.9), 5.0) + lines(usual, 1.0)
    assert write_results.ablation_section(found)[-5:] == [
        "|---|---|---|---|",
        "| nothing: the paper's | -2.00 ± 1.00 | 30.0 | 20.0 |",
        "| 90% of the projections' entries are zeros, not 67% | -6.00 ± 1.00 | 30.0 | 20.0 |",
        "| channels are thrown together at random | -21.00 ± 1.00 | 30.0 | 20.0 |",
        "",
    ]
    assert write_results.ablation_section([]) == []


def row(saved: float, top1: float) -> dict[str, Any]:
    return {
        "bits": 12, "budget": 0.1, "top1": top1, "agreement": 99.0, "saved": saved, "saved_half_adds": saved + 1,
        "saved_kept_only": saved + 2, "expected_saving": saved, "expected_agreement": 98.0, "ms": 1.0,
        "kept": {"a": 0.5, "b": 0.25} if saved else {},
    }  # fmt: skip


def series(*points: tuple[float, float], seeds: int = 1) -> Series:
    levels = [{"saved": 0.0, "top1": 90.0}, *({"saved": s, "top1": 90.0 + d} for s, d in points)]
    return Series("a", {"limit": 10, "kind": "uniform"}, [levels] * seeds)


def test_savings_are_read_off_between_levels() -> None:
    curve = series((40.0, -2.0), (20.0, 0.0), (60.0, -8.0))
    assert curve.saved_at(1.0) == pytest.approx(30.0)
    assert curve.saved_at(5.0) == pytest.approx(50.0)
    assert curve.saved_at(20.0) == pytest.approx(60.0)
    assert curve.change_at(30.0) == pytest.approx(-1.0)
    assert curve.change_at(70.0) is None


def test_savings_stop_where_accuracy_first_falls() -> None:
    """A later level that happens to do better does not count."""
    assert series((20.0, -3.0), (30.0, 0.0)).saved_at(1.5) == pytest.approx(10.0)


def test_spread_of_several_seeds() -> None:
    assert spread([-1.0]) == "-1.00"
    assert spread([-1.0, -2.0, -3.0]) == "-2.00 ± 1.00"


def test_the_page_has_every_network_and_its_plots(tmp_path: Path) -> None:
    lines = []
    for run in runs("resnet20", 100):
        levels = [row(0.0, 90.0), row(30.0, 89.8), row(50.0, 88.0)]
        lines.append(json.dumps({"run": asdict(run), "plan_seconds": 1.0, "levels": levels}))
    (tmp_path / "resnet20.jsonl").write_text("\n".join(lines) + "\n")
    pictures = tmp_path / "results"
    pictures.mkdir()
    text = write_results.page(tmp_path, pictures, lambda network: None)
    assert "## ResNet-20" in text
    assert "ResNet-34" not in text.split("## Limits")[0].split("## ResNet-20")[0]
    assert "| 2 | 50.0 | 51.0 | 50.0 | -2.00 | 99.0 | 98.0 | 0.38 |" in text
    assert "automatic ladder saves 33.3 % at -0.5" in text
    assert "noise 1" in text
    assert {file.name for file in pictures.iterdir()} == {"resnet20.png", "resnet20-kept.png"}
    assert len(read(tmp_path / "resnet20.jsonl")[("ladder", "budget", 0, 8, "", 0)].levels) == 3
    assert len(read(tmp_path / "resnet20.jsonl")[("ladder", "affine", 0, 8, "", 0)].levels) == 1
