"""What can be told about a running service: its state now, and how it came to it, second by second."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from haste_runtime import __version__
from haste_runtime.session import Session
from haste_runtime.signals.latency import percentile

HISTORY_S, HELLO_S = 3600, 120  # how much is kept, and how much of it a new listener gets
WINDOW_S = 10.0
CHANGES = 50
SAMPLED = ("battery", "temperature", "power")  # signals whose history is kept


def now_text() -> str:
    """The time of day, UTC, ISO 8601."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


class Status:
    """Counts what happens, for whoever asks. `frame`, `bad`, `change` and `source` are called by the service; `sample`
    once per second by one thread; everything may be read from any thread."""

    def __init__(self, session: Session, name: str, bundle: str, policy: str | None) -> None:
        self._session, self._name, self._bundle, self._policy = session, name, bundle, policy
        self._started = time.monotonic()
        self._since = now_text()
        self._frames, self._bad = 0, 0
        self._source, self._source_state = "", "starting"
        self._recent: deque[tuple[float, float]] = deque(maxlen=4096)  # when, ms
        self._changes: deque[dict[str, Any]] = deque(maxlen=CHANGES)
        self._history: deque[dict[str, Any]] = deque(maxlen=HISTORY_S)
        self._per_level = [0] * len(session.levels)
        self._lock = threading.Lock()  # over the deques
        self.state = "starting"
        self.lost_lines = 0

    @property
    def frames(self) -> int:
        """How many have been answered."""
        return self._frames

    @property
    def per_level(self) -> list[int]:
        """The same, by level."""
        return list(self._per_level)

    def frame(self, level: int, ms: float) -> None:
        with self._lock:
            self._frames += 1
            self._per_level[level] += 1
            self._recent.append((time.monotonic(), ms))

    def bad(self) -> None:
        """A frame could not be used."""
        self._bad += 1

    def source(self, name: str, state: str) -> None:
        """state: "open", or what is wrong."""
        self._source, self._source_state = name, state

    def change(self, entry: Mapping[str, Any]) -> None:
        """A change of level, as the journal has it."""
        with self._lock:
            self._changes.append(dict(entry))

    def now(self) -> dict[str, Any]:
        """Everything but the history, ready for JSON."""
        session, governor, moment = self._session, self._session.governor, time.monotonic()
        level, decision = session.level, None if governor is None else governor.decision
        with self._lock:
            recent = [ms for at, ms in self._recent if moment - at <= WINDOW_S]
            begun = min((at for at, _ in self._recent if moment - at <= WINDOW_S), default=moment)
            changes = list(self._changes)[-5:]
        times = sorted(recent)
        readings = {} if governor is None else governor.readings
        return {
            "event": "status",
            "at": now_text(),
            "name": self._name,
            "version": __version__,
            "bundle": self._bundle,
            "policy": self._policy,
            "state": self.state,
            "since": self._since,
            "uptime_s": round(moment - self._started, 1),
            "backend": session.backend,
            "threads": session.threads,
            "level": level,
            "levels": len(session.levels),
            "agreement": session.levels[level].agreement,
            "flops_reduction": session.levels[level].flops_reduction_network,
            "reason": "no policy is followed" if decision is None else decision.reason,
            "override": None if decision is None else decision.state.override,
            "frames": self._frames,
            "bad_frames": self._bad,
            "per_level": self.per_level,
            "fps": round(max(0, len(recent) - 1) / max(moment - begun, 1e-3), 2) if len(recent) > 1 else 0.0,
            "latency_ms": {
                "p50": round(percentile(times, 50), 3) if times else None,
                "p90": round(percentile(times, 90), 3) if times else None,
            },
            "source": {"name": self._source, "state": self._source_state},
            "readings": {
                name: {"value": r.value, "unit": r.unit, "ok": r.ok, "reason": r.reason} for name, r in readings.items()
            },
            "memory_mb": resident_mb(),
            "lost_lines": self.lost_lines,
            "changes": changes,
        }

    def hello(self) -> dict[str, Any]:
        """For a new listener: the state, with the last two minutes."""
        return self.now() | {"history": self.history(HELLO_S)}

    def sample(self) -> dict[str, Any]:
        """Add the state to the history, and return it."""
        state = self.now()
        readings: Mapping[str, Any] = state["readings"]
        entry = {
            "t": state["uptime_s"],
            "level": state["level"],
            "p50": state["latency_ms"]["p50"],
            "p90": state["latency_ms"]["p90"],
            "fps": state["fps"],
        }
        for name in SAMPLED:
            reading = readings.get(name)
            entry[name] = reading["value"] if reading is not None and reading["ok"] else None
        with self._lock:
            self._history.append(entry)
        return state

    def history(self, seconds: int = HISTORY_S, points: int = HISTORY_S) -> list[dict[str, Any]]:
        """The last samples, oldest first; every second one, every third one and so on where they are more than
        ``points``. The newest is always among them."""
        with self._lock:
            samples = list(self._history)[-seconds:]
        every = max(1, -(-len(samples) // max(1, points)))
        return samples[(len(samples) - 1) % every :: every]


def resident_mb() -> float | None:
    """Memory of this process, in MB (10**6 bytes); None where the system does not say."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return round(int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)
    except (OSError, ValueError, IndexError):
        return None
