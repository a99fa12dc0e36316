"""The network every runtime gets, and how it gets into their formats.

Mostly it is one torch program, which PyTorch's exporters turn into each format in the others' environments. Where the
model is no torch model, or where it is asked for, the others get the bundle's dense network by our own exporters.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from haste_edge import exports, processes, torch_graph
from haste_edge.bench import own_exports
from haste_edge.bench.environments import alone
from haste_edge.bench.peers import Export
from haste_edge.errors import ModelError
from haste_edge.frontends import LoadedModel, Reference, load_model
from haste_runtime.bundle import Bundle
from haste_runtime.errors import InputError
from haste_runtime.graph import Graph, Shape

FOREIGN = Path(__file__).parent / "foreign"
PROGRAM = "source.pt2"
KEPT = 6  # exported networks in the cache
_DENSE = sorted(Path(torch_graph.__file__).parent.glob("torch_*.py"))
_EXPORTS = [*sorted(Path(exports.__file__).parent.glob("*.py")), Path(own_exports.__file__)]
OWN_NETWORK = "the bundle's own dense network"


@dataclass(frozen=True)
class Source:
    """module: what torch and its exporters get; takes (1, C, H, W) or (1, F). reference: the same function, which
    outputs are compared with. shape: of an input. name: in words. key: tells one network from another. own: the bundle
    whose exports the others get, None where torch makes theirs.
    """

    module: nn.Module
    reference: Reference
    shape: Shape
    name: str
    key: str
    own: Bundle | None = None

    def outputs(self, frames: NDArray[np.float32]) -> NDArray[np.float32]:
        """What the network itself gives, frame by frame: (N, 1, ...), maps with channels first."""
        results = []
        with torch.inference_mode():
            for frame in frames:
                answer = self.reference(torch.from_numpy(frame[np.newaxis]))
                results.append((answer[0] if isinstance(answer, tuple) else answer).numpy())
        return np.stack(results).astype(np.float32)


class _OfBundle(nn.Module):
    """The dense network of a bundle, as the compiler has folded it."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self._graph = torch_graph.prepare(graph)

    def forward(self, x: Tensor) -> Tensor:
        (name,), (output,) = (v.name for v in self._graph.graph.inputs), self._graph.graph.outputs
        return torch_graph.run(self._graph, {name: x}).outputs[output]


def read_source(
    bundle: Bundle, model: str | None, weights: Path | None, input_shape: str | None, by_us: bool = False
) -> Source:
    """The model that the bundle was compiled from or, without ``model``, the bundle's own dense network.

    by_us: give the others haste-edge's own exports of the bundle, which all get where the model is no torch
    model. Raises InputError for a network that does not take one array and give one, ModelError where the model cannot
    be loaded or is another one.
    """
    if len(bundle.graph.inputs) != 1 or len(bundle.graph.outputs) != 1:
        raise InputError("Only networks with one input and one output can be compared.", "This bundle has more.")
    shape = (1, *bundle.graph.inputs[0].shape)
    dense = _OfBundle(bundle.graph).eval()
    reference: Reference = dense
    name = OWN_NETWORK
    if model is not None:
        loaded = _load(bundle, model, weights, input_shape)
        if loaded.input_shape != shape or len(loaded.graph.inputs) != 1:
            raise ModelError(
                f"{model} takes {loaded.input_shape}, the bundle {shape}.",
                "Give the model that the bundle was made of.",
            )
        if isinstance(loaded.reference, nn.Module) and not by_us:
            return Source(loaded.reference, loaded.reference, shape, loaded.source, _key(loaded.graph, shape))
        reference, name, by_us = loaded.reference, loaded.source, True
    if not by_us:
        return Source(dense, reference, shape, name, _key(bundle.graph, shape, _DENSE))
    key = _key(bundle.graph, shape, (*_DENSE, *_EXPORTS))
    preprocessing = replace(bundle.preprocessing, layout="NCHW")  # as frames are, which spares turning them
    own = replace(bundle, preprocessing=preprocessing)
    return Source(dense, reference, shape, f"{name}, by haste-edge's own exports", key, own)


def _load(bundle: Bundle, model: str, weights: Path | None, input_shape: str | None) -> LoadedModel:
    """A file states its shape itself, or is tried with that of the bundle, in the layout that it most likely has."""
    shape = bundle.graph.inputs[0].shape
    if input_shape is None and Path(model).suffix.lower() in (".onnx", ".tflite"):
        try:
            return load_model(model, weights)
        except ModelError:
            last = bundle.preprocessing.layout == "NHWC" and len(shape) == 3
            shape = (*shape[1:], shape[0]) if last else shape
    return load_model(model, weights, input_shape or "x".join(map(str, (1, *shape))))


def _key(graph: Graph, shape: Shape, makers: Sequence[Path] = ()) -> str:
    """A digest of the network, this torch, the export scripts, and other files whose code makes the others' files."""
    key = hashlib.sha256(f"{torch.__version__} {sys.version} {shape}".encode())
    for node in graph.nodes:
        key.update(repr((node.name, node.op, node.inputs, sorted(node.attributes.items()))).encode())
    for name, array in sorted(graph.constants.items()):
        key.update(name.encode() + np.ascontiguousarray(array).tobytes())
    for script in (*sorted(FOREIGN.glob("export_*.py")), *makers):
        key.update(script.read_bytes())
    return key.hexdigest()[:16]


def folder_of(source: Source, root: Path) -> Path:
    """The folder of this network below ``root``, made if need be; the oldest ones beyond a few go."""
    folder = root / source.key
    with alone(root):
        others = [other for other in root.iterdir() if other.is_dir() and other != folder]
        for old in sorted(others, key=lambda other: other.stat().st_mtime)[: max(0, len(others) - KEPT + 1)]:
            shutil.rmtree(old, ignore_errors=True)
        folder.mkdir(exist_ok=True)
        folder.touch()
    return folder


def save_program(source: Source, folder: Path) -> None:
    """The torch program in the folder of the network, unless it is there. Raises ModelError where torch cannot export
    it."""
    with alone(folder):
        if (folder / PROGRAM).exists():
            return
        partial = folder / f"partial-{PROGRAM}"
        try:
            example = (torch.zeros(source.shape),)
            with torch.no_grad():
                torch.export.save(torch.export.export(source.module, example, strict=False), partial)
        except Exception as error:  # torch.export has no common base class
            said = " ".join(str(error).split())[:200]
            raise ModelError(f"torch cannot export {source.name}: {said}.", "Leave --source out.") from error
        partial.replace(folder / PROGRAM)


def export(
    step: Export, folder: Path, shape: Shape, pythons: Mapping[str, Path], on_step: Callable[[str], None]
) -> None:
    """Add ``step.file`` to the folder of the network, unless it is there. pythons: of each environment.

    Raises ProcessError with the exporter's reason.
    """
    with alone(folder):
        if (folder / f"{step.file}.made").exists():
            return
        on_step(f"Exporting the network to {step.file}")
        told = [step.read] if step.read else []
        command = [pythons[step.environment], FOREIGN / step.script, folder, "x".join(map(str, shape)), *told]
        processes.run(command, folder / f"{step.script}.log", processes.environment())
        (folder / f"{step.file}.made").touch()
