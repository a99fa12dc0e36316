"""Explicit SIMD for Numba: vector and register-tile types over raw pointers, and the intrinsics that use them.

Pointers are Numba's ``CPointer``; offsets count elements. A `Vec` is one register of W float32 lanes. A `Tile` is rows
x vectors of registers: the accumulators of the convolution micro-kernel (`haste_runtime.kernels.simd_tiles`).
Intrinsics on integers are defined in `haste_runtime.kernels.simd_integers`, those that functions are made of in
`haste_runtime.kernels.simd_functions`. One source serves every width: W is fixed per process by
`haste_runtime.kernels.lanes`.

With ``NUMBA_DISABLE_JIT=1`` the names mean the numpy twins in `haste_runtime.kernels.simd_twins`, so every kernel also
runs as plain Python on arrays.
"""

from __future__ import annotations

from typing import Any

import llvmlite.ir as ir
from numba import types
from numba.extending import intrinsic

from haste_runtime.kernels.simd_emit import ask, call, clip, fma, load, load_floats, number, splat, store
from haste_runtime.kernels.simd_functions import (
    vector_absolute,
    vector_exponent,
    vector_mantissa,
    vector_polynomial,
    vector_power_of_two,
    vector_round,
    vector_smaller,
    vector_square_root,
    vector_subtract,
    vector_where_below,
    vector_with_sign,
)
from haste_runtime.kernels.simd_integers import (
    ints_dot,
    ints_sum,
    ints_zero,
    keys_instead,
    keys_larger,
    keys_least,
    keys_none,
    keys_of,
    keys_of_products,
    keys_smaller,
    quantise,
    quantise_half,
    shorts_add,
    shorts_store,
    shorts_subtract,
    shorts_transpose,
    shorts_zero,
    wide_squares,
    wide_store,
    wide_zero,
    widen_add,
)  # fmt: skip
from haste_runtime.kernels.simd_tiles import (
    tile_add,
    tile_bias,
    tile_clip,
    tile_fma,
    tile_fma_lanes,
    tile_fma_next,
    tile_fma_run,
    tile_keep,
    tile_load,
    tile_pixels,
    tile_prefetch,
    tile_repeat,
    tile_scale,
    tile_shift,
    tile_store,
    tile_width,
)
from haste_runtime.kernels.simd_types import (
    F64,
    I8,
    I16,
    I32,
    I64,
    VECTOR,
    W,
    byte_ptr,
    double_ptr,
    float_ptr,
    half_ptr,
    int_ptr,
    long_ptr,
    short_ptr,
    vec,
)  # fmt: skip

__all__ = [
    "W", "float_ptr", "int_ptr", "ints_dot", "ints_sum", "ints_zero", "keys_instead", "keys_larger", "keys_least",
    "keys_none", "keys_of", "keys_of_products", "keys_smaller", "long_ptr", "quantise", "quantise_half", "shorts_add",
    "shorts_store", "shorts_subtract", "shorts_transpose", "shorts_zero", "tile_add", "tile_bias", "tile_clip",
    "tile_fma", "tile_fma_lanes", "tile_fma_next", "tile_fma_run", "tile_keep", "tile_load", "tile_pixels",
    "tile_prefetch", "tile_repeat", "tile_scale", "tile_shift", "tile_store", "tile_width", "vector_absolute",
    "vector_exponent", "vector_mantissa", "vector_polynomial", "vector_power_of_two", "vector_round", "vector_smaller",
    "vector_square_root", "vector_subtract", "vector_where_below", "vector_with_sign", "wide_squares", "wide_store",
    "wide_zero", "widen_add",
]  # fmt: skip


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
def as_halves(typing: Any, pointer: Any) -> Any:
    """The same memory as float16; it is read by `vector_load` and `tile_fma` only."""
    return half_ptr(pointer), lambda c, b, s, a: b.bitcast(a[0], I16.as_pointer())


@intrinsic
def as_bytes(typing: Any, pointer: Any) -> Any:
    """The same memory as int8."""
    return byte_ptr(pointer), lambda c, b, s, a: b.bitcast(a[0], I8.as_pointer())


