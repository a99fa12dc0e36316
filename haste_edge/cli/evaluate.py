"""``haste-edge evaluate``: accuracy, agreement, FLOPs and milliseconds of each level on pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from haste_edge.cli.common import Debug, Json, Reporter
from haste_runtime.backends import NAMES
from haste_runtime.cli.common import INTERRUPTED, note, parse_levels, print_json

if TYPE_CHECKING:
    from haste_edge.evaluate import Evaluation, Labels, Pictures


def evaluate(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The .haste file.")],
    data: Annotated[
        Path,
        typer.Option(
            help="An .npz with x uint8 [N, H, W, 3] and, for top-1, y int64 [N]; or a folder of pictures, for top-1 in "
            "folders that are called like the bundle's classes."
        ),
    ],
    levels: Annotated[str, typer.Option(help='"all", or levels and ranges such as 0,2,4..6.')] = "all",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Take only N pictures: the first of an .npz, evenly of a folder.")
    ] = None,
    backend: Annotated[str, typer.Option(help=f"One of {', '.join(NAMES)}.")] = "auto",
    threads: Annotated[int, typer.Option(min=1, help="For one inference.")] = 1,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure each level of a bundle on pictures. Ctrl-C prints what was measured so far."""
    from haste_edge.cli.tables import print_results
    from haste_edge.evaluate import Evaluation
    from haste_runtime import Session

    with Session(bundle, backend, threads) as session:
        x, y = pictures_of(data, session.bundle.classes, limit)
        evaluation = Evaluation(session, x, y, parse_levels(levels, len(session.levels)))
        complete = measure(evaluation)
        about: dict[str, Any] = {
            "bundle": str(bundle),
            "data": str(data),
            "pictures": len(x),
            "backend": session.backend,
            "dtype": session.dtype,
            "threads": threads,
            "complete": complete,
        }
    results = evaluation.results()
    if json:
        print_json({**about, "levels": [result.as_json() for result in results]})
    else:
        print_results(results)
        many = f"{threads} thread{'s' if threads > 1 else ''}"
        print(f"{len(x)} pictures, {about['dtype']} weights, {about['backend']} backend, {many}")
    if not complete:
        note("Interrupted: the numbers are of the pictures measured so far.")
        raise typer.Exit(INTERRUPTED)


def pictures_of(data: Path, classes: tuple[str, ...], limit: int | None) -> tuple[Pictures, Labels | None]:
    """What --data and --limit ask for. Raises DataError."""
    from haste_edge.evaluate import read_pictures
    from haste_edge.picture_folder import read_folder

    if data.is_dir():
        return read_folder(data, classes, limit)
    x, y = read_pictures(data)
    return x[:limit], None if y is None else y[:limit]


def measure(evaluation: Evaluation) -> bool:
    """Runs it with a progress bar; False where Ctrl-C ended it early."""
    try:
        with Reporter() as reporter:
            for done, _ in enumerate(evaluation.run(), start=1):
                reporter.progress("Measuring", done, evaluation.steps)
    except KeyboardInterrupt:
        return False
    return True
