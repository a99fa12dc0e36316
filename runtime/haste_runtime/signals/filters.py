"""Signals around signals. Filters compose: ``stale_after(smoothed(Battery(), 60), 300)``.

Each is a Signal of the same name and unit as the one inside; a reading that is not ok passes through as it is, and
companions are not touched.
"""

from __future__ import annotations

import math

from haste_runtime.errors import SignalError
from haste_runtime.signals.reading import Reading, aged
from haste_runtime.signals.signal import Signal

RESTART = 3  # a pause of this many time constants, and smoothing begins anew


class _Filter(Signal):
    def __init__(self, inner: Signal) -> None:
        if not isinstance(inner, Signal):
            raise SignalError(
                f"A filter goes around one signal, not around {type(inner).__name__}.",
                "Of a source with many names take one, for example port.signal('battery').",
            )
        super().__init__(inner.name, inner.unit, companions=inner.companions)
        self.may_block = inner.may_block
        self._inner = inner

    def start(self, period_s: float) -> None:
        self._inner.start(period_s)

    def read(self, now: float) -> Reading:
        reading = self._inner.read(now)
        if not reading.ok or reading.value is None:
            return reading
        return Reading(self.filtered(reading.value, reading.at), reading.unit, reading.at, True)

    def filtered(self, value: float, at: float) -> float:
        raise NotImplementedError

    def close(self) -> None:
        self._inner.close()


class _Smoothed(_Filter):
    def __init__(self, inner: Signal, seconds: float) -> None:
        super().__init__(inner)
        self._seconds = _positive(seconds, "seconds")
        self._last: tuple[float, float] | None = None  # value, at

    def filtered(self, value: float, at: float) -> float:
        if self._last is not None:
            before, then = self._last
            passed = max(0.0, at - then)  # a clock that went back is no time
            if passed < RESTART * self._seconds:
                value = before + (value - before) * -math.expm1(-passed / self._seconds)
        self._last = (value, at)
        return value


class _Clamped(_Filter):
    def __init__(self, inner: Signal, low: float, high: float) -> None:
        super().__init__(inner)
        if not low <= high:
            raise SignalError(f"Nothing lies from {low} to {high}.", "Give the lower bound first.")
        self._low, self._high = low, high

    def filtered(self, value: float, at: float) -> float:
        return min(max(value, self._low), self._high)


class _Hysteresis(_Filter):
    def __init__(self, inner: Signal, band: float) -> None:
        super().__init__(inner)
        self._band = _positive(band, "band")
        self._held: float | None = None

    def filtered(self, value: float, at: float) -> float:
        if self._held is None or abs(value - self._held) > self._band:
            self._held = value
        return self._held


class _StaleAfter(_Filter):
    def __init__(self, inner: Signal, seconds: float) -> None:
        super().__init__(inner)
        self._seconds = _positive(seconds, "seconds")

    def read(self, now: float) -> Reading:
        return aged(self._inner.read(now), now, self._seconds)


def _positive(value: float, what: str) -> float:
    if not 0 < value < math.inf:
        raise SignalError(f"A filter's {what} must be more than 0, not {value!r}.", "Leave the filter away instead.")
    return value


def smoothed(signal: Signal, seconds: float) -> Signal:
    """A running mean that forgets exponentially, with the time constant ``seconds``."""
    return _Smoothed(signal, seconds)


def clamped(signal: Signal, low: float, high: float) -> Signal:
    """Values below ``low`` and above ``high`` become these."""
    return _Clamped(signal, low, high)


def hysteresis(signal: Signal, band: float) -> Signal:
    """Keeps its value until the signal has gone more than ``band`` away from it."""
    return _Hysteresis(signal, band)


def stale_after(signal: Signal, seconds: float) -> Signal:
    """Not ok any more once the last value is older than ``seconds``."""
    return _StaleAfter(signal, seconds)
