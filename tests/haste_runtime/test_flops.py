"""The counting rules of method section 2, by hand and by an independent count."""

from __future__ import annotations

import numpy as np
import pytest
from builders import alike_channels, bundle_for, conv_graph, geometry_of, random_network

from haste_runtime.backends.numpy_backend import NumpyBackend
from haste_runtime.flops import (
    LayerCounts,
    NetworkFlops,
    Totals,
    constant_adds,
    dense_flops,
    linear_flops,
    merged_flops,
    reduction,
)
from haste_runtime.grouping import DROPPED
from haste_runtime.merge import Rule, merged_conv
from haste_runtime.operators import check_graph
from haste_runtime.plan import POLICIES, UNHASHED
from haste_runtime.projection import draw


def test_dense_convolution_by_hand() -> None:
    assert dense_flops(geometry_of(conv_graph(4, 8, 3, h=5, w=5))) == 2 * 8 * 4 * 9 * 25
    assert dense_flops(geometry_of(conv_graph(4, 8, (1, 3), (2, 1), h=6, w=5))) == 2 * 8 * 4 * 3 * (3 * 5)
    assert dense_flops(geometry_of(conv_graph(4, 8, 3, h=5, w=5, groups=2))) == 2 * 8 * 2 * 9 * 25
    assert dense_flops(geometry_of(conv_graph(6, 6, 3, h=5, w=5, groups=6))) == 2 * 6 * 1 * 9 * 25


def test_linear_layer_by_hand() -> None:
    assert linear_flops(64, 10) == 1280


def test_merged_convolution_by_hand() -> None:
    """4 -> 8 channels, 3x3, 5x5 output, m = 4: patches of 6x6 = 36 pixels; tiles of 16, 4, 4 and 1 pixels."""
    geometry = geometry_of(conv_graph(4, 8, 3, h=5, w=5))
    # Patch 0 keeps 2 (one group of 3), patch 1 keeps 4, patch 2 keeps 1 (a group of 4), patch 3 keeps 2 (two pairs).
    counts = LayerCounts(patches=4, kept=9, merged=3 + 0 + 4 + 4, kept_pixels=2 * 16 + 4 * 4 + 1 * 4 + 2 * 1)
    assert merged_flops(geometry, 4, 20, 3, counts) == (
        4 * 2 * 4 * 36  # quantising: 2 * C * d per patch
        + 4 * (4 * 20 + 4 * 3)  # hashing: C * non-zeros + C * L per patch
        + 11 * 36  # merging inputs: merged * d
        + 11 * 8 * 9  # merging filters: merged * O * K^2
        + 2 * 8 * 9 * 54  # reduced convolution: 2 * O * kept * K^2 * px
    )


def test_other_policies_by_hand() -> None:
    """The same layer and groups; in patch 2 a channel is dropped, and leaves a group of 3."""
    geometry = geometry_of(conv_graph(4, 8, 3, h=5, w=5))
    counts = LayerCounts(4, 9, 3 + 0 + 3 + 4, 54, compared=4 * 3 + 2, verified=4 * 3)
    common = (
        4 * 2 * 4 * 36  # quantising
        + 4 * (4 * 20 + 4 * 3)  # hashing
        + 2 * 10 * 36  # merging inputs, each channel times its scale
        + 2 * 10 * 8 * 9  # merging filters, alike
        + 2 * 8 * 9 * 54  # reduced convolution
    )
    assert merged_flops(geometry, 4, 20, 3, counts, "scaled") == common + (
        10 * 36  # the sum of each group
        + 10 * (2 * 36)  # its energy, for which no more is charged than one product per channel
        + 10 * (2 * 36)  # the product of each channel with the sum
        + 10 * 2  # times the channels, divided by the energy
    )
    assert merged_flops(geometry, 4, 20, 3, counts, "budget") == common + (
        4 * 4 * (2 * 36 + 3)  # the energy of each channel, weighed and compared with price and share
        + 14 * 3  # distances of codes
        + 12 * (2 * 36 + 5)  # products of channels with leaders, and the losses from them
    )
    counts = LayerCounts(4, 9, 5, 54, compared=4 * 3 + 2, verified=4 * 3, levelled=6, constant_adds=80)
    assert merged_flops(geometry, 4, 20, 3, counts, "affine") == (
        4 * 2 * 4 * 36  # quantising
        + 4 * (4 * 20 + 4 * 3)  # sums of blocks, less their mean's share
        + 4 * 4 * (5 * 3)  # fingerprints: squares and their sum, scaled, rounded, and the mean's share again
        + 4 * 4 * (2 * 36 + 20)  # energies, sums, and what they are compared with
        + 14 * (2 * 3 + 1)  # products of fingerprints
        + 12 * (2 * 36 + 25)  # products of channels, and the losses from them
        + 2 * 5 * 8 * 9  # merging filters; the leaders' own planes are used
        + 2 * 6 * 8 * 9 + 80 * 8  # the filter of the constants, and sums of its taps
        + 2 * 8 * 9 * 54  # reduced convolution
    )  # fmt: skip


