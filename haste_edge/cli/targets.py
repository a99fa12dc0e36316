"""``haste-edge targets``: the boards a bundle can be compiled for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from haste_edge.cli.common import Debug, Json, print_table
from haste_runtime.cli.common import print_json


def targets(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="One target, with the source of each figure.")
    ] = None,
    measure: Annotated[
        Path | None,
        typer.Option(
            help="Measure this computer, and write a file for `haste-edge compile --target` with its figures; "
            "takes some seconds, in which nothing else should run."
        ),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """List the boards haste-edge knows, show one with the source of each figure, or measure this computer."""
    from haste_edge.targets import list_targets, load_target

    if measure:
        from haste_edge.measured_target import as_toml, measure_target
        from haste_runtime.cache import write_whole

        write_whole(measure, as_toml(measure_target(name or "measured")))
        name = str(measure)
    chosen = [load_target(each) for each in ([name] if name else list_targets())]
    if json:
        print_json({"targets": [target.model_dump() for target in chosen]})
        return
    rows = [
        [
            t.name,
            t.title,
            t.core,
            str(t.cores),
            str(t.clock_mhz),
            str(32 * t.simd.lanes),
            f"{t.memory.bandwidth_gb_s:g}",
        ]
        for t in chosen
    ]
    print_table(["name", "board", "core", ">cores", ">MHz", ">SIMD bits", ">GB/s"], rows)
    if name:
        (target,) = chosen
        print_table(["figure", "source"], [list(item) for item in target.sources.model_dump().items()])
        print(target.software.notes)
