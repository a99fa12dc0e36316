"""The compiler: from a model to a bundle on disk that has proved itself.

    load -> passes -> check against the original -> plan -> write -> read back, run, check again -> rename

The file appears under its name only after the last check, so a compile that fails or is interrupted leaves the folder
as it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from haste_edge import __version__, torch_graph
from haste_edge.errors import ModelError
from haste_edge.frontends import LoadedModel, load_model
from haste_edge.frontends.export import load_module
from haste_edge.passes import name_outputs, run_passes
from haste_edge.plan import explain, make_plan
from haste_edge.targets import Target, load_target
from haste_edge.unlabelled import load_unlabelled
from haste_edge.writing import check_place, replacing
from haste_runtime import Session
from haste_runtime.bundle import STORAGE, Bundle, inspect_bundle, stored, write_bundle
from haste_runtime.errors import HasteError, InputError
from haste_runtime.graph import Graph, Shape
from haste_runtime.memory import arena_bytes
from haste_runtime.operators import check_graph
from haste_runtime.preprocessing import Preprocessing, images_to_inputs

TOLERANCE = 1e-4  # of the largest output
CHECK_FRAMES = 4
LEVELS = 8  # above level 0

Arrays = Mapping[str, NDArray[np.float32]]
OnStep = Callable[[str], None]
OnProgress = Callable[[str, int, int], None]


class VerificationError(HasteError, ArithmeticError):
    """The compiled network does not compute what the original does."""

    exit_code = 6


@dataclass(frozen=True)
class CompileReport:
    """What a compile did.

    path: the bundle. source: the model, in words. largest_error: of level 0 in the runtime against the original, on
    random input, as a share of the largest output; never above tolerance. rounding_error: the same share, for what
    storing weights in half precision or as int8 changes; None for fp32. seconds: step -> wall time. explanation: the
    plan as a table, with reasons. summary: as `haste_runtime.bundle.inspect_bundle` gives it.
    """

    path: Path
    source: str
    largest_error: float
    tolerance: float
    rounding_error: float | None
    seconds: Mapping[str, float]
    explanation: str
    summary: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        return {
            "bundle": str(self.path),
            "source": self.source,
            "largest_error": self.largest_error,
            "tolerance": self.tolerance,
            "rounding_error": self.rounding_error,
            "seconds": {step: round(seconds, 3) for step, seconds in self.seconds.items()},
            **self.summary,
        }


def compile_model(
    model: str | nn.Module | LoadedModel,
    out: str | Path,
    *,
    weights: str | Path | None = None,
    input_shape: str | Sequence[int] | None = None,
    target: str | Path | Target = "host",
    preprocessing: Preprocessing | None = None,
    classes: Sequence[str] = (),
    layout: str | None = None,
    levels: int = LEVELS,
    objective: str = "time",
    dtype: str = "fp32",
    images: str | Path | None = None,
    policy: str = "auto",
    patches: Sequence[int] = (),
    winograd: bool = True,
    seed: int = 0,
    tolerance: float = TOLERANCE,
    on_step: OnStep = lambda step: None,
    on_progress: OnProgress = lambda what, done, total: None,
) -> CompileReport:
    """Compile ``model`` into the bundle ``out``.

    Important:
        model: ``package.module:factory``, a ``.pt2``, ``.onnx`` or ``.tflite`` file, or a torch module (which is put
        in eval mode, on the CPU).
        out: the file to write; one that exists is replaced.
        weights: safetensors state dict for a factory.
        input_shape: "1x3x32x32" or (1, 3, 32, 32); not needed for a file that states it.
        target: name or .toml file of the board.
        preprocessing, classes: how pictures become inputs, and what the outputs are called; the bundle carries both.
        layout: of the arrays that the bundle takes and gives, "NCHW" or "NHWC", or "model" for the model's own; None is
        that of ``preprocessing`` or, without one, the model's own.

    To try:
        levels: above level 0; with 0, nothing is planned. objective: "time" by the target's cost model, or "flops".
        images: folder or .npz of pictures of your own, without labels, to plan with instead of noise.
        policy: "auto" (see `haste_edge.plan.make.make_plan`), "affine", "drop", "budget", "scaled", or the paper's
        "mean". patches: tile sides to try, instead of about 8 and 16.
        winograd: compute layers by Winograd's algorithms where that is predicted to be quicker, with dtype "fp32" only.
        Without it, the compiled backend gives the same bytes on every CPU.
        dtype: how weights are stored: "fp32", or "fp16" or "int8" for half or a quarter of the file. seed: of the
        projections. tolerance: of the checks.
        on_step: called with a line for people when a step begins. on_progress: during long steps, with what is
        being done, steps done, steps in all.

    Raises ModelError, UnsupportedModelError, TargetError, PlanError, DataError or InputError for what was asked,
    VerificationError where the result differs from the original, and BundleWriteError.
    """
    out = Path(out)
    seconds: dict[str, float] = {}

    @contextmanager
    def step(name: str, says: str) -> Iterator[None]:
        on_step(says)
        started = time.perf_counter()
        yield
        seconds[name] = time.perf_counter() - started

    check_place(out)
    board = target if isinstance(target, Target) else load_target(target)
    layout = layout or ("model" if preprocessing is None else preprocessing.layout)
    with step("load", "Loading the model"):
        loaded = _load(model, weights, input_shape)
        preprocessing = replace(preprocessing or Preprocessing(), layout=loaded.layout if layout == "model" else layout)
        shapes = check_graph(loaded.graph)
        _check_request(loaded.graph, shapes, preprocessing, classes, dtype)
    with step("passes", "Simplifying the network"):
        graph = name_outputs(run_passes(loaded.graph), loaded.outputs)
    with step("check", "Comparing it with the original"):
        inputs = random_inputs(graph, preprocessing, CHECK_FRAMES, seed)
        wanted = _run_reference(loaded, graph, inputs)
        compare(wanted, _run_graph(graph, inputs), tolerance, "The network after the compiler's passes")
    with step("plan", "Planning what to merge at which level"):
        pictures = None if images is None else load_unlabelled(images, graph.inputs[0].shape, preprocessing)
        made = make_plan(
            graph, preprocessing, board, objective, levels, seed, on_progress, pictures, policy, patches,
            winograd and dtype == "fp32",  # transformed filters are float32, and would undo what is stored small
        )  # fmt: skip
    bundle = Bundle(
        graph=graph,
        plan=made.plan,
        preprocessing=preprocessing,
        classes=tuple(classes),
        target=board.name,
        dtype=dtype,
        arena_bytes=arena_bytes(graph, made.plan, board.simd.lanes),
        made_by=f"haste-edge {__version__}",
        projections=made.projections,
        importance=made.importance,
    )
    with replacing(out) as partial:
        with step("write", "Writing the bundle"):
            write_bundle(partial, bundle)
        with step("verify", "Reading it back, and comparing the runtime with the original"):
            rounding_error = None
            if dtype != "fp32":  # the original with its weights rounded is what the runtime must compute
                rounded = _run_graph(stored(bundle).graph, inputs)
                rounding_error, wanted = difference(wanted, rounded), rounded
            largest_error = compare(wanted, run_bundle(partial, inputs), tolerance, "The bundle, read back and run,")
    return CompileReport(
        path=out,
        source=loaded.source,
        largest_error=largest_error,
        tolerance=tolerance,
        rounding_error=rounding_error,
        seconds=seconds,
        explanation=explain(made.plan, graph),
        summary=inspect_bundle(out),
    )


# --- before anything takes long --------------------------------------------------------------------------------------


def _load(
    model: str | nn.Module | LoadedModel, weights: str | Path | None, input_shape: str | Sequence[int] | None
) -> LoadedModel:
    if isinstance(model, str):
        return load_model(model, weights, input_shape)
    if weights is not None:
        raise ModelError(
            "Weights were given for a model that has its own.", "Load them into it, and leave them out here."
        )
    if isinstance(model, LoadedModel):
        return model
    if input_shape is None:
        raise ModelError("A module does not know its input's shape.", "Give input_shape, as in (1, 3, 32, 32).")
    from haste_edge.frontends import parse_shapes

    return load_module(model, parse_shapes(input_shape), type(model).__name__)


def _check_request(
    graph: Graph, shapes: Mapping[str, Shape], preprocessing: Preprocessing, classes: Sequence[str], dtype: str
) -> None:
    """What the bundle's writer would refuse too, but only after planning."""
    if dtype not in STORAGE:
        raise InputError(f"Weights cannot be stored as {dtype!r}.", f"Choose one of: {', '.join(STORAGE)}.")
    given, channels = len(preprocessing.mean), graph.inputs[0].shape[0]
    if len(graph.inputs[0].shape) == 3 and given not in (1, channels):
        raise InputError(
            f"Mean and std have {given} numbers, but the network's input has {channels} channels.",
            "Give one number for each channel, or one for all.",
        )
    scores = shapes[graph.outputs[0]]
    if classes and len(graph.outputs) == 1 and len(scores) == 1 and scores[0] != len(classes):
        raise InputError(
            f"There are {len(classes)} class names, but the network has {scores[0]} outputs.",
            "Give one name for each output, in their order.",
        )


