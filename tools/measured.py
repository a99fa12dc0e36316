"""What tools/measure_method.py measured, read again: curves of accuracy against savings, and what is read off them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

from haste_runtime.plan import POLICIES

PAPER_SAVING, PAPER_DROP = 46.2, 1.25  # ResNet-34 on CIFAR-10, in the paper


@dataclass(frozen=True)
class Series:
    """Runs that differ in nothing but the seed. levels[s][i]: row of level i with seed s; level 0 is the dense one."""

    name: str
    key: Mapping[str, Any]
    levels: Sequence[Sequence[Mapping[str, Any]]]

    @property
    def frames(self) -> int:
        return int(self.key["limit"])

    def drops(self, i: int) -> list[float]:
        """Points of top-1 lost at level i, one for each seed."""
        return [rows[i]["top1"] - rows[0]["top1"] for rows in self.levels if i < len(rows)]

    def mean(self, i: int, column: str) -> float:
        return mean(rows[i][column] for rows in self.levels if i < len(rows))

    @property
    def count(self) -> int:
        """Levels above 0 that every seed has."""
        return min(map(len, self.levels)) - 1

    def curve(self) -> list[tuple[float, float]]:
        """(saved, change of top-1) of every level, means over seeds, by what is saved; it begins at (0, 0)."""
        points = [(self.mean(i, "saved"), mean(self.drops(i))) for i in range(1, self.count + 1)]
        return [(0.0, 0.0), *sorted(p for p in points if p[0] > 0)]

    def saved_at(self, lost: float) -> float:
        """The most that is saved, between levels on a straight line, before more than ``lost`` points are."""
        (saved, change), *rest = self.curve()
        for next_saved, next_change in rest:
            if next_change < -lost:
                if next_change == change:
                    return saved
                return saved + (next_saved - saved) * max(0.0, (change + lost) / (change - next_change))
            saved, change = next_saved, next_change
        return saved

    def change_at(self, saved: float) -> float | None:
        """Change of top-1 where this much is saved; None where no level saves as much."""
        points = self.curve()
        for (x0, y0), (x1, y1) in pairwise(points):
            if x0 <= saved <= x1:
                return y0 + (y1 - y0) * (saved - x0) / (x1 - x0 or 1)
        return None


def read(file: Path) -> dict[tuple[Any, ...], Series]:
    """The series of a network, by (kind, policy, patch, bits, corruption, severity)."""
    rows: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for line in file.read_text().splitlines():
        found = json.loads(line)
        run = found["run"]
        key = tuple(run[k] for k in ("kind", "policy", "patch", "bits", "corruption", "severity"))
        rows[key].append(found)
    return {
        key: Series(name(lines[0]["run"]), lines[0]["run"], [line["levels"] for line in lines])
        for key, lines in rows.items()
    }


def name(run: Mapping[str, Any]) -> str:
    """Of a series, for tables and legends."""
    if run["kind"] == "ladder":
        ladder = "automatic ladder" if run["policy"] == "affine" else f"automatic, {run['policy']}"
        return f"{ladder}, patch {run['patch']}" if run["patch"] else ladder
    if run["kind"] == "hand":
        return name({**run, "kind": "uniform"})
    policy = {"mean": "paper (mean)", "affine": "one budget"}.get(run["policy"], run["policy"])
    bits = f", {run['bits']} bits" if run["policy"] == "budget" and run["bits"] != 8 else ""
    return f"{policy}, patch {run['patch']}{bits}"


def automatic_of(found: Mapping[tuple[Any, ...], Series]) -> Series | None:
    """The compiler's ladder, by the best policy that was measured."""
    ladders = (found.get(("ladder", policy, 0, 8, "", 0)) for policy in ("affine", "budget"))
    return next((series for series in ladders if series), None)


def grid(found: Mapping[tuple[Any, ...], Series]) -> list[Series]:
    """Settings that are the same for all layers, on clean pictures; first what saves most at `PAPER_DROP`."""
    same = [s for s in found.values() if s.key["kind"] == "uniform" and not s.key["corruption"]]
    return sorted(same, key=lambda s: -s.saved_at(PAPER_DROP))


def hand_made(found: Mapping[tuple[Any, ...], Series]) -> Series | None:
    """The best setting that is the same for all layers: of those measured on as many pictures as the ladder, if any;
    else of all, where there are all policies to choose from."""
    again = [s for s in found.values() if s.key["kind"] == "hand"]
    same = grid(found)
    whole = {s.key["policy"] for s in same} == set(POLICIES)
    return max(again or (same if whole else []), key=lambda s: s.saved_at(PAPER_DROP), default=None)