@pytest.mark.parametrize(("k", "stride", "m"), [(3, 1, 4), (3, 2, 3), (1, 1, 2), (5, 1, 8)])
@pytest.mark.parametrize("policy", POLICIES)
def test_merged_convolution_counted_patch_by_patch(k: int, stride: int, m: int, policy: str) -> None:
    graph = conv_graph(7, 5, k, stride, 9, 11)
    geometry, weight = geometry_of(graph), graph.constants["conv.weight"]
    bits = 0 if policy in UNHASHED else 5
    projection = draw(1, 6, geometry.patch_side(m))[:bits]
    x = alike_channels(np.random.default_rng(2), (7, 9, 11))
    if policy == "affine":
        x += np.arange(7, dtype=np.float32)[:, None, None] / 2  # so that some have a constant
    x[3] = 0
    rule = Rule(m, projection, bits, policy, np.array([9, 1, 5, 4, 4, 0, 7], np.uint16), 0.4)
    _, counts, codes, leaders = merged_conv(x, weight, None, geometry, rule)
    d, nonzeros, total = geometry.patch_side(m) ** 2, int((projection != 0).sum()), 0
    for of_patch, tile in zip(leaders.tolist(), geometry.tiles(m), strict=True):
        sizes = [of_patch.count(leader) for leader in set(of_patch) - {DROPPED}]
        merged = sum(size for size in sizes if size > 1)
        total += 2 * 7 * d + 7 * nonzeros + 7 * bits
        if policy == "affine":
            total += 2 * (merged - sum(size > 1 for size in sizes)) * 5 * k * k + 7 * (2 * d + 5 * 5 + 20)
        else:
            total += (1 if policy == "mean" else 2) * (merged * d + merged * 5 * k * k)
        total += {"scaled": merged * (5 * d + 2), "budget": 7 * (2 * d + 3), "drop": 7 * (2 * d + 2)}.get(policy, 0)
        total += 2 * 5 * len(sizes) * k * k * tile.height * tile.width
    if policy == "affine":
        total += 11 * counts.compared + (2 * d + 25) * counts.verified
        total += 2 * 5 * k * k * counts.levelled + 5 * counts.constant_adds
        assert counts.levelled > 0
        assert 0 < counts.constant_adds <= sum(constant_adds(geometry, (9, 11), m))
    else:
        total += 3 * counts.compared + (2 * d + 5) * counts.verified
        assert counts.levelled == counts.constant_adds == 0
    assert counts.patches == len(geometry.tiles(m))
    assert (codes >= 0).all()
    assert (counts.merged > 0) == (policy != "drop")
    assert (DROPPED in leaders) == (policy != "mean")
    if policy == "budget":  # at most all pairs, and two leaders each
        assert 0 < counts.verified <= counts.compared <= counts.patches * 7 * 6 // 2
        assert counts.verified <= counts.patches * (0 + 1 + 2 * 5)
    elif policy == "affine":
        assert 0 < counts.verified <= counts.compared
    else:
        assert counts.compared == counts.verified == 0
    assert merged_flops(geometry, m, nonzeros, bits, counts, policy) == total


def test_counts_add_up_over_frames() -> None:
    geometry = geometry_of(conv_graph(4, 8, 3, h=5, w=5))
    first, second = LayerCounts(4, 9, 11, 54, 20, 15, 7, 30), LayerCounts(4, 16, 0, 100, 24, 19, 0, 0)
    assert first + second == LayerCounts(8, 25, 11, 154, 44, 34, 7, 30)
    for policy in POLICIES:
        assert merged_flops(geometry, 4, 20, 3, first + second, policy) == sum(
            merged_flops(geometry, 4, 20, 3, counts, policy) for counts in (first, second)
        )


def test_reduction_in_percent() -> None:
    assert reduction(100, 100) == 0.0
    assert reduction(25, 100) == 75.0
    assert reduction(150, 100) == -50.0
    assert reduction(0, 0) == 0.0


@pytest.mark.parametrize("policy", POLICIES)
def test_network_totals(policy: str) -> None:
    graph = random_network(3)
    shapes = check_graph(graph)
    bundle = bundle_for(graph, patch=(3, 4), bits=8, levels=(8, 2), policy=("mean", policy), budget=0.5)
    flops = NetworkFlops(graph, shapes, bundle.plan, bundle.projections)
    may_merge = [layer.node for layer in bundle.plan.layers if layer.variants]
    assert 0 < len(may_merge) < len(bundle.plan.layers)

    dense = {n.name: dense_flops(geometry_of(graph, n.name)) for n in graph.nodes if n.op == "conv"}
    linear = sum(2 * graph.constants[n.constants["weight"]].size for n in graph.nodes if n.op == "linear")
    at_zero = flops.totals(0, {})
    everything = sum(dense.values()) + linear
    some = sum(dense[name] for name in may_merge)
    assert at_zero == Totals(some, some, everything, everything)
    assert at_zero.flops_reduction == at_zero.flops_reduction_network == 0.0

    backend = NumpyBackend(bundle)
    shape = graph.inputs[0].shape
    backend.run({"x": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}, 2)
    counts = backend.counts()
    assert sorted(counts) == sorted(may_merge)
    executed = 0
    for name in may_merge:
        variant = bundle.plan.layer(name).variants[1]  # the second level takes the second variant
        bits = min(2, variant.bits)
        nonzeros = int(np.count_nonzero(bundle.projections[variant.projection][:bits]))
        executed += merged_flops(geometry_of(graph, name), 4, nonzeros, bits, counts[name], policy)
    at_two = flops.totals(2, counts)
    assert at_two == Totals(executed, some, everything - some + executed, everything)
    assert at_two.flops_reduction == pytest.approx(100 * (1 - executed / some))
    assert (at_zero + at_two).network_executed == 2 * everything - some + executed
