"""``haste-run calibrate``: measure what each level costs on this computer, once, and keep it beside the bundle."""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from haste_runtime.backends import NAMES
from haste_runtime.cli.common import note, print_json
from haste_runtime.errors import InputError

if TYPE_CHECKING:
    from haste_runtime.calibration.record import Calibration
    from haste_runtime.session import Session
    from haste_runtime.signals.signal import Signal

PROGRESS_S = 2.0
EPILOG = """examples:
  haste-run calibrate net.haste                    every level, on 1, 2, ... threads up to the cores there are
  haste-run calibrate net.haste --quick            a third of the frames
  haste-run calibrate net.haste --power jetson     millijoules too, from the sensors of a Jetson
  haste-run infer net.haste cat.png --latency-ms 40    afterwards: the most exact level that meets 40 ms"""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.epilog, parser.formatter_class = EPILOG, argparse.RawDescriptionHelpFormatter
    parser.add_argument("bundle", help="the .haste file; it is not changed")
    parser.add_argument("input", nargs="?", help="a picture or .npy as for infer; without it, pictures of pink noise")
    parser.add_argument("--backend", choices=NAMES, default="auto")
    threads_help = 'numbers of threads to try, such as 1,2,4; by default 1 and all powers of two up to "all" cores'
    parser.add_argument("--threads", default="all", help=threads_help)
    power_help = "a power sensor: jetson, or ina219[:BUS[:ADDRESS]] for a UPS board; by default a Jetson's, if there"
    parser.add_argument("--power", default="auto", help=power_help)
    parser.add_argument("--quick", action="store_true", help="fewer rounds: a first impression")
    parser.add_argument("--no-save", action="store_true", help="print only, keep nothing")


def run(options: argparse.Namespace) -> None:
    from haste_runtime.calibration.measure import calibrate
    from haste_runtime.calibration.sidecar import key_for, store
    from haste_runtime.cli.frames import frames_for
    from haste_runtime.session import Session

    counts = thread_counts(options.threads)
    power = power_signal(options.power)
    say = note if options.json else print
    with Session(options.bundle, options.backend, max(counts)) as session:
        counts = [count for count in counts if count <= session.threads]  # the numpy backend has one
        frames = frames_for(session, options.input)
        say(f"{options.bundle}: {len(session.levels)} levels, threads {', '.join(map(str, counts))}, {session.backend}")
        calibration = calibrate(
            session,
            frames,
            key_for(options.bundle, session._running()),
            thread_counts=counts,
            quick=options.quick,
            power=power,
            progress=_Progress(),
        )
        result = summary(calibration, session)
    for line in table(result):
        say(line)
    if options.no_save:
        result["saved"] = None
    else:
        result["saved"] = os.fspath(store(options.bundle, calibration))
        say(f"Kept in {result['saved']}.")
        quickest = min(row["ms"] for row in result["levels"])
        say(f"Next: haste-run infer {options.bundle} PICTURE --latency-ms {quickest * 1.1:.3g} --threads auto")
    if options.json:
        print_json(result)


def thread_counts(text: str) -> list[int]:
    """ "all": 1, 2, 4, ... and the number of usable cores; or what is named. Raises InputError."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if text == "all":
        return sorted({1, cores, *(1 << n for n in range(10) if 1 << n <= cores)})
    try:
        counts = sorted({int(part) for part in text.split(",")})
    except ValueError:
        counts = []
    if not counts or counts[0] < 1 or counts[-1] > 256:
        raise InputError(f"{text!r} are no numbers of threads.", 'Give "all", or numbers such as 1,2,4.')
    return sorted({1, *counts})


def power_signal(text: str) -> Signal | None:
    """The sensor that is meant. Raises InputError or SignalError."""
    from haste_runtime.signals import Ina219, JetsonPower

    kind, *rest = text.split(":")
    if kind in ("auto", "jetson") and not rest:
        jetson = JetsonPower()
        reading = jetson.read(time.monotonic())
        if reading.ok:
            return jetson
        if kind == "jetson":
            raise InputError(f"The power of a Jetson cannot be read: {reading.reason}.", "Leave --power out.")
        return None
    if text == "none":
        return None
    try:
        if kind == "ina219" and len(rest) <= 2:
            return Ina219(int(rest[0]) if rest else 1, int(rest[1], 0) if len(rest) > 1 else 0x42)
    except ValueError:
        pass
    raise InputError(
        f"{text!r} is no power sensor.", "Give jetson, ina219, ina219:BUS:ADDRESS (such as ina219:1:0x42), or none."
    )


class _Progress:
    """A bar where somebody looks, else a line now and then."""

    def __init__(self) -> None:
        self._said = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now, live = time.monotonic(), sys.stderr.isatty()
        if live:
            bar = "#" * (30 * done // total)
            print(
                f"\r[{bar:<30}] {100 * done // total:3d} %",
                end="\n" if done == total else "",
                file=sys.stderr,
                flush=True,
            )
        elif now - self._said >= 5 * PROGRESS_S and done < total:
            self._said = now
            note(f"measuring: {100 * done // total} %")


def summary(calibration: Calibration, session: Session) -> dict[str, Any]:
    """As JSON: a row for each level on the best number of threads, and all that was measured."""
    best = calibration.best_threads
    dropped = calibration.dominated(best)
    rows = [
        {
            "level": cost.level,
            "ms": cost.ms,
            "p90_ms": cost.p90_ms,
            "mj": cost.mj,
            "agreement": session.levels[cost.level].agreement,
            "dominated_by": dropped.get(cost.level),
        }
        for cost in calibration.at_threads(best)
    ]
    return {
        "at": calibration.at,
        "quick": calibration.quick,
        "best_threads": best,
        "warnings": list(calibration.warnings),
        "idle_w": calibration.idle_w,
        "levels": rows,
        "costs": [asdict(cost) for cost in calibration.costs],
        "holds_for": asdict(calibration.key),
    }


def table(result: dict[str, Any]) -> list[str]:
    """The same in lines: median ms by level and threads; what is dropped, and why."""
    counts = sorted({cost["threads"] for cost in result["costs"]})
    energy = any(cost["mj"] is not None for cost in result["costs"])
    ms = {(cost["level"], cost["threads"]): cost["ms"] for cost in result["costs"]}
    heads = [f"{count} thread{'s' if count > 1 else ''}" for count in counts]
    lines = [
        "level" + "".join(f"{head:>12}" for head in heads) + (f"{'mJ a frame':>12}" if energy else "") + "  agreement"
    ]
    for row in result["levels"]:
        line = f"{row['level']:5d}" + "".join(f"{ms[row['level'], count]:9.2f} ms" for count in counts)
        line += "" if not energy else f"{'-':>12}" if row["mj"] is None else f"{row['mj']:12.1f}"
        line += f"{'-':>11}" if row["agreement"] is None else f"{row['agreement']:9.1f} %"
        if row["dominated_by"] is not None:
            line += f"  does not pay: level {row['dominated_by']} is as quick and more exact"
        lines.append(line)
    lines.append(f"best number of threads: {result['best_threads']}")
    lines += [f"Warning: {warning}." for warning in result["warnings"]]
    if result["warnings"]:
        lines.append("Close other programs, let the board cool, and calibrate again.")
    return lines
