"""The tools behind docs/performance.md: what is read off the measurements, and the page."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from builders import bundle_for, random_network

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

import measure_performance
import write_performance
from measure_performance import SUBJECTS, chosen_level


def row(runtime: str, ms: float, level: int | None = None, top1: float = 90.0, variant: str = "") -> dict[str, Any]:
    times = {"min": ms, "median": ms, "p90": ms}
    return {
        "runtime": runtime, "version": "1", "settings": "fp32", "variant": variant, "level": level, "memory_mb": 91.0,
        "kernels_mb": 4.0,
        "largest_error": 1e-6, "wall_ms": times, "cpu_ms": times, "relative": ms / 10, "top1": top1, "agreement": 100.0,
    }  # fmt: skip


def layer(ms: float, dense_ms: float, executed: int, merged: bool, **changed: Any) -> dict[str, Any]:
    stages = {"hash": 0.1 * ms, "group": 0.1 * ms, "merge": 0.3 * ms, "multiply": 0.5 * ms} if merged else None
    return {
        "name": "conv", "operation": "conv 3x3", "shape": "64x16x16 -> 64x16x16", "ms": ms, "dense_ms": dense_ms,
        "macs": 1000, "executed": executed, "weight_bytes": 5,
        "algorithm": "direct", "kept": 0.5 if merged else None, "stages": stages,
        "bound_ms": 1.0, "bound_by": "arithmetic", "gmacs_per_second": 40.0,
    } | changed  # fmt: skip


def result(name: str = "resnet34") -> dict[str, Any]:
    rows = [
        row("haste-edge", 10, 0), row("haste-edge", 8, 1, 89.0), row("haste-edge", 4, 2, 88.0), row("litert", 12),
        row("ncnn", 9, variant="Winograd"), row("ncnn", 11, variant="no Winograd"),
    ]  # fmt: skip
    dense, merging = layer(4, 4, 1000, False), layer(3, 4, 500, True)
    levels = [
        {"level": 0, "frame_ms": 10.0, "outside_kernels": 0.02, "layers": [dense, dense]},
        {"level": 1, "frame_ms": 8.0, "outside_kernels": 0.02, "layers": [merging, dense]},
    ]
    machine = {"cpu": {"model": "A CPU", "features": ["avx2"]}, "system": "Linux", "python": "3", "numpy": "2",
               "numba": "0", "date": "2026-01-01"}  # fmt: skip
    return {
        "name": name, "options": [], "pictures": 100, "chosen_level": 1, "peak_memory_mb": 1.0,
        "bench": {"rows": rows, "missing": [{"runtime": "tflite", "reason": "no wheel"}], "threads": 1, "rounds": 15,
                  "burst_ms": 50, "machine": machine},
        "profile": {"roofline": {"gmacs_per_second": 50.0, "gigabytes_per_second": {"L1": 100.0, "memory": 20.0}},
                    "weights_in": "memory", "levels": levels},
        "noise": {"level": 1, "layers": [layer(4.2, 4, 1000, True, kept=1.0)]},
        "bytes": {"constants": 50e6, "arena": 10e6},
    }  # fmt: skip


def test_the_level_looked_at_is_the_fastest_that_loses_little() -> None:
    rows = result()["bench"]["rows"]
    assert chosen_level(rows) == 1
    assert chosen_level(rows, 2) == 2
    assert chosen_level(rows, 0.5) == 0
    for level, median in ((0, 8.0), (1, 9.0)):  # a busier moment while level 1 ran; its rounds' ratios do not show it
        next(row for row in rows if row["level"] == level)["wall_ms"]["median"] = median
    assert chosen_level(rows) == 1


def test_time_saved_is_set_against_arithmetic_saved() -> None:
    layers = [layer(3, 4, 500, True), layer(4, 4, 1000, False)]
    assert write_performance.efficiency(layers) == pytest.approx(0.25 / 0.5)
    assert write_performance.efficiency(layers[1:]) is None
    assert write_performance.overhead(result()["noise"]["layers"]) == pytest.approx((1.05, 1.0))
    (both,) = write_performance.groups(layers)
    assert (both["count"], both["merged"], both["ms"], both["kept"]) == (2, 1, 7, 0.5)
    assert both["stages"]["merge"] == pytest.approx(0.3)


def test_goals_say_what_is_reached() -> None:
    found = {goal: (said, ok) for goal, said, ok in write_performance.goals({"resnet34": result()})}
    assert found["ResNet-34: level 0 at least as fast as litert"] == ("it takes 1.20 times as long as level 0", True)
    assert found["ResNet-34: level 0 at least as fast as ncnn"][1] is False
    assert found["ResNet-34: level 0 within 10 % of the fastest"] == ("1.11 times as long as ncnn Winograd", False)
    assert found["ResNet-34: 1.5x over level 0 for 1.25 points"] == ("level 1: 1.25x, 1.00 points", False)
    assert found["ResNet-34: that level faster than every dense runtime"] == ("1.12x the fastest", True)
    assert found["ResNet-34: merging costs at most 8 % where nothing merges"][1] is True
    assert found["ResNet-34: resident over Python, numpy and LLVM, 1.3 x (weights + arena) + 8 MB"][1] is False


def single_layers() -> dict[str, Any]:
    layers = [layer(1, 1, 1000, False, peak=50.0), layer(1, 1, 1000, False, peak=60.0)]
    return {"cpu": "A CPU", "date": "2026-01-01", "layers": layers}


def test_the_kernel_by_itself_is_set_against_the_peak() -> None:
    ((goal, said, ok),) = write_performance.goals({}, single_layers())
    assert "75 %" in goal
    assert (said, ok) == ("67 to 80 %", False)


def test_single_layers_are_measured_by_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure_performance.plain_layers, "SIDES", {64: 12})
    commands = measure_performance.Commands(tmp_path, tmp_path, ())
    (found,) = measure_performance.measure_kernels(commands)["layers"]
    assert (found["shape"], found["algorithm"]) == ("64x12x12 -> 64x12x12", "direct")
    assert 0 < write_performance.of_peak(found) < 2


def test_a_goal_for_int8_counts_the_points_of_both() -> None:
    int8 = result("resnet34-int8")
    for one in int8["bench"]["rows"]:
        one["top1"] -= 0.5
    found = {goal: ok for goal, _, ok in write_performance.goals({"resnet34": result(), "resnet34-int8": int8})}
    assert found["ResNet-34 with int8 weights: 1.8x faster than every fp32 runtime for 1.25 points"] is False


def test_the_page_names_what_is_missing_and_where_time_is_lost(tmp_path: Path) -> None:
    (tmp_path / "measured").mkdir()
    (tmp_path / "measured" / "resnet34.json").write_text(json.dumps(result()))
    (tmp_path / "measured" / "kernels.json").write_text(json.dumps(single_layers()))
    sys_argv = ["write_performance.py", "--measured", str(tmp_path / "measured"), "--out", str(tmp_path / "docs")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", sys_argv)
        write_performance.main()
    text = (tmp_path / "docs" / "performance.md").read_text()
    assert "tflite took no part: no wheel" in text
    assert "2 x conv 3x3 64x16x16 -> 64x16x16: 6.00 ms of 8.00 ms above the bound" in text
    assert "our level 0 is slower than ncnn Winograd (1.11 times as long)" in text
    assert "| **no** |" in text
    assert "| 64x16x16 -> 64x16x16 | 1.000 | 40.0 | 60.0 | 67 |" in text
    assert (tmp_path / "docs/results/performance/resnet34.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_measured_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["write_performance.py", "--measured", str(tmp_path)])
    with pytest.raises(SystemExit, match="measure_performance"):
        write_performance.main()


def test_every_subject_has_a_title_and_commands_that_fail_are_told(tmp_path: Path) -> None:
    assert {subject.name for subject in SUBJECTS} == set(write_performance.TITLES)
    commands = measure_performance.Commands(tmp_path, tmp_path, ())
    with pytest.raises(measure_performance.CommandError, match="haste-run bench ended with 3"):
        commands.give("haste-run", "bench", "not-there.haste")
    assert commands.give("haste-run", "doctor")


def test_accuracy_is_measured_anew_for_another_bundle_or_more_pictures(tmp_path: Path) -> None:
    bundle, evaluated = tmp_path / "net.haste", tmp_path / "net.json"
    bundle.write_text("")
    assert not measure_performance.is_evaluated(evaluated, bundle, 10)
    evaluated.write_text(json.dumps({"pictures": 10}))
    assert measure_performance.is_evaluated(evaluated, bundle, 10)
    assert not measure_performance.is_evaluated(evaluated, bundle, 20)
    os.utime(bundle, (2**31, 2**31))
    assert not measure_performance.is_evaluated(evaluated, bundle, 10)


def test_a_plan_without_budget_looks_for_groups_everywhere() -> None:
    bundle = bundle_for(random_network(3))
    made = measure_performance.without_budget(bundle)
    assert len(made.plan.levels) == 2
    assert set(made.plan.levels[1].choices) == {layer.node for layer in bundle.plan.layers if layer.variants}
    assert {choice.budget for choice in made.plan.levels[1].choices.values()} == {measure_performance.LEAST}
