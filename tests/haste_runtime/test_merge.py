"""The merged convolution against its oracle: replace every channel by what stands for it and convolve as usual."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from builders import alike_channels, conv_graph, geometry_of, sign_changing
from hypothesis import given, settings
from hypothesis import strategies as st

from haste_runtime.affine import within_affine_budget
from haste_runtime.flops import LayerCounts
from haste_runtime.geometry import ConvGeometry, Tile
from haste_runtime.grouping import DROPPED, Grouping, by_energy, by_mean, by_scale, within_budget
from haste_runtime.hashing import codes, quantise
from haste_runtime.merge import Merged, Rule, gather, group, merge, merged_conv
from haste_runtime.plan import BUDGETED, CODED, POLICIES
from haste_runtime.projection import draw
from haste_runtime.reference_ops import output_channels_last

TOLERANCE = 1e-4  # of the largest output, the layer contract


@st.composite
def layers(draw_: st.DrawFn) -> dict[str, Any]:
    """Keywords of `conv_graph` and a tile side, with odd maps, paddings, strides and dilations."""
    kernel, dilation = draw_(st.sampled_from([1, 3, 5, 7])), draw_(st.sampled_from([1, 1, 2]))
    reach = (kernel - 1) * dilation
    padding = tuple(draw_(st.integers(0, reach // 2 + 1)) for _ in range(4))
    least = max(1, reach + 1 - min(padding[0] + padding[2], padding[1] + padding[3]))
    return {
        "c": draw_(st.integers(2, 12)),
        "o": draw_(st.integers(1, 7)),
        "k": kernel,
        "stride": draw_(st.sampled_from([1, 2])),
        "h": draw_(st.integers(least, least + 9)),
        "w": draw_(st.integers(least, least + 9)),
        "padding": padding,
        "dilation": dilation,
        "seed": draw_(st.integers(0, 999)),
        "m": draw_(st.integers(1, 9)),
    }


def patch_of(x: np.ndarray, geometry: ConvGeometry, m: int, ty: int, tx: int) -> np.ndarray:
    """Pixel by pixel, straight from the definition."""
    n, s = geometry.patch_side(m), geometry.stride[0]
    top, left = ty * m * s - geometry.padding[0], tx * m * s - geometry.padding[1]
    patch = np.zeros((len(x), n, n), np.float32)
    for i in range(n):
        for j in range(n):
            if 0 <= top + i < x.shape[1] and 0 <= left + j < x.shape[2]:
                patch[:, i, j] = x[:, top + i, left + j]
    return patch


def reconstruct(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    geometry: ConvGeometry,
    m: int,
    found: list[Grouping | None],
    importance: np.ndarray,
) -> np.ndarray:
    """The oracle, in double precision and by torch. found: of each patch; None of dead ones."""
    y = np.empty(geometry.output_shape)
    ones = np.ones((1, *x.shape[1:]), np.float32)
    for tile, grouping in zip(geometry.tiles(m), found, strict=True):
        patch = patch_of(x, geometry, m, tile.ty, tile.tx).astype(np.float64)
        leaders = np.full(len(x), DROPPED) if grouping is None else grouping.leaders
        scales = np.ones(len(x)) if grouping is None else grouping.scales.astype(np.float64)
        affine = grouping is not None and grouping.offsets is not None
        step, before = np.abs(patch).max() / 127, patch.copy()
        patch[leaders == DROPPED] = 0
        for leader in set(leaders.tolist()) - {DROPPED}:
            members = leaders == leader
            s, share = scales[members], importance[members] * scales[members]
            plane = np.tensordot(share, patch[members], axes=1) / max(share @ s, 1e-300)
            patch[members] = s[:, None, None] * (before[leader] if affine else plane)
        if affine:
            inside = patch_of(ones, geometry, m, tile.ty, tile.tx)
            patch += grouping.offsets.astype(np.float64)[:, None, None] * step * inside
        values = torch.nn.functional.conv2d(
            torch.from_numpy(patch)[None],
            torch.from_numpy(weight.astype(np.float64)),
            torch.from_numpy(bias.astype(np.float64)),
            stride=geometry.stride,
            dilation=geometry.dilation,
        )[0].numpy()
        rows, columns = slice(tile.ty * m, tile.ty * m + tile.height), slice(tile.tx * m, tile.tx * m + tile.width)
        y[:, rows, columns] = values[:, : tile.height, : tile.width]
    return y


class Layer(NamedTuple):
    weight: np.ndarray
    bias: np.ndarray
    geometry: ConvGeometry
    rule: Rule


def a_layer(m: int, bits: int = 8, policy: str = "mean", budget: float = 0.0, **keywords: Any) -> Layer:
    """A convolution of `conv_graph` and a rule for it, with channels that weigh differently, some of them nothing."""
    graph = conv_graph(**keywords)
    geometry, seed = geometry_of(graph), keywords.get("seed", 0)
    importance = np.random.default_rng(seed).integers(0, 9, geometry.channels_in).astype(np.uint16)
    rule = Rule(m, draw(seed + 1, bits, geometry.patch_side(m)), bits, policy, importance, budget)
    return Layer(graph.constants["conv.weight"], graph.constants["conv.bias"], geometry, rule)


def run(layer: Layer, x: np.ndarray) -> Merged:
    return merged_conv(x, *layer)


def exact(layer: Layer, x: np.ndarray) -> np.ndarray:
    """The plain convolution, padded by one pixel."""
    weight, bias = torch.from_numpy(layer.weight), torch.from_numpy(layer.bias)
    return torch.nn.functional.conv2d(torch.from_numpy(x)[None], weight, bias, padding=1)[0].numpy()


@given(layers())
@settings(max_examples=60)
def test_gather_takes_the_patches_of_the_definition(layer: dict[str, Any]) -> None:
    m = layer.pop("m")
    geometry = geometry_of(conv_graph(**layer))
    x = sign_changing(np.random.default_rng(layer["seed"]), (layer["c"], layer["h"], layer["w"]))
    patches = gather(x, geometry, m)
    assert len(patches) == len(geometry.tiles(m))
    for patch, tile in zip(patches, geometry.tiles(m), strict=True):
        assert np.array_equal(patch, patch_of(x, geometry, m, tile.ty, tile.tx))


def groupings(layer: Layer, x: np.ndarray) -> list[Grouping | None]:
    """Of each patch, by the rule's policy; None of dead patches."""
    patches = gather(x, layer.geometry, layer.rule.patch)
    q, live = quantise(patches.reshape(*patches.shape[:2], -1))
    hashed = codes(q, layer.rule.projection, layer.rule.bits)
    inside = gather(np.ones_like(x[:1]), layer.geometry, layer.rule.patch).reshape(len(q), -1) > 0
    return [group(q[p], hashed[p], layer.rule, inside[p]) if live[p] else None for p in range(len(q))]


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.05, 0.5, 1.0, 4.0]))
def test_what_is_dropped_is_within_its_share(seed: int, budget: float) -> None:
    random = np.random.default_rng(seed)
    q = (random.integers(-127, 128, (13, 25)) * random.uniform(0, 1, (13, 1)) ** 4).astype(np.int8)
    importance = random.integers(0, 65536, 13).astype(np.uint16)
    grouping = by_energy(q, importance, budget)
    weighted = importance.astype(float) * np.square(q.astype(float)).sum(1)
    dropped = grouping.leaders == DROPPED
    assert np.array_equal(grouping.leaders[~dropped], np.flatnonzero(~dropped))  # the others are alone
    assert (grouping.scales == 1).all()
    assert weighted[dropped].sum() <= budget * weighted.sum()
    assert dropped[weighted == 0].all()
    assert (weighted[~dropped] > weighted.sum() * budget / 13).all()


