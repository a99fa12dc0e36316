"""The baselines of a study on one layer: exactly as many groups as asked for, and what each counts as its cost."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from haste_edge import method
from haste_edge.method import Grouping, Rule
from haste_edge.study import baselines, cost, hashes
from haste_edge.study.baselines import GROUPERS, Layer
from haste_edge.study.cost import Work
from haste_runtime.flops import LayerCounts, merged_flops
from haste_runtime.geometry import ConvGeometry
from haste_runtime.grouping import DROPPED
from haste_runtime.hashing import MAX_BITS

PICTURES, CHANNELS, SIDE, PATCH = 3, 12, 10, 4
PER_PATCH = ("random", "kmeans", "gaussian", "uncentred", "float")


@pytest.fixture(scope="module")
def layer() -> Layer:
    """3x3 on a map of 10x10: nine tiles of 4x4, of which five reach beyond the map."""
    geometry = ConvGeometry(CHANNELS, 5, (3, 3), (1, 1), (1, 1), (1, 1, 1, 1), 1, (SIDE, SIDE))
    importance = torch.tensor([5, 1, 9, 2, 9, 0, 3, 7, 4, 8, 6, 10])
    return Layer("conv", geometry, PATCH, 2 / 3, 0, importance, 0.5)


@pytest.fixture(scope="module")
def x() -> Tensor:
    """As after a ReLU; in the second picture some channels are equal and some are dead, the third is all zero."""
    x = torch.randn(PICTURES, CHANNELS, SIDE, SIDE, generator=torch.Generator().manual_seed(1)).clamp(min=0)
    x[1, 3] = x[1, 5] = x[1, 1]
    x[1, 8] = x[1, 9] = 0
    x[2] = 0
    return x


@pytest.fixture(scope="module")
def kept() -> Tensor:
    """Every number of groups from none to all channels is there."""
    return torch.cat([torch.arange(CHANNELS + 1), torch.arange(PICTURES * 9 - CHANNELS - 1) % (CHANNELS + 1)])


def groups_of(grouping: Grouping) -> Tensor:
    """How many groups each patch has, after checking that they are groups."""
    leaders = grouping.leaders
    own = torch.arange(leaders.shape[1])
    assert (leaders <= own).all()  # the leader is the first channel
    there = leaders != DROPPED
    assert (leaders.gather(1, leaders.clamp(min=0))[there] == leaders[there]).all()  # and leads itself
    assert (grouping.scales == 1).all()
    return (leaders == own).sum(1)


@pytest.mark.parametrize("name", PER_PATCH)
def test_every_patch_has_as_many_groups_as_asked_for(name: str, layer: Layer, x: Tensor, kept: Tensor) -> None:
    grouping, _ = GROUPERS[name](layer, x, kept, 0)
    assert groups_of(grouping).tolist() == kept.tolist()
    assert (grouping.leaders[kept > 0] != DROPPED).all()  # channels are merged, not left out


@pytest.mark.parametrize("name", ["random", "kmeans", "gaussian", "uncentred", "float", "image"])
def test_a_baseline_draws_from_its_seed(name: str, layer: Layer, x: Tensor) -> None:
    kept = torch.full((PICTURES * 9,), 5)
    first, again = (GROUPERS[name](layer, x, kept, 0)[0].leaders for _ in range(2))
    assert torch.equal(first, again)
    other = Layer(layer.node, layer.geometry, PATCH, layer.sparsity, 1, layer.importance, layer.share)
    assert not torch.equal(first, GROUPERS[name](other, x, kept, 0)[0].leaders)


def test_the_image_has_one_grouping_with_the_mean_number_of_groups(layer: Layer, x: Tensor, kept: Tensor) -> None:
    grouping, _ = GROUPERS["image"](layer, x, kept, 0)
    leaders = grouping.leaders.view(PICTURES, 9, CHANNELS)
    assert (leaders == leaders[:, :1]).all()
    pixels = torch.tensor([tile.height * tile.width for tile in layer.geometry.tiles(PATCH)])
    wanted = (kept.view(PICTURES, 9) * pixels).sum(1) / SIDE**2
    assert ((groups_of(grouping).view(PICTURES, 9)[:, 0] - wanted).abs() <= 0.5).all()


def test_pruning_keeps_the_largest_filters_everywhere(layer: Layer, x: Tensor, kept: Tensor) -> None:
    grouping, work = GROUPERS["pruned"](layer, x, kept, 0)
    chosen = (grouping.leaders != DROPPED).all(0)
    assert torch.equal(chosen.expand(len(kept), -1), grouping.leaders != DROPPED)
    assert chosen.nonzero().flatten().tolist() == [2, 4, 7, 9, 10, 11]  # half of twelve
    assert groups_of(grouping).tolist() == [6] * len(kept)
    assert work == Work()


def test_only_dead_channels_are_skipped(layer: Layer, x: Tensor) -> None:
    grouping, _ = GROUPERS["dead"](layer, x, torch.zeros(PICTURES * 9, dtype=torch.int64), 0)
    q = method.quantise(method.extract_patches(x, layer.geometry, PATCH))[0].flatten(0, 1)
    assert groups_of(grouping).tolist() == q.any(2).sum(1).tolist()
    weight = torch.randn(5, CHANNELS, 3, 3, generator=torch.Generator().manual_seed(2))
    y, _ = method.convolve_groups(x, grouping, weight, None, layer.geometry, PATCH)
    torch.testing.assert_close(y, torch.nn.functional.conv2d(x, weight, padding=1))


def test_kmeans_finds_clusters_that_are_there(layer: Layer) -> None:
    generator = torch.Generator().manual_seed(3)
    patterns = 10 * torch.randn(3, SIDE, SIDE, generator=generator)
    truth = torch.tensor([0, 1, 2, 0, 0, 1, 2, 2, 1, 0, 1, 2])
    x = (patterns[truth] + 0.01 * torch.randn(CHANNELS, SIDE, SIDE, generator=generator))[None]
    x = x.expand(20, -1, -1, -1)
    found = GROUPERS["kmeans"](layer, x, torch.full((20 * 9,), 3), 0)[0].leaders
    exact = (found == torch.tensor([0, 1, 2, 0, 0, 1, 2, 2, 1, 0, 1, 2])).all(1)
    assert exact.double().mean() > 0.25  # centres drawn at random are of three clusters in 64 of 220 cases


def test_kmeans_is_closer_to_the_channels_than_hashing_and_chance(layer: Layer, x: Tensor) -> None:
    kept = torch.full((9,), 6)
    patches = method.extract_patches(x[:1], layer.geometry, PATCH).flatten(0, 1)

    def error(name: str) -> float:
        grouping, _ = GROUPERS[name](layer, x[:1], kept, 0)
        return float((method.represent(patches, grouping.leaders, grouping.scales) - patches).square().sum())

    assert error("kmeans") < error("float") < error("random")


# --- cutting codes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [1, 3, 6])
def test_a_cut_at_the_number_of_groups_of_some_bits_gives_these_groups(layer: Layer, x: Tensor, bits: int) -> None:
    matrix = hashes.projection("integer", 0, "conv", layer.geometry, PATCH, MAX_BITS, 2 / 3)
    patches = method.extract_patches(x[:2], layer.geometry, PATCH).flatten(0, 1)
    q, live = method.quantise(patches)
    codes = hashes.codes("integer", patches, q, live, matrix, MAX_BITS)
    wanted = method.group_by_mean(method.prefix(codes, bits)).leaders
    leaders, used = hashes.cut(codes, MAX_BITS, (wanted == torch.arange(CHANNELS)).sum(1))
    assert torch.equal(leaders, wanted)
    assert int(used.max()) <= bits


def test_a_cut_parts_the_lowest_groups_and_then_single_channels() -> None:
    codes = torch.tensor([[0b00, 0b01, 0b10, 0b11, 0b10]])
    cuts = {kept: hashes.cut(codes, 2, torch.tensor([kept])) for kept in range(1, 6)}
    assert cuts[1][0].tolist() == [[0, 0, 0, 0, 0]]
    assert cuts[2][0].tolist() == [[0, 1, 0, 1, 0]]
    assert cuts[3][0].tolist() == [[0, 1, 2, 1, 2]]  # channel 2 begins a part before channel 3 does
    assert cuts[4][0].tolist() == [[0, 1, 2, 3, 2]]
    assert cuts[5][0].tolist() == [[0, 1, 2, 3, 4]]  # equal codes
    assert [int(used) for _, used in cuts.values()] == [0, 1, 2, 2, 2]


def test_fewer_bits_of_a_projection_are_a_prefix_of_more(layer: Layer) -> None:
    for family in ("integer", "gaussian"):
        few, many = (hashes.projection(family, 3, "conv", layer.geometry, PATCH, bits, 2 / 3) for bits in (5, MAX_BITS))
        assert torch.equal(few, many[:5])


def test_hash_families_differ_as_they_say(layer: Layer, x: Tensor) -> None:
    patches = method.extract_patches(x[:1], layer.geometry, PATCH).flatten(0, 1)
    q, live = method.quantise(patches)

    def codes(family: str) -> np.ndarray:
        matrix = hashes.projection(family, 0, "conv", layer.geometry, PATCH, 8, 2 / 3)
        return hashes.codes(family, patches, q, live, matrix, 8).numpy()

    ternary = hashes.projection("integer", 0, "conv", layer.geometry, PATCH, 8, 2 / 3).double()
    sums = (q.double() @ ternary.T).numpy()
    powers = 2 ** np.arange(8)
    assert (codes("uncentred") == (sums > 0) @ powers).all()
    assert (codes("integer") == (sums > sums.mean(1, keepdims=True)) @ powers).all()
    assert (codes("float") == codes("integer")).mean() > 0.5  # quantising flips a few bits at most
    assert (codes("gaussian") == codes("integer")).mean() < 0.2


# --- cost ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["mean", "scaled", "budget"])
def test_policies_cost_what_the_runtime_counts(policy: str, layer: Layer) -> None:
    counts = LayerCounts(7, 40, 20, 600, 30, 11)
    work = cost.hashing("integer", CHANNELS, 36, 50, 6, 7).plus(
        cost.deciding(layer.geometry, PATCH, counts, policy), cost.convolution(layer.geometry, counts)
    )
    assert work.executed == merged_flops(layer.geometry, PATCH, 50, 6, counts, policy)


def test_additions_and_comparisons_can_count_half(layer: Layer) -> None:
    counts, d, filters = LayerCounts(7, 40, 20, 600, 30, 11), 36, 5 * 9
    mean = cost.deciding(layer.geometry, PATCH, counts, "mean")
    assert mean == Work(full=7 * CHANNELS * d, adds=7 * CHANNELS * d + 20 * (d + filters))
    assert mean.half_adds == 7 * CHANNELS * d * 1.5 + 10 * (d + filters)
    assert cost.deciding(layer.geometry, PATCH, counts, "scaled").adds == 7 * CHANNELS * d + 20 * d
    assert cost.deciding(layer.geometry, PATCH, counts, "budget").adds == 7 * CHANNELS * d + 3 * 30
    assert cost.convolution(layer.geometry, counts) == Work(2 * filters * 600, 0)


def test_hashes_cost_what_they_execute() -> None:
    assert cost.hashing("integer", 10, 36, 50, 6, 2) == Work(0, 2 * 10 * (50 + 6))
    assert cost.hashing("uncentred", 10, 36, 50, 6, 2) == Work(0, 2 * 10 * 50)
    assert cost.hashing("float", 10, 36, 50, 6, 2) == Work(0, 2 * 10 * (50 + 2 * 36))
    assert cost.hashing("gaussian", 10, 36, 216, 6, 2) == Work(2 * 10 * 2 * 36 * 6, 2 * 10 * 6)


def test_a_baseline_is_charged_for_the_bits_it_looked_at_and_for_merging(layer: Layer, x: Tensor) -> None:
    kept = torch.full((PICTURES * 9,), CHANNELS)
    _, most = GROUPERS["uncentred"](layer, x, kept, 0)
    grouping, least = GROUPERS["uncentred"](layer, x, torch.ones_like(kept), 0)
    merged = method.counts(grouping, layer.geometry, PATCH).merged
    assert merged == CHANNELS * len(kept)
    assert least == cost.quantising(CHANNELS, 36, len(kept)).plus(Work(adds=merged * (36 + 45)))  # no bit was needed
    matrix = hashes.projection("uncentred", 0, "conv", layer.geometry, PATCH, MAX_BITS, 2 / 3)
    assert most.full == least.full
    assert most.adds <= len(kept) * CHANNELS * (36 + int(matrix.count_nonzero()))


def test_grouping_by_image_merges_filters_once(layer: Layer, x: Tensor) -> None:
    one = torch.ones(9, dtype=torch.int64)
    _, work = GROUPERS["image"](layer, x[:1], one, 0)
    whole = (SIDE + 2) ** 2
    assert work == cost.quantising(CHANNELS, whole, 1).plus(Work(adds=CHANNELS * (whole + 45)))


def test_kmeans_is_charged_for_its_iterations(layer: Layer, x: Tensor, kept: Tensor) -> None:
    _, chance = GROUPERS["random"](layer, x, torch.ones_like(kept), 0)
    _, work = GROUPERS["kmeans"](layer, x, torch.ones_like(kept), 0)  # one cluster: both merge everything
    d, patches = 36, len(kept)
    per_patch = CHANNELS * 3 * d + CHANNELS + CHANNELS * d + d  # distances, comparing, adding up, dividing
    assert work.executed - chance.executed == baselines.ITERATIONS * patches * per_patch


def test_the_integer_rule_is_the_torch_method(layer: Layer, x: Tensor) -> None:
    matrix = hashes.projection("integer", 0, "conv", layer.geometry, PATCH, 6, 2 / 3)
    codes, grouping = method.group_layer(x, layer.geometry, Rule(PATCH, matrix, 6))
    patches = method.extract_patches(x, layer.geometry, PATCH).flatten(0, 1)
    own = hashes.codes("integer", patches, *method.quantise(patches), matrix, 6)
    assert torch.equal(codes.flatten(0, 1), own)
    assert torch.equal(method.group_by_mean(own).leaders, grouping.leaders)
