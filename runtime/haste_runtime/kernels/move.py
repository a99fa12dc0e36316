"""Moving elements without arithmetic: strided boxes (slice, pad, concat), flattening, and the zero border of a map."""

from __future__ import annotations

from haste_runtime.kernels import layout as t
from haste_runtime.kernels.jit import kernel, simd


@kernel
def clear_border(op, arena):
    """Zero the border of the output: the readers' padding. The memory may have held another map before."""
    border, row, pixel = op[t.YBORDER], op[t.YROW], op[t.YPIXEL]
    corner = op[t.Y] - border * (row + pixel)
    height = op[t.YH] + 2 * border
    for y in range(height):
        line = corner + y * row
        if y < border or y >= height - border:
            for i in range(row):
                arena[line + i] = 0
        else:
            for i in range(border * pixel):
                arena[line + i] = 0
            for i in range(row - border * pixel, row):
                arena[line + i] = 0


@kernel
def copy_box(op, arena, index, scratch, worker, workers):
    """output[OY + y, OX + x, OC + c] = input[CY + y * TY, CX + x * TX, CC + c * TC] over a box BY x BX x BC.

    With CLEAR the whole output is filled with the float whose bits are FILL first (padding with a constant).
    """
    if worker != 0:
        return
    if op[t.CLEAR] == 1:
        for y in range(op[t.YH]):
            for x in range(op[t.YW]):
                bits = simd.as_ints(simd.at(arena, op[t.Y] + y * op[t.YROW] + x * op[t.YPIXEL]))
                for c in range(op[t.YC]):
                    bits[c] = op[t.FILL]
    for y in range(op[t.BY]):
        for x in range(op[t.BX]):
            source = op[t.X] + (op[t.CY] + y * op[t.TY]) * op[t.XROW] + (op[t.CX] + x * op[t.TX]) * op[t.XPIXEL]
            target = op[t.Y] + (op[t.OY] + y) * op[t.YROW] + (op[t.OX] + x) * op[t.YPIXEL] + op[t.OC]
            for c in range(op[t.BC]):
                arena[target + c] = arena[source + op[t.CC] + c * op[t.TC]]


@kernel
def flatten(op, arena, worker, workers):
    """A map as one vector, in CHW order (OPTION 0) or HWC order (OPTION 1)."""
    if worker != 0:
        return
    height, width, channels = op[t.XH], op[t.XW], op[t.XC]
    for y in range(height):
        for x in range(width):
            source = op[t.X] + y * op[t.XROW] + x * op[t.XPIXEL]
            for c in range(channels):
                if op[t.OPTION] == 1:
                    arena[op[t.Y] + (y * width + x) * channels + c] = arena[source + c]
                else:
                    arena[op[t.Y] + (c * height + y) * width + x] = arena[source + c]
