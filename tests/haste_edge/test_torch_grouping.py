"""The policies in torch against the numpy definition: the same leaders, scales and counts, whatever the patches."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from haste_edge import grouping
from haste_edge.grouping import (
    Grouping,
    Rule,
    decide,
    group_by_mean,
    group_by_scale,
    group_within_budget,
    join_groupings,
)
from haste_edge.method import represent
from haste_runtime import hashing, merge
from haste_runtime.plan import POLICIES
from haste_runtime.projection import draw


class Patches(NamedTuple):
    """M patches as a layer would have them. codes: -1 where a patch is dead. budgets: one for each patch."""

    q: np.ndarray
    live: np.ndarray
    codes: np.ndarray
    importance: np.ndarray
    budgets: np.ndarray


BUDGETS = (0.0, 1e-9, 0.01, 0.1, 0.3, 1.0, 7.0, 1e3)


@st.composite
def alike(draw_: st.DrawFn, most_channels: int = 12) -> Patches:
    """Dead channels and patches; channels that are equal, multiples of each other, nearly so, or unlike all others;
    hashed on 1 to 31 bits, or with codes of a few bits that have nothing to do with them."""
    count, side = draw_(st.integers(1, 4)), draw_(st.integers(1, 4))
    channels = draw_(st.integers(1, most_channels))
    rng = np.random.default_rng(draw_(st.integers(0, 2**32)))
    patterns = rng.standard_normal((3, side * side))
    if draw_(st.booleans()):
        patterns = np.abs(patterns)
    factors = st.sampled_from([0.0, 1.0, 1.0, -1.0, 0.5, -2.0, 3.0, 1e-3])
    noises = st.sampled_from([0.0, 0.0, 0.01, 0.3, 3.0])
    kinds = draw_(st.lists(st.tuples(factors, st.integers(0, 2), noises), min_size=channels, max_size=channels))
    x = np.stack([factor * patterns[k] + noise * rng.standard_normal(patterns[k].shape) for factor, k, noise in kinds])
    x = np.stack([x[rng.permutation(channels)] if p else x for p in range(count)])
    x *= np.array(draw_(st.lists(st.sampled_from([1.0, 1.0, 0.0, 1e-35]), min_size=count, max_size=count)))[
        :, None, None
    ]
    q, live = hashing.quantise(x.astype(np.float32))
    if draw_(st.booleans()):
        bits = draw_(st.integers(1, 31))
        codes = hashing.codes(q, draw(draw_(st.integers(0, 99)), bits, side), bits)
    else:
        codes = rng.integers(0, 2 ** draw_(st.integers(0, 4)), (count, channels)).astype(np.int32)
    codes[~live] = hashing.DEAD_CODE
    weights = st.sampled_from([0, 1, 100, 4095, 2**16 - 1])
    importance = np.array(draw_(st.lists(weights, min_size=channels, max_size=channels)), np.uint16)
    budgets = st.one_of(st.sampled_from(BUDGETS), st.floats(0, 1e3))
    return Patches(q, live, codes, importance, np.array(draw_(st.lists(budgets, min_size=count, max_size=count))))


def in_torch(patches: Patches) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        torch.from_numpy(patches.q).float(),
        torch.from_numpy(patches.codes),
        torch.from_numpy(patches.importance.astype(np.int32)),
        torch.from_numpy(patches.budgets),
    )


def check(found: Grouping, patches: Patches, policy: str, m: int) -> None:
    """Each patch's groups are the definition's, to the last bit of the scales."""
    assert (found.leaders.dtype, found.scales.dtype) == (torch.int64, torch.float32)
    for p in range(len(patches.q)):
        if not patches.live[p]:
            assert (found.leaders[p] == -1).all()
            assert int(found.compared[p]) == int(found.verified[p]) == 0
            continue
        projection = np.ones((1, patches.q.shape[2]), np.int8)  # the codes are there already
        rule = merge.Rule(m, projection, 1, policy, patches.importance, float(patches.budgets[p]))
        expected = merge.group(patches.q[p], patches.codes[p], rule)
        np.testing.assert_array_equal(found.leaders[p].numpy(), expected.leaders)
        np.testing.assert_array_equal(found.scales[p].numpy(), expected.scales)
        assert (int(found.compared[p]), int(found.verified[p])) == (expected.compared, expected.verified)


def same(a: Grouping, b: Grouping) -> bool:
    return all(x is y is None or torch.equal(x, y) for x, y in zip(a, b, strict=True))


# --- the definition ---------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=100)
@given(patches=alike())
def test_mean_and_scaled_are_the_definitions(patches: Patches) -> None:
    q, codes, _, _ = in_torch(patches)
    check(group_by_mean(codes), patches, "mean", 4)
    check(group_by_scale(q, codes), patches, "scaled", 4)


@settings(deadline=None, max_examples=150)
@given(patches=alike(), m=st.integers(1, 9))
def test_budget_is_the_definitions(patches: Patches, m: int) -> None:
    q, codes, importance, budgets = in_torch(patches)
    check(group_within_budget(q, codes, importance, budgets, m * m), patches, "budget", m)


def test_more_channels_than_are_compared_at_once() -> None:
    rng = np.random.default_rng(0)
    channels = 2 * grouping._BLOCK + 7
    x = rng.standard_normal((5, 9, 16))[:, rng.integers(0, 9, channels)]
    x = np.maximum(x * rng.uniform(0.5, 2, (5, channels, 1)) + 0.2 * rng.standard_normal(x.shape), -0.5)
    q, live = hashing.quantise(x.astype(np.float32))
    codes = hashing.codes(q, draw(1, 16, 4), 16)
    budgets = np.array([0.0, 0.05, 0.2, 0.5, 2.0])
    patches = Patches(q, live, codes, rng.integers(0, 4096, channels).astype(np.uint16), budgets)
    q_, codes_, importance, budgets_ = in_torch(patches)
    found = group_within_budget(q_, codes_, importance, budgets_, 16)
    check(found, patches, "budget", 4)
    kept = (found.leaders == torch.arange(channels)).sum(1)
    assert channels == kept[0] > kept[1] > kept[3] > kept[4] > 0


def test_products_beyond_what_single_precision_holds_are_exact() -> None:
    """127 * 127 * d > 2^24; the last channels differ from the first in the last of 17 million only."""
    d = 33 * 33
    q = np.full((1, 6, d), 127, np.int8)
    q[0, 1, 0] = q[0, 2, 1] = 126
    q[0, 3, ::2] = -127
    q[0, 4, ::2] = -126
    q[0, 5, 5] = 125
    codes = np.array([[0, 0, 1, 3, 3, 0]], np.int32)
    for budget in (0.0, 1e-12, 1e-8, 1e-4, 0.5):
        patches = Patches(q, np.array([True]), codes, np.array([4095, 3, 2, 4000, 1, 7], np.uint16), np.array([budget]))
        q_, codes_, importance, budgets = in_torch(patches)
        check(group_within_budget(q_, codes_, importance, budgets, 1), patches, "budget", 1)
        check(group_by_scale(q_, codes_), patches, "scaled", 1)


@pytest.mark.parametrize("bits", [1, 16, 31])
def test_nearest_codes_come_first_and_the_earlier_of_equals(bits: int) -> None:
    """Of channel 3's energy of 97, channel 0 has 16 and channel 1 has 81. It sees the two nearest leaders only."""
    q = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [4.0, 9.0, 0.0]]])
    importance = torch.tensor([10_000, 10_000, 10_000, 1])  # so that the first three lead a group each
    top = 1 << (bits - 1)
    for codes, expected in (
        ([0, 0, 0, 0], 1),  # equally far: it looks at 0 and 1
        ([top, 0, 0, 0], 1),
        ([0, top, 0, 0], 0),  # at 0 and 2
        ([0, top, top, 0], 1),  # at 0, and of those equally far at the earlier
        ([top, top, 0, 0], 0),
    ):
        grouping = group_within_budget(q, torch.tensor([codes], dtype=torch.int32), importance, 0.02, 10**6)
        assert grouping.leaders.tolist() == [[0, 1, 2, expected]]
        assert (int(grouping.compared), int(grouping.verified)) == (0 + 1 + 2 + 3, 0 + 1 + 2 + 2)


