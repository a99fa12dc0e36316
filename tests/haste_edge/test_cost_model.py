"""The cost model reproduces what the kernels' prototype measured, and orders layers and patches as kernels do."""

from __future__ import annotations

import math

import pytest

from haste_edge.plan.cost_model import CostModel
from haste_edge.targets import Cache, Caches, Memory, Simd, Target, load_target
from haste_runtime.flops import LayerCounts
from haste_runtime.geometry import ConvGeometry

# An x86-64 core with AVX-512, on which the prototype of the merged kernel was measured.
MACHINE = load_target("host").model_copy(
    update={
        "clock_mhz": 3380,
        "simd": Simd(lanes=16, fma_per_cycle=2.0),
        "caches": Caches(
            l1d=Cache(kib=48, shared=False), l2=Cache(kib=2048, shared=False), l3=Cache(kib=32768, shared=True)
        ),
        "memory": Memory(size_mib=8192, bandwidth_gb_s=22.0),
    }
)
# Channels, map, patch: merged / best dense time at kept ratios 0.7, 0.5, 0.35 (3x3, as many channels out as in).
KEPT = (0.7, 0.5, 0.35)
MEASURED = {
    (256, 8, 8): (0.78, 0.70, 0.59),
    (64, 8, 8): (0.83, 0.78, 0.58),
    (64, 8, 4): (1.11, 1.01, 0.95),
    (64, 16, 16): (0.84, 0.62, 0.46),
    (64, 16, 8): (0.88, 0.68, 0.54),
    (64, 16, 4): (1.08, 0.90, 0.91),
    (16, 32, 8): (1.16, 1.01, 0.92),
    (16, 32, 4): (1.74, 1.60, 1.50),
    (32, 16, 16): (0.91, 0.76, 0.56),
    (128, 8, 8): (0.78, 0.62, 0.57),
    (128, 16, 16): (0.86, 0.61, 0.46),
    (128, 16, 4): (0.98, 0.83, 0.76),
    (64, 32, 16): (0.83, 0.59, 0.43),
    (64, 32, 4): (1.01, 0.87, 0.81),
    (128, 28, 28): (0.85, 0.62, 0.47),
    (128, 28, 7): (0.84, 0.67, 0.53),
    (64, 56, 14): (0.83, 0.62, 0.46),
    (64, 56, 4): (1.03, 0.95, 0.81),
}
COPIES = 8  # weights in rotation, which is what a network does to its caches


def _layer(channels: int, side: int) -> ConvGeometry:
    return ConvGeometry(channels, channels, (3, 3), (1, 1), (1, 1), (1, 1, 1, 1), 1, (side, side))


def _model(target: Target, layer: ConvGeometry) -> CostModel:
    return CostModel(target, COPIES * 4 * layer.channels_in * layer.channels_out * 9)


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


@pytest.mark.parametrize(("shape", "measured"), MEASURED.items())
def test_model_is_near_the_prototype(shape: tuple[int, int, int], measured: tuple[float, ...]) -> None:
    for kept, wanted in zip(KEPT, measured, strict=True):
        assert _ratio(MACHINE, *shape, kept) == pytest.approx(wanted, rel=0.3)


@pytest.mark.parametrize(("channels", "side"), [(512, 2), (512, 4), (256, 4)])
def test_small_maps_with_many_channels_gain_nothing(channels: int, side: int) -> None:
    """Their time is the weights' way from memory, which merging does not shorten."""
    assert all(_ratio(MACHINE, channels, side, side, kept) > 0.95 for kept in KEPT)


@pytest.mark.parametrize("name", ["rpi-zero2w", "rpi4", "rpi5", "jetson-orin-nano"])
def test_large_patches_win_and_tiny_ones_lose(name: str) -> None:
    target = load_target(name)
    by_patch = [_ratio(target, 64, 32, patch, 0.5) for patch in (2, 4, 8, 16)]
    assert by_patch == sorted(by_patch, reverse=True)
    assert by_patch[0] > 1 > by_patch[2]


def test_fewer_kept_channels_take_less_time() -> None:
    ratios = [_ratio(load_target("rpi4"), 128, 16, 8, kept) for kept in (0.9, 0.7, 0.5, 0.3)]
    assert ratios == sorted(ratios, reverse=True)


def test_dense_time_is_arithmetic_or_memory() -> None:
    target = load_target("rpi4")
    large, deep = _layer(64, 56), _layer(512, 2)
    assert _model(target, large).dense(large).seconds == pytest.approx(
        64 * 64 * 9 * 56 * 56 / (0.8 * target.peak_gmac_s * 1e9)
    )
    assert _model(target, deep).dense(deep).seconds == pytest.approx(
        4 * 512 * 512 * 9 / (target.memory.bandwidth_gb_s * 1e9)
    )


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
