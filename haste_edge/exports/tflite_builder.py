"""A TFLite file written operation by operation, by the builders that the schema's package has: TensorFlow isn't needed.

What is written is what was said: shapes of results are the caller's to know, and nothing is checked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flatbuffers
import numpy as np
import tflite
from flatbuffers.number_types import UOffsetTFlags

NONE, RELU, RELU_N1_TO_1, RELU6, TANH, SIGN_BIT = range(6)  # fused activations
SAME, VALID = range(2)  # padding
ALIGNMENT = 16  # of a constant's bytes, as the schema wants it

_KINDS = {
    np.dtype(dtype): getattr(tflite.TensorType, dtype.upper())
    for dtype in ("float32", "float16", "int32", "int64", "int8", "uint8", "bool")
}


class Operation(NamedTuple):
    """inputs, outputs: numbers of tensors. options: the table of the schema, and ``fields`` what it holds."""

    op: str
    inputs: list[int]
    outputs: list[int]
    options: str
    fields: dict[str, Any]
    version: int


class TfliteBuilder:
    """Adds operations one after the other; values are numbers of tensors. Shapes are whole: batch and all."""

    def __init__(self) -> None:
        self.tensors: list[dict[str, Any]] = []
        self.operations: list[Operation] = []
        self.inputs: list[int] = []

    def input(self, shape: Sequence[int], dtype: str = "float32", name: str = "") -> int:
        self.inputs.append(self.value(shape, dtype, name=name or f"input_{len(self.inputs)}"))
        return self.inputs[-1]

    def value(self, shape: Sequence[int], dtype: str = "float32", **more: Any) -> int:
        """shape: -1 where any size will do, which is stated as 1. more: name, data, and scales, zero_points and axis of
        quantised numbers."""
        self.tensors.append({"shape": list(shape), "dtype": np.dtype(dtype), "name": f"t{len(self.tensors)}", **more})
        return len(self.tensors) - 1

    def constant(self, array: Any, dtype: str = "float32", **more: Any) -> int:
        array = np.asarray(array, dtype)
        return self.value(array.shape, dtype, data=np.ascontiguousarray(array).reshape(-1).view(np.uint8), **more)

    def ints(self, *numbers: int) -> int:
        return self.constant(np.array(numbers, np.int32), "int32")

    def __call__(
        self,
        op: str,
        inputs: Sequence[int],
        *shapes: Sequence[int],
        options: str = "",
        dtype: str = "float32",
        version: int = 1,
        **o: Any,
    ) -> Any:
        """The number of the result, or a list of them. inputs: -1 for one that is left out. shapes: of the results.
        options: the table of the schema, and ``o`` what it holds."""
        results = [self.value(shape, dtype, name=self.name_of_result(op)) for shape in shapes]
        self.operations.append(Operation(op, list(inputs), results, options, o, version))
        return results[0] if len(results) == 1 else results

    def name_of_result(self, op: str) -> str:
        """Of the tensor that comes next."""
        return f"{op}_{len(self.tensors)}"

    def model(self, *outputs: int, description: str = "", metadata: Mapping[str, bytes] | None = None) -> bytes:
        """The file. outputs: by default the last results. metadata: name -> content."""
        size = sum(len(tensor.get("data", ())) + ALIGNMENT for tensor in self.tensors)
        b = flatbuffers.Builder(size + 512 * len(self.tensors) + 1024)
        codes = list(dict.fromkeys((operation.op, operation.version) for operation in self.operations))
        buffers = [_table(b, "Buffer")]  # the first stands for none
        tensors = [self._tensor(b, tensor, buffers) for tensor in self.tensors]
        operations = [_operation(b, codes.index((made.op, made.version)), made) for made in self.operations]
        about = [_metadata(b, name, content, buffers) for name, content in (metadata or {}).items()]
        graph = _table(
            b,
            "SubGraph",
            Tensors=_tables(b, tensors),
            Inputs=_numbers(b, self.inputs),
            Outputs=_numbers(b, outputs or self.operations[-1].outputs),
            Operators=_tables(b, operations),
        )
        more: dict[str, Any] = {"Description": b.CreateString(description)} if description else {}
        if about:
            more["Metadata"] = _tables(b, about)
        model = _table(
            b,
            "Model",
            Version=3,
            OperatorCodes=_tables(b, [_code(b, *code) for code in codes]),
            Subgraphs=_tables(b, [graph]),
            Buffers=_tables(b, buffers),
            **more,
        )
        b.Finish(model, b"TFL3")
        return bytes(b.Output())

    def _tensor(self, b: flatbuffers.Builder, tensor: Mapping[str, Any], buffers: list[int]) -> int:
        number = 0
        if "data" in tensor:
            number = len(buffers)
            buffers.append(_buffer(b, tensor["data"]))
        shape = np.array(tensor["shape"], np.int32)
        more: dict[str, Any] = {}
        if "scales" in tensor:
            scales = b.CreateNumpyVector(np.array(tensor["scales"], np.float32))
            zeros = b.CreateNumpyVector(np.array(tensor["zero_points"], np.int64))
            more["Quantization"] = _table(
                b, "QuantizationParameters", Scale=scales, ZeroPoint=zeros, QuantizedDimension=tensor.get("axis", 0)
            )
        if (shape < 0).any():
            more["ShapeSignature"] = b.CreateNumpyVector(shape)
        return _table(
            b,
            "Tensor",
            Shape=b.CreateNumpyVector(np.where(shape < 0, 1, shape).astype(np.int32)),
            Name=b.CreateString(tensor["name"]),
            Type=_KINDS[tensor["dtype"]],
            Buffer=number,
            **more,
        )


def _table(b: flatbuffers.Builder, kind: str, **fields: Any) -> int:
    getattr(tflite, f"{kind}Start")(b)
    for name, value in fields.items():
        getattr(tflite, f"{kind}Add{name}")(b, value)
    return int(getattr(tflite, f"{kind}End")(b))


def _tables(b: flatbuffers.Builder, places: Sequence[int]) -> int:
    b.StartVector(4, len(places), 4)
    for place in reversed(places):
        b.PrependUOffsetTRelative(place)
    return int(b.EndVector())


def _numbers(b: flatbuffers.Builder, numbers: Sequence[int]) -> int:
    return int(b.CreateNumpyVector(np.array(numbers, np.int32)))


def _buffer(b: flatbuffers.Builder, data: Any) -> int:
    """Bytes at a multiple of `ALIGNMENT`, which flatbuffers' own way of writing bytes does not do."""
    raw = memoryview(data)
    b.StartVector(1, len(raw), ALIGNMENT)
    b.head = UOffsetTFlags.py_type(b.Head() - len(raw))
    b.Bytes[b.Head() : b.Head() + len(raw)] = raw
    return _table(b, "Buffer", Data=int(b.EndVector()))


