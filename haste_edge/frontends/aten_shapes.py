"""What ATen operators that move numbers, or do nothing, become in the graph: reshapes, slices, joins, identities."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from haste_edge.frontends.aten import Argument, Call, Computed, Converter, Known, Rules
from haste_edge.frontends.refusals import Refused
from haste_runtime.graph import Shape

RULES = Rules()

# --- shapes ----------------------------------------------------------------------------------------------------------


@RULES(
    "view.default",
    "_unsafe_view.default",
    "reshape.default",
    "flatten.using_ints",
    "squeeze.default",
    "squeeze.dim",
    "squeeze.dims",
    "unsqueeze.default",
    "view_as.default",
)
def _reshape(c: Converter, call: Call) -> Computed:
    """All of these keep the order of the numbers, so the shape says it all; only flattening makes a node."""
    x = call["self"]
    if not isinstance(x, Computed) or math.prod(call.shape) != math.prod(x.shape):
        raise Refused("It reshapes across frames.", "Each frame must be computed on its own.")
    own = c.shapes[x.name]
    if len(call.shape) == 1 and len(own) == 3:
        return c.emit(call, "flatten", [x.name], {"order": "CHW"})
    return Computed(x.name, call.shape)


def ints(values: Sequence[Argument], what: str) -> list[int]:
    if not all(isinstance(value, int) for value in values):
        raise Refused(f"Its {what} depends on the batch or on data.", "Use fixed numbers.")
    return list(values)


@RULES("slice.Tensor")
def _slice(c: Converter, call: Call) -> Computed:
    x = call["self"]
    name = c.value(x)
    axis = call["dim"] % (len(x.shape) + 1) - 1
    if axis < 0:  # the batch; `Call.shape` is only there if it is kept whole
        return Computed(x.name, x.shape)
    extent = x.shape[axis]
    start = 0 if call["start"] is None else call["start"]
    stop = extent if call["end"] is None else call["end"]
    low, high, step = slice(*ints([start, stop, call["step"]], "range")).indices(extent)
    if high <= low:
        raise Refused("It takes an empty slice.", "Remove it.")
    starts, stops, steps = [0] * len(x.shape), list(x.shape), [1] * len(x.shape)
    starts[axis], stops[axis], steps[axis] = low, low + (high - low - 1) // step * step + 1, step  # just after the last
    ranges = {"starts": tuple(starts), "stops": tuple(stops), "steps": tuple(steps)}
    return c.emit(call, "slice", [name], ranges)


@RULES("cat.default")
def _concat(c: Converter, call: Call) -> Computed:
    parts = call["tensors"]
    if not all(isinstance(part, Computed) for part in parts):
        raise Refused("It puts constants beside computed values.", "Use padding for zeros.")
    axis = call["dim"] % (len(call.shape) + 1) - 1
    if axis < 0:
        raise Refused("It joins along the batch.", "Each frame must be computed on its own.")
    names = [c.value(part) for part in parts]
    if len(names) == 1:
        return Computed(names[0], call.shape)
    return c.emit(call, "concat", names, {"axis": axis})


@RULES("stack.default")
def _stack(c: Converter, call: Call) -> Computed:
    axis = call["dim"] % (len(call.shape) + 1) - 1
    if axis < 0 or not all(isinstance(part, Computed) for part in call["tensors"]):
        raise Refused("It stacks constants, or frames.", "Stack computed values along an axis behind the batch.")
    shape = (*call.shape[:axis], 1, *call.shape[axis + 1 :])
    names = [c.value(Computed(c.value(part), shape)) for part in call["tensors"]]
    return c.emit(call, "concat", names, {"axis": axis}) if len(names) > 1 else Computed(names[0], call.shape)


def _part(c: Converter, call: Call, name: str, axis: int, start: int, stop: int) -> Computed:
    shape = c.shapes[name]
    starts, stops = [0] * len(shape), list(shape)
    starts[axis], stops[axis] = start, stop
    ranges = {"starts": tuple(starts), "stops": tuple(stops), "steps": (1,) * len(shape)}
    return c.make(call, "slice", [name], ranges)


@RULES("split.Tensor", "split_with_sizes.default", "chunk.default")
def _split(c: Converter, call: Call) -> tuple[Computed, ...]:
    name, axis = c.value(call["self"]), _axis(call)
    extent = c.shapes[name][axis]
    if call.operation.startswith("split_with_sizes"):
        sizes = ints(call["split_sizes"], "range")
    else:
        step = call["split_size"] if call.operation.startswith("split") else -(-extent // call["chunks"])
        sizes = [min(step, extent - start) for start in range(0, extent, step)]
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return tuple(_part(c, call, name, axis, end - size, end) for size, end in zip(sizes, ends, strict=True))


def _axis(call: Call) -> int:
    """The axis of a call's ``dim``, counted without the batch."""
    axis: int = call["dim"] % (len(call["self"].shape) + 1) - 1
    if axis < 0:
        raise Refused("It works along the batch.", "Each frame must be computed on its own.")
    return axis


@RULES("unbind.int")
def _unbind(c: Converter, call: Call) -> tuple[Computed, ...]:
    name, axis = c.value(call["self"]), _axis(call)
    parts = [_part(c, call, name, axis, i, i + 1) for i in range(c.shapes[name][axis])]
    return tuple(Computed(part.name, part.shape[:axis] + part.shape[axis + 1 :]) for part in parts)


