"""Merged 3x3 convolution with stride 1 by Winograd's algorithm: both are linear in the channels, so they commute.

Codes, groups and scales of a patch are those of `haste_runtime.kernels.merged_conv`. Then its tiles are transformed,
groups' planes and filters are summed in the transformed domain, and only kept entries are multiplied.
"""

from __future__ import annotations

import numpy as np

from haste_runtime.kernels import layout as t
from haste_runtime.kernels.jit import kernel, simd
from haste_runtime.kernels.layout import TOGETHER
from haste_runtime.kernels.look import find_groups, middle_patch, record_patch
from haste_runtime.kernels.merged_conv import LINE
from haste_runtime.kernels.winograd_conv import clear_row, finish_tiles, transform_tile
from haste_runtime.kernels.winograd_multiply import multiply

at, as_ints, load, store = simd.at, simd.as_ints, simd.vector_load, simd.vector_store
fill, fma = simd.vector_fill, simd.vector_fma
W = simd.W
ONE, ZERO = np.float32(1), np.float32(0)


@kernel
def transform_patch(op, way, arena, scratch, grid):
    """Values [position][channel][tile] of a patch's tiles. grid: see `convolve_patch`."""
    top, left, _, _, across, tiles = grid
    side, positions = way[t.EDGE], (way[t.EDGE] + 2) * (way[t.EDGE] + 2)
    row = (way[t.ROOM_TILES] + W - 1) // W * W
    lines = at(arena, scratch + way[t.LINES])
    stage = at(lines, 2 * positions * W + op[t.VECTORS] * W)  # behind `clear_row`
    for c in range(0, op[t.XC], W):
        for first in range(0, tiles, W):
            for tile in range(first, min(first + W, tiles)):
                ty = tile // across
                y, x = top + ty * side - op[t.PTOP], left + (tile - ty * across) * side - op[t.PLEFT]
                transform_tile(op, side, arena, lines, y, x, c, at(stage, (tile - first) * W), W * W)
            values = at(arena, scratch + way[t.VALUES] + c * row + first)
            for position in range(positions):
                simd.transpose(at(stage, position * W * W), W, at(values, position * way[t.VALUES_STEP]), row)


@kernel
def list_merged(op, level, arena, scratch, groups):
    """The channels that are in groups, in order, and behind them (C further) each one's group; returns how many."""
    start, members = as_ints(at(arena, scratch + level[t.START])), as_ints(at(arena, scratch + level[t.MEMBERS]))
    home = as_ints(at(arena, scratch + level[t.MEMBERS_OF]))
    channels = as_ints(at(arena, scratch + level[t.TABLE]))
    homes = at(channels, op[t.XC])
    for c in range(op[t.XC]):
        home[c] = -1
    for g in range(groups):
        for k in range(start[g], start[g + 1]):
            home[members[k]] = g
    count = 0
    for c in range(op[t.XC]):
        if home[c] >= 0:
            channels[count], homes[count] = c, home[c]
            count += 1
    return count


@kernel
def add_members(source, step, size, merged, factors, target, target_step, groups):
    """At `TOGETHER` positions the groups' sums of rows of ``size`` floats, each times its channel's factor.

    merged: (count, channels, homes), see `list_merged`. Rows are taken channel by channel, as they lie in memory, and
    so a group's in the order of its members. step, target_step: from one position to the next; sums lie in rows, too.
    """
    count, channels, homes = merged
    s2, s3, t2, t3 = 2 * step, 3 * step, 2 * target_step, 3 * target_step
    for position in range(TOGETHER):
        for i in range(0, groups * size, W):
            store(target, position * target_step + i, fill(ZERO))
    for k in range(count):
        channel = np.int64(channels[k])
        row, total, factor = at(source, channel * size), at(target, np.int64(homes[k]) * size), fill(factors[channel])
        for position in range(TOGETHER, 2 * TOGETHER):  # what the next call asks for
            for i in range(0, size, LINE):
                simd.prefetch(row, position * step + i)
        for i in range(0, size, W):
            a, b = fma(load(total, i), load(row, i), factor), load(row, step + i)
            c, d = load(row, s2 + i), load(row, s3 + i)
            store(total, i, a)
            store(total, target_step + i, fma(load(total, target_step + i), b, factor))
            store(total, t2 + i, fma(load(total, t2 + i), c, factor))
            store(total, t3 + i, fma(load(total, t3 + i), d, factor))


@kernel
def share_out(op, level, arena, index, scratch, groups):
    """Each channel's factor in its group's plane: a_c / sum of a_c s_c, s_c being the scale and a_c that times what an
    error of the channel weighs (`haste_runtime.kernels.merged_conv.merge_planes`); zero where that is 0 / 0."""
    start, members = as_ints(at(arena, scratch + level[t.START])), as_ints(at(arena, scratch + level[t.MEMBERS]))
    scales, shares = at(arena, scratch + level[t.SCALES]), at(arena, scratch + level[t.SHARES])
    importance, weighed = at(index, level[t.IMPORTANCE]), level[t.POLICY] == t.WITHIN_BUDGET
    for g in range(groups):
        squares = ZERO
        for k in range(start[g], start[g + 1]):
            c = members[k]
            shares[c] = np.float32(importance[c]) * scales[c] if weighed else scales[c]
            squares += shares[c] * scales[c]
        factor = ONE / squares if squares > 0 else ZERO
        for k in range(start[g], start[g + 1]):
            shares[members[k]] *= factor


