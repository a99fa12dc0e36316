"""What ATen's functions of one number and of two become in the graph."""

from __future__ import annotations

from math import inf

import numpy as np
import torch

from haste_edge.frontends.aten import Argument, Call, Computed, Converter, Known, Rules
from haste_edge.frontends.formulas import BROADCAST, SELU, as_scale, bounds, in_frame, per_channel, plain_elu, power
from haste_edge.frontends.refusals import Refused
from haste_edge.frontends.values import Array

RULES = Rules()


def _activation(c: Converter, call: Call, kind: str) -> Computed:
    return c.emit(call, "activation", [c.value(call["self"])], {"activation": kind}, label=kind)


@RULES("relu.default")
def _relu(c: Converter, call: Call) -> Computed:
    return _activation(c, call, "relu")


@RULES("relu6.default")
def _relu6(c: Converter, call: Call) -> Computed:
    return _activation(c, call, "relu6")


def _unary(c: Converter, call: Call, function: str, alpha: float = 0.0, beta: float = 0.0) -> Computed:
    return unary(c, call, call["self"], function, alpha, beta)


def unary(c: Converter, call: Call, x: Argument, function: str, alpha: float = 0.0, beta: float = 0.0) -> Computed:
    """One node that applies `haste_runtime.reference_elementwise.unary` to a value of the call's shape."""
    attributes = {"function": function, "alpha": float(alpha), "beta": float(beta)}
    return c.emit(call, "unary", [c.value(x)], attributes, label=function)


@RULES("hardtanh.default", "clamp.default", "clamp_min.default", "clamp_max.default")
def _clamp(c: Converter, call: Call) -> Computed:
    given = call.get("min_val", call.get("min")), call.get("max_val", call.get("max"))
    kind, low, high = bounds(*(end if bound is None else bound for bound, end in zip(given, (-inf, inf), strict=True)))
    return _unary(c, call, kind, low, high) if kind == "clip" else _activation(c, call, kind)


_PLAIN = {  # ATen's name -> ours, where there is nothing more to it
    "sigmoid": "sigmoid",
    "silu": "silu",
    "tanh": "tanh",
    "mish": "mish",
    "exp": "exp",
    "sqrt": "sqrt",
    "abs": "absolute",
    "neg": "negative",
    "reciprocal": "reciprocal",
}


@RULES(*(f"{name}.default" for name in _PLAIN))
def _plain(c: Converter, call: Call) -> Computed:
    return _unary(c, call, _PLAIN[call.operation.split(".")[0]])


@RULES("hardsigmoid.default", "hardswish.default")
def _hard(c: Converter, call: Call) -> Computed:
    return _unary(c, call, "hard_sigmoid" if call.operation.startswith("hardsigmoid") else "hard_swish", 1 / 6, 0.5)


@RULES("leaky_relu.default")
def _leaky_relu(c: Converter, call: Call) -> Computed:
    return _unary(c, call, "leaky_relu", call["negative_slope"])


@RULES("gelu.default")
def _gelu(c: Converter, call: Call) -> Computed:
    return _unary(c, call, "gelu_tanh" if call["approximate"] == "tanh" else "gelu")


@RULES("elu.default", "celu.default", "selu.default")
def _elu(c: Converter, call: Call) -> Computed:
    if call.operation.startswith("selu"):
        alpha, scale = SELU
    else:
        celu, scale = call.operation.startswith("celu"), call.get("scale", 1)
        alpha = plain_elu(celu, call["alpha"], call.get("input_scale", 1))
    y = _unary(c, call, "elu", alpha)
    if scale == 1:
        return y
    factor = torch.full(call.shape[:1], scale, dtype=torch.float64)
    return emit_scale(c, call, y, Known(factor), Known(torch.zeros_like(factor)))


@RULES("softplus.default")
def _softplus(c: Converter, call: Call) -> Computed:
    if call["beta"] != 1 or call["threshold"] < 15:  # above 15 log(1 + e^x) and x differ by less than float32 can tell
        raise Refused(f"Its beta is {call['beta']} and its threshold {call['threshold']}.", "Use 1 and 20.")
    return _unary(c, call, "softplus")


@RULES("threshold.default")
def _threshold(c: Converter, call: Call) -> Computed:
    if call["threshold"] != 0 or call["value"] != 0:
        raise Refused("It is a threshold with a jump.", "Use ReLU.")
    return _activation(c, call, "relu")


@RULES("prelu.default")
def _prelu(c: Converter, call: Call) -> Computed:
    slope = c.known(call["weight"], "weight")
    if slope.tensor.numel() == 1:
        return _unary(c, call, "leaky_relu", float(slope.tensor))
    return c.emit(call, "prelu", [c.value(call["self"])], {}, {"slope": slope})


