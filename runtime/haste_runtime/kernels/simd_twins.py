"""What the intrinsics of `haste_runtime.kernels.simd` mean, in numpy: used when Numba's compiler is switched off.

A pointer is an array, a vector an array of W floats, W int32 or 2 W int16, a tile an array (rows, vectors, W). A fused
multiply-add is done in float64 and rounded once, which differs from the hardware's only in rare double roundings.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from haste_runtime.kernels.lanes import lanes
from haste_runtime.kernels.layout import NO_KEY, POSITION_BITS, SHORT_POSITION_BITS, UNROLLED

W = lanes()
Array = NDArray[Any]
unwarned = np.errstate(all="ignore")  # lanes behind the last number hold anything


def at(pointer: Array, offset: int) -> Array:
    return pointer[offset:]


def as_ints(pointer: Array) -> Array:
    return pointer.view(np.int32)


def as_shorts(pointer: Array) -> Array:
    return pointer.view(np.int16)


def as_halves(pointer: Array) -> Array:
    return pointer.view(np.float16)


def as_bytes(pointer: Array) -> Array:
    return pointer.view(np.int8)


def as_longs(pointer: Array) -> Array:
    return pointer.view(np.int64)


def as_doubles(pointer: Array) -> Array:
    return pointer.view(np.float64)


def prefetch(pointer: Array, offset: int) -> None:
    pass


def atomic_add(pointer: Array, value: int) -> None:
    pointer[0] += value


def atomic_load(pointer: Array) -> int:
    return int(pointer[0])


def yield_processor() -> None:
    pass


def vector_load(pointer: Array, offset: int) -> Array:
    return pointer[offset : offset + W].astype(np.float32)


def vector_store(pointer: Array, offset: int, value: Array) -> None:
    pointer[offset : offset + W] = value


def vector_fill(value: float) -> Array:
    return np.full(W, value, np.float32)


@unwarned
def vector_add(x: Array, y: Array) -> Array:
    return x + y


@unwarned
def vector_multiply(x: Array, y: Array) -> Array:
    return x * y


@unwarned
def vector_divide(x: Array, y: Array) -> Array:
    return x / y


def vector_larger(x: Array, y: Array) -> Array:
    return np.where(x > y, x, y)


@unwarned
def vector_scale(x: Array, factor: float) -> Array:
    return x * np.float32(factor)


@unwarned
def vector_fma(total: Array, x: Array, y: Array) -> Array:
    return (total.astype(np.float64) + x.astype(np.float64) * y).astype(np.float32)


@unwarned
def vector_clip(x: Array, upper: float) -> Array:
    return np.minimum(np.maximum(x, np.float32(0)), np.float32(upper))


@unwarned
def vector_subtract(x: Array, y: Array) -> Array:
    return x - y


def vector_smaller(x: Array, y: Array) -> Array:
    return np.where(x < y, x, y)


def vector_where_below(x: Array, y: Array, below: Array, otherwise: Array) -> Array:
    return np.where(x < y, below, otherwise)


def vector_absolute(x: Array) -> Array:
    return np.abs(x)


def vector_with_sign(x: Array, sign: Array) -> Array:
    return np.copysign(x, sign)


@unwarned
def vector_square_root(x: Array) -> Array:
    return np.sqrt(x)


def vector_round(x: Array) -> Array:
    return np.rint(x)


@unwarned
def vector_power_of_two(exponent: Array) -> Array:
    return np.ldexp(np.float32(1), exponent.astype(np.int32))


def vector_polynomial(x: Array, coefficients: tuple[float, ...]) -> Array:
    total = vector_fill(coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        total = vector_fma(vector_fill(coefficient), total, x)
    return total


def _above_root_of_half(x: Array) -> Array:
    return x.view(np.int32) - np.float32(np.sqrt(0.5)).view(np.int32)


def vector_exponent(x: Array) -> Array:
    return (_above_root_of_half(x) >> 23).astype(np.float32)


@unwarned
def vector_mantissa(x: Array) -> Array:
    return np.ldexp(x, -(_above_root_of_half(x) >> 23))


def transpose(source: Array, step: int, target: Array, target_step: int) -> None:
    for i in range(W):
        for j in range(W):
            target[j * target_step + i] = source[i * step + j]


def _quantise(source: Array, offset: int, inverse: float, target: Array, target_offset: int, lanes: int) -> None:
    product = source[offset : offset + lanes] * np.float32(inverse)
    target[target_offset : target_offset + lanes] = np.rint(product).astype(np.int16)


def quantise(source: Array, offset: int, inverse: float, target: Array, target_offset: int) -> None:
    _quantise(source, offset, inverse, target, target_offset, 2 * W)


def quantise_half(source: Array, offset: int, inverse: float, target: Array, target_offset: int) -> None:
    _quantise(source, offset, inverse, target, target_offset, W)


def shorts_zero() -> Array:
    return np.zeros(2 * W, np.int16)


def shorts_add(total: Array, pointer: Array, offset: int) -> Array:
    return total + pointer[offset : offset + 2 * W]


def shorts_subtract(total: Array, pointer: Array, offset: int) -> Array:
    return total - pointer[offset : offset + 2 * W]


def widen_add(pointer: Array, offset: int, total: Array) -> None:
    pointer[offset : offset + 2 * W] += total.astype(np.int32)


def shorts_store(pointer: Array, offset: int, value: Array) -> None:
    pointer[offset : offset + 2 * W] = value


def shorts_transpose(source: Array, target: Array, target_step: int) -> None:
    for j in range(2 * W):
        target[j * target_step : j * target_step + 8] = source[j : 16 * W : 2 * W]


def wide_zero() -> Array:
    return np.zeros(2 * W, np.int32)


def wide_squares(total: Array, pointer: Array, offset: int) -> Array:
    x = pointer[offset : offset + 4 * W].reshape(2, -1)
    return total + (x * x).sum(0, dtype=np.int16)


def wide_store(pointer: Array, offset: int, value: Array) -> None:
    pointer[offset : offset + 2 * W] = value


def ints_zero() -> Array:
    return np.zeros(W, np.int32)


def ints_dot(total: Array, x: Array, y: Array, offset: int) -> Array:
    span = slice(offset, offset + 2 * W)
    return total + (x[span].astype(np.int32) * y[span]).reshape(W, 2).sum(1, dtype=np.int32)


def ints_sum(total: Array) -> np.int32:
    return total.sum(dtype=np.int32)


def keys_none() -> Array:
    return np.full(W, NO_KEY, np.int32)


def keys_of(code: int, codes: Array, first: int, count: int) -> Array:
    distance = [int(np.int32(code) ^ other).bit_count() for other in codes[first : first + W]]
    position = np.arange(first, first + W, dtype=np.int32)
    return np.where(position < count, np.array(distance, np.int32) << POSITION_BITS | position, np.int32(NO_KEY))


def keys_of_products(products: Array, first: int, count: int) -> Array:
    positions = np.arange(first, first + W, dtype=np.int32)
    keys = (np.int32(0x7FFF) - np.abs(products).astype(np.int32)) << np.int32(SHORT_POSITION_BITS) | positions
    return np.where(positions < count, keys, np.int32(NO_KEY))


def keys_smaller(x: Array, y: Array) -> Array:
    return np.minimum(x, y)


def keys_larger(x: Array, y: Array) -> Array:
    return np.maximum(x, y)


def keys_least(keys: Array) -> np.int32:
    return keys.min()


def keys_instead(keys: Array, key: int, others: Array) -> Array:
    return np.where(keys == key, others, keys)


def tile_bias(vectors: int, pointer: Array, offset: int) -> Array:
    return pointer[offset : offset + vectors * W].reshape(1, vectors, W).copy()


def tile_repeat(row: Array, rows: int) -> Array:
    return np.repeat(row, rows, axis=0)


def tile_width(tile: Array) -> int:
    return tile.shape[1] * W


def tile_load(tile: Array, pointer: Array) -> Array:
    return pointer[: tile.size].reshape(tile.shape).copy()


def tile_keep(tile: Array, pointer: Array) -> None:
    pointer[: tile.size] = tile.reshape(-1)


def tile_pixels(tile: Array, pointer: Array, offsets: Array) -> list[Array]:
    return [pointer[int(offset) :] for offset in offsets[: len(tile)]]


def tile_shift(tile: Array, pixels: list[Array], offset: int) -> list[Array]:
    return [p[offset:] for p in pixels]


def tile_fma(tile: Array, pixels: list[Array], offset: int, weights: Array) -> Array:
    pixel = np.array([p[offset] for p in pixels], np.float64)[:, None, None]
    filters = weights[: tile.shape[1] * W].astype(np.float64).reshape(1, -1, W)
    return (tile + pixel * filters).astype(np.float32)


def tile_fma_lanes(tile: Array, pixels: list[Array], offset: int, weights: Array) -> Array:
    lanes = np.array([p[offset : offset + W] for p in pixels], np.float64)[:, None]
    return (tile + lanes * weights[:W].astype(np.float64)).astype(np.float32)


def tile_fma_run(tile: Array, pixels: list[Array], offset: int, weights: Array) -> Array:
    width = tile.shape[1] * W
    for k in range(UNROLLED):
        tile = tile_fma(tile, pixels, offset + k, weights[k * width :])
    return tile


def tile_fma_next(tile: Array, pointer: Array, offset: int, weights: Array) -> Array:
    return tile_fma(tile, [pointer[i:] for i in range(len(tile))], offset, weights)


def tile_prefetch(tile: Array, weights: Array, offset: int) -> None:
    pass


def tile_add(tile: Array, pointer: Array, offsets: Array) -> Array:
    n = tile.shape[1] * W
    return tile + np.stack([pointer[o : o + n] for o in offsets[: len(tile)]]).reshape(tile.shape)


def tile_scale(tile: Array, scale: Array, bias: Array) -> Array:
    factors, shifts = (p[: tile.shape[1] * W].astype(np.float64).reshape(1, -1, W) for p in (scale, bias))
    return (tile * factors + shifts).astype(np.float32)


def tile_clip(tile: Array, upper: float) -> Array:
    return np.minimum(np.maximum(tile, np.float32(0)), np.float32(upper))


def tile_store(tile: Array, pointer: Array, offsets: Array) -> None:
    n = tile.shape[1] * W
    for row, offset in zip(tile, offsets, strict=False):
        pointer[offset : offset + n] = row.reshape(-1)
