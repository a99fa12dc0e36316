"""Maps whose pixels are weighted sums of a few input pixels: resizing, and borders of a map's own pixels."""

from __future__ import annotations

from haste_runtime.kernels import layout as t
from haste_runtime.kernels.elementwise import store_some
from haste_runtime.kernels.jit import kernel, simd
from haste_runtime.kernels.pool import ZERO

at, vector_load, vector_fill, vector_fma = simd.at, simd.vector_load, simd.vector_fill, simd.vector_fma
W = simd.W


@kernel
def weighted(op, arena, c, rows, columns, row_weights, column_weights):
    """W channels of one output pixel: first along each input row, then over the rows."""
    total = vector_fill(ZERO)
    for i in range(op[t.OPTION]):
        source, line = at(arena, op[t.X] + rows[i] * op[t.XROW] + c), vector_fill(ZERO)
        for j in range(op[t.OPTION]):
            pixel = vector_load(source, columns[j] * op[t.XPIXEL])
            line = vector_fma(line, pixel, vector_fill(column_weights[j]))
        total = vector_fma(total, line, vector_fill(row_weights[i]))
    return total


@kernel
def resample(op, arena, packed, index, scratch, worker, workers):
    """OPTION taps along each axis: places of rows, then of columns, from TAPS on; their weights from WEIGHT on. Workers
    share out the output rows."""
    taps, spare = op[t.OPTION], at(arena, scratch)
    all_rows, all_weights = at(index, op[t.TAPS]), at(packed, op[t.WEIGHT])
    all_columns, column_weights = at(all_rows, op[t.YH] * taps), at(all_weights, op[t.YH] * taps)
    for y in range(worker, op[t.YH], workers):
        rows, weights = at(all_rows, y * taps), at(all_weights, y * taps)
        for x in range(op[t.YW]):
            columns = at(all_columns, x * taps)
            source = at(arena, op[t.X] + rows[0] * op[t.XROW] + columns[0] * op[t.XPIXEL])
            target = at(arena, op[t.Y] + y * op[t.YROW] + x * op[t.YPIXEL])
            for c in range(0, op[t.YC], W):
                value = vector_load(source, c)
                if taps > 1:
                    value = weighted(op, arena, c, rows, columns, weights, at(column_weights, x * taps))
                store_some(target, c, value, op[t.YC] - c, spare)