@given(layers(), st.integers(1, 8), st.sampled_from(POLICIES), st.sampled_from([0.0, 0.05, 0.3, 1.0, 4.0]))
@settings(max_examples=150)
def test_agrees_with_reconstruction(keywords: dict[str, Any], bits: int, policy: str, budget: float) -> None:
    m = keywords.pop("m")
    layer = a_layer(m, bits, policy, budget, **keywords)
    x = alike_channels(np.random.default_rng(keywords["seed"]), (keywords["c"], keywords["h"], keywords["w"]))
    x *= np.random.default_rng(1).choice([0, 0.3, 1, -2], (keywords["c"], 1, 1)).astype(np.float32)
    y, counts, _, leaders = run(layer, x)
    found = groupings(layer, x)
    weights = layer.rule.importance if layer.rule.policy == "budget" else np.ones(len(x))
    expected = reconstruct(x, layer.weight, layer.bias, layer.geometry, m, found, weights)
    assert y.dtype == np.float32
    assert y.shape == expected.shape
    assert np.abs(y - expected).max() <= TOLERANCE * np.abs(expected).max()

    tiles = layer.geometry.tiles(m)
    kept = merged = kept_pixels = compared = verified = levelled = adds = 0
    inside = gather(np.ones_like(x[:1]), layer.geometry, m)
    for of_patch, grouping, tile, ones in zip(leaders, found, tiles, inside, strict=True):
        if grouping is None:
            assert (of_patch == DROPPED).all()
            continue
        assert np.array_equal(of_patch, grouping.leaders)
        sizes = Counter(of_patch[of_patch != DROPPED].tolist()).values()
        kept += len(sizes)
        merged += sum(size - (policy == "affine") for size in sizes if size > 1)
        kept_pixels += len(sizes) * tile.height * tile.width
        if grouping.offsets is not None and grouping.offsets.any():
            levelled += np.count_nonzero(grouping.offsets)
            adds += adds_of_constants(ones, layer.geometry, tile)
        compared, verified = compared + grouping.compared, verified + grouping.verified
    assert counts == LayerCounts(len(tiles), kept, merged, kept_pixels, compared, verified, levelled, adds)
    assert (policy in BUDGETED) or (compared == verified == 0)


