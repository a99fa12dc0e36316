"""``haste-edge visualize``: what merging does to one picture, as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from haste_edge.cli.common import Debug, Json, Reporter
from haste_runtime.cli.common import print_json
from haste_runtime.errors import InputError

if TYPE_CHECKING:
    from haste_edge.observe import Observation


def visualize(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The .haste file.")],
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="A picture, or a .npy as `haste-run infer` takes it.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The PNG to write.")],
    level: Annotated[int | None, typer.Option(help="Whose merging to show; by default the strongest's.")] = None,
    layer: Annotated[
        str | None,
        typer.Option(help="The convolution to look at; by default the most merged in the first half of the network."),
    ] = None,
    channels: Annotated[int, typer.Option(min=1, max=24, help="Feature maps to show, side by side.")] = 12,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Draw what merging does to one picture: answers, feature maps, groups, and channels kept at every level."""
    _check_place(out)

    from haste_edge.observe import observe, only_input
    from haste_edge.visualize import save_visualization
    from haste_runtime.bundle import read_bundle
    from haste_runtime.preprocessing import read_input

    network = read_bundle(bundle)
    frames = read_input(image, only_input(network).shape, network.preprocessing)
    if len(frames) != 1:
        raise InputError(f"{image} holds {len(frames)} frames.", "Give a file with one of them.")
    with Reporter() as reporter:
        seen = observe(network, frames[0], level, layer, lambda done, total: reporter.progress("Running", done, total))
    save_visualization(seen, out, bundle.name, channels)
    if json:
        print_json({"bundle": str(bundle), "image": str(image), "out": str(out), **described(seen)})
        return
    saved, agrees = seen.chosen.totals.flops_reduction_network, seen.agrees(seen.level)
    answer = "the same answer as" if agrees else "another answer than"
    print(f"Level {seen.level} saves {saved:.1f} % of the FLOPs on this picture, and gives {answer} level 0.")
    print(f"Shown: {seen.layer.node}, {100 * seen.chosen.kept[seen.layer.node]:.0f} % of its channels kept. {out}")


def described(seen: Observation) -> dict[str, Any]:
    """The numbers behind the drawing: kept shares (0 to 1) per layer and level, and on how many patches each channel of
    the layer was merged, dropped or left untouched."""
    from haste_edge.observe import FATES

    layer = seen.layer
    levels = [
        {
            "level": found.number,
            "flops_reduction": round(found.totals.flops_reduction, 3),
            "flops_reduction_network": round(found.totals.flops_reduction_network, 3),
            "agrees": seen.agrees(found.number),
            "change": round(seen.change(found.number), 5),
            "likeliest": [
                {"index": one.index, "name": one.name, "probability": round(one.probability, 5)}
                for one in seen.likeliest(found.number)
            ],
            "kept": {node: round(share, 5) for node, share in found.kept.items()},
        }
        for found in seen.levels
    ]
    met = zip(layer.usual_fate.tolist(), layer.patches_by_fate.tolist(), strict=True)
    return {
        "level": seen.level,
        "layer": layer.node,
        "policy": layer.variant.policy,
        "patch": layer.variant.patch,
        "bits": layer.choice.bits,
        "budget": layer.choice.budget,
        "levels": levels,
        "channels": [
            {"channel": number, "fate": FATES[usual], **dict(zip(FATES, patches, strict=True))}
            for number, (usual, patches) in enumerate(met)
        ],
    }


def _check_place(out: Path) -> None:
    """Before anything takes long. Raises InputError."""
    if out.suffix.lower() != ".png" or out.is_dir():
        raise InputError(f"{out} is not the name of a PNG.", "Give one that ends in .png.")
    if not out.parent.is_dir():
        raise InputError(f"The folder {out.parent} does not exist.", f"Make it: mkdir -p {out.parent}")
