"""Convolution with merged channels (HASTE, section 3): per patch hash, group, merge inputs and filters, convolve.

A channel that is alone keeps its own plane and its packed filter in place; only groups of two and more get a plane and
a filter in scratch: sums of their members', each times the member's scale (`haste_runtime.merge`). By the policy
"affine" the plane is a copy of the leader's, and constants are added (`haste_runtime.kernels.constant_patch`). The
multiply-adds are those of `haste_runtime.kernels.tile_conv`.
"""

from __future__ import annotations

import numpy as np

from haste_runtime.kernels import layout as t
from haste_runtime.kernels.constant_patch import (
    add_addends,
    copy_leaders,
    finish_addends,
    list_addends,
    spread_constants,
)  # fmt: skip
from haste_runtime.kernels.deep_conv import add_stored, begin_totals, finish_totals, list_ranges
from haste_runtime.kernels.dense_conv import block_scales
from haste_runtime.kernels.jit import kernel, simd
from haste_runtime.kernels.layout import ENTRIES
from haste_runtime.kernels.look import find_groups, middle_patch, patch_window, record_patch
from haste_runtime.kernels.tile_conv import NEAR, conv_stored

at, as_ints, prefetch = simd.at, simd.as_ints, simd.prefetch
vector_load, vector_store, vector_fill, vector_fma, vector_scale = (
    simd.vector_load, simd.vector_store, simd.vector_fill, simd.vector_fma, simd.vector_scale,
)  # fmt: skip
W = simd.W
LINE = 16  # floats of a cache line
ASKED = 128  # filters of merged channels that are asked for while others are multiplied
ONE, ZERO = np.float32(1), np.float32(0)


@kernel
def merge_planes(
    x, row_stride, pixel_stride, y0, y1, x0, x1, side, groups, start, members, scales, shares, planes, plane
):
    """planes[g] = (sum of a_c times channel c's pixels) / (sum of a_c s_c) over group g, in channel order; zero where
    all scales are, and outside rows y0..y1, columns x0..x1. x points at the pixel (y0, x0).

    shares: a_c, the scales times what an error of the channel weighs.
    """
    for g in range(groups):
        target = at(planes, g * plane)
        for i in range(side * side):
            target[i] = 0
        squares = ZERO
        for k in range(start[g], start[g + 1]):
            c = members[k]
            share = shares[c]
            squares += share * scales[c]
            for y in range(y0, y1):
                source, line = at(x, (y - y0) * row_stride + c), at(target, y * side + x0)
                for p in range(x1 - x0):
                    line[p] += source[p * pixel_stride] * share
        factor = ONE / squares if squares > 0 else ZERO
        for i in range(side * side):
            target[i] *= factor


@kernel
def member(packed, step, members, scales, k):
    """Where the k-th member's filters begin, and its scale in every lane."""
    return at(packed, members[k] * step), vector_fill(scales[members[k]])


@kernel
def add_eight(packed, step, size, members, scales, k, target):
    """target += the scaled filters of members[k .. k+7], in that order: memory is faster in several places at once."""
    a, r = member(packed, step, members, scales, k)
    b, s = member(packed, step, members, scales, k + 1)
    c, u = member(packed, step, members, scales, k + 2)
    d, v = member(packed, step, members, scales, k + 3)
    e, r2 = member(packed, step, members, scales, k + 4)
    f, s2 = member(packed, step, members, scales, k + 5)
    g, u2 = member(packed, step, members, scales, k + 6)
    h, v2 = member(packed, step, members, scales, k + 7)
    for i in range(0, size, W):
        total = vector_fma(vector_load(target, i), vector_load(a, i), r)
        total = vector_fma(vector_fma(total, vector_load(b, i), s), vector_load(c, i), u)
        total = vector_fma(vector_fma(total, vector_load(d, i), v), vector_load(e, i), r2)
        total = vector_fma(vector_fma(total, vector_load(f, i), s2), vector_load(g, i), u2)
        vector_store(target, i, vector_fma(total, vector_load(h, i), v2))


