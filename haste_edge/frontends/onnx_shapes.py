"""What ONNX's operators that move numbers, or leave them where they are, become in the graph."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from onnx import TensorProto

from haste_edge.frontends.builder import Builder, Rules
from haste_edge.frontends.onnx_values import Call
from haste_edge.frontends.refusals import Refused
from haste_edge.frontends.values import Argument, Computed, Known

RULES = Rules[Call]()


def numbers(c: Builder, call: Call, name: str, index: int) -> list[int] | None:
    """Whole numbers from an attribute or, in newer versions, from the input at ``index``; None if there are none."""
    given = call.input(index)
    if given is not None:
        return [int(number) for number in c.known(given, name).array.reshape(-1)]
    values = call.attribute(name)
    return None if values is None else [int(number) for number in values]


@RULES("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def _reshape(c: Builder, call: Call) -> Computed:
    """All of these keep the order of the numbers, so the shape says it all."""
    x = c.computed(call.input(0))
    if math.prod(call.shape) != math.prod(x.shape):
        raise Refused("It reshapes across frames.", "Each frame must be computed on its own.")
    return replace(x, shape=call.shape)


@RULES("Transpose")
def _transpose(c: Builder, call: Call) -> Computed:
    x = c.computed(call.input(0))
    order = [int(axis) for axis in call.attribute("perm", range(len(x.shape), -1, -1))]
    if order[0] != 0:
        raise Refused(f"It moves the batch: its perm is {order}.", "Each frame must be computed on its own.")
    return c.transposed(x, [axis - 1 for axis in order[1:]])


@RULES("Concat")
def _concat(c: Builder, call: Call) -> Computed:
    parts = [c.computed(part) for part in call.inputs]
    axis = call.attribute("axis") % (len(call.shape) + 1) - 1
    if axis < 0:
        raise Refused("It joins along the batch.", "Each frame must be computed on its own.")
    if len(parts) == 1:
        return parts[0]
    parts = [c.unreshaped(part) for part in parts]
    if any(part.order != parts[0].order for part in parts):
        parts = [Computed(c.plain(part), tuple(range(len(part.shape))), part.shape) for part in parts]
    first = parts[0]
    return c.emit(call, "concat", [part.name for part in parts], {"axis": first.order[axis]}, like=first)


@RULES("Slice")
def _slice(c: Builder, call: Call) -> Computed:
    x = c.unreshaped(c.computed(call.input(0)))
    starts, ends = numbers(c, call, "starts", 1), numbers(c, call, "ends", 2)
    axes, steps = numbers(c, call, "axes", 3), numbers(c, call, "steps", 4)
    if starts is None or ends is None:
        raise Refused("It has no starts or no ends.", "Export the model again.")
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    ranges = [slice(0, extent, 1) for extent in x.shape]
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        axis = axis % (len(x.shape) + 1) - 1
        if axis < 0:  # the batch; `Call.shape` is only there if it is kept whole
            continue
        if step < 1:
            places = range(*slice(start, end, step).indices(x.shape[axis]))
            x = _picked(c, call, x, axis, places) if places else x
            ranges[axis] = slice(0, len(places), 1)
        else:
            ranges[axis] = slice(*slice(start, end, step).indices(x.shape[axis]))
    return _cut(c, call, x, ranges)


def _cut(c: Builder, call: Call, x: Computed, ranges: Sequence[slice], result: int | None = 0) -> Computed:
    """The part of the value; ``ranges`` are of its axes as seen, forwards."""
    starts, stops, steps = [0] * len(ranges), [0] * len(ranges), [0] * len(ranges)
    for axis, part in zip(x.order, ranges, strict=True):
        if part.stop <= part.start:
            raise Refused("It takes an empty slice.", "Remove it.")
        starts[axis], steps[axis] = part.start, part.step
        stops[axis] = part.start + (part.stop - part.start - 1) // part.step * part.step + 1  # just after the last
    attributes = {"starts": tuple(starts), "stops": tuple(stops), "steps": tuple(steps)}
    return c.emit(call, "slice", [x.name], attributes, like=x, result=result)


@RULES("Split")
def _split(c: Builder, call: Call) -> tuple[Argument, ...]:
    x = c.unreshaped(c.computed(call.input(0)))
    axis = call.attribute("axis", 0) % (len(x.shape) + 1) - 1
    if axis < 0:
        raise Refused("It splits the batch.", "Each frame must be computed on its own.")
    if not all(call.node.output):
        raise Refused("One of its parts has no name.", "Export the model again.")
    parts, start = [], 0
    for index, shape in enumerate(call.shapes):
        ranges = [slice(0, extent, 1) for extent in x.shape]
        ranges[axis] = slice(start, start + shape[axis], 1)
        parts.append(_cut(c, call, x, ranges, index))
        start += shape[axis]
    return tuple(parts)


_BORDERS = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}


@RULES("Pad")
def _pad(c: Builder, call: Call) -> Computed:
    mode, x = call.attribute("mode", "constant"), c.unreshaped(c.computed(call.input(0)))
    rank = len(x.shape) + 1
    pads, axes = numbers(c, call, "pads", 1), numbers(c, call, "axes", 3)
    axes = list(range(rank)) if axes is None else [axis % rank for axis in axes]
    if pads is None or len(pads) != 2 * len(axes):
        raise Refused(f"Its pads are {pads}.", "Export the model again.")
    around = dict(zip(axes, zip(pads, pads[len(axes) :], strict=False), strict=True))
    if any(around.get(0, ())):
        raise Refused("It pads the batch.", "Each frame must be computed on its own.")
    if min(pads, default=0) < 0:
        raise Refused("It crops by negative padding.", "Write a slice instead.")
    if len(x.shape) != 3:
        raise Refused(f"It pads a value of per-frame shape {x.shape}.", "Only maps can be padded.")
    still = [axis for axis in range(3) if not any(around.get(axis + 1, ()))]
    if mode != "constant" and still and x.order.index(0) not in still:  # as it lies, the first axis has no channels
        x = c.led_by(x, still[-1])
    storage = [(0, 0)] * 3
    for axis, (before, after) in around.items():
        if axis:
            storage[x.order[axis - 1]] = (before, after)
    if mode == "constant":
        given = call.input(2)
        value = call.attribute("value", 0.0) if given is None else c.known(given, "value").array.item()
        attributes = {"pads": tuple(number for both in storage for number in both), "value": float(value)}
        return c.emit(call, "pad", [x.name], attributes, like=x)
    (front, back), (top, bottom), (left, right) = storage
    if front or back or mode not in _BORDERS:
        raise Refused(f"It pads channels by {mode}.", "Only the height and width of maps can be padded so.")
    return c.emit(call, "extend", [x.name], {"pads": (top, left, bottom, right), "mode": _BORDERS[mode]}, like=x)


_MOST_PARTS = 64


@RULES("Gather")
def _gather(c: Builder, call: Call) -> Computed:
    """Constant indices: a slice of each run of neighbours, beside each other; of a single index the axis goes away."""
    x, indices = c.unreshaped(c.computed(call.input(0))), c.known(call.input(1), "index").array
    axis = call.attribute("axis", 0) % (len(x.shape) + 1) - 1
    if axis < 0 or indices.ndim > 1:
        raise Refused("It picks frames, or more than one axis at once.", "Use slices.")
    extent = x.shape[axis]
    places = [int(index) + (extent if index < 0 else 0) for index in indices.reshape(-1)]
    if not places or not all(0 <= place < extent for place in places):
        raise Refused(f"Its indices leave the axis of length {extent}.", "Export the model again.")
    return replace(_picked(c, call, x, axis, places), shape=call.shape)


def _picked(c: Builder, call: Call, x: Computed, axis: int, places: Sequence[int]) -> Computed:
    """The value at these places of an axis, in this order."""
    starts = [i for i, place in enumerate(places) if not i or place != places[i - 1] + 1]
    if len(starts) > _MOST_PARTS:
        raise Refused(f"It picks {len(starts)} parts from all over an axis.", "Use slices.")
    parts = []
    for start, stop in zip(starts, [*starts[1:], len(places)], strict=True):
        ranges = [slice(0, extent, 1) for extent in x.shape]
        ranges[axis] = slice(places[start], places[stop - 1] + 1, 1)
        parts.append(_cut(c, call, x, ranges, None))
    if len(parts) == 1:
        return parts[0]
    attributes = {"axis": x.order[axis]}
    return c.emit(call, "concat", [part.name for part in parts], attributes, like=parts[0], label="joined", result=None)


@RULES("DepthToSpace", "SpaceToDepth")
def _pixels(c: Builder, call: Call) -> Computed:
    x, size = c.map(call.input(0)), int(call.attribute("blocksize"))
    channels, height, width = c.shapes[x]
    if size < 1:
        raise Refused(f"Its blocksize is {size}.", "Export the model again.")
    if call.operation == "SpaceToDepth":
        split, axes = (channels, height // size, size, width // size, size), (2, 4, 0, 1, 3)
    elif call.attribute("mode", "DCR") == "DCR":
        split, axes = (size, size, channels // size**2, height, width), (2, 3, 0, 4, 1)
    else:
        split, axes = (channels // size**2, size, size, height, width), (0, 3, 1, 4, 2)
    return c.emit(call, "rearrange", [x], {"split": split, "axes": axes, "shape": call.shape})


@RULES("Expand")
def _expand(c: Builder, call: Call) -> Computed:
    x = c.computed(call.input(0))
    if call.shape != x.shape:
        raise Refused(f"It repeats a frame of {x.shape} to {call.shape}.", "Only sizes that are there can be compiled.")
    return x


# --- identities ------------------------------------------------------------------------------------------------------


@RULES("Identity")
def _identity(c: Builder, call: Call) -> Computed:
    return c.computed(call.input(0))


@RULES("Dropout")
def _dropout(c: Builder, call: Call) -> Argument | tuple[Argument, ...]:
    training = call.input(2)
    if training is not None and c.known(training, "training_mode").array.any():
        raise Refused("It drops values at random.", "Export the model in inference mode.")
    return c.computed(call.input(0))


@RULES("Cast", "CastLike")
def _cast(c: Builder, call: Call) -> Computed:
    like = call.input(1)
    wanted = call.attribute("to", TensorProto.FLOAT)
    if wanted != TensorProto.FLOAT or (isinstance(like, Known) and like.array.dtype != np.float32):
        raise Refused("It converts to another type.", "Export the model in float32.")
    return c.computed(call.input(0))