def test_the_nearer_of_two_that_lose_the_same() -> None:
    q = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [5.0, 5.0]]])
    importance = torch.tensor([100, 100, 1])
    for codes, expected in (([0, 1, 1], 1), ([1, 0, 1], 0), ([1, 1, 0], 0)):
        grouping = group_within_budget(q, torch.tensor([codes], dtype=torch.int32), importance, 0.5, 10**6)
        assert grouping.leaders.tolist() == [[0, 1, expected]]
        assert grouping.scales.tolist() == [[1.0, 1.0, 5.0]]


# --- what must not matter ---------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(patches=alike(), chunk=st.sampled_from([1, 700, 3000]), block=st.sampled_from([1, 3, 5]))
def test_how_much_is_held_at_a_time_does_not_matter(patches: Patches, chunk: int, block: int) -> None:
    q, codes, importance, budgets = in_torch(patches)
    expected = group_within_budget(q, codes, importance, budgets, 16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grouping, "_CHUNK_BYTES", chunk)
        patch.setattr(grouping, "_BLOCK", block)
        assert same(group_within_budget(q, codes, importance, budgets, 16), expected)
        check(group_by_scale(q, codes), patches, "scaled", 4)


@settings(deadline=None, max_examples=40)
@given(patches=alike(), each=st.booleans())
def test_budgets_together_are_budgets_one_by_one(patches: Patches, each: bool) -> None:
    q, codes, importance, _ = in_torch(patches)
    several = torch.tensor(BUDGETS, dtype=torch.float64)
    together = several[:, None].expand(-1, len(q)) if each else several[:, None]
    found = group_within_budget(q, codes, importance, together, 16)
    assert found.leaders.shape == (len(BUDGETS) * len(q), q.shape[1])
    parts = [group_within_budget(q, codes, importance, budget, 16) for budget in BUDGETS]
    assert same(found, join_groupings(parts))


