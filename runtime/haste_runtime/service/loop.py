"""The service itself: take a frame, run it, tell the answer; for ever, or until it is told to stop.

Nothing outside can end it but the end of its frames, or SIGTERM: a broken source is opened again, a frame that cannot
be used is counted, a listener that hangs is left alone, and what cannot be written is not written.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from haste_runtime.answers import best_classes
from haste_runtime.errors import InputError
from haste_runtime.service.journal import Journal
from haste_runtime.service.listeners import Listeners
from haste_runtime.service.notify import Notifier
from haste_runtime.service.sources.frame import BadFrame, Frame, FrameSource, SourceEnded
from haste_runtime.service.status import Status, now_text
from haste_runtime.session import Session
from haste_runtime.signals.signal import describe

LOG = logging.getLogger("haste_runtime")
WAIT_S = 0.2  # the longest that anything waits, and so until a stop is seen
FIRST_RETRY_S, LONGEST_RETRY_S = 0.5, 10.0
BAD_EVENTS_S = 10.0  # of frames that cannot be used, an event at most so often


class Service:
    """Runs ``session`` on the frames of ``source`` until it ends or `stop` is called.

    journal: for events, such as changes of the level. results: for every answer. on_result: called with each, for
    tests and programs of one's own. values: answers hold all numbers of the outputs, not the best classes alone. fps:
    begin at most so many frames a second.
    """

    def __init__(
        self,
        session: Session,
        source: FrameSource,
        status: Status,
        *,
        listeners: Listeners | None = None,
        journal: Journal | None = None,
        results: Journal | None = None,
        notifier: Notifier | None = None,
        on_result: Callable[[Mapping[str, Any]], object] | None = None,
        values: bool = False,
        fps: float | None = None,
    ) -> None:
        self._session, self._source, self._status = session, source, status
        self._listeners, self._journal, self._results = listeners, journal, results
        self._notifier = notifier or Notifier({})
        self._on_result, self._values = on_result, values
        self._period = 0.0 if not fps else 1 / fps
        self._input = session.bundle.graph.inputs[0]
        self._stop = threading.Event()
        self._stop_reason = ""
        self._open, self._was_lost, self._bad_told = False, False, -1e9
        self._shown = ""

    # --- from outside ------------------------------------------------------------------------------------------------

    def stop(self, reason: str) -> None:
        """After the frame that runs. From any thread, and from signal handlers."""
        self._stop_reason = self._stop_reason or reason
        self._stop.set()

    def event(self, kind: str, **about: Any) -> None:
        """Write it to the journal and tell it to the listeners. From any thread."""
        entry = {"event": kind, "at": now_text(), "frame": self._status.frames, **about}
        if self._journal is not None:
            self._journal.write(entry)
        if self._listeners is not None:
            self._listeners.tell(entry)
        if kind == "level":
            self._status.change(entry)

    def level_changed(self, old: int, new: int, reason: str) -> None:
        """For `Session.when_level_changed`."""
        self.event("level", old=old, new=new, reason=reason)

    def summary(self) -> dict[str, Any]:
        """What there is to say at the end."""
        state = self._status.now()
        kept = ("name", "bundle", "frames", "bad_frames", "per_level", "uptime_s", "lost_lines")
        return {key: state[key] for key in kept} | {"reason": self._stop_reason}

    # --- the loop ----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Until the end; then everything is told and closed that was opened here."""
        self.event("started", level=self._session.level, source=self._source.name)
        self._status.state = "running"
        self._notifier.ready(f"running at level {self._session.level}")
        due, retry_at, wait = time.monotonic(), time.monotonic(), FIRST_RETRY_S
        try:
            while not self._stop.is_set():
                self._alive()
                now = time.monotonic()
                later = retry_at if not self._open else due
                if later > now:
                    self._stop.wait(min(WAIT_S, later - now))
                    continue
                try:
                    if not self._open:
                        self._connect()
                    frame = self._source.next(WAIT_S)
                    wait = FIRST_RETRY_S
                except SourceEnded as error:
                    self.stop(error.message)
                except BadFrame as error:
                    self._unusable(error)
                except Exception as error:
                    self._lost(error)
                    retry_at, wait = time.monotonic() + wait, min(2 * wait, LONGEST_RETRY_S)
                else:
                    if frame is not None:
                        due = max(due + self._period, time.monotonic()) if self._period else now
                        self._frame(frame)
        finally:
            self._end()

    def _connect(self) -> None:
        self._source.open()
        if self._was_lost:
            self.event("source_back", source=self._source.name)
        self._open, self._was_lost = True, False
        self._status.source(self._source.name, "open")

    def _lost(self, error: Exception) -> None:
        why = describe(error)
        self._source.close()
        if not self._was_lost:  # one event, not one for each attempt
            LOG.warning("%s is lost: %s. Trying again.", self._source.name, why)
            self.event("source_lost", source=self._source.name, reason=why)
        self._open, self._was_lost = False, True
        self._status.source(self._source.name, why)

    def _frame(self, frame: Frame) -> None:
        try:
            x = frame.to_input(self._input.shape, self._session.bundle.preprocessing)
            outputs = {name: array[0] for name, array in self._session.run({self._input.name: x}).items()}
        except InputError as error:
            self._unusable(error)
            return
        stats, governor = self._session.stats, self._session.governor
        self._status.frame(stats.level, stats.ms)
        entry: dict[str, Any] = {
            "event": "frame",
            "frame": self._status.frames,
            "at": now_text(),
            "source": frame.name,
            "level": stats.level,
            "ms": round(stats.ms, 4),
            "top": best_classes(outputs, self._session.bundle.classes),
            "reason": "no policy is followed" if governor is None else governor.decision.reason,
        }
        if self._values:
            entry["outputs"] = {name: array.tolist() for name, array in outputs.items()}
        if self._results is not None:
            self._results.write(entry)
        if self._listeners is not None:
            self._listeners.tell(entry)
        if self._on_result is not None:
            self._on_result(entry)

    def _unusable(self, error: InputError) -> None:
        self._status.bad()
        if time.monotonic() - self._bad_told >= BAD_EVENTS_S:
            self._bad_told = time.monotonic()
            LOG.warning("A frame of %s was left out: %s", self._source.name, error.message)
            self.event("bad_frame", source=self._source.name, reason=error.message)

    def _alive(self) -> None:
        self._notifier.alive()
        files = [journal for journal in (self._journal, self._results) if journal is not None]
        self._status.lost_lines = sum(journal.lost for journal in files)
        shown = f"level {self._session.level}; {self._status.frames} frames" if self._open else "waiting for frames"
        if shown.partition(";")[0] != self._shown.partition(";")[0]:
            self._notifier.status(shown)
            self._shown = shown

    def _end(self) -> None:
        self._status.state = "stopping"
        self._notifier.stopping()
        self._source.close()
        self._session.unfollow()
        levels: Sequence[int] = self._status.per_level
        self.event("stopped", reason=self._stop_reason or "an error", frames=self._status.frames, per_level=levels)
