"""``haste-edge export``: a bundle's exact network for other runtimes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from haste_edge.cli.common import Debug, Json
from haste_edge.cli.compile import one_of
from haste_edge.extras import needing
from haste_runtime.cli.common import print_json

if TYPE_CHECKING:
    from haste_edge.exports.export import ExportReport

FORMATS = ("onnx", "tflite")

HELP = """Write a bundle's exact network, level 0, as a file that other runtimes read.

So you can check haste-edge with a runtime that you trust, or measure beside it: batch norms are folded, nothing is
merged, and weights are float32, however the bundle stores them. Inputs and outputs have the names that a session of the
bundle has; how pictures become inputs, and the names of classes, are in the file's metadata, as JSON.

\b
  onnx     in the bundle's layout, with any batch; operator set 17
  tflite   with channels last and a batch of 1, activations in the layers; what TFLite has no operation for is refused

The file is run beside the bundle, on random input, before it gets its name: in ONNX Runtime, or in LiteRT.

\b
  haste-edge export net.haste --to onnx -o net.level0.onnx
  python -c "import onnxruntime; print(onnxruntime.InferenceSession('net.level0.onnx').get_inputs()[0])"
  haste-edge export net.haste --to tflite -o net.level0.tflite
"""


def export(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The .haste file.")],
    to: Annotated[str, typer.Option(help=f"Kind of file: {', '.join(FORMATS)}.")] = "onnx",
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="The file to write; by default NAME.level0.KIND beside the bundle."),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    kind = one_of(to, FORMATS, "--to")
    report = exporter(kind)(bundle, out or bundle.with_name(f"{bundle.stem}.level0.{kind}"))
    if json:
        print_json(report.as_json())
        return
    from haste_edge.cli.tables import size

    print(f"{report.path}: {size(report.bytes)}, {report.nodes} nodes of {report.version}")
    print(
        f"largest error in {report.runtime} against level 0 of {bundle}: {report.largest_error:.1e} of the largest "
        f"output (allowed: {report.tolerance:.0e})"
    )


def exporter(kind: str) -> Callable[[Path, Path], ExportReport]:
    """What writes files of that kind. Raises ModelError where it needs what is not installed."""
    with needing(kind, "Writing"):
        if kind == "tflite":
            from haste_edge.exports.tflite_model import export_tflite

            return export_tflite
        from haste_edge.exports.onnx_model import export_onnx

        return export_onnx
