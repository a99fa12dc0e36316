"""What ONNX's functions of one number and of two become in the graph, however the numbers lie."""

from __future__ import annotations

import math

import numpy as np

from haste_edge.frontends.builder import Builder, Rules
from haste_edge.frontends.elementwise import activation, arithmetic, combine, extreme, prelu, scale_and_shift, unary
from haste_edge.frontends.onnx_values import Call
from haste_edge.frontends.refusals import Refused
from haste_edge.frontends.values import Computed
from haste_runtime.attributes import MAX_FLOAT

RULES = Rules[Call]()

# --- one operand -----------------------------------------------------------------------------------------------------


@RULES("Relu")
def _relu(c: Builder, call: Call) -> Computed:
    return activation(c, call, call.input(0), "relu")


@RULES("Clip")
def _clip(c: Builder, call: Call) -> Computed:
    low, high = _bound(c, call, "min", 1, -MAX_FLOAT), _bound(c, call, "max", 2, MAX_FLOAT)
    if low == 0 and high in (6, MAX_FLOAT):
        return activation(c, call, call.input(0), "relu6" if high == 6 else "relu")
    return unary(c, call, call.input(0), "clip", low, high)


def _bound(c: Builder, call: Call, name: str, index: int, default: float) -> float:
    given = call.input(index)
    value = call.attribute(name, default) if given is None else c.known(given, name).array.reshape(-1)[0]
    return min(max(float(value), -MAX_FLOAT), MAX_FLOAT)


_PLAIN = {  # ONNX's name -> ours, where there is nothing more to it
    "Abs": "absolute",
    "Exp": "exp",
    "HardSwish": "hard_swish",
    "Mish": "mish",
    "Neg": "negative",
    "Reciprocal": "reciprocal",
    "Sigmoid": "sigmoid",
    "Softplus": "softplus",
    "Sqrt": "sqrt",
    "Tanh": "tanh",
}


@RULES(*_PLAIN)
def _plain(c: Builder, call: Call) -> Computed:
    numbers = (1 / 6, 0.5) if call.operation == "HardSwish" else (0.0, 0.0)
    return unary(c, call, call.input(0), _PLAIN[call.operation], *numbers)


@RULES("LeakyRelu")
def _leaky_relu(c: Builder, call: Call) -> Computed:
    return unary(c, call, call.input(0), "leaky_relu", call.attribute("alpha", 0.01))


@RULES("HardSigmoid")
def _hard_sigmoid(c: Builder, call: Call) -> Computed:
    return unary(c, call, call.input(0), "hard_sigmoid", call.attribute("alpha", 0.2), call.attribute("beta", 0.5))


@RULES("Elu", "Celu", "Selu")
def _elu(c: Builder, call: Call) -> Computed:
    selu = call.operation == "Selu"
    alpha = call.attribute("alpha", 1.6732632423543772848170429916717 if selu else 1.0)
    if call.operation == "Celu" and alpha != 1:
        raise Refused("It scales its input.", "Use ELU, which does not.")
    y = unary(c, call, call.input(0), "elu", alpha)
    gamma = call.attribute("gamma", 1.0507009873554804934193349852946) if selu else 1.0
    if gamma == 1:
        return y
    factor = np.full(c.shapes[y.name][:1], gamma)
    constants = scale_and_shift(factor, np.zeros_like(factor))
    return c.emit(call, "scale", [y.name], {"activation": "none"}, constants, like=y)


@RULES("Gelu")
def _gelu(c: Builder, call: Call) -> Computed:
    tanh = call.attribute("approximate", "none") == "tanh"
    return unary(c, call, call.input(0), "gelu_tanh" if tanh else "gelu")


@RULES("PRelu")
def _prelu(c: Builder, call: Call) -> Computed:
    return prelu(c, call, call.input(0), call.input(1))


@RULES("Pow")
def _power(c: Builder, call: Call) -> Computed:
    given = c.known(call.input(1), "exponent").array
    x, exponent = c.computed(call.input(0)), float(given.reshape(-1)[0]) if given.size == 1 else math.nan
    if exponent == 1:
        return x
    if exponent in (0.5, -0.5):
        x = unary(c, call, x, "sqrt")
    if exponent in (-1, -0.5):
        x = unary(c, call, x, "reciprocal")
    if exponent in (2, 3):
        square = combine(c, call, "multiply", x, x)
        return square if exponent == 2 else combine(c, call, "multiply", square, x)
    if exponent in (0.5, -0.5, -1):
        return x
    raise Refused(f"It raises to the power {given.tolist()}.", "Only -1, -1/2, 1/2, 1, 2 and 3 can be compiled.")


# --- two operands ----------------------------------------------------------------------------------------------------

_FUNCTIONS = {
    "Add": "add", "Sub": "subtract", "Mul": "multiply", "Div": "divide",
    "Sum": "add", "Max": "maximum", "Min": "minimum",
}  # fmt: skip


@RULES("Add", "Sub", "Mul", "Div")
def _arithmetic(c: Builder, call: Call) -> Computed:
    return arithmetic(c, call, _FUNCTIONS[call.operation], call.input(0), call.input(1))


@RULES("Sum", "Max", "Min")
def _several(c: Builder, call: Call) -> Computed:
    function = _FUNCTIONS[call.operation]
    join = combine if function == "add" else extreme
    values = [value for value in call.inputs if isinstance(value, Computed)]
    constants = [value for value in call.inputs if not isinstance(value, Computed) and value is not None]
    total = values[0]
    for number, value in enumerate((*values[1:], *constants), start=2):
        total = join(c, call, function, total, value, whole=number == len(call.inputs))
    return total
