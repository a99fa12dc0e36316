"""ONNX models made node by node, and the comparison of what is compiled of them with ONNX Runtime."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper

from haste_edge import torch_graph
from haste_edge.frontends import LoadedModel, load_model
from haste_edge.passes import run_passes
from haste_runtime.graph import Graph

Axes = tuple[int | str, ...]


class OnnxBuilder:
    """Adds nodes one after the other. Inputs are named by keyword, with their whole shape: ("N", 3, 8, 8)."""

    def __init__(self, opset: int = 17, seed: int = 0, **inputs: Axes) -> None:
        self.rng = np.random.default_rng(seed)
        self.opset = opset
        self.inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, list(shape)) for n, shape in inputs.items()]
        self.weights: list[TensorProto] = []
        self.nodes: list[onnx.NodeProto] = []
        self._names = (f"v{number}" for number in itertools.count())

    def __call__(self, op: str, *inputs: str, outputs: int = 1, name: str = "", **attributes: Any) -> Any:
        """The name of the node's result, or a tuple of them."""
        results = [next(self._names) for _ in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), results, name=name or f"{op}_{results[0]}", **attributes))
        return results[0] if outputs == 1 else tuple(results)

    def weight(self, array: Any, dtype: Any = np.float32, name: str = "") -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(array, dtype), name or f"w{len(self.weights)}"))
        return self.weights[-1].name

    def random(self, *shape: int, scale: float = 1.0) -> str:
        return self.weight(scale * self.rng.standard_normal(shape))

    def ints(self, *numbers: int) -> str:
        return self.weight(numbers, np.int64)

    def model(self, *outputs: str) -> ModelProto:
        """outputs: by default the last result."""
        names = outputs or (self.nodes[-1].output[0],)
        results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
        graph = helper.make_graph(self.nodes, "test", self.inputs, results, self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)


def small_network() -> ModelProto:
    """What damaged files are made of: most kinds of fields, in few bytes."""
    b = OnnxBuilder(x=("N", 3, 8, 8))
    x = b("Relu", b("Conv", "x", b.random(4, 3, 3, 3), b.random(4), pads=[1, 1, 1, 1]))
    x = b("MaxPool", b("Concat", x, b("Pad", "x", b.ints(0, 0, 0, 0, 0, 1, 0, 0)), axis=1), kernel_shape=[2, 2])
    b(
        "Gemm",
        b("Reshape", x, b("Concat", b("Slice", b("Shape", x), b.ints(0), b.ints(1)), b.ints(-1), axis=0)),
        b.random(392, 3),
    )
    return b.model()


def load(model: ModelProto, folder: Path, input_shape: str | None = None) -> LoadedModel:
    path = folder / "model.onnx"
    onnx.save(model, path)
    return load_model(str(path), input_shape=input_shape)


def with_onnxruntime(model: ModelProto, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return session.run(None, {given.name: x for given, x in zip(session.get_inputs(), inputs, strict=True)})


def random_inputs(graph: Graph, frames: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((frames, *value.shape)).astype(np.float32) for value in graph.inputs]


def on_graph(graph: Graph, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    feeds = {value.name: torch.from_numpy(x) for value, x in zip(graph.inputs, inputs, strict=True)}
    return [y.numpy() for y in torch_graph.run(graph, feeds).outputs.values()]


def channels_last(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Maps with their channels last; vectors as they are."""
    return [np.ascontiguousarray(x.transpose(0, 2, 3, 1)) if x.ndim == 4 else x for x in arrays]


def channels_first(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    return [x.transpose(0, 3, 1, 2) if x.ndim == 4 else x for x in arrays]


def assert_close(got: Sequence[np.ndarray], wanted: Sequence[np.ndarray], share: float = 1e-5) -> None:
    assert len(got) == len(wanted)
    for ours, theirs in zip(got, wanted, strict=True):
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() <= share * max(1.0, float(np.abs(theirs).max()))


def assert_agrees(model: ModelProto, folder: Path, frames: int = 3, **options: Any) -> LoadedModel:
    """Compiled before and after the passes, it computes what ONNX Runtime does with the file, frame by frame."""
    loaded = load(model, folder, **options)
    inputs = random_inputs(loaded.graph, frames, seed=1)
    answer = loaded.reference(*map(torch.from_numpy, inputs))
    wanted = [y.numpy() for y in ([answer] if isinstance(answer, torch.Tensor) else answer)]
    last = loaded.layout == "NHWC"
    direct = with_onnxruntime(model, channels_last(inputs) if last else inputs) if fits(model, frames) else wanted
    assert_close(wanted, channels_first(direct) if last else direct, 0)
    for graph in (loaded.graph, run_passes(loaded.graph)):
        assert_close(on_graph(graph, inputs), wanted)
    return loaded


def fits(model: ModelProto, frames: int) -> bool:
    """Whether the file takes a batch of that size."""
    return model.graph.input[0].type.tensor_type.shape.dim[0].dim_value in (0, frames)


def ops(graph: Graph) -> list[str]:
    return [node.op for node in graph.nodes]
