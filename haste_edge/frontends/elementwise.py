"""Functions of one number and of two in the graph, however the numbers lie: what the files' rules for them share."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from haste_edge.frontends.builder import Builder
from haste_edge.frontends.formulas import BROADCAST, as_scale, bounds, in_frame, per_channel
from haste_edge.frontends.formulas import power as power_steps
from haste_edge.frontends.refusals import Refused
from haste_edge.frontends.values import Argument, Array, Computed, Known, Named
from haste_runtime.attributes import MAX_FLOAT


def as_float(array: Array) -> Array:
    return np.asarray(array, np.float64)


def scale_and_shift(scale: Array, shift: Array) -> dict[str, Known | None]:
    return {"scale": Known(scale), "shift": Known(shift)}


# --- one operand -----------------------------------------------------------------------------------------------------


def unary(
    c: Builder, call: Named, value: Argument | None, function: str, alpha: float = 0.0, beta: float = 0.0
) -> Computed:
    """One node that applies `haste_runtime.reference_elementwise.unary` to a value of the call's shape."""
    x = c.computed(value)
    attributes = {"function": function, "alpha": float(alpha), "beta": float(beta)}
    return c.emit(call, "unary", [x.name], attributes, like=x)


def clip(c: Builder, call: Named, value: Argument | None, low: float, high: float) -> Computed:
    kind, low, high = bounds(low, high)
    return unary(c, call, value, kind, low, high) if kind == "clip" else activation(c, call, value, kind)


def elu(c: Builder, call: Named, value: Argument | None, alpha: float, factor: float = 1.0) -> Computed:
    """Multiplied by a factor, as SELU is."""
    y = unary(c, call, value, "elu", alpha)
    if factor == 1:
        return y
    number = np.full(c.shapes[y.name][:1], factor)
    constants = scale_and_shift(number, np.zeros_like(number))
    return c.emit(call, "scale", [y.name], {"activation": "none"}, constants, like=y)


def power(c: Builder, call: Named, value: Argument | None, exponent: float) -> Computed:
    x = y = c.computed(value)
    for function in power_steps(exponent):
        y = combine(c, call, "multiply", y, x) if function == "multiply" else unary(c, call, y, function)
    return y


def activation(c: Builder, call: Named, value: Argument | None, kind: str) -> Computed:
    x = c.computed(value)
    return c.emit(call, "activation", [x.name], {"activation": kind}, like=x)


def prelu(c: Builder, call: Named, value: Argument | None, slopes: Argument | None) -> Computed:
    x, slope = c.computed(value), c.known(slopes, "slope")
    if slope.array.size == 1 and call.shapes[0] == x.shape:
        return unary(c, call, x, "leaky_relu", slope.array.item())
    found = _per_channel(c, call, x, slope)
    varying = [axis for axis in range(-slope.array.ndim, 0) if slope.array.shape[axis] > 1]
    if found is None and len(varying) == 1 and -varying[0] <= len(x.shape):  # along an axis that is not the first yet
        found = _per_channel(c, call, c.led_by(x, len(x.shape) + varying[0]), slope)
    if found is None:
        raise Refused(f"Its slopes are {slope.array.shape}.", "Use one for each channel, or one for all.")
    return c.emit(call, "prelu", [found[0].name], {}, {"slope": Known(found[1])}, like=found[0])


# --- two operands ----------------------------------------------------------------------------------------------------


