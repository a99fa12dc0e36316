"""Find where torch's exporter wrote ``as_strided`` out: a Reshape to one vector, and a Gather of all its numbers.

Where the numbers are gathered in their order, as torch decomposes a mean over maps that lie channels last, both
together are a reshape. The vector between them holds all frames, so it is never a value of the graph.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from onnx import GraphProto, NodeProto

from haste_edge.frontends.values import Array


class Strided(NamedTuple):
    """source: what the Reshape reads. vector, result: what the Reshape and the Gather give. shape: of the result."""

    source: str
    vector: str
    result: str
    shape: tuple[int, ...]

    def fits(self, source: tuple[int, ...], batch: int) -> bool:
        """Whether this only reshapes a source of that shape per frame, and keeps the batch in front."""
        return self.shape[:1] == (batch,) and math.prod(self.shape) == batch * math.prod(source)


def find_strided(graph: GraphProto, weights: Mapping[str, Array]) -> dict[str, Strided]:
    """By vector and by result. weights: the file's constants by name."""
    makers = {node.output[0]: node for node in graph.node if node.output}
    reads = Counter(name for node in graph.node for name in node.input)
    reads.update(output.name for output in graph.output)
    found: dict[str, Strided] = {}
    for node in graph.node:
        vector = makers.get(node.input[0]) if _is(node, "Gather") else None
        if vector is None or not _is(vector, "Reshape") or reads[vector.output[0]] != 1:
            continue
        target, places = weights.get(vector.input[1]), weights.get(node.input[1])
        if (
            target is None
            or places is None
            or target.size != 1
            or any(a.name == "axis" and a.i for a in node.attribute)
        ):
            continue
        if places.dtype.kind == "i" and np.array_equal(places.reshape(-1), np.arange(places.size)):
            strided = Strided(vector.input[0], vector.output[0], node.output[0], places.shape)
            found |= {strided.vector: strided, strided.result: strided}
    return found


def _is(node: NodeProto, operation: str) -> bool:
    """With as many inputs and outputs as the operation has: what is no such node is refused later."""
    return (node.op_type, node.domain, len(node.input), len(node.output)) == (operation, "", 2, 1)