@kernel
def merge_filters(packed, step, size, members, first, last, scales, target):
    """target = sum of s_c times channel c's filters over members[first .. last-1], in that order. Channel c's filters
    are ``size`` numbers at packed + c * step."""
    if last - first == 1:
        a, s = member(packed, step, members, scales, first)
        for i in range(0, size, W):
            vector_store(target, i, vector_fma(vector_fill(ZERO), vector_load(a, i), s))
        return
    a, b = at(packed, members[first] * step), at(packed, members[first + 1] * step)
    r, s = scales[members[first]], vector_fill(scales[members[first + 1]])
    for i in range(0, size, W):
        vector_store(target, i, vector_fma(vector_scale(vector_load(a, i), r), vector_load(b, i), s))
    k = first + 2
    while k + 8 <= last:
        add_eight(packed, step, size, members, scales, k, target)
        k += 8
    while k + 2 <= last:
        a, u = member(packed, step, members, scales, k)
        b, v = member(packed, step, members, scales, k + 1)
        for i in range(0, size, W):
            total = vector_fma(vector_load(target, i), vector_load(a, i), u)
            vector_store(target, i, vector_fma(total, vector_load(b, i), v))
        k += 2
    if k < last:
        a, u = member(packed, step, members, scales, k)
        for i in range(0, size, W):
            vector_store(target, i, vector_fma(vector_load(target, i), vector_load(a, i), u))


@kernel
def merge_groups(packed, step, size, groups, start, members, scales, filters, filters_step, later):
    """The merged filters of some groups, one every ``filters_step`` floats. Then, if ``later`` is not 0, those that
    will be needed ``later`` numbers on are asked for, while these are multiplied."""
    for g in range(groups):
        target = at(filters, g * filters_step)
        merge_filters(packed, step, size, members, start[g], start[g + 1], scales, target)
    if later > 0 and groups > 0:
        for k in range(min(start[groups], ASKED)):
            after = at(packed, later + members[k] * step)
            for i in range(0, size, LINE):
                prefetch(after, i)


@kernel
def merge_stored(stored, packed, merging):
    """`merge_groups` of weights that are ``stored`` as layout.FLOATS, HALVES or BYTES; merging: its other arguments.
    Merged filters are float32, those of int8 in steps of the integers."""
    if stored == t.BYTES:
        merge_groups(simd.as_bytes(packed), *merging)
    elif stored == t.HALVES:
        merge_groups(simd.as_halves(packed), *merging)
    else:
        merge_groups(packed, *merging)


@kernel
def list_entries(op, level, arena, scratch, singles):
    """Turn the list of single channels into entry lists."""
    inputs = as_ints(at(arena, scratch + level[t.INPUTS]))
    weights = as_ints(at(arena, scratch + level[t.WEIGHTS]))
    for k in range(singles):
        inputs[k] = weights[k]
        weights[k] = np.int64(weights[k]) * op[t.CHANNEL_STEP]
    for k in range(singles, singles + ENTRIES):
        weights[k] = weights[singles - 1] if singles > 0 else 0


@kernel
def merge_window(op, level, arena, index, scratch, counters, singles, groups, x, y0, y1, x0, x1):
    """Merge the planes of a live patch's groups, and list the entries."""
    list_entries(op, level, arena, scratch, singles)
    scales = at(arena, scratch + level[t.SCALES])
    start, members = as_ints(at(arena, scratch + level[t.START])), as_ints(at(arena, scratch + level[t.MEMBERS]))
    counters[t.MERGED] += start[groups]
    if level[t.POLICY] == t.WITHIN_AFFINE_BUDGET:
        counters[t.MERGED] -= groups  # leaders stay as they are
        planes = at(arena, scratch + level[t.PLANES])
        window = (y0, y1, x0, x1)
        copy_leaders(x, op[t.XROW], op[t.XPIXEL], window, level[t.SIDE], groups, start, members, planes, level[t.PLANE])
        return
    shares = scales
    if level[t.POLICY] == t.WITHIN_BUDGET:
        shares, importance = at(arena, scratch + level[t.SHARES]), at(index, level[t.IMPORTANCE])
        for k in range(start[groups]):
            c = members[k]
            shares[c] = np.float32(importance[c]) * scales[c]
    merge_planes(
        x, op[t.XROW], op[t.XPIXEL], y0, y1, x0, x1, level[t.SIDE], groups, start, members, scales, shares,
        at(arena, scratch + level[t.PLANES]), level[t.PLANE],
    )  # fmt: skip


