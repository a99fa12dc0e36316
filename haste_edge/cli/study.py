"""``haste-edge study``: policies and baselines over their settings and seeds, as JSON lines and a plot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from haste_edge.cli.common import Debug, Json, Reporter, numbers, print_table
from haste_runtime.cli.common import print_json
from haste_runtime.errors import InputError
from haste_runtime.plan import BUDGETED
from haste_runtime.preprocessing import COLOURS, Preprocessing

if TYPE_CHECKING:
    from haste_edge.study.curves import Curve, Spread

T = TypeVar("T", int, float, str)

HELP = """Study how well policies and baselines do on a network: accuracy lost against FLOPs saved.

\b
Policies: mean (the paper's), scaled, budget.
Baselines: dead, random, kmeans, gaussian, uncentred, float, image, pruned. Each but "dead" (which skips dead
channels and nothing else) keeps on every patch as many channels as "mean" does at the same bits, patch,
sparsity and seed.

\b
The axes (--policies, --bits, --budgets, --patches, --sparsities, --hashes, --seeds) take lists with commas;
every combination that makes a difference is one run over all pictures. Results go to OUT/results.jsonl, a line
a run; the same command given again runs what is missing there and draws OUT/plot.png of all of it.

\b
Examples:
  The paper's curve, three seeds, on the first 500 pictures:
    haste-edge study my_models:network --weights w.safetensors --input 1x3x32x32 --data pictures.npz
      --mean 0.49,0.48,0.45 --std 0.25,0.24,0.26 --policies mean --bits 14,12,10,8 --limit 500
  With error budgets, and the baselines beside it:
    ... --policies mean,budget,baselines --bits 12 --budgets 0.1,0.2,0.4,0.8
  Patch sizes and sparsities:
    ... --policies mean --patches 4,8,16 --sparsities 1/2,2/3,0.9
  The levels of a bundle in the same plot:
    ... --bundle net.haste

\b
Runs go through joblib: --jobs 4 for four processes. To use a Dask cluster whose machines have the same files at
the same paths, `pip install "haste-edge[dask]"`, then
    dask scheduler                                 on one machine
    dask worker tcp://SCHEDULER:8786 --nthreads 1  on each of them, in the folder of the model
    haste-edge study ... --backend dask --scheduler tcp://SCHEDULER:8786
Without --scheduler, --backend dask makes a cluster of --jobs workers on this machine.

Ctrl-C keeps every finished run."""


def study(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="package.module:factory (importable from here or PYTHONPATH), or a .pt2 file."
        ),
    ],
    data: Annotated[Path, typer.Option(help="An .npz with x uint8 [N, H, W, 3] and, for top-1, y int64 [N].")],
    weights: Annotated[Path | None, typer.Option(help="The factory's weights: a safetensors state dict.")] = None,
    input: Annotated[
        str | None, typer.Option(help="Input shape, as in 1x3x32x32; not needed where the file states it.")
    ] = None,
    mean: Annotated[str, typer.Option(help="Subtracted from pixels after --scale: a number a channel.")] = "0",
    std: Annotated[str, typer.Option(help="Divided by after that; likewise.")] = "1",
    scale: Annotated[float, typer.Option(help="Pixels 0..255 are divided by this first.")] = 255.0,
    colour: Annotated[str, typer.Option(help="Order of the input's channels: RGB or BGR.")] = "RGB",
    policies: Annotated[
        str, typer.Option(help='Policies and baselines; "baselines" stands for all of these, "none" for nothing.')
    ] = "mean,scaled,budget,dead",
    bits: Annotated[str, typer.Option(help="L: bits of a code.")] = "14,12,10,8",
    budgets: Annotated[str, typer.Option(help="eps, for the policy budget: the error a patch may make.")] = (
        "0.1,0.2,0.4,0.8,1.6"
    ),
    budget_bits: Annotated[str, typer.Option(help="L for the policy budget, where L hardly matters.")] = "16",
    patches: Annotated[str, typer.Option(help="m: sides of the output tiles that share one grouping.")] = "8",
    sparsities: Annotated[str, typer.Option(help="Shares of zeros in the projections.")] = "2/3",
    hashes: Annotated[
        str,
        typer.Option(help="For the policies: integer, float, gaussian, uncentred; with as many groups as each has."),
    ] = "integer",
    seeds: Annotated[str, typer.Option(help="Of the projections; the plot's error bars are over these.")] = "0,1,2",
    bundle: Annotated[
        list[Path] | None, typer.Option(help="Study the levels of this bundle of the same model, too; may be repeated.")
    ] = None,
    layers: Annotated[
        str,
        typer.Option(
            help="Which convolutions merge: spatial (3x3 and more, not the first), all (1x1, too), or patterns of "
            "names such as 'layer2.*,layer3.*'."
        ),
    ] = "spatial",
    limit: Annotated[int | None, typer.Option(min=1, help="Take only the first N pictures.")] = None,
    jobs: Annotated[int, typer.Option(help="Runs at once; -1 for one per core.")] = 1,
    backend: Annotated[str, typer.Option(help="joblib's: loky (processes), threading or dask.")] = "loky",
    scheduler: Annotated[str | None, typer.Option(help="Address of a Dask scheduler, for --backend dask.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for results.jsonl and plot.png.")] = Path("build/study"),
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Study how well policies and baselines do on a network (the whole help is `HELP`)."""
    from haste_edge.study import Source, backends, configuration, load, sweep
    from haste_edge.study.curves import curves
    from haste_edge.study.subject import bundle_name

    if colour.upper() not in COLOURS:
        raise InputError(f"--colour cannot be {colour!r}.", f"Choose one of: {', '.join(COLOURS)}.")
    wanted = _policies(policies)
    axes: dict[str, Any] = {
        "patches": values(patches, int, "--patches"),
        "sparsities": values(sparsities, fraction, "--sparsities"),
        "hashes": values(hashes, str, "--hashes"),
        "seeds": values(seeds, int, "--seeds"),
    }
    configurations = [
        *configuration.grid([p for p in wanted if p not in BUDGETED], bits=values(bits, int, "--bits"), **axes),
        *configuration.grid(
            [p for p in wanted if p in BUDGETED],
            bits=values(budget_bits, int, "--budget-bits"),
            budgets=values(budgets, fraction, "--budgets"),
            **axes,
        ),
    ]
    source = Source(
        model=model,
        data=str(data.absolute()),
        weights=None if weights is None else str(weights.absolute()),
        input_shape=input,
        preprocessing=Preprocessing(numbers(mean, "The mean"), numbers(std, "The std"), scale, colour=colour.upper()),
        limit=limit,
        layers=layers,
        bundles=tuple(str(path.absolute()) for path in bundle or ()),
    )
    with Reporter() as reporter:
        reporter.step("Loading the network and the pictures")
        subject = load(source)
        for path in source.bundles:
            name = bundle_name(path)
            configurations += configuration.ladder(name, len(subject.bundles[name].plan.levels))
        if not configurations:
            raise InputError("There is nothing to study.", "Name policies or baselines, or give a --bundle.")
        reporter.step(f"{len(configurations)} runs on {len(subject.images)} pictures, {len(subject.layers)} layers")
        ran = 0

        def on_progress(done: int, total: int) -> None:
            nonlocal ran
            ran = done
            reporter.progress("Studying", done, total)

        results = out / "results.jsonl"
        try:
            with backends.backend(backend, jobs, scheduler):
                lines = sweep(source, configurations, results, jobs=jobs, on_progress=on_progress)
        except KeyboardInterrupt:
            reporter.step(f"{ran} of {len(configurations)} runs are in {results}; the same command goes on from there.")
            raise
    found = curves(lines)
    plot = out / "plot.png"
    labelled = subject.labels is not None
    _draw(found, plot, model, lines, labelled)
    if json:
        print_json({"results": str(results), "plot": str(plot), "subject": subject.digest, "runs": lines})
        return
    _print_curves(found, labelled)
    print(f"results: {results}")
    print(f"plot:    {plot}")


def values(text: str, kind: Callable[[str], T], option: str) -> tuple[T, ...]:
    """The parts of a list with commas, each once. Raises InputError."""
    try:
        found = tuple(dict.fromkeys(kind(part.strip()) for part in text.split(",") if part.strip()))
    except (ValueError, ZeroDivisionError):
        raise InputError(f"{option} cannot be {text!r}.", "Give values with commas between them.") from None
    if not found:
        raise InputError(f"{option} is empty.", "Give at least one value.")
    return found


def fraction(text: str) -> float:
    """A number such as 0.9 or 2/3."""
    return float(Fraction(text))


def _policies(text: str) -> list[str]:
    from haste_edge.study.configuration import BASELINES

    names: dict[str, None] = {}
    for name in values(text, str, "--policies"):
        names |= dict.fromkeys(BASELINES if name == "baselines" else [] if name == "none" else [name])
    return list(names)


def _draw(found: Sequence[Curve], plot: Path, model: str, lines: Sequence[dict[str, Any]], labelled: bool) -> None:
    from haste_edge.study.plot import save_study_plot

    seeds = max(point.seeds for curve in found for point in curve.points)
    dense = lines[0]["dense_top1"]
    exact = "" if dense is None else f", dense top-1 {dense:.2f} %"
    subtitle = f"{lines[0]['pictures']} pictures{exact}; mean and standard deviation of {seeds} seed(s)"
    save_study_plot(found, plot, model, subtitle, labelled)


def _print_curves(found: Sequence[Curve], labelled: bool) -> None:
    rows = [
        [
            curve.name,
            f"{point.knob:g}",
            _pm(point.drop),
            _pm(point.saved),
            _pm(point.half_adds),
            _pm(point.kept),
            str(point.seeds),
        ]
        for curve in found
        for point in curve.points
    ]
    lost = ">top-1 lost" if labelled else ">agreement lost"
    columns = [
        "policy",
        ">L, eps or level",
        lost,
        ">FLOPs saved %",
        ">adds as half %",
        ">convolutions alone %",
        ">seeds",
    ]
    print_table(columns, rows)


def _pm(spread: Spread) -> str:
    return f"{spread.mean:.2f} ± {spread.deviation:.2f}"
