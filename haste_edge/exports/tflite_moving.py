"""What the graph's operators that move and resample numbers become in TFLite: part of `tflite_nodes`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haste_edge.exports.tflite_writer import MOST_AXES, Call, TfliteRule, place, reshaped, stored
from haste_edge.frontends.refusals import Refused
from haste_runtime.graph import Shape
from haste_runtime.rearranging import common_split, grouped
from haste_runtime.resampling import resize_taps

MOST_BORDERS = 16  # pixels that are copied outwards, one after the other

# --- the order of numbers --------------------------------------------------------------------------------------------


def turned(c: Call, x: int, shape: Shape, order: Sequence[int]) -> tuple[int, Shape]:
    """The value with its axes in another order, and its shape. shape: in the file."""
    made = tuple(shape[axis] for axis in order)
    return c.step("TRANSPOSE", x, c.ints(*order), shape=made), made


def _moved(c: Call, x: int, shape: Shape, split: Shape, axes: Sequence[int], result: Shape) -> int:
    """Axes split into factors, these in another order, and joined again: by a transpose of as few axes as will do.

    What lies where is a matter of the file; ``shape``, ``split``, ``axes`` and ``result`` are of frames of the graph.
    """
    permuted = tuple(split[axis] for axis in axes)
    before = _as_stored(shape, split, range(len(split)))
    after = _as_stored(result, permuted, axes)
    before, after = ([axis for axis in order if split[axis] > 1] for order in (before, after))
    runs: list[list[int]] = []  # of factors that stay together
    for axis in after:
        following = runs and before.index(axis) == before.index(runs[-1][-1]) + 1
        if following:
            runs[-1].append(axis)
        else:
            runs.append([axis])
    if len(runs) > 1:
        if len(runs) + 1 > MOST_AXES:
            raise Refused(f"It puts {len(runs)} axes in another order; LiteRT does that with {MOST_AXES - 1} at most.")
        lying = sorted(runs, key=lambda run: before.index(run[0]))
        extents = (1, *(math.prod(split[axis] for axis in run) for run in lying))
        if extents != stored(shape):
            x = reshaped(c, x, extents)
        x, made = turned(c, x, extents, (0, *(1 + lying.index(run) for run in runs)))
    else:
        made = stored(shape)
    return x if made == stored(result) else reshaped(c, x, stored(result))


def _as_stored(shape: Shape, factors: Shape, names: Sequence[int]) -> list[int]:
    """The names of the factors in the order in which a value of that shape has them in the file."""
    groups = grouped(shape, factors)
    assert groups is not None  # the graph was checked
    rest = iter(names)
    named = [[next(rest) for _ in group] for group in groups]
    order = (1, 2, 0) if len(shape) == 3 else range(len(shape))
    return [name for axis in order for name in named[axis]]


def _rearrange(c: Call) -> int:
    return _moved(c, c.inputs[0], c.shapes[0], c["split"], c["axes"], c.shape)


def _in_order(c: Call, x: int, shape: Shape, result: Shape) -> int:
    """Another shape of a frame whose numbers keep their order in the graph."""
    split = common_split(shape, result)
    if split is None:
        flat = (math.prod(shape),)
        return _in_order(c, _in_order(c, x, shape, flat), flat, result)
    return _moved(c, x, shape, split, range(len(split)), result)


def _reshape(c: Call) -> int:
    return _in_order(c, c.inputs[0], c.shapes[0], c.shape)


def _flatten(c: Call) -> int:
    if c["order"] == "HWC" and len(c.shapes[0]) == 3:
        return reshaped(c, c.inputs[0], stored(c.shape))  # as it lies
    return _in_order(c, c.inputs[0], c.shapes[0], c.shape)


# --- parts -----------------------------------------------------------------------------------------------------------


def _concat(c: Call) -> int:
    return c.step("CONCATENATION", *c.inputs, Axis=place(c["axis"], len(c.shape)))


def _slice(c: Call) -> int:
    shape, rank = stored(c.shapes[0]), len(c.shapes[0])
    starts, stops, steps = [0] * (rank + 1), list(shape), [1] * (rank + 1)
    for axis, (start, stop, step) in enumerate(zip(c["starts"], c["stops"], c["steps"], strict=True)):
        at = place(axis, rank)
        starts[at], stops[at], steps[at] = start, stop, step
    return c.step("STRIDED_SLICE", c.inputs[0], c.ints(*starts), c.ints(*stops), c.ints(*steps))


def part(c: Call, x: int, shape: Shape, axis: int, start: int, stop: int) -> int:
    """Some of the places along an axis. shape: in the file."""
    starts = [start if number == axis else 0 for number in range(len(shape))]
    made = tuple(stop - start if number == axis else extent for number, extent in enumerate(shape))
    return c.step("SLICE", x, c.ints(*starts), c.ints(*made), shape=made)


# --- borders ---------------------------------------------------------------------------------------------------------


def bordered(c: Call, x: int, shape: Shape, pads: Sequence[int], value: float = 0.0) -> int:
    """A map with pixels of ``value`` around it. shape: of the frame. pads: top, left, bottom, right."""
    top, left, bottom, right = pads
    return _padded(c, x, shape, (0, 0, top, bottom, left, right), value)


def _padded(c: Call, x: int, shape: Shape, pads: Sequence[int], value: float) -> int:
    """pads: before and after of C, H and W."""
    numbers = [pads[i : i + 2] for i in (0, 2, 4)]
    amounts = [(0, 0), numbers[1], numbers[2], numbers[0]]
    made = tuple(extent + sum(both) for extent, both in zip(stored(shape), amounts, strict=True))
    around = c.writer.builder.constant(amounts, "int32", name=f"{c.node.name}.pads")
    if value == 0:
        return c.step("PAD", x, around, shape=made)
    return c.step("PADV2", x, around, c.numbers([value]), shape=made)


def _pad(c: Call) -> int:
    return _padded(c, c.inputs[0], c.shapes[0], c["pads"], float(c["value"]))


def _extend(c: Call) -> int:
    """Copies of the edge are mirror images of one pixel, edge included, one after the other."""
    x, (channels, height, width), (top, left, bottom, right) = c.inputs[0], c.shapes[0], c["pads"]
    if c["mode"] == "circular":
        return _wrapped(c, x, stored(c.shapes[0]), ((1, top, bottom), (2, left, right)))
    if c["mode"] == "reflect":
        around = c.writer.builder.constant([(0, 0), (top, bottom), (left, right), (0, 0)], "int32")
        return c.step("MIRROR_PAD", x, around, Mode=0)
    most = max(c["pads"])
    if most > MOST_BORDERS:
        raise Refused(f"It copies the edge {most} pixels outwards; TFLite does so by one pixel at a time.")
    for number in range(most):
        now = [int(number < wide) for wide in (top, left, bottom, right)]
        height, width = height + now[0] + now[2], width + now[1] + now[3]
        around = c.writer.builder.constant([(0, 0), (now[0], now[2]), (now[1], now[3]), (0, 0)], "int32")
        x = c.step("MIRROR_PAD", x, around, shape=(1, height, width, channels), Mode=1)
    return x


def _wrapped(c: Call, x: int, shape: Shape, borders: Sequence[tuple[int, int, int]]) -> int:
    """borders: axis, and pixels before and after that come from the other end."""
    for axis, before, after in borders:
        extent, parts = shape[axis], [x]
        if before:
            parts.insert(0, part(c, x, shape, axis, extent - before, extent))
        if after:
            parts.append(part(c, x, shape, axis, 0, after))
        shape = (*shape[:axis], before + extent + after, *shape[axis + 1 :])
        x = c.step("CONCATENATION", *parts, shape=shape, Axis=axis) if len(parts) > 1 else x
    return x


# --- resizing --------------------------------------------------------------------------------------------------------

_WAYS: tuple[dict[str, Any], ...] = (  # of placing the new pixels that TFLite has
    {"HalfPixelCenters": False, "AlignCorners": False},
    {"HalfPixelCenters": True, "AlignCorners": False},
    {"HalfPixelCenters": False, "AlignCorners": True},
)
_NEAR = 1e-5  # pixels by which positions may differ
_PRECISIONS: tuple[type[np.floating], ...] = (np.float32, np.float64)


def _resize(c: Call) -> int:
    extents, size, mode = c.shapes[0][1:], c["size"], c["mode"]
    if mode == "cubic":
        raise Refused("It resizes by cubic interpolation, which TFLite does not have.")
    axes = list(zip(extents, size, (c["step_y"], c["step_x"]), strict=True))
    agrees = _picks_the_same if mode == "nearest" else _mixes_the_same
    for way in _WAYS:
        if all(agrees(c, way, *axis) for axis in axes):
            operation = "RESIZE_NEAREST_NEIGHBOR" if mode == "nearest" else "RESIZE_BILINEAR"
            version = 3 if way["HalfPixelCenters"] else 1
            return c.step(operation, c.inputs[0], c.ints(*size), version=version, **way)
    raise Refused(f"It resizes {extents} to {size} in a way that TFLite has no name for.")


def _positions(way: Mapping[str, bool], extent: int, size: int) -> Iterator[NDArray[np.floating]]:
    """Where TFLite puts the new pixels, in either precision, before it rounds; half a pixel more with centres."""
    aligned = way["AlignCorners"] and size > 1
    for kind in _PRECISIONS:
        step = kind(extent - 1) / kind(size - 1) if aligned else kind(extent) / kind(size)
        yield (np.arange(size, dtype=kind) + kind(0.5 if way["HalfPixelCenters"] else 0)) * step


def _picks_the_same(c: Call, way: Mapping[str, bool], extent: int, size: int, step: float) -> bool:
    wanted = resize_taps(extent, size, step, "nearest", c["coordinates"], c["rounding"]).places[:, 0]
    for position in _positions(way, extent, size):
        places = np.floor(position + 0.5 if way["AlignCorners"] else position).clip(0, extent - 1)
        if not np.array_equal(places, wanted):
            return False
    return True


def _mixes_the_same(c: Call, way: Mapping[str, bool], extent: int, size: int, step: float) -> bool:
    shift = 0.5 if c["coordinates"] == "half_pixel" else 0.0
    wanted = ((np.arange(size) + shift) * step - shift).clip(0, extent - 1)
    half = 0.5 if way["HalfPixelCenters"] else 0.0
    return all(
        np.abs((position - half).clip(0, extent - 1) - wanted).max() < _NEAR
        for position in _positions(way, extent, size)
    )


MOVING: Mapping[str, TfliteRule] = {
    "flatten": _flatten,
    "reshape": _reshape,
    "rearrange": _rearrange,
    "concat": _concat,
    "slice": _slice,
    "pad": _pad,
    "extend": _extend,
    "resize": _resize,
}
"""Operators that move numbers. `haste_edge.exports.tflite_nodes.RULES` has them all."""