@kernel
def list_window_pixels(op, level, top, left, height, width, lists):
    """Offsets of a tile's output pixels into the map, its merged planes, the output and the residual (-1 where there is
    none)."""
    sources, inner, targets, residuals = lists
    i = 0
    for y in range(height):
        for x in range(width):
            sources[i] = (top + y) * op[t.SY] * op[t.XROW] + (left + x) * op[t.SX] * op[t.XPIXEL]
            inner[i] = (y * level[t.SIDE] + x) * op[t.SY]
            targets[i] = (top + y) * op[t.YROW] + (left + x) * op[t.YPIXEL]
            residuals[i] = (top + y) * op[t.RROW] + (left + x) * op[t.RPIXEL] if op[t.R] >= 0 else -1
            i += 1


@kernel
def convolve_window(op, level, arena, packed, index, scratch, singles, groups, constants, pixels, lists, first, last):
    """Output channels of blocks first .. last-1 of one patch, block by block. constants: (how many channels have one,
    tile, window), see `spread_constants`."""
    taps, width = op[t.KY] * op[t.KX], op[t.VECTORS] * W
    size = taps * width
    start, members = as_ints(at(arena, scratch + level[t.START])), as_ints(at(arena, scratch + level[t.MEMBERS]))
    filters, scales = at(arena, scratch + level[t.FILTERS]), at(arena, scratch + level[t.SCALES])
    source = at(arena, op[t.X] - op[t.PTOP] * op[t.XROW] - op[t.PLEFT] * op[t.XPIXEL])  # in the zero border
    inputs, weights = as_ints(at(arena, scratch + level[t.INPUTS])), as_ints(at(arena, scratch + level[t.WEIGHTS]))
    plane_taps = as_ints(at(arena, scratch + level[t.MERGED_TAPS]))
    spill = at(arena, scratch + op[t.SPILL])
    sources, inner, targets, residuals = lists
    levelled, tile, window = constants
    listed, offsets = as_ints(at(arena, scratch + level[t.LEVELLED])), at(arena, scratch + level[t.OFFSETS])
    constant, addends = at(arena, scratch + level[t.CONSTANT]), at(arena, scratch + level[t.ADDENDS])
    places = as_ints(at(arena, scratch + level[t.ADDEND_PLACES])) if levelled > 0 else residuals
    for block in range(first, last):
        own = at(packed, op[t.WEIGHT] + (block * op[t.BLOCK_STEP] >> op[t.STORED]))
        later = op[t.BLOCK_STEP] if block + 1 < last else 0
        merge_stored(
            op[t.STORED], own, (op[t.CHANNEL_STEP], size, groups, start, members, scales, filters, size, later)
        )  # fmt: skip
        outputs = block_scales(op, packed, block * width, op[t.BLOCKS] * width)
        residual = at(arena, max(op[t.R], 0) + block * width)
        if levelled > 0:
            merge_stored(
                op[t.STORED], own, (op[t.CHANNEL_STEP], size, 1, listed, at(listed, 2), offsets, constant, size, 0)
            )  # fmt: skip
            spread_constants(op, level, arena, scratch, constant, width, tile, window)
            finish_addends(width, pixels, outputs, residual, residuals, addends)
            residual = addends
        conv_stored(op[t.STORED], own, (
            op[t.VECTORS], at(packed, op[t.BIAS] + block * width),
            outputs, (pixels, sources, inner, targets, places),
            taps, source, at(index, op[t.TAPS]), np.int64(0), singles, inputs, weights, np.int64(NEAR),
            (groups, at(arena, scratch + level[t.PLANES]), level[t.PLANE], plane_taps, filters, size),
            min(width, op[t.GROUP_OUT] - block * width), op[t.ACTIVATION],
            residual, at(arena, op[t.Y] + block * width), spill,
        ))  # fmt: skip


