"""What lines of text from a microcontroller, a program or a broker mean: names with numbers.

    battery=57.5
    battery=57.5 charging=0, ambient = -3.5
    {"battery": 57.5, "charging": false}

Whatever else a line holds is no reading: noise on a wire is normal.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from haste_runtime.signals.signal import NAME, RESERVED

LONGEST = 4096  # bytes of a line; more without a line break is garbage
PAIR = re.compile(r"([a-z_][a-z0-9_]*)\s*=\s*([^\s,;=]+)")
WORDS = {"true": 1.0, "yes": 1.0, "on": 1.0, "false": 0.0, "no": 0.0, "off": 0.0}


def parse_line(line: str) -> dict[str, float]:
    """The readings in a line; empty where it holds none. A line of pairs must be made of pairs alone. Never raises."""
    line = line.strip()
    if line.startswith("{"):
        try:
            table = json.loads(line)
        except (ValueError, RecursionError):
            return {}
        return readings_in(table)
    pairs = {name: number_in(text) for name, text in PAIR.findall(line)}
    if PAIR.sub("", line).strip(" \t,;") or None in pairs.values():
        return {}
    return {name: value for name, value in pairs.items() if value is not None and name not in RESERVED}


def readings_in(table: Any) -> dict[str, float]:
    """The entries of a mapping that are names with numbers, or with yes and no."""
    if not isinstance(table, Mapping):
        return {}
    found = {}
    for name, value in table.items():
        if isinstance(name, str) and NAME.fullmatch(name) and name not in RESERVED and isinstance(value, (int, float)):
            try:
                found[name] = float(value)
            except OverflowError:
                continue
    return found


def number_in(text: str) -> float | None:
    """The number that a text is, also as a word for yes or no; None where it is neither. NaN is a number here, which
    makes a reading that is not ok, rather than none."""
    text = text.strip()
    try:
        return float(text)
    except ValueError:
        return WORDS.get(text.lower())


class Splitter:
    """Cuts a stream of bytes into lines, whatever pieces it comes in. What is too long for a line is dropped up to the
    next line break."""

    def __init__(self) -> None:
        self._rest, self._skipping = b"", False

    def feed(self, data: bytes) -> list[str]:
        """The lines that ``data`` completes."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if lines and self._skipping:
            del lines[0]
            self._skipping = False
        if len(self._rest) > LONGEST:
            self._rest, self._skipping = b"", True
        return [line.decode("utf-8", errors="replace") for line in lines if len(line) <= LONGEST]

    def restart(self) -> None:
        """What comes next has nothing to do with what came before."""
        self._rest, self._skipping = b"", False
