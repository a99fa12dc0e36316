"""TFLite models made operation by operation, and the comparison of what is compiled of them with LiteRT.

They are written by our own exporter's builder, so that no test needs TensorFlow.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from haste_edge import torch_graph
from haste_edge.exports import tflite_builder
from haste_edge.exports.tflite_builder import NONE, RELU, RELU6, RELU_N1_TO_1, SAME, SIGN_BIT, TANH, VALID
from haste_edge.frontends import LoadedModel, load_model, tflite_process
from haste_edge.passes import run_passes
from haste_runtime.graph import Graph

__all__ = [
    "NONE",
    "RELU",
    "RELU6",
    "RELU_N1_TO_1",
    "SAME",
    "SIGN_BIT",
    "TANH",
    "VALID",
    "TfliteBuilder",
    "assert_agrees",
    "load",
    "on_graph",
    "ops",
    "small_network",
    "with_litert",
]


class TfliteBuilder(tflite_builder.TfliteBuilder):
    """With random constants, and inputs given by their whole shape."""

    def __init__(self, *inputs: Sequence[int], seed: int = 0, dtype: str = "float32") -> None:
        super().__init__()
        self.rng = np.random.default_rng(seed)
        for shape in inputs:
            self.input(shape, dtype)

    def random(self, *shape: int) -> int:
        return self.constant(self.rng.standard_normal(shape))

    def name_of_result(self, op: str) -> str:
        """As converters call what several layers became."""
        return f"{op}_{len(self.tensors)};fused"


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
