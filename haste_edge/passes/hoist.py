"""Do what is done number by number before numbers are moved, so that it can be fused into the layer before the moves.

A transposed convolution is a convolution whose channels are shuffled into pixels; batch norm and an activation behind
it then fold like behind any other.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haste_edge.passes.rewrite import Rewriter
from haste_runtime.graph import Graph, Node, Shape
from haste_runtime.operators import check_graph
from haste_runtime.reference_ops import FUNCTIONS

_MOVES = ("rearrange", "reshape", "flatten", "slice")
_BEFORE = ("conv", "scale", "activation")  # the latter two were moved there themselves


def hoist(graph: Graph) -> Graph:
    """`Graph` with scales and activations moved to right behind a convolution, where only moves lay between them."""
    shapes = check_graph(graph)
    rewriter = Rewriter(graph)
    for old in graph.nodes:
        node = rewriter.read(old)
        if node.op not in ("scale", "activation") or not _hoisted(rewriter, node, shapes):
            rewriter.keep(node)
    return rewriter.graph()


def _hoisted(rewriter: Rewriter, node: Node, shapes: dict[str, Shape]) -> bool:
    moves: list[Node] = []
    source = rewriter.nodes.get(node.inputs[0])
    while source is not None and source.op in _MOVES and rewriter.read_once(source.name):
        moves.insert(0, source)
        source = rewriter.nodes.get(source.inputs[0])
    if not moves or source is None or source.op not in _BEFORE or not rewriter.read_once(source.name):
        return False
    earlier = replace(node, inputs=(source.name,))
    if node.op == "scale":
        channels = channels_after(moves, shapes[source.name], shapes[node.name])
        if channels is None:
            return False
        keys = {role: rewriter.unused_key(f"{node.name}.{role}.before") for role in node.constants}
        for role, key in keys.items():
            values = rewriter.constants[node.constants[role]].astype(np.float32)
            rewriter.constants[key] = np.where(channels < 0, np.float32(role == "scale"), values[channels])
        earlier = replace(earlier, constants=keys)
    rewriter.let_take_over(moves[-1].name, node)
    rewriter.insert(earlier, before=moves[0])
    shapes[node.name] = shapes[source.name]
    return True


def channels_after(moves: list[Node], before: Shape, after: Shape) -> NDArray[np.int64] | None:
    """int64 (C,): for each channel the one that all its numbers are in after the moves, -1 if they are cut off. None if
    the numbers of a channel are in several."""
    numbers: NDArray[Any] = np.arange(int(np.prod(before))).reshape(before)
    for move in moves:
        numbers = FUNCTIONS[move.op](numbers, **move.attributes)
    channel = np.full(int(np.prod(before)), -1)
    channel[numbers.ravel()] = np.repeat(np.arange(after[0]), int(np.prod(after[1:])))
    rows = channel.reshape(before[0], -1)
    found = rows.max(axis=1)
    return found if ((rows == found[:, None]) | (rows < 0)).all() else None