def adds_of_constants(inside: np.ndarray, geometry: ConvGeometry, tile: Tile) -> int:
    """The taps once, those of every pixel that sees beyond the map, and one for each pixel."""
    taps = geometry.kernel[0]
    adds = taps * taps + tile.height * tile.width
    for y in range(tile.height):
        for x in range(tile.width):
            top, left = y * geometry.stride[0], x * geometry.stride[1]
            dilation = geometry.dilation[0]
            seen = inside[0, top : top + taps * dilation : dilation, left : left + taps * dilation : dilation].sum()
            adds += int(seen) if seen < taps * taps else 0
    return adds


def test_codes_are_those_of_the_hash() -> None:
    layer = a_layer(4, 7, c=6, o=5, k=3, h=9, w=7)
    x = alike_channels(np.random.default_rng(0), (6, 9, 7))
    q, live = quantise(gather(x, layer.geometry, 4).reshape(-1, 6, 36))
    assert live.all()
    for policy in POLICIES:
        expected = codes(q, layer.rule.projection, 7) * (policy in CODED)  # others need none
        assert np.array_equal(run(layer._replace(rule=layer.rule._replace(policy=policy)), x).codes, expected)


def test_each_policy_groups_by_its_own_rule() -> None:
    layer = a_layer(4, 5, budget=0.5, c=9, o=2, k=3, h=4, w=4)
    q = np.random.default_rng(0).integers(-57, 58, (9, 36)).astype(np.int8)
    q[:4] += 70
    q[5] = 0
    hashed = codes(q[None], layer.rule.projection, 1)[0]
    importance = layer.rule.importance
    assert importance is not None
    wanted = {
        "mean": by_mean(hashed),
        "scaled": by_scale(q, hashed),
        "budget": within_budget(q, hashed, importance, 0.5, 4 * 4),
        "affine": within_affine_budget(q, np.ones(36, np.bool_), layer.rule.projection, importance, 0.5, 4 * 4),
        "drop": by_energy(q, importance, 0.5),
    }
    assert set(wanted) == set(POLICIES)
    for policy, expected in wanted.items():
        found = group(q, hashed, layer.rule._replace(policy=policy))
        assert found[2:4] == expected[2:4]
        assert np.array_equal(found.leaders, expected.leaders)
        assert np.array_equal(found.scales, expected.scales)
        assert (found.offsets is None) == (policy != "affine")
    assert len({tuple(grouping.leaders.tolist()) for grouping in wanted.values()}) == 5


def test_channels_alone_are_exact() -> None:
    """Where no two channels share a code, nothing is replaced and the result is the plain convolution."""
    layer = a_layer(8, 24, c=6, o=5, k=3, h=8, w=8)
    x = sign_changing(np.random.default_rng(3), (6, 8, 8))
    y, counts, all_codes, leaders = run(layer, x)
    assert len(set(all_codes[0].tolist())) == 6
    assert leaders.tolist() == [list(range(6))]
    assert (counts.kept, counts.merged, counts.kept_pixels) == (6, 0, 6 * 64)
    assert np.abs(y - exact(layer, x)).max() <= 1e-5 * np.abs(exact(layer, x)).max()


