"""The command ``haste-run``, for the device: one file per subcommand, each imported when it is called."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from haste_runtime.cli.common import EXIT_CODES, guarded

COMMANDS = {
    "infer": "classify a picture, or run an array through the network",
    "bench": "measure milliseconds and memory at each level, or for long (--soak)",
    "serve": "run as a service: frames in from a camera, a folder or a port, results out, steered by a policy",
    "top": "watch a running service: its level and why, latency, battery, temperature",
    "install-service": "write a unit file, so that systemd runs a service",
    "calibrate": "measure what each level costs on this computer, and keep it beside the bundle",
    "simulate": "let a policy steer a board that is not there through a day, and compare with fixed levels",
    "replay": "decide a recorded trace of a policy again, and show what differs",
    "plot": "draw what simulate or a soak told",
    "receive": "take a bundle from a serial line (haste-edge deploy --serial)",
    "doctor": "tell what this computer can do, and what stands in the way",
}


def build_parser(command: str) -> argparse.ArgumentParser:
    """The parser with the options of ``command``; those of the other subcommands are not needed, nor imported."""
    epilog = "exit codes:\n" + "\n".join(f"  {code:<4} {meaning}" for code, meaning in EXIT_CODES.items())
    parser = argparse.ArgumentParser(
        prog="haste-run",
        description="Run a compiled .haste bundle on this computer.",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=_version())
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, purpose in COMMANDS.items():
        sub = subparsers.add_parser(name, help=purpose, description=purpose[0].upper() + purpose[1:] + ".")
        if name == command:
            importlib.import_module(f"haste_runtime.cli.{module_of(name)}").add_options(sub)
        sub.add_argument("--json", action="store_true", help="print JSON, and nothing else, on stdout")
        sub.add_argument("--debug", action="store_true", help="show a traceback with an error (also HASTE_DEBUG=1)")
    return parser


def module_of(command: str) -> str:
    """The file of a subcommand."""
    return command.replace("-", "_")


def _version() -> str:
    from haste_runtime import __version__

    return f"haste-run {__version__}"


def run(arguments: Sequence[str]) -> int:
    """Runs one command line (without the program's name) and returns its exit code."""
    command = next((argument for argument in arguments if argument in COMMANDS), "")
    options = build_parser(command).parse_args(arguments)
    module = importlib.import_module(f"haste_runtime.cli.{module_of(options.command)}")
    return guarded(lambda: module.run(options), options.debug)


def main() -> None:
    """Entry point of ``haste-run``."""
    sys.exit(run(sys.argv[1:]))
