"""What a frame costs at each level: milliseconds, and how often it answers as the exact network does."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from haste_runtime.calibration.record import Calibration, Cost, Key
from haste_runtime.errors import HasteError

HINT = "Give what `haste-run calibrate` keeps beside the bundle, or what `haste-run bench --json` wrote."


class TimesError(HasteError, ValueError):
    """A file does not tell what a frame costs at each level."""

    exit_code = 3


@dataclass(frozen=True)
class Ladder:
    """For each level from 0 on. ms: of one frame at full clock. agreement: percent of frames with the same largest
    output as at level 0, None if unknown. threads: of one inference. about: where the times come from, in words."""

    ms: tuple[float, ...]
    agreement: tuple[float | None, ...]
    threads: int
    about: str

    @property
    def calibration(self) -> Calibration:
        """What a device knows of it once it is calibrated: costs for the governor, and levels for deadlines."""
        costs = tuple(Cost(level, 1, ms, ms, None, 0) for level, ms in enumerate(self.ms))
        return Calibration(Key("", "", "", "", ""), costs, "")

    def slower(self, factor: float) -> Ladder:
        """The same on a computer that takes ``factor`` times as long."""
        return replace(self, ms=tuple(factor * ms for ms in self.ms))

    def expected_agreement(self, served: Sequence[int]) -> float | None:
        """Over frames, ``served[level]`` at each level; None where nobody measured it, or none was served."""
        pairs = [(count, self.agreement[level]) for level, count in enumerate(served) if count]
        known = [count * agreement for count, agreement in pairs if agreement is not None]
        return sum(known) / sum(served) if pairs and len(known) == len(pairs) else None


def read_json(path: str | Path) -> Mapping[str, Any]:
    """A JSON object. Raises TimesError."""
    try:
        content = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise TimesError(f"{path} cannot be read as JSON: {error}.", HINT) from None
    if not isinstance(content, dict):
        raise TimesError(f"{path} is not a JSON object.", HINT)
    return content


def ladder_of(content: Mapping[str, Any], where: str) -> Ladder:
    """From what ``haste-run bench --json`` prints, with every level of the bundle in it. Raises TimesError."""
    try:
        rows = sorted(content["levels"], key=lambda row: int(row["level"]))
        if not rows or [int(row["level"]) for row in rows] != list(range(len(rows))):
            raise TimesError(f"{where} does not have all levels from 0 on.", "Measure them all: --levels all.")
        ms = tuple(float(row["inference_ms"]["median"]) for row in rows)
        agreement = tuple(None if row.get("agreement") is None else float(row["agreement"]) for row in rows)
        about = f"{content['cpu']['model']}, {content['backend']} backend, threads: {int(content['threads'])}"
        if not all(0 < value < 1e9 for value in ms):
            raise ValueError("times are positive")
        return Ladder(ms, agreement, int(content["threads"]), about)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, TimesError):
            raise
        raise TimesError(
            f"{where} does not tell what a frame costs at each level ({type(error).__name__}: {error}).", HINT
        ) from None


def ladder_calibrated(calibration: Calibration, threads: int, agreement: Sequence[float | None]) -> Ladder:
    """From a calibration, on the nearest number of threads that was measured. agreement: of each level of the bundle,
    empty without a bundle. Raises TimesError if the levels are not those of the bundle."""
    costs = calibration.at_threads(threads)
    if agreement and len(agreement) != len(costs):
        raise TimesError(
            f"The calibration has {len(costs)} levels, and the bundle {len(agreement)}.",
            "Give those that belong together.",
        )
    key = calibration.key
    about = f"{key.cpu}, {key.backend} backend, threads: {costs[0].threads}, calibrated {calibration.at}"
    known = tuple(agreement) or (100.0, *[None] * (len(costs) - 1))
    return Ladder(tuple(cost.ms for cost in costs), known, costs[0].threads, about)


def with_agreement(ladder: Ladder, content: Mapping[str, Any], where: str) -> Ladder:
    """The same with agreements measured on pictures, from what ``haste-edge evaluate --json`` prints. Raises
    TimesError."""
    try:
        measured = {int(row["level"]): float(row["agreement"]) for row in content["levels"]}
        return replace(ladder, agreement=tuple(measured[level] for level in range(len(ladder.ms))))
    except (KeyError, TypeError, ValueError) as error:
        raise TimesError(
            f"{where} does not have the agreement of every level ({type(error).__name__}: {error}).",
            "Give what `haste-edge evaluate --json` wrote for the same bundle.",
        ) from None
