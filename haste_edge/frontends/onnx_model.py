"""A model given as an ``.onnx`` file becomes a `LoadedModel`: read, converted in the layout that fits it, checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, ValueInfoProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor

from haste_edge.errors import ModelError
from haste_edge.frontends.export import LoadedModel, in_batches_of
from haste_edge.frontends.onnx_file import OnnxFile, read_onnx
from haste_edge.frontends.onnx_graph import MOST_ELEMENTS, Converted, Converter
from haste_edge.frontends.onnx_rules import RULES
from haste_edge.frontends.refusals import refusals_error
from haste_runtime.attributes import MAX_INPUT_RANK
from haste_runtime.graph import Shape
from haste_runtime.operators import check_graph

Arrays = dict[str, NDArray[np.float32]]
Run = Callable[[list[str], Arrays], list[NDArray[np.float32]]]  # names of outputs and inputs by name -> outputs

_FLOAT32 = "Export the model with inputs of float32, and give it pictures by the preprocessing options."


def load_onnx(path: Path, shapes: Sequence[Shape] | None) -> LoadedModel:
    """Load ``path``; ``shapes``, per frame and in the file's own layout, must agree with it where it fixes them.

    A model made for one batch size works too: its frames do not mix, or it is refused. Raises as `load_model`.
    """
    file = read_onnx(path)
    weights = _weights(path, file)
    inputs, batch = _inputs(path, file.model, weights, shapes)

    def convert(layout: str) -> Converted:
        return Converter(file.model.graph, file.opsets, RULES, weights, inputs, batch, layout).convert()

    converted, layout = convert("NCHW"), "NCHW"
    if converted.refusals or converted.moved:
        other = convert("NHWC")
        if (len(other.refusals), other.moved) < (len(converted.refusals), converted.moved):
            converted, layout = other, "NHWC"
    if converted.graph is None:
        raise refusals_error(converted.refusals)
    check_graph(converted.graph)
    run = _runner(file.original)
    names = list(inputs)

    def reference(*maps: Tensor) -> tuple[Tensor, ...]:
        """Takes and gives maps as the graph does, channels first."""
        feeds = {name: _as_the_file(x.numpy(), layout) for name, x in zip(names, maps, strict=True)}
        return tuple(torch.from_numpy(_as_the_graph(y, layout)) for y in run(list(converted.outputs), feeds))

    return LoadedModel(
        reference if batch is None else in_batches_of(reference, batch),
        converted.graph,
        path.name,
        layout,
        converted.outputs,
    )


def _as_the_file(x: NDArray[np.float32], layout: str) -> NDArray[np.float32]:
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1) if layout == "NHWC" and x.ndim == 4 else x)


def _as_the_graph(y: NDArray[np.float32], layout: str) -> NDArray[np.float32]:
    return np.ascontiguousarray(y.transpose(0, 3, 1, 2) if layout == "NHWC" and y.ndim == 4 else y)


# --- what the file takes ---------------------------------------------------------------------------------------------


def _weights(path: Path, file: OnnxFile) -> dict[str, NDArray[Any]]:
    try:
        return {weight.name: numpy_helper.to_array(weight) for weight in file.model.graph.initializer}
    except (ValueError, TypeError, KeyError, MemoryError, OverflowError) as error:
        raise ModelError(f"{path} has a damaged weight ({error!r}).", "Export the model again.") from error


def _inputs(
    path: Path, model: ModelProto, weights: dict[str, NDArray[Any]], shapes: Sequence[Shape] | None
) -> tuple[dict[str, Shape], int | None]:
    """The per-frame shape of each input, and the batch size that the file is fixed to."""
    given = [value for value in model.graph.input if value.name not in weights]  # older files list weights, too
    if not given:
        raise ModelError(f"{path} has no inputs.", "Export the model with the pictures as its input.")
    if shapes is not None and len(shapes) != len(given):
        raise ModelError(f"The model has {len(given)} inputs, not {len(shapes)}.", "Give a shape for each, or none.")
    inputs: dict[str, Shape] = {}
    batches: set[int | None] = set()
    for index, value in enumerate(given):
        batch, *sizes = _sizes(value)
        inputs[value.name] = _frame_shape(value.name, sizes, None if shapes is None else shapes[index])
        batches.add(batch)
    if len(batches) != 1:
        raise ModelError("The model's inputs differ in their batch.", "Export it with one batch size for all.")
    return inputs, batches.pop()


def _sizes(value: ValueInfoProto) -> list[int | None]:
    """Batch first, None where any size will do."""
    tensor = value.type.tensor_type
    if tensor.elem_type != TensorProto.FLOAT:
        kind = _type_name(tensor.elem_type) if tensor.elem_type else "no tensor"
        raise ModelError(f"The model's input {value.name!r} is {kind}, not float32.", _FLOAT32)
    if not tensor.HasField("shape") or not 2 <= len(tensor.shape.dim) <= 1 + MAX_INPUT_RANK:
        raise ModelError(
            f"The model's input {value.name!r} has {len(tensor.shape.dim)} dimensions.",
            f"It needs 1 to {MAX_INPUT_RANK} beside the batch, as in (N, C, H, W), (N, H, W, C) or (N, F).",
        )
    return [dimension.dim_value if dimension.dim_value > 0 else None for dimension in tensor.shape.dim]


def _type_name(number: int) -> str:
    known = number in TensorProto.DataType.values()
    return TensorProto.DataType.Name(number).lower() if known else f"of the unknown type {number}"


def _frame_shape(name: str, sizes: Sequence[int | None], wanted: Shape | None) -> Shape:
    said = "x".join("?" if size is None else str(size) for size in (1, *sizes))
    shape = sizes if wanted is None else wanted
    if any(size is None for size in shape):
        raise ModelError(f"Input {name!r} may have any size ({said}).", "Give one as in --input 1x3x224x224.")
    if len(shape) != len(sizes) or any(a not in (None, b) for a, b in zip(sizes, shape, strict=True)):
        given = "x".join(map(str, (1, *shape)))
        raise ModelError(f"Input {name!r} is {said}, not {given}.", "Leave out --input.")
    numbers = tuple(int(size) for size in shape if size is not None)
    if int(np.prod(numbers, dtype=object)) > MOST_ELEMENTS:
        raise ModelError(f"Input {name!r} of {said} has more than {MOST_ELEMENTS} numbers.", "Use a smaller one.")
    return numbers


# --- the original, running -------------------------------------------------------------------------------------------


def _runner(model: ModelProto) -> Run:
    """Runs the file itself: with ONNX Runtime where it is installed and can, else with onnx's own slow reference."""
    try:
        import onnxruntime
    except ImportError as error:
        if any(node.op_type == "LRN" for node in model.graph.node):  # summed over the batch there, as of onnx 1.23
            raise ModelError(
                "A network with local response norm can be proved by ONNX Runtime only, which is not installed.",
                'Install it: pip install "haste-edge[onnx]"',
            ) from error
        return _slow_runner(model)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # its errors are ours to tell
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    except Exception:  # onnxruntime's errors have no common base class
        return _slow_runner(model)

    def run(outputs: list[str], feeds: Arrays) -> list[NDArray[np.float32]]:
        try:
            return list(session.run(outputs, feeds))
        except Exception:
            return _slow_runner(model)(outputs, feeds)

    return run


def _slow_runner(model: ModelProto) -> Run:
    evaluator = ReferenceEvaluator(model)
    return lambda outputs, feeds: list(evaluator.run(outputs, feeds))
