"""Winograd's algorithm for 3x3 convolutions with stride 1, in numpy: the filters' transform, which tables are built
with, and the readable definition of what `haste_runtime.kernels.winograd_conv` computes.

F(m x m, 3 x 3) computes tiles of m x m outputs as Y = A^T [sum over c of (G g_c G^T) * (B^T d_c B)] A, where d_c is a
tile of m + 2 inputs squared, g_c a filter, and * multiplies position by position. For m = 4 that is 36 multiplications
for 16 outputs instead of 144, for m = 2 it is 16 for 4 instead of 36. The filters grow from 9 numbers to as many. In
float32 the result is a little less exact than a direct convolution's (docs/winograd.md).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from haste_runtime.kernels.lanes import blocks
from haste_runtime.kernels.winograd_points import BOTH2, FAR, FAR2, FAR3, NEAR, NEAR2, NEAR3, SUM2
from haste_runtime.plan import Variant
from haste_runtime.reference_ops import Array, add_bias

TILE_SIDES = {"direct": 0, "winograd2": 2, "winograd4": 4}  # the side m of its tiles, 0 for none
CHUNK = 1 << 10  # filters that are transformed together, in memory that every round finds in a cache
Line = Callable[[list[Array]], list[Array]]


def algorithm_of(variant: Variant) -> str:
    """How the compiled kernels compute a variant: what it asks for, but directly if its policy is "affine", whose
    constants and undivided planes only the direct kernels know."""
    return "direct" if variant.policy == "affine" else variant.algorithm


def filter_matrix(side: int) -> NDArray[np.float64]:
    """G, (side + 2, 3)."""
    if side == 2:
        return np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
    near, far = 1 / (2 * NEAR2 * (NEAR2 - FAR2)), 1 / (2 * FAR2 * (FAR2 - NEAR2))
    powers = [[1, p, p * p] for p in (NEAR, -NEAR, FAR, -FAR)]
    middle = np.array(powers) * np.array([near, near, far, far])[:, np.newaxis]
    return np.concatenate([[[1 / BOTH2, 0, 0]], middle, [[0, 0, 1]]])


def transform_filters(weight: Array, side: int) -> Array:
    """(O, C, 3, 3) -> (O, C, side + 2, side + 2): G g G^T in float64, then rounded."""
    matrix = filter_matrix(side)
    return (matrix @ weight.astype(np.float64) @ matrix.T).astype(np.float32)


def pack_filters(weight: Array, side: int, lanes: int, packed: Array | None = None) -> Array:
    """(O, C, 3, 3) -> (block, position, C, width): `transform_filters` for vectors of ``lanes``. packed: where to, of
    the shape `packed_filters_shape`; fresh memory if not given.

    G g G^T is one product of a matrix with the nine numbers of a filter, here of many filters at once.
    """
    shape, matrix = packed_filters_shape(weight.shape, side, lanes), filter_matrix(side)
    count, positions, channels, width = shape
    packed = np.empty(shape, np.float32) if packed is None else packed
    if len(weight) < count * width:
        weight = np.concatenate([weight, np.zeros((count * width - len(weight), *weight.shape[1:]), weight.dtype)])
    filters, both = weight.reshape(count, width, channels, 9).transpose(0, 3, 2, 1), np.kron(matrix, matrix)
    step = max(1, CHUNK // width)  # channels at a time
    for block in range(count):
        for first in range(0, channels, step):
            some = filters[block, :, first : first + step].astype(np.float64, order="C")
            made = both @ some.reshape(9, -1)
            packed[block, :, first : first + step] = made.reshape(positions, -1, width)
    return packed


def packed_filters_shape(weight: tuple[int, ...], side: int, lanes: int) -> tuple[int, int, int, int]:
    """(blocks, positions, C, width) of the packed filters of a weight's shape (O, C, 3, 3)."""
    vectors, count = blocks(lanes, weight[0])
    return count, (side + 2) ** 2, weight[1], vectors * lanes


def _fma(total: Array, x: Array, factor: float | Array) -> Array:
    """total + x * factor, rounded once (but for rare double roundings)."""
    return (total.astype(np.float64) + x.astype(np.float64) * factor).astype(np.float32)


def _input_line2(d: list[Array]) -> list[Array]:
    return [_fma(d[0], d[2], -1), d[2] + d[1], _fma(d[2], d[1], -1), _fma(d[3], d[1], -1)]


def _output_line2(p: list[Array]) -> list[Array]:
    return [p[0] + p[1] + p[2], _fma(p[1], p[2], -1) + p[3]]


def _input_line4(d: list[Array]) -> list[Array]:
    def pair(point: float, other2: float) -> list[Array]:
        even, odd = _fma(d[4], d[2], -other2), _fma(d[3], d[1], -other2)
        return [_fma(even, odd, point), _fma(even, odd, -point)]

    first, last = _fma(_fma(d[4], d[0], BOTH2), d[2], -SUM2), _fma(_fma(d[5], d[1], BOTH2), d[3], -SUM2)
    return [first, *pair(NEAR, FAR2), *pair(FAR, NEAR2), last]


def _output_line4(p: list[Array]) -> list[Array]:
    near, far, near_odd, far_odd = p[1] + p[2], p[3] + p[4], _fma(p[1], p[2], -1), _fma(p[3], p[4], -1)
    return [
        p[0] + near + far,
        _fma(near_odd * np.float32(NEAR), far_odd, FAR),
        _fma(near * np.float32(NEAR2), far, FAR2),
        _fma(_fma(p[5], near_odd, NEAR3), far_odd, FAR3),
    ]


def _both_ways(line: Line, tiles: Array) -> Array:
    """``line`` along the columns and then along the rows of (..., side, side)."""
    columns = np.stack(line(list(np.moveaxis(tiles, -2, 0))), -2)
    return np.stack(line(list(np.moveaxis(columns, -1, 0))), -1)


def transform_input(tiles: Array, side: int) -> Array:
    """B^T d B of (..., side + 2, side + 2)."""
    return _both_ways(_input_line4 if side == 4 else _input_line2, tiles)


def transform_output(sums: Array, side: int) -> Array:
    """A^T s A: (..., side + 2, side + 2) -> (..., side, side)."""
    return _both_ways(_output_line4 if side == 4 else _output_line2, sums)


def convolve(
    x: Array, weight: Array, bias: Array | None, padding: tuple[int, int], out: tuple[int, int], side: int
) -> Array:
    """x (C, H, W) with weight (O, C, 3, 3) -> (O, *out), in float32 and the order of the compiled kernels.

    padding: (top, left); whatever else a tile reads outside the map is zero, too.
    """
    (height, width), reach = out, side + 2
    rows, columns = -(-height // side), -(-width // side)
    seen = np.zeros((len(x), rows * side + 2, columns * side + 2), np.float32)
    top, left = padding
    inside = seen[:, top : top + x.shape[1], left : left + x.shape[2]]
    inside[:] = x[:, : inside.shape[1], : inside.shape[2]]
    windows = np.lib.stride_tricks.sliding_window_view(seen, (reach, reach), axis=(1, 2))
    values = transform_input(windows[:, ::side, ::side], side)
    filters = transform_filters(weight, side)
    sums = np.zeros((len(weight), rows, columns, reach, reach), np.float32)
    for c in range(len(x)):
        sums = _fma(sums, values[c], filters[:, c, np.newaxis, np.newaxis].astype(np.float64))
    pixels = transform_output(sums, side).transpose(0, 1, 3, 2, 4).reshape(len(weight), rows * side, columns * side)
    return add_bias(np.ascontiguousarray(pixels[:, :height, :width]), bias)
