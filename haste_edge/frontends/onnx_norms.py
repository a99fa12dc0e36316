"""What normalisations with statistics of the frame itself become in the graph: several nodes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from haste_edge.frontends.builder import Builder, Rules
from haste_edge.frontends.elementwise import combine, scale_and_shift
from haste_edge.frontends.onnx_values import Call
from haste_edge.frontends.refusals import Refused
from haste_edge.frontends.values import Computed, Known

RULES = Rules[Call]()


def _normalised(c: Builder, call: Call, x: Computed, axes: Sequence[int], epsilon: float) -> Computed:
    """(x - mean) / sqrt(variance + epsilon) over ``axes`` as seen."""
    over = {"function": "mean", "axes": tuple(sorted(x.order[axis] for axis in axes))}

    def step(op: str, inputs: Sequence[Computed], label: str, **attributes: object) -> Computed:
        names = [value.name for value in inputs]
        return c.emit(call, op, names, attributes, like=inputs[0], label=label, result=None)

    def binary(function: str, a: Computed, b: Computed) -> Computed:
        return step("binary", [a, b], function, function=function, activation="none")

    centred = binary("subtract", x, step("reduce", [x], "mean", **over))
    variance = step("reduce", [binary("multiply", centred, centred)], "variance", **over)
    ones = np.ones(c.shapes[variance.name][0])
    shifted = c.emit(
        call, "scale", [variance.name], {"activation": "none"}, scale_and_shift(ones, epsilon * ones),
        like=variance, label="epsilon", result=None,
    )  # fmt: skip
    deviation = step("unary", [shifted], "deviation", function="sqrt", alpha=0.0, beta=0.0)
    return binary("divide", centred, deviation)


@RULES("LayerNormalization")
def _layer_norm(c: Builder, call: Call) -> Computed:
    x = c.unreshaped(c.computed(call.input(0)))
    first = call.attribute("axis", -1) % (len(x.shape) + 1) - 1
    if first < 0:
        raise Refused("It normalises over the batch.", "Each frame must be computed on its own.")
    y = _normalised(c, call, x, range(first, len(x.shape)), call.attribute("epsilon", 1e-5))
    y = combine(c, call, "multiply", y, c.known(call.input(1), "scale"))
    bias = call.input(2)
    return y if bias is None else combine(c, call, "add", y, c.known(bias, "bias"))


@RULES("InstanceNormalization")
def _instance_norm(c: Builder, call: Call) -> Computed:
    x = c.unreshaped(c.computed(call.input(0)))
    if len(x.shape) < 2:
        raise Refused("There is nothing to normalise over.", "Export the model again.")
    y = _normalised(c, call, x, range(1, len(x.shape)), call.attribute("epsilon", 1e-5))
    for function, index, role in (("multiply", 1, "scale"), ("add", 2, "bias")):
        numbers = c.known(call.input(index), role).array
        y = combine(c, call, function, y, Known(numbers.reshape(-1, *(1,) * (len(x.shape) - 1))))
    return y
