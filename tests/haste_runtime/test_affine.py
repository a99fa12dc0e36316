"""The policy "affine" against its definition, channel by channel with Python's own numbers, and what it promises."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from haste_runtime.affine import block_projection, coarse_order, fingerprints, within_affine_budget
from haste_runtime.grouping import DROPPED, Grouping
from haste_runtime.projection import draw


class Patch(NamedTuple):
    q: np.ndarray
    inside: np.ndarray
    projection: np.ndarray
    importance: np.ndarray


@st.composite
def patches(draw_: st.DrawFn) -> Patch:
    """Channels that are dead, constant, or multiples of few patterns plus a constant, nearly so or exactly; some of the
    pixels may lie outside the map."""
    channels, side = draw_(st.integers(1, 10)), draw_(st.integers(1, 6))
    rng = np.random.default_rng(draw_(st.integers(0, 2**32)))
    first, last = sorted((draw_(st.integers(0, side - 1)), draw_(st.integers(0, side - 1))))
    inside = np.zeros((side, side), np.bool_)
    inside[first : last + 1, draw_(st.integers(0, side - 1)) :] = True
    patterns = rng.integers(-9, 10, (2, side * side))
    q = np.zeros((channels, side * side))
    for channel in q:
        kind = draw_(st.sampled_from(["dead", "constant", "multiple", "nearly", "other"]))
        if kind == "other":
            channel[:] = rng.integers(-127, 128, side * side)
        elif kind != "dead":
            channel[:] = draw_(st.sampled_from([-20, 0, 7, 50]))
        if kind in ("multiple", "nearly"):
            channel += draw_(st.sampled_from([-4, -1, 1, 2])) * patterns[draw_(st.integers(0, 1))]
            channel += (kind == "nearly") * rng.integers(-2, 3, side * side)
    q = np.clip(q, -127, 127).astype(np.int8) * inside.reshape(-1)
    projection = block_projection(side)
    if draw_(st.booleans()):
        projection = draw(draw_(st.integers(0, 99)), draw_(st.integers(1, 31)), side)
    weights = draw_(st.lists(st.sampled_from([0, 1, 100, 4096, 2**16 - 1]), min_size=channels, max_size=channels))
    return Patch(q, inside.reshape(-1), projection, np.array(weights, np.uint16))


BUDGETS = st.sampled_from([0.0, 1e-9, 1e-3, 0.05, 0.2, 0.5, 1.0, 2.0, 1e3]) | st.floats(0, 4)
TILES = st.sampled_from([1, 4, 9, 49, 64])


def spent(patch: Patch, budget: float, pixels: int) -> Grouping:
    return within_affine_budget(*patch, budget, pixels)


def of(*channels: list[int], importance: list[int] | None = None) -> Patch:
    """Of four pixels, all in the map."""
    weights = np.array(importance or [1] * len(channels), np.uint16)
    return Patch(np.array(channels, np.int8), np.ones(4, np.bool_), block_projection(2), weights)


def dot(a: list[int], b: list[int]) -> int:
    return sum(x * y for x, y in zip(a, b, strict=True))


def prints_by_definition(patch: Patch) -> list[list[int]]:
    q, inside, found = patch.q.tolist(), patch.inside.tolist(), []
    for channel in q:
        mean, squares, z = sum(channel) / sum(inside), 0.0, []
        for row in patch.projection.tolist():
            z.append(dot(channel, row) - mean * dot(inside, row))
            squares += z[-1] * z[-1]
        factor = 128.0 / math.sqrt(squares) if squares else 0.0
        found.append([round(value * factor) for value in z])  # Python's round takes halves to even
    return found


def by_definition(patch: Patch, budget: float, tile: int) -> Grouping:
    """With Python's floats, which are IEEE doubles, one operation at a time."""
    q, weights, pixels, channels = patch.q.tolist(), patch.importance.tolist(), int(patch.inside.sum()), len(patch.q)
    energy, sums, prints = [dot(c, c) for c in q], [sum(c) for c in q], prints_by_definition(patch)
    varying = [e - s * s / pixels for e, s in zip(energy, sums, strict=True)]
    total = sum(round(w * (e - s * s / (pixels + pixels))) for w, e, s in zip(weights, energy, sums, strict=True))
    share = total * budget / channels
    price = share / tile

    def step(c: int) -> int:
        bits = int(np.float32(float(weights[c]) * energy[c]).view(np.int32))
        return min(max((bits >> 21) - 504, 0), 255)

    leaders, scales, offsets = [DROPPED] * channels, [1.0] * channels, [0.0] * channels
    found: list[int] = []
    compared = verified = 0
    for c in sorted(range(channels), key=lambda c: (-step(c), c)):
        w, s, v = weights[c], sums[c], varying[c]
        ways = [(w * energy[c], DROPPED, 1.0, 0.0), (w * v + price, DROPPED, 1.0, s / pixels)]
        looks = min(ways)[0] > min(price + price, share)
        if looks:
            compared += len(found)
            alike = sorted(found, key=lambda k: -abs(dot(prints[k], prints[c])))[:2]
            for near in alike:
                verified += 1
                product = float(dot(q[c], q[near]))
                scale = product / energy[near]
                ways.append((w * (energy[c] - product * product / energy[near]) + price, near, scale, 0.0))
                if varying[near] >= 1.0:
                    product -= float(s) * sums[near] / pixels
                    slope = product / varying[near]
                    loss = w * (v - product * product / varying[near]) + (price + price)
                    ways.append((loss, near, slope, (s - slope * sums[near]) / pixels))
        cost, leader, scale, offset = min(ways, key=lambda way: way[0])
        if looks and cost >= share:
            leader, scale, offset = c, 1.0, 0.0
            found.append(c)
        leaders[c], scales[c], offsets[c] = leader, scale, offset
    singles = np.array(scales, np.float32), np.array(offsets, np.float32)
    return Grouping(np.array(leaders, np.int32), singles[0], compared, verified, singles[1])


