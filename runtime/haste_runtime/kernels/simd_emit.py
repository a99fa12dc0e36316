"""What the intrinsics emit: the few LLVM instructions that all of them are built from."""

from __future__ import annotations

from typing import Any

import llvmlite.ir as ir
from numba.core import cgutils

from haste_runtime.kernels.simd_types import F16, I8, I16, I32, VECTOR, W


def number(value: int, kind: Any = I32) -> Any:
    return ir.Constant(kind, value)


def load(b: Any, pointer: Any, offset: Any, kind: Any, align: int) -> Any:
    return b.load(b.bitcast(b.gep(pointer, [offset]), kind.as_pointer()), align=align)


def load_floats(b: Any, pointer: Any, offset: Any) -> Any:
    """W numbers as a vector of float32, whatever they are stored as: float32, float16 (a pointer to 16-bit integers) or
    int8. Exact for all finite numbers."""
    if pointer.type.pointee == I8:
        return b.sitofp(b.sext(load(b, pointer, offset, ir.VectorType(I8, W), 1), ir.VectorType(I32, W)), VECTOR)
    if pointer.type.pointee != I16:
        return load(b, pointer, offset, VECTOR, 4)
    if b.module.machine.converts_halves:
        if b.module.triple.startswith("armv7") and W == 4:  # LLVM would convert lane by lane
            bits = load(b, pointer, offset, ir.VectorType(I16, W), 2)
            return call(b, "llvm.arm.neon.vcvthf2fp", VECTOR, [bits])
        return b.fpext(load(b, pointer, offset, ir.VectorType(F16, W), 2), VECTOR)
    # Sign to its place, exponent and fraction to theirs; what the exponents' biases differ by is a factor of 2^112.
    wide = ir.VectorType(I32, W)
    bits = b.zext(load(b, pointer, offset, ir.VectorType(I16, W), 2), wide)
    sign, rest = (b.and_(bits, ir.Constant(wide, [mask] * W)) for mask in (0x8000, 0x7FFF))
    magnitude = b.bitcast(b.shl(rest, ir.Constant(wide, [13] * W)), VECTOR)
    magnitude = b.fmul(magnitude, ir.Constant(VECTOR, [2.0**112] * W))
    return b.bitcast(b.or_(b.bitcast(magnitude, wide), b.shl(sign, ir.Constant(wide, [16] * W))), VECTOR)


def store(b: Any, value: Any, pointer: Any, offset: Any, align: int) -> None:
    b.store(value, b.bitcast(b.gep(pointer, [offset]), value.type.as_pointer()), align=align)


def splat(b: Any, scalar: Any, kind: Any) -> Any:
    undefined = ir.Constant(kind, ir.Undefined)
    one = b.insert_element(undefined, scalar, number(0))
    return b.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(I32, kind.count), [0] * kind.count))


def call(b: Any, name: str, result: Any, args: list[Any]) -> Any:
    function = cgutils.get_or_insert_function(b.module, ir.FunctionType(result, [a.type for a in args]), name)
    return b.call(function, args)


def fma(b: Any, x: Any, y: Any, z: Any) -> Any:
    return call(b, f"llvm.fma.v{W}f32", VECTOR, [x, y, z])  # one rounding, on every CPU


def ask(b: Any, place: Any) -> None:
    """A prefetch of the cache line of a place, into the second level."""
    line = b.bitcast(place, I8.as_pointer())
    kind = ir.FunctionType(ir.VoidType(), [I8.as_pointer(), I32, I32, I32])
    function = cgutils.get_or_insert_function(b.module, kind, "llvm.prefetch.p0")
    b.call(function, [line, number(0), number(2), number(1)])


def clip(b: Any, x: Any, upper: Any) -> Any:
    """Each lane limited to 0 .. upper."""
    zero, top = ir.Constant(VECTOR, [0.0] * W), splat(b, upper, VECTOR)
    if b.module.triple.startswith("aarch64"):  # one instruction each, for the same numbers; elsewhere LLVM sees it
        x = call(b, f"llvm.maxnum.v{W}f32", VECTOR, [x, zero])
        return call(b, f"llvm.minnum.v{W}f32", VECTOR, [x, top])
    x = b.select(b.fcmp_ordered(">", x, zero), x, zero)
    return b.select(b.fcmp_ordered("<", x, top), x, top)
