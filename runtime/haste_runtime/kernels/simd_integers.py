"""Intrinsics on integers: quantising, hashing, and comparing channels.

A `Shorts` is one register of 2 W int16 lanes, an `Ints` one of W int32 lanes, a `Wide` two of these. Integer sums are
the same in any order.
"""

from __future__ import annotations

from typing import Any

import llvmlite.ir as ir
from numba import types
from numba.extending import intrinsic

from haste_runtime.kernels.layout import NO_KEY, POSITION_BITS, SHORT_POSITION_BITS
from haste_runtime.kernels.simd_emit import call, load, number, splat, store
from haste_runtime.kernels.simd_types import F32, I16, I32, I64, INTS, SHORTS, VECTOR, WIDE, W, ints, shorts, wide

LANES = 2 * W

# ---- int16: quantised channels ---------------------------------------------------------------------------------------


def _quantise(b: Any, a: Any, lanes: int) -> None:
    """Emit a[3][a[4] ...] (int16) = round-half-even(a[0][a[1] ...] * a[2])."""
    floats, ints, shorts = (ir.VectorType(kind, lanes) for kind in (F32, I32, I16))
    product = b.fmul(load(b, a[0], a[1], floats, 4), splat(b, a[2], floats))
    rounded = call(b, f"llvm.roundeven.v{lanes}f32", floats, [product])
    store(b, b.trunc(b.fptosi(rounded, ints), shorts), a[3], a[4], 2)


@intrinsic
def quantise(typing: Any, source: Any, offset: Any, inverse: Any, target: Any, target_offset: Any) -> Any:
    """target[...] (int16) = round-half-even(source[...] * inverse), 2 W lanes; |source * inverse| is at most 127."""

    def emit(c: Any, b: Any, s: Any, a: Any) -> Any:
        _quantise(b, a, LANES)
        return c.get_dummy_value()

    return types.void(source, types.int64, types.float32, target, types.int64), emit


@intrinsic
def quantise_half(typing: Any, source: Any, offset: Any, inverse: Any, target: Any, target_offset: Any) -> Any:
    """The same for W lanes."""

    def emit(c: Any, b: Any, s: Any, a: Any) -> Any:
        _quantise(b, a, W)
        return c.get_dummy_value()

    return types.void(source, types.int64, types.float32, target, types.int64), emit


@intrinsic
def shorts_zero(typing: Any) -> Any:
    return shorts(), lambda c, b, s, a: ir.Constant(SHORTS, [0] * (2 * W))


@intrinsic
def shorts_add(typing: Any, total: Any, pointer: Any, offset: Any) -> Any:
    """total + the 2 W int16 at pointer[offset]."""
    return shorts(total, pointer, types.int64), lambda c, b, s, a: b.add(a[0], load(b, a[1], a[2], SHORTS, 2))


@intrinsic
def shorts_subtract(typing: Any, total: Any, pointer: Any, offset: Any) -> Any:
    """total - the 2 W int16 at pointer[offset]."""
    return shorts(total, pointer, types.int64), lambda c, b, s, a: b.sub(a[0], load(b, a[1], a[2], SHORTS, 2))


@intrinsic
def widen_add(typing: Any, pointer: Any, offset: Any, total: Any) -> Any:
    """The 2 W int32 at pointer[offset] += total."""

    def emit(c: Any, b: Any, s: Any, a: Any) -> Any:
        store(b, b.add(load(b, a[0], a[1], WIDE, 4), b.sext(a[2], WIDE)), a[0], a[1], 4)
        return c.get_dummy_value()

    return types.void(pointer, types.int64, total), emit


@intrinsic
def shorts_store(typing: Any, pointer: Any, offset: Any, value: Any) -> Any:
    def emit(c: Any, b: Any, s: Any, a: Any) -> Any:
        store(b, a[2], a[0], a[1], 2)
        return c.get_dummy_value()

    return types.void(pointer, types.int64, value), emit


