"""What the graph's operators become in TFLite: layers and functions of numbers. `RULES` has them all.

The definition is `haste_runtime.reference_ops`. Rules keep to built-in operations; what those cannot say is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from haste_edge.exports.tflite_builder import NONE, RELU6, SAME, VALID
from haste_edge.exports.tflite_moving import MOVING, bordered, part, turned
from haste_edge.exports.tflite_writer import Call, TfliteRule, place, same_or_valid, stored
from haste_edge.frontends.refusals import Refused
from haste_runtime.attributes import MAX_FLOAT
from haste_runtime.graph import Shape

ANY_RANK = ("reshape", "rearrange", "flatten")  # they look at the order of the numbers alone

_PADDING = {"SAME": SAME, "VALID": VALID}

# --- layers with weights ---------------------------------------------------------------------------------------------


def _steps(c: Call) -> dict[str, Any]:
    (sy, sx), (dy, dx) = c["stride"], c["dilation"]
    return {"StrideH": sy, "StrideW": sx, "DilationHFactor": dy, "DilationWFactor": dx}


def _conv(c: Call) -> int:
    """A residual is an addition of its own, which then has the activation. LiteRT wants a bias."""
    weight_shape = c.writer.graph.constants[c.node.constants["weight"]].shape
    filters, own, *kernel = weight_shape
    channels, *extents = c.shapes[0]
    reach = [(taps - 1) * gap + 1 for taps, gap in zip(kernel, c["dilation"], strict=True)]
    how, pads = same_or_valid(extents, c.shape[1:], reach, c["stride"], c["padding"])
    x = c.inputs[0] if how else bordered(c, c.inputs[0], c.shapes[0], pads)
    bias = c.constant("bias") if c.has("bias") else c.numbers(np.zeros(filters))
    fields: dict[str, Any] = {"Padding": _PADDING[how or "VALID"], **_steps(c)}
    fields |= c.end if len(c.inputs) == 1 else {"FusedActivationFunction": NONE}
    if own == 1 and c["groups"] == channels > 1:
        weight = c.constant("weight", (1, 2, 3, 0))
        version = 2 if max(c["dilation"]) > 1 else 1
        multiplier = filters // channels
        y = c.step("DEPTHWISE_CONV_2D", x, weight, bias, version=version, DepthMultiplier=multiplier, **fields)
    else:
        y = c.step("CONV_2D", x, c.constant("weight", (0, 2, 3, 1)), bias, **fields)
    return c.step("ADD", y, c.inputs[1], **c.end) if len(c.inputs) == 2 else y


def _linear(c: Call) -> int:
    bias = c.constant("bias") if c.has("bias") else -1
    return c.step("FULLY_CONNECTED", c.inputs[0], c.constant("weight"), bias, **c.end)


def _scale(c: Call) -> int:
    y = c.step("MUL", c.inputs[0], c.per_channel("scale"))
    return c.step("ADD", y, c.per_channel("shift"), **c.end)


def _prelu(c: Call) -> int:
    channels, *others = c.shapes[0]
    shape = (1, 1, channels) if len(others) == 2 else (channels, *(1,) * len(others))
    return c.step("PRELU", c.inputs[0], c.constant("slope", shape=shape))


# --- functions of one number and of two ------------------------------------------------------------------------------

BINARY_OPERATIONS = {
    "add": "ADD", "subtract": "SUB", "multiply": "MUL", "divide": "DIV", "minimum": "MINIMUM", "maximum": "MAXIMUM",
}  # fmt: skip


def _add(c: Call) -> int:
    return c.step("ADD", *c.inputs, **c.end)


def _binary(c: Call) -> int:
    operation = BINARY_OPERATIONS[c["function"]]
    operands = (*c.inputs, *((c.like_a_value("other"),) if c.has("other") else ()))
    if c["function"] in ("minimum", "maximum"):
        return c.activated(c.step(operation, *operands))
    return c.step(operation, *operands, **c.end)


def _activation(c: Call) -> int:
    return c.activated(c.inputs[0])


def _plain(operation: str) -> Callable[[Call, int], int]:
    return lambda c, x: c.step(operation, x)


def _with(operation: str) -> Callable[[Call, int, float], int]:
    return lambda c, x, number: c.step(operation, x, c.numbers(number))


_plus, _times, _at_least, _at_most = map(_with, ("ADD", "MUL", "MAXIMUM", "MINIMUM"))


def _clip(c: Call, x: int) -> int:
    low, high = float(c["alpha"]), float(c["beta"])
    if low == 0 and high in (6, MAX_FLOAT):
        return c.step("RELU6" if high == 6 else "RELU", x)
    if (low, high) == (-1, 1):
        return c.step("RELU_N1_TO_1", x)
    y = x if low == -MAX_FLOAT else _at_least(c, x, low)
    return _at_most(c, y, high) if high != MAX_FLOAT or y == x else y


def _elu(c: Call, x: int) -> int:
    """TFLite's own has an alpha of 1."""
    alpha = float(c["alpha"])
    if alpha == 1:
        return c.step("ELU", x)
    below = _times(c, c.step("ELU", _at_most(c, x, 0)), alpha)
    return c.step("ADD", c.step("RELU", x), below)


