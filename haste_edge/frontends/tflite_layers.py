"""What TFLite's layers become in the graph: convolutions, matrix products, pools, reductions, normalisations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from haste_edge.frontends.builder import Builder, Rules
from haste_edge.frontends.elementwise import combine, scale_and_shift
from haste_edge.frontends.refusals import Refused
from haste_edge.frontends.tflite_call import Call
from haste_edge.frontends.tflite_elementwise import activated
from haste_edge.frontends.tflite_shapes import as_map, axis_of
from haste_edge.frontends.transposed_conv import as_convolution
from haste_edge.frontends.values import Argument, Array, Computed, Known
from haste_runtime.attributes import MAX_FLOAT

RULES = Rules[Call]()

Pair = tuple[int, int]

_MOST_WEIGHTS = 2**26  # of one layer
_NO_ACTIVATION = {"activation": "none"}


def _around(call: Call, size: Sequence[int], kernel: Pair, stride: Pair, dilation: Pair) -> tuple[int, int, int, int]:
    """top, left, bottom, right of a window that moves over ``size``; an odd pixel goes after the map."""
    if call.option("Padding") not in (0, 1):
        raise Refused(f"Its padding is number {call.option('Padding')}.", "Only SAME and VALID exist.")
    if call.option("Padding"):  # valid
        return 0, 0, 0, 0
    before, after = [], []
    for extent, step, taps, gap in zip(size, stride, kernel, dilation, strict=True):
        total = max((-(-extent // step) - 1) * step + (taps - 1) * gap + 1 - extent, 0)
        before.append(total // 2)
        after.append(total - total // 2)
    return before[0], before[1], after[0], after[1]


def _float(c: Builder, value: Argument | None, what: str, axes: int) -> Array:
    array = c.known(value, what).array
    if array.dtype != np.float32:
        raise Refused(
            f"Its {what} is {array.dtype}.", "Give the float model; --dtype int8 or fp16 makes its weights small."
        )
    if array.ndim != axes:
        raise Refused(f"Its {what} has shape {array.shape}.", "Convert the model again.")
    return array


def _bias(c: Builder, value: Argument | None) -> Known | None:
    return None if value is None else Known(_float(c, value, "bias", 1))


def _pair(call: Call, *names: str) -> Pair:
    """(y, x)"""
    y, x = call.positive(*names)
    return y, x


# --- layers with weights ---------------------------------------------------------------------------------------------


@RULES("CONV_2D", "DEPTHWISE_CONV_2D")
def _conv(c: Builder, call: Call) -> Computed:
    """Weights are (O, Kh, Kw, C / groups), or of a depthwise one (1, Kh, Kw, C * multiplier)."""
    x, weight = as_map(c, call.input(0)), _float(c, call.input(1), "weight", 4)
    height, width, channels = x.shape
    if call.operation == "CONV_2D":
        weight = weight.transpose(0, 3, 1, 2)
        groups = channels // max(1, weight.shape[1])
    else:
        weight, groups = weight.transpose(3, 0, 1, 2), channels
    kernel, stride = (weight.shape[2], weight.shape[3]), _pair(call, "StrideH", "StrideW")
    dilation = _pair(call, "DilationHFactor", "DilationWFactor")
    attributes = {
        "stride": stride,
        "padding": _around(call, (height, width), kernel, stride, dilation),
        "dilation": dilation,
        "groups": groups,
        **_NO_ACTIVATION,
    }
    constants = {"weight": Known(weight), "bias": _bias(c, call.input(2))}
    return activated(c, call, c.emit(call, "conv", [x.name], attributes, constants, like=x))


@RULES("TRANSPOSE_CONV")
def _transposed_conv(c: Builder, call: Call) -> Computed:
    """Weights are (O, Kh, Kw, C). The padding is that of the convolution which goes the other way."""
    weight, x, size = _float(c, call.input(1), "weight", 4), as_map(c, call.input(2)), call.shape[:2]
    kernel, stride = (weight.shape[1], weight.shape[2]), _pair(call, "StrideH", "StrideW")
    if len(call.shape) != 3 or weight.shape[3] != x.shape[2]:
        raise Refused(f"Its weight of {weight.shape} does not fit a frame of {x.shape}.", "Convert the model again.")
    padding = _around(call, size, kernel, stride, (1, 1))
    extra = [
        new - ((old - 1) * step + taps - padding[axis] - padding[axis + 2])
        for axis, (new, old, step, taps) in enumerate(zip(size, x.shape[:2], stride, kernel, strict=True))
    ]
    taps = [-(-taps // step) * step for taps, step in zip(kernel, stride, strict=True)]
    if math.prod((*taps, *weight.shape[::3])) > _MOST_WEIGHTS:
        raise Refused(f"Its stride of {stride} is far larger than its kernel.", "Use a resize instead.")
    made = as_convolution(
        weight.transpose(3, 0, 1, 2), (x.shape[0], x.shape[1]), stride, padding, (extra[0], extra[1]), (1, 1), 1
    )
    if made is None:
        raise Refused("Its padding is wider than its kernel.", "Use less padding.")
    bias = _bias(c, call.input(3))
    constants = {"weight": Known(made.weight), "bias": bias and Known(np.repeat(bias.array, made.phases))}
    y = c.emit(call.step("phases"), "conv", [x.name], made.convolution, constants, result=None)
    y = c.emit(call.step("shuffle"), "rearrange", [y.name], made.shuffle, result=None)
    return activated(c, call, c.emit(call, "slice", [y.name], made.crop, like=x))


@RULES("FULLY_CONNECTED")
def _fully_connected(c: Builder, call: Call) -> Computed:
    """Weights are (O, F). A frame's vector, or each of the vectors along its last axis, is multiplied."""
    x, weight, bias = c.computed(call.input(0)), _float(c, call.input(1), "weight", 2), _bias(c, call.input(2))
    if call.option("WeightsFormat"):
        raise Refused("Its weights are shuffled.", "Convert the model again.")
    features = weight.shape[1]
    if math.prod(x.shape) == features and len(call.shape) == 1:
        vector = c.vector(replace(x, shape=(features,)))
        y = c.emit(call, "linear", [vector], _NO_ACTIVATION, {"weight": Known(weight), "bias": bias})
        return activated(c, call, y)
    if not x.shape or x.shape[-1] != features:
        raise Refused(f"It multiplies a frame of {x.shape} by {weight.shape}.", "Flatten or average the map before it.")
    rows = as_map(c, x if len(x.shape) == 3 else replace(x, shape=(math.prod(x.shape[:-1]), 1, features)))
    attributes = {"stride": (1, 1), "padding": (0,) * 4, "dilation": (1, 1), "groups": 1, **_NO_ACTIVATION}
    constants = {"weight": Known(weight[:, :, None, None]), "bias": bias}
    y = c.emit(call, "conv", [rows.name], attributes, constants, like=rows, result=None)
    return activated(c, call, replace(y, shape=call.shape))


