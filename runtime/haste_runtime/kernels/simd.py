"""Explicit SIMD for Numba: vector and register-tile types over raw pointers, and the intrinsics that use them.

Pointers are Numba's ``CPointer``; offsets count elements. A `Vec` is one register of W float32 lanes, an `IVec` one of
2 W int16 lanes. A `Tile` is rows x vectors of registers: the accumulators of the convolution micro-kernel, one row per
output pixel and W output channels per vector. LLVM keeps a tile in registers as long as it fits (16 on AVX2, 32 on NEON
and AVX-512). One source serves every width: W is fixed per process by `haste_runtime.kernels.lanes`.

With ``NUMBA_DISABLE_JIT=1`` the names mean the numpy twins in `haste_runtime.kernels.simd_twins`, so every kernel also
runs as plain Python on arrays.
"""

from __future__ import annotations

from typing import Any

import llvmlite.ir as ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from haste_runtime.kernels.simd_types import (
    F32,
    I8,
    I16,
    I32,
    I64,
    SHORTS,
    VECTOR,
    WIDE,
    Pixels,
    Tile,
    W,
    float_ptr,
    int_ptr,
    ivec,
    long_ptr,
    short_ptr,
    vec,
)  # fmt: skip

__all__ = ["W", "float_ptr", "int_ptr", "long_ptr"]

# ---- what the intrinsics below emit ----------------------------------------------------------------------------------


def _number(value: int, kind: Any = I32) -> Any:
    return ir.Constant(kind, value)


def _load(b: Any, pointer: Any, offset: Any, kind: Any, align: int) -> Any:
    return b.load(b.bitcast(b.gep(pointer, [offset]), kind.as_pointer()), align=align)


def _store(b: Any, value: Any, pointer: Any, offset: Any, align: int) -> None:
    b.store(value, b.bitcast(b.gep(pointer, [offset]), value.type.as_pointer()), align=align)


def _splat(b: Any, scalar: Any, kind: Any) -> Any:
    undefined = ir.Constant(kind, ir.Undefined)
    one = b.insert_element(undefined, scalar, _number(0))
    return b.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(I32, kind.count), [0] * kind.count))


def _call(b: Any, name: str, result: Any, args: list[Any]) -> Any:
    function = cgutils.get_or_insert_function(b.module, ir.FunctionType(result, [a.type for a in args]), name)
    return b.call(function, args)


def _fma(b: Any, x: Any, y: Any, z: Any) -> Any:
    return _call(b, f"llvm.fma.v{W}f32", VECTOR, [x, y, z])  # one rounding, on every CPU


def _clip(b: Any, x: Any, upper: Any) -> Any:
    zero, top = ir.Constant(VECTOR, [0.0] * W), _splat(b, upper, VECTOR)
    x = b.select(b.fcmp_ordered(">", x, zero), x, zero)
    return b.select(b.fcmp_ordered("<", x, top), x, top)


def _per_register(b: Any, tile: Any, change: Any) -> Any:
    for i in range(tile.type.count):
        tile = b.insert_value(tile, change(i, b.extract_value(tile, i)), i)
    return tile


def _row_offset(b: Any, table: Any, row: int) -> Any:
    return b.sext(b.load(b.gep(table, [_number(row)]), align=4), I64)


# ---- pointers --------------------------------------------------------------------------------------------------------


@intrinsic
def at(typing: Any, pointer: Any, offset: Any) -> Any:
    """The pointer ``offset`` elements further."""
    return pointer(pointer, types.int64), lambda c, b, s, a: b.gep(a[0], [a[1]])


@intrinsic
def as_ints(typing: Any, pointer: Any) -> Any:
    """The same memory as int32 (for scratch space inside the float arena)."""
    return int_ptr(pointer), lambda c, b, s, a: b.bitcast(a[0], I32.as_pointer())


@intrinsic
def as_shorts(typing: Any, pointer: Any) -> Any:
    """The same memory as int16."""
    return short_ptr(pointer), lambda c, b, s, a: b.bitcast(a[0], I16.as_pointer())


@intrinsic
def prefetch(typing: Any, pointer: Any, offset: Any) -> Any:
    """Ask for the cache line of pointer[offset]; never faults."""

    def emit(c: Any, b: Any, s: Any, a: Any) -> Any:
        line = b.bitcast(b.gep(a[0], [a[1]]), I8.as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [I8.as_pointer(), I32, I32, I32])
        function = cgutils.get_or_insert_function(b.module, kind, "llvm.prefetch.p0")
        b.call(function, [line, _number(0), _number(2), _number(1)])
        return c.get_dummy_value()

    return types.void(pointer, types.int64), emit