@given(patches(), BUDGETS, TILES)
@settings(max_examples=200, deadline=None)
def test_the_definition(patch: Patch, budget: float, tile: int) -> None:
    found, expected = spent(patch, budget, tile), by_definition(patch, budget, tile)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    assert found.offsets is not None
    assert (found.leaders.dtype, found.scales.dtype, found.offsets.dtype) == (np.int32, np.float32, np.float32)
    np.testing.assert_array_equal(fingerprints(*patch[:3]), prints_by_definition(patch))


@given(patches(), BUDGETS, TILES)
@settings(deadline=None)
def test_no_channel_loses_more_than_its_share(patch: Patch, budget: float, tile: int) -> None:
    """Exactly, but for what scales and constants lose by being single precision."""
    q, weights, pixels = patch.q.tolist(), patch.importance.tolist(), int(patch.inside.sum())
    grouping = spent(patch, budget, tile)
    energies = [Fraction(dot(c, c)) - Fraction(sum(c) ** 2, 2 * pixels) for c in q]
    allowed = sum(w * e for w, e in zip(weights, energies, strict=True)) + len(q)  # each was rounded to a whole
    share = allowed * Fraction(budget) / len(q)
    assert grouping.offsets is not None
    for c, leader in enumerate(grouping.leaders.tolist()):
        plane = [0] * len(q[c]) if leader == DROPPED else q[leader]
        scale, offset = Fraction(float(grouping.scales[c])), Fraction(float(grouping.offsets[c]))
        shown = [scale * x + offset * bool(i) for x, i in zip(plane, patch.inside, strict=True)]
        loss = weights[c] * sum((x - y) ** 2 for x, y in zip(q[c], shown, strict=True))
        assert loss <= share * (1 + Fraction(1, 10**6)) + weights[c] * dot(q[c], q[c]) * Fraction(1, 10**6)


