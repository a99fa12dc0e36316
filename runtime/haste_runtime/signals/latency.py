"""What the session itself can tell: how long frames take, how old the last one is, how busy it is."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from haste_runtime.errors import SignalError
from haste_runtime.signals.reading import Reading, judge, missing
from haste_runtime.signals.signal import Source

FRAMES = 512  # the most that are remembered


class Frame(NamedTuple):
    """ended: seconds of the governor's clock. seconds: wall time of the network alone."""

    ended: float
    level: int
    seconds: float


class Latency(Source):
    """Gives ``latency`` (p90 in ms), ``latency_p50``, ``frame_age`` (s since the last frame) and ``duty`` (share of
    time spent in frames, 0 to 1), all over the frames since the last change of level, at most the last ``window_s``.

    target_ms: what p90 is to keep under; the same as ``latency_ms`` among a policy's targets. Below ``min_frames``
    frames in the window, latency and duty are not ok: a p90 of few frames would be their worst one.
    """

    def __init__(self, target_ms: float | None = None, *, window_s: float = 1.0, min_frames: int = 10) -> None:
        if target_ms is not None and not 0 < target_ms < math.inf:
            raise SignalError(f"A latency target of {target_ms!r} ms makes no sense.", "Give milliseconds, above 0.")
        if not window_s > 0 or min_frames < 1:
            raise SignalError("A window needs more than 0 seconds and at least one frame.", "Leave the defaults.")
        self.target_ms, self._window_s, self._min_frames = target_ms, window_s, min_frames
        self._frames: deque[Frame] = deque(maxlen=FRAMES)
        self._since: float | None = None
        self._last_ended: float | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return ("latency", "latency_p50", "frame_age", "duty")

    def add(self, frame: Frame) -> None:
        """A frame has ended. Called by the session in the thread that ran it: it only appends."""
        self._last_ended = frame.ended
        self._frames.append(frame)

    def level_changed(self, now: float) -> None:
        """What was measured before says nothing of the new level."""
        self._frames.clear()
        self._since = now

    def readings(self, now: float) -> dict[str, Reading]:
        if self._since is None:
            self._since = now
        since = max(self._since, now - self._window_s)
        frames = self._frames.copy()
        same = [f for f in frames if f.level == frames[-1].level]  # a frame that began before a change has the old one
        recent = [f for f in same if f.ended >= since]
        if len(recent) < self._min_frames:  # a slow network: then so many, however old
            recent = same[-self._min_frames :]
        age = missing("no frame yet", "s", now) if self._last_ended is None else judge(now - self._last_ended, "s", now)
        if len(recent) < self._min_frames:
            few = missing(f"{len(recent)} of {self._min_frames} frames since the level changed", "ms", now)
            return {"latency": few, "latency_p50": few, "frame_age": age, "duty": few}
        times = sorted(1000 * f.seconds for f in recent)
        begun = min(since, recent[0].ended - recent[0].seconds)
        duty = sum(f.seconds for f in recent) / max(now - begun, 1e-9)
        return {
            "latency": judge(percentile(times, 90), "ms", now),
            "latency_p50": judge(percentile(times, 50), "ms", now),
            "frame_age": age,
            "duty": judge(min(duty, 1.0), "", now),
        }


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Nearest rank: of ten values the 90th percentile is the ninth, so that a single bad one is left out."""
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]
