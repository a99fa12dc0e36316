"""Which channels of a patch look alike: the definition every backend must reproduce bit for bit.

Design: the method, "The hash, exactly". Decisions are made on integers, so that no compiler, CPU or order of summation
can change a code: a patch is quantised to int8 with its own scale, projected on ternary vectors, and centred *after*
projecting (<x_c - mean, v> = <x_c, v> - mean_j <x_j, v>), which costs one operation per channel and bit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

DEAD = np.float32(2.0**-100)  # a patch whose largest |x| is below this holds nothing worth hashing
DEAD_CODE = -1  # what traces show for the channels of a dead patch; real codes are never negative
MAX_BITS = 31  # codes are int32 and never negative
_EXACT_FLOAT32, _EXACT_FLOAT64 = 2**24, 2**53  # up to here every integer has its own float


def quantise(patches: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.bool_]]:
    """Patches (P, C, d), finite float32 -> int8 of the same shape, and which patches are live, (P,).

    The largest |x| of a patch becomes 127: q = round-half-even(x * (127 / a)), the division and the product each
    rounded to single precision. A dead patch becomes all zeros.
    """
    largest = np.abs(patches).max(axis=(1, 2))
    live = largest >= DEAD
    inverse = np.float32(127) / np.where(live, largest, np.float32(1))
    q = np.rint(patches * inverse[:, None, None]).astype(np.int8)
    q[~live] = 0
    return q, live


def codes(q: NDArray[np.int8], projection: NDArray[np.int8], bits: int) -> NDArray[np.int32]:
    """Codes (P, C) of quantised patches (P, C, d), by the first ``bits`` rows of a ternary matrix (L, d).

    Bit l is [C * s_c > sum over j of s_j], with s_c = <q_c, v_l>: whether the channel's projection is above the mean of
    all channels. Equality gives 0. Codes on fewer bits are the low bits of codes on more.
    """
    patches, channels, d = q.shape
    if not 1 <= bits <= min(MAX_BITS, len(projection)):
        raise ValueError(f"{bits} bits asked of a projection with {len(projection)} rows (and at most {MAX_BITS})")
    sums = _integer_product(q.reshape(patches * channels, d), projection[:bits]).reshape(patches, channels, bits)
    above = channels * sums > sums.sum(axis=1, keepdims=True)
    weights = np.left_shift(np.int32(1), np.arange(bits, dtype=np.int32))
    return np.where(above, weights, np.int32(0)).sum(axis=2, dtype=np.int32)


def groups(codes: NDArray[np.int32]) -> NDArray[np.int32]:
    """The group of each channel of one patch, (C,): groups are numbered by the first appearance of their code."""
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int32)
    rank[np.argsort(first)] = np.arange(len(first), dtype=np.int32)
    return rank[inverse]


def _integer_product(q: NDArray[np.int8], projection: NDArray[np.int8]) -> NDArray[np.int64]:
    """q @ projection.T, exactly. A float product is exact in any order, and much quicker, while every partial sum is an
    integer that the float type can hold; |q| is at most 128."""
    bound = 128 * q.shape[1]
    kind = np.float32 if bound <= _EXACT_FLOAT32 else np.float64 if bound <= _EXACT_FLOAT64 else np.int64
    return (q.astype(kind) @ projection.T.astype(kind)).astype(np.int64)
