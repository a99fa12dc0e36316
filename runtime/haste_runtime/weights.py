"""How weights are stored, and what the stored numbers mean.

Weights of convolutions and linear layers are float32, float16, or int8 with a float32 for each output channel, the
constant of role ``weight_scale``: w[o] = stored[o] * scale[o], symmetric, in -127..127. Everything that needs the
values asks here; only who packs stored weights as they are looks at the constants themselves.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from haste_runtime.graph import Constant, Graph, Node

LARGEST = 127  # magnitude of an int8 weight


def quantise(weight: Constant) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Weights (O, ...) as int8, and their scales (O,): the largest magnitude of a channel becomes 127.

    A channel of zeros has the scale 1. NaN and infinity show in the scale, which is then not finite.
    """
    weight = weight.astype(np.float32, copy=False)
    scale = np.abs(weight).max(axis=tuple(range(1, weight.ndim))) / np.float32(LARGEST)
    scale[scale == 0] = 1
    with np.errstate(invalid="ignore"):
        steps = np.rint(weight / _column(scale, weight.ndim)).clip(-LARGEST, LARGEST)
        return steps.astype(np.int8), scale


def decode(stored: Constant, scale: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """Stored weights (O, ...) as float32; ``scale`` (O,) for int8, else None. Shares memory where nothing changes."""
    weight = stored.astype(np.float32, copy=False)
    return weight if scale is None else weight * _column(scale, weight.ndim)


def _column(scale: NDArray[np.float32], dimensions: int) -> NDArray[np.float32]:
    return scale.reshape(-1, *(1,) * (dimensions - 1))


def float_weight(graph: Graph, node: Node) -> NDArray[np.float32]:
    """The weights of a convolution or linear layer, however they are stored."""
    return decode(graph.constants[node.constants["weight"]], graph.constant(node, "weight_scale"))


def float_graph(graph: Graph) -> Graph:
    """The graph with every constant float32 and without scales: it computes what the stored one means."""
    constants = {key: constant.astype(np.float32, copy=False) for key, constant in graph.constants.items()}
    nodes = []
    for node in graph.nodes:
        if "weight_scale" in node.constants:
            constants[node.constants["weight"]] = float_weight(graph, node)
            node = replace(node, constants={r: k for r, k in node.constants.items() if r != "weight_scale"})
        nodes.append(node)
    used = {key for node in nodes for key in node.constants.values()}
    scales = {node.constants.get("weight_scale") for node in graph.nodes} - used
    return replace(graph, nodes=tuple(nodes), constants={k: c for k, c in constants.items() if k not in scales})


def int8_graph(graph: Graph, taken: Collection[str] = ()) -> Graph:
    """The graph with the weights of its convolutions and linear layers `quantise`-d; those that are stay.

    taken: names that no scale may get besides those of constants. A weight that several nodes use stays one.
    """
    constants, scales, nodes = dict(graph.constants), dict[str, str](), []
    for node in graph.nodes:
        key = node.constants.get("weight")
        if key is not None and key in constants and "weight_scale" not in node.constants:
            if key not in scales:
                name = f"{key}.scale"
                while name in constants or name in taken:
                    name += "_"
                constants[key], constants[name] = quantise(graph.constants[key])
                scales[key] = name
            node = replace(node, constants={**node.constants, "weight_scale": scales[key]})
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes), constants=constants)
