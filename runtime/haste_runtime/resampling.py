"""Which input pixels a pixel of a resized or extended map is made of: stated once for the reference and the kernels."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

CUBIC = -0.75  # Keys' parameter, as PyTorch and ONNX have it


class Taps(NamedTuple):
    """Along one axis, for each output pixel: places (n, taps) of input pixels, and their weights, float32."""

    places: NDArray[np.int64]
    weights: NDArray[np.float32]


def _rounded(position: NDArray[np.float32], rounding: str) -> NDArray[np.float32]:
    half = np.float32(0.5)
    if rounding == "floor":
        return np.floor(position)
    if rounding == "ceil":
        return np.ceil(position)
    return np.floor(position + half) if rounding == "half_up" else np.ceil(position - half)


def _cubic(share: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weights (n, 4) of the pixels at -1, 0, 1 and 2."""
    near = [((CUBIC + 2) * d - (CUBIC + 3)) * d * d + 1 for d in (share, 1 - share)]
    far = [((CUBIC * d - 5 * CUBIC) * d + 8 * CUBIC) * d - 4 * CUBIC for d in (share + 1, 2 - share)]
    return np.stack([far[0], near[0], near[1], far[1]], axis=1).astype(np.float32)


def resize_taps(extent: int, size: int, step: float, mode: str, coordinates: str, rounding: str) -> Taps:
    """Of an axis of length ``extent`` that becomes ``size`` long.

    step: input pixels from one output pixel to the next. coordinates: output pixel i is at i * step ("asymmetric"), or
    with centres aligned at (i + 1/2) * step - 1/2 ("half_pixel"). mode: "nearest", which rounds by ``rounding``,
    "linear" or "cubic". Beyond the edge lie copies of the pixel at the edge.
    """
    numbers, step32, half = np.arange(size, dtype=np.float32), np.float32(step), np.float32(0.5)
    position = numbers * step32 if coordinates == "asymmetric" else (numbers + half) * step32 - half
    if mode == "nearest":
        first, weights = _rounded(position, rounding), np.ones((size, 1), np.float32)
    else:
        if mode == "linear":
            position = np.clip(position, np.float32(0), np.float32(extent - 1))
        first = np.floor(position)
        share = position - first
        weights = np.stack([1 - share, share], axis=1) if mode == "linear" else _cubic(share)
    places = first.astype(np.int64)[:, None] + np.arange(weights.shape[1]) - (mode == "cubic")
    return Taps(np.clip(places, 0, extent - 1), weights)


PAD_MODES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}  # numpy's names


def extend_taps(extent: int, before: int, after: int, mode: str) -> Taps:
    """Of an axis that goes on as ``mode`` says: "reflect" (without repeating the edge), "replicate" or "circular"."""
    places = np.pad(np.arange(extent), (before, after), mode=PAD_MODES[mode])  # type: ignore[call-overload]
    return Taps(places[:, None], np.ones((len(places), 1), np.float32))
