"""Functions of one number and of two, in plain numpy: part of `haste_runtime.reference_ops`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
UnaryFunction = Callable[[Array, np.float32, np.float32], Array]

ONE, HALF = np.float32(1), np.float32(0.5)


def activate(x: Array, *, activation: str) -> Array:
    """ "none", "relu": max(x, 0), "relu6": min(max(x, 0), 6)."""
    if activation == "none":
        return x
    low = np.maximum(x, np.float32(0))
    return low if activation == "relu" else np.minimum(low, np.float32(6))


def _ramp(x: Array, alpha: np.float32, beta: np.float32) -> Array:
    return np.clip(alpha * x + beta, np.float32(0), ONE)


def _sigmoid(x: Array) -> Array:
    small: Array = np.exp(-np.abs(x))  # cannot overflow
    return np.where(x < 0, small, ONE) / (ONE + small)


def _softplus(x: Array) -> Array:
    return np.maximum(x, np.float32(0)) + np.log1p(np.exp(-np.abs(x)))


def _gelu(x: Array) -> Array:
    erf = np.array([math.erf(v / math.sqrt(2)) for v in x.ravel().tolist()]).reshape(x.shape)
    return (0.5 * x * (1 + erf)).astype(np.float32)


def _gelu_tanh(x: Array) -> Array:
    inner = np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x * x * x)
    bent: Array = np.tanh(inner)
    return HALF * x * (ONE + bent)


def _exp(x: Array) -> Array:
    with np.errstate(over="ignore"):
        return np.exp(x)


def _reciprocal(x: Array) -> Array:
    with np.errstate(divide="ignore"):
        return ONE / x


UNARY_FUNCTIONS: Mapping[str, UnaryFunction] = {  # of x, alpha and beta; those without a letter here take no notice
    "leaky_relu": lambda x, a, b: np.where(x < 0, a * x, x),
    "elu": lambda x, a, b: np.where(x < 0, a * np.expm1(np.minimum(x, np.float32(0))), x),
    "clip": lambda x, a, b: np.minimum(np.maximum(x, a), b),
    "hard_sigmoid": _ramp,
    "hard_swish": lambda x, a, b: x * _ramp(x, a, b),
    "sigmoid": lambda x, a, b: _sigmoid(x),
    "silu": lambda x, a, b: x * _sigmoid(x),
    "tanh": lambda x, a, b: np.tanh(x),
    "gelu": lambda x, a, b: _gelu(x),
    "gelu_tanh": lambda x, a, b: _gelu_tanh(x),
    "softplus": lambda x, a, b: _softplus(x),
    "mish": lambda x, a, b: x * np.tanh(_softplus(x)),
    "exp": lambda x, a, b: _exp(x),
    "sqrt": lambda x, a, b: np.sqrt(x),
    "absolute": lambda x, a, b: np.abs(x),
    "negative": lambda x, a, b: -x,
    "reciprocal": lambda x, a, b: _reciprocal(x),
}


def unary(x: Array, *, function: str, alpha: float, beta: float) -> Array:
    """function(x), elementwise. alpha, beta: the slope of "leaky_relu" below 0; what "elu" is below 0 a multiple of;
    the bounds of "clip"; and min(max(alpha x + beta, 0), 1) is "hard_sigmoid", and times x "hard_swish"."""
    return UNARY_FUNCTIONS[function](x, np.float32(alpha), np.float32(beta))


def prelu(x: Array, *, slope: Array) -> Array:
    return np.where(x < 0, slope.reshape(-1, *(1,) * (x.ndim - 1)) * x, x)


BINARY_FUNCTIONS: Mapping[str, Callable[[Array, Array], Array]] = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": np.divide,
    "minimum": np.minimum,
    "maximum": np.maximum,
}


def binary(a: Array, b: Array | None = None, *, other: Array | None = None, function: str, activation: str) -> Array:
    """activation(function(a, b)), or with the constant ``other`` as b; axes of length 1 are repeated."""
    second = other if b is None else b
    assert second is not None
    with np.errstate(divide="ignore", invalid="ignore"):
        return activate(BINARY_FUNCTIONS[function](a, second), activation=activation)