def _metadata(b: flatbuffers.Builder, name: str, content: bytes, buffers: list[int]) -> int:
    buffers.append(_buffer(b, content))
    return _table(b, "Metadata", Name=b.CreateString(name), Buffer=len(buffers) - 1)


def _code(b: flatbuffers.Builder, name: str, version: int) -> int:
    number = getattr(tflite.BuiltinOperator, name, tflite.BuiltinOperator.CUSTOM)
    custom = {"CustomCode": b.CreateString(name)} if number == tflite.BuiltinOperator.CUSTOM else {}
    return _table(
        b, "OperatorCode", DeprecatedBuiltinCode=min(number, 127), BuiltinCode=number, Version=version, **custom
    )


def _operation(b: flatbuffers.Builder, code: int, made: Operation) -> int:
    more: dict[str, Any] = {}
    if made.options:
        fields = {key: _numbers(b, value) if isinstance(value, list) else value for key, value in made.fields.items()}
        more["BuiltinOptions"] = _table(b, made.options, **fields)
        more["BuiltinOptionsType"] = getattr(tflite.BuiltinOptions, made.options)
    inputs, outputs = _numbers(b, made.inputs), _numbers(b, made.outputs)
    return _table(b, "Operator", OpcodeIndex=code, Inputs=inputs, Outputs=outputs, **more)
