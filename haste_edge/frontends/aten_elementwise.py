"""What ATen's functions of one number and of two become in the graph."""

from __future__ import annotations

import math

import torch

from haste_edge.frontends.aten import Argument, Call, Computed, Converter, Known, Rules
from haste_edge.frontends.refusals import Refused
from haste_runtime.attributes import MAX_FLOAT

RULES = Rules()

_BROADCAST = "Write it with operands of as many axes, in which each axis is as long as the other's, or 1."


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
    low, high = call.get("min_val", call.get("min")), call.get("max_val", call.get("max"))
    if low == 0 and high in (6, None, math.inf):
        return _activation(c, call, "relu6" if high == 6 else "relu")
    bounds = [MAX_FLOAT if bound is None else float(bound) for bound in (low, high)]
    return _unary(c, call, "clip", max(-bounds[0] if low is None else bounds[0], -MAX_FLOAT), min(bounds[1], MAX_FLOAT))


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
        alpha, scale = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946
    else:
        alpha, scale = call["alpha"], call.get("scale", 1)
    if call.get("input_scale", 1) != 1 or (call.operation.startswith("celu") and alpha != 1):
        raise Refused("It scales its input.", "Use ELU, which does not.")
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
    x = call["self"]
    if exponent in (0.5, -0.5):
        x = _unary(c, call, "sqrt")
    if exponent in (-1, -0.5):
        return unary(c, call, x, "reciprocal")
    if exponent in (1, 0.5):
        return Computed(x.name, x.shape)
    if exponent in (2, 3):
        y = _combine(c, call, "multiply", x, x)
        return y if exponent == 2 else _combine(c, call, "multiply", y, x)
    raise Refused(f"It raises to the power {exponent}.", "Only -1, -1/2, 1/2, 1, 2 and 3 can be compiled.")


# --- two operands ----------------------------------------------------------------------------------------------------


def emit_scale(c: Converter, call: Call, x: Argument, scale: Known, shift: Known) -> Computed:
    return c.emit(call, "scale", [c.value(x)], {"activation": "none"}, {"scale": scale, "shift": shift})


def _combine(c: Converter, call: Call, function: str, x: Argument, other: Argument) -> Computed:
    """x function other, of a computed value with another or with a constant."""
    attributes = {"function": function, "activation": "none"}
    if isinstance(other, Computed):
        if len(x.shape) != len(other.shape):
            raise Refused(f"It combines values of per-frame shapes {x.shape} and {other.shape}.", _BROADCAST)
        return c.emit(call, "binary", [c.value(x), c.value(other)], attributes, label=function)
    tensor = other.tensor if isinstance(other, Known) else torch.tensor(float(other))
    extents = (1,) * (len(x.shape) + 1 - tensor.dim()) + tuple(tensor.shape)
    if len(extents) != len(x.shape) + 1 or extents[0] != 1:
        raise Refused(f"It combines a frame of shape {x.shape} with a constant of {tuple(tensor.shape)}.", _BROADCAST)
    key = other.key if isinstance(other, Known) else ""
    return c.emit(
        call, "binary", [c.value(x)], attributes, {"other": Known(tensor.reshape(extents[1:]), key)}, label=function
    )


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
        names = {"add": "add", "sub": "subtract", "mul": "multiply", "div": "divide"}
        return _combine(c, call, names[kind], a, b)
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
    one, zero = torch.ones_like(number), torch.zeros_like(number)
    if kind in ("add", "sub"):  # a + factor * b
        scale, shift = (one, sign * number) if x is a else (sign * one, number)
    else:
        scale, shift = (number if kind == "mul" else 1 / number), zero
    return emit_scale(c, call, x, Known(scale), Known(shift))


def _scaled(c: Converter, call: Call, x: Computed, factor: torch.Tensor) -> Computed:
    constants = {"scale": Known(factor), "shift": Known(torch.zeros_like(factor))}
    return c.make(call, "scale", [c.value(x)], {"activation": "none"}, constants)


def _per_channel(call: Call, constant: Argument) -> torch.Tensor | None:
    """A constant that is broadcast over a frame, as one float64 number per channel; None if it takes more."""
    tensor = constant.tensor.double() if isinstance(constant, Known) else torch.tensor(float(constant)).double()
    channels, rank = call.shape[0], len(call.shape)
    if tensor.numel() == 1:
        return tensor.reshape(1).expand(channels)
    extents = (1,) * (rank + 1 - tensor.dim()) + tuple(tensor.shape)
    return tensor.reshape(channels) if extents == (1, channels, *(1,) * (rank - 1)) else None


_EXTREMES = {"maximum.default": "maximum", "minimum.default": "minimum", "max.other": "maximum", "min.other": "minimum"}


@RULES(*_EXTREMES)
def _extreme(c: Converter, call: Call) -> Computed:
    a, b = call["self"], call["other"]
    return _combine(c, call, _EXTREMES[call.operation], *((a, b) if isinstance(a, Computed) else (b, a)))
