"""A bundle's exact network, level 0, as a ``.tflite`` file: `haste_edge.exports.export` says how one comes about."""

from __future__ import annotations

import json
from pathlib import Path

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
from haste_edge.exports.tflite_nodes import ANY_RANK, RULES
from haste_edge.exports.tflite_writer import Writer
from haste_edge.frontends import tflite_process
from haste_edge.frontends.tflite_model import check_installed, run_file
from haste_runtime.bundle import Bundle

METADATA = "haste_edge"  # the name of an entry of the file: an object of JSON, whose values are JSON of their own
_INSTEAD = "Export it to ONNX instead: --to onnx."
_DOUBT = "Please report it with the bundle; --to onnx may work meanwhile."


def export_tflite(path: Path, out: Path) -> ExportReport:
    """Write level 0 of the bundle in ``path`` to ``out``.

    Inputs and outputs have the names that a session of the bundle has, a batch of 1 and, whatever the bundle's layout
    is, channels last. Raises as `export_bundle`.
    """
    check_installed()
    return export_bundle(path, out, TFLITE)


def tflite_model(bundle: Bundle) -> tuple[bytes, int]:
    """Level 0 as a TFLite file, and the number of its operations; raises UnsupportedModelError, which names every
    operator that TFLite has nothing for."""
    graph = float_network(bundle, "a .tflite", _INSTEAD)
    writer = Writer(graph)
    outputs = writer.write(RULES, ANY_RANK)
    refuse(tuple(writer.refusals), _INSTEAD)
    about = {METADATA: json.dumps(metadata(bundle), ensure_ascii=False).encode()}
    return writer.builder.model(*outputs, description=ABOUT, metadata=about), len(writer.builder.operations)


def _write(bundle: Bundle) -> Written:
    data, operations = tflite_model(bundle)
    return Written(data, operations, "schema version 3")


def _run(path: Path, bundle: Bundle, inputs: Arrays) -> tuple[str, Arrays]:
    """In LiteRT or, where that is what is installed, in the older tflite-runtime; in a process of its own."""
    feeds = [channels_last(inputs)[value.name] for value in bundle.graph.inputs]
    answers = run_file(path, feeds, batch=1)
    outputs = {name: answers[str(number)] for number, name in enumerate(bundle.graph.outputs)}
    return tflite_process.installed(), channels_first(outputs)


TFLITE = Format(_write, _run, dict.fromkeys(tflite_process.PACKAGES, _DOUBT))
