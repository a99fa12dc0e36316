"""Policies followed without threads and clocks: step by step, and on a computer that is not there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from haste_runtime.governor.decide import Decision, State, decide
from haste_runtime.governor.policy import Policy, read_policy
from haste_runtime.signals.latency import Frame, Latency
from haste_runtime.signals.reading import Reading, judge

COSTS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6)  # nine levels
TOP = len(COSTS) - 1
Values = Mapping[str, float | None]


def read(values: Values, now: float) -> dict[str, Reading]:
    units = {"battery": "%", "temperature": "°C", "latency": "ms"}
    return {name: judge(value, units.get(name, ""), now) for name, value in values.items()}


class Run:
    """A policy followed step by step. changes: (time, level, reason)."""

    def __init__(self, policy: Policy | dict[str, Any] | str, level: int = 0, costs: Sequence[float] = COSTS) -> None:
        self.policy = read_policy(policy)
        self.state = State.start(self.policy, level, costs)
        self.now, self.changes = 100.0, list[tuple[float, int, str]]()
        self.last: Decision | None = None

    def step(self, seconds: float, **values: float | None) -> int:
        self.now += seconds
        return self.decide(read(values, self.now))

    def decide(self, readings: Mapping[str, Reading]) -> int:
        before = self.state.level
        self.last = decide(self.policy, self.state, readings, self.now)
        self.state = self.last.state
        if self.last.level != before:
            self.changes.append((self.now, self.last.level, self.last.reason))
        return self.last.level

    @property
    def reason(self) -> str:
        assert self.last is not None
        return self.last.reason


class Computer:
    """Frames one after the other, measured by `Latency` and steered by `decide`, in time that is only counted.

    A frame takes base_ms x load x true_costs[level], times log-normal noise of ``noise``, times 4 for ``spikes`` of all
    frames (a collection of garbage), times 1.5 while a burst of ``burst_s`` lasts, of which one begins every five
    seconds. ran: (time, level, ms) of every frame.
    """

    def __init__(
        self, run: Run, base_ms: float, true_costs: Sequence[float], *, noise: float = 0.0, spikes: float = 0.0,
        burst_s: float = 0.0, seed: int = 0,
    ) -> None:  # fmt: skip
        self.run, self.base_ms, self.true_costs = run, base_ms, true_costs
        self._noise, self._spikes, self._burst_s = noise, spikes, burst_s
        self._rng, self._latency = np.random.default_rng(seed), Latency()
        self._latency.level_changed(run.now)
        self._next = run.now
        self.ran: list[tuple[float, int, float]] = []

    def go(self, seconds: float, load: float) -> None:
        run, began = self.run, self.run.now
        while run.now < began + seconds:
            level = run.state.level
            ms = self.base_ms * load * self.true_costs[level] * float(np.exp(self._noise * self._rng.standard_normal()))
            if self._spikes and self._rng.random() < self._spikes:
                ms *= 4
            if run.now % 5 < self._burst_s:
                ms *= 1.5
            run.now += ms / 1000
            self._latency.add(Frame(run.now, level, ms / 1000))
            self.ran.append((run.now, level, ms))
            if run.now >= self._next:
                self._next = run.now + run.policy.period_s
                if run.decide(self._latency.readings(run.now)) != level:
                    self._latency.level_changed(run.now)


def reversals(changes: Sequence[tuple[float, int, str]], level: int) -> int:
    """How often the level turned round. level: before the first change."""
    levels = [level, *(after for _, after, _ in changes)]
    ups = [after > before for before, after in pairwise(levels)]
    return sum(a != b for a, b in pairwise(ups))