@kernel
def convolve_deep_window(op, level, arena, packed, index, scratch, singles, groups, constants, top, lists, first, last):
    """The same where `haste_runtime.kernels.deep_conv` is at work: entry by entry."""
    vectors, taps, step, blocks = op[t.VECTORS], op[t.KY] * op[t.KX], op[t.CHANNEL_STEP], last - first
    index_taps = at(index, op[t.TAPS])
    start, members = as_ints(at(arena, scratch + level[t.START])), as_ints(at(arena, scratch + level[t.MEMBERS]))
    filters, scales = at(arena, scratch + level[t.FILTERS]), at(arena, scratch + level[t.SCALES])
    source = at(arena, op[t.X] - op[t.PTOP] * op[t.XROW] - op[t.PLEFT] * op[t.XPIXEL])
    inputs, weights = as_ints(at(arena, scratch + level[t.INPUTS])), as_ints(at(arena, scratch + level[t.WEIGHTS]))
    planes, plane_taps = at(arena, scratch + level[t.PLANES]), as_ints(at(arena, scratch + level[t.MERGED_TAPS]))
    sources, inner, targets, residuals = lists
    levelled, tile, window = constants
    height, width = tile
    pixels, totals = height * width, at(arena, scratch + op[t.TOTALS])
    begin_totals(vectors, at(packed, op[t.BIAS] + first * vectors * W), blocks, pixels, totals)
    own = at(packed, op[t.WEIGHT] + (first * op[t.BLOCK_STEP] >> op[t.STORED]))
    ranges = as_ints(at(totals, op[t.BLOCKS] * vectors * W * pixels))
    where = (pixels, sources, inner, totals, list_ranges(op, top, height, width, ranges), ranges)
    merged = (np.int64(0), planes, level[t.PLANE], plane_taps, filters, step)
    for k in range(0, singles, ENTRIES):
        some = np.int64(min(ENTRIES, singles - k))
        parts = (source, index_taps, some, at(inputs, k), at(weights, k), merged)
        add_stored(op[t.STORED], own, (vectors, blocks, taps, where, parts))
    for k in range(0, groups, ENTRIES):
        some = np.int64(min(ENTRIES, groups - k))
        merging = (step, blocks * op[t.BLOCK_STEP], some, at(start, k), members, scales, filters, step, 0)
        merge_stored(op[t.STORED], own, merging)
        merged = (some, at(planes, k * level[t.PLANE]), level[t.PLANE], plane_taps, filters, step)
        parts = (source, index_taps, np.int64(0), inputs, weights, merged)
        add_stored(op[t.STORED], own, (vectors, blocks, taps, where, parts))
    if levelled > 0:
        listed, constant = as_ints(at(arena, scratch + level[t.LEVELLED])), at(arena, scratch + level[t.CONSTANT])
        offsets, addends = at(arena, scratch + level[t.OFFSETS]), at(arena, scratch + level[t.ADDENDS])
        merging = (step, blocks * op[t.BLOCK_STEP], np.int64(1), listed, at(listed, 2), offsets, constant, step, 0)
        merge_stored(op[t.STORED], own, merging)
        for block in range(blocks):
            of_block = at(constant, block * taps * vectors * W)
            spread_constants(op, level, arena, scratch, of_block, vectors * W, tile, window)
            add_addends(addends, pixels * vectors * W, at(totals, block * pixels * vectors * W))
    spill = at(arena, scratch + op[t.SPILL])
    finish_totals(op, arena, packed, first, last, pixels, targets, residuals, totals, spill)


