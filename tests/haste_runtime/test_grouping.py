"""The merge policies against their definition, channel by channel with Python's own numbers, and what they promise."""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from haste_runtime.grouping import DROPPED, Grouping, by_mean, by_scale, within_budget
from haste_runtime.hashing import codes
from haste_runtime.projection import draw

Channels = list[list[int]]
Leaders = list[int]
Scales = list[float]


def dot(a: list[int], b: list[int]) -> int:
    return sum(x * y for x, y in zip(a, b, strict=True))


def single(value: float | Fraction) -> float:
    return float(np.float32(float(value)))


# --- the definition, naively -----------------------------------------------------------------------------------------


def mean_by_definition(codes: list[int]) -> Leaders:
    return [codes.index(code) for code in codes]


def scale_by_definition(q: Channels, codes: list[int]) -> tuple[Leaders, Scales]:
    """With fractions, rounded once at the end."""
    leaders, scales = [DROPPED] * len(q), [1.0] * len(q)
    live = [c for c, channel in enumerate(q) if any(channel)]
    for c in live:
        members = [other for other in live if codes[other] == codes[c]]
        leaders[c] = members[0]
        if len(members) > 1:
            total = [sum(column) for column in zip(*(q[other] for other in members), strict=True)]
            energy = dot(total, total)
            scales[c] = single(Fraction(len(members) * dot(q[c], total), energy) if energy else 0)
    return leaders, scales


class Spent(NamedTuple):
    leaders: Leaders
    scales: Scales
    compared: int
    verified: int


def budget_by_definition(q: Channels, codes: list[int], weights: list[int], budget: float, pixels: int) -> Spent:
    """With Python's floats, which are IEEE doubles, one operation at a time."""
    energies = [dot(channel, channel) for channel in q]
    share = float(dot(weights, energies)) * budget / len(q)
    price = share / pixels
    leaders, scales = [DROPPED] * len(q), [1.0] * len(q)
    compared = verified = 0
    for c, channel in enumerate(q):
        weighted = weights[c] * energies[c]
        if weighted <= price:
            continue
        found = [leader for leader in range(c) if leaders[leader] == leader]
        by_distance = sorted((bin(codes[c] ^ codes[leader]).count("1"), leader) for leader in found)
        compared += len(found)
        joining = []
        for rank, (_, leader) in enumerate(by_distance[:2]):
            product = float(dot(channel, q[leader]))
            loss = weights[c] * (energies[c] - product * product / energies[leader])
            joining.append((loss, rank, leader, product / energies[leader]))
            verified += 1
        loss, _, leader, scale = min(joining, default=(float("inf"), 0, DROPPED, 1.0))
        if weighted <= share and weighted <= loss + price:
            continue
        if loss + price < share:
            leaders[c], scales[c] = leader, single(scale)
        else:
            leaders[c] = c
    return Spent(leaders, scales, compared, verified)


# --- patches ---------------------------------------------------------------------------------------------------------


class Patch(NamedTuple):
    q: np.ndarray
    codes: np.ndarray
    importance: np.ndarray


@st.composite
def patches(draw_: st.DrawFn) -> Patch:
    """Dead channels, multiples of few patterns, exact and nearly so, and channels unlike any other; hashed or with
    codes that have nothing to do with them."""
    channels, side = draw_(st.integers(1, 10)), draw_(st.integers(1, 4))
    rng = np.random.default_rng(draw_(st.integers(0, 2**32)))
    patterns = rng.integers(-9, 10, (2, side * side))
    q = rng.integers(-127, 128, (channels, side * side))
    for channel in q:
        kind = draw_(st.sampled_from(["dead", "multiple", "nearly", "other"]))
        if kind == "dead":
            channel[:] = 0
        elif kind != "other":
            channel[:] = draw_(st.sampled_from([-4, -1, 1, 2, 13])) * patterns[draw_(st.integers(0, 1))]
            channel += (kind == "nearly") * rng.integers(-2, 3, side * side)
    bits = draw_(st.integers(1, 12))
    q = q.astype(np.int8)
    if draw_(st.booleans()):
        hashed = codes(q[None], draw(draw_(st.integers(0, 99)), bits, side), bits)[0]
    else:
        hashed = rng.integers(0, 2 ** draw_(st.integers(0, 4)), channels).astype(np.int32)
    weights = draw_(st.lists(st.sampled_from([0, 1, 100, 4096, 2**16 - 1]), min_size=channels, max_size=channels))
    return Patch(q, hashed, np.array(weights, np.uint16))


