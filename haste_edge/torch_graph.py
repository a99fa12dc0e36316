"""Run a `Graph` with torch on a batch: the compiler's yardstick, and what planning measures layers with.

Every operator of `haste_runtime.operators` has one small function here, called with the node, the batched inputs and
the node's constants. A convolution can be replaced by name, which is how a merged layer is simulated: the replacement
returns convolution + bias, and the residual and the activation of the node are applied here as for the plain one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from haste_edge.torch_functions import BINARY, UNARY
from haste_edge.torch_moving import MOVING
from haste_runtime.errors import GraphError
from haste_runtime.graph import Graph, Node
from haste_runtime.weights import float_graph

Convolution = Callable[[Node, Tensor], Tensor]


@dataclass(frozen=True)
class Recorded:
    """What a run gave: the graph's outputs and the values asked for with ``record``, all batched (N, ...)."""

    outputs: dict[str, Tensor]
    values: dict[str, Tensor]


@dataclass(frozen=True)
class Prepared:
    """A graph with its constants as torch tensors, and for each node the values nobody reads after it."""

    graph: Graph
    constants: Mapping[str, Tensor]
    finished: tuple[tuple[str, ...], ...]


def prepare(graph: Graph) -> Prepared:
    """Converts the constants once, for callers that run the same graph many times. Constants become float32, and scales
    of stored weights are multiplied in."""
    graph = float_graph(graph)
    constants = {
        key: torch.from_numpy(np.require(array, np.float32, ["C", "W"])) for key, array in graph.constants.items()
    }
    last: dict[str, int] = {node.name: index for index, node in enumerate(graph.nodes)}  # unread values end at once
    for index, node in enumerate(graph.nodes):
        last.update(dict.fromkeys(node.inputs, index))
    finished: list[list[str]] = [[] for _ in graph.nodes]
    for name, index in last.items():
        if name not in graph.outputs:
            finished[index].append(name)
    return Prepared(graph, constants, tuple(map(tuple, finished)))


@torch.no_grad()
def run(
    graph: Graph | Prepared,
    inputs: Mapping[str, Tensor],
    convolve: Mapping[str, Convolution] | None = None,
    record: Collection[str] = (),
) -> Recorded:
    """The graph's outputs for a batch.

    inputs: input name -> float32 tensor (N, C, H, W) or (N, F). convolve: node name -> function that replaces that
    node's convolution; it gets the node and its input (N, C, H, W) and returns convolution + bias (N, O, H', W').
    record: names of nodes or inputs whose values to return (values nobody asked for are freed on the way).
    Raises GraphError for a missing input, a wrong input shape, or an unknown name in ``convolve`` or ``record``.
    """
    prepared = graph if isinstance(graph, Prepared) else prepare(graph)
    graph = prepared.graph
    _check_names(graph, inputs, convolve or {}, record)
    replacements = convolve or {}
    values: dict[str, Tensor] = {value.name: inputs[value.name] for value in graph.inputs}
    recorded = {name: values[name] for name in record if name in values}
    for node, finished in zip(graph.nodes, prepared.finished, strict=True):
        arguments = [values[name] for name in node.inputs]
        constants = {role: prepared.constants[key] for role, key in node.constants.items()}
        if node.name in replacements:
            values[node.name] = _epilogue(node, replacements[node.name](node, arguments[0]), arguments[1:])
        else:
            values[node.name] = _OPERATORS[node.op](node, arguments, constants)
        if node.name in record:
            recorded[node.name] = values[node.name]
        for name in finished:
            del values[name]
    return Recorded({name: values[name] for name in graph.outputs}, recorded)


def _check_names(
    graph: Graph, inputs: Mapping[str, Tensor], convolve: Mapping[str, Convolution], record: Collection[str]
) -> None:
    for value in graph.inputs:
        if value.name not in inputs:
            raise GraphError(f"The graph's input {value.name!r} was not given.", f"Given: {sorted(inputs)}.")
        if tuple(inputs[value.name].shape[1:]) != value.shape:
            raise GraphError(
                f"Input {value.name!r} has shape {tuple(inputs[value.name].shape)}, not (N, *{value.shape}).",
                "The first dimension is the batch.",
            )
    ops = {node.name: node.op for node in graph.nodes}
    for name in convolve:
        if ops.get(name) != "conv":
            raise GraphError(f"There is no convolution {name!r} to replace.", "Use the name of a conv node.")
    for name in record:
        if name not in ops and all(name != value.name for value in graph.inputs):
            raise GraphError(f"There is no value {name!r} to record.", "Use the name of a node or of an input.")