@kernel
def merge_patch(op, level, arena, packed, index, scratch, counters, trace, number, found, first, last):
    """Blocks first .. last-1 of output channels of one patch. found: `find_groups` of this patch."""
    patch, levelled = level[t.PATCH], np.int64(0)
    ty = number // level[t.TILES_X]
    top, left = ty * patch, (number - ty * level[t.TILES_X]) * patch  # of the tile in the output
    place, y0, y1, x0, x1 = patch_window(op, level, number)
    live, singles, groups = found
    if live:
        x = at(arena, place)
        merge_window(op, level, arena, index, scratch, counters, singles, groups, x, y0, y1, x0, x1)
    if level[t.TRACE] >= 0 and first == 0:
        record_patch(op, level, arena, scratch, trace, number, live)
    height, width = min(patch, op[t.YH] - top), min(patch, op[t.YW] - left)
    sources = as_ints(at(arena, scratch + op[t.PIXELS]))
    room = op[t.ROOM]
    lists = (sources, at(sources, room), at(sources, 2 * room), at(sources, 3 * room))
    list_window_pixels(op, level, top, left, height, width, lists)
    pixels = height * width
    if live and level[t.POLICY] == t.WITHIN_AFFINE_BUDGET:
        levelled = np.int64(as_ints(at(arena, scratch + level[t.LEVELLED]))[1])
    constants = (levelled, (height, width), (y0, y1, x0, x1))
    if levelled > 0:
        counters[t.CONSTANT_ADDS] += list_addends(op, level, arena, scratch, op[t.VECTORS] * W, constants)
    what = (singles, groups, constants)
    if op[t.DEEP]:
        convolve_deep_window(op, level, arena, packed, index, scratch, *what, top, lists, first, last)
    else:
        convolve_window(op, level, arena, packed, index, scratch, *what, pixels, lists, first, last)
    counters[t.PATCHES] += 1
    counters[t.KEPT] += singles + groups
    counters[t.KEPT_PIXELS] += (singles + groups) * pixels


@kernel
def merged_conv(op, level, arena, packed, index, scratch, counters, trace, seen, worker, workers):
    """act(merged convolution + bias + residual) of one map; workers share out the patches, or where these are fewer,
    the blocks of output channels: then each finds the groups for itself, and the first one counts.

    level: this layer's row of the level table. counters: this worker's counts of this layer.
    trace: where every patch's codes and leaders are recorded, if level[TRACE] >= 0. seen: `find_groups` of the patch in
    the middle, if the level asks for it (`haste_runtime.kernels.look.first_look`): this patch comes first.
    """
    taps = as_ints(at(arena, scratch + level[t.MERGED_TAPS]))
    for ky in range(op[t.KY]):
        for kx in range(op[t.KX]):
            taps[ky * op[t.KX] + kx] = ky * op[t.DY] * level[t.SIDE] + kx * op[t.DX]
    patches, blocks, middle = level[t.TILES_Y] * level[t.TILES_X], op[t.BLOCKS], middle_patch(level)
    shared = patches < workers  # a patch, among all workers
    first, last = (blocks * worker // workers, blocks * (worker + 1) // workers) if shared else (0, blocks)
    for i in range(0 if shared else worker, patches, 1 if shared else workers):
        number = middle + i if middle + i < patches else middle + i - patches
        found = seen
        if i > 0 or level[t.MOST_KEPT] < 0:
            found = find_groups(op, level, arena, index, scratch, counters, number)
        merge_patch(op, level, arena, packed, index, scratch, counters, trace, number, found, first, last)
    if shared and worker > 0:
        for i in range(t.COUNTERS):
            counters[i] = 0
