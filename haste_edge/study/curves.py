"""From the lines of a study to curves: one for each policy and its fixed settings, through the strengths that were run.

A point is the mean over seeds. What varies along a curve is its knob: the budget, the bits, or the level.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from haste_edge.study.configuration import LADDER, Configuration
from haste_runtime.plan import BUDGETED

UNITS = {"patch": "m = {}", "bits": "L = {}", "sparsity": "s = {:.3g}", "hash": "{} hash", "bundle": "{}"}


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation over seeds, 0 for one seed."""

    mean: float
    deviation: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0)


@dataclass(frozen=True)
class Point:
    """knob: bits, budget or level. seeds: how many runs. drop: points of top-1, without labels of agreement, lost.

    saved, half_adds, kept: percent of the network's FLOPs, as in `haste_edge.study.run.Result`.
    """

    knob: float
    seeds: int
    drop: Spread
    saved: Spread
    half_adds: Spread
    kept: Spread


@dataclass(frozen=True)
class Curve:
    """name: the policy, and those fixed settings in which it differs from other curves of the study."""

    policy: str
    name: str
    points: tuple[Point, ...]


def knob(configuration: Configuration) -> str:
    """The setting that varies along the configuration's curve; empty for "dead", which has a single point."""
    special = dict.fromkeys(BUDGETED, "budget") | {LADDER: "level", "dead": ""}
    return special.get(configuration.policy, "bits")


def drop(line: dict[str, Any]) -> float:
    """Points of top-1 lost; where there were no labels, of agreement with the dense network."""
    return float(line["drop"]) if line["drop"] is not None else 100.0 - float(line["agreement"])


def curves(lines: Iterable[dict[str, Any]]) -> tuple[Curve, ...]:
    """In order of first appearance; points from weak to strong, that is by what they save."""
    runs: dict[Configuration, dict[float, list[dict[str, Any]]]] = {}
    for line in lines:
        configuration = Configuration.from_json(line["configuration"])
        varied = knob(configuration)
        value = float(getattr(configuration, varied)) if varied else 0.0
        fixed = _without(configuration, varied)
        runs.setdefault(fixed, {}).setdefault(value, []).append(line)
    return tuple(
        Curve(fixed.policy, _name(fixed, list(runs)), tuple(sorted(_points(by_knob), key=lambda p: p.saved.mean)))
        for fixed, by_knob in runs.items()
    )


def _without(configuration: Configuration, varied: str) -> Configuration:
    """What all points of the curve have in common, as a configuration with a knob at 1 and seed 0."""
    fixed = replace(configuration, seed=0)
    if varied == "budget":
        return replace(fixed, budget=1.0)
    if varied == "level":
        return replace(fixed, level=1)
    return replace(fixed, bits=1) if varied else fixed


def _points(by_knob: dict[float, list[dict[str, Any]]]) -> list[Point]:
    def spread(lines: list[dict[str, Any]], column: str) -> Spread:
        return Spread.of([float(line[column]) for line in lines])

    return [
        Point(
            knob=value,
            seeds=len(lines),
            drop=Spread.of([drop(line) for line in lines]),
            saved=spread(lines, "flops_reduction_network"),
            half_adds=spread(lines, "flops_reduction_half_adds"),
            kept=spread(lines, "flops_reduction_kept"),
        )
        for value, lines in by_knob.items()
    ]


def _name(own: Configuration, all_curves: Sequence[Configuration]) -> str:
    """The policy, and the settings that differ among the study's curves of this policy."""
    others = [c for c in all_curves if c.policy == own.policy]
    differing = [
        UNITS[f.name].format(getattr(own, f.name))
        for f in fields(own)
        if f.name in UNITS and len({getattr(c, f.name) for c in others}) > 1
    ]
    return ", ".join([own.policy, *differing])
