#!/usr/bin/env python3
"""Measure how a session is steered on this computer: by its latency under a real load, and by a battery on a wire.

    python tools/measure_control.py latency net.haste --core 1
    python tools/measure_control.py signal net.haste

``latency``: a process that does nothing but compute shares the core with the network. The target is set so that under
this load the top level's p90 is 0.85 of it, and level 0 misses it. Then: five seconds without load, a minute with it,
and twenty seconds without it again. Told are, each in seconds from the beginning or the end of the load:

- ``under_target_after_s``: the first moment at which p90 of the last second is under the target, and stays so at every
  moment of the five seconds that follow; ``windows_over_target_afterwards_percent`` is how often it was over it later;
- ``reversals``: how often the level turned from rising to falling or back while the load lasted;
- ``level_0_again_s``: the first frame of level 0 after the load that is followed by no other level;
- ``changes``: each change of the level, with old level, new level and reason.

With a real-time priority (``chrt -r 20``) frames are undisturbed by other programs, and the load has the next higher.

``signal``: battery readings are written into a pseudo-terminal that a session listens to; told is how long it takes
from a reading to the first frame that ends on the new level, beside the policy's dwell time, and that every output is
right.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from haste_runtime import Session
from haste_runtime.calibration.measure import calibrate
from haste_runtime.calibration.sidecar import SUFFIX, key_for, store
from haste_runtime.cli.frames import frames_for
from haste_runtime.signals import SerialPort
from haste_runtime.signals.latency import percentile

SHARE = 0.85  # of the target: the top level's p90 under load
BEFORE_S, LOADED_S, AFTER_S = 5.0, 60.0, 20.0
WINDOW_S = 1.0  # over which p90 is taken, at least ten frames
SIZING_S = 2.0
LOADS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
MISSES, ROOM = 1.03, 0.8  # of the target: level 0 is above the one under load, below the other without
DWELL_S = 0.5
STAYS_S = 5.0  # how long p90 has to stay under the target to count as back


class Ran(NamedTuple):
    """A frame: when it ended, in seconds since the start, its level, its ms."""

    at: float
    level: int
    ms: float


# Computes for a share of every half millisecond: so short that a frame is slowed down evenly, and not by whole steps.
LOAD = """
import sys, time
busy = 0.0005 * float(sys.argv[1])
while True:
    ends = time.perf_counter() + busy
    while time.perf_counter() < ends:
        pass
    time.sleep(0.0005 - busy)
