"""Softmax along any axis, and normalising by neighbouring channels. Workers share out the rows of an axis apart.

Sums are chains in the order of the axis, whatever the vector width.
"""

from __future__ import annotations

from haste_runtime.kernels import layout as t
from haste_runtime.kernels.elementwise import store_some
from haste_runtime.kernels.functions import exp, logarithm
from haste_runtime.kernels.jit import kernel, simd
from haste_runtime.kernels.pool import LOWEST, ZERO

at, vector_load, vector_store, vector_fill = simd.at, simd.vector_load, simd.vector_store, simd.vector_fill
add, subtract, multiply, divide = simd.vector_add, simd.vector_subtract, simd.vector_multiply, simd.vector_divide
W = simd.W


@kernel
def softmax_across(source, step, target, target_step, count, lanes, spare):
    """``count`` numbers ``step`` apart, in each of ``lanes`` lanes."""
    for c in range(0, lanes, W):
        most = vector_fill(LOWEST)
        for k in range(count):
            most = simd.vector_larger(vector_load(source, k * step + c), most)
        total = vector_fill(ZERO)
        for k in range(count):
            power = exp(subtract(vector_load(source, k * step + c), most))
            total = add(total, power)
            store_some(target, k * target_step + c, power, lanes - c, spare)
        for k in range(count):
            share = divide(vector_load(target, k * target_step + c), total)
            store_some(target, k * target_step + c, share, lanes - c, spare)


@kernel
def softmax_along(source, target, count, spare):
    """``count`` numbers side by side."""
    most = LOWEST
    for k in range(count):
        most = source[k] if source[k] > most else most
    for k in range(0, count, W):
        store_some(target, k, exp(subtract(vector_load(source, k), vector_fill(most))), count - k, spare)
    total = ZERO
    for k in range(count):
        total += target[k]
    for k in range(0, count, W):
        store_some(target, k, divide(vector_load(target, k), vector_fill(total)), count - k, spare)


@kernel
def softmax(op, arena, scratch, worker, workers):
    """Of N, FROM and TO, 0 to 2 are axes apart, 3 is the axis itself, 4 the lanes (1 where the axis is in them)."""
    n, source_step, target_step, spare = at(op, t.N), at(op, t.FROM), at(op, t.TO), at(arena, scratch)
    for i in range(worker, n[0], workers):
        for j in range(n[1]):
            for k in range(n[2]):
                source = at(arena, op[t.X] + i * source_step[0] + j * source_step[1] + k * source_step[2])
                target = at(arena, op[t.Y] + i * target_step[0] + j * target_step[1] + k * target_step[2])
                if n[4] == source_step[3] == target_step[3] == 1:
                    softmax_along(source, target, n[3], spare)
                else:
                    softmax_across(source, source_step[3], target, target_step[3], n[3], n[4], spare)


@kernel
def lrn(op, arena, packed, scratch, worker, workers):
    """x / (bias + alpha * sum of squares)^beta over OPTION channels; WEIGHT: alpha, beta, bias. The squares of a pixel
    lie in scratch, with zeros around them."""
    channels, size = op[t.YC], op[t.OPTION]
    before, squares, spare = (size - 1) // 2, at(arena, scratch), at(arena, scratch + op[t.ROOM])
    settings = at(packed, op[t.WEIGHT])
    for y in range(worker, op[t.YH], workers):
        for x in range(op[t.YW]):
            source = at(arena, op[t.X] + y * op[t.XROW] + x * op[t.XPIXEL])
            target = at(arena, op[t.Y] + y * op[t.YROW] + x * op[t.YPIXEL])
            for c in range(before):
                squares[c] = ZERO
            for c in range(0, channels, W):
                value = vector_load(source, c)
                vector_store(squares, before + c, multiply(value, value))
            for c in range(before + channels, channels + size):
                squares[c] = ZERO
            for c in range(0, channels, W):
                total = vector_fill(ZERO)
                for k in range(size):
                    total = add(total, vector_load(squares, c + k))
                total = add(vector_fill(settings[2]), simd.vector_scale(total, settings[0]))
                factor = exp(simd.vector_scale(logarithm(total), -settings[1]))
                store_some(target, c, multiply(vector_load(source, c), factor), channels - c, spare)
