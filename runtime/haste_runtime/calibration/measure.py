"""Measuring: every level on every number of threads, in rounds, so that what changes in between touches all alike.

A round visits each combination once, forwards and backwards in turn; a visit runs a frame that does not count, since
the caches hold another level's data, and then some that do. The figure is the median over all frames of all visits. How
far the medians of the rounds lie apart, whether they rose, how much of a processor's time we got, and what the board
says of throttling tells whether the figures can be believed.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haste_runtime.calibration.record import Calibration, Cost, Key, spread
from haste_runtime.cli.system import throttling
from haste_runtime.session import Session
from haste_runtime.signals.files import ROOT
from haste_runtime.signals.latency import percentile
from haste_runtime.signals.signal import Signal

VISIT_S, POWER_VISIT_S = 0.1, 0.6  # how long a visit lasts at least; a power sensor needs more
ROUNDS, QUICK_ROUNDS = 9, 3
MOST_FRAMES = 50  # of a visit
NOISY_SPREAD, SLOWER, LEAST_SHARE = 0.08, 1.08, 0.9
IDLE_S, SAMPLE_S = 1.0, 0.02

Frames = Sequence[Mapping[str, NDArray[np.float32]]]
Progress = Callable[[int, int], None]  # visits done, visits in all


@dataclass
class _Taken:
    """What is known of one combination. rounds: the median of each round. watts: of each visit."""

    times: list[float] = field(default_factory=list)
    rounds: list[float] = field(default_factory=list)
    watts: list[float] = field(default_factory=list)


class _Meter:
    """The mean power while something runs, sampled by a thread. Without a sensor it does nothing."""

    def __init__(self, signal: Signal | None) -> None:
        self._signal = signal
        self.samples: list[float] = []
        self.trouble = ""

    def during(self, work: Callable[[], Any]) -> float | None:
        """Run ``work``; watts meanwhile, None where they are not known."""
        if self._signal is None:
            work()
            return None
        self.samples, stop = [], threading.Event()
        thread = threading.Thread(target=self._sample, args=(stop,), name="haste-power", daemon=True)
        thread.start()
        try:
            work()
        finally:
            stop.set()
            thread.join()
        return sum(self.samples) / len(self.samples) if self.samples else None

    def _sample(self, stop: threading.Event) -> None:
        while not stop.wait(SAMPLE_S):
            assert self._signal is not None
            reading = self._signal.readings(time.monotonic()).get("power")
            if reading is not None and reading.ok and reading.value is not None:
                self.samples.append(reading.value)
            else:
                self.trouble = "nothing gives it" if reading is None else reading.reason


def calibrate(
    session: Session,
    frames: Frames,
    key: Key,
    *,
    thread_counts: Iterable[int] = (1,),
    quick: bool = False,
    power: Signal | None = None,
    progress: Progress = lambda done, total: None,
    root: Path = ROOT,
) -> Calibration:
    """Measure ``session``, which nobody else uses meanwhile, and was opened with the greatest number of threads.

    frames: batches of one frame, taken in turn. thread_counts: with 1, which is always measured. power: a signal that
    gives ``power`` in W. root: of the file system, for the throttle flags. The level is what it was afterwards.
    """
    counts, levels = sorted({1, *thread_counts}), range(len(session.levels))
    combinations = [(threads, level) for threads in counts for level in levels]
    taken = {combination: _Taken() for combination in combinations}
    rounds, meter, number = QUICK_ROUNDS if quick else ROUNDS, _Meter(power), 0
    before, flags = (session.level, session.threads), set(_held_back(root))
    idle = meter.during(lambda: time.sleep(IDLE_S)) if power is not None else None
    wall, used = 0.0, 0.0
    try:
        for turn in range(rounds):
            for combination in combinations if turn % 2 == 0 else reversed(combinations):
                session.threads, session.level = combination
                number += 1
                started, cpu = time.perf_counter(), time.process_time()
                _visit(session, frames, taken[combination], meter, number, power is not None)
                if combination[0] == 1:
                    wall, used = wall + time.perf_counter() - started, used + time.process_time() - cpu
                progress(number, rounds * len(combinations))
            flags |= set(_held_back(root))
    finally:
        session.threads, session.level = before[1], before[0]
    costs = tuple(_cost(threads, level, taken[threads, level]) for threads, level in combinations)
    warnings = _warnings(taken, used / wall, flags)
    if power is not None and not all(t.watts for t in taken.values()):
        warnings.append(f"the power sensor did not answer: {meter.trouble or 'too few samples'}")
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return Calibration(key, costs, now, quick, tuple(warnings), None if idle is None else round(idle, 3))


def _visit(session: Session, frames: Frames, taken: _Taken, meter: _Meter, number: int, long: bool) -> None:
    session.run(frames[number % len(frames)])
    least = POWER_VISIT_S if long else VISIT_S
    times: list[float] = []

    def run() -> None:
        ends = time.perf_counter() + least
        while not times or (time.perf_counter() < ends and len(times) < (math.inf if long else MOST_FRAMES)):
            session.run(frames[(number + len(times) + 1) % len(frames)])
            times.append(session.stats.ms)

    watts = meter.during(run)
    taken.times += times
    taken.rounds.append(percentile(sorted(times), 50))
    if watts is not None:
        taken.watts.append(watts)


def _cost(threads: int, level: int, taken: _Taken) -> Cost:
    times = sorted(taken.times)
    ms = percentile(times, 50)
    watts = percentile(sorted(taken.watts), 50) if taken.watts else None
    mj = None if watts is None else round(watts * ms, 3)
    return Cost(level, threads, round(ms, 4), round(percentile(times, 90), 4), mj, len(times))


def _held_back(root: Path) -> list[str]:
    found = throttling(root)
    return list(found["now"]) if found else []


def _warnings(taken: Mapping[tuple[int, int], _Taken], share: float, flags: set[str]) -> list[str]:
    """Sentences without an end, in order of weight."""
    warnings = []
    if flags:
        warnings.append(f"the processor was held back ({', '.join(sorted(flags))})")
    apart = percentile(sorted(spread(t.rounds) for t in taken.values()), 50)
    if apart > NOISY_SPREAD:
        warnings.append(f"rounds differ by {100 * apart:.0f} %: the machine is busy with something else")
    third = max(1, len(next(iter(taken.values())).rounds) // 3)
    ratios = sorted(
        percentile(sorted(t.rounds[-third:]), 50) / percentile(sorted(t.rounds[:third]), 50) for t in taken.values()
    )
    rise = percentile(ratios, 50)
    if rise > SLOWER:
        warnings.append(f"frames took {100 * (rise - 1):.0f} % longer towards the end: the processor throttles, or")
        warnings[-1] += " another program has started"
    if share < LEAST_SHARE:
        warnings.append(f"other programs took {100 * (1 - share):.0f} % of the processor's time")
    return warnings
