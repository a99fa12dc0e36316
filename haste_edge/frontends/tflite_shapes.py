"""What TFLite's operators that move numbers, or leave them where they are, become in the graph.

Maps have their channels last in TFLite, and first in the graph. So a value is mostly seen with its axes in the order
(1, 2, 0), and what an operator says about an axis is said of the one that it really is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from haste_edge.frontends.builder import Builder, Rules
from haste_edge.frontends.refusals import Refused
from haste_edge.frontends.tflite_call import Call
from haste_edge.frontends.values import Argument, Computed
from haste_runtime.graph import Shape

RULES = Rules[Call]()

Range = tuple[int, int, int]  # start, stop, step

_BATCH = "Each frame must be computed on its own."


def as_map(c: Builder, value: Argument | None) -> Computed:
    """A map (H, W, C) as the file sees it, whose numbers lie as (C, H, W)."""
    x = c.computed(value)
    if len(x.shape) != 3:
        raise Refused(f"It needs a map (N, H, W, C), not a value of per-frame shape {x.shape}.")
    return Computed(c.plain(c.transposed(x, (2, 0, 1))), (1, 2, 0), x.shape)


def axis_of(number: int, rank: int) -> int:
    """An axis of the frame, from the number of one of the ``rank`` axes with the batch. Raises Refused."""
    if not -rank <= number < rank:
        raise Refused(f"Its axis {number} does not exist.", "Convert the model again.")
    if number % rank == 0:
        raise Refused("It works along the batch.", _BATCH)
    return number % rank - 1


@RULES("RESHAPE", "SQUEEZE", "EXPAND_DIMS")
def _reshape(c: Builder, call: Call) -> Computed:
    """All of these keep the order of the numbers, so the shape says it all."""
    x = c.computed(call.input(0))
    if math.prod(call.shape) != math.prod(x.shape):
        raise Refused("It reshapes across frames.", _BATCH)
    return replace(x, shape=call.shape)


@RULES("TRANSPOSE")
def _transpose(c: Builder, call: Call) -> Computed:
    x, order = c.computed(call.input(0)), call.numbers(1, "order of axes")
    if order[:1] != [0]:
        raise Refused(f"It moves the batch: its order is {order}.", _BATCH)
    if sorted(order) != list(range(len(x.shape) + 1)):
        raise Refused(f"Its order is {order}.", "Convert the model again.")
    return c.transposed(x, [axis - 1 for axis in order[1:]])


@RULES("DEPTH_TO_SPACE", "SPACE_TO_DEPTH")
def _shuffle(c: Builder, call: Call) -> Computed:
    """Blocks of pixels become channels, or the other way round: two reshapes and a transpose between them."""
    x, (block,) = as_map(c, call.input(0)), call.positive("BlockSize")
    height, width, channels = x.shape
    if call.operation == "DEPTH_TO_SPACE":
        split: Shape = (height, width, block, block, channels // block**2)
    else:
        split = (height // block, block, width // block, block, channels)
    if math.prod(split) != math.prod(x.shape):
        raise Refused(f"Its blocks of {block}x{block} do not divide a map of {x.shape}.", "Convert the model again.")
    return replace(c.transposed(replace(x, shape=split), (0, 2, 1, 3, 4)), shape=call.shape)


# --- parts -----------------------------------------------------------------------------------------------------------


@RULES("CONCATENATION", "PACK")
def _concat(c: Builder, call: Call) -> Computed:
    axis = axis_of(int(call.option("Axis")), len(call.shape) + 1)
    if call.option("FusedActivationFunction"):
        raise Refused("It ends with an activation, which TFLite's own kernels leave out.", "Write it as a layer.")
    parts = [c.computed(part) for part in call.inputs]
    if call.operation == "PACK":
        parts = [replace(part, shape=(*part.shape[:axis], 1, *part.shape[axis:])) for part in parts]
    if len(parts) == 1:
        return parts[0]
    parts = [c.unreshaped(part) for part in parts]
    order = parts[0].order
    if any(part.order != order for part in parts):  # all as the first lies, a map most often
        back = sorted(range(len(order)), key=order.__getitem__)
        parts = [Computed(c.plain(c.transposed(part, back)), order, part.shape) for part in parts]
    return c.emit(call, "concat", [part.name for part in parts], {"axis": order[axis]}, like=parts[0])


def strided(
    call: Call, shape: Shape, starts: Sequence[int], stops: Sequence[int], steps: Sequence[int]
) -> tuple[list[Range], set[int]]:
    """The ranges that a STRIDED_SLICE takes of each axis, and the axes that vanish. shape: batch and all."""
    if call.option("EllipsisMask") or call.option("NewAxisMask"):
        raise Refused("It slices with an ellipsis or new axes.", "Write them out.")
    if not len(starts) == len(stops) == len(steps) <= len(shape) or 0 in steps:
        raise Refused("Its begin, end and strides do not fit.", "Convert the model again.")
    ranges, dropped = [(0, extent, 1) for extent in shape], set()
    for axis, (start, stop, step) in enumerate(zip(starts, stops, steps, strict=True)):
        if call.option("ShrinkAxisMask") >> axis & 1:
            if not -shape[axis] <= start < shape[axis]:
                raise Refused(f"It takes place {start} of {shape[axis]}.", "Convert the model again.")
            dropped.add(axis)
            ranges[axis] = (start % shape[axis], start % shape[axis] + 1, 1)
            continue
        first = None if call.option("BeginMask") >> axis & 1 else start
        last = None if call.option("EndMask") >> axis & 1 else stop + start if call.option("Offset", False) else stop
        ranges[axis] = slice(first, last, step).indices(shape[axis])
    return ranges, dropped


@RULES("STRIDED_SLICE")
def _strided_slice(c: Builder, call: Call) -> Computed:
    x = c.unreshaped(c.computed(call.input(0)))
    limits = [call.numbers(index, what) for index, what in ((1, "begin"), (2, "end"), (3, "strides"))]
    ranges, _ = strided(call, (call.batch, *x.shape), limits[0], limits[1], limits[2])
    return replace(_cut(c, call, x, ranges), shape=call.shape)  # without the axes that vanish


@RULES("SLICE")
def _slice(c: Builder, call: Call) -> Computed:
    x = c.unreshaped(c.computed(call.input(0)))
    whole, starts, sizes = (call.batch, *x.shape), call.numbers(1, "begin"), call.numbers(2, "size")
    if not len(starts) == len(sizes) == len(whole):
        raise Refused("Its begin and size do not fit.", "Convert the model again.")
    stops = [e if size == -1 else start + size for e, start, size in zip(whole, starts, sizes, strict=True)]
    return _cut(c, call, x, [(start, stop, 1) for start, stop in zip(starts, stops, strict=True)])


@RULES("SPLIT", "SPLIT_V")
def _split(c: Builder, call: Call) -> tuple[Argument, ...]:
    index = 0 if call.operation == "SPLIT" else 1
    x = c.unreshaped(c.computed(call.input(1 - index)))
    numbers = call.numbers(2 * index, "axis")
    axis = 1 + axis_of(numbers[0] if numbers else 0, len(x.shape) + 1)
    parts, start = [], 0
    for number, shape in enumerate(call.shapes):
        ranges = [(0, extent, 1) for extent in (call.batch, *x.shape)]
        if len(shape) != len(x.shape):
            raise Refused(f"Its part of shape {shape} does not fit.", "Convert the model again.")
        ranges[axis] = (start, start + shape[axis - 1], 1)
        start += shape[axis - 1]
        parts.append(_cut(c, call.step(str(number)), x, ranges))
    return tuple(parts)


@RULES("UNPACK")
def _unpack(c: Builder, call: Call) -> tuple[Argument, ...]:
    """Parts of length 1 along an axis, which then vanishes."""
    x = c.unreshaped(c.computed(call.input(0)))
    axis, parts = 1 + axis_of(int(call.option("Axis")), len(x.shape) + 1), []
    for number, shape in enumerate(call.shapes):
        ranges = [(0, extent, 1) for extent in (call.batch, *x.shape)]
        ranges[axis] = (number, number + 1, 1)
        parts.append(replace(_cut(c, call.step(str(number)), x, ranges), shape=shape))
    return tuple(parts)


def _cut(c: Builder, call: Call, x: Computed, ranges: Sequence[Range]) -> Computed:
    """The part of the value; ``ranges`` are of its axes as seen, the batch before them."""
    if ranges[0] != (0, call.batch, 1):
        raise Refused("It takes a part of the batch.", _BATCH)
    if any(step < 1 for _, _, step in ranges):
        raise Refused("It goes backwards.", "Only slices forwards can be compiled.")
    if all(part == (0, extent, 1) for part, extent in zip(ranges[1:], x.shape, strict=True)):
        return x
    own: list[Range] = [(0, 0, 0)] * len(x.shape)
    for axis, (start, stop, step) in zip(x.order, ranges[1:], strict=True):
        if stop <= start:
            raise Refused("It takes an empty slice.", "Remove it.")
        own[axis] = (start, start + (stop - start - 1) // step * step + 1, step)  # to just after the last
    starts, stops, steps = zip(*own, strict=True)
    return c.emit(call, "slice", [x.name], {"starts": starts, "stops": stops, "steps": steps}, like=x, result=None)


# --- more or fewer pixels --------------------------------------------------------------------------------------------


def _around(call: Call, x: Computed) -> list[tuple[int, int]]:
    """Padding before and after C, H and W."""
    numbers, whole = call.numbers(1, "paddings"), len(x.shape) + 1
    if len(numbers) != 2 * whole or min(numbers) < 0:
        raise Refused(f"Its paddings are {numbers}.", "Convert the model again.")
    pairs = list(zip(numbers[::2], numbers[1::2], strict=True))
    if any(pairs[0]):
        raise Refused("It pads the batch.", _BATCH)
    return [pairs[3], pairs[1], pairs[2]]


@RULES("PAD", "PADV2")
def _pad(c: Builder, call: Call) -> Computed:
    x = as_map(c, call.input(0))
    pads = tuple(number for both in _around(call, x) for number in both)
    value = 0.0 if call.operation == "PAD" else float(c.known(call.input(2), "value").array.reshape(-1)[0])
    return c.emit(call, "pad", [x.name], {"pads": pads, "value": value}, like=x)


@RULES("MIRROR_PAD")
def _mirror_pad(c: Builder, call: Call) -> Computed:
    x = as_map(c, call.input(0))
    channels, (top, bottom), (left, right) = _around(call, x)
    if any(channels):
        raise Refused("It mirrors channels.", "Only height and width can be mirrored.")
    mode = "reflect"
    if call.option("Mode"):  # symmetric, which repeats the edge itself: for one pixel the same as replicating it
        if max(top, bottom, left, right) > 1:
            raise Refused("It pads by more than a pixel in symmetric mode.", "Use reflect mode.")
        mode = "replicate"
    return c.emit(call, "extend", [x.name], {"pads": (top, left, bottom, right), "mode": mode}, like=x)


@RULES("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR")
def _resize(c: Builder, call: Call) -> Computed:
    x, size = as_map(c, call.input(0)), tuple(call.numbers(1, "size"))
    aligned, centres = bool(call.option("AlignCorners", False)), bool(call.option("HalfPixelCenters", False))
    if len(size) != 2 or min(size) < 1:
        raise Refused(f"Its size is {size}.", "Convert the model again.")
    if aligned and centres:
        raise Refused("It aligns both corners and centres of pixels.", "Choose one of them.")
    steps = [
        (old - 1) / (new - 1) if aligned and new > 1 else old / new for old, new in zip(x.shape[:2], size, strict=True)
    ]
    attributes = {
        "size": size,
        "mode": "linear" if call.operation == "RESIZE_BILINEAR" else "nearest",
        "step_y": steps[0],
        "step_x": steps[1],
        "coordinates": "half_pixel" if centres else "asymmetric",
        "rounding": "half_up" if aligned or centres else "floor",
    }
    return c.emit(call, "resize", [x.name], attributes, like=x)


@RULES("CAST")
def _cast(c: Builder, call: Call) -> Computed:
    return c.computed(call.input(0))  # from float32 to float32: other types are refused before


@RULES("DEQUANTIZE")
def _dequantise(c: Builder, call: Call) -> Computed:
    raise Refused("It reads numbers of another type than float32.", "Convert the model in float32.")
