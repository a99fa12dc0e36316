"""A transposed convolution as an ordinary one whose channels are then shuffled into pixels.

With stride s, output pixels s q + r of each phase r are a convolution of their own, whose kernel has every s-th tap.
All phases are computed at once, as s^2 times as many channels, and only zeros that fill kernels up are multiplied.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Pair = tuple[int, int]


class TransposedAsConvolution(NamedTuple):
    """weight: (phases * O, C / groups, Kh, Kw), float64; a bias is repeated ``phases`` times, number by number.
    convolution, shuffle, crop: attributes of the nodes "conv", "rearrange" and "slice" that follow each other."""

    weight: NDArray[np.float64]
    phases: int
    convolution: dict[str, Any]
    shuffle: dict[str, Any]
    crop: dict[str, Any]


class _Axis(NamedTuple):
    """taps: of each phase. before, after: padding of the convolution, which gives ``pixels`` for each phase. Of
    the shuffled pixels those from ``start`` to ``stop`` are wanted."""

    taps: int
    before: int
    after: int
    pixels: int
    start: int
    stop: int


def _axis(extent: int, reach: int, stride: int, pads: Pair, extra: int) -> _Axis | None:
    taps = -(-reach // stride)
    size = (extent - 1) * stride + reach - sum(pads) + extra
    first, last = pads[0] // stride, -(-(pads[0] + size) // stride)
    before, after = taps - 1 - first, max(0, last - extent)
    if before < 0 or size < 1:
        return None
    start = pads[0] - first * stride
    return _Axis(taps, before, after, extent + before + after - taps + 1, start, start + size)


def as_convolution(
    weight: NDArray[Any], size: Pair, stride: Pair, padding: tuple[int, int, int, int], output_padding: Pair,
    dilation: Pair, groups: int,
) -> TransposedAsConvolution | None:  # fmt: skip
    """weight: (C, O / groups, Kh, Kw). size: of the input map. padding: top, left, bottom, right, which are cut off.

    None if the padding is wider than the kernel, or leaves nothing.
    """
    reach = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilation, strict=True)]
    sides = [_axis(size[i], reach[i], stride[i], (padding[i], padding[i + 2]), output_padding[i]) for i in range(2)]
    rows, columns = sides
    if rows is None or columns is None:
        return None
    (sy, sx), (channels, filters) = stride, weight.shape[:2]
    whole = np.zeros((channels, filters, rows.taps * sy, columns.taps * sx))
    whole[:, :, : reach[0] : dilation[0], : reach[1] : dilation[1]] = weight
    taps = whole.reshape(groups, channels // groups, filters, rows.taps, sy, columns.taps, sx)[:, :, :, ::-1, :, ::-1]
    outputs = groups * filters
    made = taps.transpose(0, 2, 4, 6, 1, 3, 5).reshape(outputs * sy * sx, channels // groups, rows.taps, columns.taps)
    convolution = {
        "stride": (1, 1), "padding": (rows.before, columns.before, rows.after, columns.after), "dilation": (1, 1),
        "groups": groups, "activation": "none",
    }  # fmt: skip
    shuffle = {
        "split": (outputs, sy, sx, rows.pixels, columns.pixels), "axes": (0, 3, 1, 4, 2),
        "shape": (outputs, rows.pixels * sy, columns.pixels * sx),
    }  # fmt: skip
    crop = {
        "starts": (0, rows.start, columns.start), "stops": (outputs, rows.stop, columns.stop), "steps": (1, 1, 1),
    }  # fmt: skip
    return TransposedAsConvolution(np.ascontiguousarray(made), sy * sx, convolution, shuffle, crop)
