"""Fold a border of zeros that a node adds to a map into the padding of the convolution that reads it."""

from __future__ import annotations

from dataclasses import replace

from haste_edge.passes.rewrite import Rewriter
from haste_runtime.graph import Graph, Node


def fold_padding(graph: Graph) -> Graph:
    """`Graph` without the pad nodes that only convolutions read and that add zeros around height and width."""
    rewriter = Rewriter(graph)
    pads = {node.name: node for node in graph.nodes if node.op == "pad" and _is_border_of_zeros(node)}
    readers = graph.consumers()
    for name in list(pads):
        only_convolutions = all(node.op == "conv" and node.inputs.count(name) == 1 for node in readers[name])
        # as a residual the padded map itself is needed
        if rewriter.is_output(name) or not only_convolutions or any(node.inputs[0] != name for node in readers[name]):
            del pads[name]
    for node in graph.nodes:
        if node.op == "conv" and node.inputs[0] in pads:
            pad = pads[node.inputs[0]]
            padding = tuple(a + b for a, b in zip(node.attributes["padding"], _border(pad), strict=True))
            rewriter.keep(replace(node, inputs=(*pad.inputs, *node.inputs[1:])).with_attributes(padding=padding))
        elif node.name not in pads:
            rewriter.keep(node)
    return rewriter.graph()


def _is_border_of_zeros(node: Node) -> bool:
    return node.attributes["value"] == 0 and node.attributes["pads"][:2] == (0, 0)


def _border(pad: Node) -> tuple[int, int, int, int]:
    """top, left, bottom, right"""
    _, _, top, bottom, left, right = pad.attributes["pads"]
    return top, left, bottom, right
