"""Calls of an ONNX graph, and what onnx wants to know of the values that they read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper

from haste_edge.frontends.onnx_fold import Dimensions
from haste_edge.frontends.refusals import Refused
from haste_edge.frontends.values import Argument, Array, Known
from haste_runtime.graph import Shape


@dataclass(frozen=True)
class Call:
    """One node: its inputs in order, None where left out, and the per-frame shape of each result.

    version: of the operators' set. whole_shapes: batch and all.
    """

    node: NodeProto
    version: int
    inputs: tuple[Argument | None, ...]
    whole_shapes: tuple[Shape, ...]
    batch: int

    @property
    def name(self) -> str:
        return self.node.name or next(filter(None, self.node.output))

    @property
    def operation(self) -> str:
        return str(self.node.op_type)

    @property
    def shape(self) -> Shape:
        """Of the first result. Raises Refused if frames mix in it."""
        return self.shapes[0]

    @property
    def shapes(self) -> tuple[Shape, ...]:
        for shape in self.whole_shapes:
            if not shape or shape[0] != self.batch:
                said = ", ".join("N" if extent == self.batch > 1 else str(extent) for extent in shape)
                raise Refused(
                    f"Its result of shape ({said}) does not keep the batch as first dimension.",
                    "Each frame must be computed on its own.",
                )
        return tuple(shape[1:] for shape in self.whole_shapes)

    def input(self, index: int) -> Argument | None:
        return self.inputs[index] if index < len(self.inputs) else None

    def attribute(self, name: str, default: Any = None) -> Any:
        """A number, a string, or a list of them."""
        found = next((attribute for attribute in self.node.attribute if attribute.name == name), None)
        value = default if found is None else helper.get_attribute_value(found)
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def operation_of(node: NodeProto) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain else str(node.op_type)


def known_as(array: Array, other: Array) -> Known:
    same = array.shape == other.shape and bool(np.array_equal(array, other))
    return Known(array, other=None if same else other)


def array_of(value: Argument | None) -> Array | None:
    return value.array if isinstance(value, Known) else None


def shape_of(array: Array | None) -> Dimensions:
    return () if array is None else array.shape


def type_of(value: Argument | None) -> int:
    """onnx's number for the element type; all that is computed is float32."""
    return helper.np_dtype_to_tensor_dtype(value.array.dtype) if isinstance(value, Known) else TensorProto.FLOAT
