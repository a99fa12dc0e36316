"""Operations on single elements: addition, scale-and-shift, activation. Workers share out the rows.

Channels lie in lanes. The last channels of a pixel, where they do not fill a vector, go one by one: what lies behind
them may be another worker's pixel.
"""

from __future__ import annotations

import numpy as np

from haste_runtime.kernels import layout as t
from haste_runtime.kernels.jit import kernel, simd

at, vector_load, vector_store, vector_fill = simd.at, simd.vector_load, simd.vector_store, simd.vector_fill
W = simd.W
INFINITY, ZERO, SIX = np.float32(np.inf), np.float32(0), np.float32(6)


@kernel
def activate(value, activation):
    if activation != t.NO_LIMIT:
        value = value if value > ZERO else ZERO
        if activation == t.RELU6:
            value = value if value < SIX else SIX
    return value


@kernel
def finish_vector(value, activation, target, c):
    if activation != t.NO_LIMIT:
        value = simd.vector_clip(value, SIX if activation == t.RELU6 else INFINITY)
    vector_store(target, c, value)


@kernel
def add(op, arena, worker, workers):
    """act(x + r), element by element."""
    channels = op[t.YC]
    whole = channels - channels % W
    for y in range(worker, op[t.YH], workers):
        for x in range(op[t.YW]):
            source = at(arena, op[t.X] + y * op[t.XROW] + x * op[t.XPIXEL])
            other = at(arena, op[t.R] + y * op[t.RROW] + x * op[t.RPIXEL])
            target = at(arena, op[t.Y] + y * op[t.YROW] + x * op[t.YPIXEL])
            for c in range(0, whole, W):
                total = simd.vector_add(vector_load(source, c), vector_load(other, c))
                finish_vector(total, op[t.ACTIVATION], target, c)
            for c in range(whole, channels):
                target[c] = activate(source[c] + other[c], op[t.ACTIVATION])


@kernel
def scale(op, arena, packed, worker, workers):
    """act(x * scale[c] + shift[c]): a batch norm that could not be folded. The product is rounded before the sum."""
    channels = op[t.YC]
    whole = channels - channels % W
    factors, shifts = at(packed, op[t.WEIGHT]), at(packed, op[t.BIAS])
    for y in range(worker, op[t.YH], workers):
        for x in range(op[t.YW]):
            source = at(arena, op[t.X] + y * op[t.XROW] + x * op[t.XPIXEL])
            target = at(arena, op[t.Y] + y * op[t.YROW] + x * op[t.YPIXEL])
            for c in range(0, whole, W):
                product = simd.vector_multiply(vector_load(source, c), vector_load(factors, c))
                finish_vector(simd.vector_add(product, vector_load(shifts, c)), op[t.ACTIVATION], target, c)
            for c in range(whole, channels):
                target[c] = activate(source[c] * factors[c] + shifts[c], op[t.ACTIVATION])


@kernel
def activation(op, arena, worker, workers):
    channels = op[t.YC]
    whole = channels - channels % W
    for y in range(worker, op[t.YH], workers):
        for x in range(op[t.YW]):
            source = at(arena, op[t.X] + y * op[t.XROW] + x * op[t.XPIXEL])
            target = at(arena, op[t.Y] + y * op[t.YROW] + x * op[t.YPIXEL])
            for c in range(0, whole, W):
                finish_vector(vector_load(source, c), op[t.ACTIVATION], target, c)
            for c in range(whole, channels):
                target[c] = activate(source[c], op[t.ACTIVATION])
