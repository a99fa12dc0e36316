"""Write a `Graph` down as the nodes and constants of an ONNX graph; what an operator becomes, the rules say.

A value keeps its name, and so does the node that makes it. What takes several ONNX nodes has the steps between named
after it: "layer1", made of "layer1.conv" and "layer1.add", or "layer1.add_1" where that name is taken. Shapes are
batched: the batch is in front, and of any size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from haste_runtime.graph import Graph, Node, Shape
from haste_runtime.operators import check_graph

BATCH = "N"
TO_FIRST, TO_LAST = (0, 3, 1, 2), (0, 2, 3, 1)  # permutations that bring channels first, or last


@dataclass(frozen=True)
class Call:
    """One node of the graph, as a rule sees it.

    inputs: names of the values it reads, in the ONNX graph. shapes: theirs, per frame. shape: of the result.
    """

    writer: Writer
    node: Node
    inputs: tuple[str, ...]
    shapes: tuple[Shape, ...]
    shape: Shape

    def __getitem__(self, attribute: str) -> Any:
        return self.node.attributes[attribute]

    def step(self, operation: str, *inputs: str, **attributes: Any) -> str:
        """Adds an ONNX node, and gives the name of its result. Tuples of attributes become lists."""
        return self.writer.add(operation, inputs, f"{self.node.name}.{operation.lower()}", attributes)

    def constant(self, role: str, trailing: int = 0) -> str:
        """The node's constant; ``trailing`` axes of length 1 are appended, so that it lies along the channels."""
        return self.writer.weight(self.node.constants[role], trailing)

    def has(self, role: str) -> bool:
        return role in self.node.constants

    def numbers(self, values: ArrayLike, dtype: DTypeLike = np.int64) -> str:
        """A constant of the rule's own."""
        return self.writer.constant(f"{self.node.name}.numbers", np.asarray(values, dtype))

    def number(self, value: float) -> str:
        return self.numbers(value, np.float32)

    def per_channel(self, role: str) -> str:
        """A constant (C,) so that it is repeated along the other axes of the first input."""
        return self.constant(role, trailing=len(self.shapes[0]) - 1)

    def activated(self, x: str) -> str:
        """The end of the operators that have an activation."""
        kind = self["activation"]
        if kind == "none":
            return x
        return self.step("Relu", x) if kind == "relu" else self.step("Clip", x, self.number(0), self.number(6))


OnnxRule = Callable[[Call], str]  # gives the name of the result


class Writer:
    """State of one export. graph: with all constants float32, as `haste_runtime.weights.float_graph` gives it."""

    def __init__(self, graph: Graph, layout: str) -> None:
        """layout: of maps that enter and leave, "NCHW" or "NHWC"."""
        self._graph, self._last = graph, layout == "NHWC"
        self._shapes = check_graph(graph)
        self._taken, self._counts = set(graph.names()), Counter[str]()
        self._nodes: list[NodeProto] = []
        self._constants: dict[str, TensorProto] = {}
        self._weights: dict[tuple[str, int], str] = {}
        self._values = {name: name for name in graph.names()}  # of the graph -> in the ONNX graph, channels first

    def write(self, rules: Mapping[str, OnnxRule]) -> GraphProto:
        """The whole graph. ``rules`` has one for every operator in it."""
        for value in self._graph.inputs:
            if self._turned(value.name):
                self._values[value.name] = self.add(
                    "Transpose", [value.name], f"{value.name}.channels_first", {"perm": TO_FIRST}
                )
        inner = {
            node.name for node in self._graph.nodes if node.name in self._graph.outputs and self._turned(node.name)
        }
        for node in self._graph.nodes:
            inputs = tuple(self._values[name] for name in node.inputs)
            shapes = tuple(self._shapes[name] for name in node.inputs)
            result = rules[node.op](Call(self, node, inputs, shapes, self._shapes[node.name]))
            if node.name in inner:
                self._values[node.name] = result
                result = self.add("Transpose", [result], f"{node.name}.channels_last", {"perm": TO_LAST})
            self._call_last(result, node.name)
        return helper.make_graph(
            self._nodes,
            "network",
            [self._described(value.name) for value in self._graph.inputs],
            [self._described(name) for name in self._graph.outputs],
            list(self._constants.values()),
        )

    def add(self, operation: str, inputs: Sequence[str], name: str, attributes: Mapping[str, Any]) -> str:
        name = self._unused(name)
        plain: dict[str, Any] = {key: list(v) if isinstance(v, tuple) else v for key, v in attributes.items()}
        self._nodes.append(helper.make_node(operation, list(inputs), [name], name=name, **plain))
        return name

    def constant(self, name: str, array: np.ndarray) -> str:
        name = self._unused(name)
        self._constants[name] = numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
        return name

    def weight(self, key: str, trailing: int) -> str:
        """A constant of the graph, once for all nodes that read it so."""
        if (key, trailing) not in self._weights:
            array = self._graph.constants[key]
            self._weights[key, trailing] = self.constant(key, array.reshape(*array.shape, *(1,) * trailing))
        return self._weights[key, trailing]

    def _call_last(self, result: str, name: str) -> None:
        """The result of the node added last gets the name; a rule that added none gets a node that copies."""
        if not self._nodes or self._nodes[-1].output[0] != result or result in self._values.values():
            self.add("Identity", [result], name, {})
        last = self._nodes[-1]
        last.name, last.output[0] = name, name

    def _turned(self, name: str) -> bool:
        return self._last and len(self._shapes[name]) == 3

    def _described(self, name: str) -> ValueInfoProto:
        shape = self._shapes[name]
        own = (*shape[1:], shape[0]) if self._turned(name) else shape
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [BATCH, *own])

    def _unused(self, name: str) -> str:
        unused = name
        while unused in self._taken:
            self._counts[name] += 1
            unused = f"{name}_{self._counts[name]}"
        self._taken.add(unused)
        return unused