def test_autocast_does_not_touch_decisions() -> None:
    q = torch.randint(-127, 128, (4, 20, 49), generator=torch.Generator().manual_seed(0)).float()
    codes = torch.randint(0, 2**12, (4, 20), generator=torch.Generator().manual_seed(1)).int()
    importance = torch.arange(1, 21)
    expected = group_within_budget(q, codes, importance, 5.0, 16), group_by_scale(q, codes % 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert same(group_within_budget(q, codes, importance, 5.0, 16), expected[0])
        assert same(group_by_scale(q, codes % 4), expected[1])


# --- rules and planes -------------------------------------------------------------------------------------------------


def test_a_rule_decides_by_its_policy() -> None:
    q = torch.tensor([[[3.0, 0.0], [6.0, 1.0], [0.0, 0.0], [0.0, 2.0]]])
    codes = torch.tensor([[5, 5, 5, 1]], dtype=torch.int32)
    importance = torch.tensor([1, 1, 1, 0])
    projection = torch.ones(3, 2, dtype=torch.int8)
    leaders = {
        policy: decide(q, codes, Rule(4, projection, 3, policy, importance, 0.3)).leaders.tolist()
        for policy in POLICIES
    }
    assert leaders == {
        "mean": [[0, 0, 0, 3]],
        "scaled": [[0, 0, -1, 3]],
        "budget": [[0, 0, -1, -1]],
        "affine": [[1, 1, -1, -1]],
        "drop": [[0, 1, -1, -1]],
    }
    with pytest.raises(ValueError, match="'median'"):
        decide(q, codes, Rule(4, projection, 3, "median"))
    with pytest.raises(ValueError, match="importance"):
        decide(q, codes, Rule(4, projection, 3, "budget"))


def test_opposite_channels_cancel() -> None:
    q = torch.tensor([[[1.0, -2.0], [-1.0, 2.0], [0.0, 1.0]]])
    grouping = group_by_scale(q, torch.tensor([[1, 1, 2]], dtype=torch.int32))
    assert grouping.leaders.tolist() == [[0, 0, 2]]
    assert grouping.scales.tolist() == [[0.0, 0.0, 1.0]]
    assert represent(q, grouping.leaders, grouping.scales).tolist() == [[[0.0, 0.0], [0.0, 0.0], [0.0, 1.0]]]


def test_planes_and_their_gradient() -> None:
    x = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [5.0, 7.0]], [[1e-35, 0.0], [0.0, 0.0], [0.0, 0.0]]], requires_grad=True)
    leaders = torch.tensor([[0, 1, 0], [-1, -1, -1]])
    y = represent(x, leaders, torch.ones(2, 3))
    assert y.tolist() == [[[3.0, 4.5], [3.0, 6.0], [3.0, 4.5]], [[0.0, 0.0]] * 3]
    y.backward(torch.tensor([[[1.0, 0.0], [4.0, 0.0], [3.0, 0.0]], [[1.0, 1.0]] * 3]))
    assert x.grad is not None
    assert x.grad.tolist() == [[[2.0, 0.0], [4.0, 0.0], [2.0, 0.0]], [[0.0, 0.0]] * 3]


def test_scales_make_the_plane_and_what_stands_for_each_channel() -> None:
    x = torch.tensor([[[1.0, 2.0], [9.0, 9.0], [3.0, 4.0], [7.0, 7.0]]])
    y = represent(x, torch.tensor([[0, -1, 0, 3]]), torch.tensor([[1.0, 1.0, 2.0, 1.0]]))
    plane = [(1 * 1 + 2 * 3) / 5, (1 * 2 + 2 * 4) / 5]
    torch.testing.assert_close(y, torch.tensor([[plane, [0.0, 0.0], [2 * plane[0], 2 * plane[1]], [7.0, 7.0]]]))


@settings(deadline=None, max_examples=30)
@given(patches=alike(most_channels=6))
@example(Patches(*(np.zeros(s, t) for s, t in (((1, 2, 4), "i1"), (1, "?"), ((1, 2), "i4"), (2, "u2"), (1, "f8")))))
def test_a_channel_alone_stays_as_it_is(patches: Patches) -> None:
    q, codes, importance, budgets = in_torch(patches)
    x = torch.rand(q.shape) + 1
    for found in (group_by_mean(codes), group_within_budget(q, codes, importance, budgets, 16)):
        y = represent(x, found.leaders, found.scales)
        for p in range(len(q)):
            for c, leader in enumerate(found.leaders[p].tolist()):
                if leader == -1:
                    assert not y[p, c].any()
                elif (found.leaders[p] == leader).sum() == 1:
                    assert torch.equal(y[p, c], x[p, c])
