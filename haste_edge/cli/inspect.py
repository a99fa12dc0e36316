"""``haste-edge inspect``: what is in a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from haste_edge.cli.common import Debug, Json
from haste_runtime.cli.common import print_json


def inspect_(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The .haste file.")],
    verify: Annotated[bool, typer.Option("--verify", help="Read every tensor and check its SHA-256.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show what is in a bundle: network, sizes, plan, levels; with --verify, also whether all bytes are intact."""
    from haste_runtime.bundle import inspect_bundle

    summary = inspect_bundle(bundle, verify)
    if json:
        print_json(summary)
        return
    from haste_edge.cli.tables import print_layers, print_levels, size

    sizes, preprocessing = summary["bytes"], summary["preprocessing"]
    shapes = [
        ", ".join(f"{value['name']} {'x'.join(map(str, value['shape']))}" for value in summary[key])
        for key in ("inputs", "outputs")
    ]
    print(f"{bundle}: format {summary['format_version']}, made by {summary['made_by']} for {summary['target']}")
    print(f"network:   {shapes[0]} -> {shapes[1]}; {', '.join(f'{n} {op}' for op, n in summary['operators'].items())}")
    print(f"weights:   {summary['parameters']} numbers, {summary['dtype']}, {size(sizes['constants'])}")
    parts = [part for part in ("file", "arena", "projections", "importance") if sizes[part]]
    print(f"memory:    {', '.join(f'{part} {size(sizes[part])}' for part in parts)}")
    print(
        f"pictures:  {preprocessing['colour']} / {preprocessing['scale']:g}, "
        f"mean {numbers(preprocessing['mean'])}, std {numbers(preprocessing['std'])}, {preprocessing['layout']}; "
        f"{sizing(preprocessing)}"
    )
    print(f"classes:   {', '.join(summary['classes']) or 'not named'}")
    print(f"checksums: {', '.join(f'{part} {state}' for part, state in summary['checksums'].items())}")
    print_layers(summary)
    print_levels(summary)


def sizing(preprocessing: Mapping[str, Any]) -> str:
    """How pictures come to the input's size, in words."""
    fit, crop, fill = (preprocessing[key] for key in ("fit", "crop", "fill"))
    return fit + (f", filled with {fill:g}" if fit == "contain" else f", {crop:g} of it" if crop < 1 else "")


def numbers(values: list[float]) -> str:
    return " ".join(f"{value:g}" for value in values)