@RULES("square.default", "rsqrt.default", "pow.Tensor_Scalar")
def _power(c: Converter, call: Call) -> Computed:
    exponent = call.get("exponent", 2 if call.operation.startswith("square") else -0.5)
    x = y = call["self"]
    for function in power(exponent):
        y = _combine(c, call, "multiply", y, x) if function == "multiply" else unary(c, call, y, function)
    return Computed(y.name, y.shape)


# --- two operands ----------------------------------------------------------------------------------------------------


def emit_scale(c: Converter, call: Call, x: Argument, scale: Known, shift: Known) -> Computed:
    return c.emit(call, "scale", [c.value(x)], {"activation": "none"}, {"scale": scale, "shift": shift})


def _combine(c: Converter, call: Call, function: str, x: Argument, other: Argument) -> Computed:
    """x function other, of a computed value with another or with a constant."""
    attributes = {"function": function, "activation": "none"}
    if isinstance(other, Computed):
        if len(x.shape) != len(other.shape):
            raise Refused(f"It combines values of per-frame shapes {x.shape} and {other.shape}.", BROADCAST)
        return c.emit(call, "binary", [c.value(x), c.value(other)], attributes, label=function)
    tensor = other.tensor if isinstance(other, Known) else torch.tensor(float(other))
    extents = in_frame(x.shape, tuple(tensor.shape))
    key = other.key if isinstance(other, Known) else ""
    return c.emit(
        call, "binary", [c.value(x)], attributes, {"other": Known(tensor.reshape(extents), key)}, label=function
    )


_FUNCTIONS = {"add": "add", "sub": "subtract", "mul": "multiply", "div": "divide"}


@RULES(*(f"{kind}.{other}" for kind in ("add", "sub", "rsub", "mul", "div") for other in ("Tensor", "Scalar")))
def _arithmetic(c: Converter, call: Call) -> Computed:
    """Two values, or a value and a constant; a constant per channel becomes a scale, which can be folded."""
    kind, a, b = call.operation.split(".")[0], call["self"], call["other"]
    if kind == "rsub":
        kind, a, b = "sub", b, a
    factor = call.get("alpha", 1)
    if isinstance(a, Computed) and isinstance(b, Computed):
        if factor != 1:
            raise Refused("It multiplies the second operand by alpha.", "Write the product as an operation of its own.")
        if kind == "add" and a.shape == b.shape:
            return c.emit(call, "add", [c.value(a), c.value(b)], {"activation": "none"})
        return _combine(c, call, _FUNCTIONS[kind], a, b)
    x, constant = (a, b) if isinstance(a, Computed) else (b, a)
    if kind == "div" and x is b:
        x, kind = unary(c, call, x, "reciprocal"), "mul"
    number = _per_channel(call, constant) if x.shape == call.shape else None
    sign = -factor if kind == "sub" else factor
    if number is None:
        value = constant.tensor.double() * (sign if x is a and kind in ("add", "sub") else 1)
        if x is b and sign != 1:
            ones = torch.full(x.shape[:1], float(sign), dtype=torch.float64)
            x = _scaled(c, call, x, ones)
        function = {"mul": "multiply", "div": "divide"}.get(kind, "add")
        return _combine(c, call, function, x, Known(value, constant.key if sign == 1 or kind in ("mul", "div") else ""))
    scale, shift = as_scale(_FUNCTIONS[kind], number, x is a, factor)
    return emit_scale(c, call, x, Known(torch.tensor(scale)), Known(torch.tensor(shift)))


def _scaled(c: Converter, call: Call, x: Computed, factor: torch.Tensor) -> Computed:
    constants = {"scale": Known(factor), "shift": Known(torch.zeros_like(factor))}
    return c.make(call, "scale", [c.value(x)], {"activation": "none"}, constants)


def _per_channel(call: Call, constant: Argument) -> Array | None:
    """A constant that is broadcast over a frame, as one float64 number per channel; None if it takes more."""
    array = constant.tensor.double().numpy() if isinstance(constant, Known) else np.array(float(constant))
    return per_channel(array, call.shape, call.shape[0])


_EXTREMES = {"maximum.default": "maximum", "minimum.default": "minimum", "max.other": "maximum", "min.other": "minimum"}


@RULES(*_EXTREMES)
def _extreme(c: Converter, call: Call) -> Computed:
    a, b = call["self"], call["other"]
    return _combine(c, call, _EXTREMES[call.operation], *((a, b) if isinstance(a, Computed) else (b, a)))