# --- the proof -------------------------------------------------------------------------------------------------------


def random_inputs(graph: Graph, preprocessing: Preprocessing, frames: int, seed: int) -> dict[str, NDArray[np.float32]]:
    """For each graph input (frames, C, H, W) or (frames, F).

    Where a picture fits they are random pixels, preprocessed, so that the numbers have the range the network is used
    with; elsewhere they are normal.
    """
    rng = np.random.default_rng(seed)
    inputs = {}
    for value in graph.inputs:
        if len(value.shape) == 3 and value.shape[0] in (1, 3) and len(graph.inputs) == 1:
            pixels = rng.integers(0, 256, (frames, *value.shape[1:], 3), np.uint8)
            inputs[value.name] = images_to_inputs(pixels, value.shape, replace(preprocessing, layout="NCHW"))
        else:
            inputs[value.name] = rng.standard_normal((frames, *value.shape), np.float32)
    return inputs


def difference(wanted: Arrays, got: Arrays) -> float:
    """The largest difference in any output, as a share of that output's largest number; NaN counts as infinite."""
    worst = 0.0
    for name, reference in wanted.items():
        size = float(np.abs(reference).max(initial=0.0)) or 1.0
        error = float(np.abs(reference.astype(np.float64) - got[name]).max(initial=0.0)) / size
        worst = max(worst, error if np.isfinite(error) else np.inf)
    return worst


