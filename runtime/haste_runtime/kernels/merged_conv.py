"""Convolution with merged channels (HASTE, section 3): per patch hash, group, merge inputs and filters, convolve.

A channel that is alone keeps its own plane and its packed filter in place; only groups of two and more get a plane and
a filter in scratch: sums of their members', each times the member's scale (`haste_runtime.merge`). The multiply-adds
are those of `haste_runtime.kernels.tile_conv`.
"""

from __future__ import annotations

import numpy as np

from haste_runtime.kernels import layout as t
from haste_runtime.kernels.group_patch import group_patch
from haste_runtime.kernels.hash_patch import code_channels, patch_peak, project_patch, quantise_patch
from haste_runtime.kernels.jit import kernel, simd
from haste_runtime.kernels.tile_conv import conv_block

at, as_ints, as_shorts = simd.at, simd.as_ints, simd.as_shorts
vector_load, vector_store, vector_fill, vector_fma, vector_scale = (
    simd.vector_load, simd.vector_store, simd.vector_fill, simd.vector_fma, simd.vector_scale,
)  # fmt: skip
W = simd.W
DEAD_BELOW = 27 << 23  # bits of 2^-100: a patch without any larger magnitude counts as all zero
RANGE = np.float32(127)
ONE, ZERO = np.float32(1), np.float32(0)


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
def sum_group(source, size, members, scales, first, last, factor, target):
    """target = factor * (the rows members[first .. last-1] of ``source``, each ``size`` floats, times their channels'
    scales, added in that order). Scales of 1 leave the sum as if it were of the rows.

    Six sums run at once, as one would wait for each addition before it could begin the next.
    """
    wide = size - size % (6 * W)
    for i in range(0, wide, 6 * W):
        row, scale = at(source, members[first] * size + i), scales[members[first]]
        a, b = vector_scale(vector_load(row, 0), scale), vector_scale(vector_load(row, W), scale)
        c, d = vector_scale(vector_load(row, 2 * W), scale), vector_scale(vector_load(row, 3 * W), scale)
        e, f = vector_scale(vector_load(row, 4 * W), scale), vector_scale(vector_load(row, 5 * W), scale)
        for k in range(first + 1, last):
            row, s = at(source, members[k] * size + i), vector_fill(scales[members[k]])
            a, b = vector_fma(a, vector_load(row, 0), s), vector_fma(b, vector_load(row, W), s)
            c, d = vector_fma(c, vector_load(row, 2 * W), s), vector_fma(d, vector_load(row, 3 * W), s)
            e, f = vector_fma(e, vector_load(row, 4 * W), s), vector_fma(f, vector_load(row, 5 * W), s)
        vector_store(target, i, vector_scale(a, factor))
        vector_store(target, i + W, vector_scale(b, factor))
        vector_store(target, i + 2 * W, vector_scale(c, factor))
        vector_store(target, i + 3 * W, vector_scale(d, factor))
        vector_store(target, i + 4 * W, vector_scale(e, factor))
        vector_store(target, i + 5 * W, vector_scale(f, factor))
    for i in range(wide, size, W):
        total = vector_scale(vector_load(source, members[first] * size + i), scales[members[first]])
        for k in range(first + 1, last):
            total = vector_fma(total, vector_load(source, members[k] * size + i), vector_fill(scales[members[k]]))
        vector_store(target, i, vector_scale(total, factor))


@kernel
def merge_planes(planes, plane, channels, groups, start, members, scales, shares):
    """Plane channels + g = (sum of a_c times channel c's plane) / (sum of a_c s_c) over group g, in channel order; zero
    where all scales are. shares: a_c, the scales times what an error of the channel weighs."""
    for g in range(groups):
        squares = ZERO
        for k in range(start[g], start[g + 1]):
            squares += shares[members[k]] * scales[members[k]]
        factor = ONE / squares if squares > 0 else ZERO
        sum_group(planes, plane, members, shares, start[g], start[g + 1], factor, at(planes, (channels + g) * plane))


@kernel
def merge_filters(packed, size, groups, start, members, scales, filters):
    """filters[g] = sum of s_c times channel c's packed filters of one block (``size`` floats), in channel order."""
    for g in range(groups):
        sum_group(packed, size, members, scales, start[g], start[g + 1], ONE, at(filters, g * size))


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
    quantise_patch(x, op[t.XROW], channels, y0, y1, x0, x1, side, level[t.SPAN], inverse, quantised)
    project_patch(quantised, channels, level[t.SPAN], level[t.BITS], at(index, level[t.SIGNS]), starts, sums)
    code_channels(sums, channels, level[t.BITS], codes)
    return True


