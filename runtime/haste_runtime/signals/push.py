"""Numbers that the program reports by itself, when it has them: ``session.report("battery", 41)``."""

from __future__ import annotations

from haste_runtime.signals.reading import Reading, aged, judge_named
from haste_runtime.signals.signal import Source, checked_name


class Reports(Source):
    """Keeps the newest report of each name. Reporting never waits, and may be done from any thread."""

    def __init__(self) -> None:
        self._newest: dict[str, tuple[Reading, float | None]] = {}

    def report(
        self, name: str, value: float | None, now: float, *, unit: str = "", valid_s: float | None = None
    ) -> None:
        """valid_s: how long the value may be acted on; None, the default, until the next report."""
        self._newest[checked_name(name)] = (judge_named(name, value, unit, now), valid_s)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._newest)

    def readings(self, now: float) -> dict[str, Reading]:
        return {name: aged(reading, now, valid_s) for name, (reading, valid_s) in list(self._newest.items())}
