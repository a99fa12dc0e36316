"""Intrinsics on integers: quantising, hashing, and comparing channels.

An `IVec` is one register of 2 W int16 lanes, a `Wide` as many int32 lanes. Integer sums are the same in any order.
"""

from __future__ import annotations

from typing import Any

import llvmlite.ir as ir
from numba import types
from numba.extending import intrinsic

from haste_runtime.kernels.layout import NO_KEY, POSITION_BITS
from haste_runtime.kernels.simd_emit import call, load, number, splat, store, transpose_square
from haste_runtime.kernels.simd_types import I16, I32, I64, SHORTS, VECTOR, WIDE, W, ivec, wide

LANES = 2 * W

# ---- int16: quantised channels ---------------------------------------------------------------------------------------


@intrinsic
def quantise(typing: Any, source: Any, offset: Any, inverse: Any, target: Any, target_offset: Any) -> Any:
    """target[...] (int16) = round-half-even(source[...] * inverse), W lanes; |source * inverse| is at most 127."""

    def emit(c: Any, b: Any, s: Any, a: Any) -> Any:
        product = b.fmul(load(b, a[0], a[1], VECTOR, 4), splat(b, a[2], VECTOR))
        rounded = call(b, f"llvm.roundeven.v{W}f32", VECTOR, [product])
        whole = b.fptosi(rounded, ir.VectorType(I32, W))
        store(b, b.trunc(whole, ir.VectorType(I16, W)), a[3], a[4], 2)
        return c.get_dummy_value()

    return types.void(source, types.int64, types.float32, target, types.int64), emit


@intrinsic
def shorts_zero(typing: Any) -> Any:
    return ivec(), lambda c, b, s, a: ir.Constant(SHORTS, [0] * (2 * W))


@intrinsic
def shorts_add(typing: Any, total: Any, pointer: Any, offset: Any) -> Any:
    """total + the 2 W int16 at pointer[offset]."""
    return ivec(total, pointer, types.int64), lambda c, b, s, a: b.add(a[0], load(b, a[1], a[2], SHORTS, 2))


@intrinsic
def widen_add(typing: Any, pointer: Any, offset: Any, total: Any, sign: Any) -> Any:
    """The 2 W int32 at pointer[offset] += sign * total; sign is +1 or -1."""

    def emit(c: Any, b: Any, s: Any, a: Any) -> Any:
        wide = b.mul(b.sext(a[2], WIDE), splat(b, a[3], WIDE))
        store(b, b.add(load(b, a[0], a[1], WIDE, 4), wide), a[0], a[1], 4)
        return c.get_dummy_value()

    return types.void(pointer, types.int64, total, types.int32), emit


@intrinsic
def shorts_store(typing: Any, pointer: Any, offset: Any, value: Any) -> Any:
    def emit(c: Any, b: Any, s: Any, a: Any) -> Any:
        store(b, a[2], a[0], a[1], 2)
        return c.get_dummy_value()

    return types.void(pointer, types.int64, value), emit


@intrinsic
def shorts_transpose(typing: Any, source: Any, target: Any, target_step: Any) -> Any:
    """target[j * target_step + i] = source[i * 2 W + j] for i, j < 2 W: pixels of channels become rows of pixels."""

    def emit(c: Any, b: Any, s: Any, a: Any) -> Any:
        transpose_square(b, a[0], number(LANES, I64), a[1], a[2], SHORTS, 2)
        return c.get_dummy_value()

    return types.void(source, target, types.int64), emit


# ---- int32: products -------------------------------------------------------------------------------------------------


@intrinsic
def wide_zero(typing: Any) -> Any:
    return wide(), lambda c, b, s, a: ir.Constant(WIDE, [0] * LANES)


@intrinsic
def wide_dot(typing: Any, total: Any, x: Any, y: Any, offset: Any) -> Any:
    """total + x[...] * y[...], the 2 W int16 at ``offset`` of both; LLVM makes of it pmaddwd, or smlal."""

    def emit(c: Any, b: Any, s: Any, a: Any) -> Any:
        x, y = (b.sext(load(b, pointer, a[3], SHORTS, 2), WIDE) for pointer in a[1:3])
        return b.add(a[0], b.mul(x, y))

    return wide(total, x, y, types.int64), emit


@intrinsic
def wide_sum(typing: Any, total: Any) -> Any:
    """The sum of all lanes, int32."""
    return types.int32(total), lambda c, b, s, a: call(b, f"llvm.vector.reduce.add.v{LANES}i32", I32, [a[0]])


# ---- int32: which codes are nearest ----------------------------------------------------------------------------------
# A key is (bits that differ) << POSITION_BITS | position, so that the smaller of two is nearer, or as near and earlier.


@intrinsic
def keys_none(typing: Any) -> Any:
    return wide(), lambda c, b, s, a: ir.Constant(WIDE, [NO_KEY] * LANES)


@intrinsic
def keys_of(typing: Any, code: Any, codes: Any, first: Any, count: Any) -> Any:
    """The keys of codes[first], codes[first + 1] ... as seen from ``code``; `NO_KEY` from position ``count`` on."""

    def emit(c: Any, b: Any, s: Any, a: Any) -> Any:
        differing = b.xor(load(b, a[1], a[2], WIDE, 4), splat(b, a[0], WIDE))
        distance = call(b, f"llvm.ctpop.v{LANES}i32", WIDE, [differing])
        ramp = ir.Constant(WIDE, list(range(LANES)))
        position = b.add(splat(b, b.trunc(a[2], I32), WIDE), ramp)
        key = b.or_(b.shl(distance, ir.Constant(WIDE, [POSITION_BITS] * LANES)), position)
        exists = b.icmp_signed("<", position, splat(b, b.trunc(a[3], I32), WIDE))
        return b.select(exists, key, ir.Constant(WIDE, [NO_KEY] * LANES))

    return wide(types.int32, codes, types.int64, types.int64), emit


@intrinsic
def keys_smaller(typing: Any, x: Any, y: Any) -> Any:
    """The smaller of two keys in each lane."""
    return wide(x, y), lambda c, b, s, a: b.select(b.icmp_signed("<", *a), *a)


@intrinsic
def keys_larger(typing: Any, x: Any, y: Any) -> Any:
    """The larger of two keys in each lane."""
    return wide(x, y), lambda c, b, s, a: b.select(b.icmp_signed(">", *a), *a)


@intrinsic
def keys_least(typing: Any, keys: Any) -> Any:
    """The smallest key of all lanes, int32."""
    return types.int32(keys), lambda c, b, s, a: call(b, f"llvm.vector.reduce.smin.v{LANES}i32", I32, [a[0]])


@intrinsic
def keys_instead(typing: Any, keys: Any, key: Any, others: Any) -> Any:
    """``keys``, but in the lane that holds ``key`` what ``others`` has there."""

    def emit(c: Any, b: Any, s: Any, a: Any) -> Any:
        return b.select(b.icmp_signed("==", a[0], splat(b, a[1], WIDE)), a[2], a[0])

    return wide(keys, types.int32, others), emit
