"""Moving numbers without arithmetic: along strides of any kind, reshaping, and the zero border of a map."""

from __future__ import annotations

from haste_runtime.kernels import layout as t
from haste_runtime.kernels.jit import kernel, simd

at = simd.at
W = simd.W


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
def fill(op, arena):
    """The whole output with the float whose bits are FILL."""
    for y in range(op[t.YH]):
        for x in range(op[t.YW]):
            bits = simd.as_ints(at(arena, op[t.Y] + y * op[t.YROW] + x * op[t.YPIXEL]))
            for c in range(op[t.YC]):
                bits[c] = op[t.FILL]


@kernel
def line(source, step, target, target_step, count):
    whole = count - count % W if step == 1 and target_step == 1 else 0
    for i in range(0, whole, W):
        simd.vector_store(target, i, simd.vector_load(source, i))
    for i in range(whole, count):
        target[i * target_step] = source[i * step]


@kernel
def move(op, arena, worker, workers):
    """output[i0 TO0 + ... + i5 TO5] = input[i0 FROM0 + ... + i5 FROM5] for all ik < Nk; with CLEAR into a filled one.

    The input counts from X on, the output from OPTION behind Y on. Workers share out the first axis.
    """
    if op[t.CLEAR] == 1:
        if worker != 0:
            return
        fill(op, arena)
        workers = 1
    n, step, target_step = at(op, t.N), at(op, t.FROM), at(op, t.TO)
    for a in range(worker, n[0], workers):
        for b in range(n[1]):
            for c in range(n[2]):
                source = op[t.X] + a * step[0] + b * step[1] + c * step[2]
                target = op[t.Y] + op[t.OPTION] + a * target_step[0] + b * target_step[1] + c * target_step[2]
                for d in range(n[3]):
                    for e in range(n[4]):
                        start = source + d * step[3] + e * step[4]
                        end = target + d * target_step[3] + e * target_step[4]
                        line(at(arena, start), step[5], at(arena, end), target_step[5], n[5])


@kernel
def reshape(op, arena, worker, workers):
    """The same numbers in the same order: channels, rows, columns. Workers share out the output rows."""
    plane, step = op[t.XH] * op[t.XW], op[t.YH] * op[t.YW]  # from an output channel to the next
    channels, rows, columns = step // plane, step % plane // op[t.XW], step % op[t.XW]
    for y in range(worker, op[t.YH], workers):
        for x in range(op[t.YW]):
            number = y * op[t.YW] + x
            c, i, j = number // plane, number % plane // op[t.XW], number % op[t.XW]
            target = at(arena, op[t.Y] + y * op[t.YROW] + x * op[t.YPIXEL])
            for k in range(op[t.YC]):
                target[k] = arena[op[t.X] + i * op[t.XROW] + j * op[t.XPIXEL] + c]
                c, i, j = c + channels, i + rows, j + columns
                if j >= op[t.XW]:
                    j, i = j - op[t.XW], i + 1
                if i >= op[t.XH]:
                    i, c = i - op[t.XH], c + 1
