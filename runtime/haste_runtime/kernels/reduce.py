"""Sums, largest and smallest numbers along some axes. Workers share out the output rows.

An output element is one chain of operations, in the order of rows, columns, channels, whatever the vector width.
"""

from __future__ import annotations

import numpy as np

from haste_runtime.kernels import layout as t
from haste_runtime.kernels.elementwise import combine, store_some
from haste_runtime.kernels.jit import kernel, simd
from haste_runtime.kernels.pool import LOWEST, ZERO

at, vector_load, vector_fill = simd.at, simd.vector_load, simd.vector_fill
W = simd.W
HIGHEST = np.float32(np.inf)


@kernel
def beginning(function):
    if function == t.PLUS:
        return ZERO
    return LOWEST if function == t.MOST else HIGHEST


@kernel
def combine_numbers(x, y, function):
    if function == t.PLUS:
        return x + y
    if function == t.MOST:
        return x if x > y else y
    return x if x < y else y


@kernel
def over_pixels(op, arena, source, target, spare):
    """Over REDUCED_H rows and REDUCED_W columns, channels in lanes."""
    divisor = vector_fill(np.float32(op[t.DIVISOR]))
    for c in range(0, op[t.YC], W):
        total = vector_fill(beginning(op[t.OPTION]))
        for i in range(op[t.REDUCED_H]):
            for j in range(op[t.REDUCED_W]):
                value = vector_load(arena, source + i * op[t.XROW] + j * op[t.XPIXEL] + c)
                total = combine(total, value, op[t.OPTION])
        store_some(at(arena, target), c, simd.vector_divide(total, divisor), op[t.YC] - c, spare)


@kernel
def over_channels(op, arena, source, target):
    """Over channels INNER apart, too: REDUCED_C of them for each output channel."""
    inner, divisor = op[t.INNER], np.float32(op[t.DIVISOR])
    for c in range(op[t.YC]):
        first = source + c // inner * op[t.REDUCED_C] * inner + c % inner
        total = beginning(op[t.OPTION])
        for i in range(op[t.REDUCED_H]):
            for j in range(op[t.REDUCED_W]):
                pixel = first + i * op[t.XROW] + j * op[t.XPIXEL]
                for k in range(op[t.REDUCED_C]):
                    total = combine_numbers(total, arena[pixel + k * inner], op[t.OPTION])
        arena[target + c] = total / divisor


@kernel
def reduce(op, arena, scratch, worker, workers):
    for y in range(worker, op[t.YH], workers):
        for x in range(op[t.YW]):
            source = op[t.X] + y * op[t.XROW] + x * op[t.XPIXEL]
            target = op[t.Y] + y * op[t.YROW] + x * op[t.YPIXEL]
            if op[t.REDUCED_C] == 1:
                over_pixels(op, arena, source, target, at(arena, scratch))
            else:
                over_channels(op, arena, source, target)
