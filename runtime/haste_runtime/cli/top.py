"""``haste-run top``: a running service at a glance: its level and why, latency, battery, temperature, as they go along.

It reads the service's socket. On a terminal the view is drawn anew each second; elsewhere it is a line each second.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from haste_runtime.cli.common import positive_integer
from haste_runtime.errors import HasteError, InputError
from haste_runtime.service.addresses import Address, parse_address, running, runtime_folder

BLOCKS = "▁▂▃▄▅▆▇█"
ASCII_BLOCKS = "_.-=+*#@"
CHARTS = (
    ("level", "level", ""),
    ("p90", "latency p90", "ms"),
    ("battery", "battery", "%"),
    ("temperature", "temperature", "°C"),
    ("fps", "frames a second", ""),
)
SILENT_S = 10.0
KEPT = 600
CLEAR, HOME, BOLD, DIM, PLAIN, TO_END = "\x1b[2J", "\x1b[H", "\x1b[1m", "\x1b[2m", "\x1b[0m", "\x1b[K"
ALTERNATE, BACK = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
EPILOG = """examples:
  haste-run top                       the only service that runs here
  haste-run top door-camera           the one with this --name
  haste-run top tcp:pi.local:7000     one elsewhere, started with --listen tcp:0.0.0.0:7000
  haste-run top --lines 1 --json      its state, once, as JSON"""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.epilog, parser.formatter_class = EPILOG, argparse.RawDescriptionHelpFormatter
    parser.add_argument("service", nargs="?", help="a name, or an address as for serve --listen")
    parser.add_argument("--lines", type=positive_integer, metavar="N", help="end after N seconds; no view, only lines")


def run(options: argparse.Namespace) -> None:
    address = find(options.service)
    states = states_of(address)
    if options.json:
        for number, state in enumerate(states, 1):
            print(json.dumps(state), flush=True)
            if number == options.lines:
                break
    elif options.lines is None and sys.stdout.isatty():
        watch(states, address)
    else:
        for number, state in enumerate(states, 1):
            print(line_of(state), flush=True)
            if number == options.lines:
                break


def find(text: str | None) -> Address:
    """The address that is meant. Raises InputError."""
    if text is None:
        found = running()
        if not found:
            raise InputError("No service runs here.", "Start one: haste-run serve net.haste --source ...")
        if len(found) > 1:
            names = ", ".join(path.stem for path in found)
            raise InputError(f"Several services run here: {names}.", "Name one of them.")
        return Address(path=found[0])
    if text.partition(":")[0] in ("unix", "tcp"):
        return parse_address(text)
    if "/" in text:
        return Address(path=Path(text))
    found = [path for path in running() if path.stem == text]
    return Address(path=found[0] if found else runtime_folder() / f"{text}.sock")


def states_of(address: Address) -> Iterator[dict[str, Any]]:
    """The states that a service tells, about one each second; the first has its history. Raises HasteError where there
    is no service, or where it ends."""
    try:
        connection = address.connect(SILENT_S)
    except OSError as error:
        raise InputError(
            f"No service answers at {address}: {error.strerror or error}.", "Is it running? haste-run serve --help"
        ) from None
    with connection, connection.makefile("rb") as stream:
        connection.settimeout(SILENT_S)
        while True:
            try:
                line = stream.readline()
                entry = json.loads(line) if line.endswith(b"\n") else None
            except OSError:
                raise HasteError(f"The service at {address} has said nothing for {SILENT_S:g} s.") from None
            except ValueError:
                raise InputError(f"What is at {address} is no service of haste-run.") from None
            if entry is None:
                raise HasteError(f"The service at {address} has ended.")
            if entry.get("event") == "status":
                yield entry


# --- what is shown ---------------------------------------------------------------------------------------------------


def line_of(state: Mapping[str, Any]) -> str:
    """A state in one line."""
    shown = [str(state["at"])[11:19], f"level {state['level']}"]
    shown += [f"{name} {number(value, unit)}" for name, value, unit in _figures(state) if value is not None]
    return "  ".join([*shown, str(state["reason"])])


def _figures(state: Mapping[str, Any]) -> list[tuple[str, float | None, str]]:
    readings = state["readings"]
    known = {name: readings[name]["value"] if name in readings and readings[name]["ok"] else None for name in
             ("battery", "temperature")}  # fmt: skip
    return [
        ("p90", state["latency_ms"]["p90"], "ms"),
        ("battery", known["battery"], "%"),
        ("temperature", known["temperature"], "°C"),
        ("fps", state["fps"], ""),
    ]


def number(value: float | None, unit: str = "") -> str:
    """Three digits and the unit; a dash for what is not known."""
    return "-" if value is None else f"{value:.3g} {unit}".rstrip()


def sparkline(values: Sequence[float | None], width: int, blocks: str = BLOCKS, low: float | None = None) -> str:
    """The last ``width`` values as blocks from the least to the greatest of them; a space where there is none."""
    shown = list(values)[-width:]
    known = [value for value in shown if value is not None]
    if not known:
        return ""
    least = min(known) if low is None else min(low, *known)
    span = max(known) - least
    top = len(blocks) - 1
    return "".join(
        " " if value is None else blocks[0 if span == 0 else round(top * (value - least) / span)] for value in shown
    )


def view(
    state: Mapping[str, Any], history: Sequence[Mapping[str, Any]], width: int, height: int, unicode: bool = True
) -> list[str]:
    """The lines of the view, each at most ``width`` long, at most ``height`` of them."""
    blocks = BLOCKS if unicode else ASCII_BLOCKS
    source = state["source"]
    well = state["state"] == "running" and source["state"] == "open"
    status = "running" if well else state["state"] if state["state"] != "running" else f"no frames: {source['state']}"
    minutes, seconds = divmod(round(state["uptime_s"]), 60)
    hours, minutes = divmod(minutes, 60)
    lines = [
        f"{state['name']}: {status}, for {hours}:{minutes:02d}:{seconds:02d}; {state['bundle']} from {source['name']}",
        f"{state['frames']} frames, {state['bad_frames']} bad; {state['backend']}, threads: {state['threads']}, "
        f"{number(state['memory_mb'], 'MB')}",
        "",
        f"Level {state['level']} of {state['levels'] - 1}" + (" (override)" if state["override"] is not None else ""),
        f"  {state['reason']}",
        "",
    ]
    room = max(10, width - 36)
    for key, name, unit in CHARTS:
        values = [sample.get(key) for sample in history]
        now = values[-1] if values else None
        known = [value for value in values[-room:] if value is not None]
        if known or key in ("level", "p90"):
            low = 0 if key in ("level", "p90", "fps") else None
            span = f"{number(min(known))}..{number(max(known))}" if known else ""
            lines.append(f"{name:<16}{number(now, unit):>9}  {sparkline(values, room, blocks, low)}  {span}")
    counted = [f"{n}: {count}" for n, count in enumerate(state["per_level"]) if count]
    lines += ["", f"Frames by level: {', '.join(counted) or 'none yet'}"]
    missing = [name for name, reading in state["readings"].items() if not reading["ok"]]
    if missing:
        lines.append("Not known here: " + ", ".join(sorted(missing)))
    if state["changes"]:
        lines += ["", "Changes of level"]
        lines += [f"  {c['at'][11:19]}  {c['old']} -> {c['new']}  {c['reason']}" for c in reversed(state["changes"])]
    return [line[:width] for line in lines[:height]]


def watch(states: Iterator[dict[str, Any]], address: Address) -> None:
    """Draw the view until Ctrl-C, which ends it without a word, or until the service ends."""
    history: deque[Mapping[str, Any]] = deque(maxlen=KEPT)
    unicode = (sys.stdout.encoding or "").lower().startswith("utf")
    colours = "NO_COLOR" not in os.environ
    sys.stdout.write(ALTERNATE + CLEAR)
    try:
        for state in states:
            history.extend(state.get("history") or [_sample(state)])
            width, height = shutil.get_terminal_size()
            width, height = width or 80, height or 24  # a terminal that does not say, and Python 3.10
            lines = view(state, list(history), width - 1, height - 2, unicode)
            if colours:
                lines[0] = f"{BOLD}{lines[0]}{PLAIN}"
                lines[1] = f"{DIM}{lines[1]}{PLAIN}" if len(lines) > 1 else ""
            lines.append("Ctrl-C ends the view; the service goes on.")
            sys.stdout.write(HOME + "".join(f"{line}{TO_END}\n" for line in lines) + "\x1b[J")
            sys.stdout.flush()
    except KeyboardInterrupt:
        pass
    finally:
        sys.stdout.write(BACK)
        sys.stdout.flush()


def _sample(state: Mapping[str, Any]) -> dict[str, Any]:
    """As the service keeps its history."""
    values = {name: value for name, value, _ in _figures(state)}
    return {"t": state["uptime_s"], "level": state["level"], **values}
