"""A look at one patch: which pixels it sees, the codes of its channels, and who forms a group.

The patch in the middle of the map is looked at before the others. If it keeps more of its channels than pays, nothing
of the layer merges in this frame (`haste_runtime.plan.Variant.dense_above`), and the dense kernels run on the weights
as they are.
"""

from __future__ import annotations

import numpy as np

from haste_runtime.kernels import layout as t
from haste_runtime.kernels.constant_patch import note_window
from haste_runtime.kernels.group_patch import group_patch
from haste_runtime.kernels.hash_patch import code_channels, patch_peak, project_patch, quantise_patch
from haste_runtime.kernels.jit import kernel, simd

at, as_ints, as_shorts = simd.at, simd.as_ints, simd.as_shorts
DEAD_BELOW = 27 << 23  # bits of 2^-100: a patch without any larger magnitude counts as all zero
RANGE = np.float32(127)


@kernel
def patch_window(op, level, number):
    """Where in the arena a patch's first pixel inside the map is; the patch's rows y0..y1 and columns x0..x1 are
    inside."""
    ty = number // level[t.TILES_X]
    tx = number - ty * level[t.TILES_X]
    wy = ty * level[t.PATCH] * op[t.SY] - op[t.PTOP]  # of the patch in the map
    wx = tx * level[t.PATCH] * op[t.SX] - op[t.PLEFT]
    y0, x0 = max(0, -wy), max(0, -wx)
    y1, x1 = min(level[t.SIDE], op[t.XH] - wy), min(level[t.SIDE], op[t.XW] - wx)
    return op[t.X] + (wy + y0) * op[t.XROW] + (wx + x0) * op[t.XPIXEL], y0, y1, x0, x1


@kernel
def hash_window(op, level, arena, index, scratch, x, y0, y1, x0, x1):
    """Codes of one patch's channels into scratch; False where the patch is dead (its codes are then -1)."""
    channels, side = op[t.XC], level[t.SIDE]
    codes = as_ints(at(arena, scratch + level[t.CODES]))
    rows, columns = max(y1 - y0, 0), max(x1 - x0, 0)
    peak = patch_peak(x, op[t.XROW], op[t.XPIXEL], channels, columns, rows)
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
    quantise_patch(x, op[t.XROW], op[t.XPIXEL], channels, y0, y1, x0, x1, side, level[t.SPAN], inverse, quantised)
    project_patch(quantised, channels, level[t.SPAN], level[t.BITS], at(index, level[t.SIGNS]), starts, sums)
    if level[t.POLICY] == t.WITHIN_AFFINE_BUDGET:
        note_window(level, arena, index, scratch, peak, y0, y1, x0, x1)
        for c in range(channels):
            codes[c] = 0
    else:
        code_channels(sums, channels, level[t.BITS], codes)
    return True


@kernel
def find_groups(op, level, arena, index, scratch, counters, number):
    """Of patch ``number``: (whether it is live, single channels, groups), which `group_patch` has listed."""
    place, y0, y1, x0, x1 = patch_window(op, level, number)
    if not hash_window(op, level, arena, index, scratch, at(arena, place), y0, y1, x0, x1):
        return False, np.int64(0), np.int64(0)
    singles, groups = group_patch(op, level, arena, index, scratch, counters)
    return True, np.int64(singles), np.int64(groups)


@kernel
def middle_patch(level):
    return level[t.TILES_Y] // 2 * level[t.TILES_X] + level[t.TILES_X] // 2


@kernel
def first_look(op, level, arena, index, scratch, counters, worker):
    """(whether the layer stays dense, then `find_groups` of the patch in the middle), the same for every worker, of
    whom the first counts. Nobody looks where the level does not ask."""
    if level[t.MOST_KEPT] < 0:
        return False, False, np.int64(0), np.int64(0)
    live, singles, groups = find_groups(op, level, arena, index, scratch, counters, middle_patch(level))
    dense = singles + groups > level[t.MOST_KEPT]
    if dense:
        counters[t.WITH_CONSTANT] = 0
        if worker == 0:
            patches, channels = level[t.TILES_Y] * level[t.TILES_X], op[t.XC]
            counters[t.PATCHES], counters[t.UNSEEN] = patches, patches - 1
            counters[t.KEPT], counters[t.KEPT_PIXELS] = patches * channels, channels * op[t.YH] * op[t.YW]
    if worker > 0:
        for i in range(t.COUNTERS):
            counters[i] = 0
    return dense, live, singles, groups


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
def record_dense(op, level, trace):
    """What a layer that stays dense leaves: no codes, and every channel its own leader."""
    channels = op[t.XC]
    for number in range(level[t.TILES_Y] * level[t.TILES_X]):
        recorded = at(trace, level[t.TRACE] + 2 * number * channels)
        for c in range(channels):
            recorded[c], recorded[channels + c] = -1, c
