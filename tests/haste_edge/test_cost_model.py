"""The cost model is near what the compiled kernels take, and orders layers and patches as kernels do."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from haste_edge.plan.cost_model import EFFICIENCY, TILE, UNHIDDEN, CostModel
from haste_edge.targets import Cache, Caches, Memory, Simd, Target, load_target
from haste_runtime.flops import LayerCounts
from haste_runtime.geometry import ConvGeometry

# The x86-64 core with AVX-512 on which `tools/fit_cost_model.py` measured the compiled kernels, and some of its rows,
# with vectors of 16, 8 and 4 lanes.
MACHINE = load_target("host").model_copy(
    update={
        "clock_mhz": 2750,
        "simd": Simd(lanes=16, fma_per_cycle=2),
        "caches": Caches(
            l1d=Cache(kib=48, shared=False),
            l2=Cache(kib=2048, shared=False, gb_s=132),
            l3=Cache(kib=65536, shared=True, gb_s=27),
        ),
        "memory": Memory(size_mib=24152, bandwidth_gb_s=15),
    }
)
DENSE = Path(__file__).parents[1] / "fixtures" / "dense_timings.jsonl"  # every kind of layer by every algorithm
TIMINGS = Path(__file__).parents[1] / "fixtures" / "kernel_timings.jsonl"
KEPT = (0.7, 0.5, 0.35)
COPIES = 8  # weights in rotation, which is what a network does to its caches


def _layer(channels: int, side: int) -> ConvGeometry:
    return ConvGeometry(channels, channels, (3, 3), (1, 1), (1, 1), (1, 1, 1, 1), 1, (side, side))


def _geometry(row: dict[str, Any]) -> ConvGeometry:
    return ConvGeometry(**{k: tuple(v) if isinstance(v, list) else v for k, v in row["geometry"].items()})


def _model(target: Target, layer: ConvGeometry, winograd: bool = False) -> CostModel:
    return CostModel(target, COPIES * 4 * layer.channels_in * layer.channels_out * 9, winograd)


def _ratio(target: Target, channels: int, side: int, patch: int, kept: float) -> float:
    """Merged by dense time, with channels merged in groups of three and 16 bits, as the prototype was fed."""
    layer = _layer(channels, side)
    model, patches = _model(target, layer), math.prod(layer.grid(patch))
    merged = channels - max(0.0, (3 * kept - 1) * channels / 2)
    counts = LayerCounts(
        patches, round(kept * channels * patches), round(merged * patches), round(kept * channels * side * side)
    )
    nonzeros = round(16 * layer.patch_side(patch) ** 2 / 3)
    return model.merged(layer, patch, nonzeros, 16, counts).seconds / model.dense(layer).seconds


def test_model_is_near_what_the_kernels_take() -> None:
    rows = [json.loads(line) for line in TIMINGS.read_text("utf-8").splitlines()]
    errors = {policy: [] for policy in ("dense", "affine", "drop", "mean")}
    for row in rows:
        g = _geometry(row)
        target = Target.model_validate(load_target("host").model_dump(exclude_none=True) | row["target"])
        model = CostModel(target, row["network_bytes"])
        seconds = model.dense(g, row.get("algorithm", "direct")).seconds
        if "counts" in row:
            counts, how = LayerCounts(**row["counts"]), (row["patch"], row["nonzeros"], row["bits"])
            algorithm = row.get("algorithm", "direct")
            seconds = model.merged(g, *how, counts, row["frames"], row["policy"], algorithm).seconds
        errors[row.get("policy", "dense")].append(abs(1e6 * seconds / row["microseconds"] - 1))
    for policy, sizes in errors.items():
        assert len(sizes) > 10, policy
        assert np.median(sizes) < 0.2, policy
        assert np.quantile(sizes, 0.9) < 0.5, policy


@pytest.mark.parametrize(
    ("channels", "side", "worth"), [(512, 2, False), (256, 4, False), (128, 8, True), (64, 16, True)]
)
def test_joining_is_worth_it_only_on_large_maps(channels: int, side: int, worth: bool) -> None:
    """On small ones the time goes to comparing channels and to reading weights, which joining does not save, but
    dropping does."""
    layer = _layer(channels, side)
    model = _model(MACHINE.model_copy(update={"simd": Simd(lanes=8, fma_per_cycle=2)}), layer)
    assert model.worth_joining(layer, side) == worth
    half = channels // 2
    compared, verified = round(0.3 * channels * channels), round(1.7 * channels)  # as on the networks measured
    joined = LayerCounts(1, half, half, half * side * side, compared, verified, half)
    dropped = LayerCounts(1, half, 0, half * side * side)
    times = [
        model.merged(layer, side, 0, 16, counts, policy=policy).seconds / model.dense(layer).seconds
        for counts, policy in ((joined, "affine"), (dropped, "drop"))
    ]
    assert times[1] < times[0]
    assert times[1] < 0.7
    assert (times[0] < 0.85) == worth


@pytest.mark.parametrize("name", ["rpi-zero2w", "rpi4", "rpi5", "jetson-orin-nano"])
def test_large_patches_win_and_tiny_ones_lose(name: str) -> None:
    target = load_target(name)
    by_patch = [_ratio(target, 64, 32, patch, 0.5) for patch in (2, 4, 8, 16)]
    assert by_patch == sorted(by_patch, reverse=True)
    assert by_patch[0] > 1 > by_patch[2]


def test_merged_layers_may_be_computed_by_winograd() -> None:
    """Its transforms are the dense layer's whatever is kept, and its multiplications are the kept channels'."""
    layer, target = _layer(128, 8), load_target("rpi4")
    model = _model(target, layer, winograd=True)
    assert model.algorithms(layer, "drop") == ("direct", "winograd2", "winograd4")
    assert model.algorithms(layer, "affine") == ("direct",)
    assert _model(target, layer).algorithms(layer, "drop") == ("direct",)
    strided = replace(layer, stride=(2, 2), out=(4, 4))
    assert model.algorithms(strided, "drop") == ("direct",)
    every, half = (LayerCounts(1, kept, 0, kept * 64) for kept in (128, 64))
    for algorithm in ("winograd2", "winograd4"):
        dense = model.dense(layer, algorithm)
        whole, some = (model.merged(layer, 8, 0, 1, c, policy="drop", algorithm=algorithm) for c in (every, half))
        assert whole.arithmetic == pytest.approx(dense.arithmetic)
        assert whole.weights == pytest.approx(dense.weights)
        assert whole.overhead > dense.overhead
        assert some.arithmetic == pytest.approx(dense.arithmetic / 2)
        assert some.overhead == pytest.approx(whole.overhead)
    direct = model.merged(layer, 8, 0, 1, half, policy="drop")
    assert model.merged(layer, 8, 0, 1, half, policy="drop", algorithm="winograd4").seconds < direct.seconds


def test_fewer_kept_channels_take_less_time() -> None:
    ratios = [_ratio(load_target("rpi4"), 128, 16, 8, kept) for kept in (0.9, 0.7, 0.5, 0.3)]
    assert ratios == sorted(ratios, reverse=True)


def test_dense_time_is_arithmetic_and_memory() -> None:
    target = load_target("rpi4")
    large, deep = _layer(64, 56), _layer(512, 2)
    peak, bandwidth = target.peak_gmac_s * 1e9, target.memory.bandwidth_gb_s * 1e9
    found = _model(target, large).dense(large)
    assert found.seconds == pytest.approx(
        found.arithmetic + UNHIDDEN * found.weights + found.overhead
    )  # read meanwhile
    assert found.overhead == pytest.approx(523 * 4 * TILE / (1e6 * target.clock_mhz))  # six pixels, sixteen channels
    assert found.arithmetic == pytest.approx(64 * 64 * 9 * 56 * 56 / (EFFICIENCY * peak))
    found = _model(target, deep).dense(deep)
    assert found.weights == pytest.approx(4 * 512 * 512 * 9 / bandwidth)
    assert found.seconds == pytest.approx(found.arithmetic + UNHIDDEN * found.weights + found.overhead)
    # Four pixels do not fill a register tile of six rows.
    assert found.arithmetic == pytest.approx(512 * 512 * 9 * 4 / (4 / 6 * EFFICIENCY * peak))


def test_weights_that_stay_in_a_cache_cost_less() -> None:
    layer = _layer(64, 4)
    target = load_target("rpi5")
    assert CostModel(target, 4 * 64 * 64 * 9).dense(layer).weights < CostModel(target, 1 << 30).dense(layer).weights


def test_counts_of_several_frames_give_the_time_of_one() -> None:
    layer = _layer(64, 16)
    model, counts = _model(load_target("rpi4"), layer), LayerCounts(4, 128, 160, 8192)
    one = model.merged(layer, 8, 500, 12, counts).seconds
    five = LayerCounts(*(5 * n for n in (counts.patches, counts.kept, counts.merged, counts.kept_pixels)))
    assert model.merged(layer, 8, 500, 12, five, frames=5).seconds == pytest.approx(one)


def test_a_faster_core_is_faster() -> None:
    layer = _layer(64, 32)
    times = [_model(load_target(name), layer).dense(layer).seconds for name in ("rpi-zero2w", "rpi3", "rpi4", "rpi5")]
    assert times == sorted(times, reverse=True)


def test_winograd_is_chosen_where_it_was_measured_faster() -> None:
    """Small tiles for deep layers on small maps, none on the smallest."""
    quickest = {
        (64, 16): "winograd4", (64, 32): "winograd4", (64, 56): "winograd4", (128, 16): "winograd4",
        (32, 16): "winograd4", (32, 32): "winograd4", (16, 32): "winograd4", (128, 8): "winograd2",
        (256, 8): "winograd2", (256, 4): "direct", (512, 2): "direct",
    }  # fmt: skip
    for (channels, side), wanted in quickest.items():
        layer = _layer(channels, side)
        assert _model(MACHINE, layer, winograd=True).algorithm(layer) == wanted, (channels, side)
        assert _model(MACHINE, layer).algorithm(layer) == "direct"


@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_algorithm_chosen_is_nearly_the_one_measured_fastest(lanes: int) -> None:
    layers: dict[tuple[Any, ...], dict[str, float]] = {}
    for row in map(json.loads, DENSE.read_text("utf-8").splitlines()):
        if row["target"]["simd"]["lanes"] == lanes:
            target = Target.model_validate(load_target("host").model_dump(exclude_none=True) | row["target"])
            g = _geometry(row)
            chosen = CostModel(target, row["network_bytes"]).algorithm(g)
            layers.setdefault((row["network"], g, chosen), {})[row["algorithm"]] = row["microseconds"]
    assert len(layers) > 8
    for (network, g, chosen), took in layers.items():
        assert took[chosen] <= 1.35 * min(took.values()), (network, g, chosen)


@pytest.mark.parametrize("change", [{"stride": (2, 2)}, {"kernel": (1, 1)}, {"dilation": (2, 2)}, {"groups": 8}])
def test_winograd_is_for_plain_3x3_only(change: dict[str, Any]) -> None:
    layer = replace(_layer(64, 32), **change)
    assert _model(load_target("host"), layer, winograd=True).algorithm(layer) == "direct"
