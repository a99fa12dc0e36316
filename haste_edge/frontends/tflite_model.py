"""A model given as a ``.tflite`` file becomes a `LoadedModel`: read, converted, run elsewhere to compare."""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from haste_edge import processes
from haste_edge.errors import ModelError, Refusal
from haste_edge.frontends import tflite_process
from haste_edge.frontends.builder import printable
from haste_edge.frontends.export import LoadedModel
from haste_edge.frontends.refusals import refusals_error
from haste_edge.frontends.tflite_file import MOST_ELEMENTS, Operation, TfliteFile, read_tflite
from haste_edge.frontends.tflite_graph import Converter, name_of
from haste_edge.frontends.tflite_rules import RULES
from haste_edge.frontends.values import Array
from haste_runtime.attributes import MAX_INPUT_RANK
from haste_runtime.graph import Shape
from haste_runtime.operators import check_graph

_FLOAT = "Give the float model, before it was quantised; --dtype int8 makes its weights small."
_QUANTISED = ("INT8", "UINT8", "INT16", "INT4")
_LAYERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")
MOST_SECONDS = 600  # for a few frames in the original


def load_tflite(path: Path, shapes: Sequence[Shape] | None) -> LoadedModel:
    """Load ``path``; ``shapes``, per frame and with channels last, must agree with it where it fixes them.

    Raises as `load_model`; ModelError also where the model's own runtime is not installed or fails.
    """
    file = read_tflite(path)
    _check_types(file)
    inputs, batch = _inputs(path, file, shapes)
    sizes = [tensor.shape for tensor in file.tensors]
    if any(sizes[number] != shape for number, shape in zip(file.inputs, inputs, strict=True)):
        sizes = _sizes_for(path, file, inputs)
    converted = Converter(file, RULES, sizes, batch).convert()
    if converted.graph is None:
        raise refusals_error(converted.refusals)
    check_graph(converted.graph)
    check_installed()

    def reference(*maps: Tensor) -> tuple[Tensor, ...]:
        """Takes and gives maps as the graph does, channels first."""
        feeds = [x.numpy().transpose(0, 2, 3, 1) if x.ndim == 4 else x.numpy() for x in maps]
        outputs = run_file(path, feeds, batch)
        answers = (outputs[str(number)] for number in range(len(outputs)))
        return tuple(
            torch.from_numpy(np.ascontiguousarray(y.transpose(0, 3, 1, 2) if y.ndim == 4 else y)) for y in answers
        )

    return LoadedModel(reference, converted.graph, path.name, "NHWC", converted.outputs)


# --- what the file takes ---------------------------------------------------------------------------------------------


def _check_types(file: TfliteFile) -> None:
    """Raises UnsupportedModelError for a quantised model: one refusal for all of its operations."""
    found: list[tuple[Operation, str]] = []
    for operation in file.operations:
        reads = operation.inputs[1:2] if operation.kind in _LAYERS else ()  # the weights
        kinds = [file.tensors[number].kind for number in (*operation.outputs, *reads) if number != -1]
        found += [(operation, kind) for kind in kinds if kind in _QUANTISED][:1]
    if not found:
        return
    operation, kind = found[0]
    name = name_of(file.tensors[operation.outputs[0]]) if operation.outputs else ""
    reason = f"The model is quantised: {len(found)} of its {len(file.operations)} operations have numbers of {kind}."
    raise refusals_error([Refusal(printable(name), operation.kind, "", reason, _FLOAT)])


def _inputs(path: Path, file: TfliteFile, shapes: Sequence[Shape] | None) -> tuple[list[Shape], int]:
    """The shape of each input, batch and all, and the batch."""
    if shapes is not None and len(shapes) != len(file.inputs):
        raise ModelError(f"The model has {len(file.inputs)} inputs, not {len(shapes)}.", "Give a shape for each.")
    found: list[Shape] = []
    for index, number in enumerate(file.inputs):
        tensor = file.tensors[number]
        if tensor.kind != "FLOAT32" or tensor.data is not None:
            raise ModelError(f"The model's input {tensor.name!r} is {tensor.kind}, not float32.", _FLOAT)
        if not 2 <= len(tensor.shape) <= 1 + MAX_INPUT_RANK:
            raise ModelError(
                f"The model's input {tensor.name!r} has {len(tensor.shape)} dimensions.",
                f"It needs 1 to {MAX_INPUT_RANK} beside the batch, as in (N, H, W, C) or (N, F).",
            )
        batch, wanted = tensor.shape[0] or 1, None if shapes is None else shapes[index]
        found.append((batch, *_frame_shape(tensor.name, tensor.shape[1:], tensor.open[1:], wanted)))
    if len({shape[0] for shape in found}) != 1:
        raise ModelError("The model's inputs differ in their batch.", "Convert it with one batch size for all.")
    return found, found[0][0]


def _frame_shape(name: str, sizes: Shape, open_: Sequence[bool], wanted: Shape | None) -> Shape:
    said = "x".join("?" if free else str(size) for size, free in zip((1, *sizes), (False, *open_), strict=True))
    shape = sizes if wanted is None else wanted
    if wanted is None and any(open_):
        raise ModelError(f"Input {name!r} may have any size ({said}).", "Give one as in --input 1x224x224x3.")
    if len(shape) != len(sizes) or any(a != b and not free for a, b, free in zip(sizes, shape, open_, strict=True)):
        given = "x".join(map(str, (1, *shape)))
        raise ModelError(f"Input {name!r} is {said}, not {given}.", "Leave out --input.")
    if min(shape, default=0) < 1 or math.prod(shape) > MOST_ELEMENTS:
        raise ModelError(f"Input {name!r} has shape {said}.", f"It needs 1 to {MOST_ELEMENTS} numbers.")
    return shape


def _sizes_for(path: Path, file: TfliteFile, inputs: Sequence[Shape]) -> list[Shape]:
    """The shape of every value for inputs of these shapes, as the model's own runtime works them out."""
    check_installed()
    found = run_file(path, [np.array(shape) for shape in inputs], 0)
    sizes = [tuple(map(int, found.get(str(number), t.shape))) for number, t in enumerate(file.tensors)]
    if any(math.prod(shape) > MOST_ELEMENTS for shape in sizes):
        raise ModelError(f"A value of {path} has more than {MOST_ELEMENTS} numbers.", "Use smaller inputs.")
    return sizes


# --- the original, running -------------------------------------------------------------------------------------------


def check_installed() -> None:
    if not tflite_process.installed():
        raise ModelError(
            "The model's own runtime is not installed, to compare with.", 'Install it: pip install "haste-edge[tflite]"'
        )


def run_file(path: Path, inputs: Sequence[Array], batch: int) -> dict[str, Array]:
    """What `tflite_process` answers. Raises ModelError if the runtime fails or crashes on the file."""
    with tempfile.TemporaryDirectory(prefix="haste-") as name:
        folder = Path(name)
        arrays: dict[str, Any] = {str(number): x for number, x in enumerate(inputs)}
        np.savez(folder / "inputs.npz", **arrays)
        command = [sys.executable, "-P", tflite_process.__file__, path, folder, batch]  # -P: not our modules' folder
        try:
            processes.run(command, folder / "log", processes.environment(), MOST_SECONDS)
            with np.load(folder / "outputs.npz", allow_pickle=False) as archive:
                return {key: archive[key] for key in archive.files}
        except processes.ProcessError as error:
            raise ModelError(
                f"The model's own runtime fails on {path}: {error.message}.", "Convert the model again."
            ) from error