# --- pools and reductions --------------------------------------------------------------------------------------------


def _window(c: Builder, call: Call) -> tuple[Computed, dict[str, Any]]:
    """The map, and what every pool needs to know."""
    x, stride = as_map(c, call.input(0)), _pair(call, "StrideH", "StrideW")
    kernel = _pair(call, "FilterHeight", "FilterWidth")
    padding = _around(call, x.shape[:2], kernel, stride, (1, 1))
    return x, {"kernel": kernel, "stride": stride, "padding": padding}


@RULES("MAX_POOL_2D")
def _max_pool(c: Builder, call: Call) -> Computed:
    x, window = _window(c, call)
    return activated(c, call, c.emit(call, "max_pool", [x.name], {**window, "dilation": (1, 1)}, like=x))


@RULES("AVERAGE_POOL_2D")
def _average_pool(c: Builder, call: Call) -> Computed:
    x, window = _window(c, call)
    return activated(c, call, c.emit(call, "avg_pool", [x.name], {**window, "count_include_pad": 0}, like=x))


@RULES("MEAN")
def _mean(c: Builder, call: Call) -> Computed:
    x = c.unreshaped(c.computed(call.input(0)))
    if len(x.shape) != 3 or _axes(call, x) != (1, 2):
        return _reduced(c, call, x, "mean")
    y = c.emit(call, "mean", [x.name], {"keepdim": 1}, like=x, result=None)
    return replace(y, shape=call.shape)


