"""Intrinsics that functions such as exp are made of: each is one or two instructions, and exact or rounded once."""

from __future__ import annotations

from typing import Any

import llvmlite.ir as ir
from numba.extending import intrinsic

from haste_runtime.kernels.simd_emit import call, fma, splat
from haste_runtime.kernels.simd_types import INTS, VECTOR, W, vec


def _all(value: int) -> Any:
    return ir.Constant(INTS, [value] * W)


@intrinsic
def vector_subtract(typing: Any, x: Any, y: Any) -> Any:
    return vec(vec, vec), lambda c, b, s, a: b.fsub(*a)


@intrinsic
def vector_smaller(typing: Any, x: Any, y: Any) -> Any:
    """Per lane the smaller of the two; ``y`` where they do not compare."""
    return vec(vec, vec), lambda c, b, s, a: b.select(b.fcmp_ordered("<", *a), *a)


@intrinsic
def vector_where_below(typing: Any, x: Any, y: Any, below: Any, otherwise: Any) -> Any:
    """Per lane ``below`` where x < y, else ``otherwise``."""
    return vec(vec, vec, vec, vec), lambda c, b, s, a: b.select(b.fcmp_ordered("<", *a[:2]), *a[2:])


@intrinsic
def vector_absolute(typing: Any, x: Any) -> Any:
    return vec(vec), lambda c, b, s, a: call(b, f"llvm.fabs.v{W}f32", VECTOR, [a[0]])


@intrinsic
def vector_with_sign(typing: Any, x: Any, sign: Any) -> Any:
    """The magnitudes of ``x`` with the signs of ``sign``."""
    return vec(vec, vec), lambda c, b, s, a: call(b, f"llvm.copysign.v{W}f32", VECTOR, [*a])


@intrinsic
def vector_square_root(typing: Any, x: Any) -> Any:
    return vec(vec), lambda c, b, s, a: call(b, f"llvm.sqrt.v{W}f32", VECTOR, [a[0]])


@intrinsic
def vector_round(typing: Any, x: Any) -> Any:
    """To the nearest whole number, halves to the even one."""
    return vec(vec), lambda c, b, s, a: call(b, f"llvm.roundeven.v{W}f32", VECTOR, [a[0]])


@intrinsic
def vector_power_of_two(typing: Any, exponent: Any) -> Any:
    """2^exponent for whole numbers from -126 to 127."""

    def emit(c: Any, b: Any, s: Any, a: Any) -> Any:
        biased = b.add(b.fptosi(a[0], INTS), _all(127))
        return b.bitcast(b.shl(biased, _all(23)), VECTOR)

    return vec(vec), emit


@intrinsic
def vector_polynomial(typing: Any, x: Any, coefficients: Any) -> Any:
    """coefficients[0] + coefficients[1] x + ... by Horner's rule with fused multiply-adds; a tuple of float32."""

    def emit(c: Any, b: Any, s: Any, a: Any) -> Any:
        *others, total = (splat(b, b.extract_value(a[1], i), VECTOR) for i in range(coefficients.count))
        for coefficient in reversed(others):
            total = fma(b, total, a[0], coefficient)
        return total

    return vec(vec, coefficients), emit


LOG_BASE = 0x3F3504F3  # the bits of sqrt(1/2), from which `vector_exponent` counts


@intrinsic
def vector_exponent(typing: Any, x: Any) -> Any:
    """The whole number e with sqrt(1/2) <= x / 2^e < sqrt(2), for positive normal numbers."""

    def emit(c: Any, b: Any, s: Any, a: Any) -> Any:
        return b.sitofp(b.ashr(b.sub(b.bitcast(a[0], INTS), _all(LOG_BASE)), _all(23)), VECTOR)

    return vec(vec), emit


@intrinsic
def vector_mantissa(typing: Any, x: Any) -> Any:
    """x / 2^e with the e of `vector_exponent`."""

    def emit(c: Any, b: Any, s: Any, a: Any) -> Any:
        above = b.and_(b.sub(b.bitcast(a[0], INTS), _all(LOG_BASE)), _all(0x7FFFFF))
        return b.bitcast(b.add(above, _all(LOG_BASE)), VECTOR)

    return vec(vec), emit
