"""The shape that each operator's result has, and what its inputs, attributes and constants must fit for that.

Each function takes the node, its inputs' shapes and its constants by role, and raises GraphError. Shapes are per frame,
without the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from haste_runtime.attributes import MAX_CONSTANT_RANK
from haste_runtime.errors import GraphError
from haste_runtime.geometry import output_size
from haste_runtime.graph import Constant, Node, Shape
from haste_runtime.rearranging import grouped

Constants = Mapping[str, Constant]  # by role
ShapeRule = Callable[[Node, Sequence[Shape], Constants], Shape]


def fail(node: Node, why: str) -> GraphError:
    return GraphError(f"Node {node.name!r} ({node.op}): {why}.")


def need_map(node: Node, shape: Shape) -> tuple[int, int, int]:
    if len(shape) != 3:
        raise fail(node, f"needs a map (C, H, W), not {shape}")
    return shape[0], shape[1], shape[2]


def need_constant(node: Node, constants: Constants, role: str, shape: Shape) -> None:
    if role in constants and constants[role].shape != shape:
        raise fail(node, f"its {role} has shape {constants[role].shape} where {shape} is needed")


def windows(
    node: Node, size: tuple[int, int], kernel: tuple[int, int], padding: tuple[int, ...], dilation: tuple[int, int]
) -> tuple[int, int]:
    """Output height and width of a sliding window, rounding down."""
    top, left, bottom, right = padding
    room = (size[0] + top + bottom, size[1] + left + right)
    reach = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True))
    if reach[0] > room[0] or reach[1] > room[1]:
        raise fail(node, f"its window of {reach[0]}x{reach[1]} does not fit the padded map of {room[0]}x{room[1]}")
    stride = node.attributes["stride"]
    height, width = (output_size(*axis) for axis in zip(room, kernel, stride, dilation, strict=True))
    return height, width


def conv(node: Node, shapes: Sequence[Shape], constants: Constants) -> Shape:
    channels, height, width = need_map(node, shapes[0])
    weight, groups = constants["weight"], node.attributes["groups"]
    if weight.ndim != 4:
        raise fail(node, f"its weight has shape {weight.shape} where (O, C/groups, Kh, Kw) is needed")
    out = weight.shape[0]
    if channels % groups or out % groups:
        raise fail(node, f"its {groups} groups do not divide {channels} input and {out} output channels")
    need_constant(node, constants, "weight", (out, channels // groups, *weight.shape[2:]))
    need_constant(node, constants, "weight_scale", (out,))
    need_constant(node, constants, "bias", (out,))
    kernel = (weight.shape[2], weight.shape[3])
    size = windows(node, (height, width), kernel, node.attributes["padding"], node.attributes["dilation"])
    shape = (out, *size)
    if len(shapes) == 2 and shapes[1] != shape:
        raise fail(node, f"its residual has shape {shapes[1]} where {shape} is needed")
    return shape


def linear(node: Node, shapes: Sequence[Shape], constants: Constants) -> Shape:
    weight = constants["weight"]
    if len(shapes[0]) != 1:
        raise fail(node, f"needs a vector (F,), not {shapes[0]}")
    if weight.ndim != 2:
        raise fail(node, f"its weight has shape {weight.shape} where (O, F) is needed")
    need_constant(node, constants, "weight", (weight.shape[0], shapes[0][0]))
    need_constant(node, constants, "weight_scale", (weight.shape[0],))
    need_constant(node, constants, "bias", (weight.shape[0],))
    return (weight.shape[0],)


def scale(node: Node, shapes: Sequence[Shape], constants: Constants) -> Shape:
    for role in ("scale", "shift"):
        need_constant(node, constants, role, shapes[0][:1])
    return shapes[0]


def same(node: Node, shapes: Sequence[Shape], constants: Constants) -> Shape:
    if any(shape != shapes[0] for shape in shapes):
        raise fail(node, f"its inputs differ in shape: {', '.join(map(str, shapes))}")
    return shapes[0]


def pool(node: Node, shapes: Sequence[Shape], constants: Constants) -> Shape:
    channels, height, width = need_map(node, shapes[0])
    kernel, padding = node.attributes["kernel"], node.attributes["padding"]
    dilation = node.attributes.get("dilation", (1, 1))
    size = windows(node, (height, width), kernel, padding, dilation)
    for axis, extent in enumerate((height, width)):
        step, taps, gap = node.attributes["stride"][axis], kernel[axis], dilation[axis]
        # The first and the last window are the furthest out; only gaps wider than the map can hide it from others.
        count = size[axis]
        for window in range(count) if gap > extent else (0, count - 1):
            start = window * step - padding[axis]
            first = max(0, -(start // gap))  # the first tap that is not above or left of the map
            if first >= taps or start + first * gap >= extent:
                raise fail(node, "its padding is so wide that a window sees no pixel of the map")
    return (channels, *size)


def adaptive_pool(node: Node, shapes: Sequence[Shape], constants: Constants) -> Shape:
    channels, _, _ = need_map(node, shapes[0])
    return (channels, *node.attributes["size"])


def mean(node: Node, shapes: Sequence[Shape], constants: Constants) -> Shape:
    channels, _, _ = need_map(node, shapes[0])
    return (channels, 1, 1) if node.attributes["keepdim"] else (channels,)


def flatten(node: Node, shapes: Sequence[Shape], constants: Constants) -> Shape:
    return (math.prod(shapes[0]),)


def concat(node: Node, shapes: Sequence[Shape], constants: Constants) -> Shape:
    axis, first = node.attributes["axis"], shapes[0]
    if axis >= len(first):
        raise fail(node, f"axis {axis} does not exist in shape {first}")
    for shape in shapes:
        if len(shape) != len(first) or shape[:axis] + shape[axis + 1 :] != first[:axis] + first[axis + 1 :]:
            raise fail(node, f"its inputs do not fit beside each other along axis {axis}: {first} and {shape}")
    return (*first[:axis], sum(shape[axis] for shape in shapes), *first[axis + 1 :])


def pad(node: Node, shapes: Sequence[Shape], constants: Constants) -> Shape:
    shape, pads = need_map(node, shapes[0]), node.attributes["pads"]
    return tuple(pads[2 * i] + extent + pads[2 * i + 1] for i, extent in enumerate(shape))


def slice(node: Node, shapes: Sequence[Shape], constants: Constants) -> Shape:
    starts, stops, steps = (node.attributes[key] for key in ("starts", "stops", "steps"))
    if not len(starts) == len(stops) == len(steps) == len(shapes[0]):
        raise fail(node, f"starts, stops and steps need one number per axis of {shapes[0]}")
    for start, stop, extent in zip(starts, stops, shapes[0], strict=True):
        if not start < stop <= extent:
            raise fail(node, f"start {start} to stop {stop} is empty or leaves the axis of length {extent}")
    return tuple(-(-(b - a) // step) for a, b, step in zip(starts, stops, steps, strict=True))


def prelu(node: Node, shapes: Sequence[Shape], constants: Constants) -> Shape:
    need_constant(node, constants, "slope", shapes[0][:1])
    return shapes[0]


def binary(node: Node, shapes: Sequence[Shape], constants: Constants) -> Shape:
    """Both have as many axes. Of the axes before the last two either all are repeated or none: they lie as one."""
    if (len(shapes) == 2) == ("other" in constants):
        raise fail(node, "needs a second operand, which is either an input or the constant 'other'")
    first, second = shapes[0], constants["other"].shape if "other" in constants else shapes[1]
    if "other" in constants and len(second) > MAX_CONSTANT_RANK:
        raise fail(node, f"its constant has shape {second}; at most {MAX_CONSTANT_RANK} axes are allowed")
    if len(first) != len(second) or any(a != b and 1 not in (a, b) for a, b in zip(first, second, strict=True)):
        raise fail(node, f"cannot combine {first} with {second}")
    shape = tuple(map(max, first, second))
    for operand in (first, second):
        if operand[:-2] != shape[:-2] and any(extent != 1 for extent in operand[:-2]):
            raise fail(node, f"repeats {operand} along some of the axes before the last two, but not along all of them")
    return shape


def reshape(node: Node, shapes: Sequence[Shape], constants: Constants) -> Shape:
    shape: Shape = node.attributes["shape"]
    if math.prod(shape) != math.prod(shapes[0]):
        raise fail(node, f"cannot reshape {shapes[0]} to {shape}, which has another number of elements")
    return shape


def rearrange(node: Node, shapes: Sequence[Shape], constants: Constants) -> Shape:
    split, axes, shape = (node.attributes[key] for key in ("split", "axes", "shape"))
    if len(axes) != len(split):
        raise fail(node, f"split {split} and axes {axes} differ in length")
    permuted = tuple(split[axis] for axis in axes)
    for whole, factors in ((shapes[0], split), (shape, permuted)):
        if grouped(whole, factors) is None:
            raise fail(node, f"the axes of {whole} do not split into {factors}")
    return tuple(shape)


def extend(node: Node, shapes: Sequence[Shape], constants: Constants) -> Shape:
    (channels, *extents), (top, left, bottom, right) = need_map(node, shapes[0]), node.attributes["pads"]
    most = {"reflect": -1, "circular": 0}.get(node.attributes["mode"])
    for extent, before, after in zip(extents, (top, left), (bottom, right), strict=True):
        if most is not None and max(before, after) > extent + most:
            raise fail(node, f"its border is wider than what a side of {extent} pixels has for it")
    return channels, top + extents[0] + bottom, left + extents[1] + right


def resize(node: Node, shapes: Sequence[Shape], constants: Constants) -> Shape:
    return (need_map(node, shapes[0])[0], *node.attributes["size"])


def reduce(node: Node, shapes: Sequence[Shape], constants: Constants) -> Shape:
    """Axes before the last two lie together: of these only neighbours are reduced."""
    shape, axes = shapes[0], node.attributes["axes"]
    if axes[-1] >= len(shape):
        raise fail(node, f"axis {axes[-1]} does not exist in shape {shape}")
    leading = [axis for axis in axes if axis < max(1, len(shape) - 2)]
    if leading and leading != list(range(leading[0], leading[-1] + 1)):
        raise fail(node, f"the axes {axes} of {shape} lie apart")
    return tuple(1 if axis in axes else extent for axis, extent in enumerate(shape))


def softmax(node: Node, shapes: Sequence[Shape], constants: Constants) -> Shape:
    if node.attributes["axis"] >= len(shapes[0]):
        raise fail(node, f"axis {node.attributes['axis']} does not exist in shape {shapes[0]}")
    return shapes[0]


def lrn(node: Node, shapes: Sequence[Shape], constants: Constants) -> Shape:
    shape = need_map(node, shapes[0])
    if node.attributes["size"] > 2 * shape[0]:
        raise fail(node, f"its window of {node.attributes['size']} is more than twice as wide as {shape[0]} channels")
    if node.attributes["alpha"] < 0:
        raise fail(node, "its alpha is negative")
    return shape
