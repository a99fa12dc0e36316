"""Frozen sparse ternary projections: drawn from a seed, packed at two bits an entry (paper, section 3)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from haste_runtime.affine import block_projection
from haste_runtime.plan import UNHASHED


def draw(seed: int, bits: int, side: int, sparsity: float = 2 / 3) -> NDArray[np.int8]:
    """A ``(bits, side * side)`` matrix of -1, 0, +1 with P(0) = sparsity and equal chances for both signs.

    ``side`` is the patch's input side n = (m - 1) * stride + kernel. The stream is PCG64's raw 64-bit output, which
    numpy keeps stable across versions. A row of zeros could never tell two channels apart, so it is drawn again.
    """
    raw = np.random.PCG64(seed)
    rows: list[NDArray[np.int8]] = []
    while len(rows) < bits:
        u = (raw.random_raw(side * side) >> np.uint64(11)) * 2.0**-53
        row = np.where(u < sparsity, 0, np.where(u < (1 + sparsity) / 2, 1, -1)).astype(np.int8)
        if row.any():
            rows.append(row)
    return np.stack(rows)


def projection_of(policy: str, seed: int, bits: int, side: int, sparsity: float = 2 / 3) -> NDArray[np.int8]:
    """What a policy decides by, (L, side * side): blocks of the patch, no row, or ``bits`` random rows (`draw`)."""
    if policy in UNHASHED:
        return np.zeros((0, side * side), np.int8)
    return block_projection(side) if policy == "affine" else draw(seed, bits, side, sparsity)


def pack(matrix: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Four entries a byte, first entry in the lowest bits; 0 -> 0, +1 -> 1, -1 -> 2. Shape (bits, ceil(d / 4))."""
    bits, d = matrix.shape
    code = np.zeros((bits, -(-d // 4) * 4), np.uint8)
    code[:, :d] = np.where(matrix < 0, 2, matrix)
    quads = code.reshape(bits, code.shape[1] // 4, 4)
    return (quads << np.array([0, 2, 4, 6], np.uint8)).sum(2, dtype=np.uint8)


def unpack(packed: NDArray[np.uint8], d: int) -> NDArray[np.int8]:
    """Inverse of `pack`; raises ValueError where a pair of bits is 3, a row is zero, or the padding is not."""
    code = (packed[:, :, None] >> np.array([0, 2, 4, 6], np.uint8)) & 3
    code = code.reshape(len(packed), 4 * packed.shape[1])
    if packed.shape[1] != -(-d // 4) or (code == 3).any() or code[:, d:].any() or not (code[:, :d] != 0).any(1).all():
        raise ValueError("not a packed ternary matrix")
    return np.where(code == 2, -1, code).astype(np.int8)[:, :d]
