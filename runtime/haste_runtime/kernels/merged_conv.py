"""Convolution with merged channels (HASTE, section 3): per patch hash, group, average inputs, sum filters, convolve.

A channel that is alone keeps its own plane and its packed filter in place; only groups of two and more get an averaged
plane and summed filters, in scratch. The multiply-adds are those of `haste_runtime.kernels.tile_conv`.
"""

from __future__ import annotations

import numpy as np

from haste_runtime.kernels import layout as t
from haste_runtime.kernels.hash_patch import code_channels, group_channels, patch_peak, project_patch, quantise_patch
from haste_runtime.kernels.jit import kernel, simd
from haste_runtime.kernels.tile_conv import conv_block

at, as_ints, as_shorts = simd.at, simd.as_ints, simd.as_shorts
vector_load, vector_store, vector_add, vector_scale = (
    simd.vector_load, simd.vector_store, simd.vector_add, simd.vector_scale,
)  # fmt: skip
W = simd.W
DEAD_BELOW = 27 << 23  # bits of 2^-100: a patch without any larger magnitude counts as all zero
RANGE = np.float32(127)


@kernel
def gather_planes(x, row_stride, channels, y0, y1, x0, x1, side, planes, plane):
    """planes[c][y][x] of a patch, zero outside rows y0..y1 and columns x0..x1; x points at its pixel (y0, x0)."""
    if y0 > 0 or x0 > 0 or y1 < side or x1 < side:
        for i in range(channels * plane):
            planes[i] = 0
    for c in range(0, channels, W):
        for y in range(y0, y1):
            source = at(x, (y - y0) * row_stride + c)
            target = at(planes, c * plane + y * side + x0)
            done = 0
            if c + W <= channels:
                while done + W <= x1 - x0:
                    simd.transpose(at(source, done * channels), channels, at(target, done), plane)
                    done += W
            for p in range(done, x1 - x0):
                for i in range(min(W, channels - c)):
                    target[i * plane + p] = source[p * channels + i]


@kernel
def sum_group(source, size, members, first, last, factor, target):
    """target = factor * (the rows members[first .. last-1] of ``source``, each ``size`` floats, added in that order).

    Six sums run at once, as one would wait for each addition before it could begin the next.
    """
    wide = size - size % (6 * W)
    for i in range(0, wide, 6 * W):
        row = at(source, members[first] * size + i)
        a, b, c = vector_load(row, 0), vector_load(row, W), vector_load(row, 2 * W)
        d, e, f = vector_load(row, 3 * W), vector_load(row, 4 * W), vector_load(row, 5 * W)
        for k in range(first + 1, last):
            row = at(source, members[k] * size + i)
            a, b = vector_add(a, vector_load(row, 0)), vector_add(b, vector_load(row, W))
            c, d = vector_add(c, vector_load(row, 2 * W)), vector_add(d, vector_load(row, 3 * W))
            e, f = vector_add(e, vector_load(row, 4 * W)), vector_add(f, vector_load(row, 5 * W))
        vector_store(target, i, vector_scale(a, factor))
        vector_store(target, i + W, vector_scale(b, factor))
        vector_store(target, i + 2 * W, vector_scale(c, factor))
        vector_store(target, i + 3 * W, vector_scale(d, factor))
        vector_store(target, i + 4 * W, vector_scale(e, factor))
        vector_store(target, i + 5 * W, vector_scale(f, factor))
    for i in range(wide, size, W):
        total = vector_load(source, members[first] * size + i)
        for k in range(first + 1, last):
            total = vector_add(total, vector_load(source, members[k] * size + i))
        vector_store(target, i, vector_scale(total, factor))


@kernel
def average_planes(planes, plane, channels, groups, start, members):
    """Plane channels + g = mean of group g's planes, added in channel order."""
    for g in range(groups):
        share = np.float32(1) / np.float32(start[g + 1] - start[g])
        sum_group(planes, plane, members, start[g], start[g + 1], share, at(planes, (channels + g) * plane))


