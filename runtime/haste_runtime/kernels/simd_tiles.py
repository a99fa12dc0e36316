"""Intrinsics on register tiles: rows x vectors of accumulators, a row for an output pixel, W channels in a vector.

LLVM keeps a tile in registers as long as it fits (16 on AVX2, 32 on NEON and AVX-512). See
`haste_runtime.kernels.simd`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import llvmlite.ir as ir
from numba import types
from numba.extending import intrinsic

from haste_runtime.kernels.lanes import widest
from haste_runtime.kernels.layout import UNROLLED
from haste_runtime.kernels.simd_emit import ask, clip, fma, load, load_floats, number, splat, store
from haste_runtime.kernels.simd_types import F32, I32, I64, VECTOR, Pixels, Tile, W

LINE_BYTES = 64  # of a cache line
BY_LANE = W == UNROLLED and widest(W) == 4  # 64-bit ARM multiplies by one number of a vector, and has room for more


def _per_register(b: Any, tile: Any, change: Any) -> Any:
    for i in range(tile.type.count):
        tile = b.insert_value(tile, change(i, b.extract_value(tile, i)), i)
    return tile


def _row_offset(b: Any, table: Any, row: int) -> Any:
    return b.sext(b.load(b.gep(table, [number(row)]), align=4), I64)


def _row_places(b: Any, tile: Any, pointer: Any, table: Any) -> list[Any]:
    """pointer + table[row] of each row. All are read before anything is stored, which LLVM must take for a change."""
    return [b.gep(pointer, [_row_offset(b, table, row)]) for row in range(tile.rows)]


@intrinsic(prefer_literal=True)
def tile_bias(typing: Any, vectors: Any, pointer: Any, offset: Any) -> Any:
    """A tile of one row, loaded from ``vectors`` (a literal) * W consecutive floats."""
    count = vectors.literal_value
    kind = Tile(1, count)

    def emit(c: Any, b: Any, s: Any, a: Any) -> Any:
        tile = ir.Constant(ir.ArrayType(VECTOR, count), ir.Undefined)
        return _per_register(b, tile, lambda j, _: load(b, a[1], b.add(a[2], number(j * W, I64)), VECTOR, 4))

    return kind(vectors, pointer, types.int64), emit


@intrinsic(prefer_literal=True)
def tile_repeat(typing: Any, row: Any, rows: Any) -> Any:
    """``rows`` (a literal) copies of a one-row tile."""
    kind = Tile(rows.literal_value, row.vectors)

    def emit(c: Any, b: Any, s: Any, a: Any) -> Any:
        tile = ir.Constant(ir.ArrayType(VECTOR, kind.rows * kind.vectors), ir.Undefined)
        return _per_register(b, tile, lambda i, _: b.extract_value(a[0], i % row.vectors))

    return kind(row, rows), emit


@intrinsic
def tile_width(typing: Any, tile: Any) -> Any:
    """How many channels a tile has: a constant, which its type tells."""
    return types.int64(tile), lambda c, b, s, a: number(tile.vectors * W, I64)


@intrinsic
def tile_load(typing: Any, tile: Any, pointer: Any) -> Any:
    """A tile of the same size as ``tile``, whose rows follow each other in memory."""

    def emit(c: Any, b: Any, s: Any, a: Any) -> Any:
        return _per_register(b, a[0], lambda k, _: load(b, a[1], number(k * W, I64), VECTOR, 4))

    return tile(tile, pointer), emit


@intrinsic
def tile_keep(typing: Any, tile: Any, pointer: Any) -> Any:
    """Store a tile so that `tile_load` finds it."""

    def emit(c: Any, b: Any, s: Any, a: Any) -> Any:
        for k in range(a[0].type.count):
            store(b, b.extract_value(a[0], k), a[1], number(k * W, I64), 4)
        return c.get_dummy_value()

    return types.void(tile, pointer), emit


@intrinsic
def tile_pixels(typing: Any, tile: Any, pointer: Any, offsets: Any) -> Any:
    """One pointer per row of ``tile``: pointer + offsets[row] (int32)."""
    kind = Pixels(tile.rows)

    def emit(c: Any, b: Any, s: Any, a: Any) -> Any:
        pixels = ir.Constant(ir.ArrayType(F32.as_pointer(), kind.rows), ir.Undefined)
        for i in range(kind.rows):
            pixels = b.insert_value(pixels, b.gep(a[1], [_row_offset(b, a[2], i)]), i)
        return pixels

    return kind(tile, pointer, offsets), emit


@intrinsic
def tile_shift(typing: Any, tile: Any, pixels: Any, offset: Any) -> Any:
    """The pointers of `tile_pixels`, each ``offset`` further."""

    def emit(c: Any, b: Any, s: Any, a: Any) -> Any:
        shifted = a[1]
        for i in range(tile.rows):
            shifted = b.insert_value(shifted, b.gep(b.extract_value(a[1], i), [a[2]]), i)
        return shifted

    return pixels(tile, pixels, types.int64), emit


@intrinsic
def tile_fma(typing: Any, tile: Any, pixels: Any, offset: Any, weights: Any) -> Any:
    """tile[i, j] += pixels[i][offset] * weights[j * W : (j + 1) * W], each a fused multiply-add.

    The weights are decoded where they are stored as float16 or int8.
    """

    def emit(c: Any, b: Any, s: Any, a: Any) -> Any:
        accumulators, pixels, offset, pointer = a
        filters = [load_floats(b, pointer, number(j * W, I64)) for j in range(tile.vectors)]
        for i in range(tile.rows):
            pixel = splat(b, b.load(b.gep(b.extract_value(pixels, i), [offset]), align=4), VECTOR)
            for j in range(tile.vectors):
                k = i * tile.vectors + j
                total = fma(b, pixel, filters[j], b.extract_value(accumulators, k))
                accumulators = b.insert_value(accumulators, total, k)
        return accumulators

    return tile(tile, pixels, types.int64, weights), emit


@intrinsic
def tile_fma_lanes(typing: Any, tile: Any, pixels: Any, offset: Any, weights: Any) -> Any:
    """tile[i] += pixels[i][offset : offset + W] * weights[:W], of a tile of one vector, each a fused multiply-add."""

    def emit(c: Any, b: Any, s: Any, a: Any) -> Any:
        tile, pixels, offset, pointer = a
        filters = load(b, pointer, number(0), VECTOR, 4)

        def add(i: int, register: Any) -> Any:
            return fma(b, load(b, b.extract_value(pixels, i), offset, VECTOR, 4), filters, register)

        return _per_register(b, tile, add)

    return tile(tile, pixels, types.int64, weights), emit


def _multiply_add(b: Any, tile: Any, accumulators: Any, pixels: Sequence[Any], filters: Iterable[Any]) -> Any:
    """One entry: a vector of the same pixel for each row, and the filters, of which one at a time need be loaded."""
    for j, weights in enumerate(filters):
        for i, pixel in enumerate(pixels):
            k = i * tile.vectors + j
            total = fma(b, pixel, weights, b.extract_value(accumulators, k))
            accumulators = b.insert_value(accumulators, total, k)
    return accumulators


def _lane(b: Any, vector: Any, lane: int) -> Any:
    """One number of a vector of any length, in all lanes of a `VECTOR`: on ARM part of the multiply-add."""
    mask = ir.Constant(ir.VectorType(I32, W), [lane] * W)
    return b.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), mask)


@intrinsic
def tile_fma_run(typing: Any, tile: Any, pixels: Any, offset: Any, weights: Any) -> Any:
    """`UNROLLED` entries in a row: `tile_fma` with offset + k and weights[k * width ...] for k < UNROLLED.

    On 64-bit ARM a row's pixels are one load. The filters are loaded one after the other, since all 32 registers are in
    use: 24 accumulators, 6 of pixels, and two.
    """

    def emit(c: Any, b: Any, s: Any, a: Any) -> Any:
        accumulators, pixels, offset, pointer = a
        starts = [b.gep(b.extract_value(pixels, i), [offset]) for i in range(tile.rows)]
        together = [load(b, start, number(0), VECTOR, 4) for start in starts] if BY_LANE else []
        for k in range(UNROLLED):
            filters = (load_floats(b, pointer, number((k * tile.vectors + j) * W, I64)) for j in range(tile.vectors))
            if BY_LANE:
                own = [_lane(b, vector, k) for vector in together]
            else:
                own = [splat(b, b.load(b.gep(start, [number(k)]), align=4), VECTOR) for start in starts]
            accumulators = _multiply_add(b, tile, accumulators, own, filters)
        return accumulators

    return tile(tile, pixels, types.int64, weights), emit


@intrinsic
def tile_fma_next(typing: Any, tile: Any, pointer: Any, offset: Any, weights: Any) -> Any:
    """`tile_fma` where the rows' pixels follow each other: tile[i, j] += pointer[offset + i] * weights[j * W ...]."""

    def emit(c: Any, b: Any, s: Any, a: Any) -> Any:
        accumulators, pointer, offset, weights = a
        start, pixels, first = b.gep(pointer, [offset]), [], 0
        while first < tile.rows:
            left = tile.rows - first
            count = 4 if left > 3 else 2 if left > 1 else 1
            if BY_LANE and count > 1:
                some = load(b, start, number(first), ir.VectorType(F32, count), 4)
                pixels += [_lane(b, some, i) for i in range(count)]
            else:
                places = [b.gep(start, [number(first + i)]) for i in range(count)]
                pixels += [splat(b, b.load(place, align=4), VECTOR) for place in places]
            first += count
        filters = (load_floats(b, weights, number(j * W, I64)) for j in range(tile.vectors))
        return _multiply_add(b, tile, accumulators, pixels, filters)

    return tile(tile, pointer, types.int64, weights), emit


