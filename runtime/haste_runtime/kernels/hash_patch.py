"""Quantise, project and code the channels of one patch. All this is integers, so every backend and every CPU finds the
same codes (`haste_runtime.hashing` is the definition)."""

from __future__ import annotations

import numpy as np

from haste_runtime.kernels.jit import kernel, simd
from haste_runtime.kernels.layout import CHUNK

at, as_ints = simd.at, simd.as_ints
W = simd.W
LANES = 2 * W  # int16 lanes: channels per block of the quantised patch
MAGNITUDE = np.int32(0x7FFFFFFF)


@kernel
def patch_peak(x, row_stride, row_length, rows):
    """Bits of the largest magnitude in ``rows`` runs of ``row_length`` floats; magnitudes compare like integers."""
    peak = np.int32(0)
    for y in range(rows):
        bits = as_ints(at(x, y * row_stride))
        for i in range(row_length):
            peak = max(peak, np.int32(bits[i] & MAGNITUDE))
    return peak


@kernel
def quantise_patch(x, row_stride, channels, y0, y1, x0, x1, side, span, inverse, quantised):
    """int16 copies of the patch, [block of 2 W channels][pixel][2 W]; zero outside rows y0..y1, columns x0..x1.

    x points at the patch's pixel (y0, x0), which is inside the map. ``channels`` is also the pixel stride. There are
    ``span`` pixels, side * side and zeros.
    """
    area = side * side
    for block in range(0, channels, LANES):
        target = at(quantised, block * span)
        count = min(LANES, channels - block)
        partial = count < LANES or y0 > 0 or x0 > 0 or y1 < side or x1 < side
        for i in range(0 if partial else area * LANES, span * LANES):
            target[i] = 0
        for y in range(y0, y1):
            source = at(x, (y - y0) * row_stride + block)
            line = at(target, (y * side + x0) * LANES)
            for p in range(x1 - x0):
                for c in range(0, count, W):
                    if c + W <= count:
                        simd.quantise(source, p * channels + c, inverse, line, p * LANES + c)
                    else:
                        for i in range(c, count):
                            line[p * LANES + i] = np.int16(np.rint(source[p * channels + i] * inverse))


@kernel
def project_patch(quantised, channels, span, bits, pixel_lists, starts, sums):
    """sums[l][c] = <q_c, v_l>: int16 additions in runs too short to overflow, widened to int32 after each.

    pixel_lists: for each bit the pixels with +1, then those with -1; starts[2 l], starts[2 l + 1] say where they begin.
    """
    padded = (channels + LANES - 1) // LANES * LANES
    for i in range(bits * padded):
        sums[i] = 0
    for block in range(0, channels, LANES):
        source = at(quantised, block * span)
        for half in range(2 * bits):
            sign = np.int32(1) if half % 2 == 0 else np.int32(-1)
            for first in range(starts[half], starts[half + 1], CHUNK):
                total = simd.shorts_zero()
                for i in range(first, min(first + CHUNK, starts[half + 1])):
                    total = simd.shorts_add(total, source, pixel_lists[i] * LANES)
                simd.widen_add(sums, half // 2 * padded + block, total, sign)


@kernel
def code_channels(sums, channels, bits, codes):
    """Bit l of a channel's code: C * sum > total of all sums, that is, above the mean (centring after projecting)."""
    padded = (channels + LANES - 1) // LANES * LANES
    for c in range(channels):
        codes[c] = 0
    for l in range(bits):  # noqa: E741 - the method's letter for a bit of the code
        line = at(sums, l * padded)
        total = np.int64(0)
        for c in range(channels):
            total += line[c]
        for c in range(channels):
            codes[c] |= np.int32(np.int64(channels) * line[c] > total) << np.int32(l)