def compare(wanted: Arrays, got: Arrays, tolerance: float, what: str) -> float:
    """The `difference`. Raises VerificationError where it is above tolerance."""
    error = difference(wanted, got)
    if error > tolerance:
        raise VerificationError(
            f"{what} differs from the original by {error:.1e} of the largest output, more than {tolerance:.0e}.",
            "Nothing was written. If the model computes something random or in another precision, make it repeatable "
            "in eval mode; otherwise please report it with the model.",
        )
    return error


def _run_reference(loaded: LoadedModel, graph: Graph, inputs: Arrays) -> dict[str, NDArray[np.float32]]:
    with torch.no_grad():
        # copies, as a model may write to its input
        answer = loaded.reference(*(torch.from_numpy(inputs[value.name].copy()) for value in graph.inputs))
    outputs = {name: t.numpy() for name, t in zip(graph.outputs, _tensors(answer), strict=True)}
    for name, array in outputs.items():
        if not np.isfinite(array).all():
            raise VerificationError(
                f"The original model's output {name!r} holds NaN or infinity on random input.",
                "Check its weights, and that mean and std are the ones it was trained with.",
            )
    return outputs


def _tensors(answer: Any) -> list[torch.Tensor]:
    """Those in a model's answer, in order: a tensor, or any nesting of tuples, lists and dicts."""
    if isinstance(answer, torch.Tensor):
        return [answer]
    parts = answer.values() if isinstance(answer, Mapping) else answer if isinstance(answer, (tuple, list)) else ()
    return [tensor for part in parts for tensor in _tensors(part)]


def _run_graph(graph: Graph, inputs: Arrays) -> dict[str, NDArray[np.float32]]:
    run = torch_graph.run(graph, {name: torch.from_numpy(array) for name, array in inputs.items()})
    return {name: tensor.numpy() for name, tensor in run.outputs.items()}


def run_bundle(bundle: Path | Bundle, inputs: Arrays) -> dict[str, NDArray[np.float32]]:
    """Level 0 in the runtime's reference backend, inputs and outputs in the graph's layout."""
    with Session(bundle, backend="numpy") as session:
        if session.bundle.preprocessing.layout == "NCHW":
            return session.run(inputs)
        outputs = session.run({k: x.transpose(0, 2, 3, 1) if x.ndim == 4 else x for k, x in inputs.items()})
        return {k: y.transpose(0, 3, 1, 2) if y.ndim == 4 else y for k, y in outputs.items()}
