"""What the constants of the policy "affine" add to a tile's outputs: sums of one filter's taps.

That filter, the sum of all t_c F_c, would convolve a plane of ones inside the map. At pixels all of whose taps lie
there its output is the sum of the taps, the same for all; at the map's edge, of those that do. Together with the
residual, if there is one, they are what the convolution's tiles add at the end.
"""

from __future__ import annotations

import numpy as np

from haste_runtime.kernels import layout as t
from haste_runtime.kernels.affine_patch import count_inside
from haste_runtime.kernels.jit import kernel, simd

at, as_ints, as_doubles = simd.at, simd.as_ints, simd.as_doubles
vector_load, vector_store, vector_fill = simd.vector_load, simd.vector_store, simd.vector_fill
vector_add, vector_scale, vector_multiply = simd.vector_add, simd.vector_scale, simd.vector_multiply
W = simd.W
RANGE, ZERO = np.float32(127), np.float32(0)


@kernel
def note_window(level, arena, index, scratch, peak, y0, y1, x0, x1):
    """Into scratch: how many pixels of each row of the projection lie inside the map, and how many in all; the step of
    the quantised patch, ``peak`` being the bits of its largest magnitude."""
    bits, inside = level[t.BITS], as_doubles(at(arena, scratch + level[t.INSIDE]))
    lists, starts = at(index, level[t.SIGNS]), at(index, level[t.STARTS])
    count_inside(lists, starts, bits, level[t.SIDE], y0, y1, x0, x1, inside)
    inside[bits] = np.float64(np.int32((y1 - y0) * (x1 - x0)))
    step = at(arena, scratch + level[t.STEP])
    as_ints(step)[0] = peak
    step[0] = step[0] / RANGE


@kernel
def taps_inside(place, first, end, taps, step):
    """(begin, end) of the taps, ``step`` pixels apart and the first at ``place``, that lie in first <= pixel < end."""
    begin, stop = 0, taps
    while begin < taps and place + begin * step < first:
        begin += 1
    while stop > begin and place + (stop - 1) * step >= end:
        stop -= 1
    return begin, stop


@kernel
def copy_leaders(x, row_stride, pixel_stride, window, side, groups, start, members, planes, plane):
    """planes[g] = the pixels of group g's leader, zero outside rows window[0] .. window[1] - 1, columns window[2] ..;
    x points at the first pixel inside."""
    y0, y1, x0, x1 = window
    for g in range(groups):
        target = at(planes, g * plane)
        for i in range(side * side):
            target[i] = 0
        for y in range(y0, y1):
            source, line = at(x, (y - y0) * row_stride + members[start[g]]), at(target, y * side + x0)
            for p in range(x1 - x0):
                line[p] = source[p * pixel_stride]


@kernel
def sum_taps(filter, width, columns, window, step, target):
    """target (``width`` floats) = ``step`` times the sum of the taps in rows window[0] .. window[1] - 1 and columns
    window[2] .. window[3] - 1."""
    top, bottom, left, right = window
    for v in range(0, width, W):
        total = vector_fill(ZERO)
        for ky in range(top, bottom):
            for kx in range(left, right):
                total = vector_add(total, vector_load(filter, (ky * columns + kx) * width + v))
        vector_store(target, v, vector_scale(total, step))


@kernel
def spread_constants(op, level, arena, scratch, constant, width, tile, window):
    """The addends of a tile's pixels, ``width`` outputs each, in the unit of the filters: the sums of the taps of the
    filter ``constant`` that lie in the map.

    tile: (height, width) in pixels. window: (y0, y1, x0, x1), what of the patch lies in the map.
    """
    y0, y1, x0, x1 = window
    rows, columns, step = op[t.KY], op[t.KX], at(arena, scratch + level[t.STEP])[0]
    every, addends = at(arena, scratch + level[t.EVERY]), at(arena, scratch + level[t.ADDENDS])
    sum_taps(constant, width, columns, (0, rows, 0, columns), step, every)
    for y in range(tile[0]):
        top, bottom = taps_inside(y * op[t.SY], y0, y1, rows, op[t.DY])
        for x in range(tile[1]):
            left, right = taps_inside(x * op[t.SX], x0, x1, columns, op[t.DX])
            target = at(addends, (y * tile[1] + x) * width)
            if (bottom - top) * (right - left) < rows * columns:
                sum_taps(constant, width, columns, (top, bottom, left, right), step, target)
            else:
                for v in range(0, width, W):
                    vector_store(target, v, vector_load(every, v))


@kernel
def finish_addends(width, pixels, outputs, residual, residuals, addends):
    """Scale the addends as `conv_block` scales its sums, and add the residual, so that they take its place."""
    scaled, scale, _ = outputs
    for i in range(pixels):
        target = at(addends, i * width)
        for v in range(0, width, W):
            total = vector_load(target, v)
            if scaled:
                total = vector_multiply(total, vector_load(scale, v))
            if residuals[0] >= 0:
                total = vector_add(total, vector_load(residual, residuals[i] + v))
            vector_store(target, v, total)


@kernel
def add_addends(addends, count, totals):
    """totals += addends, ``count`` floats."""
    for i in range(0, count, W):
        vector_store(totals, i, vector_add(vector_load(totals, i), vector_load(addends, i)))


@kernel
def list_addends(op, level, arena, scratch, width, constants):
    """Where each pixel's addends lie; returns how many additions an output channel's constants take."""
    _, tile, (y0, y1, x0, x1) = constants
    places = as_ints(at(arena, scratch + level[t.ADDEND_PLACES]))
    for i in range(tile[0] * tile[1]):
        places[i] = i * width
    taps_down, taps_across, whole_rows, whole_columns = 0, 0, 0, 0
    for y in range(tile[0]):
        first, end = taps_inside(y * op[t.SY], y0, y1, op[t.KY], op[t.DY])
        taps_down += end - first
        whole_rows += end - first == op[t.KY]
    for x in range(tile[1]):
        first, end = taps_inside(x * op[t.SX], x0, x1, op[t.KX], op[t.DX])
        taps_across += end - first
        whole_columns += end - first == op[t.KX]
    every = op[t.KY] * op[t.KX]
    return every + tile[0] * tile[1] + taps_down * taps_across - every * whole_rows * whole_columns
