"""``haste-edge compile``: a model becomes a bundle."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from haste_edge.cli.common import Debug, Json, Reporter, numbers
from haste_runtime.bundle import STORAGE
from haste_runtime.cli.common import print_json
from haste_runtime.errors import InputError
from haste_runtime.preprocessing import COLOURS, FITS, LAYOUTS, Preprocessing

NO_LEVELS = (
    "There is no level above 0: by the cost model no merged layer would be quicker on {target}, or none of them leaves "
    "the network of use; --explain says which. --objective flops saves arithmetic instead, at more time."
)


def compile_(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="package.module:factory (importable from here or PYTHONPATH), or a .pt2, .onnx or .tflite file.",
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="The bundle to write, usually NAME.haste.")],
    weights: Annotated[Path | None, typer.Option(help="The factory's weights: a safetensors state dict.")] = None,
    input: Annotated[
        str | None, typer.Option(help="Input shape, as in 1x3x32x32; not needed where the file states it.")
    ] = None,
    target: Annotated[str, typer.Option(help="Board: see `haste-edge targets`; or a .toml file of your own.")] = "host",
    mean: Annotated[
        str, typer.Option(help="Subtracted from pixels after --scale: a number a channel, with commas.")
    ] = "0",
    std: Annotated[str, typer.Option(help="Divided by after that; likewise.")] = "1",
    scale: Annotated[float, typer.Option(help="Pixels 0..255 are divided by this first.")] = 255.0,
    layout: Annotated[
        str, typer.Option(help="Layout of the arrays you will run it on: NCHW, NHWC, or model for the model's own.")
    ] = "model",
    colour: Annotated[str, typer.Option(help="Order of the input's channels: RGB or BGR.")] = "RGB",
    fit: Annotated[
        str,
        typer.Option(
            help="How pictures come to the input's size: cover (resized, the middle cut out), stretch, or contain (all "
            "of the picture, the rest filled)."
        ),
    ] = "cover",
    crop: Annotated[
        float, typer.Option(help="Share of height and width that is kept: 0.875 resizes to 256 and keeps 224.")
    ] = 1.0,
    fill: Annotated[float, typer.Option(help="With --fit contain: value of the pixels beside it, 0..255.")] = 0.0,
    classes: Annotated[Path | None, typer.Option(help="Text file with the name of a class in each line.")] = None,
    levels: Annotated[
        int,
        typer.Option(min=0, max=255, help="Levels of compression above level 0; 0: the exact network alone, at once."),
    ] = 8,
    objective: Annotated[
        str, typer.Option(help="What the ladder saves: time by the target's cost model, or flops.")
    ] = "time",
    images: Annotated[
        Path | None,
        typer.Option(
            help="Folder (or .npz) of your own pictures to plan with, without labels; without it, noise, "
            "on which strong levels seem to agree less than they do."
        ),
    ] = None,
    policy: Annotated[
        str,
        typer.Option(
            help="How channels merge: affine, drop, budget, scaled, or mean as in the paper; auto: affine or drop."
        ),
    ] = "auto",
    patch: Annotated[
        str, typer.Option(help="Patch sizes to try, with commas; by default about 8 and 16, which save time, too.")
    ] = "",
    dtype: Annotated[str, typer.Option(help=f"How weights are stored: {', '.join(STORAGE)}.")] = "fp32",
    winograd: Annotated[
        bool,
        typer.Option(help="Compute 3x3 layers by Winograd's algorithms where that is quicker (fp32 only)."),
    ] = True,
    seed: Annotated[int, typer.Option(min=0, help="Of the random projections; affine and drop have none.")] = 0,
    explain: Annotated[bool, typer.Option("--explain", help="Print for each layer what was chosen and why.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Compile a model into a bundle, and prove that its level 0 computes what the model does."""
    preprocessing = Preprocessing(
        mean=numbers(mean, "The mean"),
        std=numbers(std, "The std"),
        scale=scale,
        colour=one_of(colour.upper(), COLOURS, "--colour"),
        fit=one_of(fit, FITS, "--fit"),
        crop=crop,
        fill=fill,
    )
    names = () if classes is None else read_classes(classes)

    from haste_edge.compile import compile_model
    from haste_edge.plan.make import PLANNED_POLICIES  # brings torch

    with Reporter() as reporter:
        report = compile_model(
            model,
            out,
            weights=weights,
            input_shape=input,
            target=target,
            preprocessing=preprocessing,
            classes=names,
            layout=layout if layout == "model" else one_of(layout.upper(), LAYOUTS, "--layout"),
            levels=levels,
            objective=one_of(objective, ("flops", "time"), "--objective"),
            images=images,
            policy=one_of(policy, PLANNED_POLICIES, "--policy"),
            patches=sides(patch),
            dtype=one_of(dtype, tuple(STORAGE), "--dtype"),
            winograd=winograd,
            seed=seed,
            on_step=reporter.step,
            on_progress=reporter.progress,
        )
    from haste_edge.cli.tables import print_levels, size

    if explain:
        print(report.explanation, file=sys.stderr if json else sys.stdout)
    if json:
        print_json(report.as_json())
        return
    merging = sum(bool(layer["variants"]) for layer in report.summary["layers"])
    if not explain:  # which has them too
        print_levels(report.summary)
    print(
        f"{out}: {size(report.summary['bytes']['file'])}, {report.summary['dtype']}; "
        f"{merging} of {len(report.summary['layers'])} convolutions may merge; "
        f"arena {size(report.summary['bytes']['arena'])}"
    )
    print(
        f"largest error of level 0 against the original: {report.largest_error:.1e} of the largest output "
        f"(allowed: {report.tolerance:.0e})"
    )
    if report.rounding_error is not None:
        dtype = report.summary["dtype"]
        print(
            f"storing weights as {dtype} changes the output by up to {report.rounding_error:.1e} of that; "
            f"what this costs in accuracy: haste-edge evaluate {out} --data PICTURES.npz"
        )
    if levels and len(report.summary["levels"]) == 1:
        print(NO_LEVELS.format(target=report.summary["target"]))
    print(f"Next: haste-run bench {out}")


def one_of(text: str, choices: tuple[str, ...], option: str) -> str:
    """``text``, if it is among the choices. Raises InputError."""
    if text not in choices:
        raise InputError(f"{option} cannot be {text!r}.", f"Choose one of: {', '.join(choices)}.")
    return text


def sides(text: str) -> tuple[int, ...]:
    """Patch sizes from an option's text. Raises InputError."""
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise InputError(f"--patch cannot be {text!r}.", "Give whole numbers with commas, as in 8,16.") from None


def read_classes(path: Path) -> tuple[str, ...]:
    """Names from a text file, one a line; empty lines at its end do not count. Raises InputError."""
    try:
        return tuple(line.strip() for line in path.read_text(encoding="utf-8").rstrip().splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"The class names cannot be read from {path} ({error}).", "Write one name in each line."
        ) from error
