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
HALF_CHUNK = CHUNK // 2
TWO_32 = 4294967296.0


@kernel
def patch_peak(x, row_stride, pixel_stride, channels, columns, rows):
    """Bits of the largest magnitude in ``rows`` rows of ``columns`` pixels; magnitudes compare like integers."""
    peak = np.int32(0)
    if pixel_stride == channels:  # a row is one run
        columns, channels = np.int64(1), columns * channels
    for y in range(rows):
        for p in range(columns):
            bits = as_ints(at(x, y * row_stride + p * pixel_stride))
            for i in range(channels):
                peak = max(peak, np.int32(bits[i] & MAGNITUDE))
    return peak


@kernel
def quantise_some(source, count, inverse, target):
    """Fewer channels than lanes, of one pixel."""
    done = 0
    if count >= W:
        simd.quantise_half(source, 0, inverse, target, 0)
        done = W
    for i in range(done, count):
        target[i] = np.int16(np.rint(source[i] * inverse))


@kernel
def quantise_patch(x, row_stride, pixel_stride, channels, y0, y1, x0, x1, side, span, inverse, quantised):
    """int16 copies of the patch, [block of 2 W channels][pixel][2 W]; zero outside rows y0..y1, columns x0..x1.

    x points at the patch's pixel (y0, x0), which is inside the map. There are ``span`` pixels, side * side and zeros.
    """
    area, whole = side * side, channels - channels % LANES
    partial = y0 > 0 or x0 > 0 or y1 < side or x1 < side
    for block in range(0, channels, LANES):
        target = at(quantised, block * span)
        for i in range(0 if partial or block == whole else area * LANES, span * LANES):
            target[i] = 0
    for y in range(y0, y1):
        for p in range(x1 - x0):
            source, pixel = at(x, (y - y0) * row_stride + p * pixel_stride), (y * side + x0 + p) * LANES
            for block in range(0, whole, LANES):
                simd.quantise(source, block, inverse, quantised, block * span + pixel)
            if whole < channels:
                quantise_some(at(source, whole), channels - whole, inverse, at(quantised, whole * span + pixel))


@kernel
def project_block(source, padded, bits, pixel_lists, starts, sums):
    """`project_patch` of 2 W channels; their sums of one bit lie ``padded`` apart from those of the next."""
    for l in range(bits):  # noqa: E741
        plus, minus, end = starts[2 * l], starts[2 * l + 1], starts[2 * l + 2]
        while plus < starts[2 * l + 1] or minus < end:
            total = simd.shorts_zero()
            last = min(plus + HALF_CHUNK, starts[2 * l + 1])
            for i in range(plus, last):
                total = simd.shorts_add(total, source, pixel_lists[i] * LANES)
            plus, last = last, min(minus + HALF_CHUNK, end)
            for i in range(minus, last):
                total = simd.shorts_subtract(total, source, pixel_lists[i] * LANES)
            minus = last
            simd.widen_add(sums, l * padded, total)


@kernel
def project_patch(quantised, channels, span, bits, pixel_lists, starts, sums):
    """sums[l][c] = <q_c, v_l>: int16 additions in runs too short to overflow, widened to int32 after each.

    pixel_lists: for each bit the pixels with +1, then those with -1; starts[2 l], starts[2 l + 1] say where they begin.
    """
    padded = (channels + LANES - 1) // LANES * LANES
    for i in range(bits * padded):
        sums[i] = 0
    for block in range(0, channels - LANES, 2 * LANES):  # two blocks for one look at the lists
        first, second = at(quantised, block * span), at(quantised, (block + LANES) * span)
        for l in range(bits):  # noqa: E741 - the method's letter for a bit of the code
            plus, minus, end = starts[2 * l], starts[2 * l + 1], starts[2 * l + 2]
            while plus < starts[2 * l + 1] or minus < end:
                a, b = simd.shorts_zero(), simd.shorts_zero()
                last = min(plus + HALF_CHUNK, starts[2 * l + 1])
                for i in range(plus, last):
                    pixel = pixel_lists[i] * LANES
                    a, b = simd.shorts_add(a, first, pixel), simd.shorts_add(b, second, pixel)
                plus, last = last, min(minus + HALF_CHUNK, end)
                for i in range(minus, last):
                    pixel = pixel_lists[i] * LANES
                    a, b = simd.shorts_subtract(a, first, pixel), simd.shorts_subtract(b, second, pixel)
                minus = last
                simd.widen_add(sums, l * padded + block, a)
                simd.widen_add(sums, l * padded + block + LANES, b)
    if padded % (2 * LANES) != 0:
        project_block(
            at(quantised, (padded - LANES) * span), padded, bits, pixel_lists, starts, at(sums, padded - LANES)
        )


@kernel
def as_double(whole):
    """The float64 nearest to an int64. A cast would do, but 32-bit ARM calls a function for it: so both halves become
    floats, exactly, and their sum is rounded once."""
    return np.float64(np.int32(whole >> 32)) * TWO_32 + np.float64(np.uint32(whole & 0xFFFFFFFF))


@kernel
def code_channels(sums, channels, bits, codes):
    """Bit l of a channel's code: C * sum > total of all sums, that is, above the mean (centring after projecting).

    For integers that is sum > floor(total / C), and a double is wide enough for that quotient: a total is below 2^39,
    as |q| <= 127 and a map has fewer than 2^31 elements (checked before it gets here).
    """
    padded = (channels + LANES - 1) // LANES * LANES
    for c in range(channels):
        codes[c] = 0
    for l in range(bits):  # noqa: E741
        line = at(sums, l * padded)
        total = np.int64(0)
        for c in range(channels):
            total += line[c]
        mean = np.int32(np.floor(as_double(total) / np.float64(np.int32(channels))))
        for c in range(channels):
            codes[c] |= np.int32(line[c] > mean) << np.int32(l)
