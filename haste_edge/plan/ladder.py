"""Which layer merges how strongly at which level: a Lagrangian over measured curves (design: the method, section 4).

Distortions of single layers are added up, which is crude but ranks layers well. For a multiplier every layer takes the
setting that minimises distortion - multiplier * saving; as the multiplier grows, the layers walk along the lower convex
hulls of their curves. That walk, in steps of single settings, is the *path*; levels are points on it, evenly spaced in
what they save together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from haste_edge.plan.measure import Curve, Merge

Saving = Callable[[Curve], Sequence[float]]  # what is saved at each setting
DENSE = -1  # in place of a setting's index


@dataclass(frozen=True)
class Point:
    """A point on the path. saving, distortion: sums over the layers, each measured alone."""

    merges: Mapping[str, Merge]
    saving: float
    distortion: float


@dataclass(frozen=True)
class _Option:
    saving: float
    distortion: float
    index: int


def hull(curve: Curve, saving: Saving) -> list[_Option]:
    """The settings a multiplier can choose: the lower convex hull of (saving, distortion), from dense on."""
    options = [_Option(s, d, i) for i, (s, d) in enumerate(zip(saving(curve), curve.distortion, strict=True))]
    corners = [_Option(0.0, 0.0, DENSE)]
    for option in sorted(options, key=lambda o: (o.saving, o.distortion)):
        if option.saving <= corners[-1].saving:
            continue  # saves no more than what is there, and distorts no less
        while len(corners) > 1 and _slope(corners[-2], corners[-1]) >= _slope(corners[-1], option):
            corners.pop()
        corners.append(option)
    return corners


def _slope(a: _Option, b: _Option) -> float:
    return (b.distortion - a.distortion) / (b.saving - a.saving)


def path(curves: Mapping[str, Curve], saving: Saving) -> list[Point]:
    """All points from the first merged layer to every layer at its strongest; saving grows from one to the next."""
    segments = []
    for name, curve in curves.items():
        corners = hull(curve, saving)
        segments += [(_slope(a, b), name, a, b) for a, b in pairwise(corners)]
    segments.sort(key=lambda segment: (segment[0], segment[1], segment[3].saving))
    points: list[Point] = []
    merges: dict[str, Merge] = {}
    saved = distorted = 0.0
    for _, name, start, end in segments:
        for option in _between(curves[name], saving, start, end):
            merges[name] = Merge(curves[name], option.index)
            points.append(
                Point(
                    dict(merges), saved + option.saving - start.saving, distorted + option.distortion - start.distortion
                )
            )
        saved += end.saving - start.saving
        distorted += end.distortion - start.distortion
    return points


def _between(curve: Curve, saving: Saving, start: _Option, end: _Option) -> list[_Option]:
    """From one corner of the hull to the next, setting by setting where that saves more and more; ``end`` is last."""
    steps = []
    most = start.saving
    saved = saving(curve)
    for index in range(start.index + 1, end.index):
        if most < saved[index] < end.saving:
            most = saved[index]
            steps.append(_Option(most, curve.distortion[index], index))
    return [*steps, end]


def choose_patch(
    curves: Sequence[Curve], saving: Saving, multipliers: Sequence[float], allowance: float = 0.0
) -> Curve:
    """The patch size with the best Lagrangian over the multipliers of the levels; of equal ones the largest, by the
    algorithm that is best there.

    allowance: the share of the best that a larger patch may miss and still be taken.
    """
    gains = [sum(_advantage(curve, saving, multiplier) for multiplier in multipliers) for curve in curves]
    enough = (1 - allowance) * max(gains)
    found = [(c.patch, gain, c) for c, gain in zip(curves, gains, strict=True) if gain >= enough]
    return max(found, key=lambda one: one[:2])[2]


def _advantage(curve: Curve, saving: Saving, multiplier: float) -> float:
    return max(0.0, *(multiplier * s - d for s, d in zip(saving(curve), curve.distortion, strict=True)))


def multipliers(points: Sequence[Point], levels: int) -> list[float]:
    """The slopes of the path around ``levels`` evenly spaced points: what one more unit saved costs there."""
    if not points:
        return []
    found = []
    for target in targets(points[-1].saving, levels):
        index = nearest(points, target)
        before = points[index - 1] if index else Point({}, 0.0, 0.0)
        step = points[index].saving - before.saving
        found.append((points[index].distortion - before.distortion) / step)
    return found


def targets(most: float, levels: int) -> list[float]:
    """Savings of the levels above 0: evenly spaced, the last being ``most``."""
    return [most * (level + 1) / levels for level in range(levels)]


def pick(points: Sequence[Point], levels: int) -> list[int]:
    """Indices of at most ``levels`` different points, evenly spaced in saving, the last point among them."""
    if not points:
        return []
    indices = {nearest(points, target) for target in targets(points[-1].saving, levels)}
    for index in range(len(points) - 1, -1, -1):  # where steps are coarse, targets fall together: take others too
        if len(indices) >= min(levels, len(points)):
            break
        indices.add(index)
    return sorted(indices)


def inside(points: Sequence[Point], first: int, last: int, count: int) -> list[int]:
    """Indices of at most ``count`` points between those two, evenly spaced in saving; -1 is where the path begins."""
    if last - first < 2:
        return []
    start = points[first].saving if first >= 0 else 0.0
    step = (points[last].saving - start) / (count + 1)
    found = {nearest(points, start + step * (i + 1)) for i in range(count)}
    return sorted(index for index in found if first < index < last)


def nearest(points: Sequence[Point], target: float) -> int:
    """The index of the point that saves most nearly ``target``."""
    return min(range(len(points)), key=lambda index: abs(points[index].saving - target))