@kernel
def sum_filters(packed, size, groups, start, members, filters):
    """filters[g] = sum of the group's packed filters of one block (``size`` floats each), added in channel order."""
    for g in range(groups):
        sum_group(packed, size, members, start[g], start[g + 1], np.float32(1), at(filters, g * size))


@kernel
def hash_window(op, level, arena, index, scratch, x, y0, y1, x0, x1):
    """Codes of one patch's channels into scratch; False where the patch is dead (its codes are then -1)."""
    channels, side = op[t.XC], level[t.SIDE]
    codes = as_ints(at(arena, scratch + level[t.CODES]))
    rows, columns = max(y1 - y0, 0), max(x1 - x0, 0)
    peak = patch_peak(x, op[t.XROW], columns * channels, rows)
    if peak < DEAD_BELOW:
        for c in range(channels):
            codes[c] = -1
        return False
    bits = as_ints(at(arena, scratch + level[t.SUMS]))
    bits[0] = peak
    inverse = RANGE / at(arena, scratch + level[t.SUMS])[0]  # the bits read back as a float
    quantised = as_shorts(at(arena, scratch + level[t.QUANTISED]))
    sums = as_ints(at(arena, scratch + level[t.SUMS]))
    starts = at(index, level[t.STARTS])
    quantise_patch(x, op[t.XROW], channels, y0, y1, x0, x1, side, inverse, quantised)
    project_patch(quantised, channels, side * side, level[t.BITS], at(index, level[t.SIGNS]), starts, sums)
    code_channels(sums, channels, level[t.BITS], codes)
    return True


@kernel
def list_entries(op, level, arena, scratch):
    """Group the coded channels and write the entry lists; returns (singles, groups)."""
    channels, taps = op[t.XC], op[t.KY] * op[t.KX]
    size = 1
    while size < 2 * channels:
        size *= 2
    inputs = as_ints(at(arena, scratch + level[t.INPUTS]))
    weights = as_ints(at(arena, scratch + level[t.WEIGHTS]))
    singles, groups = group_channels(
        as_ints(at(arena, scratch + level[t.CODES])), channels, as_ints(at(arena, scratch + level[t.TABLE])), size,
        as_ints(at(arena, scratch + level[t.FIRST])), as_ints(at(arena, scratch + level[t.MEMBERS_OF])),
        as_ints(at(arena, scratch + level[t.START])), as_ints(at(arena, scratch + level[t.MEMBERS])), weights,
    )  # fmt: skip
    for k in range(singles):
        channel = np.int64(weights[k])
        inputs[k] = channel * level[t.PLANE]
        weights[k] = channel * taps * op[t.VECTORS] * W
    for g in range(groups):
        inputs[singles + g] = (channels + g) * level[t.PLANE]
    return singles, groups


@kernel
def list_window_pixels(op, level, top, left, height, width, sources, targets, residuals):
    """Offsets of a tile's output pixels into its planes, the output and the residual (-1 where there is none)."""
    i = 0
    for y in range(height):
        for x in range(width):
            sources[i] = (y * level[t.SIDE] + x) * op[t.SY]
            targets[i] = (top + y) * op[t.YROW] + (left + x) * op[t.YPIXEL]
            residuals[i] = (top + y) * op[t.RROW] + (left + x) * op[t.RPIXEL] if op[t.R] >= 0 else -1
            i += 1


