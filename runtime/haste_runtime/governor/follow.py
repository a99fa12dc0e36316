"""Following: a thread that reads the signals, decides, and sets the level.

It never holds up a frame: frames read an integer, and append to a queue how long they took. What the level's owner is
told (`when_level_changed`) is told by this thread, outside of every lock.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType

from haste_runtime.errors import PolicyError, SignalError
from haste_runtime.governor.decide import Decision, State, decide
from haste_runtime.governor.policy import Policy
from haste_runtime.governor.trace import TraceWriter
from haste_runtime.signals.background import Background
from haste_runtime.signals.latency import Frame, Latency
from haste_runtime.signals.reading import Reading
from haste_runtime.signals.signal import Source

LOG = logging.getLogger("haste_runtime")
TELL_AFTER_S = 5.0  # a signal that a rule needs is missing so long: worth a warning
JOIN_S = 5.0

Changed = Callable[[int, int, str], None]  # old level, new level, reason


def with_target(policy: Policy, sources: Sequence[Source]) -> Policy:
    """The policy with the latency target that comes with a `Latency` among the sources. Raises PolicyError if the two
    contradict each other."""
    for source in sources:
        if isinstance(source, Latency) and source.target_ms is not None:
            given = policy.targets.latency_ms
            if given is not None and given != source.target_ms:
                raise PolicyError(
                    f"The policy's targets.latency_ms is {given:g}, but Latency has target_ms={source.target_ms:g}.",
                    "Give one of them.",
                )
            policy = replace(policy, targets=replace(policy.targets, latency_ms=source.target_ms))
    return policy


class Governor:
    """Follows ``sources`` by ``policy`` until it is stopped; a context manager that stops at its end.

    level, costs: the level set now, and the expected relative cost of a frame at each level. set_level: sets it, at
    once. changed: told of every change. ended: told of the end, once. trace: a file for every decision. Sources given
    first are preferred where several give the same name; they belong to the governor, which closes them.

    Raises PolicyError for a policy that decides nothing, SignalError for what is no source, TraceError.
    """

    def __init__(
        self,
        policy: Policy,
        sources: Sequence[Source],
        *,
        level: int,
        costs: Sequence[float],
        set_level: Callable[[int], None],
        changed: Changed,
        ended: Callable[[Governor], None] = lambda governor: None,
        trace: str | os.PathLike[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        for source in sources:
            if not isinstance(source, Source):
                raise SignalError(
                    f"{type(source).__name__} is not a signal.",
                    "Give signals of haste_runtime.signals; for a function use session.on_signal(function, name=...).",
                )
        self.policy = with_target(policy, sources)
        if not self.policy.decides:
            raise PolicyError(
                "The policy decides nothing: it has no rule, no target and no bound.",
                'Give policy=... with a rule, such as {"rules": [{"when": "battery < 20", "min_level": 2}]}.',
            )
        self._set_level, self._changed, self._ended, self._clock = set_level, changed, ended, clock
        self._latency = next((s for s in sources if isinstance(s, Latency)), None) or Latency()
        given = sources if self._latency in sources else [*sources, self._latency]
        self._sources = [self._asked(source) for source in given]
        self._state = State.start(self.policy, level, costs)
        self._trace = None if trace is None else TraceWriter(trace, self.policy, self._state)
        self._readings: Mapping[str, Reading] = {}
        self._decision = Decision(self._state, level, level, "nothing has been decided yet")
        self._lock = threading.Lock()  # over state, level and pending; never while a source or the user is called
        self._pending: deque[tuple[float, Mapping[str, Reading], int, Decision]] = deque()
        self._missing: dict[str, float] = {}  # since when, by name
        self._told: set[str] = set()
        self._stop, self._wake = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        for key, named in self.policy.levels():
            if named > self._state.top:
                LOG.warning("%s is %d, but the top level of this bundle is %d: it counts.", key, named, self._state.top)

    # --- what it knows -----------------------------------------------------------------------------------------------

    @property
    def readings(self) -> Mapping[str, Reading]:
        """The readings of the last decision, by name."""
        return self._readings

    @property
    def decision(self) -> Decision:
        """The last decision: the level and the reason for it."""
        return self._decision

    # --- running -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin; the thread "haste-governor" makes the first decision at once."""
        for source in self._sources:
            self._start(source)
        self._latency.level_changed(self._clock())
        self._thread = threading.Thread(target=self._follow, name="haste-governor", daemon=True)
        self._thread.start()

    def add(self, source: Source) -> None:
        """One more source, from now on; preferred least."""
        asked = self._asked(source)
        self._start(asked)
        self._sources = [*self._sources, asked]  # a new list: the thread may be reading the old one
        self._wake.set()

    def stop(self) -> None:
        """End the thread, and those of the sources. The level stays as it is. Stopping twice is harmless."""
        if self._stop.is_set():
            return
        self._stop.set()
        self._ended(self)
        self._wake.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(JOIN_S)
            if thread.is_alive():
                LOG.warning("when_level_changed or a signal hangs; the governor's thread is left to end by itself.")
        for source in self._sources:
            try:
                source.close()
            except Exception:
                LOG.exception("A signal (%s) could not be closed.", ", ".join(source.names))
        if self._trace is not None:
            self._trace.close()

    def __enter__(self) -> Governor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def override(self, level: int | None) -> None:
        """Set ``level`` at once and keep it, whatever the policy says; None gives the level back to the policy."""
        with self._lock:
            self._decide(self._clock(), self._readings, replace(self._state, override=level))
        self._wake.set()

    def frame(self, level: int, seconds: float) -> None:
        """A frame has run. Costs an append."""
        self._latency.add(Frame(self._clock(), level, seconds))

    def step(self) -> Decision:
        """One round: read, decide, set the level, tell. What the thread does every period."""
        now = self._clock()
        readings = self._read(now)
        with self._lock:
            self._readings = readings
            decision = self._decide(now, readings, self._state)
        self._warn(now, readings)
        self._tell()
        return decision

    def _follow(self) -> None:
        while not self._stop.is_set():
            self._wake.clear()
            began = time.monotonic()
            try:
                self.step()
            except Exception:
                LOG.exception("A decision failed, and the level stays as it is. This is a defect: please report it.")
            self._wake.wait(max(0.0, self.policy.period_s - (time.monotonic() - began)))
        self._tell()

    def _asked(self, source: Source) -> Source:
        return Background(source, clock=self._clock) if source.may_block else source

    def _start(self, source: Source) -> None:
        try:
            source.start(self.policy.period_s)
        except Exception:
            LOG.exception("A signal (%s) could not be started; it counts as missing.", ", ".join(source.names))

    def _read(self, now: float) -> dict[str, Reading]:
        """Of each name the first reading that is ok, else the first one."""
        merged: dict[str, Reading] = {}
        for source in self._sources:
            try:
                found = source.readings(now)
            except Exception:  # ours never raise; a user's own source may
                LOG.exception("A signal (%s) raised, and counts as missing.", ", ".join(source.names))
                continue
            for name, reading in found.items():
                if name not in merged or (reading.ok and not merged[name].ok):
                    merged[name] = reading
        return merged

    def _decide(self, now: float, readings: Mapping[str, Reading], state: State) -> Decision:
        """With the lock held: decide and set the level. Whoever calls wakes or is the thread, which tells of it."""
        before = self._state.level
        decision = decide(self.policy, state, readings, now)
        self._state, self._decision = decision.state, decision
        if decision.level != before:
            self._set_level(decision.level)
            self._latency.level_changed(now)
        self._pending.append((now, readings, before, decision))
        return decision

    def _tell(self) -> None:
        """In the thread, without the lock: write the trace, tell of changes in their order."""
        while self._pending:
            now, readings, before, decision = self._pending.popleft()
            if self._trace is not None:
                self._trace.add(now, readings, decision)
            if decision.level == before:
                continue
            LOG.info("Level %d -> %d: %s", before, decision.level, decision.reason)
            try:
                self._changed(before, decision.level, decision.reason)
            except Exception:
                LOG.exception("when_level_changed raised; steering goes on.")

    def _warn(self, now: float, readings: Mapping[str, Reading]) -> None:
        """Of signals that the policy needs: once when one stays missing, once when it is back."""
        for name in self.policy.signals:
            reading = readings.get(name)
            if reading is not None and reading.ok:
                self._missing.pop(name, None)
                if name in self._told:
                    self._told.remove(name)
                    LOG.info("The signal %s is back.", name)
            elif now - self._missing.setdefault(name, now) >= TELL_AFTER_S and name not in self._told:
                self._told.add(name)
                why = "nothing gives it" if reading is None else reading.reason
                LOG.warning("The signal %s is missing: %s.", name, why)
