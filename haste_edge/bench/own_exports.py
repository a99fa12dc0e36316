"""Our own exports of a bundle, as the other runtimes get them: the batch is 1."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from haste_edge.bench.environments import alone
from haste_edge.bench.peers import Own
from haste_edge.extras import needing
from haste_runtime.bundle import Bundle
from haste_runtime.graph import Graph, Node
from haste_runtime.operators import check_graph

if TYPE_CHECKING:
    from onnx import ModelProto


def write_own(step: Own, folder: Path, bundle: Bundle, on_step: Callable[[str], None]) -> None:
    """Add our own export of the bundle to the folder of the network, unless it is there.

    Raises UnsupportedModelError where the format has no place for an operator, ModelError where its package is missing.
    """
    with alone(folder):
        if (folder / f"{step.file}.made").exists():
            return
        on_step(f"Writing the network as {step.file}")
        (folder / step.file).write_bytes(WRITERS[step.file](bundle))
        (folder / f"{step.file}.made").touch()


def _onnx(bundle: Bundle) -> bytes:
    return _serialised(_model(bundle))


def _model(bundle: Bundle) -> ModelProto:
    with needing("onnx", "Writing"):
        from haste_edge.exports.onnx_model import onnx_model
    model = onnx_model(bundle)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    return model


def _serialised(model: ModelProto) -> bytes:
    return bytes(model.SerializeToString(deterministic=True))


def _tflite(bundle: Bundle) -> bytes:
    with needing("tflite", "Writing"):
        from haste_edge.exports.tflite_model import tflite_model
    return tflite_model(bundle)[0]


# --- for ncnn's converter, which does not know all of ONNX -----------------------------------------------------------


def _for_pnnx(bundle: Bundle) -> bytes:
    bundle = replace(bundle, graph=pool_instead_of_slice(bundle.graph))
    model = _model(bundle)
    concat_instead_of_pad(model, bundle.graph)
    return _serialised(model)


def pool_instead_of_slice(graph: Graph) -> Graph:
    """The graph with slices that have a step over pixels as a max-pool of one pixel, after a slice without a step where
    that is not enough: the same numbers."""
    shapes = check_graph(graph)
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.op != "slice" or len(node.attributes["steps"]) != 3 or node.attributes["steps"][0] > 1:
            nodes.append(node)
            continue
        starts, (channels, *_), (_, *steps) = (node.attributes[key] for key in ("starts", "stops", "steps"))
        inputs, whole = node.inputs, shapes[node.inputs[0]]
        pooled = (whole[0], *(-(-extent // step) for extent, step in zip(whole[1:], steps, strict=True)))
        if any(starts) or channels != whole[0] or pooled != shapes[node.name]:
            part = f"{node.name}.without_steps"
            nodes.append(Node(part, "slice", inputs, {**node.attributes, "steps": (1, 1, 1)}, {}))
            inputs = (part,)
        window = {"kernel": (1, 1), "stride": tuple(steps), "padding": (0, 0, 0, 0), "dilation": (1, 1)}
        nodes.append(Node(node.name, "max_pool", inputs, window, {}))
    return replace(graph, nodes=tuple(nodes))


def concat_instead_of_pad(model: ModelProto, graph: Graph) -> None:
    """In place: channels of one number before and after those of a map become constants beside it."""
    from onnx import helper, numpy_helper

    shapes = check_graph(graph)
    places = {node.name: number for number, node in enumerate(model.graph.node)}
    for node in graph.nodes:
        if node.op != "pad" or any(node.attributes["pads"][2:]):
            continue
        old = model.graph.node[places[node.name]]
        parts = [old.input[0]]
        for at, count in zip((0, len(parts)), node.attributes["pads"][:2], strict=True):
            if count:
                name = f"{node.name}.{'after' if at else 'before'}"
                array = np.full((1, count, *shapes[node.name][1:]), node.attributes["value"], np.float32)
                model.graph.initializer.append(numpy_helper.from_array(array, name))
                parts.insert(len(parts) if at else 0, name)
        old.CopyFrom(helper.make_node("Concat", parts, list(old.output), name=node.name, axis=1))


WRITERS: Mapping[str, Callable[[Bundle], bytes]] = {
    "model.onnx": _onnx,
    "model.tflite": _tflite,
    "for_pnnx.onnx": _for_pnnx,
}