@pytest.mark.parametrize("policy", [policy for policy in POLICIES if policy != "drop"])  # which joins none
def test_equal_channels_are_one_and_exact(policy: str) -> None:
    layer = a_layer(4, policy=policy, budget=1e-3, c=6, o=5, k=3, h=8, w=8, seed=2)
    layer = layer._replace(rule=layer.rule._replace(importance=np.full(6, 3, np.uint16)))
    x = np.repeat(sign_changing(np.random.default_rng(3), (1, 8, 8)), 6, axis=0)
    y, counts, _, leaders = run(layer, x)
    assert (counts.patches, counts.kept, counts.kept_pixels) == (4, 4, 64)
    assert counts.merged == (20 if policy == "affine" else 24)  # without the leaders
    assert (leaders == 0).all()
    assert np.abs(y - exact(layer, x)).max() <= 1e-5 * np.abs(exact(layer, x)).max()


@pytest.mark.parametrize("policy", ["scaled", "budget", "affine"])
def test_multiples_are_one_and_exact(policy: str) -> None:
    """Whole numbers up to 127 are their own quantisation, so their factors are found exactly."""
    layer = a_layer(8, 1, policy, 1e-3, c=6, o=5, k=3, h=8, w=8)
    layer = layer._replace(rule=layer.rule._replace(importance=np.full(6, 3, np.uint16)))
    pattern = np.random.default_rng(3).integers(-1, 2, (1, 8, 8)).astype(np.float32)
    x = pattern * np.array([10, 20, 50, 127, 40, -31], np.float32)[:, None, None]
    y, counts, all_codes, leaders = run(layer, x)
    if policy == "scaled":  # codes tell multiples of one pattern by which side of the mean they are on, no more
        assert leaders.tolist() == mean_leaders(all_codes)
        assert counts.kept == 2
    else:
        assert leaders.tolist() == [[3 if policy == "affine" else 0] * 6]  # the largest leads, or the first
    assert np.abs(y - exact(layer, x)).max() <= 1e-5 * np.abs(exact(layer, x)).max()


def mean_leaders(all_codes: np.ndarray) -> list[list[int]]:
    return [[patch.index(code) for code in patch] for patch in all_codes.tolist()]


@pytest.mark.parametrize(("policy", "kept"), [("mean", 6), ("scaled", 4), ("budget", 4), ("affine", 4)])
def test_dead_channels_are_dropped_exactly(policy: str, kept: int) -> None:
    """Not by the paper's policy, where they join whatever else has their code or are convolved."""
    layer = a_layer(8, 24, policy, c=7, o=5, k=3, h=8, w=8)
    layer = layer._replace(rule=layer.rule._replace(importance=np.full(7, 3, np.uint16)))
    x = sign_changing(np.random.default_rng(3), (7, 8, 8))
    x[[0, 3, 6]] = 0
    x[3] = 1e-30  # is as good as dead beside others
    y, counts, _, leaders = run(layer, x)
    assert counts.kept == (kept if policy != "mean" else len(set(leaders[0].tolist())))
    if policy != "mean":
        assert leaders.tolist() == [[DROPPED, 1, 2, DROPPED, 4, 5, DROPPED]]
    assert np.abs(y - exact(layer, x)).max() <= 1e-5 * np.abs(exact(layer, x)).max()


@pytest.mark.parametrize("policy", POLICIES)
def test_dead_patches_give_the_bias(policy: str) -> None:
    layer = a_layer(4, policy=policy, budget=0.2, c=6, o=5, k=3, h=8, w=12)
    x = sign_changing(np.random.default_rng(3), (6, 8, 12))
    x[:, :, 3:] = 0  # the patch of the first column of tiles reads columns -1 to 4
    x[:, 7, 11] = 1e-40  # a denormal is as good as nothing
    y, counts, all_codes, leaders = run(layer, x)
    for array in (all_codes, leaders):
        assert (array[[1, 2, 4, 5]] == -1).all()
    assert (all_codes[[0, 3]] >= 0).all()
    assert (leaders[[0, 3]].max(axis=1) >= 0).all()
    assert np.array_equal(y[:, :, 4:], np.broadcast_to(layer.bias[:, None, None], (5, 8, 8)))
    assert counts.patches == 6
    assert counts.kept == sum(len(set(leaders[p].tolist()) - {DROPPED}) for p in (0, 3))
    assert not run(layer._replace(bias=None), np.zeros_like(x)).output.any()


