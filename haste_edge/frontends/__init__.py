"""Everything a model can come from. Each kind of input has its file; all give a `LoadedModel` with the same `Graph`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from haste_edge.errors import ModelError
from haste_edge.extras import needing
from haste_edge.frontends.export import LoadedModel, Reference
from haste_edge.frontends.exported_program import load_exported_program
from haste_edge.frontends.torch_module import load_factory
from haste_runtime.graph import Shape

__all__ = ["LoadedModel", "Reference", "load_model", "parse_shapes"]

_HOW = (
    "Give package.module:factory with --weights file.safetensors, a .pt2 file saved by torch.export.save, or an .onnx "
    "or .tflite file."
)


def load_model(
    spec: str, weights: str | Path | None = None, input_shape: str | Sequence[int] | None = None
) -> LoadedModel:
    """Load the model that ``spec`` names and convert it to a graph.

    spec: ``package.module:factory``, importable from the current folder or PYTHONPATH, where factory makes an
    ``nn.Module`` without arguments; or the path of a ``.pt2``, ``.onnx`` or ``.tflite``. weights: a safetensors state
    dict for the factory. input_shape: ``"1x3x32x32"`` or (1, 3, 32, 32), where the batch does not matter; several
    inputs are separated by commas in the string. Needed for a factory, and for a file that leaves height and width
    open.

    Raises ModelError for a wrong name, file, weights or shape, UnsupportedModelError for a model that cannot be
    compiled, GraphError where the weights hold NaN or infinity.
    """
    shapes = None if input_shape is None else parse_shapes(input_shape)
    suffix = Path(spec).suffix.lower()
    if suffix in _FILES:
        if weights is not None:
            raise ModelError(f"A file of the kind {suffix} holds its own weights.", "Leave out --weights.")
        return _FILES[suffix]()(Path(spec), shapes)
    if suffix in (".pt", ".pth", ".bin", ".ckpt", ".pkl"):
        raise ModelError(
            f"{spec} is a pickle, which may run any code when it is loaded, so it is not read.",
            "Save its weights with safetensors.torch.save_file(model.state_dict(), 'weights.safetensors'), then give "
            "package.module:factory with --weights weights.safetensors.",
        )
    if suffix == ".safetensors":
        raise ModelError(f"{spec} holds weights without a network.", "Give package.module:factory with --weights.")
    if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", spec):
        raise ModelError(f"{spec!r} is not a model that can be read.", _HOW)
    if shapes is None:
        raise ModelError(f"The input shape of {spec} is not known.", "Give it as in --input 1x3x32x32.")
    return load_factory(spec, None if weights is None else Path(weights), shapes)


_Loader = Callable[[Path, Sequence[Shape] | None], LoadedModel]


def _onnx_loader() -> _Loader:
    with needing("onnx", "Reading"):
        from haste_edge.frontends.onnx_model import load_onnx
    return load_onnx


def _tflite_loader() -> _Loader:
    with needing("tflite", "Reading"):
        from haste_edge.frontends.tflite_model import load_tflite
    return load_tflite


_FILES: dict[str, Callable[[], _Loader]] = {
    ".pt2": lambda: load_exported_program,
    ".onnx": _onnx_loader,
    ".tflite": _tflite_loader,
}


def parse_shapes(text: str | Sequence[int]) -> tuple[Shape, ...]:
    """Per-frame shapes from "1x3x32x32" or "1x3x32x32,1x16" or (1, 3, 32, 32). Raises ModelError."""
    parts = text.split(",") if isinstance(text, str) else ["x".join(map(str, text))]
    shapes = []
    for part in parts:
        numbers = part.strip().lower().split("x")
        if len(numbers) not in (2, 4) or not all(re.fullmatch(r"[1-9][0-9]{0,8}", number) for number in numbers):
            raise ModelError(
                f"{part.strip()!r} is not an input shape.", "Write 1x3x32x32: batch, channels, height, width."
            )
        shape = tuple(map(int, numbers[1:]))
        if math.prod(shape) >= 2**31:
            raise ModelError(f"An input of {part.strip()} has too many numbers.", "Most is 2 to the power of 31.")
        shapes.append(shape)
    return tuple(shapes)
