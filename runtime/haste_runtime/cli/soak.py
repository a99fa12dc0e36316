"""``haste-run bench --soak``: what becomes of time, heat, clock and memory when frames go on for long.

The first minute says little about a board in a case: it warms up, and then its clock falls. Every row is appended to
``--out`` as it comes, so that an interruption, or the board's own end, loses at most one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from haste_runtime.cli import bench, system
from haste_runtime.cli.common import INTERRUPTED, level_that_meets, note, parse_levels, print_json
from haste_runtime.cli.frames import frames_for
from haste_runtime.errors import HasteError, InputError
from haste_runtime.session import Session
from haste_runtime.signals.frequency import Frequency
from haste_runtime.signals.latency import percentile

VERSION = 1
KEEP = 100_000  # milliseconds kept for a row's percentiles; of more frames, every so many


class InterruptedSoakError(HasteError, RuntimeError):
    """Ctrl-C ended it early; what was measured has been told."""

    exit_code = INTERRUPTED


def run(options: argparse.Namespace) -> None:
    from haste_runtime.cli.charts import check_plot

    check_plot(options.plot)
    bench.check_cadence(options.fps)
    if options.soak <= 0 or options.every <= 0:
        raise InputError("A soak of no time tells nothing.", "Give times above 0, as in --soak 30m --every 1m.")
    with Session(options.bundle, options.backend, options.threads) as session:
        levels = parse_levels(options.levels or "0", len(session.levels))
        if options.latency_ms is not None:
            levels = [level_that_meets(session, options.latency_ms)]
        if len(levels) != 1:
            raise InputError(f"--levels {options.levels} are {len(levels)} levels.", "A soak runs at one, or --policy.")
        session.level = levels[0]
        x = frames_for(session, options.input)
        head: dict[str, Any] = bench.about(session, options) | {
            "haste_soak": VERSION,
            "seconds": options.soak,
            "every": options.every,
            "policy": options.policy,
            "began": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        say = note if options.json else partial(print, flush=True)
        say(f"{options.bundle}: {bench.describe(session)}")
        say("      time   frames      p50      p90  level  temperature   clock  memory  held back")
        rows: list[dict[str, Any]] = []
        complete = True
        with _Rows(options.out, head) as file:
            try:
                for row in _soak(session, x, options):
                    rows.append(row)
                    file.add(row)
                    say(_line(row))
            except KeyboardInterrupt:
                complete = False
    result = head | {"complete": complete, "rows": rows}
    if options.plot is not None and rows:
        from haste_runtime.cli.plot import draw_soak

        draw_soak(result, options.plot)
        note(f"Plot: {options.plot}")
    if options.json:
        print_json(result)
    if not complete:
        kept = f"all rows are in {options.out}" if options.out else "the rows are those above"
        raise InterruptedSoakError(f"Interrupted after {len(rows)} rows; {kept}.")


def _soak(session: Session, x: list[Any], options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for each span of ``--every``; the last may be shorter."""
    if options.policy is not None:
        from haste_runtime.signals import Battery, Load, Thermal, Throttle

        session.follow(Battery(), Thermal(), Frequency(), Throttle(), Load(), policy=options.policy)
    for number in range(options.warmup):  # the first frames touch memory that later ones find in place
        session.run(x[number % len(x)])
    began = time.monotonic()
    since, frames, kept, stride, levels = began, 0, list[float](), 1, 0
    for ms in bench.at_cadence(session, x, options.fps):
        frames, levels = frames + 1, levels + session.stats.level
        if frames % stride == 0:
            kept.append(ms)
        if len(kept) >= KEEP:
            kept, stride = kept[::2], 2 * stride
        now = time.monotonic()
        over = now - began >= options.soak
        if over or now - since >= options.every:
            kept.sort()
            yield {
                "at": round(now - began, 3),
                "seconds": round(now - since, 3),
                "frames": frames,
                "ms": {"p50": round(percentile(kept, 50), 4), "p90": round(percentile(kept, 90), 4)},
                "level": session.stats.level,
                "mean_level": round(levels / frames, 3),
                **_machine(),
            }
            since, frames, kept, stride, levels = now, 0, [], 1, 0
        if over:
            return


def _machine() -> dict[str, Any]:
    """Heat, clock, throttling and memory now; None where this computer does not tell."""
    heat, held, clock = system.temperature(), system.throttling(), Frequency().read(0.0)
    return {
        "celsius": None if heat is None else heat["celsius"],
        "mhz": round(clock.value, 1) if clock.ok and clock.value is not None else None,
        "held_back": None if held is None else held["now"],
        "memory_mb": system.resident_memory_mb(),
    }


def _line(row: dict[str, Any]) -> str:
    def shown(value: float | None, form: str, unit: str) -> str:
        return "-" if value is None else f"{value:{form}} {unit}"

    held = "-" if row["held_back"] is None else ", ".join(row["held_back"]) or "no"
    return (
        f"{row['at']:8.0f} s  {row['frames']:7d}  {row['ms']['p50']:7.2f}  {row['ms']['p90']:7.2f}"
        f"  {row['mean_level']:5.2f}  {shown(row['celsius'], '.1f', '°C'):>11}  {shown(row['mhz'], '.0f', 'MHz'):>8}"
        f"  {shown(row['memory_mb'], '.0f', 'MB'):>6}  {held}"
    )


class _Rows:
    """The file of JSON lines: a head, then a row each. A full disk ends it with a warning; the soak goes on."""

    def __init__(self, path: Path | None, head: dict[str, Any]) -> None:
        self._path = path
        try:
            self._file = None if path is None else path.open("a", encoding="utf-8")
        except OSError as error:
            raise InputError(f"{path} cannot be written: {error}.", "Give another --out.") from None
        self.add(head)

    def __enter__(self) -> _Rows:
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, row: dict[str, Any]) -> None:
        if self._file is None:
            return
        try:
            self._file.write(json.dumps(row, allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:
            note(f"{self._path} ends here, it cannot be written any more: {error}")
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None