@kernel
def list_entries(op, level, arena, scratch, singles, groups):
    """Turn the list of single channels into entry lists, and add the groups."""
    inputs = as_ints(at(arena, scratch + level[t.INPUTS]))
    weights = as_ints(at(arena, scratch + level[t.WEIGHTS]))
    for k in range(singles):
        channel = np.int64(weights[k])
        inputs[k] = channel * level[t.PLANE]
        weights[k] = channel * op[t.KY] * op[t.KX] * op[t.VECTORS] * W
    for g in range(groups):
        inputs[singles + g] = (op[t.XC] + g) * level[t.PLANE]


@kernel
def merge_window(op, level, arena, index, scratch, counters, x, y0, y1, x0, x1):
    """Group a live patch's coded channels, gather and merge their planes, list the entries; (singles, groups)."""
    channels, plane = op[t.XC], level[t.PLANE]
    singles, groups = group_patch(op, level, arena, index, scratch, counters)
    list_entries(op, level, arena, scratch, singles, groups)
    planes, scales = at(arena, scratch + level[t.PLANES]), at(arena, scratch + level[t.SCALES])
    gather_planes(x, op[t.XROW], channels, y0, y1, x0, x1, level[t.SIDE], planes, plane)
    start, members = as_ints(at(arena, scratch + level[t.START])), as_ints(at(arena, scratch + level[t.MEMBERS]))
    shares = scales
    if level[t.POLICY] == t.WITHIN_BUDGET:
        shares, importance = at(arena, scratch + level[t.SHARES]), at(index, level[t.IMPORTANCE])
        for c in range(channels):
            shares[c] = np.float32(importance[c]) * scales[c]
    merge_planes(planes, plane, channels, groups, start, members, scales, shares)
    counters[t.MERGED] += start[groups]
    return singles, groups


@kernel
def record_patch(op, level, arena, scratch, trace, number, live):
    """The patch's codes and, behind them, its channels' leaders; -1 throughout on a dead patch."""
    channels = op[t.XC]
    codes, leaders = as_ints(at(arena, scratch + level[t.CODES])), as_ints(at(arena, scratch + level[t.LEADERS]))
    recorded = at(trace, level[t.TRACE] + 2 * number * channels)
    for c in range(channels):
        recorded[c] = codes[c]
        recorded[channels + c] = leaders[c] if live else np.int32(-1)


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
    filters, scales = at(arena, scratch + level[t.FILTERS]), at(arena, scratch + level[t.SCALES])
    spill = at(arena, scratch + op[t.SPILL])
    sources = as_ints(at(arena, scratch + op[t.PIXELS]))
    targets = at(sources, op[t.ROOM])
    residuals = at(targets, op[t.ROOM])
    for block in range(op[t.BLOCKS]):
        own = at(packed, op[t.WEIGHT] + block * op[t.XC] * taps * width)
        merge_filters(own, taps * width, groups, start, members, scales, filters)
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

    level: this layer's row of the level table. counters: this worker's counts of this layer.
    trace: where every patch's codes and leaders are recorded, if level[TRACE] >= 0.
    """
    patch, side = level[t.PATCH], level[t.SIDE]
    taps = as_ints(at(arena, scratch + level[t.MERGED_TAPS]))
    for ky in range(op[t.KY]):
        for kx in range(op[t.KX]):
            taps[ky * op[t.KX] + kx] = ky * op[t.DY] * side + kx * op[t.DX]
    sources = as_ints(at(arena, scratch + op[t.PIXELS]))
    for number in range(worker, level[t.TILES_Y] * level[t.TILES_X], workers):
        ty = number // level[t.TILES_X]
        tx = number - ty * level[t.TILES_X]
        top, left = ty * patch, tx * patch  # of the tile in the output; below: of the patch in the input
        wy, wx = top * op[t.SY] - op[t.PTOP], left * op[t.SX] - op[t.PLEFT]
        y0, x0 = max(0, -wy), max(0, -wx)
        y1, x1 = min(side, op[t.XH] - wy), min(side, op[t.XW] - wx)
        x = at(arena, op[t.X] + (wy + y0) * op[t.XROW] + (wx + x0) * op[t.XPIXEL])
        singles, groups = 0, 0
        live = hash_window(op, level, arena, index, scratch, x, y0, y1, x0, x1)
        if live:
            singles, groups = merge_window(op, level, arena, index, scratch, counters, x, y0, y1, x0, x1)
        if level[t.TRACE] >= 0:
            record_patch(op, level, arena, scratch, trace, number, live)
        height, width = min(patch, op[t.YH] - top), min(patch, op[t.YW] - left)
        list_window_pixels(
            op, level, top, left, height, width, sources, at(sources, op[t.ROOM]), at(sources, 2 * op[t.ROOM])
        )
        convolve_window(op, level, arena, packed, scratch, singles, groups, height * width)
        counters[t.PATCHES] += 1
        counters[t.KEPT] += singles + groups
        counters[t.KEPT_PIXELS] += (singles + groups) * height * width
