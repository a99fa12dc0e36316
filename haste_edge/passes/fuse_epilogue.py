"""Fuse what follows a layer into it: the activation, and the addition of a residual.

A convolution then writes its result once, as activation(convolution + bias + residual). The layer must have one reader
and no activation of its own. An addition is fused into that operand which is a convolution computed last, and moves
the convolution to where the addition was, after the other operand.
"""

from __future__ import annotations

from dataclasses import replace

from haste_edge.passes.rewrite import Rewriter
from haste_runtime.graph import Graph, Node

_WITH_ACTIVATION = ("conv", "linear", "scale", "add", "binary")


def fuse_epilogue(graph: Graph) -> Graph:
    """`Graph` with activations and residual additions fused where that is exact."""
    rewriter = Rewriter(graph)
    for old in graph.nodes:
        node = rewriter.read(old)
        if not (node.op == "activation" and _fuse_activation(rewriter, node)) and not (
            node.op == "add" and _fuse_residual(rewriter, node)
        ):
            rewriter.keep(node)
    return rewriter.graph()


def _fuse_activation(rewriter: Rewriter, node: Node) -> bool:
    layer = rewriter.nodes.get(node.inputs[0])
    if layer is None or layer.op not in _WITH_ACTIVATION or layer.attributes["activation"] != "none":
        return False
    if not rewriter.read_once(layer.name):
        return False
    rewriter.nodes[layer.name] = layer.with_attributes(activation=node.attributes["activation"])
    rewriter.let_take_over(layer.name, node)
    return True


def _fuse_residual(rewriter: Rewriter, node: Node) -> bool:
    position = {name: index for index, name in enumerate(rewriter.nodes)}
    for name in sorted(node.inputs, key=lambda name: position.get(name, -1), reverse=True):
        layer = rewriter.nodes.get(name)
        if layer is None or layer.op != "conv" or len(layer.inputs) != 1 or layer.attributes["activation"] != "none":
            continue
        if rewriter.read_once(name):
            residual = next(other for other in node.inputs if other != name)
            fused = replace(layer, inputs=(*layer.inputs, residual))
            rewriter.keep(fused.with_attributes(activation=node.attributes["activation"]))
            rewriter.let_take_over(name, node)
            return True
    return False
