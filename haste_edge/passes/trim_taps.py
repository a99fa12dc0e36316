"""Leave out the taps of a convolution that read nothing but padding, wherever it stands on its map.

A 3x3 kernel on a map of one pixel is a 1x1 kernel, and so is one whose dilation reaches over the whole map, as in
segmentation networks that are given small pictures. What is left is the same function with less arithmetic, fewer
weights, and a narrower border in memory.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from haste_edge.passes.rewrite import Rewriter
from haste_runtime.geometry import output_size
from haste_runtime.graph import Graph, Node
from haste_runtime.operators import check_graph


class Side(NamedTuple):
    """A convolution along one axis. taps: first and last + 1 of those that stay; padding: before and behind."""

    taps: tuple[int, int]
    padding: tuple[int, int]
    dilation: int


def trim_taps(graph: Graph) -> Graph:
    """`Graph` whose convolutions have no taps that always read padding."""
    rewriter, shapes = Rewriter(graph), check_graph(graph)
    for node in graph.nodes:
        rewriter.keep(_trimmed(node, shapes[node.inputs[0]][1:], rewriter) if node.op == "conv" else node)
    return rewriter.graph()


def _trimmed(node: Node, size: tuple[int, ...], rewriter: Rewriter) -> Node:
    weight = rewriter.constants[node.constants["weight"]]
    top, left, bottom, right = node.attributes["padding"]
    kernel, stride, dilation = weight.shape[2:], node.attributes["stride"], node.attributes["dilation"]
    rows, columns = map(_side, size, kernel, stride, dilation, [(top, bottom), (left, right)])
    if (rows.taps, columns.taps) == ((0, kernel[0]), (0, kernel[1])):
        return node
    key = rewriter.unused_key(f"{node.name}.weight")
    rewriter.constants[key] = weight[:, :, slice(*rows.taps), slice(*columns.taps)].copy()
    padding = (rows.padding[0], columns.padding[0], rows.padding[1], columns.padding[1])
    trimmed = replace(node, constants={**node.constants, "weight": key})
    return trimmed.with_attributes(padding=padding, dilation=(rows.dilation, columns.dilation))


def _side(size: int, kernel: int, stride: int, dilation: int, padding: tuple[int, int]) -> Side:
    count = output_size(size + sum(padding), kernel, stride, dilation)
    reads = ([tap * dilation - padding[0] + i * stride for i in range(count)] for tap in range(kernel))
    live = [tap for tap, places in enumerate(reads) if any(0 <= place < size for place in places)] or [0]
    first, last = live[0], live[-1] + 1
    before = padding[0] - first * dilation
    extent = (last - first - 1) * dilation + 1
    behind = max(0, (count - 1) * stride + extent - size - before)
    whole = Side((0, kernel), padding, dilation)
    if last - first == kernel or before < 0 or output_size(size + before + behind, extent, stride) != count:
        return whole  # or the convolution would have to begin inside the map, or to end before it does
    return Side((first, last), (before, behind), dilation if last - first > 1 else 1)