@intrinsic
def shorts_transpose(typing: Any, source: Any, target: Any, target_step: Any) -> Any:
    """target[j * target_step + i] = source[i * 2 W + j] for i < 8, j < 2 W: 8 pixels of 2 W channels become rows."""

    def emit(c: Any, b: Any, s: Any, a: Any) -> Any:
        rows = [load(b, a[0], number(i * LANES, I64), SHORTS, 2) for i in range(8)]
        eights = range(0, LANES, 8)
        low, high = ([j + half for g in eights for i in range(4) for j in (g + i, LANES + g + i)] for half in (0, 4))
        mask = ir.VectorType(I32, LANES)
        for _ in range(3):  # zipping both halves of the rows three times transposes every 8 x 8
            pairs = [(rows[i], rows[i + 4], half) for i in range(4) for half in (low, high)]
            rows = [b.shuffle_vector(x, y, ir.Constant(mask, half)) for x, y, half in pairs]
        for g in eights:
            lanes = ir.Constant(ir.VectorType(I32, 8), list(range(g, g + 8)))
            for j, row in enumerate(rows):
                part = b.shuffle_vector(row, ir.Constant(SHORTS, ir.Undefined), lanes)
                store(b, part, a[1], b.mul(a[2], number(g + j, I64)), 2)
        return c.get_dummy_value()

    return types.void(source, target, types.int64), emit


# ---- int32: energies -------------------------------------------------------------------------------------------------


@intrinsic
def wide_zero(typing: Any) -> Any:
    return wide(), lambda c, b, s, a: ir.Constant(WIDE, [0] * LANES)


@intrinsic
def wide_squares(typing: Any, total: Any, pointer: Any, offset: Any) -> Any:
    """total + the squares of 2 W int16 at pointer[offset] and of the 2 W behind them, which are at most 127."""

    def emit(c: Any, b: Any, s: Any, a: Any) -> Any:
        x, y = (load(b, a[1], b.add(a[2], number(i * LANES, I64)), SHORTS, 2) for i in range(2))
        return b.add(a[0], b.sext(b.add(b.mul(x, x), b.mul(y, y)), WIDE))  # 2 * 127 * 127 is an int16

    return wide(total, pointer, types.int64), emit


@intrinsic
def wide_store(typing: Any, pointer: Any, offset: Any, value: Any) -> Any:
    def emit(c: Any, b: Any, s: Any, a: Any) -> Any:
        store(b, a[2], a[0], a[1], 4)
        return c.get_dummy_value()

    return types.void(pointer, types.int64, value), emit


# ---- int32: products -------------------------------------------------------------------------------------------------


@intrinsic
def ints_zero(typing: Any) -> Any:
    return ints(), lambda c, b, s, a: ir.Constant(INTS, [0] * W)


@intrinsic
def ints_dot(typing: Any, total: Any, x: Any, y: Any, offset: Any) -> Any:
    """total + the products of the 2 W int16 at ``offset`` of x and y, two to a lane.

    Which two is up to the CPU, so that LLVM makes one instruction of it: pmaddwd adds neighbours, smlal (twice) takes
    the lower and the upper half.
    """

    def emit(c: Any, b: Any, s: Any, a: Any) -> Any:
        x, y = (b.sext(load(b, pointer, a[3], SHORTS, 2), WIDE) for pointer in a[1:3])
        product, even = b.mul(x, y), range(0, LANES, 2)
        pairs = [even, [i + 1 for i in even]] if b.module.triple.startswith("x86") else [range(W), range(W, LANES)]
        undefined = ir.Constant(WIDE, ir.Undefined)
        first, second = (b.shuffle_vector(product, undefined, ir.Constant(INTS, [*lanes])) for lanes in pairs)
        return b.add(a[0], b.add(first, second))

    return ints(total, x, y, types.int64), emit


