"""The command ``haste-edge``: one file per subcommand; what takes long to import is imported inside them."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from haste_edge.cli import bench, build_runtime, demo, deploy, doctor, evaluate, export, study, targets, visualize
from haste_edge.cli import compile as compile_
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
    rich_markup_mode=None,  # plain help and errors: one sentence, and quick
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="\b\nExit codes:\n" + "\n".join(f"{code:>5} {meaning}" for code, meaning in EXIT_CODES.items()),
)
app.command("demo", short_help="The whole path on the demo network, with a plot.")(demo.demo)
app.command("compile", short_help="Turn a model into a bundle.")(compile_.compile_)
app.command("inspect", short_help="Show what is in a bundle.")(inspect_.inspect_)
app.command("evaluate", short_help="Measure each level of a bundle on pictures.")(evaluate.evaluate)
app.command("export", short_help="Write a bundle's exact network for other runtimes.", help=export.HELP)(export.export)
app.command("bench", short_help="Time a bundle beside other runtimes.")(bench.bench)
app.command("visualize", short_help="Draw what merging does to one picture.")(visualize.visualize)
app.command(
    "build-runtime", short_help="Write haste-runtime with machine code for devices as wheels.", help=build_runtime.HELP
)(build_runtime.build_runtime)
app.command("study", short_help="Compare policies, settings and baselines on a network.", help=study.HELP)(study.study)
app.command("deploy", short_help="Bring a bundle to a device.", help=deploy.HELP)(deploy.deploy)
app.command("doctor", short_help="Tell what this computer can do, and what stands in the way.")(doctor.doctor)
app.command("targets", short_help="List the boards a bundle can be compiled for.")(targets.targets)


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
