"""Depthwise convolution: one filter per channel. Channels lie in lanes, and a tile of pixels stays in registers."""

from __future__ import annotations

from haste_runtime.kernels import layout as t
from haste_runtime.kernels.dense_conv import list_pixels
from haste_runtime.kernels.jit import kernel, simd
from haste_runtime.kernels.layout import ROWS
from haste_runtime.kernels.tile_conv import finish_tile

at, as_ints = simd.at, simd.as_ints
tile_bias, tile_repeat, tile_pixels, tile_fma_lanes = (
    simd.tile_bias, simd.tile_repeat, simd.tile_pixels, simd.tile_fma_lanes,
)  # fmt: skip
W = simd.W


@kernel
def multiply_taps(tile, sources, window):
    """Multiply-add all taps into ``tile``, whose row i begins at sources[i]. window: (source, tap offsets, how many,
    filters, W of them for each tap)."""
    source, offsets, taps, filters = window
    pixels = tile_pixels(tile, source, sources)
    for k in range(taps):
        tile = tile_fma_lanes(tile, pixels, offsets[k], at(filters, k * W))
    return tile


@kernel
def depthwise_rows(row, rows, sources, targets, residuals, window, ending):
    """One tile of ``rows`` pixels, each starting from the biases ``row``. A tile's size is part of its type."""
    if rows == 6:
        finish_tile(multiply_taps(tile_repeat(row, 6), sources, window), rows, targets, residuals, ending)
    elif rows == 5:
        finish_tile(multiply_taps(tile_repeat(row, 5), sources, window), rows, targets, residuals, ending)
    elif rows == 4:
        finish_tile(multiply_taps(tile_repeat(row, 4), sources, window), rows, targets, residuals, ending)
    elif rows == 3:
        finish_tile(multiply_taps(tile_repeat(row, 3), sources, window), rows, targets, residuals, ending)
    elif rows == 2:
        finish_tile(multiply_taps(tile_repeat(row, 2), sources, window), rows, targets, residuals, ending)
    else:
        finish_tile(multiply_taps(row, sources, window), rows, targets, residuals, ending)


@kernel
def depthwise_conv(op, arena, packed, index, scratch, worker, workers):
    """act(conv(x) + bias + residual), any kernel, stride and dilation. Filters are packed [W channels][tap][W].

    Each worker has its own part of the pixels, and takes all channels of a tile before the next one: what the tiles of
    a row read overlaps.
    """
    taps, channels = op[t.KY] * op[t.KX], op[t.XC]
    sources = as_ints(at(arena, scratch + op[t.PIXELS]))
    targets = at(sources, op[t.ROOM])
    residuals = at(targets, op[t.ROOM])
    spill = at(arena, scratch + op[t.SPILL])
    source = at(arena, op[t.X] - op[t.PTOP] * op[t.XROW] - op[t.PLEFT] * op[t.XPIXEL])  # in the zero border
    target, residual = at(arena, op[t.Y]), at(arena, max(op[t.R], 0))
    offsets = at(index, op[t.TAPS])
    pixels = op[t.YH] * op[t.YW]
    part = (pixels + workers * ROWS - 1) // (workers * ROWS) * ROWS
    end = min(pixels, (worker + 1) * part)
    for first in range(worker * part, end, op[t.STRIP]):
        count = min(op[t.STRIP], end - first)
        list_pixels(op, first, first + count, sources, targets, residuals)
        for p in range(0, count, ROWS):
            rows = min(ROWS, count - p)
            for c in range(0, channels, W):
                window = at(source, c), offsets, taps, at(packed, op[t.WEIGHT] + c * taps)
                valid = min(W, channels - c)
                ending = False, spill, spill, valid, op[t.ACTIVATION], at(residual, c), at(target, c), spill
                row = tile_bias(1, packed, op[t.BIAS] + c)
                depthwise_rows(row, rows, at(sources, p), at(targets, p), at(residuals, p), window, ending)
