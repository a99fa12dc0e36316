"""Names that are heard of from outside: the last value of each, and how long ago that was."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from haste_runtime.signals.reading import Reading, aged, judge_named, missing
from haste_runtime.signals.signal import Signal, Source, checked_name

MOST_NAMES = 64  # garbage that looks like names must not fill the memory


class Heard(Source):
    """Base of sources whose values come in by themselves. ``names``: what is expected; others that come in are taken
    too. stale_after_s: how long a value may be acted on. clock: the governor's."""

    def __init__(self, names: Iterable[str], stale_after_s: float | None, clock: Callable[[], float]) -> None:
        self._expected = tuple(checked_name(name) for name in names)
        self._stale_after_s, self._clock = stale_after_s, clock
        self._newest: dict[str, Reading] = {}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self._expected, *self._newest)))

    def hear(self, values: Mapping[str, float | None]) -> None:
        """From the thread that listens."""
        now = self._clock()
        for name, value in values.items():
            if name in self._newest or name in self._expected or len(self._newest) < MOST_NAMES:
                self._newest[name] = judge_named(name, value, "", now)

    def readings(self, now: float) -> dict[str, Reading]:
        heard = {name: self._seen(reading, now) for name, reading in list(self._newest.items())}
        return {name: missing(self.silence(), "", now) for name in self._expected if name not in heard} | heard

    def _seen(self, reading: Reading, now: float) -> Reading:
        reading, trouble = aged(reading, now, self._stale_after_s), self.trouble()
        return reading if reading.ok or not trouble else replace(reading, reason=f"{reading.reason}, and {trouble}")

    def trouble(self) -> str:
        """What is wrong with the connection; empty while all is well."""
        return ""

    def silence(self) -> str:
        """Why nothing has been heard of a name."""
        return self.trouble() or "nothing has been heard of it yet"

    def signal(self, name: str, unit: str = "") -> Signal:
        """One of the names as a signal by itself, to put filters around. Follow the source as well: it listens."""
        return _One(self, name, unit)


class _One(Signal):
    def __init__(self, source: Heard, name: str, unit: str) -> None:
        super().__init__(name, unit)
        self._source = source

    def read(self, now: float) -> Reading:
        reading = self._source.readings(now).get(self.name)
        if reading is None:
            return missing(self._source.silence(), self.unit, now)
        return replace(reading, unit=self.unit or reading.unit)
