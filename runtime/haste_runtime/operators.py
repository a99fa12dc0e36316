"""The operator table: for each operator its attributes, constants, number of inputs and output shape.

To add an operator: write its shape rule (`haste_runtime.shape_rules`), add one entry to `OPERATORS`, and give each
backend a kernel for it. Shapes are per frame, without the batch: ``(C, H, W)`` for maps, ``(F,)`` for vectors, and up
to `MAX_RANK` axes for what lies between reshapes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from haste_runtime import shape_rules as rules
from haste_runtime.attributes import (
    ACTIVATION,
    AXES,
    AXIS,
    BINARY,
    FLOAT,
    MAX_ELEMENTS,
    MAX_INPUT_RANK,
    MAX_RANK,
    NUMBER,
    PADDING,
    PADS,
    PERMUTATION,
    POSITIVE,
    SHAPE,
    SIZE,
    STARTS,
    STEPS,
    STOPS,
    UNARY,
    WINDOW,
    Attribute,
    integer,
    is_int,
    one_of,
)
from haste_runtime.errors import GraphError
from haste_runtime.graph import Constant, Graph, Node, Shape
from haste_runtime.resampling import PAD_MODES
from haste_runtime.shape_rules import Constants, ShapeRule, fail


class Operator(NamedTuple):
    """One operator: what a node that uses it must look like, and what shape it gives.

    arity: fewest and most inputs. roles: of its constants, and whether each is needed. shape: raises GraphError.
    """

    arity: tuple[int, int]
    attributes: Mapping[str, Attribute]
    shape: ShapeRule
    roles: Mapping[str, bool] = MappingProxyType({})


# --- the table -------------------------------------------------------------------------------------------------------

_MANY = 2**16

OPERATORS: Mapping[str, Operator] = {
    # activation(convolution + bias + residual); the optional second input is the residual
    "conv": Operator(
        (1, 2),
        {
            "stride": STEPS,
            "padding": PADDING,
            "dilation": STEPS,
            "groups": integer(1),
            **ACTIVATION,
        },
        rules.conv,
        {"weight": True, "weight_scale": False, "bias": False},
    ),
    "linear": Operator((1, 1), ACTIVATION, rules.linear, {"weight": True, "weight_scale": False, "bias": False}),
    "scale": Operator((1, 1), ACTIVATION, rules.scale, {"scale": True, "shift": True}),  # per channel
    "add": Operator((2, 2), ACTIVATION, rules.same),
    "activation": Operator((1, 1), ACTIVATION, rules.same),
    "unary": Operator((1, 1), {"function": one_of(*UNARY), "alpha": FLOAT, "beta": FLOAT}, rules.same),
    "prelu": Operator((1, 1), {}, rules.prelu, {"slope": True}),  # where negative, times a slope for each channel
    # activation(function(a, b)); a or b is repeated along axes of length 1, and b may be a constant
    "binary": Operator((1, 2), {"function": one_of(*BINARY), **ACTIVATION}, rules.binary, {"other": False}),
    "max_pool": Operator((1, 1), {**WINDOW, "dilation": STEPS}, rules.pool),  # padding counts as -infinity
    "avg_pool": Operator((1, 1), {**WINDOW, "count_include_pad": one_of(0, 1)}, rules.pool),
    "adaptive_avg_pool": Operator((1, 1), {"size": SIZE}, rules.adaptive_pool),
    "adaptive_max_pool": Operator((1, 1), {"size": SIZE}, rules.adaptive_pool),
    "mean": Operator((1, 1), {"keepdim": one_of(0, 1)}, rules.mean),  # over height and width
    "flatten": Operator((1, 1), {"order": one_of("CHW", "HWC")}, rules.flatten),
    "concat": Operator((2, _MANY), {"axis": AXIS}, rules.concat),
    "pad": Operator((1, 1), {"pads": PADS, "value": NUMBER}, rules.pad),  # before, after of C, H, W
    "slice": Operator((1, 1), {"starts": STARTS, "stops": STOPS, "steps": STOPS}, rules.slice),
    "reshape": Operator((1, 1), {"shape": SHAPE}, rules.reshape),  # the order of the numbers stays
    # axes split into factors, these in another order, and joined again: transposing, shuffling channels and pixels
    "rearrange": Operator((1, 1), {"split": SHAPE, "axes": PERMUTATION, "shape": SHAPE}, rules.rearrange),
    "extend": Operator((1, 1), {"pads": PADDING, "mode": one_of(*PAD_MODES)}, rules.extend),
    "resize": Operator(
        (1, 1),
        {
            "size": SIZE,
            "mode": one_of("nearest", "linear", "cubic"),
            "step_y": POSITIVE,
            "step_x": POSITIVE,
            "coordinates": one_of("half_pixel", "asymmetric"),
            "rounding": one_of("floor", "ceil", "half_down", "half_up"),  # of "nearest"
        },
        rules.resize,
    ),
    "reduce": Operator((1, 1), {"function": one_of("mean", "sum", "maximum", "minimum"), "axes": AXES}, rules.reduce),
    "softmax": Operator((1, 1), {"axis": AXIS}, rules.softmax),
    "lrn": Operator((1, 1), {"size": integer(1), "alpha": FLOAT, "beta": FLOAT, "bias": POSITIVE}, rules.lrn),
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
        raise fail(node, f"takes {wanted} inputs, not {len(input_shapes)}")
    if set(node.attributes) != set(operator.attributes):
        raise fail(node, f"has attributes {sorted(node.attributes)} where {sorted(operator.attributes)} are needed")
    for name, attribute in operator.attributes.items():
        if not attribute.holds(node.attributes[name]):
            raise fail(node, f"attribute {name!r} is {node.attributes[name]!r}, not {attribute.words}")
    for role in constants_by_role:
        if role not in operator.roles:
            raise fail(node, f"has no constant called {role!r}")
    for role, needed in operator.roles.items():
        if needed and role not in constants_by_role:
            raise fail(node, f"needs a constant {role!r}")
    shape = operator.shape(node, input_shapes, constants_by_role)
    if len(shape) > MAX_RANK:
        raise fail(node, f"its output of shape {shape} has more than {MAX_RANK} axes")
    if math.prod(shape) > MAX_ELEMENTS:
        raise fail(node, f"its output of shape {shape} has more than {MAX_ELEMENTS} elements")
    return shape


def check_graph(graph: Graph, numbers: bool = True) -> dict[str, Shape]:
    """Check a whole graph and return the per-frame shape of every value: graph inputs and nodes, by name.

    numbers: look at every constant's; False where that has been done.

    Raises GraphError at the first rule broken: names are unique, nodes come after what they read, every node fits
    its operator, constants are finite float32 or float16 in C order, or int8 weights with a scale, outputs exist.
    """
    shapes: dict[str, Shape] = {}
    for value in graph.inputs:
        if value.name in shapes:
            raise GraphError(f"Two inputs are called {value.name!r}.")
        sizes = all(is_int(extent) and extent >= 1 for extent in value.shape)
        if not sizes or not 1 <= len(value.shape) <= MAX_INPUT_RANK:
            raise GraphError(
                f"Input {value.name!r} has shape {value.shape}.",
                f"It needs 1 to {MAX_INPUT_RANK} sizes, as in (C, H, W).",
            )
        if math.prod(value.shape) > MAX_ELEMENTS:
            raise GraphError(f"Input {value.name!r} of shape {value.shape} has more than {MAX_ELEMENTS} elements.")
        shapes[value.name] = value.shape
    if not graph.inputs or not graph.outputs:
        raise GraphError("A graph needs at least one input and one output.")
    for key, constant in graph.constants.items():
        _check_constant(key, constant, numbers)
    scales: dict[str, str | None] = {}
    for node in graph.nodes:
        if node.name in shapes:
            raise fail(node, "another value has the same name")
        for name in node.inputs:
            if name not in shapes:
                raise fail(node, f"reads {name!r}, which is neither an input nor an earlier node")
        for role, key in node.constants.items():
            if key not in graph.constants:
                raise fail(node, f"its {role} {key!r} is not among the graph's constants")
        by_role = {role: graph.constants[key] for role, key in node.constants.items()}
        _check_storage(node, by_role)
        scale = node.constants.get("weight_scale")
        if "weight" in by_role and scales.setdefault(node.constants["weight"], scale) != scale:
            raise fail(node, f"another node has its weight {node.constants['weight']!r} with another scale")
        shapes[node.name] = infer_shape(node, [shapes[name] for name in node.inputs], by_role)
    for name in graph.outputs:
        if name not in shapes:
            raise GraphError(f"Output {name!r} is neither an input nor a node.")
    if len(set(graph.outputs)) != len(graph.outputs):
        raise GraphError(f"An output is named twice: {', '.join(graph.outputs)}.")
    return shapes


def _check_storage(node: Node, constants: Constants) -> None:
    """Only weights may be int8, and then, and only then, they have a scale."""
    for role, constant in constants.items():
        if constant.dtype == np.int8 and role != "weight":
            raise fail(node, f"its {role} is int8, which only a weight may be")
    if "weight" in constants and (constants["weight"].dtype == np.int8) != ("weight_scale" in constants):
        raise fail(
            node, f"its weight is {constants['weight'].dtype}; weight_scale belongs to int8, and to nothing else"
        )


def _check_constant(key: str, constant: Constant, numbers: bool) -> None:
    if constant.dtype not in (np.float32, np.float16, np.int8):
        raise GraphError(f"Constant {key!r} is {constant.dtype}; float32, float16 or int8 is needed.")
    if constant.size == 0:
        raise GraphError(f"Constant {key!r} is empty: its shape is {constant.shape}.")
    if not constant.flags.c_contiguous:
        raise GraphError(f"Constant {key!r} is not C-contiguous.")
    if not numbers:
        return
    # NaN and infinity come through as least or largest; half precision has no quick least and largest.
    ends = constant if constant.dtype == np.float16 else np.array([constant.min(), constant.max()])
    if not np.isfinite(ends).all():
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


def may_use_winograd(node: Node, graph: Graph) -> str:
    """Empty if Winograd's algorithms F(2x2,3x3) and F(4x4,3x3) can compute ``node``, else the reason why not."""
    if node.op != "conv":
        return f"{node.op}: only convolutions have a choice of algorithm"
    height, width = graph.constants[node.constants["weight"]].shape[2:]
    (sy, sx), (dy, dx) = node.attributes["stride"], node.attributes["dilation"]
    return why_not_winograd((height, width), (sy, sx), (dy, dx), node.attributes["groups"])


def why_not_winograd(kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int], groups: int) -> str:
    """The same of a convolution with these properties."""
    if kernel != (3, 3):
        return f"kernel {kernel[0]}x{kernel[1]} is not 3x3"
    for name, (y, x) in (("stride", stride), ("dilation", dilation)):
        if (y, x) != (1, 1):
            return f"{name} {y}x{x} is not 1x1"
    return f"{groups} groups" if groups > 1 else ""
