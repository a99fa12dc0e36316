"""What a signal says at one moment: a number that can be relied on, or the reason in words why there is none."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

# Names that mean the same everywhere, with unit and plausible bounds: these hold for whatever is reported, called back
# or heard from outside, so that a sensor gone wrong is missing rather than an empty battery.
KNOWN = {
    "battery": ("%", 0.0, 100.0),
    "charging": ("", 0.0, 1.0),
    "on_mains": ("", 0.0, 1.0),
    "temperature": ("°C", -40.0, 150.0),
    "power": ("W", 0.0, math.inf),
}


@dataclass(frozen=True)
class Reading:
    """value: the number, None where there is none; yes and no are 1 and 0. unit: for people, such as "%" or "°C".

    at: when it was measured, in seconds of the monotonic clock of whoever asked. ok: whether it may be acted on; a
    value that is only too old stays readable, but is not ok. reason: why it is not ok, empty where it is.
    """

    value: float | None
    unit: str
    at: float
    ok: bool
    reason: str = ""

    def __str__(self) -> str:
        return quantity(self.value, self.unit) if self.ok and self.value is not None else f"missing ({self.reason})"


def quantity(value: float, unit: str = "") -> str:
    """A number with its unit, for sentences: "18 %", "47.1 ms"."""
    return f"{value:.4g} {unit}".rstrip()


def missing(reason: str, unit: str, at: float) -> Reading:
    """A reading without a value."""
    return Reading(None, unit, at, False, reason)


def judge(value: Any, unit: str, at: float, low: float = -math.inf, high: float = math.inf) -> Reading:
    """Turn whatever a sensor or a callback gave into a reading: it is ok if it is a finite number from low to high."""
    if value is None:
        return missing("it gave no value", unit, at)
    if isinstance(value, (str, bytes)):
        return missing(f"it gave {value[:40]!r}, which is not a number", unit, at)
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return missing(f"it gave {type(value).__name__}, which is not a number", unit, at)
    if not math.isfinite(number):
        return missing(f"it gave {number}", unit, at)
    if not low <= number <= high:
        allowed = f"from {low:g} to {high:g}" if math.isfinite(low + high) else f"{low:g} or more"
        return missing(f"it gave {quantity(number, unit)}, and only {allowed} is plausible", unit, at)
    return Reading(number, unit, at, True)


def judge_named(name: str, value: Any, unit: str, at: float) -> Reading:
    """The same for a value that comes with a name alone: a name that is `KNOWN` brings its unit and its bounds."""
    usual, low, high = KNOWN.get(name, ("", -math.inf, math.inf))
    return judge(value, unit or usual, at, low, high)


def aged(reading: Reading, now: float, limit_s: float | None) -> Reading:
    """The same reading seen at ``now``: not ok any more if it is older than ``limit_s`` (None: it never ages)."""
    age = now - reading.at
    if limit_s is None or age <= limit_s or not reading.ok:
        return reading
    return Reading(reading.value, reading.unit, reading.at, False, f"the last value is {age:.1f} s old")