def combine(c: Builder, call: Named, function: str, x: Computed, other: Argument, whole: bool = True) -> Computed:
    """function(x, other), of a computed value with another or with a constant. whole: it is the call's result."""
    attributes = {"function": function, "activation": "none"}
    result = 0 if whole else None
    if isinstance(other, Computed):
        if len(x.shape) != len(other.shape):
            raise Refused(f"It combines values of per-frame shapes {x.shape} and {other.shape}.", BROADCAST)
        x, other = c.alike([x, other])
        names, shape = [x.name, other.name], tuple(map(max, x.shape, other.shape))
        if function == "add" and x.shape == other.shape:
            return c.emit(call, "add", names, {"activation": "none"}, like=x, result=result)
        return c.emit(call, "binary", names, attributes, like=replace(x, shape=shape), result=result)
    constant = c.known(other, "constant")
    x = c.unreshaped(x)
    extents = in_frame(x.shape, constant.array.shape)
    array = constant.array.reshape(extents).transpose(np.argsort(x.order))  # as the value lies
    key = constant.key if x.order == tuple(range(len(x.order))) else ""
    return c.emit(call, "binary", [x.name], attributes, {"other": Known(array, key)}, like=x, result=result)


def extreme(c: Builder, call: Named, function: str, x: Computed, other: Argument, whole: bool = True) -> Computed:
    """`combine` for "maximum" and "minimum", where one number for all is a bound of "clip"."""
    array = other.array if isinstance(other, Known) and other.other is None else np.zeros(0)
    if array.size != 1 or array.ndim > 1 + len(x.shape) or not np.isfinite(array).all():
        return combine(c, call, function, x, other, whole)
    number = min(max(float(array.item()), -MAX_FLOAT), MAX_FLOAT)
    low, high = (number, MAX_FLOAT) if function == "maximum" else (-MAX_FLOAT, number)
    bounds = {"function": "clip", "alpha": low, "beta": high}
    return c.emit(call, "unary", [x.name], bounds, like=x, result=0 if whole else None)


def arithmetic(c: Builder, call: Named, function: str, a: Argument | None, b: Argument | None) -> Computed:
    """Two values, or a value and a constant; a constant per channel becomes a scale, which can be folded.

    function: "add", "subtract", "multiply" or "divide".
    """
    if isinstance(a, Computed) and isinstance(b, Computed):
        gated = _gated(c, call, a, b) if function == "multiply" else None
        return gated or combine(c, call, function, a, b)
    first = isinstance(a, Computed)
    x, constant = c.computed(a if first else b), c.known(b if first else a, "constant")
    found = _per_channel(c, call, x, constant)
    if function == "divide" and not first:
        function, x = "multiply", _unary_step(c, call, x, "reciprocal")
        found = _per_channel(c, call, x, constant)
    if found is None:
        if function == "subtract" and not first:
            function, x = "add", _unary_step(c, call, x, "negative")
        return combine(c, call, function, x, constant)
    x, number = found
    scale, shift = as_scale(function, number, first)
    return c.emit(call, "scale", [x.name], {"activation": "none"}, scale_and_shift(scale, shift), like=x)


def _unary_step(c: Builder, call: Named, x: Computed, function: str) -> Computed:
    attributes = {"function": function, "alpha": 0.0, "beta": 0.0}
    return c.emit(call, "unary", [x.name], attributes, like=x, label=function, result=None)


_GATES = {"sigmoid": "silu", "hard_sigmoid": "hard_swish"}


def _gated(c: Builder, call: Named, a: Computed, b: Computed) -> Computed | None:
    """x times a function of x, where there is a kernel for both at once: how exporters write SiLU."""
    for x, gate in ((a, b), (b, a)):
        maker = c.made.get(gate.name)
        if maker is None or maker.op != "unary" or maker.inputs != (x.name,) or replace(gate, name=x.name) != x:
            continue
        function = _GATES.get(maker.attributes["function"])
        if function is not None:
            return unary(c, call, x, function, maker.attributes["alpha"], maker.attributes["beta"])
    return None


def _per_channel(c: Builder, call: Named, x: Computed, constant: Known) -> tuple[Computed, Array] | None:
    """How the value lies, and the constant as one float64 number for each of its channels; None if it takes more."""
    if call.shapes[0] != x.shape:
        return None
    if constant.array.size > 1:
        x = c.unreshaped(x)
    number = per_channel(constant.array, x.shape, c.shapes[x.name][0], x.order.index(0))
    return None if number is None else (x, number)
