"""Write a `Graph` down as the operations of a TFLite file; what an operator becomes, the rules say.

Maps (C, H, W) lie as (1, H, W, C) in the file, all other values as in the graph, with the batch of 1 before. A value
keeps its name; what takes several operations has the steps between named after it, as in "layer1.add". What a rule
refuses is collected, so that all of it can be told at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from haste_edge.errors import Refusal
from haste_edge.exports.tflite_builder import NONE, RELU, RELU6, TfliteBuilder
from haste_edge.frontends.refusals import Refused
from haste_runtime.graph import Graph, Node, Shape
from haste_runtime.operators import check_graph

MOST_AXES = 6  # of a value that an operator computes with, in LiteRT, the batch included
MAP_AXES = (3, 1, 2)  # where C, H and W of a map lie
FUSED = {"none": NONE, "relu": RELU, "relu6": RELU6}

_OPTIONS = {  # the schema's table for an operation, where it has one that says something
    "ADD": "AddOptions", "SUB": "SubOptions", "MUL": "MulOptions", "DIV": "DivOptions",
    "MAXIMUM": "MaximumMinimumOptions", "MINIMUM": "MaximumMinimumOptions",
    "CONV_2D": "Conv2DOptions", "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions", "AVERAGE_POOL_2D": "Pool2DOptions", "MAX_POOL_2D": "Pool2DOptions",
    "MEAN": "ReducerOptions", "SUM": "ReducerOptions", "REDUCE_MAX": "ReducerOptions", "REDUCE_MIN": "ReducerOptions",
    "SOFTMAX": "SoftmaxOptions", "LEAKY_RELU": "LeakyReluOptions", "GELU": "GeluOptions",
    "LOCAL_RESPONSE_NORMALIZATION": "LocalResponseNormalizationOptions", "CONCATENATION": "ConcatenationOptions",
    "STRIDED_SLICE": "StridedSliceOptions", "MIRROR_PAD": "MirrorPadOptions", "RESHAPE": "ReshapeOptions",
    "RESIZE_BILINEAR": "ResizeBilinearOptions", "RESIZE_NEAREST_NEIGHBOR": "ResizeNearestNeighborOptions",
}  # fmt: skip


def stored(shape: Shape) -> Shape:
    """Of a value in the file, from that of a frame in the graph."""
    return (1, shape[1], shape[2], shape[0]) if len(shape) == 3 else (1, *shape)


def place(axis: int, rank: int) -> int:
    """Where an axis of a frame lies in the file."""
    return MAP_AXES[axis] if rank == 3 else axis + 1


@dataclass(frozen=True)
class Call:
    """One node of the graph, as a rule sees it.

    inputs: numbers of the tensors it reads. shapes: theirs, per frame. shape: of the result.
    """

    writer: Writer
    node: Node
    inputs: tuple[int, ...]
    shapes: tuple[Shape, ...]
    shape: Shape

    def __getitem__(self, attribute: str) -> Any:
        return self.node.attributes[attribute]

    def step(self, operation: str, *inputs: int, shape: Shape | None = None, version: int = 1, **fields: Any) -> int:
        """Adds an operation, and gives its result. shape: in the file; by default that of the node's result."""
        made = stored(self.shape) if shape is None else shape
        return self.writer.add(operation, inputs, made, self.node.name, version, fields)

    def constant(self, role: str, order: Sequence[int] = (), shape: Shape = ()) -> int:
        """The node's constant, its axes in another order, and with another shape."""
        return self.writer.weight(self.node.constants[role], tuple(order), shape)

    def like_a_value(self, role: str) -> int:
        """A constant with as many axes as a frame, lying as values do."""
        extents = self.writer.graph.constants[self.node.constants[role]].shape
        order = (1, 2, 0) if len(extents) == 3 else range(len(extents))
        return self.constant(role, order, stored(extents))

    def per_channel(self, role: str) -> int:
        """A constant (C,) so that it is repeated along the other axes of the first input."""
        channels, *others = self.shapes[0]
        return self.constant(role, shape=(channels,) if len(others) == 2 else (channels, *(1,) * len(others)))

    def has(self, role: str) -> bool:
        return role in self.node.constants

    def ints(self, *numbers: int) -> int:
        return self.writer.builder.constant(numbers, "int32", name=f"{self.node.name}.numbers")

    def numbers(self, values: ArrayLike) -> int:
        """A constant of the rule's own, float32."""
        return self.writer.builder.constant(values, name=f"{self.node.name}.constant")

    @property
    def end(self) -> dict[str, Any]:
        """The node's activation, for operations that may end with one."""
        return {"FusedActivationFunction": FUSED[self["activation"]]}

    def activated(self, x: int) -> int:
        """The same as an operation of its own."""
        kind = self["activation"]
        return x if kind == "none" else self.step(kind.upper(), x)