def test_a_multiple_and_a_constant() -> None:
    """20 + 2 (1, -2, 3, -1): all of it comes from the leader, which is the larger, and the constant."""
    grouping = spent(of([22, 16, 26, 18], [1, -2, 3, -1], importance=[1, 1]), 0.01, 10**6)
    assert grouping.leaders.tolist() == [0, 0]
    assert grouping.scales.tolist() == [1, 0.5]
    assert grouping.offsets is not None
    assert grouping.offsets.tolist() == [0, -10]
    assert (grouping.compared, grouping.verified) == (1, 1)


def test_a_constant_channel_needs_no_leader() -> None:
    grouping = spent(of([50, -50, 50, -50], [9, 9, 9, 9]), 0.01, 10**6)
    assert grouping.leaders.tolist() == [0, DROPPED]
    assert grouping.offsets is not None
    assert grouping.offsets.tolist() == [0, 9]


def test_a_constant_leader_lends_no_slope() -> None:
    """The first varies too little for the division; it is joined by its multiples all the same."""
    grouping = spent(of([100] * 4, [40, 40, 40, 41], importance=[4095, 4095]), 0.0, 64)
    assert grouping.leaders.tolist() == [DROPPED, 1]  # a constant costs nothing without a budget
    grouping = spent(of([100, 100, 100, 99], [50, 50, 50, 50], importance=[4095, 1]), 1e-6, 10**9)
    assert grouping.leaders.tolist() == [0, DROPPED]


def test_without_a_budget_only_what_costs_nothing_goes() -> None:
    grouping = spent(of([9, 8, 7, 6], [0] * 4, [5] * 4, [1, 2, 3, 4], importance=[1, 1, 1, 0]), 0.0, 64)
    assert grouping.leaders.tolist() == [0, DROPPED, DROPPED, DROPPED]


def test_of_the_leaders_two_are_looked_at() -> None:
    """The last equals a leader that two others hide, which are as much like it by their fingerprints."""
    q = np.zeros((4, 64), np.int8)
    q[:3, :16] = 60
    q[:3, 16:32] = -60
    q[0, 0:2], q[1, 2:4], q[2, 4:6] = (120, 0), (120, 0), (120, 0)
    q[3] = q[2] // 2
    patch = Patch(q, np.ones(64, np.bool_), block_projection(8)[:2], np.array([900, 900, 900, 1], np.uint16))
    assert len({tuple(row) for row in fingerprints(*patch[:3]).tolist()}) == 1
    grouping = spent(patch, 1e-4, 10**9)
    assert grouping.leaders.tolist()[:3] == [0, 1, 2]
    assert grouping.leaders[3] in (0, 1, 3)
    assert (grouping.compared, grouping.verified) == (0 + 1 + 2 + 3, 0 + 1 + 2 + 2)


def test_order_keeps_steps_of_a_quarter_octave() -> None:
    assert coarse_order(np.array([1.0, 8.0, 8.5, 0.0, 1e9, 8.0])).tolist() == [4, 1, 2, 5, 0, 3]
    assert coarse_order(np.array([8.0, 10.0, 2.0**61])).tolist() == [2, 1, 0]


@pytest.mark.parametrize(("side", "rows"), [(1, 1), (2, 4), (3, 9), (4, 16), (10, 16), (34, 16)])
def test_blocks_cover_every_pixel_once(side: int, rows: int) -> None:
    projection = block_projection(side)
    assert projection.shape == (rows, side * side)
    assert (projection.sum(axis=0) == 1).all()
    assert projection.sum(axis=1).min() >= 1


def test_largest_weights_and_energies_do_not_overflow() -> None:
    q = np.full((600, 4900), 127, np.int8)
    q[300:, ::2] = -127
    patch = Patch(q, np.ones(4900, np.bool_), block_projection(70), np.full(600, 2**16 - 1, np.uint16))
    grouping = spent(patch, 5e-4, 64)
    assert np.array_equal(grouping.leaders[300:], np.full(300, 300))
    assert (grouping.scales == 1).all()
