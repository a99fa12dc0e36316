"""The network every runtime gets: one torch program, exported to each one's format in the others' environments."""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from haste_edge import processes, torch_graph
from haste_edge.bench.environments import alone
from haste_edge.bench.peers import Export
from haste_edge.errors import ModelError
from haste_edge.frontends import load_model
from haste_runtime.bundle import Bundle
from haste_runtime.errors import InputError
from haste_runtime.graph import Graph, Shape

FOREIGN = Path(__file__).parent / "foreign"
PROGRAM = "source.pt2"
KEPT = 6  # exported networks in the cache


@dataclass(frozen=True)
class Source:
    """module: takes (1, C, H, W) or (1, F). shape: that. name: in words. key: tells one network from another."""

    module: nn.Module
    shape: Shape
    name: str
    key: str

    def outputs(self, frames: NDArray[np.float32]) -> NDArray[np.float32]:
        """What the network itself gives, frame by frame: (N, 1, ...)."""
        with torch.inference_mode():
            results = [self.module(torch.from_numpy(frame[np.newaxis])).numpy() for frame in frames]
        return np.stack(results).astype(np.float32)


class _OfBundle(nn.Module):
    """The dense network of a bundle, as the compiler has folded it."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self._graph = torch_graph.prepare(graph)

    def forward(self, x: Tensor) -> Tensor:
        (name,), (output,) = (v.name for v in self._graph.graph.inputs), self._graph.graph.outputs
        return torch_graph.run(self._graph, {name: x}).outputs[output]


def read_source(bundle: Bundle, model: str | None, weights: Path | None, input_shape: str | None) -> Source:
    """The model that the bundle was compiled from or, without ``model``, the bundle's own dense network.

    Raises InputError for a network that does not take one array and give one, ModelError where the model cannot be
    loaded or fits no batch of one.
    """
    if len(bundle.graph.inputs) != 1 or len(bundle.graph.outputs) != 1:
        raise InputError("Only networks with one input and one output can be compared.", "This bundle has more.")
    shape = (1, *bundle.graph.inputs[0].shape)
    if model is None:
        return Source(
            _OfBundle(bundle.graph).eval(), shape, "the bundle's own dense network", _key(bundle.graph, shape)
        )
    loaded = load_model(model, weights, input_shape or "x".join(map(str, shape)))
    if loaded.input_shape != shape or len(loaded.graph.inputs) != 1:
        raise ModelError(
            f"{model} takes {loaded.input_shape}, the bundle {shape}.", "Give the model that the bundle was made of."
        )
    if not isinstance(loaded.reference, nn.Module):
        raise ModelError(
            f"{model} is no torch network that takes any batch, so it cannot be exported to other formats.",
            "Leave --source out: the bundle's own dense network is compared then.",
        )
    return Source(loaded.reference, shape, loaded.source, _key(loaded.graph, shape))


def _key(graph: Graph, shape: Shape) -> str:
    """A digest of the network, this torch and the export scripts."""
    key = hashlib.sha256(f"{torch.__version__} {sys.version} {shape}".encode())
    for node in graph.nodes:
        key.update(repr((node.name, node.op, node.inputs, sorted(node.attributes.items()))).encode())
    for name, array in sorted(graph.constants.items()):
        key.update(name.encode() + np.ascontiguousarray(array).tobytes())
    for script in sorted(FOREIGN.glob("export_*.py")):
        key.update(script.read_bytes())
    return key.hexdigest()[:16]


def save_program(source: Source, root: Path) -> Path:
    """The folder of this network below ``root`` with its torch program in it; the oldest ones beyond a few go.

    Raises ModelError where torch cannot export it.
    """
    folder = root / source.key
    with alone(root):
        others = [other for other in root.iterdir() if other.is_dir() and other != folder]
        for old in sorted(others, key=lambda other: other.stat().st_mtime)[: max(0, len(others) - KEPT + 1)]:
            shutil.rmtree(old, ignore_errors=True)
        folder.mkdir(exist_ok=True)
        folder.touch()
        if not (folder / PROGRAM).exists():
            partial = folder / f"partial-{PROGRAM}"
            try:
                example = (torch.zeros(source.shape),)
                with torch.no_grad():
                    torch.export.save(torch.export.export(source.module, example, strict=False), partial)
            except Exception as error:  # torch.export has no common base class
                said = " ".join(str(error).split())[:200]
                raise ModelError(f"torch cannot export {source.name}: {said}.", "Leave --source out.") from error
            partial.replace(folder / PROGRAM)
    return folder


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
        command = [pythons[step.environment], FOREIGN / step.script, folder, "x".join(map(str, shape))]
        processes.run(command, folder / f"{step.script}.log", processes.environment())
        (folder / f"{step.file}.made").touch()
