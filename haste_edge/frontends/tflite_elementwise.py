"""What TFLite's functions of one number and of two become in the graph, and the activations that layers end with."""

from __future__ import annotations

from dataclasses import replace

from haste_edge.frontends.builder import Builder, Rules
from haste_edge.frontends.elementwise import activation, arithmetic, combine, extreme, prelu, unary
from haste_edge.frontends.refusals import Refused
from haste_edge.frontends.tflite_call import Call
from haste_edge.frontends.values import Argument, Computed

RULES = Rules[Call]()

_ACTIVATIONS = ("NONE", "RELU", "RELU_N1_TO_1", "RELU6", "TANH", "SIGN_BIT")  # the schema's order
_ENDS = ("RELU", "RELU_N1_TO_1", "RELU6")


def activated(c: Builder, call: Call, y: Computed) -> Computed:
    """The value after the activation that the call ends with."""
    number = int(call.option("FusedActivationFunction"))
    kind = _ACTIVATIONS[number] if 0 <= number < len(_ACTIVATIONS) else f"number {number}"
    if kind == "NONE":
        return y
    if kind not in _ENDS:
        raise Refused(f"It ends with {kind}, which TFLite's own kernels leave out.", "Write it as a layer of its own.")
    return _bent(c, call.step(kind.lower()), y, kind)


def _bent(c: Builder, call: Call, x: Argument | None, kind: str) -> Computed:
    if kind in ("RELU", "RELU6"):
        return activation(c, call, x, kind.lower())
    if kind == "RELU_N1_TO_1":
        return unary(c, call, x, "clip", -1, 1)
    if kind == "RELU_0_TO_1":
        return unary(c, call, x, "clip", 0, 1)
    if kind == "TANH":
        return unary(c, call, x, "tanh")
    raise Refused(f"It ends with the activation {kind}.", "Use ReLU or another common one.")


@RULES("RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1", "TANH")
def _activation(c: Builder, call: Call) -> Computed:
    return _bent(c, call, call.input(0), call.operation)


_UNARY = {  # TFLite's name -> ours, alpha and beta
    "ABS": ("absolute", 0.0, 0.0),
    "ELU": ("elu", 1.0, 0.0),
    "EXP": ("exp", 0.0, 0.0),
    "HARD_SWISH": ("hard_swish", 1 / 6, 0.5),
    "LOGISTIC": ("sigmoid", 0.0, 0.0),
    "NEG": ("negative", 0.0, 0.0),
    "SQRT": ("sqrt", 0.0, 0.0),
}


@RULES(*_UNARY)
def _unary(c: Builder, call: Call) -> Computed:
    return unary(c, call, call.input(0), *_UNARY[call.operation])


@RULES("LEAKY_RELU")
def _leaky_relu(c: Builder, call: Call) -> Computed:
    return unary(c, call, call.input(0), "leaky_relu", call.option("Alpha", 0.0))


@RULES("GELU")
def _gelu(c: Builder, call: Call) -> Computed:
    return unary(c, call, call.input(0), "gelu_tanh" if call.option("Approximate", False) else "gelu")


@RULES("RSQRT")
def _inverse_root(c: Builder, call: Call) -> Computed:
    return unary(c, call, unary(c, call.step("sqrt"), call.input(0), "sqrt"), "reciprocal")


@RULES("SQUARE")
def _square(c: Builder, call: Call) -> Computed:
    x = c.computed(call.input(0))
    return combine(c, call, "multiply", x, x)


@RULES("PRELU")
def _prelu(c: Builder, call: Call) -> Computed:
    return prelu(c, call, call.input(0), call.input(1))


# --- two operands ----------------------------------------------------------------------------------------------------

_ARITHMETIC = {"ADD": "add", "SUB": "subtract", "MUL": "multiply", "DIV": "divide"}


@RULES(*_ARITHMETIC)
def _arithmetic(c: Builder, call: Call) -> Computed:
    a, b = (_with_axes(call, call.input(i)) for i in range(2))
    return activated(c, call, arithmetic(c, call, _ARITHMETIC[call.operation], a, b))


@RULES("MAXIMUM", "MINIMUM")
def _extreme(c: Builder, call: Call) -> Computed:
    a, b = (_with_axes(call, call.input(i)) for i in range(2))
    first = isinstance(a, Computed)
    x, other = c.computed(a if first else b), b if first else a
    return extreme(c, call, call.operation.lower(), x, c.known(other, "operand") if other is None else other)


@RULES("ADD_N")
def _sum(c: Builder, call: Call) -> Computed:
    total = c.computed(call.input(0))
    for number in range(1, len(call.inputs)):
        other = call.input(number)
        total = combine(c, call, "add", total, c.known(other, "operand") if other is None else other)
    return total


@RULES("SQUARED_DIFFERENCE")
def _squared_difference(c: Builder, call: Call) -> Computed:
    a, b = (_with_axes(call, call.input(i)) for i in range(2))
    difference = arithmetic(c, call.step("difference"), "subtract", a, b)
    return combine(c, call, "multiply", difference, difference)


def _with_axes(call: Call, value: Argument | None) -> Argument | None:
    """The value with as many axes as the result: new ones come first, as numpy has it, and so before the batch."""
    missing = len(call.shape) - len(value.shape) if isinstance(value, Computed) else 0
    if not missing:
        return value
    assert isinstance(value, Computed)
    if call.batch != 1 or missing < 0:
        raise Refused(f"It takes the batch of a frame of shape {value.shape} for another axis.", "Reshape it before.")
    return replace(value, shape=(*(1,) * missing, *value.shape))
