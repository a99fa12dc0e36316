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
def conv_tile(tile, width, taps, source, tap_offsets, pixel_offsets, singles, inputs, weights, packed, groups, filters):
    """Multiply-add all entries into ``tile``; ``width`` output channels per filter row, ``taps`` rows per filter."""
    pixels = tile_pixels(tile, source, pixel_offsets)
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
def finish_tile(tile, width, rows, valid, activation, residual, residual_offsets, target, target_offsets, spill):
    """Residual, activation, store; a block with fewer than ``width`` valid channels goes through ``spill``."""
    if residual_offsets[0] >= 0:
        tile = tile_add(tile, residual, residual_offsets)
    if activation != NO_LIMIT:
        tile = tile_clip(tile, upper_limit(activation))
    if valid == width:
        tile_store(tile, target, target_offsets)
        return
    spill_offsets = simd.as_ints(at(spill, ROWS * width))
    for i in range(rows):
        spill_offsets[i] = i * width
    tile_store(tile, spill, spill_offsets)
    for i in range(rows):
        for c in range(valid):
            target[target_offsets[i] + c] = spill[i * width + c]


@kernel
def conv_rows(
    row, rows, width, taps, source, tap_offsets, sources, singles, inputs, weights, packed, groups, filters,
    valid, activation, residual, residuals, target, targets, spill,
):  # fmt: skip
    """One tile of ``rows`` pixels, each starting from the bias ``row``; a full tile is the common case."""
    if rows == 6:
        tile6 = conv_tile(tile_repeat(row, 6), width, taps, source, tap_offsets, sources, singles, inputs, weights, packed, groups, filters)  # fmt: skip
        finish_tile(tile6, width, rows, valid, activation, residual, residuals, target, targets, spill)
    elif rows == 5:
        tile5 = conv_tile(tile_repeat(row, 5), width, taps, source, tap_offsets, sources, singles, inputs, weights, packed, groups, filters)  # fmt: skip
        finish_tile(tile5, width, rows, valid, activation, residual, residuals, target, targets, spill)
    elif rows == 4:
        tile4 = conv_tile(tile_repeat(row, 4), width, taps, source, tap_offsets, sources, singles, inputs, weights, packed, groups, filters)  # fmt: skip
        finish_tile(tile4, width, rows, valid, activation, residual, residuals, target, targets, spill)
    elif rows == 3:
        tile3 = conv_tile(tile_repeat(row, 3), width, taps, source, tap_offsets, sources, singles, inputs, weights, packed, groups, filters)  # fmt: skip
        finish_tile(tile3, width, rows, valid, activation, residual, residuals, target, targets, spill)
    elif rows == 2:
        tile2 = conv_tile(tile_repeat(row, 2), width, taps, source, tap_offsets, sources, singles, inputs, weights, packed, groups, filters)  # fmt: skip
        finish_tile(tile2, width, rows, valid, activation, residual, residuals, target, targets, spill)
    else:
        tile1 = conv_tile(row, width, taps, source, tap_offsets, sources, singles, inputs, weights, packed, groups, filters)  # fmt: skip
        finish_tile(tile1, width, rows, valid, activation, residual, residuals, target, targets, spill)


@kernel
def conv_pixels(
    row, pixels, width, taps, source, tap_offsets, sources, singles, inputs, weights, packed, groups, filters,
    valid, activation, residual, residuals, target, targets, spill,
):  # fmt: skip
    """One block of output channels at ``pixels`` pixels, tile after tile."""
    for p in range(0, pixels, ROWS):
        conv_rows(
            row, min(ROWS, pixels - p), width, taps, source, tap_offsets, at(sources, p), singles, inputs, weights,
            packed, groups, filters, valid, activation, residual, at(residuals, p), target, at(targets, p), spill,
        )  # fmt: skip


@kernel
def conv_block(
    vectors, bias, pixels, taps, source, tap_offsets, sources, singles, inputs, weights, packed, groups, filters,
    valid, activation, residual, residuals, target, targets, spill,
):  # fmt: skip
    """One block of ``vectors`` * W output channels at a list of pixels.

    bias: the block's biases. source, packed, filters: planes, the block's packed filters, and its merged filters.
    tap_offsets[t]: from a receptive field's first element to tap t. sources, targets, residuals: one offset per pixel.
    inputs[k], weights[k]: offsets of entry k; entries from ``singles`` on are groups, with filters in a row.
    valid: channels of the block that exist. All offsets are int32; residuals[0] < 0 means there is no residual.
    """
    if vectors == 1:
        conv_pixels(tile_bias(1, bias, 0), pixels, W, taps, source, tap_offsets, sources, singles, inputs, weights, packed, groups, filters, valid, activation, residual, residuals, target, targets, spill)  # fmt: skip
    elif vectors == 2:
        conv_pixels(tile_bias(2, bias, 0), pixels, 2 * W, taps, source, tap_offsets, sources, singles, inputs, weights, packed, groups, filters, valid, activation, residual, residuals, target, targets, spill)  # fmt: skip
    elif W != 8:  # 4 vectors of 6 rows fit NEON's and AVX-512's 32 registers, not AVX2's 16
        conv_pixels(tile_bias(4, bias, 0), pixels, 4 * W, taps, source, tap_offsets, sources, singles, inputs, weights, packed, groups, filters, valid, activation, residual, residuals, target, targets, spill)  # fmt: skip
