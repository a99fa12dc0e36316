"""What the graph's operators become in ONNX, operator set 17: layers and functions of numbers. `RULES` has them all.

The definition is `haste_runtime.reference_ops`. Rules keep to operators that every runtime has, and that the ONNX front
end reads back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from haste_edge.exports.onnx_moving import MOVING
from haste_edge.exports.onnx_writer import Call, OnnxRule
from haste_runtime.attributes import MAX_FLOAT

# --- layers with weights ---------------------------------------------------------------------------------------------


def _conv(c: Call) -> str:
    bias = (c.constant("bias"),) if c.has("bias") else ()
    y = c.step(
        "Conv", c.inputs[0], c.constant("weight"), *bias,
        strides=c["stride"], pads=c["padding"], dilations=c["dilation"], group=c["groups"],
    )  # fmt: skip
    return c.activated(c.step("Add", y, *c.inputs[1:]) if len(c.inputs) == 2 else y)


def _linear(c: Call) -> str:
    bias = (c.constant("bias"),) if c.has("bias") else ()
    return c.activated(c.step("Gemm", c.inputs[0], c.constant("weight"), *bias, transB=1))


def _scale(c: Call) -> str:
    y = c.step("Mul", c.inputs[0], c.per_channel("scale"))
    return c.activated(c.step("Add", y, c.per_channel("shift")))


def _prelu(c: Call) -> str:
    return c.step("PRelu", c.inputs[0], c.per_channel("slope"))


# --- functions of one number and of two ------------------------------------------------------------------------------

BINARY_OPERATORS = {
    "add": "Add", "subtract": "Sub", "multiply": "Mul", "divide": "Div", "minimum": "Min", "maximum": "Max",
}  # fmt: skip


def _add(c: Call) -> str:
    return c.activated(c.step("Add", *c.inputs))


def _binary(c: Call) -> str:
    other = (c.constant("other"),) if c.has("other") else ()
    return c.activated(c.step(BINARY_OPERATORS[c["function"]], *c.inputs, *other))


def _activation(c: Call) -> str:
    return c.activated(c.inputs[0])


def _plain(operation: str) -> Callable[[Call, str], str]:
    return lambda c, x: c.step(operation, x)


def _hard_sigmoid(c: Call, x: str) -> str:
    return c.step("HardSigmoid", x, alpha=float(c["alpha"]), beta=float(c["beta"]))


def _gelu(c: Call, x: str) -> str:
    erf = c.step("Erf", c.step("Mul", x, c.number(math.sqrt(0.5))))
    return c.step("Mul", c.step("Mul", x, c.step("Add", erf, c.number(1))), c.number(0.5))


def _gelu_tanh(c: Call, x: str) -> str:
    cube = c.step("Mul", c.step("Mul", x, x), x)
    inner = c.step("Add", x, c.step("Mul", cube, c.number(0.044715)))
    bent = c.step("Tanh", c.step("Mul", inner, c.number(math.sqrt(2 / math.pi))))
    return c.step("Mul", c.step("Mul", x, c.step("Add", bent, c.number(1))), c.number(0.5))


UNARY_RULES: Mapping[str, Callable[[Call, str], str]] = {
    "leaky_relu": lambda c, x: c.step("LeakyRelu", x, alpha=float(c["alpha"])),
    "elu": lambda c, x: c.step("Elu", x, alpha=float(c["alpha"])),
    "clip": lambda c, x: c.step("Clip", x, c.number(c["alpha"]), c.number(c["beta"])),
    "hard_sigmoid": _hard_sigmoid,
    "hard_swish": lambda c, x: c.step("Mul", x, _hard_sigmoid(c, x)),  # ONNX's own has fixed numbers
    "sigmoid": _plain("Sigmoid"),
    "silu": lambda c, x: c.step("Mul", x, c.step("Sigmoid", x)),
    "tanh": _plain("Tanh"),
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "softplus": _plain("Softplus"),
    "mish": lambda c, x: c.step("Mul", x, c.step("Tanh", c.step("Softplus", x))),
    "exp": _plain("Exp"),
    "sqrt": _plain("Sqrt"),
    "absolute": _plain("Abs"),
    "negative": _plain("Neg"),
    "reciprocal": _plain("Reciprocal"),
}


def _unary(c: Call) -> str:
    return UNARY_RULES[c["function"]](c, c.inputs[0])


# --- windows ---------------------------------------------------------------------------------------------------------


def _max_pool(c: Call) -> str:
    x, (top, left, bottom, right), kernel = c.inputs[0], c["padding"], c["kernel"]
    if max(top, bottom) >= kernel[0] or max(left, right) >= kernel[1]:  # which runtimes refuse
        pads = c.numbers((0, 0, top, left, 0, 0, bottom, right))
        x, top, left, bottom, right = c.step("Pad", x, pads, c.number(-MAX_FLOAT)), 0, 0, 0, 0
    padding = (top, left, bottom, right)
    return c.step("MaxPool", x, kernel_shape=kernel, strides=c["stride"], pads=padding, dilations=c["dilation"])


def _avg_pool(c: Call) -> str:
    return c.step(
        "AveragePool", c.inputs[0],
        kernel_shape=c["kernel"], strides=c["stride"], pads=c["padding"], count_include_pad=c["count_include_pad"],
    )  # fmt: skip


def _adaptive(whole: str, pool: str, reduction: str) -> OnnxRule:
    """Equal windows are a pool; unequal ones are cut out, first rows, then columns. Windows lie as torch has them."""

    def rule(c: Call) -> str:
        x, extents, size = c.inputs[0], c.shapes[0][1:], c["size"]
        if size == (1, 1):
            return c.step(whole, x)
        if all(extent % count == 0 for extent, count in zip(extents, size, strict=True)):
            side = [extent // count for extent, count in zip(extents, size, strict=True)]
            return c.step(pool, x, kernel_shape=side, strides=side)
        for axis, extent, count in zip((2, 3), extents, size, strict=True):
            parts = []
            for i in range(count):
                bounds = i * extent // count, -(-(i + 1) * extent // count)
                part = c.step("Slice", x, c.numbers(bounds[:1]), c.numbers(bounds[1:]), c.numbers([axis]))
                parts.append(c.step(reduction, part, axes=[axis], keepdims=1))
            x = c.step("Concat", *parts, axis=axis)
        return x

    return rule


def _mean(c: Call) -> str:
    return c.step("ReduceMean", c.inputs[0], axes=[2, 3], keepdims=c["keepdim"])


# --- over channels ---------------------------------------------------------------------------------------------------


def _softmax(c: Call) -> str:
    return c.step("Softmax", c.inputs[0], axis=c["axis"] + 1)


def _reduce(c: Call) -> str:
    function, axes = c["function"], [axis + 1 for axis in c["axes"]]
    if function == "sum":
        return c.step("ReduceSum", c.inputs[0], c.numbers(axes), keepdims=1)
    return c.step({"mean": "ReduceMean", "maximum": "ReduceMax", "minimum": "ReduceMin"}[function], c.inputs[0],
                  axes=axes, keepdims=1)  # fmt: skip


def _lrn(c: Call) -> str:
    """Written out where the window is even: ONNX Runtime refuses that."""
    x, size, alpha, beta, bias = c.inputs[0], c["size"], float(c["alpha"]), float(c["beta"]), float(c["bias"])
    if size % 2:
        return c.step("LRN", x, size=size, alpha=alpha, beta=beta, bias=bias)
    channels, before = c.shapes[0][0], (size - 1) // 2
    squares = c.step("Mul", x, x)
    parts = [(max(0, i - before), min(channels, i + size - before)) for i in range(channels)]
    band = [[float(first <= j < stop) for j in range(channels)] for first, stop in parts]
    total = c.step("Conv", squares, c.numbers([[[[w]] for w in row] for row in band], "float32"))
    base = c.step("Add", c.step("Mul", total, c.number(alpha / size)), c.number(bias))
    return c.step("Div", x, c.step("Pow", base, c.number(beta)))


RULES: Mapping[str, OnnxRule] = {
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
    "adaptive_avg_pool": _adaptive("GlobalAveragePool", "AveragePool", "ReduceMean"),
    "adaptive_max_pool": _adaptive("GlobalMaxPool", "MaxPool", "ReduceMax"),
    "mean": _mean,
    "reduce": _reduce,
    "softmax": _softmax,
    "lrn": _lrn,
    **MOVING,
}
