"""Call outputs what the original calls them, after passes that let earlier nodes take over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from haste_runtime.graph import Graph


def name_outputs(graph: Graph, names: Sequence[str]) -> Graph:
    """`Graph` whose outputs have these names, in order, where there are any.

    A node that has such a name already gets another one. An output that is an input itself keeps its name.
    """
    inputs = {value.name for value in graph.inputs}
    renamed = {
        old: new
        for old, new in zip(graph.outputs, names, strict=bool(names))
        if old not in inputs and new not in inputs and new.isprintable()
    }
    taken = {*graph.names(), *renamed.values()}
    for name in set(renamed.values()) & set(graph.names()) - set(renamed):
        other = f"{name}.inner"
        while other in taken:
            other += "_2"
        taken.add(other)
        renamed[name] = other

    def now(name: str) -> str:
        return renamed.get(name, name)

    nodes = tuple(replace(n, name=now(n.name), inputs=tuple(map(now, n.inputs))) for n in graph.nodes)
    return Graph(graph.inputs, tuple(map(now, graph.outputs)), nodes, graph.constants)
