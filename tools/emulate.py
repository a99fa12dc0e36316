"""Run Python as an ARM board would, on this computer, by QEMU's user mode.

    python tools/emulate.py root                            # make the roots for 64-bit and 32-bit ARM, and say where
    python tools/emulate.py python --cpu cortex-a53 -- -m haste_runtime.cli infer net.haste picture.npy

The first needs `qemu-user` and apt's package sources (`apt-get install qemu-user`, as root); it takes well under two
minutes and is done once. A root holds Python, numpy and safetensors. `python` adds this checkout's haste_runtime, and
whatever is on --with; without arguments for Python it asks for commands.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from emulation.architectures import ARCHITECTURES, EmulationError, architecture_of
from emulation.machine import Machine, environment
from emulation.root import Root

ROOT = Path(__file__).resolve().parent.parent
VARIABLES = ("HASTE_CPU", "HASTE_NATIVE", "HASTE_DEBUG")  # of ours that mean something to a program on the board


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def make_roots(names: list[str]) -> None:
    for name in names:
        started = time.monotonic()
        root = Root(ARCHITECTURES[name], on_step=note)
        print(f"{name}: {root.make()}, {root.tests()}", flush=True)
        note(f"{name}: {time.monotonic() - started:.0f} s")


def start(cpu: str, more: list[Path], arguments: list[str]) -> None:
    """Becomes the emulated Python."""
    root = Root(architecture_of(cpu), on_step=note)
    script = str(Machine(root, cpu).python())
    variables = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    os.execve(script, [script, *arguments], environment([*more, ROOT / "runtime"], variables))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    roots = commands.add_parser("root", help="make the roots, unless they are there")
    roots.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(ARCHITECTURES)} (default: all)")
    python = commands.add_parser("python", help="run Python there")
    python.add_argument("--cpu", default="cortex-a72", help="QEMU's name of the processor (default: cortex-a72)")
    python.add_argument("--with", dest="more", action="append", type=Path, default=[], help="more folders of packages")
    python.add_argument("arguments", nargs="*", help="for Python, after --")
    args = parser.parse_args()
    try:
        if args.command == "root":
            unknown = set(args.names) - set(ARCHITECTURES)
            if unknown:
                parser.error(f"there is no {', '.join(sorted(unknown))}; choose from {', '.join(ARCHITECTURES)}")
            make_roots(args.names or list(ARCHITECTURES))
        else:
            start(args.cpu, args.more, args.arguments)
    except EmulationError as error:
        sys.exit(f"{error.message}\n{error.hint}".rstrip())


if __name__ == "__main__":
    main()