"""


@contextlib.contextmanager
def load(share: float) -> Iterator[None]:
    """A process that computes for this share of the time, on the cores this one may use, before anybody else."""
    process = subprocess.Popen([sys.executable, "-c", LOAD, str(share)])
    try:
        with contextlib.suppress(PermissionError):  # without the right to, it competes on equal terms
            policy = os.sched_getscheduler(0)
            if policy in (os.SCHED_RR, os.SCHED_FIFO):
                higher = os.sched_param(os.sched_getparam(0).sched_priority + 1)
                os.sched_setscheduler(process.pid, policy, higher)
            else:
                os.setpriority(os.PRIO_PROCESS, process.pid, -20)
        time.sleep(0.5)
        yield
    finally:
        process.kill()
        process.wait()


def run_for(session: Session, frames: Sequence[Any], seconds: float, started: float) -> list[Ran]:
    ends, ran = time.monotonic() + seconds, list[Ran]()
    while time.monotonic() < ends:
        session.run(frames[len(ran) % len(frames)])
        ran.append(Ran(time.monotonic() - started, session.stats.level, session.stats.ms))
    return ran


def p90(ran: Sequence[Ran]) -> float:
    return percentile(sorted(frame.ms for frame in ran), 90)


def rolling(ran: Sequence[Ran]) -> list[tuple[float, float]]:
    """p90 at each frame, over the last second and at least ten frames."""
    found = []
    for end in range(10, len(ran) + 1):
        begin = end - 10
        while begin > 0 and ran[end - 1].at - ran[begin - 1].at <= WINDOW_S:
            begin -= 1
        found.append((ran[end - 1].at, p90(ran[begin:end])))
    return found


def settled(windows: Sequence[tuple[float, float]], target: float) -> float | None:
    """The first moment of ``windows`` (time, p90) from which on each one for STAYS_S keeps the target; None: never."""
    first: float | None = None
    for at, value in windows:
        if value > target:
            first = None
        elif first is None:
            first = at
        elif at - first >= STAYS_S:
            return first
    return None


def sizes(
    session: Session, frames: Sequence[Any], top: int, shares: Sequence[float]
) -> tuple[list[float], float, list[float], float]:
    """p90 of level 0 and of the top level alone; the load; the same two under it; and the target, so that level 0
    misses it under the load, and meets it with room to spare without. The first of ``shares`` that does is taken."""

    def both() -> list[float]:
        found = []
        for session.level in (0, top):
            found.append(p90(run_for(session, frames, SIZING_S, 0.0)))
        return found

    alone = both()
    for share in shares:
        with load(share):
            loaded = both()
        target = loaded[1] / SHARE
        if loaded[0] > MISSES * target and alone[0] < ROOM * target:
            return alone, share, loaded, target
    sys.exit(f"No load makes level 0 miss what level {top} keeps here (p90 alone: {alone}, under the last: {loaded}).")


def latency(path: Path, quick: bool, shares: Sequence[float] = LOADS) -> dict[str, Any]:
    """The figures of ``latency``."""
    with Session(path) as session:
        frames = frames_for(session, None)
        if session.calibration is None:
            store(path, calibrate(session, frames, key_for(path, session._running()), quick=quick))
    with Session(path) as session:
        calibration = session.calibration
        assert calibration is not None, session.calibration_reason
        top = calibration.useful()[-1]
        alone, share, loaded, target = sizes(session, frames, top, shares)
        session.level = 0
        changes: list[tuple[float, int, int, str]] = []
        started = time.monotonic()
        session.when_level_changed = lambda old, new, why: changes.append((time.monotonic() - started, old, new, why))
        session.follow(policy={"period_s": 0.1, "dwell_s": DWELL_S, "targets": {"latency_ms": target}})
        before = run_for(session, frames, BEFORE_S, started)
        with load(share):
            begun = time.monotonic() - started
            during = run_for(session, frames, LOADED_S, started)
        ended = time.monotonic() - started
        after = run_for(session, frames, AFTER_S, started)
    windows = rolling(during)
    under = settled(windows, target)
    late = [value > target for at, value in windows if under is not None and at >= under]
    parts = [[f for f in during if begun + 10 * n <= f.at < begun + 10 * (n + 1)] for n in range(6)]
    rest = max((n for n, frame in enumerate(after, 1) if frame.level), default=0)  # from there on only level 0
    shown = [(round(at - begun, 2), old, new, why) for at, old, new, why in changes]
    within = [change for change in changes if begun <= change[0] < ended]
    return {
        "bundle": path.name,
        "levels": len(calibration.at_threads(1)),
        "top": top,
        "calibration_warnings": list(calibration.warnings),
        "load_percent_of_the_core": round(100 * share),
        "p90_alone_ms": {"level 0": round(alone[0], 2), f"level {top}": round(alone[1], 2)},
        "p90_under_load_ms": {"level 0": round(loaded[0], 2), f"level {top}": round(loaded[1], 2)},
        "target_ms": round(target, 2),
        "before": {"frames": len(before), "p90_ms": round(p90(before), 2), "levels": sorted({f.level for f in before})},
        "under_load": {
            "frames": len(during),
            "under_target_after_s": None if under is None else round(under - begun, 2),
            "windows_over_target_afterwards_percent": round(100 * sum(late) / len(late), 2) if late else None,
            "p90_of_each_ten_seconds_ms": [round(p90(part), 2) for part in parts],
            "changes": len(within),
            "reversals": sum((b[2] > b[1]) != (a[2] > a[1]) for a, b in pairwise(within)),
            "levels_at_the_end": sorted({f.level for f in during[-20:]}),
        },
        "after": {
            "level_0_again_s": round(after[rest].at - ended, 2) if rest < len(after) else None,
            "p90_ms": round(p90(after[len(after) // 2 :]), 2),
        },
        "changes": shown,
    }


def signal(path: Path, count: int = 20) -> dict[str, Any]:
    """The figures of ``signal``."""
    ours, theirs = os.openpty()
    with Session(path) as session:
        frames, top = frames_for(session, None)[:1], len(session.levels) - 1
        right = {}
        for level in (top, 0):
            session.level = level
            right[level] = [array.tobytes() for array in session.run(frames[0]).values()]
        rules = [{"when": "battery < 20", "leave": 25, "min_level": top}]
        port = SerialPort(os.ttyname(theirs), names=["battery"])
        session.follow(port, policy={"period_s": 0.05, "dwell_s": DWELL_S, "rules": rules})
        while port.trouble():
            time.sleep(0.01)
        took, ran, wrong = list[float](), 0, 0
        for number in range(count):
            level = 0 if number % 2 else top
            sent = time.monotonic()
            os.write(ours, b"battery=%d\n" % (80 if number % 2 else 10))
            while True:
                outputs = [array.tobytes() for array in session.run(frames[0]).values()]
                ran += 1
                wrong += outputs != right[session.stats.level]
                if session.stats.level == level:
                    break
            took.append(time.monotonic() - sent)
            run_for(session, frames, DWELL_S * 1.2, 0.0)  # so that the dwell time of the last change is over
    os.close(ours)
    os.close(theirs)
    took.sort()
    return {
        "bundle": path.name,
        "changes": count,
        "frames": ran,
        "wrong_outputs": wrong,
        "dwell_s": DWELL_S,
        "seconds": {"median": round(percentile(took, 50), 3), "longest": round(took[-1], 3)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("latency", "signal"))
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--core", type=int, help="the only core that is used")
    parser.add_argument("--quick", action="store_true", help="calibrate with fewer rounds, if it is not calibrated")
    parser.add_argument("--load", type=float, help="share of the core for the load (default: the least that serves)")
    options = parser.parse_args()
    if options.core is not None:
        os.sched_setaffinity(0, {options.core})
    with tempfile.TemporaryDirectory() as folder:  # what is measured here is not kept
        path = Path(shutil.copy(options.bundle, folder))
        with contextlib.suppress(FileNotFoundError):
            shutil.copy(f"{options.bundle}{SUFFIX}", folder)
        shares = LOADS if options.load is None else (options.load,)
        result = latency(path, options.quick, shares) if options.what == "latency" else signal(path)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
