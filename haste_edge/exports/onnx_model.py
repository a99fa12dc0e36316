"""A bundle's exact network, level 0, as an ``.onnx`` file that has proved itself.

    write down -> onnx's checker -> run beside the bundle -> rename

As with `haste_edge.compile`, the file appears under its name only after the last check.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, checker, helper
from onnx.reference import ReferenceEvaluator

from haste_edge import __version__
from haste_edge.compile import CHECK_FRAMES, TOLERANCE, VerificationError, difference, random_inputs
from haste_edge.errors import Refusal, UnsupportedModelError
from haste_edge.exports.onnx_nodes import RULES
from haste_edge.exports.onnx_writer import Writer
from haste_edge.writing import check_place, replacing
from haste_runtime import Session
from haste_runtime.bundle import Bundle, read_bundle
from haste_runtime.graph import Graph
from haste_runtime.weights import float_graph

OPSET = 17
IR_VERSION = 8  # the one that came with it
MOST_BYTES = 2**31 - 1  # of a protobuf message
ROOM = 2**24  # of these for all but the weights
_INSTEAD = "Use the model that the bundle was compiled from."

Arrays = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class ExportReport:
    """What an export did.

    path: the file. runtime: what it was run in, "onnxruntime" or, where that is not installed, "onnx". largest_error:
    against level 0 of the bundle, on random input, as a share of the largest output; never above tolerance. nodes: of
    the ONNX graph. bytes: of the file.
    """

    path: Path
    bundle: Path
    runtime: str
    largest_error: float
    tolerance: float
    opset: int
    nodes: int
    bytes: int

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "path": str(self.path), "bundle": str(self.bundle)}


def export_onnx(path: Path, out: Path) -> ExportReport:
    """Write level 0 of the bundle in ``path`` to ``out``; a file that exists is replaced.

    Inputs, outputs and layouts are those that a session of the bundle has, with any batch; weights are float32.

    Raises BundleError for the bundle, UnsupportedModelError where an operator has no rule or the weights are too large
    for a file, VerificationError where the file does not compute what the bundle does, and BundleWriteError.
    """
    check_place(out, path)
    bundle = read_bundle(path)
    model = onnx_model(bundle)
    data = model.SerializeToString(deterministic=True)
    with replacing(out) as partial:
        partial.write_bytes(data)
        runtime, largest_error = prove(partial, bundle)
    return ExportReport(out, path, runtime, largest_error, TOLERANCE, OPSET, len(model.graph.node), len(data))


def onnx_model(bundle: Bundle) -> ModelProto:
    """Level 0 as an ONNX model; raises UnsupportedModelError, which names every operator without a rule."""
    _refuse(bundle.graph)
    graph = float_graph(bundle.graph)
    weights = sum(constant.nbytes for constant in graph.constants.values())
    if weights > MOST_BYTES - ROOM:
        raise UnsupportedModelError(
            f"The network has {weights} bytes of weights in float32; an .onnx file holds 2 GB.",
            _INSTEAD,
        )
    model = helper.make_model(
        Writer(graph, bundle.preprocessing.layout).write(RULES),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="haste-edge",
        producer_version=__version__,
        doc_string="Level 0, the exact network, of a bundle. Pictures: (x / scale - mean) / std, by its metadata.",
    )
    helper.set_model_props(model, metadata(bundle))
    return model


def metadata(bundle: Bundle) -> dict[str, str]:
    """How pictures become inputs, and what the outputs are called: each value is JSON."""
    properties = {**asdict(bundle.preprocessing), "classes": bundle.classes, "made_by": bundle.made_by}
    return {key: json.dumps(value, ensure_ascii=False) for key, value in properties.items()}


def _refuse(graph: Graph) -> None:
    refusals = tuple(
        Refusal(node.name, node.op, "", "There is no ONNX for this operator.", "")
        for node in graph.nodes
        if node.op not in RULES
    )
    if refusals:
        lines = "".join(f"\n  {refusal}" for refusal in refusals)
        raise UnsupportedModelError(f"The network cannot be exported:{lines}", _INSTEAD, refusals)


# --- the proof -------------------------------------------------------------------------------------------------------


def prove(path: Path, bundle: Bundle) -> tuple[str, float]:
    """What ran the file, and by how much it differs from the bundle's level 0. Raises VerificationError."""
    inputs = random_inputs(bundle.graph, bundle.preprocessing, CHECK_FRAMES, seed=0)
    if bundle.preprocessing.layout == "NHWC":
        inputs = {k: np.ascontiguousarray(x.transpose(0, 2, 3, 1)) if x.ndim == 4 else x for k, x in inputs.items()}
    with Session(bundle, backend="numpy") as session:
        wanted = session.run(inputs)
    hint = "Nothing was written; please report it with the bundle."
    try:
        checker.check_model(str(path), full_check=True)
        runtime, got = _run(path, inputs)
    except MemoryError:
        raise
    except Exception as error:  # those of onnx and onnxruntime have no common base class
        raise VerificationError(
            f"The exported network does not run: {' '.join(str(error).split())[:300]}", hint
        ) from error
    largest_error = difference(wanted, got)
    if runtime == "onnx":
        hint = "Nothing was written. Install onnxruntime and try again: onnx's reference has defects, in LRN for one."
    if largest_error > TOLERANCE:
        raise VerificationError(
            f"The exported network differs from the bundle by {largest_error:.1e} of the largest output in {runtime}.",
            hint,
        )
    return runtime, largest_error


def _run(path: Path, inputs: Arrays) -> tuple[str, Arrays]:
    try:
        import onnxruntime
    except ImportError:
        evaluator = ReferenceEvaluator(str(path))
        return "onnx", dict(zip(evaluator.output_names, evaluator.run(None, dict(inputs)), strict=True))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # its errors are ours to tell
    session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return "onnxruntime", dict(zip(names, session.run(names, dict(inputs)), strict=True))
