"""What the subcommands share: options, tables on stdout, progress on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from haste_runtime.cli.common import note
from haste_runtime.errors import InputError

if TYPE_CHECKING:
    from rich.progress import Progress

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


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table for people. A column whose name begins with ">" is set to the right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))  # as they are: names may hold what rich takes for markup
    Console(width=None if sys.stdout.isatty() else PIPE_WIDTH).print(table)


class Reporter:
    """Tells on stderr how long work gets on: a bar on a terminal, else a line now and then. A context manager.

    with Reporter() as reporter:
        reporter.step("Planning")               # a line
        reporter.progress("layer 3", 3, 20)     # moves the bar
    """

    def __init__(self, indent: str = "") -> None:
        self._indent = indent
        self._bar: Progress | None = None
        self._last_line = time.monotonic()

    def __enter__(self) -> Reporter:
        return self

    def __exit__(self, *error: object) -> None:
        self._end_bar()

    def step(self, text: str) -> None:
        self._end_bar()
        note(f"{self._indent}{text}")

    def progress(self, what: str, done: int, total: int) -> None:
        if sys.stderr.isatty():
            self._bar = self._bar or self._new_bar()
            self._bar.update(self._bar.task_ids[0], description=f"{self._indent}{what}", completed=done, total=total)
        elif time.monotonic() - self._last_line >= PLAIN_SECONDS:
            self._last_line = time.monotonic()
            note(f"{self._indent}{what}: {done} of {total}")

    def _new_bar(self) -> Progress:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        bar = Progress(*columns, console=Console(stderr=True), transient=True)
        bar.add_task("")
        bar.start()
        return bar

    def _end_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
