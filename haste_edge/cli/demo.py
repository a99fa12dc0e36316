"""``haste-edge demo``: the whole path on the demo network, from weights to a plot of accuracy against time."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from haste_edge.cli.common import Debug, Json, Reporter
from haste_runtime.backends import NAMES
from haste_runtime.cli.common import INTERRUPTED, note, print_json


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the bundle and the plot.")] = Path("build/demo"),
    limit: Annotated[int | None, typer.Option(min=1, help="Take only the first N of the 500 pictures.")] = None,
    levels: Annotated[int, typer.Option(min=1, max=255, help="Levels of compression above level 0.")] = 8,
    objective: Annotated[str, typer.Option(help="What the levels save: time, or flops.")] = "time",
    target: Annotated[str, typer.Option(help="Board to plan for: see `haste-edge targets`.")] = "host",
    backend: Annotated[str, typer.Option(help=f"One of {', '.join(NAMES)}.")] = "auto",
    weights: Annotated[Path | None, typer.Option(help="Others than the shipped ones: of tools/train_demo.py.")] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Compile the demo network, run it at every level on 500 real pictures, and plot accuracy against time."""
    from haste_edge import demo as shipped
    from haste_edge.cli.evaluate import measure
    from haste_edge.cli.tables import print_results
    from haste_edge.compile import compile_model
    from haste_edge.demo.network import CLASSES, MEAN, STD
    from haste_edge.evaluate import Evaluation
    from haste_edge.plot import save_ladder_plot
    from haste_runtime import Session
    from haste_runtime.cli.system import cpu
    from haste_runtime.preprocessing import Preprocessing

    x, y = shipped.images()
    x, y = x[:limit], y[:limit]
    weights = weights or shipped.weights_path()
    out.mkdir(parents=True, exist_ok=True)
    bundle, plot = out / "demo.haste", out / "accuracy.png"
    note("1/2 Compiling the demo network, a ResNet-18 at half width trained on CIFAR-10")
    with Reporter("    ") as reporter:
        report = compile_model(
            "haste_edge.demo.network:network",
            bundle,
            weights=weights,
            input_shape=(1, *x.shape[:0:-1]),
            target=target,
            preprocessing=Preprocessing(MEAN, STD),
            classes=CLASSES,
            levels=levels,
            objective=objective,
            on_step=reporter.step,
            on_progress=reporter.progress,
        )
    note(f"    largest error of level 0 against the original: {report.largest_error:.1e} of the largest output")
    note(f"2/2 Measuring every level on {len(x)} CIFAR-10 test pictures")
    with Session(bundle, backend) as session:
        evaluation = Evaluation(session, x, y, range(len(session.levels)))
        complete = measure(evaluation)
        used = session.backend
    results = evaluation.results()
    if json:
        about = {"bundle": str(bundle), "plot": str(plot) if complete else None, "pictures": len(x), "backend": used}
        print_json(
            {
                **about,
                "largest_error": report.largest_error,
                "complete": complete,
                "levels": [r.as_json() for r in results],
            }
        )
    else:
        print_results(results)
    if not complete:
        note("Interrupted: the numbers are of the pictures measured so far; no plot was made.")
        raise typer.Exit(INTERRUPTED)
    subtitle = f"ResNet-18 at half width, {len(x)} CIFAR-10 test pictures, {used} backend, 1 thread, {cpu()['model']}"
    save_ladder_plot(results, plot, "One bundle, every level: accuracy against time and work", subtitle)
    if not json:
        print(f"bundle: {bundle}")
        print(f"plot:   {plot}")
        print(f"Next: haste-run bench {bundle}")
