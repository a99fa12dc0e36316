"""Convolution of a small map with many channels, which waits for its weights rather than for its multiply-adds.

Entry by entry (see `haste_runtime.kernels.tile_conv`) and all output channels at once, while the sums of the whole
output stay in the first-level cache. So all filters of an input channel lie in a row and are read once, however many
pixels there are, and leaving a channel out skips memory in pieces that are worth skipping. Each output element is the
same chain of fused multiply-adds in the same order as it is there.
"""

from __future__ import annotations

import numpy as np

from haste_runtime.kernels import layout as t
from haste_runtime.kernels.dense_conv import block_scales, list_pixels
from haste_runtime.kernels.jit import kernel, simd
from haste_runtime.kernels.lanes import widest
from haste_runtime.kernels.layout import ENTRIES, ROWS
from haste_runtime.kernels.tile_conv import conv_tile, finish_tile

at, as_ints = simd.at, simd.as_ints
tile_bias, tile_repeat = simd.tile_bias, simd.tile_repeat
tile_load, tile_keep, tile_width = simd.tile_load, simd.tile_keep, simd.tile_width
W, WIDEST = simd.W, widest(simd.W)
WORTH = 4  # pixels: shorter rows are better off in a tile with others


@kernel
def begin_rows(row, bias, blocks, pixels, totals):
    width = tile_width(row)
    for block in range(blocks):
        tile = tile_load(row, at(bias, block * width))
        for _ in range(pixels):
            tile_keep(tile, totals)
            totals = at(totals, width)


@kernel
def begin_totals(vectors, bias, blocks, pixels, totals):
    """totals[block][pixel] = the biases of the block's ``vectors`` * W output channels."""
    if vectors == 1:
        begin_rows(tile_bias(1, bias, 0), bias, blocks, pixels, totals)
    elif vectors == 2:
        begin_rows(tile_bias(2, bias, 0), bias, blocks, pixels, totals)
    elif WIDEST == 4:
        begin_rows(tile_bias(4, bias, 0), bias, blocks, pixels, totals)


@kernel
def add_tile(like, sources, inner, entries, totals):
    tile_keep(conv_tile(tile_load(like, totals), sources, inner, entries), totals)


@kernel
def add_rows(row, rows, sources, inner, entries, totals):
    """Multiply-add some entries into the sums of one tile of ``rows`` pixels."""
    if rows == 6:
        add_tile(tile_repeat(row, 6), sources, inner, entries, totals)
    elif rows == 5:
        add_tile(tile_repeat(row, 5), sources, inner, entries, totals)
    elif rows == 4:
        add_tile(tile_repeat(row, 4), sources, inner, entries, totals)
    elif rows == 3:
        add_tile(tile_repeat(row, 3), sources, inner, entries, totals)
    elif rows == 2:
        add_tile(tile_repeat(row, 2), sources, inner, entries, totals)
    else:
        add_tile(row, sources, inner, entries, totals)