@kernel
def convolve_window(op, level, arena, packed, scratch, singles, groups, pixels):
    """All output channels of one patch from its entry lists, block by block."""
    taps, width = op[t.KY] * op[t.KX], op[t.VECTORS] * W
    start, members = as_ints(at(arena, scratch + level[t.START])), as_ints(at(arena, scratch + level[t.MEMBERS]))
    filters, spill = at(arena, scratch + level[t.FILTERS]), at(arena, scratch + op[t.SPILL])
    sources = as_ints(at(arena, scratch + op[t.PIXELS]))
    targets = at(sources, op[t.ROOM])
    residuals = at(targets, op[t.ROOM])
    for block in range(op[t.BLOCKS]):
        own = at(packed, op[t.WEIGHT] + block * op[t.XC] * taps * width)
        sum_filters(own, taps * width, groups, start, members, filters)
        conv_block(
            op[t.VECTORS], at(packed, op[t.BIAS] + block * width), (pixels, sources, targets, residuals), taps,
            at(arena, scratch + level[t.PLANES]), as_ints(at(arena, scratch + level[t.MERGED_TAPS])), singles,
            as_ints(at(arena, scratch + level[t.INPUTS])), as_ints(at(arena, scratch + level[t.WEIGHTS])), own, groups,
            filters, min(width, op[t.GROUP_OUT] - block * width), op[t.ACTIVATION],
            at(arena, max(op[t.R], 0) + block * width), at(arena, op[t.Y] + block * width), spill,
        )  # fmt: skip


@kernel
def merged_conv(op, level, arena, packed, index, scratch, counters, trace, worker, workers):
    """act(merged convolution + bias + residual) of one map; workers share out the patches.

    level: this layer's row of the level table. counters: this worker's four counts of this layer.
    trace: where the codes of every patch are recorded, if level[TRACE] >= 0.
    """
    patch, side, channels = level[t.PATCH], level[t.SIDE], op[t.XC]
    taps = as_ints(at(arena, scratch + level[t.MERGED_TAPS]))
    for ky in range(op[t.KY]):
        for kx in range(op[t.KX]):
            taps[ky * op[t.KX] + kx] = ky * op[t.DY] * side + kx * op[t.DX]
    sources = as_ints(at(arena, scratch + op[t.PIXELS]))
    codes = as_ints(at(arena, scratch + level[t.CODES]))
    for number in range(worker, level[t.TILES_Y] * level[t.TILES_X], workers):
        ty = number // level[t.TILES_X]
        tx = number - ty * level[t.TILES_X]
        top, left = ty * patch, tx * patch  # of the tile in the output; below: of the patch in the input
        wy, wx = top * op[t.SY] - op[t.PTOP], left * op[t.SX] - op[t.PLEFT]
        y0, x0 = max(0, -wy), max(0, -wx)
        y1, x1 = min(side, op[t.XH] - wy), min(side, op[t.XW] - wx)
        x = at(arena, op[t.X] + (wy + y0) * op[t.XROW] + (wx + x0) * op[t.XPIXEL])
        singles, groups = 0, 0
        if hash_window(op, level, arena, index, scratch, x, y0, y1, x0, x1):
            singles, groups = list_entries(op, level, arena, scratch)
            planes = at(arena, scratch + level[t.PLANES])
            gather_planes(x, op[t.XROW], channels, y0, y1, x0, x1, side, planes, level[t.PLANE])
            start, members = (
                as_ints(at(arena, scratch + level[t.START])),
                as_ints(at(arena, scratch + level[t.MEMBERS])),
            )
            average_planes(planes, level[t.PLANE], channels, groups, start, members)
            counters[t.MERGED] += start[groups]
        if level[t.TRACE] >= 0:
            for c in range(channels):
                trace[level[t.TRACE] + number * channels + c] = codes[c]
        height, width = min(patch, op[t.YH] - top), min(patch, op[t.YW] - left)
        list_window_pixels(
            op, level, top, left, height, width, sources, at(sources, op[t.ROOM]), at(sources, 2 * op[t.ROOM])
        )
        convolve_window(op, level, arena, packed, scratch, singles, groups, height * width)
        counters[t.PATCHES] += 1
        counters[t.KEPT] += singles + groups
        counters[t.KEPT_PIXELS] += (singles + groups) * height * width
