"""Pooling: max, average, torch's adaptive windows, and the mean over a whole map. Workers share out the output rows.

Channels lie in lanes, and a vector of results stays in its register over the whole window.
"""

from __future__ import annotations

import numpy as np

from haste_runtime.kernels import layout as t
from haste_runtime.kernels.jit import kernel, simd

at, vector_load, vector_store, vector_fill = simd.at, simd.vector_load, simd.vector_store, simd.vector_fill
vector_add, vector_divide, vector_larger = simd.vector_add, simd.vector_divide, simd.vector_larger
W = simd.W
LOWEST = np.float32(-np.inf)
ZERO = np.float32(0)


@kernel
def max_window(op, arena, target, y0, y1, x0, x1, step_y, step_x):
    """Largest element per channel of the input rows y0..y1 and columns x0..x1 (exclusive, in steps)."""
    whole = op[t.YC] - op[t.YC] % W
    for c in range(0, whole, W):
        most = vector_fill(LOWEST)
        for y in range(y0, y1, step_y):
            row = at(arena, op[t.X] + y * op[t.XROW] + c)
            for x in range(x0, x1, step_x):
                most = vector_larger(vector_load(row, x * op[t.XPIXEL]), most)
        vector_store(arena, target + c, most)
    for c in range(whole, op[t.YC]):
        largest = LOWEST
        for y in range(y0, y1, step_y):
            for x in range(x0, x1, step_x):
                value = arena[op[t.X] + y * op[t.XROW] + x * op[t.XPIXEL] + c]
                largest = value if value > largest else largest
        arena[target + c] = largest


@kernel
def average_window(op, arena, target, y0, y1, x0, x1, count):
    """Sum per channel over rows y0..y1 and columns x0..x1 (exclusive) in row order, divided by ``count``."""
    divisor = np.float32(count)
    whole = op[t.YC] - op[t.YC] % W
    for c in range(0, whole, W):
        total = vector_fill(ZERO)
        for y in range(y0, y1):
            row = at(arena, op[t.X] + y * op[t.XROW] + c)
            for x in range(x0, x1):
                total = vector_add(total, vector_load(row, x * op[t.XPIXEL]))
        vector_store(arena, target + c, vector_divide(total, vector_fill(divisor)))
    for c in range(whole, op[t.YC]):
        sum_ = ZERO
        for y in range(y0, y1):
            for x in range(x0, x1):
                sum_ += arena[op[t.X] + y * op[t.XROW] + x * op[t.XPIXEL] + c]
        arena[target + c] = sum_ / divisor


@kernel
def first_inside(start, step):
    """The first of start, start + step, ... that is not negative."""
    return start if start >= 0 else start + (-start + step - 1) // step * step


@kernel
def max_pool(op, arena, worker, workers):
    for y in range(worker, op[t.YH], workers):
        top = y * op[t.SY] - op[t.PTOP]
        bottom = min(top + (op[t.KY] - 1) * op[t.DY] + 1, op[t.XH])
        for x in range(op[t.YW]):
            left = x * op[t.SX] - op[t.PLEFT]
            right = min(left + (op[t.KX] - 1) * op[t.DX] + 1, op[t.XW])
            target = op[t.Y] + y * op[t.YROW] + x * op[t.YPIXEL]
            y0, x0 = first_inside(top, op[t.DY]), first_inside(left, op[t.DX])
            max_window(op, arena, target, y0, bottom, x0, right, op[t.DY], op[t.DX])


@kernel
def average_pool(op, arena, worker, workers):
    """OPTION 1 counts the padding (which adds zeros) in the divisor, 0 does not."""
    for y in range(worker, op[t.YH], workers):
        top = y * op[t.SY] - op[t.PTOP]
        y0, y1 = max(top, 0), min(top + op[t.KY], op[t.XH])
        for x in range(op[t.YW]):
            left = x * op[t.SX] - op[t.PLEFT]
            x0, x1 = max(left, 0), min(left + op[t.KX], op[t.XW])
            count = op[t.KY] * op[t.KX] if op[t.OPTION] == 1 else (y1 - y0) * (x1 - x0)
            average_window(op, arena, op[t.Y] + y * op[t.YROW] + x * op[t.YPIXEL], y0, y1, x0, x1, count)


@kernel
def adaptive_pool(op, arena, worker, workers):
    """Output element i covers input floor(i * n / m) .. ceil((i + 1) * n / m) (torch's rule)."""
    for y in range(worker, op[t.YH], workers):
        y0, y1 = y * op[t.XH] // op[t.YH], ((y + 1) * op[t.XH] + op[t.YH] - 1) // op[t.YH]
        for x in range(op[t.YW]):
            x0, x1 = x * op[t.XW] // op[t.YW], ((x + 1) * op[t.XW] + op[t.YW] - 1) // op[t.YW]
            target = op[t.Y] + y * op[t.YROW] + x * op[t.YPIXEL]
            if op[t.KIND] == t.ADAPTIVE_MAX:
                max_window(op, arena, target, y0, y1, x0, x1, 1, 1)
            else:
                average_window(op, arena, target, y0, y1, x0, x1, (y1 - y0) * (x1 - x0))


@kernel
def mean(op, arena, worker, workers):
    """Mean over the whole map; one worker does it all."""
    if worker == 0:
        average_window(op, arena, op[t.Y], 0, op[t.XH], 0, op[t.XW], op[t.XH] * op[t.XW])