@intrinsic
def ints_sum(typing: Any, total: Any) -> Any:
    """The sum of all lanes, int32."""
    return types.int32(total), lambda c, b, s, a: call(b, f"llvm.vector.reduce.add.v{W}i32", I32, [a[0]])


# ---- int32: which codes are nearest ----------------------------------------------------------------------------------
# A key is (bits that differ) << POSITION_BITS | position, so that the smaller of two is nearer, or as near and earlier.


@intrinsic
def keys_none(typing: Any) -> Any:
    return ints(), lambda c, b, s, a: ir.Constant(INTS, [NO_KEY] * W)


@intrinsic
def keys_of(typing: Any, code: Any, codes: Any, first: Any, count: Any) -> Any:
    """The keys of codes[first], codes[first + 1] ... as seen from ``code``; `NO_KEY` from position ``count`` on."""

    def emit(c: Any, b: Any, s: Any, a: Any) -> Any:
        differing = b.xor(load(b, a[1], a[2], INTS, 4), splat(b, a[0], INTS))
        distance = call(b, f"llvm.ctpop.v{W}i32", INTS, [differing])
        ramp = ir.Constant(INTS, list(range(W)))
        position = b.add(splat(b, b.trunc(a[2], I32), INTS), ramp)
        key = b.or_(b.shl(distance, ir.Constant(INTS, [POSITION_BITS] * W)), position)
        exists = b.icmp_signed("<", position, splat(b, b.trunc(a[3], I32), INTS))
        return b.select(exists, key, ir.Constant(INTS, [NO_KEY] * W))

    return ints(types.int32, codes, types.int64, types.int64), emit


@intrinsic
def keys_of_products(typing: Any, products: Any, first: Any, count: Any) -> Any:
    """Keys (2^15 - 1 - magnitude) << `SHORT_POSITION_BITS` | position of W floats that are whole numbers below 2^15 in
    magnitude, at positions from ``first`` on; `NO_KEY` from position ``count`` on."""

    def emit(c: Any, b: Any, s: Any, a: Any) -> Any:
        whole = b.fptosi(call(b, f"llvm.fabs.v{W}f32", VECTOR, [a[0]]), INTS)
        rank = b.sub(ir.Constant(INTS, [0x7FFF] * W), whole)
        position = b.add(splat(b, b.trunc(a[1], I32), INTS), ir.Constant(INTS, list(range(W))))
        key = b.or_(b.shl(rank, ir.Constant(INTS, [SHORT_POSITION_BITS] * W)), position)
        exists = b.icmp_signed("<", position, splat(b, b.trunc(a[2], I32), INTS))
        return b.select(exists, key, ir.Constant(INTS, [NO_KEY] * W))

    return ints(products, types.int64, types.int64), emit


@intrinsic
def keys_smaller(typing: Any, x: Any, y: Any) -> Any:
    """The smaller of two keys in each lane."""
    return ints(x, y), lambda c, b, s, a: b.select(b.icmp_signed("<", *a), *a)


@intrinsic
def keys_larger(typing: Any, x: Any, y: Any) -> Any:
    """The larger of two keys in each lane."""
    return ints(x, y), lambda c, b, s, a: b.select(b.icmp_signed(">", *a), *a)


@intrinsic
def keys_least(typing: Any, keys: Any) -> Any:
    """The smallest key of all lanes, int32."""
    return types.int32(keys), lambda c, b, s, a: call(b, f"llvm.vector.reduce.smin.v{W}i32", I32, [a[0]])


@intrinsic
def keys_instead(typing: Any, keys: Any, key: Any, others: Any) -> Any:
    """``keys``, but in the lane that holds ``key`` what ``others`` has there."""

    def emit(c: Any, b: Any, s: Any, a: Any) -> Any:
        return b.select(b.icmp_signed("==", a[0], splat(b, a[1], INTS)), a[2], a[0])

    return ints(keys, types.int32, others), emit
