"""Sources that may block are read by a thread of their own; whoever asks gets the newest readings at once.

A callback that hangs, a bus that does not answer, a program that must be started: none of them holds up the others, the
governor or a frame. What has not answered for long is not ok, and says so.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from haste_runtime.signals.reading import Reading, aged, missing
from haste_runtime.signals.signal import Source

LOG = logging.getLogger("haste_runtime")
STALE_PERIODS, STALE_AT_LEAST_S = 5, 3.0
JOIN_S = 2.0  # how long closing waits for a source that hangs; its thread is a daemon and ends with the process


class Background(Source):
    """The readings of ``source``, sampled every period by the thread "haste-signal-NAME".

    stale_after_s: when an answer is too old; by default five periods, at least 3 s. clock: the one of the governor.
    """

    def __init__(
        self, source: Source, stale_after_s: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._source, self._stale_after_s, self._clock = source, stale_after_s, clock
        self._newest: dict[str, Reading] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return self._source.names

    def start(self, period_s: float) -> None:
        if self._stale_after_s is None:
            self._stale_after_s = max(STALE_AT_LEAST_S, STALE_PERIODS * period_s)
        self._source.start(period_s)
        name = f"haste-signal-{self.names[0] if self.names else type(self._source).__name__.lower()}"
        self._thread = threading.Thread(target=self._sample, args=(period_s,), name=name, daemon=True)
        self._thread.start()

    def _sample(self, period_s: float) -> None:
        while not self._stop.is_set():
            readings = self._source.readings(self._clock())
            now = self._clock()  # a slow answer is as old as its end
            self._newest = {name: Reading(r.value, r.unit, now, r.ok, r.reason) for name, r in readings.items()}
            self._stop.wait(period_s)

    def readings(self, now: float) -> dict[str, Reading]:
        newest = self._newest
        waiting = {name: missing("it has not answered yet", "", now) for name in self.names if name not in newest}
        return {name: aged(reading, now, self._stale_after_s) for name, reading in newest.items()} | waiting

    def close(self) -> None:
        self._stop.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(JOIN_S)
            if thread.is_alive():
                LOG.warning("The signal %s hangs; its thread is left to end with the process.", ", ".join(self.names))
        self._source.close()
