"""Find GELU where exporters before operator set 20 wrote it out: y / 2 * (1 + erf(y / sqrt(2))), in any order."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

from onnx import GraphProto, NodeProto, numpy_helper

from haste_edge.frontends.values import Array


class Gelus(NamedTuple):
    """Result -> the GELU's input. ends: of the last nodes. inner: of those before them, which nothing else reads."""

    ends: Mapping[str, str]
    inner: Mapping[str, str]


def find_gelus(graph: GraphProto, weights: Mapping[str, Array]) -> Gelus:
    """weights: the file's constants by name."""
    finder, ends, inner = _Finder(graph, weights), {}, {}
    for node in graph.node:
        found = finder.at(node) if node.op_type == "Erf" else None
        if found is not None:
            ends[found[-1]] = finder.inputs[found[0]]
            inner.update(dict.fromkeys(found[:-1], finder.inputs[found[0]]))
    return Gelus(ends, inner)


class _Finder:
    """inputs: result of an Erf -> what it computes the error function of, times sqrt(2)."""

    def __init__(self, graph: GraphProto, weights: Mapping[str, Array]) -> None:
        self._weights = weights
        self._makers = {name: node for node in graph.node for name in node.output}
        self._readers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                self._readers[name].append(node)
        self._outputs = {output.name for output in graph.output}
        self.inputs: dict[str, str] = {}

    def at(self, erf: NodeProto) -> list[str] | None:
        """The results from that of the Erf to that of the GELU; None if it is none."""
        divided = self._makers.get(erf.input[0])
        y = None if divided is None else self._scaled(divided, math.sqrt(0.5))
        added = self._only_reader(erf.output[0], "Add")
        if y is None or added is None or self._number(self._other(added, erf.output[0])) != 1:
            return None
        self.inputs[erf.output[0]] = y
        chain, factors = [erf.output[0], added.output[0]], []
        for _ in range(2):
            product = self._only_reader(chain[-1], "Mul")
            if product is None:
                return None
            factors.append(self._other(product, chain[-1]))
            chain.append(product.output[0])
            if self._is_half_of(factors, y):
                return chain
        return None

    def _is_half_of(self, factors: list[str], y: str) -> bool:
        if len(factors) == 1:
            maker = self._makers.get(factors[0])
            return maker is not None and self._scaled(maker, 0.5) == y
        return y in factors and any(self._number(name) == 0.5 for name in factors)

    def _scaled(self, node: NodeProto, factor: float) -> str | None:
        """What the node multiplies by the factor, or divides by its inverse."""
        if node.domain or len(node.input) != 2 or node.op_type not in ("Mul", "Div"):
            return None
        for x, constant in (node.input, reversed(node.input)):
            number = self._number(constant)
            if number and math.isclose(number if node.op_type == "Mul" else 1 / number, factor, rel_tol=1e-4):
                return str(x)
            if node.op_type == "Div":
                break
        return None

    def _only_reader(self, name: str, op: str) -> NodeProto | None:
        readers = self._readers[name]
        if len(readers) != 1 or readers[0].op_type != op or readers[0].domain or name in self._outputs:
            return None
        return readers[0] if list(readers[0].input).count(name) == 1 else None

    def _other(self, node: NodeProto, name: str) -> str:
        return str(node.input[1] if node.input[0] == name else node.input[0])

    def _number(self, name: str) -> float | None:
        maker, array = self._makers.get(name), self._weights.get(name)
        if maker is not None and maker.op_type == "Constant":
            attribute = maker.attribute[0]
            if attribute.name == "value_float":
                return float(attribute.f)
            array = numpy_helper.to_array(attribute.t) if attribute.name == "value" else None
        return (
            float(array.reshape(-1)[0]) if array is not None and array.size == 1 and array.dtype.kind == "f" else None
        )
