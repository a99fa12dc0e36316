"""Operators that move, resample, reduce or normalise, in torch on a batch: part of `haste_edge.torch_graph`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from haste_runtime.graph import Node
from haste_runtime.resampling import Taps, extend_taps, resize_taps

_Arguments = list[Tensor]
_Constants = Mapping[str, Tensor]


def _flatten(node: Node, x: _Arguments, constants: _Constants) -> Tensor:
    if node.attributes["order"] == "HWC" and x[0].dim() == 4:
        return x[0].permute(0, 2, 3, 1).flatten(1)
    return x[0].flatten(1)


def _concat(node: Node, x: _Arguments, constants: _Constants) -> Tensor:
    return torch.cat(x, node.attributes["axis"] + 1)


def _pad(node: Node, x: _Arguments, constants: _Constants) -> Tensor:
    c0, c1, top, bottom, left, right = node.attributes["pads"]
    return F.pad(x[0], (left, right, top, bottom, c0, c1), value=node.attributes["value"])


def _slice(node: Node, x: _Arguments, constants: _Constants) -> Tensor:
    a = node.attributes
    return x[0][(slice(None), *map(slice, a["starts"], a["stops"], a["steps"]))]


def _reshape(node: Node, x: _Arguments, constants: _Constants) -> Tensor:
    return x[0].reshape(len(x[0]), *node.attributes["shape"])


def _rearrange(node: Node, x: _Arguments, constants: _Constants) -> Tensor:
    a, batch = node.attributes, len(x[0])
    factors = x[0].reshape(batch, *a["split"]).permute(0, *(axis + 1 for axis in a["axes"]))
    return factors.reshape(batch, *a["shape"])


def _along(x: Tensor, taps: Taps, axis: int) -> Tensor:
    """Weighted sums of a few elements along an axis."""
    shape = [1] * x.dim()
    shape[axis] = -1
    parts = [
        x.index_select(axis, torch.from_numpy(places.copy())) * torch.from_numpy(weights.copy()).reshape(shape)
        for places, weights in zip(taps.places.T, taps.weights.T, strict=True)
    ]
    return torch.stack(parts).sum(0)


def _resize(node: Node, x: _Arguments, constants: _Constants) -> Tensor:
    a, (height, width) = node.attributes, x[0].shape[2:]
    rest = a["mode"], a["coordinates"], a["rounding"]
    columns = resize_taps(width, a["size"][1], a["step_x"], *rest)
    return _along(_along(x[0], columns, 3), resize_taps(height, a["size"][0], a["step_y"], *rest), 2)


def _extend(node: Node, x: _Arguments, constants: _Constants) -> Tensor:
    (top, left, bottom, right), mode = node.attributes["pads"], node.attributes["mode"]
    columns = extend_taps(x[0].shape[3], left, right, mode)
    return _along(_along(x[0], columns, 3), extend_taps(x[0].shape[2], top, bottom, mode), 2)


_REDUCTIONS: Mapping[str, Callable[..., Tensor]] = {
    "mean": torch.mean,
    "sum": torch.sum,
    "maximum": torch.amax,
    "minimum": torch.amin,
}


def _reduce(node: Node, x: _Arguments, constants: _Constants) -> Tensor:
    axes = tuple(axis + 1 for axis in node.attributes["axes"])
    return _REDUCTIONS[node.attributes["function"]](x[0], axes, keepdim=True)


def _softmax(node: Node, x: _Arguments, constants: _Constants) -> Tensor:
    return x[0].softmax(node.attributes["axis"] + 1)


def _lrn(node: Node, x: _Arguments, constants: _Constants) -> Tensor:
    a, channels = node.attributes, x[0].shape[1]
    before = (a["size"] - 1) // 2
    squares = F.pad(x[0] ** 2, (0, 0, 0, 0, before, a["size"] - 1 - before))
    total = torch.stack([squares[:, i : i + channels] for i in range(a["size"])]).sum(0)
    return x[0] / (a["bias"] + a["alpha"] / a["size"] * total) ** a["beta"]


MOVING: Mapping[str, Callable[[Node, _Arguments, _Constants], Tensor]] = {
    "flatten": _flatten,
    "concat": _concat,
    "pad": _pad,
    "slice": _slice,
    "reshape": _reshape,
    "rearrange": _rearrange,
    "resize": _resize,
    "extend": _extend,
    "reduce": _reduce,
    "softmax": _softmax,
    "lrn": _lrn,
}
