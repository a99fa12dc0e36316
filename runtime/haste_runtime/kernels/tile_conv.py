"""The convolution micro-kernel: a tile of output pixels and channels stays in registers over all input channels.

An *entry* is one input plane with one filter: a pair of offsets. Dense convolution lists every channel; merged
convolution lists the channels that are alone, in place, and then the groups, whose planes and filters lie in scratch.
Each output element is one chain of fused multiply-adds in the order (entry, ky, kx), starting at the bias, so results
are the same on every CPU and for every register width.

Weights stored as float16 or int8 are decoded on their way into registers; a pointer's type says how. The chain of int8
starts at 0 and multiplies the integers; one more multiply-add with scale and bias ends it.
"""

from __future__ import annotations

import numpy as np

from haste_runtime.kernels.jit import kernel, simd
from haste_runtime.kernels.lanes import widest
from haste_runtime.kernels.layout import BYTES, HALVES, NO_LIMIT, RELU, ROWS, UNROLLED

at = simd.at
tile_bias, tile_repeat, tile_width = simd.tile_bias, simd.tile_repeat, simd.tile_width
tile_pixels, tile_fma, tile_prefetch = simd.tile_pixels, simd.tile_fma, simd.tile_prefetch
tile_fma_run, tile_shift = simd.tile_fma_run, simd.tile_shift
tile_scale, tile_add, tile_clip, tile_store = simd.tile_scale, simd.tile_add, simd.tile_clip, simd.tile_store

INFINITY = np.float32(np.inf)
SIX = np.float32(6)
W, WIDEST = simd.W, widest(simd.W)
ROW_AHEAD = 18  # the same, filter rows where a filter has one tap
NEAR = 2  # entries: how far ahead of its use the filter of a channel that is kept is asked for


@kernel
def upper_limit(activation):
    """The largest value an activation lets through."""
    return INFINITY if activation == RELU else SIX


@kernel
def conv_tile(tile, sources, inner, entries):
    """Multiply-add all entries into ``tile``: row i begins at sources[i] of the map, at inner[i] of merged planes.

    entries: (first, last, source, tap_offsets, row, singles, inputs, weights, ahead, packed, merged), see `conv_block`;
    only taps first .. last-1 are multiplied, and filters are asked for ``ahead`` entries before their use.
    """
    first, last, source, tap_offsets, row, singles, inputs, weights, ahead, packed, merged = entries
    width = tile_width(tile)
    pixels = tile_pixels(tile, source, sources)
    w = packed
    for k in range(0, row, UNROLLED):
        for i in range(UNROLLED):
            tile_prefetch(tile, w, (ROW_AHEAD + i) * width)
        tile = tile_fma_run(tile, pixels, k, w)
        w = at(w, UNROLLED * width)
    for k in range(singles):
        w, far = at(packed, weights[k] + first * width), weights[k + ahead] - weights[k]
        plane = tile_shift(tile, pixels, inputs[k])
        threes = last - (last - first) % 3  # three taps to a round: looping is a tenth of what they take
        for t in range(first, threes, 3):
            for i in range(3):
                tile_prefetch(tile, w, far + i * width)
            tile = tile_fma(tile, plane, tap_offsets[t], w)
            tile = tile_fma(tile, plane, tap_offsets[t + 1], at(w, width))
            tile = tile_fma(tile, plane, tap_offsets[t + 2], at(w, 2 * width))
            w = at(w, 3 * width)
        for t in range(threes, last):
            tile_prefetch(tile, w, far)
            tile = tile_fma(tile, plane, tap_offsets[t], w)
            w = at(w, width)
    groups, planes, size, plane_taps, filters, step = merged
    pixels = tile_pixels(tile, planes, inner)
    for k in range(groups):
        x, w = k * size, at(filters, k * step + first * width)
        for t in range(first, last):
            tile = tile_fma(tile, pixels, x + plane_taps[t], w)
            w = at(w, width)
    return tile


