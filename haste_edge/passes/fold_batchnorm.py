"""Fold a scale-and-shift, which is what batch norm is in eval mode, into the layer before it.

    (w * x + b) * scale + shift  =  (w * scale) * x + (b * scale + shift)

Exact only if nobody else sees the layer's own result: it has one reader, is not an output, and has no activation and
no residual. Otherwise the scale stays a node of its own. Two scales in a row fold in the same way.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from haste_edge.passes.rewrite import Rewriter
from haste_runtime.graph import Constant, Graph, Node

_WEIGHT_AND_BIAS = {"conv": ("weight", "bias"), "linear": ("weight", "bias"), "scale": ("scale", "shift")}


def fold_batchnorm(graph: Graph) -> Graph:
    """`Graph` with the scales folded that can be; computed in float64, stored in float32."""
    rewriter = Rewriter(graph)
    folded = _Folded(graph, rewriter.constants)
    for old in graph.nodes:
        node = rewriter.read(old)
        layer = rewriter.nodes.get(node.inputs[0])
        if node.op == "scale" and layer is not None and _takes_a_scale(layer) and rewriter.read_once(layer.name):
            rewriter.nodes[layer.name] = folded.layer(layer, node)
            rewriter.let_take_over(layer.name, node)
        else:
            rewriter.keep(node)
    return rewriter.graph()


def _takes_a_scale(layer: Node) -> bool:
    return layer.op in _WEIGHT_AND_BIAS and len(layer.inputs) == 1 and layer.attributes["activation"] == "none"


class _Folded:
    """Makes folded constants. Layers that share a weight and a scale go on sharing the result."""

    def __init__(self, graph: Graph, constants: dict[str, Constant]) -> None:
        self._constants = constants
        self._users = Counter(key for node in graph.nodes for key in node.constants.values())
        self._shared: dict[tuple[str | None, ...], dict[str, str]] = {}

    def layer(self, layer: Node, scale: Node) -> Node:
        weight_role, bias_role = _WEIGHT_AND_BIAS[layer.op]
        weight_key, bias_key = layer.constants[weight_role], layer.constants.get(bias_role)
        sources = (weight_key, bias_key, scale.constants["scale"], scale.constants["shift"])
        keys = self._shared.get(sources)
        if keys is None:
            factor, shift, weight = map(self._double, (sources[2], sources[3], weight_key))
            bias = np.zeros_like(shift) if bias_key is None else self._double(bias_key)
            keys = {
                weight_role: self._place(layer, weight_role),
                bias_role: self._place(layer, bias_role),
            }
            if keys[weight_role] != weight_key:  # the sources stay as they are: others may fold them again
                self._shared[sources] = keys
            weight = weight * factor.reshape(-1, *[1] * (weight.ndim - 1))
            self._constants[keys[weight_role]] = weight.astype(np.float32)
            self._constants[keys[bias_role]] = (bias * factor + shift).astype(np.float32)
        self._users.update(keys.values())
        self._users.subtract(layer.constants.values())
        return replace(layer, constants=keys).with_attributes(activation=scale.attributes["activation"])

    def _double(self, key: str) -> NDArray[np.float64]:
        return self._constants[key].astype(np.float64)

    def _place(self, layer: Node, role: str) -> str:
        """The old key, unless another node reads that one and may not want it folded."""
        key = layer.constants.get(role)
        if key is None or self._users[key] > 1:
            key = f"{layer.name}.{role}"
            while key in self._constants:
                key = f"{key}.folded"
        return key
