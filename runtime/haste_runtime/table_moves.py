"""The execution table's rows of operators that move, resample or reduce numbers: steps in memory, worked out once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from haste_runtime.graph import Node, Shape
from haste_runtime.kernels import layout as t
from haste_runtime.memory import as_map, strides
from haste_runtime.rearranging import common_split, split_strides
from haste_runtime.resampling import Taps, extend_taps, resize_taps

if TYPE_CHECKING:
    from haste_runtime.table import Builder

AXES = 6  # that a row has room for
REDUCTIONS = {"mean": t.PLUS, "sum": t.PLUS, "maximum": t.MOST, "minimum": t.LEAST}


# ---- moving


def _steps(builder: Builder, name: str) -> tuple[int, ...]:
    return strides(builder.shapes[name], builder.maps[name])


def _joined(extents: Sequence[int], steps: Sequence[int], targets: Sequence[int]) -> list[tuple[int, int, int]]:
    """(size, step in the input, step in the output) of each axis, those that follow each other in both made one. The
    last, along which the kernel's inner loop runs, is the longest that lies side by side in both, or in either."""
    axes = [axis for axis in zip(extents, steps, targets, strict=True) if axis[0] > 1]
    joined: list[tuple[int, int, int]] = []
    for size, step, target in sorted(axes, key=lambda axis: -axis[2]):
        if joined and joined[-1][1:] == (size * step, size * target):
            size *= joined.pop()[0]
        joined.append((size, step, target))
    joined.sort(key=lambda axis: ((axis[1], axis[2]).count(1), axis[0] if 1 in axis[1:] else 0))
    return joined


def _move(
    builder: Builder, node: Node, x: str, extents: Sequence[int], steps: Sequence[int], targets: Sequence[int],
    start: int = 0, end: int = 0, fill: float | None = None,
) -> None:  # fmt: skip
    """Copy a box of ``extents`` from ``start`` on to ``end``, both counted from the first element."""
    row = builder.row(t.MOVE, x, node.name)
    row[t.X] += start
    row[t.OPTION] = end
    axes = _joined(extents, steps, targets)
    outer = axes[:-1][:1]
    axes = outer + [(1, 0, 0)] * (AXES - max(1, len(axes))) + (axes[len(outer) :] or [(1, 1, 1)])
    row[t.N : t.N + AXES], row[t.FROM : t.FROM + AXES], row[t.TO : t.TO + AXES] = zip(*axes, strict=True)
    if fill is not None:
        row[[t.CLEAR, t.FILL]] = 1, np.float32(fill).view(np.int32)


def _rearrange(builder: Builder, node: Node) -> None:
    x, split, axes = node.inputs[0], node.attributes["split"], node.attributes["axes"]
    steps = split_strides(builder.shapes[x], _steps(builder, x), split)
    permuted = tuple(split[axis] for axis in axes)
    targets = split_strides(builder.shapes[node.name], _steps(builder, node.name), permuted)
    _move(builder, node, x, permuted, [steps[axis] for axis in axes], targets)


def _flatten(builder: Builder, node: Node) -> None:
    x = node.inputs[0]
    channels, height, width = as_map(builder.shapes[x])
    if node.attributes["order"] == "HWC" and len(builder.shapes[x]) == 3:
        _move(builder, node, x, (channels, height, width), _steps(builder, x), (1, width * channels, channels))
    else:
        _reshape(builder, node)


def _reshape(builder: Builder, node: Node) -> None:
    """Along steps wherever both shapes split into the same factors; number by number elsewhere."""
    x = node.inputs[0]
    before, after = builder.shapes[x], builder.shapes[node.name]
    split = common_split(before, after)
    if split is None or len(split) > AXES:
        builder.row(t.RESHAPE, x, node.name)
        return
    steps = split_strides(before, _steps(builder, x), split)
    _move(builder, node, x, split, steps, split_strides(after, _steps(builder, node.name), split))


def _concat(builder: Builder, node: Node) -> None:
    targets, axis, place = _steps(builder, node.name), node.attributes["axis"], 0
    for name in node.inputs:
        shape = builder.shapes[name]
        _move(builder, node, name, shape, _steps(builder, name), targets, end=place * targets[axis])
        place += shape[axis]


def _pad(builder: Builder, node: Node) -> None:
    x, targets = node.inputs[0], _steps(builder, node.name)
    end = sum(before * step for before, step in zip(node.attributes["pads"][::2], targets, strict=True))
    _move(builder, node, x, builder.shapes[x], _steps(builder, x), targets, end=end, fill=node.attributes["value"])


