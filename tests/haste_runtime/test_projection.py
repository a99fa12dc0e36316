"""Projections: the drawing rule, frozen numbers, packing, and that fewer bits are a prefix of more."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from haste_runtime.hashing import codes
from haste_runtime.projection import draw, pack, unpack

SEED_7 = [[0, -1, 1, 0], [0, -1, 0, 1], [1, 0, 0, 0]]
SEED_2026 = [[0, 1, 0, 0, 0, -1, -1, 0, 1], [0, -1, -1, 1, -1, 1, -1, 0, 0]]
SEED_11_PACKED = "000802005000210000092000"
SEED_1_SHA256 = "a011405a795b9c969e06efa4ee452c50e75a6f64c50e9a2650d1f708351ae60d"


def test_known_numbers() -> None:
    """Frozen: bundles and studies name a seed, so the same seed must give the same matrix for ever."""
    assert draw(7, 3, 2).tolist() == SEED_7
    assert draw(2026, 2, 3, sparsity=0.5).tolist() == SEED_2026
    assert pack(draw(11, 4, 3)).tobytes().hex() == SEED_11_PACKED
    assert hashlib.sha256(draw(1, 16, 10).tobytes()).hexdigest() == SEED_1_SHA256


def test_drawing_rule_step_by_step() -> None:
    """The rule of docs/bundle-format.md, one entry at a time."""
    seed, bits, side, sparsity = 5, 6, 3, 0.75
    stream = np.random.PCG64(seed)
    rows: list[list[int]] = []
    while len(rows) < bits:
        uniform = [(int(stream.random_raw()) >> 11) / 2**53 for _ in range(side * side)]
        row = [0 if u < sparsity else 1 if u < (1 + sparsity) / 2 else -1 for u in uniform]
        if any(row):
            rows.append(row)
    assert draw(seed, bits, side, sparsity).tolist() == rows


@given(seed=st.integers(0, 2**64 - 1), bits=st.integers(1, 12), more=st.integers(0, 5), side=st.integers(1, 7))
def test_fewer_bits_are_a_prefix(seed: int, bits: int, more: int, side: int) -> None:
    longer = draw(seed, bits + more, side)
    assert np.array_equal(draw(seed, bits, side), longer[:bits])
    assert np.array_equal(unpack(pack(longer)[:bits], side * side), longer[:bits])


def test_codes_nest() -> None:
    rng = np.random.default_rng(0)
    q = rng.integers(-127, 128, (5, 8, 16)).astype(np.int8)
    matrix = draw(3, 12, 4)
    full = codes(q, matrix, 12)
    for bits in range(1, 13):
        assert np.array_equal(codes(q, matrix, bits), full & ((1 << bits) - 1))


def test_rows_of_zeros_are_drawn_again() -> None:
    matrix = draw(0, 20, 1, sparsity=0.9)
    assert (matrix != 0).all()
    assert len(set(matrix.ravel())) == 2


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 2 / 3, 0.9])
def test_shares(sparsity: float) -> None:
    matrix = draw(1, 200, 20, sparsity)
    assert (matrix == 0).mean() == pytest.approx(sparsity, abs=0.01)
    assert (matrix == 1).mean() == pytest.approx((matrix == -1).mean(), abs=0.01)


@given(seed=st.integers(0, 2**32), bits=st.integers(1, 8), side=st.integers(1, 9))
def test_packing_round_trip(seed: int, bits: int, side: int) -> None:
    matrix = draw(seed, bits, side)
    packed = pack(matrix)
    assert packed.shape == (bits, -(-side * side // 4))
    back = unpack(packed, side * side)
    assert back.dtype == np.int8
    assert np.array_equal(back, matrix)


def test_packing_order() -> None:
    """First entry in the lowest bits; 0 -> 0, +1 -> 1, -1 -> 2."""
    matrix = np.array([[1, -1, 0, 1, -1]], np.int8)
    assert pack(matrix).tolist() == [[0b01_00_10_01, 0b10]]


@pytest.mark.parametrize(
    ("packed", "d"),
    [
        ([[0b11]], 1),  # 3 stands for nothing
        ([[0b01], [0b00]], 1),  # a row of zeros
        ([[0b0101]], 1),  # something in the padding
        ([[1, 1]], 4),  # too many bytes
        ([[1]], 5),  # too few
    ],
)
def test_what_is_no_packed_matrix(packed: list[list[int]], d: int) -> None:
    with pytest.raises(ValueError, match="not a packed ternary matrix"):
        unpack(np.array(packed, np.uint8), d)
