"""The network as the bundle holds it and the runtime runs it: frozen dataclasses over named tensors.

Shapes are per frame, without the batch: ``(C, H, W)`` for maps, ``(F,)`` for vectors. A node has one output, named like
the node. What each operator means, its attributes and its output shape are in `haste_runtime.operators`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haste_runtime.record import record

Shape = tuple[int, ...]
Constant = NDArray[Any]  # float32, float16 or int8, C-contiguous; `haste_runtime.weights` tells what they mean


@record(frozen=True)
class Value:
    """A graph input: its name and per-frame shape."""

    name: str
    shape: Shape


@record(frozen=True)
class Node:
    """One operation.

    op: a key of `haste_runtime.operators.OPERATORS`.
    inputs: names of graph inputs or earlier nodes.
    attributes: numbers, strings or tuples of integers, as the operator's entry demands; all are present.
    constants: role ("weight", "weight_scale", "bias", "scale", "shift") -> key in `Graph.constants`.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    constants: Mapping[str, str] = field(default_factory=dict)

    def with_attributes(self, **changes: Any) -> Node:
        return replace(self, attributes={**self.attributes, **changes})


@record(frozen=True)
class Graph:
    """Nodes in topological order; `constants` are numpy arrays; `outputs` name nodes (or inputs)."""

    inputs: tuple[Value, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    constants: Mapping[str, Constant]

    def names(self) -> list[str]:
        """Every value: the inputs, then the nodes."""
        return [v.name for v in self.inputs] + [n.name for n in self.nodes]

    def consumers(self) -> dict[str, list[Node]]:
        """For each value the nodes that read it, once per reading; graph outputs are not counted."""
        users: dict[str, list[Node]] = {name: [] for name in self.names()}
        for node in self.nodes:
            for name in node.inputs:
                users[name].append(node)
        return users

    def node(self, name: str) -> Node:
        return next(n for n in self.nodes if n.name == name)

    def constant(self, node: Node, role: str) -> Constant | None:
        key = node.constants.get(role)
        return None if key is None else self.constants[key]

    def parameters(self) -> int:
        """How many numbers the constants hold; scales of stored weights are not counted."""
        scales = {node.constants.get("weight_scale") for node in self.nodes}
        return int(sum(np.size(constant) for key, constant in self.constants.items() if key not in scales))
