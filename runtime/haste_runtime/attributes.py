"""What attributes of a graph's nodes may be: `haste_runtime.operators` says which operator has which."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

ACTIVATIONS = ("none", "relu", "relu6")
UNARY = (  # functions of one number; `haste_runtime.reference_elementwise` defines them
    "leaky_relu", "elu", "clip", "hard_sigmoid", "hard_swish", "sigmoid", "silu", "tanh", "gelu", "gelu_tanh",
    "softplus", "mish", "exp", "sqrt", "absolute", "negative", "reciprocal",
)  # fmt: skip
BINARY = ("add", "subtract", "multiply", "divide", "minimum", "maximum")  # of two numbers
MAX_RANK = 6  # axes of a value, without the batch
MAX_INPUT_RANK = 4
MAX_CONSTANT_RANK = 4  # of what a bundle holds
MAX_ELEMENTS = 2**31 - 1  # of one value: kernels index with 32 bits
MAX_FLOAT = 3.4028234663852886e38  # as float32, and so the bound of `clip` where there is none
MAX_STEP = 2**16 - 1  # of kernels' sides, strides, dilations and paddings


class Attribute(NamedTuple):
    """What an attribute may be: in words, for the error message, and as a test."""

    words: str
    holds: Callable[[Any], bool]


def is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def integer(least: int) -> Attribute:
    return Attribute(f"an integer >= {least}", lambda v: is_int(v) and v >= least)


def integers(counts: tuple[int, ...], least: int, most: int) -> Attribute:
    words = f"a tuple of {' or '.join(map(str, counts))} integers from {least} to {most}"
    return Attribute(
        words,
        lambda v: isinstance(v, tuple) and len(v) in counts and all(is_int(i) and least <= i <= most for i in v),
    )


def one_of(*values: str | int) -> Attribute:
    return Attribute(
        "one of " + ", ".join(map(repr, values)),
        lambda v: (isinstance(v, str) or is_int(v)) and v in values,
    )


def _is_number(value: Any) -> bool:
    """An integer may be too large to become a float, but not to be compared with one."""
    return (is_int(value) or isinstance(value, float)) and abs(value) <= sys.float_info.max


POSITIVE = Attribute("a positive number from 1e-6 to 1e6", lambda v: _is_number(v) and 1e-6 <= v <= 1e6)
NUMBER = Attribute("a finite number", _is_number)
FLOAT = Attribute(f"a number up to {MAX_FLOAT}", lambda v: _is_number(v) and abs(v) <= MAX_FLOAT)
ACTIVATION = {"activation": one_of(*ACTIVATIONS)}
STEPS = integers((2,), 1, MAX_STEP)  # y, x
PADDING = integers((4,), 0, MAX_STEP)  # top, left, bottom, right
SHAPE = integers(tuple(range(1, MAX_RANK + 1)), 1, MAX_ELEMENTS)
STARTS = integers(tuple(range(1, MAX_RANK + 1)), 0, MAX_ELEMENTS)  # one per axis
STOPS = SHAPE
AXIS = Attribute(f"an integer from 0 to {MAX_RANK - 1}", lambda v: is_int(v) and 0 <= v < MAX_RANK)
PERMUTATION = Attribute(
    "a tuple of all axes, each once",
    lambda v: isinstance(v, tuple) and all(map(is_int, v)) and sorted(v) == list(range(len(v))) and v != (),
)
AXES = Attribute(
    "a tuple of axes, each once, from the first to the last",
    lambda v: isinstance(v, tuple) and v != () and all(map(AXIS.holds, v)) and list(v) == sorted(set(v)),
)
PADS = integers((6,), 0, MAX_STEP)  # before and after, of C, H, W
SIZE = integers((2,), 1, MAX_ELEMENTS)  # height, width
WINDOW = {"kernel": STEPS, "stride": STEPS, "padding": PADDING}
