"""The controllers of what answers slowly: heat, and the hours that a battery lasts. Each asks for a level of its own,
one step at a time, so that its target is kept. Pure functions over frozen states; what frames cost has one in `cost`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

HEAT_PATIENCE = 2  # dwell times between two steps of the temperature: heat answers slowly
SAMPLE_S, WINDOW_S, LEAST_SPAN_S = 60.0, 1800.0, 600.0  # of the battery, for the slope of its discharge
AMPLE = 1.2  # times the hours wanted: so much battery, and the level may fall


@dataclass(frozen=True)
class HeatControl:
    """State of a temperature target. missing_since: the reading is missing since then."""

    demand: int = 0
    moved_at: float | None = None
    missing_since: float | None = None


def steer_heat(
    control: HeatControl, value: float, hot: float, release: float, level: int, top: int, time: float, dwell_s: float
) -> HeatControl:
    """Above ``hot`` one level up, below ``release`` one down, never faster than the case can answer."""
    if control.moved_at is not None and time - control.moved_at < HEAT_PATIENCE * dwell_s:
        return control
    if value > hot and level >= control.demand and control.demand < top:
        return replace(control, demand=min(top, max(control.demand, level) + 1), moved_at=time)
    if value < release and control.demand > 0:
        return replace(control, demand=control.demand - 1, moved_at=time)
    return control


@dataclass(frozen=True)
class EnergyControl:
    """State of the target of battery hours. started: since when the battery discharges. samples: (time, percent)."""

    demand: int = 0
    started: float | None = None
    samples: tuple[tuple[float, float], ...] = ()
    missing_since: float | None = None


def steer_energy(
    control: EnergyControl, percent: float, charging: bool, hours: float, level: int, top: int, time: float
) -> EnergyControl:
    """Up when the battery will not last until ``hours`` after it began to discharge, down when it lasts amply."""
    if charging:
        return EnergyControl()
    started = time if control.started is None else control.started
    samples = tuple(sample for sample in control.samples if time - sample[0] <= WINDOW_S)
    if not samples or time - samples[-1][0] >= SAMPLE_S:
        samples = (*samples, (time, percent))
    control = replace(control, started=started, samples=samples)
    wanted = hours - (time - started) / 3600
    left = hours_left(samples, percent)
    if wanted <= 0:
        return replace(control, demand=0)
    if left is None or control.demand > level:
        return control
    if left < wanted and max(control.demand, level) < top:
        return replace(control, demand=max(control.demand, level) + 1, samples=samples[-1:])
    if left > AMPLE * wanted and control.demand > 0:
        return replace(control, demand=control.demand - 1, samples=samples[-1:])
    return control


def hours_left(samples: Sequence[tuple[float, float]], percent: float) -> float | None:
    """Hours until empty at the least-squares slope of ``samples``; infinity without discharge, None while they span
    too little time to tell."""
    if not samples or samples[-1][0] - samples[0][0] < LEAST_SPAN_S:
        return None
    times = [(at - samples[0][0]) / 3600 for at, _ in samples]
    mean_time, mean = sum(times) / len(times), sum(value for _, value in samples) / len(samples)
    spread = sum((time - mean_time) ** 2 for time in times)
    slope = sum((t - mean_time) * (value - mean) for t, (_, value) in zip(times, samples, strict=True)) / spread
    return percent / -slope if slope < 0 else float("inf")