@intrinsic
def tile_prefetch(typing: Any, tile: Any, weights: Any, offset: Any) -> Any:
    """Ask for every cache line of the filters that `tile_fma` would read from weights[offset] on; never faults."""
    step = LINE_BYTES * 8 // weights.dtype.bitwidth

    def emit(c: Any, b: Any, s: Any, a: Any) -> Any:
        for i in range(0, tile.vectors * W, step):
            ask(b, b.gep(a[1], [b.add(a[2], number(i, I64))]))
        return c.get_dummy_value()

    return types.void(tile, weights, types.int64), emit


@intrinsic
def tile_add(typing: Any, tile: Any, pointer: Any, offsets: Any) -> Any:
    """tile[i, j] += pointer[offsets[i] + j * W ...]: the residual."""

    def emit(c: Any, b: Any, s: Any, a: Any) -> Any:
        places = _row_places(b, tile, a[1], a[2])

        def add(k: int, register: Any) -> Any:
            row, column = divmod(k, tile.vectors)
            return b.fadd(register, load(b, places[row], number(column * W, I64), VECTOR, 4))

        return _per_register(b, a[0], add)

    return tile(tile, pointer, offsets), emit


@intrinsic
def tile_scale(typing: Any, tile: Any, scale: Any, bias: Any) -> Any:
    """tile[i, j] = tile[i, j] * scale[j * W ...] + bias[j * W ...], each a fused multiply-add."""

    def emit(c: Any, b: Any, s: Any, a: Any) -> Any:
        factors, shifts = (
            [load(b, pointer, number(j * W, I64), VECTOR, 4) for j in range(tile.vectors)] for pointer in a[1:]
        )
        return _per_register(
            b, a[0], lambda k, register: fma(b, register, factors[k % tile.vectors], shifts[k % tile.vectors])
        )

    return tile(tile, scale, bias), emit


@intrinsic
def tile_clip(typing: Any, tile: Any, upper: Any) -> Any:
    """Each lane limited to 0 .. upper (float32)."""

    def emit(c: Any, b: Any, s: Any, a: Any) -> Any:
        return _per_register(b, a[0], lambda _, register: clip(b, register, a[1]))

    return tile(tile, types.float32), emit


@intrinsic
def tile_store(typing: Any, tile: Any, pointer: Any, offsets: Any) -> Any:
    """pointer[offsets[i] + j * W ...] = tile[i, j]."""

    def emit(c: Any, b: Any, s: Any, a: Any) -> Any:
        places = _row_places(b, tile, a[1], a[2])
        for k in range(tile.rows * tile.vectors):
            row, column = divmod(k, tile.vectors)
            store(b, b.extract_value(a[0], k), places[row], number(column * W, I64), 4)
        return c.get_dummy_value()

    return types.void(tile, pointer, offsets), emit
