"""How long the first start takes on an emulated ARM processor, with native kernels and with Numba.

    python tools/cold_start_arm.py NET.haste [...] (--native FOLDER | --wheel FILE)

Time begins when numpy has been imported, and ends when `Session` returns; nothing is in a cache. Emulated times are
not a board's, but what they are to each other is close to it. Numba, which is downloaded for that processor, translates
all kernels first; it is given --patience times as long as native kernels took, and stopped then. Ends with 1 unless
native kernels take at most a tenth. --out keeps the figures for docs/arm.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from cold_start import PARTS, START
from emulation.architectures import EmulationError, architecture_of
from emulation.machine import Machine
from emulation.options import add_options
from emulation.root import REPOSITORY, Root

SHARE = 0.1  # of Numba's time that native kernels may take
NUMBA = ("numba", "llvmlite")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def start(
    machine: Machine, bundle: Path, backend: str, overlays: tuple[Path, ...], native: str, cpu: str, limit: float | None
) -> float | None:
    """Milliseconds of one start, None if it was not ready within ``limit`` seconds. Raises EmulationError."""
    with tempfile.TemporaryDirectory(prefix="haste-cold-") as cache:
        variables = {"HASTE_CPU": cpu, "HASTE_CACHE": cache} | ({"HASTE_NATIVE": native} if native else {})
        try:
            done = machine.run(
                "-c", START, bundle.resolve(), backend, overlays=overlays, variables=variables, cwd=Path(cache),
                timeout=limit,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return None
    if done.returncode:
        raise EmulationError(f"{bundle.name} does not start with {backend}: {done.stdout.strip()[-300:]}")
    return dict(zip(PARTS, map(float, done.stdout.split()), strict=True))["ready"]


def measure(bundle: Path, machine: Machine, args: argparse.Namespace) -> dict[str, Any]:
    ours = machine.root.wheel(args.wheel) if args.wheel else REPOSITORY / "runtime"
    native = str(args.native.resolve()) if args.native else ""
    say(f"{bundle.stem}: native")
    taken = []
    for _ in range(args.runs + 1):  # the first writes byte code
        ready = start(machine, bundle, "native", (ours,), native, args.haste_cpu, None)
        assert ready is not None  # without a limit
        taken.append(ready)
    ms = statistics.median(taken[1:])
    overlay = machine.root.overlay("numba", NUMBA)
    limit = args.patience * ms / 1000
    say(f"{bundle.stem}: numba, for at most {limit:.0f} s")
    numba = start(machine, bundle, "numba", (ours, overlay), native, args.haste_cpu, limit)
    return {
        "bundle": bundle.stem, "cpu": machine.cpu, "runs": args.runs, "native_ms": round(ms),
        "numba_ms": None if numba is None else round(numba), "limit_ms": round(1000 * limit),
        "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=Path, metavar="BUNDLE", help="the .haste files")
    parser.add_argument("--runs", type=int, default=3, help="starts with native kernels (default: 3)")
    parser.add_argument("--patience", type=float, default=15, help="for Numba, in starts of native kernels (15)")
    add_options(parser)
    parser.add_argument("--out", type=Path, default=Path("docs/results/arm"), help="folder for NAME.start.json")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    met = True
    try:
        machine = Machine(Root(architecture_of(args.cpu), on_step=say), args.cpu)
        for bundle in args.bundles:
            result = measure(bundle, machine, args)
            (args.out / f"{bundle.stem}.start.json").write_text(json.dumps(result, indent=1) + "\n")
            numba, ms = result["numba_ms"], result["native_ms"]
            print(
                f"{bundle.stem}: native {ms} ms, numba {numba or 'more than ' + str(result['limit_ms'])} ms", flush=True
            )
            met &= ms <= SHARE * (numba or result["limit_ms"])
    except EmulationError as error:
        sys.exit(str(error))
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
