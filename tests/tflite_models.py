"""TFLite models made operation by operation, and the comparison of what is compiled of them with LiteRT.

They are written by the builders that the schema's package has, so that no test needs TensorFlow.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import tflite
import torch

from haste_edge import torch_graph
from haste_edge.frontends import LoadedModel, load_model, tflite_process
from haste_edge.passes import run_passes
from haste_runtime.graph import Graph

NONE, RELU, RELU_N1_TO_1, RELU6, TANH, SIGN_BIT = range(6)
SAME, VALID = range(2)

_KINDS = {
    np.dtype(dtype): getattr(tflite.TensorType, dtype.upper())
    for dtype in ("float32", "float16", "int32", "int64", "int8", "uint8", "bool")
}


class TfliteBuilder:
    """Adds operations one after the other; values are numbers of tensors. Inputs are given with their whole shape."""

    def __init__(self, *inputs: Sequence[int], seed: int = 0, dtype: str = "float32") -> None:
        self.rng = np.random.default_rng(seed)
        self.tensors: list[dict[str, Any]] = []
        self.operations: list[tuple[str, list[int], list[int], str, dict[str, Any]]] = []
        self.inputs = [self.value(shape, dtype, name=f"input_{i}") for i, shape in enumerate(inputs)]

    def value(self, shape: Sequence[int], dtype: str = "float32", **more: Any) -> int:
        """shape: -1 where any size will do, which is stated as 1."""
        self.tensors.append({"shape": list(shape), "dtype": np.dtype(dtype), "name": f"t{len(self.tensors)}", **more})
        return len(self.tensors) - 1

    def constant(self, array: Any, dtype: str = "float32", **more: Any) -> int:
        array = np.asarray(array, dtype)
        return self.value(array.shape, dtype, data=array.tobytes(), **more)

    def random(self, *shape: int) -> int:
        return self.constant(self.rng.standard_normal(shape))

    def ints(self, *numbers: int) -> int:
        return self.constant(np.array(numbers, np.int32), "int32")

    def __call__(
        self,
        op: str,
        inputs: Sequence[int],
        *shapes: Sequence[int],
        options: str = "",
        dtype: str = "float32",
        **o: Any,
    ) -> Any:
        """The number of the result, or a list of them. shapes: of the results. options: the table of the schema."""
        results = [self.value(shape, dtype, name=f"{op}_{len(self.tensors)};fused") for shape in shapes]
        self.operations.append((op, list(inputs), results, options, o))
        return results[0] if len(results) == 1 else results

    def model(self, *outputs: int) -> bytes:
        """outputs: by default the last results."""
        b = flatbuffers.Builder(1024)
        names = list(dict.fromkeys(op for op, *_ in self.operations))
        buffers = [_table(b, "Buffer")]
        tensors = [self._tensor(b, tensor, buffers) for tensor in self.tensors]
        operations = [_operation(b, names.index(op), *rest) for op, *rest in self.operations]
        graph = _table(
            b,
            "SubGraph",
            Tensors=_tables(b, tensors),
            Inputs=b.CreateNumpyVector(np.array(self.inputs, np.int32)),
            Outputs=b.CreateNumpyVector(np.array(outputs or self.operations[-1][2], np.int32)),
            Operators=_tables(b, operations),
        )
        model = _table(
            b,
            "Model",
            Version=3,
            OperatorCodes=_tables(b, [_code(b, name) for name in names]),
            Subgraphs=_tables(b, [graph]),
            Buffers=_tables(b, buffers),
        )
        b.Finish(model, b"TFL3")
        return bytes(b.Output())

    def _tensor(self, b: flatbuffers.Builder, tensor: dict[str, Any], buffers: list[int]) -> int:
        number = 0
        if "data" in tensor:
            number = len(buffers)
            data = b.CreateNumpyVector(np.frombuffer(tensor["data"], np.uint8))
            buffers.append(_table(b, "Buffer", Data=data))
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


def _code(b: flatbuffers.Builder, name: str) -> int:
    number = getattr(tflite.BuiltinOperator, name, tflite.BuiltinOperator.CUSTOM)
    custom = {"CustomCode": b.CreateString(name)} if number == tflite.BuiltinOperator.CUSTOM else {}
    return _table(b, "OperatorCode", DeprecatedBuiltinCode=min(number, 127), BuiltinCode=number, Version=1, **custom)


def _operation(
    b: flatbuffers.Builder, code: int, inputs: list[int], outputs: list[int], options: str, values: dict[str, Any]
) -> int:
    more: dict[str, Any] = {}
    if options:
        fields = {
            k: b.CreateNumpyVector(np.array(v, np.int32)) if isinstance(v, list) else v for k, v in values.items()
        }
        more["BuiltinOptions"] = _table(b, options, **fields)
        more["BuiltinOptionsType"] = getattr(tflite.BuiltinOptions, options)
    return _table(
        b,
        "Operator",
        OpcodeIndex=code,
        Inputs=b.CreateNumpyVector(np.array(inputs, np.int32)),
        Outputs=b.CreateNumpyVector(np.array(outputs, np.int32)),
        **more,
    )


def small_network() -> TfliteBuilder:
    """What damaged files are made of: tables, vectors, strings and constants of most kinds, in few bytes."""
    b = TfliteBuilder((1, 4, 5, 3))
    options = {"options": "Conv2DOptions", "StrideH": 1, "StrideW": 1, "FusedActivationFunction": RELU}
    dilation = {"DilationHFactor": 1, "DilationWFactor": 1}
    stored = b.constant(b.rng.uniform(-9, 9, (2, 3, 3, 3)), "int8", scales=[0.1], zero_points=[1])
    kernel = b("DEQUANTIZE", [stored], (2, 3, 3, 3))
    x = b("CONV_2D", [*b.inputs, kernel, b.random(2)], (1, 4, 5, 2), **options, **dilation)
    limits = [b.ints(0, 0, 1, 0), b.ints(1, 4, 5, 2), b.ints(1, 1, 1, 1)]
    part = b("STRIDED_SLICE", [x, *limits], (1, 4, 4, 2), options="StridedSliceOptions", EndMask=2)
    flat = b("RESHAPE", [part, b.ints(1, 32)], (1, 32), options="ReshapeOptions", NewShape=[1, 32])
    b("FULLY_CONNECTED", [flat, b.random(3, 32), b.random(3)], (1, 3), options="FullyConnectedOptions")
    return b


# --- comparison ------------------------------------------------------------------------------------------------------


def load(model: bytes, folder: Path, input_shape: str | None = None) -> LoadedModel:
    path = folder / "model.tflite"
    path.write_bytes(model)
    return load_model(str(path), input_shape=input_shape)


def with_litert(path: Path, inputs: Sequence[np.ndarray], batch: int = 1) -> list[np.ndarray]:
    return tflite_process.run(str(path), list(inputs), batch)


def on_graph(graph: Graph, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    feeds = {value.name: torch.from_numpy(x) for value, x in zip(graph.inputs, inputs, strict=True)}
    return [y.numpy() for y in torch_graph.run(graph, feeds).outputs.values()]


def assert_agrees(
    model: bytes, folder: Path, frames: int = 2, batch: int = 1, share: float = 1e-5, **options: Any
) -> LoadedModel:
    """Converted, before and after the passes, it computes what LiteRT does with the file, frame by frame."""
    loaded = load(model, folder, **options)
    rng = np.random.default_rng(1)
    inputs = [rng.standard_normal((frames, *value.shape)).astype(np.float32) for value in loaded.graph.inputs]
    last = [np.ascontiguousarray(np.moveaxis(x, 1, -1)) if x.ndim == 4 else x for x in inputs]
    wanted = [np.moveaxis(y, -1, 1) if y.ndim == 4 else y for y in with_litert(folder / "model.tflite", last, batch)]
    for graph in (loaded.graph, run_passes(loaded.graph)):
        got = on_graph(graph, inputs)
        assert [y.shape for y in got] == [y.shape for y in wanted]
        for ours, theirs in zip(got, wanted, strict=True):
            assert np.abs(ours - theirs).max() <= share * max(1.0, float(np.abs(theirs).max()))
    return loaded


def ops(graph: Graph) -> list[str]:
    return [node.op for node in graph.nodes]
