"""The convolution micro-kernel: a tile of output pixels and channels stays in registers over all input channels.

An *entry* is one input plane with one filter: a pair of offsets. Dense convolution lists every channel; merged
convolution lists the channels that are alone, in place, and then the groups, whose planes and filters lie in scratch.
Each output element is one chain of fused multiply-adds in the order (entry, ky, kx), starting at the bias, so results
are the same on every CPU and for every register width.
"""

from __future__ import annotations

import numpy as np

from haste_runtime.kernels.jit import kernel, simd
from haste_runtime.kernels.layout import NO_LIMIT, RELU, ROWS

at, prefetch = simd.at, simd.prefetch
tile_bias, tile_repeat, tile_pixels, tile_fma = simd.tile_bias, simd.tile_repeat, simd.tile_pixels, simd.tile_fma
tile_add, tile_clip, tile_store = simd.tile_add, simd.tile_clip, simd.tile_store

INFINITY = np.float32(np.inf)
SIX = np.float32(6)
W = simd.W
AHEAD = 16  # taps: how far ahead of its use a filter row is asked for


@kernel
def upper_limit(activation):
    """The largest value an activation lets through."""
    return INFINITY if activation == RELU else SIX


@kernel
def conv_tile(tile, sources, entries):
    """Multiply-add all entries into ``tile``, whose rows are the pixels that begin at ``sources``.

    entries: (width, taps, source, tap_offsets, singles, inputs, weights, packed, groups, filters), see `conv_block`;
    ``width`` output channels per filter row.
    """
    width, taps, source, tap_offsets, singles, inputs, weights, packed, groups, filters = entries
    pixels = tile_pixels(tile, source, sources)
    for k in range(singles):
        x, w = inputs[k], at(packed, weights[k])
        for t in range(taps):
            prefetch(w, AHEAD * width)
            tile = tile_fma(tile, pixels, x + tap_offsets[t], w)
            w = at(w, width)
    w = filters
    for k in range(singles, singles + groups):
        x = inputs[k]
        for t in range(taps):
            tile = tile_fma(tile, pixels, x + tap_offsets[t], w)
            w = at(w, width)
    return tile


@kernel
def finish_tile(tile, rows, targets, residuals, ending):
    """Residual, activation, store; a block with fewer than ``width`` valid channels goes through ``spill``.

    ending: (width, valid, activation, residual, target, spill), see `conv_block`.
    """
    width, valid, activation, residual, target, spill = ending
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
def conv_rows(row, rows, sources, targets, residuals, entries, ending):
    """One tile of ``rows`` pixels, each starting from the biases ``row``. A tile's size is part of its type."""
    if rows == 6:
        finish_tile(conv_tile(tile_repeat(row, 6), sources, entries), rows, targets, residuals, ending)
    elif rows == 5:
        finish_tile(conv_tile(tile_repeat(row, 5), sources, entries), rows, targets, residuals, ending)
    elif rows == 4:
        finish_tile(conv_tile(tile_repeat(row, 4), sources, entries), rows, targets, residuals, ending)
    elif rows == 3:
        finish_tile(conv_tile(tile_repeat(row, 3), sources, entries), rows, targets, residuals, ending)
    elif rows == 2:
        finish_tile(conv_tile(tile_repeat(row, 2), sources, entries), rows, targets, residuals, ending)
    else:
        finish_tile(conv_tile(row, sources, entries), rows, targets, residuals, ending)


@kernel
def conv_pixels(row, pixels, entries, ending):
    """One block of output channels at a list of pixels, tile after tile."""
    count, sources, targets, residuals = pixels
    for p in range(0, count, ROWS):
        conv_rows(row, min(ROWS, count - p), at(sources, p), at(targets, p), at(residuals, p), entries, ending)


@kernel
def conv_block(
    vectors, bias, pixels, taps, source, tap_offsets, singles, inputs, weights, packed, groups, filters,
    valid, activation, residual, target, spill,
):  # fmt: skip
    """One block of ``vectors`` * W output channels, whose biases are ``bias``, at a list of pixels.

    pixels: (count, sources, targets, residuals): how many, and for each its receptive field's first element in a plane
    of ``source``, its place in ``target`` and in ``residual``; residuals[0] < 0 means that there is no residual.
    tap_offsets[t]: from a receptive field's first element to tap t. singles, groups: how many entries of each kind.
    inputs[k], weights[k]: entry k's plane in ``source`` and its filter in ``packed``; the groups, which come last, have
    their filters in a row in ``filters``. valid: channels of the block that exist. All offsets are int32.
    """
    width = vectors * W
    entries = (width, taps, source, tap_offsets, singles, inputs, weights, packed, groups, filters)
    ending = (width, valid, activation, residual, target, spill)
    if vectors == 1:
        conv_pixels(tile_bias(1, bias, 0), pixels, entries, ending)
    elif vectors == 2:
        conv_pixels(tile_bias(2, bias, 0), pixels, entries, ending)
    elif W != 8:  # 4 vectors of 6 rows fit NEON's and AVX-512's 32 registers, not AVX2's 16
        conv_pixels(tile_bias(4, bias, 0), pixels, entries, ending)