def test_a_patch_whose_channels_are_all_dropped_gives_the_bias() -> None:
    """Unlike a dead one it has codes, and what it took to decide is counted."""
    layer = a_layer(4, policy="budget", budget=1e3, c=6, o=5, k=3, h=8, w=8)
    x = sign_changing(np.random.default_rng(3), (6, 8, 8))
    y, counts, all_codes, leaders = run(layer, x)
    assert (leaders == DROPPED).all()
    assert (all_codes >= 0).all()
    assert all_codes.any()
    assert np.array_equal(y, np.broadcast_to(layer.bias[:, None, None], (5, 8, 8)))
    assert counts == LayerCounts(patches=4)


def test_groups_hold_means_and_sums_in_order() -> None:
    """Channels 0 and 3 alone; 1, 4 and 5 one group; 2 and 6 another."""
    patch = np.arange(7, dtype=np.float32)[:, None, None] * np.ones((1, 2, 2), np.float32)
    weight = (10.0 ** np.arange(7, dtype=np.float32))[None, :, None, None] * np.ones((3, 1, 1, 1), np.float32)
    channels, filters, merged = merge(patch, weight, by_mean(np.array([5, 9, 8, 1, 9, 9, 8], np.int32)))
    assert merged == 5
    assert channels[:, 0, 0].tolist() == pytest.approx([0, 3, 10 / 3, 4])
    assert filters.shape == (3, 4, 1, 1)
    assert filters[0, :, 0, 0].tolist() == [1, 1000, 110_010, 1_000_100]


def test_scales_go_into_planes_and_filters() -> None:
    """Channels 1, 3 and 4 a group with scales 1, 2 and -0.5; 0 alone; 2 dropped; 5 and 6 a group without any scale."""
    leaders, scales = np.array([0, 1, DROPPED, 1, 1, 5, 5], np.int32), np.array([1, 1, 1, 2, -0.5, 0, 0], np.float32)
    patch = np.array([7, 1, 2, 3, 4, 5, 6], np.float32)[:, None, None] * np.ones((1, 2, 2), np.float32)
    weight = (10.0 ** np.arange(7, dtype=np.float32))[None, :, None, None] * np.ones((3, 1, 1, 1), np.float32)
    channels, filters, merged = merge(patch, weight, Grouping(leaders, scales))
    assert merged == 5
    assert channels.shape == (3, 2, 2)
    assert channels[:, 1, 1].tolist() == pytest.approx([7, (1 + 6 - 2) / (1 + 4 + 0.25), 0])
    assert filters[2, :, 0, 0].tolist() == [1, 10 + 2000 - 5000, 0]


def test_where_all_channels_are_alone_nothing_is_copied() -> None:
    patch, weight = np.ones((3, 4, 4), np.float32), np.ones((2, 3, 3, 3), np.float32)
    channels, filters, merged = merge(patch, weight, by_mean(np.arange(3, dtype=np.int32)))
    assert channels is patch
    assert filters is weight
    assert merged == 0


@pytest.mark.parametrize("policy", POLICIES)
def test_memory_order_of_the_weights_does_not_matter(policy: str) -> None:
    layer = a_layer(4, 6, policy, 0.3, c=9, o=5, k=3, h=10, w=10)
    x = alike_channels(np.random.default_rng(0), (9, 10, 10))
    first, second = run(layer, x), run(layer._replace(weight=output_channels_last(layer.weight)), x)
    assert (first.counts.merged > 0) == (policy != "drop")  # which joins no channels
    assert np.array_equal(first.output, second.output)
    assert np.array_equal(first.codes, second.codes)
    assert np.array_equal(first.leaders, second.leaders)


@pytest.mark.parametrize("policy", ["mean", "scaled"])
def test_fewer_bits_keep_fewer_groups(policy: str) -> None:
    layer = a_layer(4, 16, policy, c=12, o=5, k=3, h=12, w=12)
    x = sign_changing(np.random.default_rng(5), (12, 12, 12))
    kept = [run(layer._replace(rule=layer.rule._replace(bits=bits)), x).counts.kept for bits in range(16, 0, -1)]
    assert kept == sorted(kept, reverse=True)
    assert kept[-1] <= 2 * 9 < kept[0]
