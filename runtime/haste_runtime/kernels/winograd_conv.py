"""Dense 3x3 convolution with stride 1 by Winograd's algorithm, and the steps that merged convolution shares.

Tiles of outputs lie in a grid; some of them at a time are transformed (channels in lanes), multiplied position by
position with one block of output channels after the other, and transformed back.
"""

from __future__ import annotations

import numpy as np

from haste_runtime.kernels import layout as t
from haste_runtime.kernels.jit import kernel, simd
from haste_runtime.kernels.tile_conv import upper_limit
from haste_runtime.kernels.winograd_multiply import multiply
from haste_runtime.kernels.winograd_tile import copy_edge, output_columns, output_line2, output_line4, transform_input

at, as_ints, load, store, add = simd.at, simd.as_ints, simd.vector_load, simd.vector_store, simd.vector_add
W = simd.W
ZERO, ANYTHING = np.float32(0), np.float32(-1)


@kernel
def transform_tile(op, side, arena, lines, y, x, channel, target, step):
    """W channels of the tile that begins at input pixel (y, x); what of it lies outside the map is zero."""
    reach, border = side + 2, max(op[t.PTOP], op[t.PLEFT])
    edge = at(lines, reach * reach * W)
    source, row, pixel = edge, reach * W, W
    inside = y >= -border and y + reach <= op[t.XH] + border and x >= -border and x + reach <= op[t.XW] + border
    if inside:  # the map's border of zeros is at least that wide
        source = at(arena, op[t.X] + y * op[t.XROW] + x * op[t.XPIXEL] + channel)
        row, pixel = op[t.XROW], op[t.XPIXEL]
    else:
        copy_edge(
            side, at(arena, op[t.X]), op[t.XROW], op[t.XPIXEL], y, op[t.XH], x, op[t.XW], channel, edge
        )  # fmt: skip
    transform_input(side, source, row, pixel, lines, target, step)


@kernel
def transform_dense(op, way, arena, scratch, across, first, last):
    """Values [position][tile][channel] of tiles first .. last-1 of the map's grid, which is ``across`` tiles wide."""
    side, padded = way[t.EDGE], (op[t.XC] + W - 1) // W * W
    lines = at(arena, scratch + way[t.LINES])
    ty = first // across
    y, x = ty * side, (first - ty * across) * side
    for tile in range(last - first):
        for c in range(0, op[t.XC], W):
            values = at(arena, scratch + way[t.VALUES] + tile * padded + c)
            transform_tile(
                op, side, arena, lines, y - op[t.PTOP], x - op[t.PLEFT], c, values, way[t.VALUES_STEP]
            )  # fmt: skip
        x += side
        if x >= op[t.YW]:
            y, x = y + side, np.int64(0)


@kernel
def put_pixel(arena, y, other, value, ending):
    """Bias, residual, activation and store of W channels of a pixel. ending: see `put_tile`."""
    bias, upper, valid, spill = ending
    value = add(value, bias)
    if other >= 0:
        value = add(value, load(arena, other))
    if upper >= 0:
        value = simd.vector_clip(value, upper)
    if valid >= W:
        store(arena, y, value)
    else:
        store(spill, 0, value)
        for c in range(valid):
            arena[y + c] = spill[c]


@kernel
def put_line4(arena, y, pixel, other, step, values, ending):
    """`put_pixel` of four pixels of which all channels exist, with fewer questions."""
    bias, upper, _, _ = ending
    a, b, c, d = values
    a, b, c, d = add(a, bias), add(b, bias), add(c, bias), add(d, bias)
    if other >= 0:
        a, b = add(a, load(arena, other)), add(b, load(arena, other + step))
        c, d = add(c, load(arena, other + 2 * step)), add(d, load(arena, other + 3 * step))
    if upper >= 0:
        a, b = simd.vector_clip(a, upper), simd.vector_clip(b, upper)
        c, d = simd.vector_clip(c, upper), simd.vector_clip(d, upper)
    store(arena, y, a)
    store(arena, y + pixel, b)
    store(arena, y + 2 * pixel, c)
    store(arena, y + 3 * pixel, d)


@kernel
def put_tile(arena, side, lines, place, rows, columns, ending):
    """A tile's ``rows`` x ``columns`` pixels out of `output_columns`.

    place: (target, its row, its pixel, residual, its row, its pixel); residual < 0: none, with strides of 0. ending:
    (biases, what the activation lets through at most or a negative number for everything, how many of the channels
    exist, room for a vector).
    """
    y, row, pixel, other, other_row, other_pixel = place
    whole = columns == side and ending[2] >= W
    for i in range(rows):
        if side == 4:
            values = output_line4(at(lines, i * 6 * W), W)
            if whole:
                put_line4(arena, y, pixel, other, other_pixel, values, ending)
            else:
                put_pixel(arena, y, other, values[0], ending)
                if columns > 1:
                    put_pixel(arena, y + pixel, other + other_pixel, values[1], ending)
                if columns > 2:
                    put_pixel(arena, y + 2 * pixel, other + 2 * other_pixel, values[2], ending)
                if columns > 3:
                    put_pixel(arena, y + 3 * pixel, other + 3 * other_pixel, values[3], ending)
        else:
            a, b = output_line2(at(lines, i * 4 * W), W)
            put_pixel(arena, y, other, a, ending)
            if columns > 1:
                put_pixel(arena, y + pixel, other + other_pixel, b, ending)
        y += row
        other += other_row


