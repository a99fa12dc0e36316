"""Print a graph as a table, to see what a front end or a pass made."""

from __future__ import annotations

from typing import Any

from haste_runtime.graph import Graph, Node, Shape
from haste_runtime.operators import check_graph

_HEAD = ("name", "op", "inputs", "shape", "attributes")


def format_graph(graph: Graph) -> str:
    """A line per input and node (name, operator, inputs, per-frame shape, attributes, constants), then the outputs.

    Raises GraphError if the graph is not well formed.
    """
    shapes = check_graph(graph)
    rows = [_HEAD]
    rows += [(value.name, "input", "", _sizes(value.shape), "") for value in graph.inputs]
    for node in graph.nodes:
        rows.append((node.name, node.op, ", ".join(node.inputs), _sizes(shapes[node.name]), _details(graph, node)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD) - 1)]
    lines = ["  ".join([*map(str.ljust, row, widths), row[-1]]).rstrip() for row in rows]
    return "\n".join([*lines, f"outputs: {', '.join(graph.outputs)}", f"{graph.parameters()} parameters"])


def _sizes(shape: Shape) -> str:
    return "x".join(map(str, shape))


def _details(graph: Graph, node: Node) -> str:
    said = [f"{role}={_sizes(graph.constants[key].shape)}" for role, key in node.constants.items()]
    return " ".join([*(f"{key}={_value(value)}" for key, value in node.attributes.items()), *said])


def _value(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
