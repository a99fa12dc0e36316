"""Functions of one number and of two in the graph, however the numbers lie: what the files' rules for them share."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from haste_edge.frontends.builder import Builder
from haste_edge.frontends.refusals import Refused
from haste_edge.frontends.values import Argument, Array, Computed, Known, Named
from haste_runtime.attributes import MAX_FLOAT

_BROADCAST = "Write it with operands of as many axes, in which each axis is as long as the other's, or 1."


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
            raise Refused(f"It combines values of per-frame shapes {x.shape} and {other.shape}.", _BROADCAST)
        x, other = c.alike([x, other])
        names, shape = [x.name, other.name], tuple(map(max, x.shape, other.shape))
        if function == "add" and x.shape == other.shape:
            return c.emit(call, "add", names, {"activation": "none"}, like=x, result=result)
        return c.emit(call, "binary", names, attributes, like=replace(x, shape=shape), result=result)
    constant = c.known(other, "constant")
    x = c.unreshaped(x)
    extents = (1,) * (1 + len(x.shape) - constant.array.ndim) + constant.array.shape
    if len(extents) != len(x.shape) + 1 or extents[0] != 1:
        raise Refused(f"It combines a frame of shape {x.shape} with a constant of {constant.array.shape}.", _BROADCAST)
    array = constant.array.reshape(extents[1:]).transpose(np.argsort(x.order))  # as the value lies
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
    one, zero = np.ones_like(number), np.zeros_like(number)
    if function == "add":
        scale, shift = one, number
    elif function == "subtract":
        scale, shift = (one, -number) if first else (-one, number)
    else:
        with np.errstate(divide="ignore"):  # the graph's check names a constant that is not finite
            scale, shift = (number if function == "multiply" else 1 / number), zero
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
    array = as_float(constant.array)
    if call.shapes[0] != x.shape:
        return None
    channels = c.shapes[x.name][0]
    if array.size == 1:
        return x, np.broadcast_to(array.reshape(1), (channels,))
    x = c.unreshaped(x)
    channels = c.shapes[x.name][0]
    extents = (1,) * (1 + len(x.shape) - array.ndim) + array.shape
    wanted = (1, *(channels if axis == 0 else 1 for axis in x.order))
    return (x, array.reshape(channels)) if extents == wanted else None
