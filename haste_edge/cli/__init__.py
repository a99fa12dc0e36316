"""The command ``haste-edge``: one file per subcommand; what takes long to import is imported inside them."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from haste_edge.cli import compile as compile_
from haste_edge.cli import demo, doctor, evaluate, targets
from haste_edge.cli import inspect as inspect_
from haste_runtime.cli.common import EXIT_CODES, INTERRUPTED, guarded, note


class _Commands(TyperGroup):
    """Ctrl-C ends every command alike, whatever the version of typer makes of it."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            note("Interrupted.")
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    name="haste-edge",
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: " + "; ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items()) + ".",
)
app.command("demo")(demo.demo)
app.command("compile")(compile_.compile_)
app.command("inspect")(inspect_.inspect_)
app.command("evaluate")(evaluate.evaluate)
app.command("doctor")(doctor.doctor)
app.command("targets")(targets.targets)


def _print_version(wanted: bool) -> None:
    if wanted:
        from haste_edge import __version__

        print(f"haste-edge {__version__}")
        raise typer.Exit


@app.callback()
def haste_edge(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Compile a pre-trained CNN into one file that a small ARM computer runs at levels of compression you steer."""


def main() -> None:
    """Entry point of ``haste-edge``."""
    sys.exit(guarded(app, debug="--debug" in sys.argv))
