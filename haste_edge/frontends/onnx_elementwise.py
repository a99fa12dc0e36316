"""What ONNX's functions of one number and of two become in the graph, however the numbers lie."""

from __future__ import annotations

from haste_edge.frontends.builder import Builder, Rules
from haste_edge.frontends.elementwise import activation, arithmetic, clip, combine, elu, extreme, power, prelu, unary
from haste_edge.frontends.formulas import SELU, plain_elu
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
    return clip(c, call, call.input(0), _bound(c, call, "min", 1, -MAX_FLOAT), _bound(c, call, "max", 2, MAX_FLOAT))


def _bound(c: Builder, call: Call, name: str, index: int, default: float) -> float:
    given = call.input(index)
    return float(call.attribute(name, default) if given is None else c.known(given, name).array.reshape(-1)[0])


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
    alpha = call.attribute("alpha", SELU[0] if selu else 1.0)
    factor = call.attribute("gamma", SELU[1]) if selu else 1.0
    return elu(c, call, call.input(0), plain_elu(call.operation == "Celu", alpha), factor)


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
    if given.size != 1:
        raise Refused(f"It raises to the powers {given.tolist()}.", "Raise to one for all.")
    return power(c, call, call.input(0), float(given.item()))


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
