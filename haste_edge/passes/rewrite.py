"""What passes share: walk a graph in order, replace nodes, let a node's readers read another one instead."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from haste_runtime.graph import Constant, Graph, Node


class Rewriter:
    """A graph under construction: `nodes` by name, in topological order, holds what has been kept so far."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self.nodes: dict[str, Node] = {}
        self.constants: dict[str, Constant] = dict(graph.constants)
        self._outputs = list(graph.outputs)
        self._readings = Counter(name for node in graph.nodes for name in node.inputs)
        self._taken_over: dict[str, str] = {}

    def read(self, node: Node) -> Node:
        """The node of the old graph with the names its inputs have in the new one."""
        return replace(node, inputs=tuple(self._taken_over.get(name, name) for name in node.inputs))

    def keep(self, node: Node) -> None:
        """Adds the node at the end; a kept node of the same name moves there."""
        self.nodes.pop(node.name, None)
        self.nodes[node.name] = node

    def insert(self, node: Node, before: Node) -> None:
        """Puts a node between ``before``, which is kept already, and the value that it reads first."""
        nodes: dict[str, Node] = {}
        for name, kept in self.nodes.items():
            if name == before.name:
                nodes[node.name] = node
                kept = replace(kept, inputs=(node.name, *kept.inputs[1:]))
            nodes[name] = kept
        self.nodes = nodes
        self._readings[node.name] = 1

    def unused_key(self, key: str) -> str:
        """``key``, or something like it that no constant is called."""
        while key in self.constants:
            key = f"{key}_"
        return key

    def read_once(self, name: str) -> bool:
        """Whether a single node reads the value, once, and it is not an output: only then may a fold change it."""
        return self._readings[name] == 1 and name not in self._outputs

    def is_output(self, name: str) -> bool:
        return name in self._outputs

    def let_take_over(self, name: str, node: Node) -> None:
        """The value ``name`` replaces ``node``, which read it and is not kept."""
        self._readings[name] += self._readings[node.name] - node.inputs.count(name)
        self._taken_over[node.name] = name
        self._outputs = [name if output == node.name else output for output in self._outputs]

    def graph(self) -> Graph:
        """The new graph, without constants that no node names."""
        used = {key for node in self.nodes.values() for key in node.constants.values()}
        constants: Mapping[str, Constant] = {key: value for key, value in self.constants.items() if key in used}
        return Graph(self._graph.inputs, tuple(self._outputs), tuple(self.nodes.values()), constants)