@RULES("select.int")
def _select(c: Converter, call: Call) -> Computed:
    name, axis = c.value(call["self"]), _axis(call)
    (index,) = ints([call["index"]], "index")
    index %= c.shapes[name][axis]
    return Computed(_part(c, call, name, axis, index, index + 1).name, call.shape)


@RULES("roll.default")
def _roll(c: Converter, call: Call) -> Computed:
    name = c.value(call["self"])
    for shift, dim in zip(ints(call["shifts"], "shift"), call["dims"], strict=True):
        axis = dim % (len(call.shape) + 1) - 1
        cut = -shift % call.shape[axis]
        if axis < 0:
            raise Refused("It works along the batch.", "Each frame must be computed on its own.")
        if cut:
            parts = [_part(c, call, name, axis, cut, call.shape[axis]), _part(c, call, name, axis, 0, cut)]
            name = c.make(call, "concat", [part.name for part in parts], {"axis": axis}).name
    return Computed(name, call.shape)


@RULES("repeat.default")
def _repeat(c: Converter, call: Call) -> Computed:
    times = call["repeats"]
    if len(times) != len(call["self"].shape) + 1 or times[0] != 1:
        raise Refused("It repeats frames.", "Each frame must be computed on its own.")
    name = c.value(call["self"])
    for axis, count in enumerate(ints(times[1:], "count")):
        if count > 1:
            name = c.make(call, "concat", [name] * count, {"axis": axis}).name
    return Computed(name, call.shape)


@RULES("expand.default", "expand_as.default")
def _expand(c: Converter, call: Call) -> Computed:
    """Adding zeros repeats what is of length 1."""
    x = call["self"]
    name = c.value(x)
    if x.shape == call.shape:
        return Computed(name, call.shape)
    if len(x.shape) != len(call.shape):
        raise Refused(f"It expands {x.shape} to {call.shape}.", "Give it as many axes first.")
    zeros = torch.zeros([new if new != old else 1 for old, new in zip(x.shape, call.shape, strict=True)])
    attributes = {"function": "add", "activation": "none"}
    return c.emit(call, "binary", [name], attributes, {"other": Known(zeros)})


# --- other orders ----------------------------------------------------------------------------------------------------


def rearrange(c: Converter, call: Call, x: str, split: Shape, axes: Sequence[int], shape: Shape) -> Computed:
    """A node that splits the axes of a value into factors, puts these into another order, and joins them to a shape."""
    return c.make(call, "rearrange", [x], {"split": split, "axes": tuple(axes), "shape": shape})


@RULES("permute.default", "transpose.int")
def _permute(c: Converter, call: Call) -> Computed:
    x, rank = call["self"], len(call.shape) + 1
    name = c.value(x)
    if call.operation.startswith("permute"):
        order = [axis % rank for axis in call["dims"]]
    else:
        order, swapped = list(range(rank)), (call["dim0"] % rank, call["dim1"] % rank)
        order[swapped[0]], order[swapped[1]] = order[swapped[1]], order[swapped[0]]
    if order[0] != 0:
        raise Refused("It moves the batch.", "Each frame must be computed on its own.")
    return rearrange(c, call, name, x.shape, [axis - 1 for axis in order[1:]], call.shape)


@RULES("channel_shuffle.default", "native_channel_shuffle.default")
def _channel_shuffle(c: Converter, call: Call) -> Computed:
    (channels, *extents), groups = call.shape, call["groups"]
    split = (groups, channels // groups, *extents)
    return rearrange(c, call, c.value(call["self"]), split, (1, 0, *range(2, len(split))), call.shape)


@RULES("pixel_shuffle.default")
def _pixel_shuffle(c: Converter, call: Call) -> Computed:
    x, factor = c.map(call["self"]), call["upscale_factor"]
    _, height, width = c.shapes[x]
    return rearrange(c, call, x, (call.shape[0], factor, factor, height, width), (0, 3, 1, 4, 2), call.shape)


@RULES("pixel_unshuffle.default")
def _pixel_unshuffle(c: Converter, call: Call) -> Computed:
    x, factor = c.map(call["self"]), call["downscale_factor"]
    _, height, width = call.shape
    return rearrange(c, call, x, (c.shapes[x][0], height, factor, width, factor), (0, 2, 4, 1, 3), call.shape)


# --- identities ------------------------------------------------------------------------------------------------------


@RULES(
    "alias.default",
    "clone.default",
    "contiguous.default",
    "detach.default",
    "lift_fresh_copy.default",
    "_to_copy.default",
    "to.dtype",
    "to.dtype_layout",
)
def _identity(c: Converter, call: Call) -> Computed:
    x = call["self"]
    if not isinstance(x, Computed):
        raise Refused("It copies a constant whose shape depends on the batch.")
    if call.get("dtype") not in (None, torch.float32):
        raise Refused(f"It converts to {call['dtype']}.", "Export the model in float32, without autocast.")
    return Computed(x.name, call.shape)


@RULES("dropout.default", "feature_dropout.default", "alpha_dropout.default", "native_dropout.default")
def _dropout(c: Converter, call: Call) -> Computed | tuple[Computed | None, ...]:
    x = call["input"]
    if call["train"] or not isinstance(x, Computed):
        raise Refused("It drops values at random.", "Export the model in eval mode.")
    result = Computed(x.name, call.shape)
    return (result, None) if call.operation == "native_dropout.default" else result
