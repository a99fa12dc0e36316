"""Make one node of several in a row that only move numbers, and none where they put them back.

A channel shuffle, which frameworks write as a reshape, a transpose and another reshape, becomes one permutation; a
transpose and its inverse vanish.
"""

from __future__ import annotations

from typing import NamedTuple

from haste_edge.passes.rewrite import Rewriter
from haste_runtime.attributes import MAX_RANK
from haste_runtime.graph import Graph, Node, Shape
from haste_runtime.operators import check_graph
from haste_runtime.rearranging import common_split, grouped


class Move(NamedTuple):
    """A shape split into factors, and these in another order."""

    split: Shape
    axes: tuple[int, ...]

    @property
    def permuted(self) -> Shape:
        return tuple(self.split[axis] for axis in self.axes)


def join_moves(graph: Graph) -> Graph:
    """`Graph` in which no reshape, flatten or rearrange reads another one, where both together can be one."""
    shapes = check_graph(graph)
    rewriter = Rewriter(graph)
    for old in graph.nodes:
        node = rewriter.read(old)
        source = rewriter.nodes.get(node.inputs[0])
        joined = None if source is None else _joined(node, source, shapes)
        if joined is not None:
            assert source is not None
            node = _as_node(node.name, source.inputs[0], joined, shapes[node.name])
        rewriter.keep(node)
    return rewriter.graph()


def _as_move(node: Node, shapes: dict[str, Shape]) -> Move | None:
    before, after = shapes[node.inputs[0]], shapes[node.name]
    if node.op == "rearrange":
        return Move(node.attributes["split"], node.attributes["axes"])
    if node.op == "flatten" and node.attributes["order"] == "HWC" and len(before) == 3:
        return Move(before, (1, 2, 0))
    if node.op in ("flatten", "reshape"):
        split = common_split(before, after)
        return None if split is None else Move(split, tuple(range(len(split))))
    return None


def _joined(node: Node, source: Node, shapes: dict[str, Shape]) -> Move | None:
    first, second = _as_move(source, shapes), _as_move(node, shapes)
    return None if first is None or second is None else join(first, second)


def join(first: Move, second: Move) -> Move | None:
    """What both do, one after the other; None if there are no factors, or too many, that both split into."""
    common = common_split(first.permuted, second.split)
    before = common and grouped(first.permuted, common)
    after = common and grouped(second.split, common)
    if not before or not after:
        return None
    place = {axis: position for position, axis in enumerate(first.axes)}
    split = [factor for axis in range(len(first.split)) for factor in before[place[axis]]]
    starts = {axis: sum(len(before[place[other]]) for other in range(axis)) for axis in first.axes}
    numbers = [starts[axis] + i for position, axis in enumerate(first.axes) for i in range(len(before[position]))]
    begins = [sum(map(len, after[:axis])) for axis in range(len(second.split))]
    axes = [numbers[begins[axis] + i] for axis in second.axes for i in range(len(after[axis]))]
    return Move(tuple(split), tuple(axes)) if len(split) <= MAX_RANK else None


def _as_node(name: str, x: str, move: Move, after: Shape) -> Node:
    if list(move.axes) == sorted(move.axes):
        return Node(name, "reshape", (x,), {"shape": after})
    return Node(name, "rearrange", (x,), {"split": move.split, "axes": move.axes, "shape": after})