# ---- meeting other threads -------------------------------------------------------------------------------------------


@intrinsic
def atomic_add(typing: Any, pointer: Any, value: Any) -> Any:
    """Add ``value`` to pointer[0] (int64) at once; everything written before is seen by who reads the sum later."""

    def emit(c: Any, b: Any, s: Any, a: Any) -> Any:
        b.atomic_rmw("add", a[0], a[1], "acq_rel")
        return c.get_dummy_value()

    return types.void(pointer, types.int64), emit


@intrinsic
def atomic_load(typing: Any, pointer: Any) -> Any:
    """pointer[0] (int64), read anew at each call."""
    return types.int64(pointer), lambda c, b, s, a: b.load_atomic(a[0], "acquire", 8)


@intrinsic
def yield_processor(typing: Any) -> Any:
    """Let another thread run on this core (sched_yield)."""

    def emit(c: Any, b: Any, s: Any, a: Any) -> Any:
        _call(b, "sched_yield", I32, [])
        return c.get_dummy_value()

    return types.void(), emit


# ---- vectors ---------------------------------------------------------------------------------------------------------


@intrinsic
def vector_load(typing: Any, pointer: Any, offset: Any) -> Any:
    return vec(pointer, types.int64), lambda c, b, s, a: _load(b, a[0], a[1], VECTOR, 4)


@intrinsic
def vector_store(typing: Any, pointer: Any, offset: Any, value: Any) -> Any:
    def emit(c: Any, b: Any, s: Any, a: Any) -> Any:
        _store(b, a[2], a[0], a[1], 4)
        return c.get_dummy_value()

    return types.void(pointer, types.int64, value), emit


@intrinsic
def vector_add(typing: Any, x: Any, y: Any) -> Any:
    return vec(x, y), lambda c, b, s, a: b.fadd(*a)


@intrinsic
def vector_scale(typing: Any, x: Any, factor: Any) -> Any:
    """x * factor, factor a float32."""
    return vec(x, types.float32), lambda c, b, s, a: b.fmul(a[0], _splat(b, a[1], VECTOR))


@intrinsic
def vector_fma(typing: Any, total: Any, x: Any, y: Any) -> Any:
    """total + x * y, rounded once."""
    return vec(total, x, y), lambda c, b, s, a: _fma(b, a[1], a[2], a[0])


@intrinsic
def vector_clip(typing: Any, x: Any, upper: Any) -> Any:
    """Each lane limited to 0 .. upper (float32)."""
    return vec(x, types.float32), lambda c, b, s, a: _clip(b, a[0], a[1])


@intrinsic
def transpose(typing: Any, source: Any, step: Any, target: Any, target_step: Any) -> Any:
    """target[j * target_step + i] = source[i * step + j] for i, j < W: W pixels of W channels become W planes."""

    def emit(c: Any, b: Any, s: Any, a: Any) -> Any:
        source, step, target, target_step = a
        rows = [_load(b, source, b.mul(step, _number(i, I64)), VECTOR, 4) for i in range(W)]
        half = W // 2
        while half:  # log2 W rounds of butterflies
            low = [lane if not lane & half else W + lane - half for lane in range(W)]
            high = [lane + half if not lane & half else W + lane for lane in range(W)]
            mask = ir.VectorType(I32, W)
            for i in range(W):
                if not i & half:
                    x, y = rows[i], rows[i + half]
                    rows[i] = b.shuffle_vector(x, y, ir.Constant(mask, low))
                    rows[i + half] = b.shuffle_vector(x, y, ir.Constant(mask, high))
            half //= 2
        for j in range(W):
            _store(b, rows[j], target, b.mul(target_step, _number(j, I64)), 4)
        return c.get_dummy_value()

    return types.void(source, types.int64, target, types.int64), emit


@intrinsic
def quantise(typing: Any, source: Any, offset: Any, inverse: Any, target: Any, target_offset: Any) -> Any:
    """target[...] (int16) = round-half-even(source[...] * inverse), W lanes; |source * inverse| is at most 127."""

    def emit(c: Any, b: Any, s: Any, a: Any) -> Any:
        product = b.fmul(_load(b, a[0], a[1], VECTOR, 4), _splat(b, a[2], VECTOR))
        rounded = _call(b, f"llvm.roundeven.v{W}f32", VECTOR, [product])
        whole = b.fptosi(rounded, ir.VectorType(I32, W))
        _store(b, b.trunc(whole, ir.VectorType(I16, W)), a[3], a[4], 2)
        return c.get_dummy_value()

    return types.void(source, types.int64, types.float32, target, types.int64), emit