@kernel
def finish_tile(tile, rows, targets, residuals, ending):
    """Scale, residual, activation, store; a block with fewer than ``width`` valid channels goes through ``spill``.

    ending: (scaled, scale, shift, valid, activation, residual, target, spill), see `conv_block`.
    """
    scaled, scale, shift, valid, activation, residual, target, spill = ending
    width = tile_width(tile)
    if scaled:
        tile = tile_scale(tile, scale, shift)
    if residuals[0] >= 0:
        tile = tile_add(tile, residual, residuals)
    if activation != NO_LIMIT:
        tile = tile_clip(tile, upper_limit(activation))
    if valid == width:
        tile_store(tile, target, targets)
        return
    spilled = simd.as_ints(at(spill, ROWS * width))
    for i in range(rows):
        spilled[i] = i * width
    tile_store(tile, spill, spilled)
    for i in range(rows):
        for c in range(valid):
            target[targets[i] + c] = spill[i * width + c]


@kernel
def conv_rows(row, rows, sources, inner, targets, residuals, entries, ending):
    """One tile of ``rows`` pixels, each starting from the biases ``row``. A tile's size is part of its type."""
    if rows == 6:
        finish_tile(conv_tile(tile_repeat(row, 6), sources, inner, entries), rows, targets, residuals, ending)
    elif rows == 5:
        finish_tile(conv_tile(tile_repeat(row, 5), sources, inner, entries), rows, targets, residuals, ending)
    elif rows == 4:
        finish_tile(conv_tile(tile_repeat(row, 4), sources, inner, entries), rows, targets, residuals, ending)
    elif rows == 3:
        finish_tile(conv_tile(tile_repeat(row, 3), sources, inner, entries), rows, targets, residuals, ending)
    elif rows == 2:
        finish_tile(conv_tile(tile_repeat(row, 2), sources, inner, entries), rows, targets, residuals, ending)
    else:
        finish_tile(conv_tile(row, sources, inner, entries), rows, targets, residuals, ending)


@kernel
def conv_pixels(row, pixels, entries, ending):
    """One block of output channels at a list of pixels, tile after tile."""
    count, sources, inner, targets, residuals = pixels
    for p in range(0, count, ROWS):
        rows = min(ROWS, count - p)
        conv_rows(row, rows, at(sources, p), at(inner, p), at(targets, p), at(residuals, p), entries, ending)


@kernel
def conv_block(
    packed, vectors, bias, scales, pixels, taps, source, tap_offsets, row, singles, inputs, weights, ahead, merged,
    valid, activation, residual, target, spill,
):  # fmt: skip
    """One block of ``vectors`` * W output channels at a list of pixels.

    packed: the block's filters; its type says how they are stored.
    bias: what the sums begin with. scales: (scaled, scale, shift): whether they are multiplied by ``scale`` and added
    to ``shift`` in the end.
    pixels: (count, sources, inner, targets, residuals): how many, and for each its receptive field's first element in a
    channel of ``source`` and in a merged plane, its place in ``target`` and in ``residual``; residuals[0] < 0 means
    that there is no residual. tap_offsets[t]: from a receptive field's first element to tap t.
    row: so many taps, of the one entry there is then, follow each other in ``source`` and their filters in ``packed``;
    they are taken `UNROLLED` at a time, the others behind them.
    singles: how many channels stand for themselves; inputs[k], weights[k]: where the k-th begins in ``source``, and its
    filter in ``packed``, which is asked for ``ahead`` entries before its use: as many more offsets are read.
    merged: (groups, planes, plane, plane_taps, filters, step): how many groups follow, their planes, ``plane`` floats
    each, the offsets of taps in them, and their filters, float32 in any case, one every ``step`` floats.
    valid: channels of the block that exist. All offsets are int32.
    """
    entries = (row, taps, source, tap_offsets, row, singles, inputs, weights, ahead, packed, merged)
    ending = (*scales, valid, activation, residual, target, spill)
    if vectors == 1:
        conv_pixels(tile_bias(1, bias, 0), pixels, entries, ending)
    elif vectors == 2:
        conv_pixels(tile_bias(2, bias, 0), pixels, entries, ending)
    elif WIDEST == 4:
        conv_pixels(tile_bias(4, bias, 0), pixels, entries, ending)


@kernel
def conv_stored(stored, packed, block):
    """`conv_block` of weights that are ``stored`` as layout.FLOATS, HALVES or BYTES; block: its other arguments."""
    if stored == BYTES:
        conv_block(simd.as_bytes(packed), *block)
    elif stored == HALVES:
        conv_block(simd.as_halves(packed), *block)
    else:
        conv_block(packed, *block)
