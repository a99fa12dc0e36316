"""``haste-edge build-runtime``: haste-runtime with machine code inside, as wheels for devices."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from haste_edge.cli.common import Debug, Json, Reporter, print_table
from haste_runtime.cli.common import print_json

HELP = """Write wheels of haste-runtime that hold the kernels as machine code, so that the device needs no compiler.

One wheel for each kind of machine: aarch64, armv7l and x86_64. Compiling for a core takes a minute or more, the first
time; what was compiled is kept. Needs the extra haste-edge[cross].

\b
Examples:
  haste-edge build-runtime -o wheels                  every core, three wheels
  haste-edge build-runtime --target rpi4 -o wheels    a Raspberry Pi 4, and any other 64-bit ARM computer, slower
  haste-edge build-runtime --target my-board.toml -o wheels

\b
Then, on the device:
  pip install haste_runtime-*.whl
  haste-run doctor
"""


def build_runtime(
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="Folder for the wheels.")],
    target: Annotated[
        list[str] | None,
        typer.Option("--target", help='Board, or a .toml file; may be repeated. "all", as without: every core.'),
    ] = None,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", min=1, help="Cores to compile for at a time; each takes 2 GB of memory.")
    ] = 1,
    json: Json = False,
    debug: Debug = False,
) -> None:
    from haste_edge.cross.wheels import ALL
    from haste_edge.cross.wheels import build_runtime as build

    with Reporter() as reporter:
        wheels = build(target or [ALL], out, reporter.progress, jobs)
    if json:
        print_json({"wheels": [wheel.summary for wheel in wheels]})
        return
    rows = [
        [
            wheel.path.name,
            f"{wheel.size / 1e6:.2f}",
            ", ".join(library.core.name for library in wheel.libraries),
            f"{wheel.unpacked / 1e6:.2f}",
            f"{wheel.packed / 1e6:.2f}",
        ]
        for wheel in wheels
    ]
    print_table(["wheel", ">MB", "kernels for", ">unpacked MB", ">packed MB"], rows)