def _hard_sigmoid(c: Call, x: int) -> int:
    """min(max(alpha x + beta, 0), 1), as a sixth of a ReLU6."""
    y = _times(c, x, 6 * float(c["alpha"])) if not math.isclose(c["alpha"], 1 / 6, rel_tol=1e-6) else x
    y = c.step("ADD", y, c.numbers(6 * float(c["beta"])), FusedActivationFunction=RELU6)
    return _times(c, y, 1 / 6)


def _hard_swish(c: Call, x: int) -> int:
    """TFLite's own has an alpha of 1/6 and a beta of 1/2."""
    if math.isclose(c["alpha"], 1 / 6, rel_tol=1e-6) and c["beta"] == 0.5:
        return c.step("HARD_SWISH", x)
    return c.step("MUL", x, _hard_sigmoid(c, x))


def _softplus(c: Call, x: int) -> int:
    """max(x, 0) + log(1 + e^-|x|)"""
    small = c.step("EXP", c.step("NEG", c.step("ABS", x)))
    return c.step("ADD", c.step("RELU", x), c.step("LOG", _plus(c, small, 1)))


def _mish(c: Call, x: int) -> int:
    """x tanh(log(1 + e^x)) is x n / (n + 2) with n = e^x (e^x + 2), and x where x is large."""
    power = c.step("EXP", _at_most(c, x, 20))
    n = c.step("MUL", power, _plus(c, power, 2))
    return c.step("MUL", x, c.step("DIV", n, _plus(c, n, 2)))


UNARY_RULES: Mapping[str, Callable[[Call, int], int]] = {
    "leaky_relu": lambda c, x: c.step("LEAKY_RELU", x, Alpha=float(c["alpha"])),
    "elu": _elu,
    "clip": _clip,
    "hard_sigmoid": _hard_sigmoid,
    "hard_swish": _hard_swish,
    "sigmoid": _plain("LOGISTIC"),
    "silu": lambda c, x: c.step("MUL", x, c.step("LOGISTIC", x)),
    "tanh": _plain("TANH"),
    "gelu": lambda c, x: c.step("GELU", x, Approximate=False),
    "gelu_tanh": lambda c, x: c.step("GELU", x, Approximate=True),
    "softplus": _softplus,
    "mish": _mish,
    "exp": _plain("EXP"),
    "sqrt": _plain("SQRT"),
    "absolute": _plain("ABS"),
    "negative": _plain("NEG"),
    "reciprocal": lambda c, x: c.step("DIV", c.numbers(1), x),
}


def _unary(c: Call) -> int:
    return UNARY_RULES[c["function"]](c, c.inputs[0])


# --- windows ---------------------------------------------------------------------------------------------------------


def _window(c: Call, how: str) -> dict[str, Any]:
    (height, width), (sy, sx) = c["kernel"], c["stride"]
    return {
        "FilterHeight": height, "FilterWidth": width, "StrideH": sy, "StrideW": sx, "Padding": _PADDING[how or "VALID"]
    }  # fmt: skip


def _max_pool(c: Call) -> int:
    if any(gap > 1 and taps > 1 for gap, taps in zip(c["dilation"], c["kernel"], strict=True)):
        raise Refused("It is a max-pool with a dilation, which TFLite does not have.")
    x, extents = c.inputs[0], c.shapes[0][1:]
    how, pads = same_or_valid(extents, c.shape[1:], c["kernel"], c["stride"], c["padding"])
    if not how:
        x = bordered(c, x, c.shapes[0], pads, -MAX_FLOAT)
    return c.step("MAX_POOL_2D", x, **_window(c, how))


