"""The hash is a definition: rounding, thresholds and integer decisions are checked one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from haste_runtime.hashing import codes, groups, quantise
from haste_runtime.projection import draw

DEAD = 2.0**-100


def one_patch(*channels: list[float]) -> np.ndarray:
    return np.array([channels], np.float32)


# --- quantising ------------------------------------------------------------------------------------------------------


def test_ties_round_to_even() -> None:
    q, live = quantise(one_patch([127.0, 0.5, 1.5, 2.5], [-0.5, -1.5, -2.5, 126.5]))
    assert live.tolist() == [True]
    assert q.dtype == np.int8
    assert q.tolist() == [[[127, 0, 2, 2], [0, -2, -2, 126]]]


def test_scale_and_product_are_rounded_to_single_precision() -> None:
    """Near ties the rounding of the product decides; wider arithmetic, or x / (a / 127), gives other integers."""
    rng = np.random.default_rng(0)
    differs = 0
    for _ in range(300):
        a = np.float32(rng.uniform(0.1, 10))
        inverse = np.float32(127) / a
        x = ((rng.integers(-126, 126, 200) + 0.5) * np.float64(a) / 127).astype(np.float32)
        q, _ = quantise(np.concatenate([[a], x])[None, None].astype(np.float32))
        exact = x.astype(np.float64) * np.float64(inverse)  # of two single numbers: exact in double
        assert np.array_equal(q[0, 0, 1:], np.rint(exact.astype(np.float32)))
        differs += int((np.rint(exact) != q[0, 0, 1:]).sum())
    assert differs > 100


def test_largest_of_each_patch_becomes_127() -> None:
    patches = np.array([[[1e-20, -2e-20]], [[3e38, 1e38]], [[-5.0, 0.0]]], np.float32)
    q, live = quantise(patches)
    assert live.all()
    assert q.tolist() == [[[64, -127]], [[127, 42]], [[-127, 0]]]


def test_threshold_of_dead_patches() -> None:
    at, below = np.float32(DEAD), np.nextafter(np.float32(DEAD), np.float32(0))
    denormal = np.float32(1e-40)
    patches = np.stack([one_patch([a, 0.0], [0.0, a / 2])[0] for a in (at, below, -at, -below, denormal, 0.0)])
    q, live = quantise(patches)
    assert live.tolist() == [True, False, True, False, False, False]
    assert q[0].tolist() == [[127, 0], [0, 64]]
    assert not q[~live].any()


def test_denormals_beside_live_channels_are_zero() -> None:
    q, live = quantise(one_patch([1.0, 0.0], [1e-40, -1e-45]))
    assert live.all()
    assert q.tolist() == [[[127, 0], [0, 0]]]


def test_patches_do_not_influence_each_other() -> None:
    patches = np.random.default_rng(1).standard_normal((5, 3, 4)).astype(np.float32)
    patches[2] = 0
    together, live = quantise(patches)
    assert live.tolist() == [True, True, False, True, True]
    for p in range(5):
        assert np.array_equal(quantise(patches[p : p + 1])[0][0], together[p])


# --- codes -----------------------------------------------------------------------------------------------------------

SMALL = st.integers(1, 3), st.integers(1, 9), st.integers(1, 5)  # patches, channels, side


@st.composite
def quantised(draw_: st.DrawFn) -> np.ndarray:
    patches, channels, side = (draw_(size) for size in SMALL)
    return draw_(hnp.arrays(np.int8, (patches, channels, side * side), elements=st.integers(-127, 127)))


def by_definition(q: np.ndarray, projection: np.ndarray, bits: int) -> list[list[int]]:
    """With Python's integers, one bit after the other."""
    result = []
    for patch in q.tolist():
        sums = [[sum(a * b for a, b in zip(x, v, strict=True)) for x in patch] for v in projection[:bits].tolist()]
        result.append(
            [sum((len(patch) * s[c] > sum(s)) << bit for bit, s in enumerate(sums)) for c in range(len(patch))]
        )
    return result


@given(quantised(), st.integers(0, 99), st.integers(1, 31))
def test_codes_follow_the_definition(q: np.ndarray, seed: int, bits: int) -> None:
    projection = draw(seed, 31, int(np.sqrt(q.shape[2])))
    result = codes(q, projection, bits)
    assert result.dtype == np.int32
    assert result.tolist() == by_definition(q, projection, bits)


@given(quantised(), st.integers(0, 99))
def test_fewer_bits_are_the_low_bits(q: np.ndarray, seed: int) -> None:
    projection = draw(seed, 12, int(np.sqrt(q.shape[2])))
    finest = codes(q, projection, 12)
    for bits in range(1, 12):
        coarser = codes(q, projection, bits)
        assert np.array_equal(coarser, finest & ((1 << bits) - 1))
        assert (coarser.max(axis=1) < 1 << bits).all()


def test_equality_gives_zero() -> None:
    """Equal channels lie on the mean, and so does a channel that the projection does not see."""
    q = np.full((1, 3, 4), 100, np.int8)
    assert not codes(q, draw(0, 8, 2), 8).any()
    projection = np.array([[1, 0, 0, 0]], np.int8)
    q = np.array([[[3, 9, 9, 9], [1, 9, 9, 9], [2, 9, 9, 9]]], np.int8)  # sums 3, 1, 2: mean 2
    assert codes(q, projection, 1).tolist() == [[1, 0, 0]]


def test_31_bits_stay_positive() -> None:
    q = np.array([[[1], [-1]]], np.int8)
    assert codes(q, np.ones((31, 1), np.int8), 31).tolist() == [[2**31 - 1, 0]]


def test_products_beyond_32_bits() -> None:
    """C * s is about 2.4e9 here: int32 would wrap round and flip every bit."""
    q = np.full((1, 4300, 4300), 127, np.int8)
    q[0, 7, 0] = 126
    result = codes(q, np.ones((1, 4300), np.int8), 1)[0]
    assert result[7] == 0
    assert result.sum() == 4299


def test_sums_beyond_single_precision() -> None:
    """The sums differ by 1 above 2^24, where single precision knows even numbers only."""
    d = 150_001
    q = np.full((1, 2, d), 127, np.int8)
    q[0, 1, 0] = 126
    assert (127 * d) % 2 == 1
    assert codes(q, np.ones((1, d), np.int8), 1).tolist() == [[1, 0]]


@pytest.mark.parametrize("bits", [0, -1, 9, 32])
def test_bits_out_of_range(bits: int) -> None:
    with pytest.raises(ValueError, match="bits"):
        codes(np.zeros((1, 2, 4), np.int8), draw(0, 8 if bits < 32 else 40, 2), bits)


# --- groups ----------------------------------------------------------------------------------------------------------


@given(hnp.arrays(np.int32, st.integers(1, 40), elements=st.integers(0, 6) | st.integers(0, 2**31 - 1)))
def test_groups_are_numbered_by_first_appearance(values: np.ndarray) -> None:
    seen: dict[int, int] = {}
    assert groups(values).tolist() == [seen.setdefault(code, len(seen)) for code in values.tolist()]


def test_groups_example() -> None:
    assert groups(np.array([9, 2, 9, 0, 2, 7], np.int32)).tolist() == [0, 1, 0, 2, 1, 3]
