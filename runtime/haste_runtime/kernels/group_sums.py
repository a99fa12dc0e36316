"""Sums, squares and products of a patch's quantised channels: exact integers, whatever decides by them."""

from __future__ import annotations

import numpy as np

from haste_runtime.kernels.jit import kernel, simd
from haste_runtime.kernels.layout import CHUNK, RUN, SQUARES

at = simd.at
W = simd.W
LANES = 2 * W


@kernel
def dot(x, y, span):
    """<x, y> of two int16 rows, an int64; |x| <= 127, or |y| is. Runs are too short for an int32 to overflow."""
    total = np.int64(0)
    for first in range(0, span, RUN):
        part = simd.ints_zero()
        for i in range(first, min(first + RUN, span), LANES):
            part = simd.ints_dot(part, x, y, i)
        total += np.int64(simd.ints_sum(part))
    return total


@kernel
def dot_both(x, y, z, span):
    """<x, y> and <x, z>."""
    first, second = np.int64(0), np.int64(0)
    for begin in range(0, span, RUN):
        a, b = simd.ints_zero(), simd.ints_zero()
        for i in range(begin, min(begin + RUN, span), LANES):
            a, b = simd.ints_dot(a, x, y, i), simd.ints_dot(b, x, z, i)
        first += np.int64(simd.ints_sum(a))
        second += np.int64(simd.ints_sum(b))
    return first, second


@kernel
def spread_channels(quantised, channels, span, rows):
    """rows[c] = channel c's quantised pixels, ``span`` int16 in a row."""
    for block in range(0, channels, LANES):
        for first in range(0, span, 8):
            simd.shorts_transpose(at(quantised, block * span + first * LANES), at(rows, block * span + first), span)


@kernel
def weigh_patch(quantised, channels, span, sums, energies):
    """energies[c] = <q_c, q_c>, as float64 (exactly). sums: scratch, int32, 2 W long."""
    for block in range(0, channels, LANES):
        count = min(LANES, channels - block)
        for c in range(count):
            energies[block + c] = 0
        for first in range(0, span, SQUARES):
            part = simd.wide_zero()
            for i in range(first, min(first + SQUARES, span), 2):
                part = simd.wide_squares(part, quantised, (block * span) + i * LANES)
            simd.wide_store(sums, 0, part)
            for c in range(count):
                energies[block + c] += np.float64(sums[c])


@kernel
def mass_patch(quantised, channels, span, sums, masses):
    """masses[c] = the sum of channel c's quantised pixels, as float64. sums: scratch, int32, C and up to 2 W more."""
    for block in range(0, channels, LANES):
        for c in range(LANES):
            sums[block + c] = 0
        for first in range(0, span, CHUNK):
            part = simd.shorts_zero()
            for i in range(first, min(first + CHUNK, span)):
                part = simd.shorts_add(part, quantised, block * span + i * LANES)
            simd.widen_add(sums, block, part)
    for c in range(channels):
        masses[c] = np.float64(sums[c])
