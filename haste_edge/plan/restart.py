"""Running a network again from one node on: what changes when only that node's convolution is computed differently."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from haste_runtime.graph import Graph, Shape, Value


def downstream(graph: Graph, name: str, shapes: Mapping[str, Shape]) -> Graph:
    """The node ``name`` and every node that depends on it, as a graph of its own.

    Values they read from the rest of the network become its inputs; its outputs are those outputs of the network that
    depend on the node (there may be none).
    """
    affected = {name}
    nodes = []
    for node in graph.nodes:
        if node.name in affected or affected.intersection(node.inputs):
            affected.add(node.name)
            nodes.append(node)
    needed = dict.fromkeys(value for node in nodes for value in node.inputs if value not in affected)
    keys = {key for node in nodes for key in node.constants.values()}
    return replace(
        graph,
        inputs=tuple(Value(value, shapes[value]) for value in needed),
        outputs=tuple(output for output in graph.outputs if output in affected),
        nodes=tuple(nodes),
        constants={key: constant for key, constant in graph.constants.items() if key in keys},
    )


def read_from_outside(graph: Graph, names: list[str], shapes: Mapping[str, Shape]) -> set[str]:
    """All values that restarts from any of these nodes read: what one full run must keep."""
    return {value.name for name in names for value in downstream(graph, name, shapes).inputs}
