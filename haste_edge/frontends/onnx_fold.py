"""Compute a node of an ONNX graph now, because all that it reads is known: mostly what exporters leave of shapes.

onnx's own reference implementation computes, and its shape inference says beforehand how large the result will be, so
that a few bytes of a file cannot make gigabytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TypeProto, checker, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.shape_inference import InferenceError, infer_node_outputs

from haste_edge.frontends.refusals import Refused

Array = NDArray[Any]
Dimensions = tuple[int | None, ...] | None  # None where a size, or how many there are, is not known

_MOST_DATA = 4096  # elements of a constant that shape inference may need to see: targets of reshapes, paddings, ...

# What is cheap, repeatable and understood; a convolution of constants, say, is not among it.
_NUMBERS = "Abs Add Ceil Clip Div Erf Exp Floor Log Max Min Mod Mul Neg Pow Range Reciprocal Relu Round Sigmoid Sign"
_MORE_NUMBERS = "Sqrt Sub Sum Tanh ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum DequantizeLinear"
_LOGIC = "And Equal Greater GreaterOrEqual Less LessOrEqual Not Or Where Xor"
_SHAPES = "Concat Expand Flatten Gather GatherElements GatherND Pad Reshape ScatterElements ScatterND Shape Size Slice"
_MORE_SHAPES = "Split Squeeze Tile Transpose Trilu Unsqueeze Cast CastLike Constant ConstantOfShape Dropout Identity"
FOLDED = frozenset(" ".join((_NUMBERS, _MORE_NUMBERS, _LOGIC, _SHAPES, _MORE_SHAPES)).split())


class Folder:
    """Computes nodes for one model. opsets: domain -> version. budget: bytes that all results together may take."""

    def __init__(self, opsets: Mapping[str, int], budget: int) -> None:
        self._opsets = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
        self._left = budget

    def result_shapes(
        self, node: NodeProto, shapes: Sequence[Dimensions], types: Sequence[int], known: Sequence[Array | None]
    ) -> tuple[Dimensions, ...]:
        """The shape of every result of the node, batch and all, as onnx infers it; None where it can't tell.

        shapes, types: of what it reads, with onnx's numbers for element types, in order. known: those of it that are
        known. Raises Refused if onnx finds that they do not fit the operator.
        """
        unknown = (None,) * len(node.output)
        version = next((opset.version for opset in self._opsets if opset.domain == node.domain), 1)
        if not onnx.defs.has(node.op_type, domain=node.domain) or any(shape is None for shape in shapes):
            return unknown
        try:
            schema = onnx.defs.get_schema(node.op_type, version, node.domain)
            found = infer_node_outputs(
                schema,
                node,
                {
                    n: helper.make_tensor_type_proto(t, s)
                    for n, t, s in zip(node.input, types, shapes, strict=True)
                    if n
                },
                {
                    name: numpy_helper.from_array(array)
                    for name, array in zip(node.input, known, strict=True)
                    if array is not None and array.size <= _MOST_DATA
                },
                opset_imports=self._opsets,
            )
        except onnx.defs.SchemaError:
            return unknown
        except (InferenceError, checker.ValidationError, RuntimeError, ValueError, TypeError) as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            reason = lines[0].rpartition("] ")[2] if lines else type(error).__name__
            raise Refused(f"What it reads does not fit it: {reason.rstrip('.')}.", "Export the model again.") from error
        return tuple(_dimensions(found.get(name)) for name in node.output)

    def compute(self, node: NodeProto, inputs: Sequence[Array | None], shapes: Sequence[Dimensions]) -> list[Array]:
        """The node's results that have a name. shapes: as `result_shapes` gave them. Raises Refused where it can't."""
        if node.domain or node.op_type not in FOLDED:
            raise Refused("It computes with constants alone, which is not done for it.", "Simplify the model first.")
        elements = 0
        for shape, name in zip(shapes, node.output, strict=True):
            if not name:
                continue
            if shape is None or any(extent is None for extent in shape):
                raise Refused("It makes a constant whose size cannot be told beforehand.", "Simplify the model first.")
            elements += math.prod(extent for extent in shape if extent is not None)
        self._left -= 8 * elements
        if self._left < 0:
            raise Refused("It makes constants far larger than the file.", "Simplify the model first.")
        graph = helper.make_function(
            "", "f", [n for n in node.input if n], [n for n in node.output if n], [node], self._opsets
        )
        feeds = {name: array for name, array in zip(node.input, inputs, strict=True) if name}
        try:
            with np.errstate(all="ignore"):
                results = ReferenceEvaluator(graph).run(None, feeds, {})
        except Exception as error:  # whatever numpy or the implementation raises
            why = next(iter(str(error).splitlines()), "").rstrip(".") or type(error).__name__
            raise Refused(f"It cannot be computed: {why}.", "Export the model again.") from error
        if not all(isinstance(result, np.ndarray | np.generic) for result in results):
            raise Refused("It makes something that is no tensor.", "Only numbers can be compiled.")
        return [np.asarray(result) for result in results]


def _dimensions(found: TypeProto | None) -> Dimensions:
    if found is None or not found.HasField("tensor_type") or not found.tensor_type.HasField("shape"):
        return None
    return tuple(
        d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else None for d in found.tensor_type.shape.dim
    )
