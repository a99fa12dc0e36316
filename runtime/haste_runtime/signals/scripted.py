"""A signal that follows a script, for tests, demonstrations and simulation."""

from __future__ import annotations

from collections.abc import Iterable

from haste_runtime.errors import SignalError
from haste_runtime.signals.reading import Reading, judge, missing
from haste_runtime.signals.signal import Signal


class Scripted(Signal):
    """``script``: pairs (seconds, value) in order of time, counted from the first reading; each value holds until the
    next one. None stands for a sensor that says nothing. Before the first pair there is no value."""

    def __init__(self, name: str, script: Iterable[tuple[float, float | None]], unit: str = "") -> None:
        super().__init__(name, unit)
        self._script = list(script)
        times = [time for time, _ in self._script]
        if times != sorted(times):
            raise SignalError(f"The script of {name!r} is not in order of time.", "Sort it by its first column.")
        self._origin: float | None = None

    def read(self, now: float) -> Reading:
        if self._origin is None:
            self._origin = now
        passed = [value for time, value in self._script if time <= now - self._origin]
        return judge(passed[-1], self.unit, now) if passed else missing("its script has not begun", self.unit, now)
