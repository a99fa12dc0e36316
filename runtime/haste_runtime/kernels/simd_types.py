"""The types of explicit SIMD: one vector register, a tile of them, and the pixels a tile reads from."""

from __future__ import annotations

from typing import Any

import llvmlite.ir as ir
from numba import types
from numba.extending import models, register_model

from haste_runtime.kernels.lanes import lanes

W = lanes()
F32, F64 = ir.FloatType(), ir.DoubleType()
F16, I8, I16, I32, I64 = ir.HalfType(), ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64)
VECTOR = ir.VectorType(F32, W)
SHORTS = ir.VectorType(I16, 2 * W)
INTS, WIDE = ir.VectorType(I32, W), ir.VectorType(I32, 2 * W)

float_ptr, int_ptr, short_ptr = types.CPointer(types.float32), types.CPointer(types.int32), types.CPointer(types.int16)
half_ptr, byte_ptr = types.CPointer(types.uint16), types.CPointer(types.int8)  # stored weights: float16, int8
long_ptr, double_ptr = types.CPointer(types.int64), types.CPointer(types.float64)


class Vec(types.Type):
    """One register of W float32 lanes."""

    def __init__(self) -> None:
        super().__init__(name=f"Vec{W}")


class Shorts(types.Type):
    """One register of 2 W int16 lanes."""

    def __init__(self) -> None:
        super().__init__(name=f"Shorts{2 * W}")


class Ints(types.Type):
    """One register of W int32 lanes."""

    def __init__(self) -> None:
        super().__init__(name=f"Ints{W}")


class Wide(types.Type):
    """Two registers: 2 W int32 lanes."""

    def __init__(self) -> None:
        super().__init__(name=f"Wide{2 * W}")


class Tile(types.Type):
    """rows x vectors registers of W float32 lanes."""

    def __init__(self, rows: int, vectors: int) -> None:
        self.rows, self.vectors = rows, vectors
        super().__init__(name=f"Tile{rows}x{vectors}x{W}")


class Pixels(types.Type):
    """One pointer per tile row: where that output pixel's receptive field begins."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        super().__init__(name=f"Pixels{rows}")


vec, shorts, ints, wide = Vec(), Shorts(), Ints(), Wide()


@register_model(Vec)
class _VecModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe: Any) -> None:
        super().__init__(dmm, fe, VECTOR)


@register_model(Shorts)
class _ShortsModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe: Any) -> None:
        super().__init__(dmm, fe, SHORTS)


@register_model(Ints)
class _IntsModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe: Any) -> None:
        super().__init__(dmm, fe, INTS)


@register_model(Wide)
class _WideModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe: Any) -> None:
        super().__init__(dmm, fe, WIDE)


@register_model(Tile)
class _TileModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe: Any) -> None:
        super().__init__(dmm, fe, ir.ArrayType(VECTOR, fe.rows * fe.vectors))


@register_model(Pixels)
class _PixelsModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe: Any) -> None:
        super().__init__(dmm, fe, ir.ArrayType(F32.as_pointer(), fe.rows))
