"""What was measured, and what follows from it: which levels pay, how many threads, which level meets a deadline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from haste_runtime.errors import HasteError

GAIN = 0.01  # of the time of a level below: what a level must save at least to be worth its loss of accuracy
THREADS_GAIN = 0.03  # the same for more threads than one, which also keep other programs from the cores


class CalibrationError(HasteError, ValueError):
    """A calibration is needed and there is none that holds here, or what is asked of it makes no sense."""

    exit_code = 2


@dataclass(frozen=True)
class Key:
    """What a calibration holds for. bundle: its checksum. code: of the compiled kernels, or numpy's version."""

    bundle: str
    runtime: str
    backend: str
    code: str
    cpu: str

    def difference(self, other: Key) -> str:
        """What ``other`` has changed, in words; empty where nothing has."""
        told = {
            "bundle": "the bundle is another one",
            "runtime": f"haste-runtime was {self.runtime} and is {other.runtime}",
            "backend": f"the backend was {self.backend} and is {other.backend}",
            "code": "the compiled code or a library under it is another one",
            "cpu": f"the processor was {self.cpu} and is {other.cpu}",
        }
        return "; ".join(words for name, words in told.items() if getattr(self, name) != getattr(other, name))


@dataclass(frozen=True)
class Cost:
    """One level on so many threads. ms, p90_ms: median and 90th percentile of the network's wall time. mj: energy of
    the whole board for a frame, in millijoules, None without a power sensor. frames: how many were measured."""

    level: int
    threads: int
    ms: float
    p90_ms: float
    mj: float | None
    frames: int


@dataclass(frozen=True)
class Calibration:
    """Costs of every level on each number of threads, and what they hold for.

    at: when it was measured, ISO 8601. quick: with few frames. warnings: why the figures may be off; empty where
    nothing spoke against them. idle_w: what the board draws between frames, None without a power sensor.
    """

    key: Key
    costs: tuple[Cost, ...]
    at: str
    quick: bool = False
    warnings: tuple[str, ...] = ()
    idle_w: float | None = None

    @property
    def thread_counts(self) -> tuple[int, ...]:
        return tuple(sorted({cost.threads for cost in self.costs}))

    @property
    def best_threads(self) -> int:
        """The number of threads with the least time over all levels; one that is slower than a single thread at any
        level does not count, nor one that saves less than a few percent."""
        one = [cost.ms for cost in self.at_threads(1)]
        best, least = 1, 1.0
        for threads in self.thread_counts:
            ratios = [cost.ms / ms for cost, ms in zip(self.at_threads(threads), one, strict=True)]
            mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
            if max(ratios) <= 1 and mean < least - (THREADS_GAIN if best == 1 else 0.0):
                best, least = threads, mean
        return best

    def at_threads(self, threads: int) -> tuple[Cost, ...]:
        """The costs of all levels, by level, on the nearest number of threads that was measured and is not greater."""
        measured = max(count for count in self.thread_counts if count <= max(threads, self.thread_counts[0]))
        return tuple(sorted((c for c in self.costs if c.threads == measured), key=lambda cost: cost.level))

    def dominated(self, threads: int = 1) -> dict[int, int]:
        """Levels that do not pay, each with a lower one that is as quick and needs no more energy: it is more exact."""
        found: dict[int, int] = {}
        kept: list[Cost] = []
        for cost in self.at_threads(threads):
            better = [k for k in kept if not _pays(cost, k)]
            if better:
                found[cost.level] = min(better, key=lambda k: (k.ms, k.level)).level
            else:
                kept.append(cost)
        return found

    def useful(self, threads: int = 1) -> tuple[int, ...]:
        """The levels that are left, in order; level 0 always is."""
        dropped = self.dominated(threads)
        return tuple(cost.level for cost in self.at_threads(threads) if cost.level not in dropped)

    def level_for(self, latency_ms: float, threads: int = 1, percentile: int = 50) -> int:
        """The most exact level whose frames are expected to take no longer; where none is so quick, the quickest.

        percentile: 50 for the median, 90 for what nine frames of ten keep under. Raises CalibrationError for a latency
        that is no positive number.
        """
        if not 0 < latency_ms < math.inf:
            raise CalibrationError(f"A latency of {latency_ms!r} ms makes no sense.", "Give milliseconds, above 0.")
        useful = set(self.useful(threads))
        costs = [cost for cost in self.at_threads(threads) if cost.level in useful]
        times = {cost.level: cost.ms if percentile == 50 else cost.p90_ms for cost in costs}
        fitting = [level for level, ms in times.items() if ms <= latency_ms]
        return min(fitting) if fitting else min(times, key=lambda level: (times[level], level))

    def relative(self, threads: int = 1) -> list[float]:
        """The median of every level, in ms, for a governor; a level that does not pay is as dear as the one that is
        better, or dearer, so that no controller takes it for a gain."""
        costs = self.at_threads(threads)
        dropped = self.dominated(threads)
        return [max(cost.ms, costs[dropped[cost.level]].ms) if cost.level in dropped else cost.ms for cost in costs]


def _pays(cost: Cost, lower: Cost) -> bool:
    """Whether ``cost`` saves time, or energy, beside a level below it."""
    if cost.ms < (1 - GAIN) * lower.ms:
        return True
    return cost.mj is not None and lower.mj is not None and cost.mj < (1 - GAIN) * lower.mj


def spread(values: Sequence[float]) -> float:
    """Distance of the quartiles relative to the median: how far medians of rounds lie apart."""
    ordered = sorted(values)
    quartile = len(ordered) // 4
    return (ordered[-1 - quartile] - ordered[quartile]) / ordered[len(ordered) // 2]
