"""Operations on single elements: addition, scale-and-shift, activation. Workers share out the rows."""

from __future__ import annotations

import numpy as np

from haste_runtime.kernels import layout as t
from haste_runtime.kernels.jit import kernel

ZERO, SIX = np.float32(0), np.float32(6)


@kernel
def activate(value, activation):
    if activation != t.NO_LIMIT:
        value = value if value > ZERO else ZERO
        if activation == t.RELU6:
            value = value if value < SIX else SIX
    return value


@kernel
def add(op, arena, worker, workers):
    """act(x + r), element by element."""
    for y in range(worker, op[t.YH], workers):
        for x in range(op[t.YW]):
            source = op[t.X] + y * op[t.XROW] + x * op[t.XPIXEL]
            other = op[t.R] + y * op[t.RROW] + x * op[t.RPIXEL]
            target = op[t.Y] + y * op[t.YROW] + x * op[t.YPIXEL]
            for c in range(op[t.YC]):
                arena[target + c] = activate(arena[source + c] + arena[other + c], op[t.ACTIVATION])


@kernel
def scale(op, arena, packed, worker, workers):
    """act(x * scale[c] + shift[c]): a batch norm that could not be folded. The product is rounded before the sum."""
    for y in range(worker, op[t.YH], workers):
        for x in range(op[t.YW]):
            source = op[t.X] + y * op[t.XROW] + x * op[t.XPIXEL]
            target = op[t.Y] + y * op[t.YROW] + x * op[t.YPIXEL]
            for c in range(op[t.YC]):
                value = arena[source + c] * packed[op[t.WEIGHT] + c] + packed[op[t.BIAS] + c]
                arena[target + c] = activate(value, op[t.ACTIVATION])


@kernel
def activation(op, arena, worker, workers):
    for y in range(worker, op[t.YH], workers):
        for x in range(op[t.YW]):
            source = op[t.X] + y * op[t.XROW] + x * op[t.XPIXEL]
            target = op[t.Y] + y * op[t.YROW] + x * op[t.YPIXEL]
            for c in range(op[t.YC]):
                arena[target + c] = activate(arena[source + c], op[t.ACTIVATION])