@kernel
def add_blocks(row, packed, blocks, taps, where, parts):
    pixels, sources, inner, totals, tile, ranges = where
    source, tap_offsets, singles, inputs, weights, merged = parts
    groups, planes, plane, plane_taps, filters, step = merged
    width = tile_width(row)
    for _ in range(blocks):
        for i in range((pixels + tile - 1) // tile):
            p, rows = i * tile, min(tile, pixels - i * tile)
            entries = (
                np.int64(ranges[2 * i]), np.int64(ranges[2 * i + 1]), source, tap_offsets, np.int64(0),
                singles, inputs, weights, ENTRIES, packed, (groups, planes, plane, plane_taps, filters, step),
            )  # fmt: skip
            add_rows(row, rows, at(sources, p), at(inner, p), entries, totals)
            totals = at(totals, rows * width)
        packed, filters = at(packed, taps * width), at(filters, taps * width)


@kernel
def add_entries(packed, vectors, blocks, taps, where, parts):
    """totals[block][pixel] += some entries.

    where: (pixels, sources, inner, totals, tile, ranges), see `list_ranges`. parts: (source, tap_offsets, singles,
    inputs, weights, merged), all as `conv_block` has them, ``packed`` and the filters of ``merged`` beginning at the
    first block; `ENTRIES` more offsets of ``weights`` are read, but not used.
    """
    totals = where[3]
    if vectors == 1:
        add_blocks(tile_bias(1, totals, 0), packed, blocks, taps, where, parts)
    elif vectors == 2:
        add_blocks(tile_bias(2, totals, 0), packed, blocks, taps, where, parts)
    elif WIDEST == 4:
        add_blocks(tile_bias(4, totals, 0), packed, blocks, taps, where, parts)


@kernel
def add_stored(stored, packed, entries):
    """`add_entries` of weights that are ``stored`` as layout.FLOATS, HALVES or BYTES; entries: its other arguments."""
    if stored == t.BYTES:
        add_entries(simd.as_bytes(packed), *entries)
    elif stored == t.HALVES:
        add_entries(simd.as_halves(packed), *entries)
    else:
        add_entries(packed, *entries)


@kernel
def finish_rows(row, op, arena, packed, first, last, pixels, targets, residuals, totals, spill):
    width = tile_width(row)
    for block in range(first, last):
        channel = block * width
        ending = (
            *block_scales(op, packed, channel, op[t.BLOCKS] * width),
            min(width, op[t.GROUP_OUT] - channel), op[t.ACTIVATION],
            at(arena, max(op[t.R], 0) + channel), at(arena, op[t.Y] + channel), spill,
        )  # fmt: skip
        for p in range(pixels):
            finish_tile(tile_load(row, totals), 1, at(targets, p), at(residuals, p), ending)
            totals = at(totals, width)


@kernel
def finish_totals(op, arena, packed, first, last, pixels, targets, residuals, totals, spill):
    """Scale, residual and activation of blocks first .. last-1, into the output."""
    if op[t.VECTORS] == 1:
        finish_rows(tile_bias(1, totals, 0), op, arena, packed, first, last, pixels, targets, residuals, totals, spill)
    elif op[t.VECTORS] == 2:
        finish_rows(tile_bias(2, totals, 0), op, arena, packed, first, last, pixels, targets, residuals, totals, spill)
    elif WIDEST == 4:
        finish_rows(tile_bias(4, totals, 0), op, arena, packed, first, last, pixels, targets, residuals, totals, spill)


@kernel
def list_ranges(op, top, height, width, ranges):
    """Into ranges the first of the taps that each tile of pixels needs, and the one behind the last; returns a tile's
    pixels. height, width: of the output pixels, whose first row is ``top``.

    Taps that meet zeros of the border only are left out, where a row of pixels is a tile of its own.
    """
    if width < WORTH or width > ROWS:
        for i in range(0, height * width, ROWS):
            ranges[2 * i // ROWS], ranges[2 * i // ROWS + 1] = 0, op[t.KY] * op[t.KX]
        return np.int64(ROWS)
    for i in range(height):
        y = (top + i) * op[t.SY] - op[t.PTOP]
        first, last = 0, op[t.KY]
        while first < last and y + first * op[t.DY] < 0:
            first += 1
        while last > first and y + (last - 1) * op[t.DY] >= op[t.XH]:
            last -= 1
        ranges[2 * i], ranges[2 * i + 1] = first * op[t.KX], last * op[t.KX]
    return np.int64(width)


@kernel
def deep_conv(op, arena, packed, index, scratch, worker, workers):
    """act(conv(x) + bias + residual) of a small map; workers share out the blocks of output channels."""
    pixels, taps = op[t.YH] * op[t.YW], op[t.KY] * op[t.KX]
    sources = as_ints(at(arena, scratch + op[t.PIXELS]))
    targets = at(sources, op[t.ROOM])
    residuals = at(targets, op[t.ROOM])
    totals, spill = at(arena, scratch + op[t.TOTALS]), at(arena, scratch + op[t.SPILL])
    list_pixels(op, 0, pixels, sources, targets, residuals)
    first, last = op[t.BLOCKS] * worker // workers, op[t.BLOCKS] * (worker + 1) // workers
    begin_totals(
        op[t.VECTORS], at(packed, op[t.BIAS] + first * op[t.VECTORS] * W), last - first, pixels, totals
    )  # fmt: skip
    source = at(arena, op[t.X] - op[t.PTOP] * op[t.XROW] - op[t.PLEFT] * op[t.XPIXEL])
    filters = at(packed, op[t.WEIGHT] + (first * op[t.BLOCK_STEP] >> op[t.STORED]))
    channels, tap_offsets = at(index, op[t.CHANNELS]), at(index, op[t.TAPS])
    weights, nothing = at(channels, op[t.XC]), (np.int64(0), source, np.int64(0), sources, spill, np.int64(0))
    ranges = as_ints(at(totals, op[t.BLOCKS] * op[t.VECTORS] * W * pixels))
    where = (pixels, sources, sources, totals, list_ranges(op, 0, op[t.YH], op[t.YW], ranges), ranges)
    for c in range(0, op[t.XC], ENTRIES):
        parts = (source, tap_offsets, min(ENTRIES, op[t.XC] - c), at(channels, c), at(weights, c), nothing)
        add_stored(op[t.STORED], filters, (op[t.VECTORS], last - first, taps, where, parts))
    finish_totals(op, arena, packed, first, last, pixels, targets, residuals, totals, spill)