@intrinsic
def as_longs(typing: Any, pointer: Any) -> Any:
    """The same memory as int64; it must begin at a multiple of 8 bytes."""
    return long_ptr(pointer), lambda c, b, s, a: b.bitcast(a[0], I64.as_pointer())


@intrinsic
def as_doubles(typing: Any, pointer: Any) -> Any:
    """The same memory as float64; it must begin at a multiple of 8 bytes."""
    return double_ptr(pointer), lambda c, b, s, a: b.bitcast(a[0], F64.as_pointer())


@intrinsic
def prefetch(typing: Any, pointer: Any, offset: Any) -> Any:
    """Ask for the cache line of pointer[offset]; never faults."""

    def emit(c: Any, b: Any, s: Any, a: Any) -> Any:
        ask(b, b.gep(a[0], [a[1]]))
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
        call(b, "sched_yield", I32, [])
        return c.get_dummy_value()

    return types.void(), emit


# ---- vectors ---------------------------------------------------------------------------------------------------------


@intrinsic
def vector_load(typing: Any, pointer: Any, offset: Any) -> Any:
    """W numbers, decoded where they are stored as float16 or int8."""
    return vec(pointer, types.int64), lambda c, b, s, a: load_floats(b, a[0], a[1])


@intrinsic
def vector_store(typing: Any, pointer: Any, offset: Any, value: Any) -> Any:
    def emit(c: Any, b: Any, s: Any, a: Any) -> Any:
        store(b, a[2], a[0], a[1], 4)
        return c.get_dummy_value()

    return types.void(pointer, types.int64, value), emit


@intrinsic
def vector_fill(typing: Any, value: Any) -> Any:
    """``value``, a float32, in every lane."""
    return vec(types.float32), lambda c, b, s, a: splat(b, a[0], VECTOR)


@intrinsic
def vector_add(typing: Any, x: Any, y: Any) -> Any:
    return vec(x, y), lambda c, b, s, a: b.fadd(*a)


@intrinsic
def vector_multiply(typing: Any, x: Any, y: Any) -> Any:
    return vec(vec, vec), lambda c, b, s, a: b.fmul(*a)


@intrinsic
def vector_divide(typing: Any, x: Any, y: Any) -> Any:
    return vec(vec, vec), lambda c, b, s, a: b.fdiv(*a)


@intrinsic
def vector_larger(typing: Any, x: Any, y: Any) -> Any:
    """Per lane the larger of the two; ``y`` where they do not compare."""
    return vec(vec, vec), lambda c, b, s, a: b.select(b.fcmp_ordered(">", *a), *a)


@intrinsic
def vector_scale(typing: Any, x: Any, factor: Any) -> Any:
    """x * factor, factor a float32."""
    return vec(x, types.float32), lambda c, b, s, a: b.fmul(a[0], splat(b, a[1], VECTOR))


@intrinsic
def vector_fma(typing: Any, total: Any, x: Any, y: Any) -> Any:
    """total + x * y, rounded once."""
    return vec(total, x, y), lambda c, b, s, a: fma(b, a[1], a[2], a[0])


@intrinsic
def vector_clip(typing: Any, x: Any, upper: Any) -> Any:
    """Each lane limited to 0 .. upper (float32)."""
    return vec(x, types.float32), lambda c, b, s, a: clip(b, a[0], a[1])


@intrinsic
def transpose(typing: Any, source: Any, step: Any, target: Any, target_step: Any) -> Any:
    """target[j * target_step + i] = source[i * step + j] for i, j < W: W pixels of W channels become W planes."""

    def emit(c: Any, b: Any, s: Any, a: Any) -> Any:
        source, step, target, target_step = a
        rows = [load(b, source, b.mul(step, number(i, I64)), VECTOR, 4) for i in range(W)]
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
            store(b, rows[j], target, b.mul(target_step, number(j, I64)), 4)
        return c.get_dummy_value()

    return types.void(source, types.int64, target, types.int64), emit
