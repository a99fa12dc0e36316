"""Operators that move, resample and reduce, in plain numpy: part of `haste_runtime.reference_ops`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haste_runtime.resampling import Taps, extend_taps, resize_taps

Array = NDArray[np.float32]


def reshape(x: Array, *, shape: tuple[int, ...]) -> Array:
    return x.reshape(shape)


def rearrange(x: Array, *, split: tuple[int, ...], axes: tuple[int, ...], shape: tuple[int, ...]) -> Array:
    """Axes split into factors, these in another order, and joined to a new shape."""
    return x.reshape(split).transpose(axes).reshape(shape)


def concat(*parts: Array, axis: int) -> Array:
    return np.concatenate(parts, axis=axis)


def pad(x: Array, *, pads: tuple[int, ...], value: float) -> Array:
    """pads: before and after, for C, then H, then W."""
    return np.pad(x, tuple(zip(pads[::2], pads[1::2], strict=True)), constant_values=np.float32(value))


def slice_(x: Array, *, starts: tuple[int, ...], stops: tuple[int, ...], steps: tuple[int, ...]) -> Array:
    return x[tuple(slice(*bounds) for bounds in zip(starts, stops, steps, strict=True))]


def _resampled(x: Array, rows: Taps, columns: Taps) -> Array:
    narrow = np.einsum("chwj,wj->chw", x[:, :, columns.places], columns.weights)
    return np.einsum("chiw,hi->chw", narrow[:, rows.places], rows.weights)


def resize(
    x: Array, *, size: tuple[int, int], mode: str, step_y: float, step_x: float, coordinates: str, rounding: str
) -> Array:
    """See `haste_runtime.resampling.resize_taps`."""
    rows = resize_taps(x.shape[1], size[0], step_y, mode, coordinates, rounding)
    return _resampled(x, rows, resize_taps(x.shape[2], size[1], step_x, mode, coordinates, rounding))


def extend(x: Array, *, pads: tuple[int, int, int, int], mode: str) -> Array:
    """A border (top, left, bottom, right) of the map's own pixels; see `haste_runtime.resampling.extend_taps`."""
    top, left, bottom, right = pads
    rows, columns = extend_taps(x.shape[1], top, bottom, mode), extend_taps(x.shape[2], left, right, mode)
    return x[:, rows.places[:, 0]][:, :, columns.places[:, 0]]


REDUCTIONS: Mapping[str, Callable[..., Any]] = {"mean": np.mean, "sum": np.sum, "maximum": np.max, "minimum": np.min}


def reduce(x: Array, *, function: str, axes: tuple[int, ...]) -> Array:
    """The mean, sum, maximum or minimum along some axes, which are then of length 1."""
    reduced: Array = REDUCTIONS[function](x, axis=axes, keepdims=True)
    return reduced


def softmax(x: Array, *, axis: int) -> Array:
    powers: Array = np.exp(x - x.max(axis=axis, keepdims=True))
    return powers / powers.sum(axis=axis, keepdims=True)


def lrn(x: Array, *, size: int, alpha: float, beta: float, bias: float) -> Array:
    """x / (bias + alpha / size * sum of squares)^beta, over ``size`` channels, (size - 1) // 2 before."""
    before = (size - 1) // 2
    squares = np.pad(x * x, ((before, size - 1 - before), (0, 0), (0, 0)))
    total = np.sum([squares[i : i + len(x)] for i in range(size)], axis=0, dtype=np.float32)
    return x / (np.float32(bias) + np.float32(alpha / size) * total) ** np.float32(beta)
