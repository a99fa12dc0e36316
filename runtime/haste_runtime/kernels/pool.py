"""Pooling: max, average, torch's adaptive windows, and the mean over a whole map. Workers share out the output rows."""

from __future__ import annotations

import numpy as np

from haste_runtime.kernels import layout as t
from haste_runtime.kernels.jit import kernel

LOWEST = np.float32(-np.inf)


@kernel
def max_window(op, arena, target, y0, y1, x0, x1, step_y, step_x):
    """Largest element per channel of the input rows y0..y1 and columns x0..x1 (exclusive, in steps)."""
    for c in range(op[t.YC]):
        arena[target + c] = LOWEST
    for y in range(y0, y1, step_y):
        for x in range(x0, x1, step_x):
            source = op[t.X] + y * op[t.XROW] + x * op[t.XPIXEL]
            for c in range(op[t.YC]):
                value = arena[source + c]
                arena[target + c] = value if value > arena[target + c] else arena[target + c]


@kernel
def average_window(op, arena, target, y0, y1, x0, x1, count):
    """Sum per channel over rows y0..y1 and columns x0..x1 (exclusive) in row order, divided by ``count``."""
    for c in range(op[t.YC]):
        arena[target + c] = 0
    for y in range(y0, y1):
        for x in range(x0, x1):
            source = op[t.X] + y * op[t.XROW] + x * op[t.XPIXEL]
            for c in range(op[t.YC]):
                arena[target + c] += arena[source + c]
    divisor = np.float32(count)
    for c in range(op[t.YC]):
        arena[target + c] /= divisor


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