BUDGETS = st.sampled_from([0.0, 1e-9, 1e-3, 0.05, 0.2, 0.5, 1.0, 2.0, 1e3]) | st.floats(0, 4)
TILES = st.sampled_from([1, 4, 9, 49, 64])
SOME = settings(max_examples=200)


def spent(patch: Patch, budget: float, pixels: int) -> Grouping:
    return within_budget(patch.q, patch.codes, patch.importance, budget, pixels)


def of(*channels: list[int], codes: list[int] | None = None, importance: list[int] | None = None) -> Patch:
    return Patch(
        np.array(channels, np.int8),
        np.array(codes or [0] * len(channels), np.int32),
        np.array(importance or [1] * len(channels), np.uint16),
    )


@given(patches(), BUDGETS, TILES)
def test_a_leader_is_the_first_of_its_group(patch: Patch, budget: float, pixels: int) -> None:
    for grouping in (by_mean(patch.codes), by_scale(patch.q, patch.codes), spent(patch, budget, pixels)):
        assert (grouping.leaders.dtype, grouping.scales.dtype) == (np.int32, np.float32)
        assert grouping.leaders.shape == grouping.scales.shape == patch.codes.shape
        for channel, leader in enumerate(grouping.leaders.tolist()):
            assert leader == DROPPED or (leader <= channel and grouping.leaders[leader] == leader)
            if leader == DROPPED or (grouping.leaders == leader).sum() == 1:
                assert grouping.scales[channel] == 1


# --- mean ------------------------------------------------------------------------------------------------------------


@given(patches())
def test_mean_follows_the_definition(patch: Patch) -> None:
    leaders, scales, compared, verified, _ = by_mean(patch.codes)
    assert leaders.tolist() == mean_by_definition(patch.codes.tolist())
    assert (scales == 1).all()
    assert compared == verified == 0


# --- scaled ----------------------------------------------------------------------------------------------------------


@SOME
@given(patches())
def test_scaled_follows_the_definition(patch: Patch) -> None:
    leaders, scales, compared, verified, _ = by_scale(patch.q, patch.codes)
    assert (leaders.tolist(), scales.tolist()) == scale_by_definition(patch.q.tolist(), patch.codes.tolist())
    assert compared == verified == 0


@given(patches())
def test_scaled_never_misses_a_channel_by_more_than_the_mean_does(patch: Patch) -> None:
    """On the quantised patch, where the scales were found; both with the group's mean as its plane."""
    grouping, q = by_scale(patch.q, patch.codes), patch.q.tolist()
    for leader in set(grouping.leaders.tolist()) - {DROPPED}:
        members = np.flatnonzero(grouping.leaders == leader)
        total = [sum(column) for column in zip(*(q[c] for c in members), strict=True)]
        mean = [Fraction(value, len(members)) for value in total]
        for c in members:
            scale = Fraction(float(grouping.scales[c]))
            scaled = sum((a - scale * b) ** 2 for a, b in zip(q[c], mean, strict=True))
            assert scaled <= sum((a - b) ** 2 for a, b in zip(q[c], mean, strict=True)) + Fraction(1, 10**6)


def test_scaled_by_hand() -> None:
    """A dead channel; a pair of which one is thrice the other; one alone; a pair that cancels out."""
    patch = of([0, 0], [1, 2], [3, 6], [5, 0], [0, 7], [0, -7], codes=[1, 1, 1, 2, 3, 3])
    grouping = by_scale(patch.q, patch.codes)
    assert grouping.leaders.tolist() == [DROPPED, 1, 1, 3, 4, 4]
    assert grouping.scales.tolist() == [1, 0.5, 1.5, 1, 0, 0]


def test_scaled_drops_every_channel_of_a_patch_without_any() -> None:
    grouping = by_scale(np.zeros((3, 4), np.int8), np.zeros(3, np.int32))
    assert grouping.leaders.tolist() == [DROPPED] * 3


# --- budget ----------------------------------------------------------------------------------------------------------


