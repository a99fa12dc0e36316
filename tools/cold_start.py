#!/usr/bin/env python3
"""How long it takes until a session is ready, backend by backend: medians of fresh processes.

    python tools/cold_start.py NET.haste [NET.haste ...] [--backends native,numba,numpy] [--runs 9] [--json]

Time begins when numpy has been imported, and ends when `Session` returns: "import" is haste_runtime's own modules,
"session" reading and checking the bundle, finding the kernels, building tables and packing weights; "frame" is the
first frame. Native kernels are those installed, or those in the folder that HASTE_NATIVE names. Every process has
byte-code and kernels from the caches, as on every start but the first; backends take turns.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from haste_runtime.backends import NAMES
from haste_runtime.cli.common import guarded, note, print_json

PARTS = ("import", "session", "ready", "frame")
START = """
import sys, time
import numpy as np
begun = time.perf_counter()
from haste_runtime import Session
imported = time.perf_counter()
session = Session(sys.argv[1], sys.argv[2])
ready = time.perf_counter()
x = {i.name: np.zeros((1, *i.shape[1:]), np.float32) for i in session.inputs}
running = time.perf_counter()
session.run(x)
ran = time.perf_counter()
print(*(1000 * t for t in (imported - begun, ready - imported, ready - begun, ran - running)))
"""


def start(bundle: str, backend: str, code: str) -> dict[str, float]:
    """Milliseconds of one start in a process of its own. code: folder of byte-code."""
    unset = {"PYTHONDONTWRITEBYTECODE"}
    variables = {key: value for key, value in os.environ.items() if key not in unset} | {"PYTHONPYCACHEPREFIX": code}
    command = [sys.executable, "-c", START, bundle, backend]
    done = subprocess.run(command, env=variables, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{bundle} does not start with {backend}: {done.stderr.strip().splitlines()[-1]}")
    return dict(zip(PARTS, map(float, done.stdout.split()), strict=True))


def measure(bundles: list[str], backends: list[str], runs: int) -> list[dict[str, Any]]:
    """A row for each bundle and backend, medians of ``runs`` starts after one that fills the caches."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="haste-cold-") as code:
        for bundle in bundles:
            for backend in backends:
                note(f"filling the caches: {Path(bundle).name}, {backend}")
                start(bundle, backend, code)
            found: dict[str, list[dict[str, float]]] = {backend: [] for backend in backends}
            for _ in range(runs):
                for backend in backends:
                    found[backend].append(start(bundle, backend, code))
            for backend, starts in found.items():
                medians = {part: round(statistics.median(s[part] for s in starts), 1) for part in PARTS}
                rows.append({"network": Path(bundle).stem, "backend": backend, "runs": runs, "ms": medians})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", help="the .haste files")
    parser.add_argument("--backends", default="native,numba,numpy", help="which, separated by commas")
    parser.add_argument("--runs", type=int, default=9, help="starts of each (9)")
    parser.add_argument("--json", action="store_true", help="print JSON on stdout")
    options = parser.parse_args()
    backends = options.backends.split(",")
    unknown = sorted(set(backends) - set(NAMES))
    if unknown or options.runs < 1:
        parser.error(f"no backend is called {', '.join(unknown)}" if unknown else "--runs must be 1 or more")

    def run() -> None:
        rows = measure(options.bundles, backends, options.runs)
        if options.json:
            print_json(rows)
            return
        print(f"milliseconds after numpy is imported, medians of {options.runs} fresh processes")
        print(f"{'network':16}  {'backend':8}  {'import':>8}  {'session':>8}  {'ready':>8}  {'first frame':>11}")
        for row in rows:
            ms = row["ms"]
            times = "  ".join(f"{ms[part]:8.1f}" for part in PARTS[:3])
            print(f"{row['network']:16}  {row['backend']:8}  {times}  {ms['frame']:11.1f}")

    sys.exit(guarded(run))


if __name__ == "__main__":
    main()
