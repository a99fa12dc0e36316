"""Functions of one number and of two in torch, as `haste_runtime.reference_elementwise` defines them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F


def _ramp(x: Tensor, alpha: float, beta: float) -> Tensor:
    return (alpha * x + beta).clamp(0, 1)


UNARY: Mapping[str, Callable[[Tensor, float, float], Tensor]] = {  # of x, alpha and beta
    "leaky_relu": lambda x, a, b: F.leaky_relu(x, a),
    "elu": lambda x, a, b: F.elu(x, a),
    "clip": lambda x, a, b: x.clamp(a, b),
    "hard_sigmoid": _ramp,
    "hard_swish": lambda x, a, b: x * _ramp(x, a, b),
    "sigmoid": lambda x, a, b: x.sigmoid(),
    "silu": lambda x, a, b: F.silu(x),
    "tanh": lambda x, a, b: x.tanh(),
    "gelu": lambda x, a, b: F.gelu(x),
    "gelu_tanh": lambda x, a, b: F.gelu(x, approximate="tanh"),
    "softplus": lambda x, a, b: F.softplus(x),
    "mish": lambda x, a, b: F.mish(x),
    "exp": lambda x, a, b: x.exp(),
    "sqrt": lambda x, a, b: x.sqrt(),
    "absolute": lambda x, a, b: x.abs(),
    "negative": lambda x, a, b: -x,
    "reciprocal": lambda x, a, b: x.reciprocal(),
}
BINARY: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add,
    "subtract": torch.sub,
    "multiply": torch.mul,
    "divide": torch.div,
    "minimum": torch.minimum,
    "maximum": torch.maximum,
}
