"""The operator table: for each operator its attributes, constants, number of inputs and output shape.

To add an operator: write its shape function, add one entry to `OPERATORS`, and give each backend a kernel for it.
Shapes are per frame, without the batch: ``(C, H, W)`` for maps, ``(F,)`` for vectors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from haste_runtime.errors import GraphError
from haste_runtime.geometry import output_size
from haste_runtime.graph import Constant, Graph, Node, Shape

ACTIVATIONS = ("none", "relu", "relu6")
MAX_ELEMENTS = 2**31 - 1  # of one value: kernels index with 32 bits
MAX_STEP = 2**16 - 1  # of kernels' sides, strides, dilations and paddings

Constants = Mapping[str, Constant]  # by role
ShapeFunction = Callable[[Node, Sequence[Shape], Constants], Shape]


@dataclass(frozen=True)
class Attribute:
    """What an attribute may be: in words, for the error message, and as a test."""

    words: str
    holds: Callable[[Any], bool]


@dataclass(frozen=True)
class Operator:
    """One operator: what a node that uses it must look like, and what shape it gives.

    arity: fewest and most inputs. roles: of its constants, and whether each is needed. shape: raises GraphError.
    """

    arity: tuple[int, int]
    attributes: Mapping[str, Attribute]
    shape: ShapeFunction
    roles: Mapping[str, bool] = field(default_factory=dict)


# --- kinds of attributes ---------------------------------------------------------------------------------------------


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _integer(least: int) -> Attribute:
    return Attribute(f"an integer >= {least}", lambda v: _is_int(v) and v >= least)


def _integers(counts: tuple[int, ...], least: int, most: int) -> Attribute:
    words = f"a tuple of {' or '.join(map(str, counts))} integers from {least} to {most}"
    return Attribute(
        words,
        lambda v: isinstance(v, tuple) and len(v) in counts and all(_is_int(i) and least <= i <= most for i in v),
    )


def _one_of(*values: str | int) -> Attribute:
    return Attribute(
        "one of " + ", ".join(map(repr, values)),
        lambda v: (isinstance(v, str) or _is_int(v)) and v in values,
    )


_NUMBER = Attribute("a finite number", lambda v: (_is_int(v) or isinstance(v, float)) and math.isfinite(v))
_ACTIVATION = {"activation": _one_of(*ACTIVATIONS)}
_STEPS = _integers((2,), 1, MAX_STEP)  # y, x
_PADDING = _integers((4,), 0, MAX_STEP)  # top, left, bottom, right
_STARTS = _integers((1, 3), 0, MAX_ELEMENTS)  # one per axis
_STOPS = _integers((1, 3), 1, MAX_ELEMENTS)
_SIZE = _integers((2,), 1, MAX_ELEMENTS)  # height, width
_WINDOW = {"kernel": _STEPS, "stride": _STEPS, "padding": _PADDING}


# --- shape functions -------------------------------------------------------------------------------------------------


def _fail(node: Node, why: str) -> GraphError:
    return GraphError(f"Node {node.name!r} ({node.op}): {why}.")


def _need_map(node: Node, shape: Shape) -> tuple[int, int, int]:
    if len(shape) != 3:
        raise _fail(node, f"needs a map (C, H, W), not {shape}")
    return shape[0], shape[1], shape[2]


def _need_constant(node: Node, constants: Constants, role: str, shape: Shape) -> None:
    if role in constants and constants[role].shape != shape:
        raise _fail(node, f"its {role} has shape {constants[role].shape} where {shape} is needed")


def _windows(
    node: Node, size: tuple[int, int], kernel: tuple[int, int], padding: tuple[int, ...], dilation: tuple[int, int]
) -> tuple[int, int]:
    """Output height and width of a sliding window, rounding down."""
    top, left, bottom, right = padding
    room = (size[0] + top + bottom, size[1] + left + right)
    reach = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True))
    if reach[0] > room[0] or reach[1] > room[1]:
        raise _fail(node, f"its window of {reach[0]}x{reach[1]} does not fit the padded map of {room[0]}x{room[1]}")
    stride = node.attributes["stride"]
    height, width = (output_size(*axis) for axis in zip(room, kernel, stride, dilation, strict=True))
    return height, width


def _conv(node: Node, shapes: Sequence[Shape], constants: Constants) -> Shape:
    channels, height, width = _need_map(node, shapes[0])
    weight, groups = constants["weight"], node.attributes["groups"]
    if weight.ndim != 4:
        raise _fail(node, f"its weight has shape {weight.shape} where (O, C/groups, Kh, Kw) is needed")
    out = weight.shape[0]
    if channels % groups or out % groups:
        raise _fail(node, f"its {groups} groups do not divide {channels} input and {out} output channels")
    _need_constant(node, constants, "weight", (out, channels // groups, *weight.shape[2:]))
    _need_constant(node, constants, "bias", (out,))
    kernel = (weight.shape[2], weight.shape[3])
    size = _windows(node, (height, width), kernel, node.attributes["padding"], node.attributes["dilation"])
    shape = (out, *size)
    if len(shapes) == 2 and shapes[1] != shape:
        raise _fail(node, f"its residual has shape {shapes[1]} where {shape} is needed")
    return shape


def _linear(node: Node, shapes: Sequence[Shape], constants: Constants) -> Shape:
    weight = constants["weight"]
    if len(shapes[0]) != 1:
        raise _fail(node, f"needs a vector (F,), not {shapes[0]}")
    if weight.ndim != 2:
        raise _fail(node, f"its weight has shape {weight.shape} where (O, F) is needed")
    _need_constant(node, constants, "weight", (weight.shape[0], shapes[0][0]))
    _need_constant(node, constants, "bias", (weight.shape[0],))
    return (weight.shape[0],)


def _scale(node: Node, shapes: Sequence[Shape], constants: Constants) -> Shape:
    for role in ("scale", "shift"):
        _need_constant(node, constants, role, shapes[0][:1])
    return shapes[0]


def _same(node: Node, shapes: Sequence[Shape], constants: Constants) -> Shape:
    if any(shape != shapes[0] for shape in shapes):
        raise _fail(node, f"its inputs differ in shape: {', '.join(map(str, shapes))}")
    return shapes[0]


def _pool(node: Node, shapes: Sequence[Shape], constants: Constants) -> Shape:
    channels, height, width = _need_map(node, shapes[0])
    kernel, padding = node.attributes["kernel"], node.attributes["padding"]
    dilation = node.attributes.get("dilation", (1, 1))
    size = _windows(node, (height, width), kernel, padding, dilation)
    for axis, extent in enumerate((height, width)):
        step, taps, gap = node.attributes["stride"][axis], kernel[axis], dilation[axis]
        # The first and the last window are the furthest out; only gaps wider than the map can hide it from others.
        count = size[axis]
        for window in range(count) if gap > extent else (0, count - 1):
            start = window * step - padding[axis]
            first = max(0, -(start // gap))  # the first tap that is not above or left of the map
            if first >= taps or start + first * gap >= extent:
                raise _fail(node, "its padding is so wide that a window sees no pixel of the map")
    return (channels, *size)


def _adaptive_pool(node: Node, shapes: Sequence[Shape], constants: Constants) -> Shape:
    channels, _, _ = _need_map(node, shapes[0])
    return (channels, *node.attributes["size"])


def _mean(node: Node, shapes: Sequence[Shape], constants: Constants) -> Shape:
    channels, _, _ = _need_map(node, shapes[0])
    return (channels, 1, 1) if node.attributes["keepdim"] else (channels,)


def _flatten(node: Node, shapes: Sequence[Shape], constants: Constants) -> Shape:
    return (math.prod(shapes[0]),)


def _concat(node: Node, shapes: Sequence[Shape], constants: Constants) -> Shape:
    axis, first = node.attributes["axis"], shapes[0]
    if axis >= len(first):
        raise _fail(node, f"axis {axis} does not exist in shape {first}")
    for shape in shapes:
        if len(shape) != len(first) or shape[:axis] + shape[axis + 1 :] != first[:axis] + first[axis + 1 :]:
            raise _fail(node, f"its inputs do not fit beside each other along axis {axis}: {first} and {shape}")
    return (*first[:axis], sum(shape[axis] for shape in shapes), *first[axis + 1 :])


def _pad(node: Node, shapes: Sequence[Shape], constants: Constants) -> Shape:
    shape, pads = _need_map(node, shapes[0]), node.attributes["pads"]
    return tuple(pads[2 * i] + extent + pads[2 * i + 1] for i, extent in enumerate(shape))


def _slice(node: Node, shapes: Sequence[Shape], constants: Constants) -> Shape:
    starts, stops, steps = (node.attributes[key] for key in ("starts", "stops", "steps"))
    if not len(starts) == len(stops) == len(steps) == len(shapes[0]):
        raise _fail(node, f"starts, stops and steps need one number per axis of {shapes[0]}")
    for start, stop, extent in zip(starts, stops, shapes[0], strict=True):
        if not start < stop <= extent:
            raise _fail(node, f"start {start} to stop {stop} is empty or leaves the axis of length {extent}")
    return tuple(-(-(b - a) // step) for a, b, step in zip(starts, stops, steps, strict=True))


# --- the table -------------------------------------------------------------------------------------------------------

_MANY = 2**16

OPERATORS: Mapping[str, Operator] = {
    # activation(convolution + bias + residual); the optional second input is the residual
    "conv": Operator(
        (1, 2),
        {
            "stride": _STEPS,
            "padding": _PADDING,
            "dilation": _STEPS,
            "groups": _integer(1),
            **_ACTIVATION,
        },
        _conv,
        {"weight": True, "bias": False},
    ),
    "linear": Operator((1, 1), _ACTIVATION, _linear, {"weight": True, "bias": False}),
    "scale": Operator((1, 1), _ACTIVATION, _scale, {"scale": True, "shift": True}),  # per channel
    "add": Operator((2, 2), _ACTIVATION, _same),
    "activation": Operator((1, 1), _ACTIVATION, _same),
    "max_pool": Operator((1, 1), {**_WINDOW, "dilation": _STEPS}, _pool),  # padding counts as -infinity
    "avg_pool": Operator((1, 1), {**_WINDOW, "count_include_pad": _one_of(0, 1)}, _pool),
    "adaptive_avg_pool": Operator((1, 1), {"size": _SIZE}, _adaptive_pool),
    "adaptive_max_pool": Operator((1, 1), {"size": _SIZE}, _adaptive_pool),
    "mean": Operator((1, 1), {"keepdim": _one_of(0, 1)}, _mean),  # over height and width
    "flatten": Operator((1, 1), {"order": _one_of("CHW", "HWC")}, _flatten),
    "concat": Operator((2, _MANY), {"axis": _one_of(0, 1, 2)}, _concat),
    "pad": Operator((1, 1), {"pads": _integers((6,), 0, MAX_STEP), "value": _NUMBER}, _pad),  # before, after of C, H, W
    "slice": Operator((1, 1), {"starts": _STARTS, "stops": _STOPS, "steps": _STOPS}, _slice),
}


# --- checks ----------------------------------------------------------------------------------------------------------


def infer_shape(node: Node, input_shapes: Sequence[Shape], constants_by_role: Constants) -> Shape:
    """The output shape of ``node``.

    Checks the operator's name, number of inputs, attributes, and the constants' roles and shapes (not their values).
    Raises GraphError, which names the node and the rule it breaks.
    """
    operator = OPERATORS.get(node.op)
    if operator is None:
        raise GraphError(f"Node {node.name!r}: there is no operator {node.op!r}.", f"Known: {', '.join(OPERATORS)}.")
    fewest, most = operator.arity
    if not fewest <= len(input_shapes) <= most:
        wanted = str(fewest) if fewest == most else f"{fewest} or more" if most == _MANY else f"{fewest} to {most}"
        raise _fail(node, f"takes {wanted} inputs, not {len(input_shapes)}")
    if set(node.attributes) != set(operator.attributes):
        raise _fail(node, f"has attributes {sorted(node.attributes)} where {sorted(operator.attributes)} are needed")
    for name, attribute in operator.attributes.items():
        if not attribute.holds(node.attributes[name]):
            raise _fail(node, f"attribute {name!r} is {node.attributes[name]!r}, not {attribute.words}")
    for role in constants_by_role:
        if role not in operator.roles:
            raise _fail(node, f"has no constant called {role!r}")
    for role, needed in operator.roles.items():
        if needed and role not in constants_by_role:
            raise _fail(node, f"needs a constant {role!r}")
    shape = operator.shape(node, input_shapes, constants_by_role)
    if math.prod(shape) > MAX_ELEMENTS:
        raise _fail(node, f"its output of shape {shape} has more than {MAX_ELEMENTS} elements")
    return shape


def check_graph(graph: Graph) -> dict[str, Shape]:
    """Check a whole graph and return the per-frame shape of every value: graph inputs and nodes, by name.

    Raises GraphError at the first rule broken: names are unique, nodes come after what they read, every node fits
    its operator, constants are finite float32 or float16 in C order, outputs exist.
    """
    shapes: dict[str, Shape] = {}
    for value in graph.inputs:
        if value.name in shapes:
            raise GraphError(f"Two inputs are called {value.name!r}.")
        if len(value.shape) not in (1, 3) or not all(_is_int(extent) and extent >= 1 for extent in value.shape):
            raise GraphError(f"Input {value.name!r} has shape {value.shape}; (C, H, W) or (F,) is needed.")
        if math.prod(value.shape) > MAX_ELEMENTS:
            raise GraphError(f"Input {value.name!r} of shape {value.shape} has more than {MAX_ELEMENTS} elements.")
        shapes[value.name] = value.shape
    if not graph.inputs or not graph.outputs:
        raise GraphError("A graph needs at least one input and one output.")
    for key, constant in graph.constants.items():
        _check_constant(key, constant)
    for node in graph.nodes:
        if node.name in shapes:
            raise _fail(node, "another value has the same name")
        for name in node.inputs:
            if name not in shapes:
                raise _fail(node, f"reads {name!r}, which is neither an input nor an earlier node")
        for role, key in node.constants.items():
            if key not in graph.constants:
                raise _fail(node, f"its {role} {key!r} is not among the graph's constants")
        by_role = {role: graph.constants[key] for role, key in node.constants.items()}
        shapes[node.name] = infer_shape(node, [shapes[name] for name in node.inputs], by_role)
    for name in graph.outputs:
        if name not in shapes:
            raise GraphError(f"Output {name!r} is neither an input nor a node.")
    if len(set(graph.outputs)) != len(graph.outputs):
        raise GraphError(f"An output is named twice: {', '.join(graph.outputs)}.")
    return shapes


def _check_constant(key: str, constant: Constant) -> None:
    if constant.dtype not in (np.float32, np.float16):
        raise GraphError(f"Constant {key!r} is {constant.dtype}; float32 or float16 is needed.")
    if constant.size == 0:
        raise GraphError(f"Constant {key!r} is empty: its shape is {constant.shape}.")
    if not constant.flags.c_contiguous:
        raise GraphError(f"Constant {key!r} is not C-contiguous.")
    if not np.isfinite(constant).all():
        raise GraphError(f"Constant {key!r} holds NaN or infinity.")


def may_merge(node: Node, graph: Graph) -> str:
    """Empty if HASTE may merge the input channels of ``node``, else the reason why not, in words."""
    if node.op != "conv":
        return f"{node.op}: only convolutions merge"
    weight = graph.constants[node.constants["weight"]]
    _, channels, height, width = weight.shape
    stride, dilation = node.attributes["stride"], node.attributes["dilation"]
    if node.attributes["groups"] > 1:
        depthwise = "depthwise: no sum over channels to merge"
        return depthwise if channels == 1 else "grouped: channels of different groups meet different filters"
    if channels < 2:
        return "one input channel: nothing to merge"
    if height != width:
        return f"kernel {height}x{width} is not square"
    if stride[0] != stride[1]:
        return f"stride {stride[0]}x{stride[1]} is not square"
    if dilation[0] != dilation[1]:
        return f"dilation {dilation[0]}x{dilation[1]} is not square"
    return ""
