"""``haste-edge export``: a bundle's exact network for other runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from haste_edge.cli.common import Debug, Json
from haste_edge.cli.compile import one_of
from haste_edge.errors import ModelError
from haste_runtime.cli.common import print_json

FORMATS = ("onnx",)

HELP = """Write a bundle's exact network, level 0, as a file that other runtimes read.

So you can check haste-edge with a runtime that you trust, or measure beside it: batch norms are folded, nothing is
merged, and weights are float32, however the bundle stores them. Inputs and outputs have the names and the layout that a
session of the bundle has, and any batch; mean, std, scale, colour, layout and classes are in the file's metadata, as
JSON.

The file is run in ONNX Runtime beside the bundle, on random input, before it gets its name.

\b
  haste-edge export net.haste --to onnx -o net.level0.onnx
  python -c "import onnxruntime; print(onnxruntime.InferenceSession('net.level0.onnx').get_inputs()[0])"
"""


def export(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The .haste file.")],
    to: Annotated[str, typer.Option(help=f"Kind of file: {', '.join(FORMATS)}.")] = "onnx",
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="The file to write; by default NAME.level0.onnx beside the bundle."),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    kind = one_of(to, FORMATS, "--to")
    try:
        from haste_edge.exports.onnx_model import export_onnx
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("onnx", "google"):
            raise
        raise ModelError(
            "Writing .onnx files needs the package onnx.", 'Install it: pip install "haste-edge[onnx]"'
        ) from error
    report = export_onnx(bundle, out or bundle.with_name(f"{bundle.stem}.level0.{kind}"))
    if json:
        print_json(report.as_json())
        return
    from haste_edge.cli.tables import size

    print(f"{report.path}: {size(report.bytes)}, {report.nodes} nodes of {report.version}")
    print(
        f"largest error in {report.runtime} against level 0 of {bundle}: {report.largest_error:.1e} of the largest "
        f"output (allowed: {report.tolerance:.0e})"
    )
