"""Functions of single numbers, and of two values of which either may be repeated. Workers share out the rows.

Where no channel is treated apart and a row's pixels lie side by side, a row is one run of numbers. Where a run does not
fill the last vector, its numbers go by way of scratch: what lies behind them may be another worker's row.
"""

from __future__ import annotations

import numpy as np

from haste_runtime.kernels import layout as t
from haste_runtime.kernels.functions import apply
from haste_runtime.kernels.jit import kernel, simd
from haste_runtime.kernels.pointwise import INFINITY, SIX, ZERO

at, vector_load, vector_store, vector_fill = simd.at, simd.vector_load, simd.vector_store, simd.vector_fill
W = simd.W


@kernel
def store_some(target, offset, value, count, spare):
    """The first ``count`` lanes of a vector, or all where it has no more. spare: W floats of scratch."""
    if count >= W:
        vector_store(target, offset, value)
    else:
        vector_store(spare, 0, value)
        for i in range(count):
            target[offset + i] = spare[i]


@kernel
def unary(op, arena, packed, scratch, worker, workers):
    spare, pixels, count = at(arena, scratch), op[t.YW], op[t.YC]
    if op[t.XPIXEL] == count and op[t.YPIXEL] == count:  # a row is one run
        pixels, count = np.int64(1), pixels * count
    alpha, beta = packed[op[t.WEIGHT]], packed[op[t.WEIGHT] + 1]
    for y in range(worker, op[t.YH], workers):
        for x in range(pixels):
            source = at(arena, op[t.X] + y * op[t.XROW] + x * op[t.XPIXEL])
            target = at(arena, op[t.Y] + y * op[t.YROW] + x * op[t.YPIXEL])
            for i in range(0, count, W):
                store_some(target, i, apply(vector_load(source, i), op[t.OPTION], alpha, beta), count - i, spare)


@kernel
def prelu(op, arena, packed, scratch, worker, workers):
    """x, and below 0 x times its channel's slope."""
    channels, slopes, spare = op[t.YC], at(packed, op[t.WEIGHT]), at(arena, scratch)
    for y in range(worker, op[t.YH], workers):
        for x in range(op[t.YW]):
            source = at(arena, op[t.X] + y * op[t.XROW] + x * op[t.XPIXEL])
            target = at(arena, op[t.Y] + y * op[t.YROW] + x * op[t.YPIXEL])
            for c in range(0, channels, W):
                value = vector_load(source, c)
                below = simd.vector_multiply(value, vector_load(slopes, c))
                value = simd.vector_where_below(value, vector_fill(ZERO), below, value)
                store_some(target, c, value, channels - c, spare)


@kernel
def combine(x, y, function):
    if function == t.PLUS:
        return simd.vector_add(x, y)
    if function == t.TIMES:
        return simd.vector_multiply(x, y)
    if function == t.MINUS:
        return simd.vector_subtract(x, y)
    if function == t.OVER:
        return simd.vector_divide(x, y)
    if function == t.LEAST:
        return simd.vector_smaller(x, y)
    return simd.vector_larger(x, y)


@kernel
def channels_of(pointer, offset, step):
    """W numbers, or where step is 0 one number in all lanes."""
    return vector_load(pointer, offset) if step == 1 else vector_fill(pointer[0])


@kernel
def binary(op, arena, packed, scratch, worker, workers):
    """act(function(x, r)). Where an operand has one row, pixel or channel for all, its step there is 0. R < 0: the
    second operand is a constant."""
    channels, activation, spare = op[t.YC], op[t.ACTIVATION], at(arena, scratch)
    second = at(arena, op[t.R]) if op[t.R] >= 0 else at(packed, op[t.WEIGHT])
    for y in range(worker, op[t.YH], workers):
        for x in range(op[t.YW]):
            first = at(arena, op[t.X] + y * op[t.XROW] + x * op[t.XPIXEL])
            other = at(second, y * op[t.RROW] + x * op[t.RPIXEL])
            target = at(arena, op[t.Y] + y * op[t.YROW] + x * op[t.YPIXEL])
            for c in range(0, channels, W):
                a, b = channels_of(first, c, op[t.XSTEP]), channels_of(other, c, op[t.RSTEP])
                value = combine(a, b, op[t.OPTION])
                if activation != t.NO_LIMIT:
                    value = simd.vector_clip(value, SIX if activation == t.RELU6 else INFINITY)
                store_some(target, c, value, channels - c, spare)
