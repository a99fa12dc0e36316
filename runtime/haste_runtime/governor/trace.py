"""Traces: every decision with the readings it was made from, in JSON lines, so that it can be made again.

The first line is a head: policy, level, costs of the levels. Each other line is a decision. A trace that can't be
written any more, since the disk is full or was taken away, ends with one warning; steering goes on.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TextIO

from haste_runtime.errors import HasteError, PolicyError
from haste_runtime.governor.decide import Decision, State, decide
from haste_runtime.governor.policy import Policy, read_policy
from haste_runtime.signals.reading import Reading

LOG = logging.getLogger("haste_runtime")
VERSION = 1


class TraceError(HasteError, ValueError):
    """A file is not a trace that can be decided again."""

    exit_code = 3


class TraceWriter:
    """Appends decisions to a file that it makes anew. Raises TraceError if that cannot be done."""

    def __init__(self, path: str | os.PathLike[str], policy: Policy, state: State) -> None:
        self._path = Path(path)
        try:
            self._file: TextIO | None = self._path.open("w", encoding="utf-8")
        except OSError as error:
            raise TraceError(f"The trace {self._path} cannot be written: {error}.", "Choose another path.") from None
        head = {"haste_trace": VERSION, "policy": policy.to_dict(), "level": state.level, "costs": state.costs}
        self._write(head)

    def add(self, now: float, readings: Mapping[str, Reading], decision: Decision) -> None:
        self._write(
            {
                "at": now,
                "level": decision.level,
                "wanted": decision.wanted,
                "reason": decision.reason,
                "override": decision.state.override,
                "readings": {name: asdict(reading) for name, reading in readings.items()},
            }
        )

    def _write(self, line: Mapping[str, Any]) -> None:
        if self._file is None:
            return
        try:
            self._file.write(json.dumps(line, allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:
            LOG.warning("The trace %s ends here, it cannot be written any more: %s", self._path, error)
            self.close()

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except OSError as error:
                LOG.warning("The end of the trace %s was not written: %s", self._path, error)


@dataclass(frozen=True)
class Replayed:
    """One decision of a trace, as it was and as it is made again. at: seconds since the first one."""

    at: float
    level: int
    reason: str
    level_again: int
    reason_again: str


def replay(path: str | os.PathLike[str], policy: Policy | None = None) -> Iterator[Replayed]:
    """The decisions of a trace made again, with its own policy or another. Raises TraceError.

    The readings are those of the trace: had another policy been in force, latency and heat would have come out
    differently too, which a trace cannot know.
    """
    lines = _lines(Path(path))
    where, head = next(lines, (1, {}))
    try:
        if head["haste_trace"] != VERSION:
            raise TraceError(
                f"{path} is a trace of version {head['haste_trace']!r}; this release reads {VERSION}.",
                "Use the release that wrote it.",
            )
        policy = read_policy(head["policy"]) if policy is None else policy
        state, first = State.start(policy, int(head["level"]), [float(cost) for cost in head["costs"]]), None
        if not 0 <= state.level <= state.top or min(state.costs) <= 0:
            raise ValueError("levels and costs do not fit")
        for number, line in lines:
            where = number
            now = float(line["at"])
            readings = {name: Reading(**reading) for name, reading in line["readings"].items()}
            decision = decide(policy, replace(state, override=line["override"]), readings, now)
            state = decision.state
            first = now if first is None else first
            yield Replayed(now - first, int(line["level"]), str(line["reason"]), decision.level, decision.reason)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, (TraceError, PolicyError)):
            raise
        raise TraceError(
            f"{path}, line {where}, is not a line of a trace ({type(error).__name__}: {error}).",
            "A trace is what session.follow(..., trace=path) writes.",
        ) from None


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The lines with their numbers; a last one that was not written completely is left out."""
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith("\n"):
                    return
                yield number, json.loads(line)
    except OSError as error:
        raise TraceError(f"The trace {path} cannot be read: {error}.", "Check the path.") from None
    except ValueError as error:
        raise TraceError(f"{path} is not JSON lines: {error}.", "Give a file that trace=path wrote.") from None