def activate(kind: str, x: Tensor) -> Tensor:
    """The activation called "none", "relu" or "relu6", elementwise."""
    if kind == "none":
        return x
    return torch.relu(x) if kind == "relu" else F.relu6(x)  # what PyTorch's own optimisers know


def _epilogue(node: Node, y: Tensor, residual: list[Tensor]) -> Tensor:
    return activate(node.attributes["activation"], y + residual[0] if residual else y)


_Arguments = list[Tensor]
_Constants = Mapping[str, Tensor]


def _conv(node: Node, x: _Arguments, constants: _Constants) -> Tensor:
    a = node.attributes
    top, left, bottom, right = a["padding"]
    image, padding = x[0], (top, left)
    if (top, left) != (bottom, right):
        image, padding = F.pad(image, (left, right, top, bottom)), (0, 0)
    bias = constants.get("bias")
    y = F.conv2d(image, constants["weight"], bias, a["stride"], padding, a["dilation"], a["groups"])
    return _epilogue(node, y, x[1:])


def _linear(node: Node, x: _Arguments, constants: _Constants) -> Tensor:
    return activate(node.attributes["activation"], F.linear(x[0], constants["weight"], constants.get("bias")))


def _scale(node: Node, x: _Arguments, constants: _Constants) -> Tensor:
    per_channel = (-1, *(1,) * (x[0].dim() - 2))
    y = x[0] * constants["scale"].view(per_channel) + constants["shift"].view(per_channel)
    return activate(node.attributes["activation"], y)


def _add(node: Node, x: _Arguments, constants: _Constants) -> Tensor:
    return activate(node.attributes["activation"], x[0] + x[1])


def _activation(node: Node, x: _Arguments, constants: _Constants) -> Tensor:
    return activate(node.attributes["activation"], x[0])


def _unary(node: Node, x: _Arguments, constants: _Constants) -> Tensor:
    return UNARY[node.attributes["function"]](x[0], node.attributes["alpha"], node.attributes["beta"])


def _prelu(node: Node, x: _Arguments, constants: _Constants) -> Tensor:
    return F.prelu(x[0], constants["slope"])


def _binary(node: Node, x: _Arguments, constants: _Constants) -> Tensor:
    second = x[1] if len(x) == 2 else constants["other"]
    return activate(node.attributes["activation"], BINARY[node.attributes["function"]](x[0], second))


def _max_pool(node: Node, x: _Arguments, constants: _Constants) -> Tensor:
    a = node.attributes
    top, left, bottom, right = a["padding"]
    image = F.pad(x[0], (left, right, top, bottom), value=-torch.inf) if any(a["padding"]) else x[0]
    return F.max_pool2d(image, a["kernel"], a["stride"], 0, a["dilation"])


def _avg_pool(node: Node, x: _Arguments, constants: _Constants) -> Tensor:
    a = node.attributes
    top, left, bottom, right = a["padding"]
    borders = (left, right, top, bottom)
    if not any(borders):
        return F.avg_pool2d(x[0], a["kernel"], a["stride"])
    mean = F.avg_pool2d(F.pad(x[0], borders), a["kernel"], a["stride"])
    if a["count_include_pad"]:
        return mean
    inside = F.pad(torch.ones_like(x[0][:1, :1]), borders)  # the share of each window that lies on the map
    return mean / F.avg_pool2d(inside, a["kernel"], a["stride"])


def _adaptive_avg_pool(node: Node, x: _Arguments, constants: _Constants) -> Tensor:
    return F.adaptive_avg_pool2d(x[0], node.attributes["size"])


def _adaptive_max_pool(node: Node, x: _Arguments, constants: _Constants) -> Tensor:
    return F.adaptive_max_pool2d(x[0], node.attributes["size"])


def _mean(node: Node, x: _Arguments, constants: _Constants) -> Tensor:
    return x[0].mean((2, 3), keepdim=bool(node.attributes["keepdim"]))


_OPERATORS: Mapping[str, Callable[[Node, _Arguments, _Constants], Tensor]] = {
    "conv": _conv,
    "linear": _linear,
    "scale": _scale,
    "add": _add,
    "activation": _activation,
    "unary": _unary,
    "prelu": _prelu,
    "binary": _binary,
    "max_pool": _max_pool,
    "avg_pool": _avg_pool,
    "adaptive_avg_pool": _adaptive_avg_pool,
    "adaptive_max_pool": _adaptive_max_pool,
    "mean": _mean,
    **MOVING,
}