_REDUCTIONS = {"SUM": "sum", "REDUCE_MAX": "maximum", "REDUCE_MIN": "minimum"}


@RULES(*_REDUCTIONS)
def _reduce(c: Builder, call: Call) -> Computed:
    return _reduced(c, call, c.unreshaped(c.computed(call.input(0))), _REDUCTIONS[call.operation])


def _reduced(c: Builder, call: Call, x: Computed, function: str) -> Computed:
    axes = _axes(call, x)
    if not axes:
        return x
    y = c.emit(call, "reduce", [x.name], {"function": function, "axes": axes}, like=x, result=None)
    return replace(y, shape=call.shape)  # which may lack the axes of length 1


def _axes(call: Call, x: Computed) -> tuple[int, ...]:
    """Along which the value's numbers, as they lie, are reduced."""
    return tuple(sorted({x.order[axis_of(axis, len(x.shape) + 1)] for axis in call.numbers(1, "axes")}))


# --- normalisations --------------------------------------------------------------------------------------------------


@RULES("SOFTMAX")
def _softmax(c: Builder, call: Call) -> Computed:
    """Along the last axis."""
    x, beta = c.unreshaped(c.computed(call.input(0))), float(call.option("Beta", 0.0))
    if not x.shape:
        raise Refused("It has no axis but the batch.", "Each frame must be computed on its own.")
    if beta != 1:
        factor = np.full(c.shapes[x.name][:1], beta)
        constants = scale_and_shift(factor, np.zeros_like(factor))
        x = c.emit(call.step("beta"), "scale", [x.name], _NO_ACTIVATION, constants, like=x)
    return c.emit(call, "softmax", [x.name], {"axis": x.order[-1]}, like=x)


@RULES("LOCAL_RESPONSE_NORMALIZATION")
def _lrn(c: Builder, call: Call) -> Computed:
    """x / (bias + alpha * sum of squares)^beta, over the channels up to ``radius`` away."""
    x, size = as_map(c, call.input(0)), 2 * int(call.option("Radius")) + 1
    alpha, beta, bias = (float(call.option(name, 0.0)) for name in ("Alpha", "Beta", "Bias"))
    attributes = {"size": size, "alpha": alpha * size, "beta": beta, "bias": bias}
    return c.emit(call, "lrn", [x.name], attributes, like=x)


@RULES("L2_NORMALIZATION")
def _l2_normalisation(c: Builder, call: Call) -> Computed:
    """x / max(root of the sum of squares, 1e-6), along the last axis."""
    x = c.unreshaped(c.computed(call.input(0)))
    if not x.shape:
        raise Refused("It has no axis but the batch.", "Each frame must be computed on its own.")
    total = combine(c, call.step("squares"), "multiply", x, x)
    steps: tuple[tuple[str, dict[str, Any]], ...] = (
        ("reduce", {"function": "sum", "axes": (x.order[-1],)}),
        ("unary", {"function": "sqrt", "alpha": 0.0, "beta": 0.0}),
        ("unary", {"function": "clip", "alpha": 1e-6, "beta": MAX_FLOAT}),
    )
    for op, attributes in steps:
        total = c.emit(call.step(attributes["function"]), op, [total.name], attributes, like=total, result=None)
    return activated(c, call, combine(c, call, "divide", x, total))