TfliteRule = Callable[[Call], int]  # gives the result


class Writer:
    """State of one export. graph: with all constants float32, as `haste_runtime.weights.float_graph` gives it."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.builder = graph, TfliteBuilder()
        self.refusals: list[Refusal] = []
        self._shapes = check_graph(graph)
        self._values: dict[str, int] = {}
        self._weights: dict[tuple[Any, ...], int] = {}

    def write(self, rules: Mapping[str, TfliteRule], any_rank: Sequence[str]) -> list[int]:
        """The numbers of the outputs. any_rank: operators whose rules don't compute with values as they are."""
        for value in self.graph.inputs:
            self._values[value.name] = self.builder.input(stored(value.shape), name=value.name)
        for node in self.graph.nodes:
            inputs = tuple(self._values[name] for name in node.inputs)
            shapes = tuple(self._shapes[name] for name in node.inputs)
            call = Call(self, node, inputs, shapes, self._shapes[node.name])
            try:
                if node.op not in rules:
                    raise Refused("TFLite has no operation for it.")
                if node.op not in any_rank:
                    _check_rank(call)
                self._values[node.name] = self._named(rules[node.op](call), call)
            except Refused as refused:
                self.refusals.append(Refusal(node.name, node.op, "", refused.reason, refused.hint))
                self._values[node.name] = self.builder.value(stored(call.shape))
        return [self._values[name] for name in self.graph.outputs]

    def add(
        self, operation: str, inputs: Sequence[int], shape: Shape, name: str, version: int, fields: Mapping[str, Any]
    ) -> int:
        options = _OPTIONS.get(operation, "") if fields or operation in ("ADD", "SUB", "MUL", "DIV") else ""
        result = self.builder(operation, inputs, shape, options=options, version=version, **fields)
        self.builder.tensors[result]["name"] = f"{name}.{operation.lower()}"
        return int(result)

    def weight(self, key: str, order: tuple[int, ...], shape: Shape) -> int:
        """A constant of the graph, once for all nodes that read it so."""
        if (key, order, shape) not in self._weights:
            array: NDArray[np.float32] = self.graph.constants[key]
            array = array.transpose(order) if order else array
            self._weights[key, order, shape] = self.builder.constant(array.reshape(shape or array.shape), name=key)
        return self._weights[key, order, shape]

    def _named(self, result: int, call: Call) -> int:
        """The result with the node's name; a rule that added no operation gets one that copies."""
        if result in self._values.values():
            result = reshaped(call, result, stored(call.shape))
        self.builder.tensors[result]["name"] = call.node.name
        return result


def reshaped(c: Call, x: int, shape: Shape) -> int:
    """The numbers in the same order. shape: in the file."""
    return c.step("RESHAPE", x, c.ints(*shape), shape=shape, NewShape=list(shape))


def _check_rank(c: Call) -> None:
    most = max(map(len, (*c.shapes, c.shape))) + 1
    if most > MOST_AXES:
        raise Refused(f"It computes with a value of {most} axes; LiteRT does with {MOST_AXES} at most.")


def same_or_valid(
    extents: Sequence[int],
    out: Sequence[int],
    reach: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
) -> tuple[str, tuple[int, int, int, int]]:
    """How TFLite says the padding of a window that moves: "SAME", "VALID", or "" where it has no word for it; and
    top, left, bottom, right of what windows see.

    extents, out: height and width of the map, and of the result. reach: of the window, dilated. padding: as the node
    has it.
    """
    after = [
        max((count - 1) * step + wide - extent - before, 0)
        for extent, count, wide, step, before in zip(extents, out, reach, stride, padding[:2], strict=True)
    ]
    seen = (padding[0], padding[1], after[0], after[1])
    if not any(seen):
        return "VALID", seen
    for axis, (extent, count, wide, step) in enumerate(zip(extents, out, reach, stride, strict=True)):
        whole = -(-extent // step)
        total = max((whole - 1) * step + wide - extent, 0)
        if count != whole or (seen[axis], seen[2 + axis]) != (total // 2, total - total // 2):
            return "", seen
    return "SAME", seen