@SOME
@given(patches(), BUDGETS, TILES)
def test_budget_follows_the_definition(patch: Patch, budget: float, pixels: int) -> None:
    expected = budget_by_definition(*(array.tolist() for array in patch), budget, pixels)
    leaders, scales, compared, verified, _ = spent(patch, budget, pixels)
    assert Spent(leaders.tolist(), scales.tolist(), compared, verified) == expected


def test_budget_on_patches_of_many_channels() -> None:
    """As above, with the sizes and weights of a real layer."""
    rng = np.random.default_rng(0)
    patterns = rng.standard_normal((6, 64))
    x = np.maximum(patterns[rng.integers(6, size=40)] * rng.uniform(0.1, 2, (40, 1)) + rng.normal(0, 0.4, (40, 64)), 0)
    q = np.rint(x * 127 / x.max()).astype(np.int8)
    patch = Patch(q, codes(q[None], draw(1, 16, 8), 16)[0], rng.integers(0, 2**16, 40).astype(np.uint16))
    kept = []
    for budget in (0.0, 0.05, 0.2, 1.0):
        expected = budget_by_definition(*(array.tolist() for array in patch), budget, 64)
        leaders, scales, compared, verified, _ = spent(patch, budget, 64)
        assert Spent(leaders.tolist(), scales.tolist(), compared, verified) == expected
        kept.append(len(set(leaders.tolist()) - {DROPPED}))
    assert kept == sorted(kept, reverse=True)
    assert kept[-1] < kept[0] / 2


@SOME
@given(patches(), BUDGETS, TILES)
def test_no_channel_takes_more_than_its_share(patch: Patch, budget: float, pixels: int) -> None:
    """What joining and dropping lose, exactly: each channel at most its share, all together at most the budget."""
    q, weights = patch.q.tolist(), patch.importance.tolist()
    energies = [dot(channel, channel) for channel in q]
    allowed = dot(weights, energies) * Fraction(budget) * (1 + Fraction(1, 10**12))  # shares are rounded to doubles
    losses = []
    for c, leader in enumerate(spent(patch, budget, pixels).leaders.tolist()):
        kept = 0 if leader == DROPPED else Fraction(dot(q[c], q[leader]) ** 2, energies[leader])
        losses.append(weights[c] * (energies[c] - kept))
    assert max(losses) <= allowed / len(q)
    assert sum(losses) <= allowed


@given(patches(), TILES)
def test_without_a_budget_nothing_is_lost(patch: Patch, pixels: int) -> None:
    """Dropped is what is dead, or weighs nothing; even a channel equal to a leader's stays, as joining has a price."""
    leaders = spent(patch, 0.0, pixels).leaders
    weighs_nothing = ~patch.q.any(axis=1) | (patch.importance == 0)
    assert np.array_equal(leaders, np.where(weighs_nothing, DROPPED, np.arange(len(leaders))))


@given(patches(), TILES, st.floats(1, 1e6))
def test_a_budget_as_large_as_all_channels_drops_them(patch: Patch, pixels: int, budget: float) -> None:
    """A share is the budget divided by the channels, so this takes as large a budget as there are channels."""
    assert (spent(patch, budget * (len(patch.q) + 1), pixels).leaders == DROPPED).all()


@given(patches(), BUDGETS)
def test_merging_tiles_of_one_pixel_gains_nothing(patch: Patch, budget: float) -> None:
    """There a merged filter costs what it saves: channels may be dropped, but none joins another."""
    leaders = spent(patch, budget, 1).leaders
    assert ((leaders == DROPPED) | (leaders == np.arange(len(leaders)))).all()


def test_multiples_join_with_their_factor() -> None:
    """Exactly alike but for a factor: nothing is lost, at however small a budget."""
    patch = of([1, -2, 3, 0], [20, -40, 60, 0], [-2, 4, -6, 0], [9, 9, 9, 9], codes=[0, 0, 3, 1])
    grouping = spent(patch, 1e-6, 64)
    assert grouping.leaders.tolist() == [0, 0, 0, 3]
    assert grouping.scales.tolist() == [1, 20, -2, 1]
    assert (grouping.compared, grouping.verified) == (0 + 1 + 1 + 1, 0 + 1 + 1 + 1)


