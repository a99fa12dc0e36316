"""Remove nodes that change nothing or that nobody reads, and make one slice of several in a row."""

from __future__ import annotations

import math
from dataclasses import replace

from haste_edge.passes.rewrite import Rewriter
from haste_runtime.graph import Graph, Node, Shape
from haste_runtime.operators import check_graph

_IDENTITIES = (
    "slice", "pad", "extend", "flatten", "reshape", "mean", "reduce", "adaptive_avg_pool", "adaptive_max_pool",
)  # fmt: skip


def eliminate(graph: Graph) -> Graph:
    """`Graph` without identities, dead nodes and constants of neither. Outputs keep their values and order."""
    shapes = check_graph(graph)
    rewriter = Rewriter(graph)
    for old in graph.nodes:
        node = rewriter.read(old)
        source = rewriter.nodes.get(node.inputs[0])
        both_outputs = rewriter.is_output(node.name) and rewriter.is_output(node.inputs[0])
        if not both_outputs and _is_identity(graph, node, source, shapes[old.inputs[0]], shapes[old.name]):
            rewriter.let_take_over(node.inputs[0], node)
        elif node.op == "slice" and source is not None and source.op == "slice":
            rewriter.keep(_after(source, node))
        else:
            rewriter.keep(node)
    return _without_dead(rewriter.graph())


def _is_identity(graph: Graph, node: Node, source: Node | None, before: Shape, after: Shape) -> bool:
    """Whether the node gives back its first input. ``before``, ``after``: their shapes; ``source``: what made it."""
    a = node.attributes
    if before != after:
        return False
    if node.op == "activation":
        done = "none" if source is None else source.attributes.get("activation", "none")
        return a["activation"] in ("none", done) or (a["activation"], done) == ("relu", "relu6")
    if node.op == "scale":
        scale, shift = (graph.constants[node.constants[role]] for role in ("scale", "shift"))
        return a["activation"] == "none" and bool((scale == 1).all()) and not shift.any()
    if node.op in ("max_pool", "avg_pool"):
        return (math.prod(a["kernel"]), math.prod(a["stride"])) == (1, 1)
    if node.op == "rearrange":
        moving = [axis for axis in a["axes"] if a["split"][axis] > 1]
        return moving == sorted(moving)
    if node.op == "resize":
        return (a["step_y"], a["step_x"]) == (1, 1)
    # Of these, equal shapes leave nothing to do: a mean over one pixel, a pooling to the size it has, ...
    return node.op in _IDENTITIES


def _after(first: Node, second: Node) -> Node:
    """One slice that does what the two do, reading what the first one reads."""
    a, b = first.attributes, second.attributes
    axes = range(len(a["starts"]))
    last = [a["starts"][i] + (b["stops"][i] - 1) * a["steps"][i] for i in axes]
    return replace(second, inputs=first.inputs).with_attributes(
        starts=tuple(a["starts"][i] + b["starts"][i] * a["steps"][i] for i in axes),
        stops=tuple(index + 1 for index in last),
        steps=tuple(a["steps"][i] * b["steps"][i] for i in axes),
    )


def _without_dead(graph: Graph) -> Graph:
    live = set(graph.outputs)
    for node in reversed(graph.nodes):
        if node.name in live:
            live.update(node.inputs)
    rewriter = Rewriter(graph)
    for node in graph.nodes:
        if node.name in live:
            rewriter.keep(node)
    return rewriter.graph()