def _slice(builder: Builder, node: Node) -> None:
    x, steps = node.inputs[0], _steps(builder, node.inputs[0])
    start = sum(first * step for first, step in zip(node.attributes["starts"], steps, strict=True))
    wider = [step * times for step, times in zip(steps, node.attributes["steps"], strict=True)]
    _move(builder, node, x, builder.shapes[node.name], wider, _steps(builder, node.name), start)


# ---- resampling


def _resample(builder: Builder, node: Node, rows: Taps, columns: Taps) -> None:
    row = builder.row(t.RESAMPLE, node.inputs[0], node.name)
    row[t.OPTION] = rows.places.shape[1]
    row[t.TAPS] = builder.index.add(np.concatenate([rows.places.ravel(), columns.places.ravel()]))
    row[t.WEIGHT] = builder.packed.add(np.concatenate([rows.weights.ravel(), columns.weights.ravel()]))


def _resize(builder: Builder, node: Node) -> None:
    a, (_, height, width) = node.attributes, builder.shapes[node.inputs[0]]
    rest = a["mode"], a["coordinates"], a["rounding"]
    rows = resize_taps(height, a["size"][0], a["step_y"], *rest)
    _resample(builder, node, rows, resize_taps(width, a["size"][1], a["step_x"], *rest))


def _extend(builder: Builder, node: Node) -> None:
    (_, height, width), (top, left, bottom, right) = builder.shapes[node.inputs[0]], node.attributes["pads"]
    mode = node.attributes["mode"]
    _resample(builder, node, extend_taps(height, top, bottom, mode), extend_taps(width, left, right, mode))


# ---- along an axis


def _place_of(shape: Shape, axis: int) -> int:
    """What an axis is in memory: 0 a part of the channels, 1 the rows, 2 the columns."""
    return 0 if axis < max(1, len(shape) - 2) else 3 - (len(shape) - axis)


def _inner(shape: Shape, axis: int) -> int:
    """Channels from one element to the next along an axis that is a part of the channels."""
    return math.prod(shape[axis + 1 : -2])


def _reduce(builder: Builder, node: Node) -> None:
    shape, axes, function = builder.shapes[node.inputs[0]], node.attributes["axes"], node.attributes["function"]
    row = builder.row(t.REDUCE, node.inputs[0], node.name)
    sizes, inner = [1, 1, 1], 1
    for axis in axes:
        place = _place_of(shape, axis)
        sizes[place] *= shape[axis]
        inner = _inner(shape, axis) if place == 0 else inner
    row[t.OPTION], row[t.INNER] = REDUCTIONS[function], inner
    row[[t.REDUCED_C, t.REDUCED_H, t.REDUCED_W]] = sizes
    row[t.DIVISOR] = math.prod(sizes) if function == "mean" else 1


def _softmax(builder: Builder, node: Node) -> None:
    shape, axis = builder.shapes[node.name], node.attributes["axis"]
    channels, height, width = as_map(shape)
    row = builder.row(t.SOFTMAX, node.inputs[0], node.name)
    (x_row, x_pixel), (y_row, y_pixel) = row[[t.XROW, t.XPIXEL]], row[[t.YROW, t.YPIXEL]]
    place = _place_of(shape, axis)
    if place == 0:
        size, inner = shape[axis], _inner(shape, axis)
        sizes = height, width, channels // (size * inner), size, inner
        steps, targets = ((*outer, size * inner, inner) for outer in ((x_row, x_pixel), (y_row, y_pixel)))
    elif place == 1:
        sizes = width, 1, 1, height, channels
        steps, targets = (x_pixel, 0, 0, x_row), (y_pixel, 0, 0, y_row)
    else:
        sizes = height, 1, 1, width, channels
        steps, targets = (x_row, 0, 0, x_pixel), (y_row, 0, 0, y_pixel)
    row[t.N : t.N + 5], row[t.FROM : t.FROM + 4], row[t.TO : t.TO + 4] = sizes, steps, targets


MOVING: Mapping[str, Callable[[Builder, Node], None]] = {
    "rearrange": _rearrange,
    "flatten": _flatten,
    "reshape": _reshape,
    "concat": _concat,
    "pad": _pad,
    "slice": _slice,
    "resize": _resize,
    "extend": _extend,
    "reduce": _reduce,
    "softmax": _softmax,
}
