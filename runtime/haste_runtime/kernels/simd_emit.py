"""What the intrinsics emit: the few LLVM instructions that all of them are built from."""

from __future__ import annotations

from typing import Any

import llvmlite.ir as ir
from numba.core import cgutils

from haste_runtime.kernels.simd_types import I32, I64, VECTOR, W


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


def transpose_square(b: Any, source: Any, step: Any, target: Any, target_step: Any, kind: Any, align: int) -> None:
    """target[j * target_step + i] = source[i * step + j], with i and j below the number of ``kind``'s lanes."""
    lanes = kind.count
    rows = [load(b, source, b.mul(step, number(i, I64)), kind, align) for i in range(lanes)]
    half = lanes // 2
    while half:  # as many rounds of butterflies as lanes has bits
        low = [lane if not lane & half else lanes + lane - half for lane in range(lanes)]
        high = [lane + half if not lane & half else lanes + lane for lane in range(lanes)]
        mask = ir.VectorType(I32, lanes)
        for i in range(lanes):
            if not i & half:
                x, y = rows[i], rows[i + half]
                rows[i] = b.shuffle_vector(x, y, ir.Constant(mask, low))
                rows[i + half] = b.shuffle_vector(x, y, ir.Constant(mask, high))
        half //= 2
    for j in range(lanes):
        store(b, rows[j], target, b.mul(target_step, number(j, I64)), align)
