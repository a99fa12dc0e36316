"""What the subcommands share: options, tables on stdout, progress on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated

import typer

from haste_runtime.cli.common import note
from haste_runtime.errors import InputError

PIPE_WIDTH = 160  # columns of a table that goes to a file or a pipe
PLAIN_SECONDS = 5.0  # between progress lines where there is no terminal


Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")]
# `haste_edge.cli.main` looks for it on the command line itself, since errors end there
Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback with an error (also HASTE_DEBUG=1).")]


def numbers(text: str, what: str) -> tuple[float, ...]:
    """Numbers with commas between them. Raises InputError."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{what} {text!r} is not a list of numbers.", "Write it as in 0.485,0.456,0.406.") from None


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, to_stderr: bool = False) -> None:
    """A table for people. A column whose name begins with ">" is set to the right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    stream = sys.stderr if to_stderr else sys.stdout
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))  # as they are: names may hold what rich takes for markup
    Console(file=stream, width=None if stream.isatty() else PIPE_WIDTH).print(table)


@contextmanager
def progress(label: str, total: int) -> Iterator[Callable[[], None]]:
    """Gives a function to call after each of ``total`` steps: a bar on a terminal, else a line now and then."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(label, total=total)
            yield lambda: bar.advance(task)
        return
    done, last = 0, time.monotonic()

    def step() -> None:
        nonlocal done, last
        done += 1
        now = time.monotonic()
        if now - last >= PLAIN_SECONDS:
            last = now
            note(f"{label}: {done} of {total}")

    yield step
