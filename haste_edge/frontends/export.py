"""A torch module becomes a `LoadedModel`: exported with a batch of any size, converted, checked."""

from __future__ import annotations

import copy
import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, ShapesCollection

from haste_edge.errors import ModelError, UnsupportedModelError
from haste_edge.frontends.aten import convert
from haste_edge.frontends.aten_rules import RULES
from haste_runtime.graph import Graph, Shape
from haste_runtime.operators import check_graph

Reference = Callable[..., Any]

EXAMPLE_BATCH = 2  # torch treats sizes 0 and 1 as fixed


@dataclass(frozen=True)
class LoadedModel:
    """A model in two forms that compute the same.

    reference: the original; takes the graph's inputs in order, float32 tensors (N, C, H, W) or (N, F), and returns a
    tensor, or for several outputs what the model returns (its tensors in graph order). graph: as converted, no pass
    has run. source: what was loaded, in words. layout: of the maps that the original itself takes and gives; the graph
    and ``reference`` have NCHW. outputs: what the original calls its outputs, empty where it has no names for them.
    """

    reference: Reference
    graph: Graph
    source: str
    layout: str = "NCHW"
    outputs: tuple[str, ...] = ()

    @property
    def input_shape(self) -> Shape:
        """(1, C, H, W) or (1, F) of the first input."""
        return (1, *self.graph.inputs[0].shape)


def load_module(module: nn.Module, shapes: Sequence[Shape], source: str, batch: int | None = None) -> LoadedModel:
    """Export and convert ``module`` for inputs of the per-frame ``shapes``.

    batch: the only batch size the module takes, or None if it must take any. The module is left on the CPU, in float32,
    in eval mode and without gradients. Raises ModelError if it does not run on such inputs, UnsupportedModelError if
    it cannot be compiled, GraphError if its weights hold NaN or infinity.
    """
    module = module.cpu().float().eval().requires_grad_(False)
    examples = _try_out(module, shapes, batch or EXAMPLE_BATCH)
    program = _export(module, examples, dynamic=batch is None)
    graph = convert(program, RULES)
    check_graph(graph)
    return LoadedModel(module if batch is None else in_batches_of(module, batch), graph, source)


def _try_out(module: nn.Module, shapes: Sequence[Shape], batch: int) -> tuple[Tensor, ...]:
    """Random inputs that the module runs on."""
    try:
        examples = tuple(torch.randn(batch, *shape) for shape in shapes)
        with torch.no_grad():
            module(*copy.deepcopy(examples))  # a model may write to its input
    except Exception as error:  # whatever forward raises
        given = ", ".join("x".join(map(str, (1, *shape))) for shape in shapes)
        raise ModelError(
            f"The model does not run on an input of {given}: {_first_lines(error)}.",
            "Give its input shape as in --input 1x3x32x32.",
        ) from error
    return examples


def _export(module: nn.Module, examples: tuple[Tensor, ...], dynamic: bool) -> ExportedProgram:
    """A functional program: in-place operators become ordinary ones, convolution and linear stay whole."""
    with _quiet():
        try:
            return _trace(module, examples, dynamic).run_decompositions({})
        except Exception as error:  # torch.export has no common base class
            reason = _first_lines(error)
            try:
                _trace(module, examples, dynamic=False)
            except Exception:
                raise UnsupportedModelError(
                    f"torch.export cannot capture the model: {reason}.",
                    "forward must not decide by the values of tensors; the export guide of PyTorch names the ways out.",
                ) from error
            raise UnsupportedModelError(
                f"The model does not take a batch of any size: {reason}.",
                "Take the batch from x.shape[0], or flatten with x.flatten(1), instead of a fixed number.",
            ) from error


def _trace(module: nn.Module, examples: tuple[Tensor, ...], dynamic: bool) -> ExportedProgram:
    shapes = ShapesCollection()
    if dynamic:
        size = Dim("batch")
        for example in examples:
            shapes[example] = {0: size}
    dynamic_shapes = shapes.dynamic_shapes(module, examples) if dynamic else None
    return torch.export.export(module, examples, dynamic_shapes=dynamic_shapes, strict=False)


def in_batches_of(module: Reference, batch: int) -> Reference:
    """The module for any number of frames, though it takes ``batch`` at a time; the last group is filled up."""

    def run(*inputs: Tensor) -> Any:
        frames = len(inputs[0])
        parts = []
        for start in range(0, frames, batch):
            index = torch.arange(start, start + batch).clamp(max=frames - 1)
            result = module(*(x[index] for x in inputs))
            parts.append([result] if isinstance(result, Tensor) else list(result))
        joined = tuple(torch.cat(column)[:frames] for column in zip(*parts, strict=True))
        return joined[0] if len(joined) == 1 else joined

    return run


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's warnings about its own internals, its log, and the graphs that it prints when it gives up."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _first_lines(error: Exception, most: int = 180) -> str:
    """The first sentences of an error message, on one line, without torch's advice for its own debugging."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = re.sub(r"For more information, run with \S+ ", "", text)
    if len(text) > most:
        whole, end, _ = text[:most].rpartition(". ")
        text = whole if end else text[:most].rpartition(" ")[0] + " ..."
    return text.rstrip(".")