@kernel
def merge_values(op, level, way, arena, scratch, merged, groups):
    """Planes of the groups, behind those of the channels."""
    shares, step = at(arena, scratch + level[t.SHARES]), way[t.VALUES_STEP]
    row, padded = (way[t.ROOM_TILES] + W - 1) // W * W, (op[t.XC] + W - 1) // W * W
    for position in range(0, (way[t.EDGE] + 2) * (way[t.EDGE] + 2), TOGETHER):
        values = at(arena, scratch + way[t.VALUES] + position * step)
        add_members(values, step, row, merged, shares, at(values, padded * row), step, groups)


@kernel
def list_values(op, level, way, arena, scratch, singles, groups):
    """Turn the list of single channels into entry lists, and add the groups."""
    inputs = as_ints(at(arena, scratch + level[t.INPUTS]))
    weights = as_ints(at(arena, scratch + level[t.WEIGHTS]))
    row, padded = (way[t.ROOM_TILES] + W - 1) // W * W, (op[t.XC] + W - 1) // W * W
    for k in range(singles):
        channel = np.int64(weights[k])
        inputs[k], weights[k] = channel * row, channel * op[t.VECTORS] * W
    for g in range(groups):
        inputs[singles + g] = (padded + g) * row


@kernel
def convolve_patch(op, level, way, arena, packed, scratch, merged, singles, groups, grid, begin, end):
    """Blocks begin .. end-1 of one patch's output channels. merged: see `add_members`. grid: (top, left, bottom, right:
    the patch's output pixels; tiles across, tiles)."""
    top, left, bottom, right, across, tiles = grid
    positions, width, channels = (way[t.EDGE] + 2) * (way[t.EDGE] + 2), op[t.VECTORS] * W, op[t.XC]
    filters, scales = at(arena, scratch + level[t.FILTERS]), at(arena, scratch + level[t.SCALES])
    zeros = clear_row(way, arena, scratch, width)
    sources = as_ints(at(arena, scratch + way[t.LISTS]))
    targets = at(sources, way[t.ROOM_TILES])
    for i in range(tiles):
        sources[i], targets[i] = i, i * positions * width
    inputs = as_ints(at(arena, scratch + level[t.INPUTS]))
    weights = as_ints(at(arena, scratch + level[t.WEIGHTS]))
    for block in range(begin, end):
        for first in range(0, positions, TOGETHER):
            own = at(packed, way[t.FILTERS_AT] + (block * positions + first) * channels * width)
            add_members(own, channels * width, width, merged, scales, filters, groups * width, groups)
            for i in range(TOGETHER):
                values = at(arena, scratch + way[t.VALUES] + (first + i) * way[t.VALUES_STEP])
                entries = (
                    values, np.int64(0), singles, inputs, weights, at(own, i * channels * width), groups,
                    at(filters, i * groups * width),
                )  # fmt: skip
                sums = at(arena, scratch + way[t.SUMS_AT] + (first + i) * width)
                multiply(op[t.VECTORS], zeros, tiles, sources, targets, entries, sums)
        finish_tiles(op, way, arena, packed, scratch, block, across, 0, tiles, top, left, bottom, right)


@kernel
def merge_patch(op, level, arena, packed, index, scratch, counters, trace, number, found, begin, end):
    """Blocks begin .. end-1 of output channels of one patch. found: `find_groups` of this patch."""
    way, patch = at(level, t.MERGED_WINOGRAD), level[t.PATCH]
    side = way[t.EDGE]
    ty = number // level[t.TILES_X]
    top, left = ty * patch, (number - ty * level[t.TILES_X]) * patch  # of the patch's outputs
    bottom, right = min(top + patch, op[t.YH]), min(left + patch, op[t.YW])
    across = (right - left + side - 1) // side
    grid = (top, left, bottom, right, across, (bottom - top + side - 1) // side * across)
    listed = as_ints(at(arena, scratch + level[t.TABLE]))
    (live, singles, groups), count = found, 0
    if live:
        list_values(op, level, way, arena, scratch, singles, groups)
        transform_patch(op, way, arena, scratch, grid)
        share_out(op, level, arena, index, scratch, groups)
        count = list_merged(op, level, arena, scratch, groups)
        merge_values(op, level, way, arena, scratch, (count, listed, at(listed, op[t.XC])), groups)
    if level[t.TRACE] >= 0 and begin == 0:
        record_patch(op, level, arena, scratch, trace, number, live)
    merged = (count, listed, at(listed, op[t.XC]))
    convolve_patch(op, level, way, arena, packed, scratch, merged, singles, groups, grid, begin, end)
    counters[t.PATCHES] += 1
    counters[t.MERGED] += count
    counters[t.KEPT] += singles + groups
    counters[t.KEPT_PIXELS] += (singles + groups) * (bottom - top) * (right - left)


@kernel
def merged_winograd(op, level, arena, packed, index, scratch, counters, trace, seen, worker, workers):
    """What `haste_runtime.kernels.merged_conv.merged_conv` computes, but for rounding, shared out like there."""
    patches, blocks, middle = level[t.TILES_Y] * level[t.TILES_X], op[t.BLOCKS], middle_patch(level)
    shared = patches < workers  # a patch, among all workers
    begin, end = (blocks * worker // workers, blocks * (worker + 1) // workers) if shared else (0, blocks)
    for i in range(0 if shared else worker, patches, 1 if shared else workers):
        number = middle + i if middle + i < patches else middle + i - patches
        found = seen
        if i > 0 or level[t.MOST_KEPT] < 0:
            found = find_groups(op, level, arena, index, scratch, counters, number)
        merge_patch(op, level, arena, packed, index, scratch, counters, trace, number, found, begin, end)
    if shared and worker > 0:
        for i in range(t.COUNTERS):
            counters[i] = 0