def _avg_pool(c: Call) -> int:
    """TFLite counts the pixels of the map alone; those of zeros around it are pixels of a map."""
    x, extents, kernel, stride = c.inputs[0], c.shapes[0][1:], c["kernel"], c["stride"]
    how, pads = same_or_valid(extents, c.shape[1:], kernel, stride, c["padding"])
    counted = bool(c["count_include_pad"])
    if how == "VALID" or (how and not counted):
        return c.step("AVERAGE_POOL_2D", x, **_window(c, how))
    y = c.step("AVERAGE_POOL_2D", bordered(c, x, c.shapes[0], pads), **_window(c, "VALID"))
    if counted:
        return y
    rows, columns = (
        [min(i * step + taps, before + extent) - max(i * step, before) for i in range(count)]
        for count, step, taps, before, extent in zip(c.shape[1:], stride, kernel, pads[:2], extents, strict=True)
    )
    share = kernel[0] * kernel[1] / np.outer(rows, columns)
    return c.step("MUL", y, c.numbers(share[np.newaxis, :, :, np.newaxis]))


def _adaptive(pool: str, reduction: str) -> TfliteRule:
    """Equal windows are a pool; unequal ones are cut out, first rows, then columns. Windows lie as torch has them."""

    def rule(c: Call) -> int:
        x, (channels, *extents), size = c.inputs[0], c.shapes[0], c["size"]
        if size == (1, 1):
            return c.step(reduction, x, c.ints(1, 2), KeepDims=True)
        if all(extent % count == 0 for extent, count in zip(extents, size, strict=True)):
            height, width = (extent // count for extent, count in zip(extents, size, strict=True))
            window = {"FilterHeight": height, "FilterWidth": width, "StrideH": height, "StrideW": width}
            return c.step(pool, x, Padding=VALID, **window)
        shape: Shape = (1, *extents, channels)
        for axis, count in zip((1, 2), size, strict=True):
            parts, extent = [], shape[axis]
            one = (*shape[:axis], 1, *shape[axis + 1 :])
            for i in range(count):
                window_ = part(c, x, shape, axis, i * extent // count, -(-(i + 1) * extent // count))
                parts.append(c.step(reduction, window_, c.ints(axis), shape=one, KeepDims=True))
            shape = (*shape[:axis], count, *shape[axis + 1 :])
            x = c.step("CONCATENATION", *parts, shape=shape, Axis=axis) if count > 1 else parts[0]
        return x

    return rule


def _mean(c: Call) -> int:
    return c.step("MEAN", c.inputs[0], c.ints(1, 2), KeepDims=bool(c["keepdim"]))


# --- over channels ---------------------------------------------------------------------------------------------------

_REDUCTIONS = {"mean": "MEAN", "sum": "SUM", "maximum": "REDUCE_MAX", "minimum": "REDUCE_MIN"}


def _reduce(c: Call) -> int:
    axes = sorted(place(axis, len(c.shapes[0])) for axis in c["axes"])
    return c.step(_REDUCTIONS[c["function"]], c.inputs[0], c.ints(*axes), KeepDims=True)


def _softmax(c: Call) -> int:
    """TFLite's is along the last axis."""
    x, shape, axis = c.inputs[0], stored(c.shape), place(c["axis"], len(c.shape))
    if axis == len(shape) - 1:
        return c.step("SOFTMAX", x, Beta=1.0)
    order = [*(other for other in range(len(shape)) if other != axis), axis]
    x, lying = turned(c, x, shape, order)
    x = c.step("SOFTMAX", x, shape=lying, Beta=1.0)
    return turned(c, x, lying, [order.index(number) for number in range(len(order))])[0]


def _lrn(c: Call) -> int:
    size = c["size"]
    if size % 2 == 0:
        raise Refused(f"It normalises over {size} channels; TFLite does over an odd number.")
    fields = {
        "Radius": size // 2,
        "Bias": float(c["bias"]),
        "Alpha": float(c["alpha"]) / size,
        "Beta": float(c["beta"]),
    }
    return c.step("LOCAL_RESPONSE_NORMALIZATION", c.inputs[0], **fields)


RULES: Mapping[str, TfliteRule] = {
    "conv": _conv,
    "linear": _linear,
    "scale": _scale,
    "add": _add,
    "activation": _activation,
    "unary": _unary,
    "prelu": _prelu,
    "binary": _binary,
    "max_pool": _max_pool,
    "avg_pool": _avg_pool,
    "adaptive_avg_pool": _adaptive("AVERAGE_POOL_2D", "MEAN"),
    "adaptive_max_pool": _adaptive("MAX_POOL_2D", "REDUCE_MAX"),
    "mean": _mean,
    "reduce": _reduce,
    "softmax": _softmax,
    "lrn": _lrn,
    **MOVING,
}