@kernel
def finish_tiles(op, way, arena, packed, scratch, block, across, first, last, top, left, bottom, right):
    """Output pixels of tiles first .. last-1 of a grid ``across`` tiles wide, for one block of output channels.

    The grid begins at output pixel (top, left); nothing at or beyond ``bottom`` and ``right`` is written.
    """
    side, width, channels = way[t.EDGE], op[t.VECTORS] * W, op[t.GROUP_OUT]
    size = (side + 2) * (side + 2) * width
    lines = at(arena, scratch + way[t.LINES])
    spill = at(lines, side * (side + 2) * W)
    row, pixel, other, other_row, other_pixel = op[t.YROW], op[t.YPIXEL], np.int64(-1), np.int64(0), np.int64(0)
    if op[t.R] >= 0:
        other, other_row, other_pixel = op[t.R], op[t.RROW], op[t.RPIXEL]
    target, biases, limit = op[t.Y], way[t.BIASES_AT], op[t.ACTIVATION]
    upper = ANYTHING if limit == t.NO_LIMIT else upper_limit(limit)
    for channel in range(block * width, min((block + 1) * width, channels), W):
        ending = load(packed, biases + channel), upper, channels - channel, spill
        sums = at(arena, scratch + way[t.SUMS_AT] + channel - block * width)
        residual = other + channel if other >= 0 else other
        ty = first // across
        y, x = top + ty * side, left + (first - ty * across) * side
        for tile in range(last - first):
            output_columns(side, at(sums, tile * size), width, lines)
            place = (
                target + y * row + x * pixel + channel, row, pixel,
                residual + y * other_row + x * other_pixel, other_row, other_pixel,
            )  # fmt: skip
            put_tile(arena, side, lines, place, min(side, bottom - y), min(side, right - x), ending)
            x += side
            if x >= right:
                y, x = y + side, left


@kernel
def clear_row(way, arena, scratch, width):
    """A row of zeros, where every sum of products begins; it lies behind ``pixels``."""
    side = way[t.EDGE]
    zeros = at(arena, scratch + way[t.LINES] + 2 * (side + 2) * (side + 2) * W)
    for i in range(width):
        zeros[i] = ZERO
    return zeros


@kernel
def winograd_conv(op, arena, packed, index, scratch, worker, workers):
    """act(conv(x) + bias + residual), 3x3 with stride 1; workers share out (strip of tiles, block) pairs."""
    way = at(op, t.WINOGRAD)
    side, width, channels = way[t.EDGE], op[t.VECTORS] * W, op[t.XC]
    across = (op[t.YW] + side - 1) // side
    tiles, strip = (op[t.YH] + side - 1) // side * across, way[t.ROOM_TILES]
    padded = (channels + W - 1) // W * W
    zeros = clear_row(way, arena, scratch, width)
    sources = as_ints(at(arena, scratch + way[t.LISTS]))
    targets = at(sources, strip)
    for i in range(strip):
        sources[i], targets[i] = i * padded, i * (side + 2) * (side + 2) * width
    units = (tiles + strip - 1) // strip * op[t.BLOCKS]
    transformed, nothing = -1, np.int64(0)
    for unit in range(worker * units // workers, (worker + 1) * units // workers):
        number = unit // op[t.BLOCKS]
        block = unit - number * op[t.BLOCKS]
        first, last = number * strip, min((number + 1) * strip, tiles)
        if number != transformed:
            transform_dense(op, way, arena, scratch, across, first, last)
            transformed = number
        for position in range((side + 2) * (side + 2)):
            own = way[t.FILTERS_AT] + (block * (side + 2) * (side + 2) + position) * channels * width
            values = at(arena, scratch + way[t.VALUES] + position * way[t.VALUES_STEP])
            entries = (values, channels, nothing, sources, sources, at(packed, own), nothing, zeros)
            sums = at(arena, scratch + way[t.SUMS_AT] + position * width)
            multiply(op[t.VECTORS], zeros, last - first, sources, targets, entries, sums)
        finish_tiles(op, way, arena, packed, scratch, block, across, first, last, 0, 0, op[t.YH], op[t.YW])
