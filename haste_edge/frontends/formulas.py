"""What functions of one number and of two come down to, for every front end: numbers and names, but no nodes."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from haste_edge.frontends.refusals import Refused
from haste_edge.frontends.values import Array
from haste_runtime.attributes import MAX_FLOAT
from haste_runtime.graph import Shape

BROADCAST = "Write it with operands of as many axes, in which each axis is as long as the other's, or 1."
SELU = (1.6732632423543772848170429916717, 1.0507009873554804934193349852946)  # alpha, and what all is multiplied by

POWERS: Mapping[float, tuple[str, ...]] = {  # functions one after the other; "multiply" is by what came in
    1: (),
    0.5: ("sqrt",),
    -1: ("reciprocal",),
    -0.5: ("sqrt", "reciprocal"),
    2: ("multiply",),
    3: ("multiply", "multiply"),
}


def bounds(low: float, high: float) -> tuple[str, float, float]:
    """What keeps a number between two, which may be infinite: "relu" or "relu6", else "clip" with its own two."""
    low, high = (min(max(float(bound), -MAX_FLOAT), MAX_FLOAT) for bound in (low, high))
    kinds = {6.0: "relu6", MAX_FLOAT: "relu"}
    return (kinds.get(high, "clip") if low == 0 else "clip"), low, high


def power(exponent: float) -> tuple[str, ...]:
    """The functions that make it. Raises Refused for another than those in `POWERS`."""
    if math.isnan(exponent) or exponent not in POWERS:
        raise Refused(f"It raises to the power {exponent}.", "Only -1, -1/2, 1/2, 1, 2 and 3 can be compiled.")
    return POWERS[exponent]


def plain_elu(celu: bool, alpha: float, input_scale: float = 1.0) -> float:
    """The alpha of an ELU. Raises Refused for a relative of it that bends its input first."""
    if input_scale != 1 or (celu and alpha != 1):
        raise Refused("It scales its input.", "Use ELU, which does not.")
    return alpha


def as_scale(function: str, number: Array, first: bool, factor: float = 1.0) -> tuple[Array, Array]:
    """scale and shift, so that function(x, number), or function(number, x) unless ``first``, is scale x + shift.

    function: "add", "subtract", "multiply" or, with ``first``, "divide". factor: of what is added or subtracted.
    """
    one, zero = np.ones_like(number), np.zeros_like(number)
    if function in ("add", "subtract"):
        sign = factor if function == "add" else -factor
        return (one, sign * number) if first else (sign * one, number)
    with np.errstate(divide="ignore"):  # the graph's check names a constant that is not finite
        return (number if function == "multiply" else 1 / number), zero


def in_frame(shape: Shape, constant: Shape) -> Shape:
    """The extents of a constant that is combined with a frame of that shape, as many axes as it has. Raises Refused."""
    extents = _with_batch(shape, constant)
    if len(extents) != len(shape) + 1 or extents[0] != 1:
        raise Refused(f"It combines a frame of shape {shape} with a constant of {constant}.", BROADCAST)
    return extents[1:]


def per_channel(array: Array, shape: Shape, channels: int, axis: int = 0) -> Array | None:
    """A constant that is broadcast over a frame, as one float64 number per channel; None if it takes more.

    shape: of the frame, whose channels lie along ``axis``.
    """
    array = np.asarray(array, np.float64)
    if array.size == 1:
        return np.broadcast_to(array.reshape(1), (channels,))
    wanted = (1, *(channels if number == axis else 1 for number in range(len(shape))))
    return array.reshape(channels) if _with_batch(shape, array.shape) == wanted else None


def _with_batch(shape: Shape, constant: Shape) -> Shape:
    return (1,) * (1 + len(shape) - len(constant)) + tuple(constant)
