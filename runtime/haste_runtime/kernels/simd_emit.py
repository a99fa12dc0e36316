"""What the intrinsics emit: the few LLVM instructions that all of them are built from."""

from __future__ import annotations

from typing import Any

import llvmlite.ir as ir
from numba.core import cgutils

from haste_runtime.kernels.simd_types import I32, VECTOR, W


def number(value: int, kind: Any = I32) -> Any:
    return ir.Constant(kind, value)


def load(b: Any, pointer: Any, offset: Any, kind: Any, align: int) -> Any:
    return b.load(b.bitcast(b.gep(pointer, [offset]), kind.as_pointer()), align=align)


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