@intrinsic
def shorts_zero(typing: Any) -> Any:
    return ivec(), lambda c, b, s, a: ir.Constant(SHORTS, [0] * (2 * W))


@intrinsic
def shorts_add(typing: Any, total: Any, pointer: Any, offset: Any) -> Any:
    """total + the 2 W int16 at pointer[offset]."""
    return ivec(total, pointer, types.int64), lambda c, b, s, a: b.add(a[0], _load(b, a[1], a[2], SHORTS, 2))


@intrinsic
def widen_add(typing: Any, pointer: Any, offset: Any, total: Any, sign: Any) -> Any:
    """The 2 W int32 at pointer[offset] += sign * total; sign is +1 or -1."""

    def emit(c: Any, b: Any, s: Any, a: Any) -> Any:
        wide = b.mul(b.sext(a[2], WIDE), _splat(b, a[3], WIDE))
        _store(b, b.add(_load(b, a[0], a[1], WIDE, 4), wide), a[0], a[1], 4)
        return c.get_dummy_value()

    return types.void(pointer, types.int64, total, types.int32), emit


# ---- register tiles --------------------------------------------------------------------------------------------------


@intrinsic(prefer_literal=True)
def tile_bias(typing: Any, vectors: Any, pointer: Any, offset: Any) -> Any:
    """A tile of one row, loaded from ``vectors`` (a literal) * W consecutive floats."""
    count = vectors.literal_value
    kind = Tile(1, count)

    def emit(c: Any, b: Any, s: Any, a: Any) -> Any:
        tile = ir.Constant(ir.ArrayType(VECTOR, count), ir.Undefined)
        return _per_register(b, tile, lambda j, _: _load(b, a[1], b.add(a[2], _number(j * W, I64)), VECTOR, 4))

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
def tile_fma(typing: Any, tile: Any, pixels: Any, offset: Any, weights: Any) -> Any:
    """tile[i, j] += pixels[i][offset] * weights[j * W : (j + 1) * W], each a fused multiply-add."""

    def emit(c: Any, b: Any, s: Any, a: Any) -> Any:
        accumulators, pixels, offset, pointer = a
        filters = [_load(b, pointer, _number(j * W, I64), VECTOR, 4) for j in range(tile.vectors)]
        for i in range(tile.rows):
            scalar = b.load(b.gep(b.extract_value(pixels, i), [offset]), align=4)
            pixel = _splat(b, scalar, VECTOR)
            for j in range(tile.vectors):
                k = i * tile.vectors + j
                accumulators = b.insert_value(
                    accumulators, _fma(b, pixel, filters[j], b.extract_value(accumulators, k)), k
                )
        return accumulators

    return tile(tile, pixels, types.int64, weights), emit


@intrinsic
def tile_add(typing: Any, tile: Any, pointer: Any, offsets: Any) -> Any:
    """tile[i, j] += pointer[offsets[i] + j * W ...]: the residual."""

    def emit(c: Any, b: Any, s: Any, a: Any) -> Any:
        def add(k: int, register: Any) -> Any:
            row, column = divmod(k, tile.vectors)
            offset = b.add(_row_offset(b, a[2], row), _number(column * W, I64))
            return b.fadd(register, _load(b, a[1], offset, VECTOR, 4))

        return _per_register(b, a[0], add)

    return tile(tile, pointer, offsets), emit


@intrinsic
def tile_clip(typing: Any, tile: Any, upper: Any) -> Any:
    """Each lane limited to 0 .. upper (float32)."""

    def emit(c: Any, b: Any, s: Any, a: Any) -> Any:
        return _per_register(b, a[0], lambda _, register: _clip(b, register, a[1]))

    return tile(tile, types.float32), emit


@intrinsic
def tile_store(typing: Any, tile: Any, pointer: Any, offsets: Any) -> Any:
    """pointer[offsets[i] + j * W ...] = tile[i, j]."""

    def emit(c: Any, b: Any, s: Any, a: Any) -> Any:
        for k in range(tile.rows * tile.vectors):
            row, column = divmod(k, tile.vectors)
            offset = b.add(_row_offset(b, a[2], row), _number(column * W, I64))
            _store(b, b.extract_value(a[0], k), a[1], offset, 4)
        return c.get_dummy_value()

    return types.void(tile, pointer, offsets), emit
