"""A bundle's exact network, level 0, as an ``.onnx`` file: `haste_edge.exports.export` says how one comes about."""

from __future__ import annotations

from pathlib import Path

from onnx import ModelProto, checker, helper
from onnx.reference import ReferenceEvaluator

from haste_edge import __version__
from haste_edge.errors import Refusal
from haste_edge.exports.export import (
    ABOUT,
    Arrays,
    ExportReport,
    Format,
    Written,
    channels_first,
    channels_last,
    export_bundle,
    float_network,
    metadata,
    refuse,
)
from haste_edge.exports.onnx_nodes import RULES
from haste_edge.exports.onnx_writer import Writer
from haste_runtime.bundle import Bundle

OPSET = 17
IR_VERSION = 8  # the one that came with it
_INSTEAD = "Use the model that the bundle was compiled from."


def export_onnx(path: Path, out: Path) -> ExportReport:
    """Write level 0 of the bundle in ``path`` to ``out``, in operator set 17.

    Inputs, outputs and layouts are those that a session of the bundle has, with any batch. Raises as `export_bundle`.
    """
    return export_bundle(path, out, ONNX)


def onnx_model(bundle: Bundle) -> ModelProto:
    """Level 0 as an ONNX model; raises UnsupportedModelError, which names every operator without a rule."""
    refuse(
        tuple(
            Refusal(node.name, node.op, "", "There is no ONNX for this operator.", "")
            for node in bundle.graph.nodes
            if node.op not in RULES
        ),
        _INSTEAD,
    )
    graph = float_network(bundle, "an .onnx", _INSTEAD)
    model = helper.make_model(
        Writer(graph, bundle.preprocessing.layout).write(RULES),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="haste-edge",
        producer_version=__version__,
        doc_string=ABOUT,
    )
    helper.set_model_props(model, metadata(bundle))
    return model


def _write(bundle: Bundle) -> Written:
    model = onnx_model(bundle)
    return Written(model.SerializeToString(deterministic=True), len(model.graph.node), f"operator set {OPSET}")


def _run(path: Path, bundle: Bundle, inputs: Arrays) -> tuple[str, Arrays]:
    """In onnx's checker, then in ONNX Runtime or, where that is not installed, in onnx's own reference."""
    checker.check_model(str(path), full_check=True)
    last = bundle.preprocessing.layout == "NHWC"
    feeds = channels_last(inputs) if last else dict(inputs)
    try:
        import onnxruntime
    except ImportError:
        runtime, evaluator = "onnx", ReferenceEvaluator(str(path))
        names, outputs = evaluator.output_names, evaluator.run(None, feeds)
    else:
        runtime, options = "onnxruntime", onnxruntime.SessionOptions()
        options.log_severity_level = 4  # its errors are ours to tell
        session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        outputs = session.run(names, feeds)
    answers = dict(zip(names, outputs, strict=True))
    return runtime, channels_first(answers) if last else answers


ONNX = Format(
    _write, _run, {"onnx": "Install onnxruntime and try again: onnx's reference has defects, in LRN for one."}
)