def test_of_leaders_the_two_with_the_nearest_codes_are_looked_at() -> None:
    """The last channel equals the third leader; all three differ from it in one bit, so only the earlier two count.
    With a code nearer to the third's, it joins it."""
    channels = [50, 0, 0], [0, 50, 0], [0, 0, 50], [0, 0, 50]
    grouping = spent(of(*channels, codes=[0b001, 0b010, 0b100, 0b000]), 0.1, 64)
    assert grouping.leaders.tolist() == [0, 1, 2, 3]
    assert (grouping.compared, grouping.verified) == (0 + 1 + 2 + 3, 0 + 1 + 2 + 2)
    assert spent(of(*channels, codes=[0b001, 0b010, 0b100, 0b110]), 0.1, 64).leaders.tolist() == [0, 1, 2, 2]


@pytest.mark.parametrize(("code", "joins"), [(0b000, 0), (0b001, 0), (0b010, 1)])
def test_of_equal_losses_the_nearer_leader_wins(code: int, joins: int) -> None:
    """The last channel is halfway between both leaders; where their codes are as near, the earlier one wins."""
    patch = of([50, 0], [0, 50], [30, 30], codes=[0b001, 0b010, code])
    grouping = spent(patch, 1.0, 64)
    assert grouping.leaders.tolist() == [0, 1, joins]
    assert grouping.scales[2] == np.float32(0.6)


def test_the_smaller_loss_wins_over_the_nearer_code() -> None:
    patch = of([50, 0], [0, 50], [10, 40], codes=[0, 7, 0])
    assert spent(patch, 0.5, 64).leaders.tolist() == [0, 1, 1]


def test_what_joining_would_not_pay_for_is_dropped_without_a_look() -> None:
    """Energies 10000, 10000, 1 and 400: a share is 5100.25 at a budget of 1, its price on 64 pixels 79.7."""
    patch = of([100, 0], [0, 100], [1, 0], [20, 0])
    grouping = spent(patch, 1.0, 64)
    assert grouping.leaders.tolist() == [0, 1, DROPPED, 0]
    assert (grouping.compared, grouping.verified) == (0 + 1 + 0 + 2, 0 + 1 + 0 + 2)
    assert spent(patch, 1.0, 4).leaders.tolist() == [0, 1, DROPPED, DROPPED]  # at a price of 1275


def test_what_loses_as_much_by_joining_is_dropped() -> None:
    """The last channel has nothing of the leader: joining would lose all of it, as dropping does for less."""
    assert spent(of([100, 0], [0, 20]), 0.5, 64).leaders.tolist() == [0, DROPPED]


@pytest.mark.parametrize("more", [0, 1])
def test_a_share_may_be_used_up_by_dropping(more: int) -> None:
    """The second channel's energy is its share, exactly, or more than that by the least there is."""
    budget = 2 * 100 / (10_000 + 100)
    share = float(10_100) * budget / 2
    assert share >= 100
    lower = float(np.nextafter(budget, 0)) if more else budget
    assert spent(of([100, 0], [0, 10]), lower, 64).leaders.tolist() == ([0, 1] if more else [0, DROPPED])


def test_importance_decides_which_channels_may_err() -> None:
    """The same two channels, once the second weighs little, once much; and nothing at all."""
    channels = [100, 0], [80, 60]
    assert spent(of(*channels, importance=[1000, 1]), 0.01, 64).leaders.tolist() == [0, 0]
    assert spent(of(*channels, importance=[1, 1000]), 0.01, 64).leaders.tolist() == [DROPPED, 1]
    assert spent(of(*channels, importance=[1000, 0]), 0.0, 64).leaders.tolist() == [0, DROPPED]
    assert spent(of(*channels, importance=[0, 0]), 0.0, 64).leaders.tolist() == [DROPPED, DROPPED]


def test_largest_weights_and_energies_do_not_overflow() -> None:
    """65535 * 127^2 * 4900 needs 43 bits; with 600 channels their sum needs 53."""
    q = np.full((600, 4900), 127, np.int8)
    q[300:, 0] = -127
    grouping = within_budget(q, np.zeros(600, np.int32), np.full(600, 2**16 - 1, np.uint16), 5e-4, 64)
    assert np.array_equal(grouping.leaders, np.repeat([0, 300], 300))
    assert (grouping.scales == 1).all()
