"""The controller of what a frame costs, its latency or its share of time: up soon, down with care, never to and fro.

A pure function over a frozen state. It steps rather than trusting a formula, since nobody knows in advance what a level
saves under this load; what a calibration expects says how far to step. Why it does not swing:

- It moves on what lasts. A target counts as missed once it has been missed for RISE_S, which is two windows of
  `Latency` that share no frame; room for a lower level has to be there for FALL_S.
- Between the cost that lets the level fall to another (ROOM of the target) and the one that lets it rise from there
  (the target) lies a band that noise has to cross.
- It learns. A level that was left upwards is remembered with how much dearer it was than expected, and is tried again
  only if it would fit by that, or when backoff_s have passed. A fall that had to be taken back, though the load is the
  same, doubles backoff_s, as TCP does; and that level is not tried for the first quarter of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from haste_runtime.signals.reading import quantity

AIM, ROOM = 0.9, 0.85  # of a target: what a higher and a lower level are expected to cost has to stay under it
TRUST = 0.95  # power of what a higher level is expected to save: levels save less under load than alone
RISE_S, FALL_S = 1.0, 5.0
AGAIN_S, SAME_RISE_S = 0.3, 3.0  # a second step up, within SAME_RISE_S of the first, has to wait less
ARRIVE_S = 1.0  # how long the costs of a level are looked at, to compare it with the one that was left
BACKOFF_S, LONGEST_BACKOFF_S = 30.0, 480.0
SAME_LOAD = 1.15  # a level that costs so many times as much as before at most is under the same load
REST = 0.25  # of backoff_s: the level that was left is not tried for so long
CALM = 4.0  # times backoff_s: a level that was kept so long was no mistake, and backoff_s is BACKOFF_S again
TICK_S = 1e-6  # what rounding may take from a time


@dataclass(frozen=True)
class CostControl:
    """State of one target.

    demand: the level asked for, since moved_at. fell_from, fell_value: if that was a step down of the level, from
    where, and the value there. level: the one that the last value is of, since level_since. missed_since: the target is
    missed at it since then. room_since, worst: there has been room for a lower one since then, and the highest value in
    that time.

    left_level, left_value, left_at: the level last left upwards, what it cost, and when. beside: the level that was
    reached by that; dearer: how many times as much as expected the one that was left cost, compared with it;
    comparing: values at ``beside`` still count for that. tried_value: what ``beside`` cost before the level fell from
    there to the one that was left, 0 if it came there otherwise.
    """

    demand: int = 0
    moved_at: float | None = None
    fell_from: int = -1
    fell_value: float = 0.0
    level: int = -1
    level_since: float = 0.0
    missed_since: float | None = None
    room_since: float | None = None
    worst: float = 0.0
    left_level: int = -1
    left_value: float = 0.0
    left_at: float = 0.0
    beside: int = -1
    dearer: float = 1.0
    comparing: bool = False
    tried_value: float = 0.0
    backoff_s: float = BACKOFF_S


def steer_cost(
    control: CostControl, value: float, target: float, level: int, costs: Sequence[float], time: float
) -> CostControl:
    """One step for a measured ``value`` at ``level``. costs: relative cost of each level, as it is expected."""
    control = _observed(control, value, level, costs, time)
    if value > target:
        control = replace(control, room_since=None)
        if control.missed_since is None:
            control = replace(control, missed_since=time)
        return _risen(control, value, target, costs, time)
    control = replace(control, missed_since=None)
    if control.demand > level:  # a rise that is not needed any more before it came
        return replace(control, demand=level, moved_at=time, fell_from=-1)
    return _fallen(control, value, target, costs, time)


def _observed(control: CostControl, value: float, level: int, costs: Sequence[float], time: float) -> CostControl:
    """What the value tells of its level: that this is another one, and what the one that was left costs beside it."""
    if level != control.level:
        raised = (
            control.level < level > control.demand
        )  # by a rule, or another target: a miss goes on if it still is one
        missed_since = control.missed_since if raised else None
        control = replace(control, level=level, level_since=time, missed_since=missed_since, room_since=None)
    if not control.comparing or level <= control.left_level:
        return control
    beside = control.beside if control.beside >= 0 else level
    if level != beside:
        return replace(control, comparing=False)
    if time - control.level_since <= ARRIVE_S:
        expected = value * costs[control.left_level] / costs[level]
        return replace(control, beside=level, dearer=max(1.0, control.left_value / expected) if expected > 0 else 1.0)
    if control.tried_value and value <= SAME_LOAD * control.tried_value:  # not the load was at fault, but the level
        control = replace(control, backoff_s=min(2 * control.backoff_s, LONGEST_BACKOFF_S))
    return replace(control, comparing=False)


# --- up --------------------------------------------------------------------------------------------------------------


def _risen(control: CostControl, value: float, target: float, costs: Sequence[float], time: float) -> CostControl:
    """The target is missed. Once that lasts: back up, if the level came down to this one; else up to the first level
    that is expected to keep it, or to the cheapest. Levels that cost more than this one help nothing."""
    if patience(control, time) > 0:
        return control
    level, backoff, since = control.level, control.backoff_s, _since_moved(control, time)
    above = [n for n in range(level + 1, len(costs)) if costs[n] <= costs[level]]
    fitting = [n for n in above if value * (costs[n] / costs[level]) ** TRUST <= AIM * target]
    demand = fitting[0] if fitting else min(above, key=lambda n: (costs[n], n), default=level)
    if demand <= level or control.demand > level:  # nothing is left above, or the rise is on its way
        return control if demand == control.demand else replace(control, demand=demand, moved_at=time, fell_from=-1)
    beside, tried_value = -1, 0.0
    if since > CALM * backoff:
        backoff = BACKOFF_S
    elif control.fell_from > level and control.demand == level:
        demand = beside = control.fell_from
        tried_value = control.fell_value
    return replace(
        control, demand=demand, moved_at=time, fell_from=-1, left_level=level, left_value=value, left_at=time,
        beside=beside, dearer=1.0, comparing=True, tried_value=tried_value, backoff_s=backoff,
    )  # fmt: skip


def patience(control: CostControl, time: float) -> float:
    """Seconds that the target has to be missed for yet, before the level rises; 0 where it need not wait."""
    if control.missed_since is None:
        return RISE_S
    rising = control.fell_from < 0 and control.demand == control.level and _since_moved(control, time) < SAME_RISE_S
    left = control.missed_since + (AGAIN_S if rising else RISE_S) - time
    return left if left > TICK_S else 0.0


# --- down ------------------------------------------------------------------------------------------------------------


def _fallen(control: CostControl, value: float, target: float, costs: Sequence[float], time: float) -> CostControl:
    """The target is met: once there has been room long enough, down to the lowest level that is expected to keep it.
    One step alone where the last one down had to be taken back, and nothing but time speaks for the next."""
    below = [n for n in range(control.demand) if n == past_dominated(n + 1, n, costs)]
    room = ROOM * target
    if not below or expected_cost(control, value, below[-1], costs, time) > room:
        return replace(control, room_since=None)
    if control.room_since is None:
        return replace(control, room_since=time, worst=value)
    since, control = control.room_since, replace(control, worst=max(control.worst, value))
    if time - since < FALL_S - TICK_S:
        return control
    if control.backoff_s > BACKOFF_S and not _remembered(control, time):
        below = below[-1:]
    fitting = [n for n in below if expected_cost(control, control.worst, n, costs, time) <= room]
    if not fitting:
        return replace(control, room_since=None)
    own = control.demand == control.level  # else a rule, or another target, holds it up
    control = replace(control, fell_from=control.level if own else -1, fell_value=value)
    return replace(control, demand=fitting[0], moved_at=time, room_since=None)


def expected_cost(control: CostControl, value: float, lower: int, costs: Sequence[float], time: float) -> float:
    """What ``lower`` is expected to cost when ``value`` is measured at the control's level. Infinite for a level that
    was left just now."""
    level = control.level
    expected = value * costs[lower] / costs[level]
    if not _remembered(control, time):
        return expected
    if lower <= control.left_level and time - control.left_at < REST * control.backoff_s:
        return math.inf
    return expected * control.dearer ** (_share(control, lower, costs) - _share(control, level, costs))


def _share(control: CostControl, level: int, costs: Sequence[float]) -> float:
    """The part of `dearer` that counts for a level: all of it up to the one that was left, nothing from ``beside`` on,
    and in between as much as of the costs."""
    left, beside = control.left_level, control.beside
    if level <= left:
        return 1.0
    if level >= beside or costs[left] <= costs[beside]:
        return 0.0
    return min(max(math.log(costs[level] / costs[beside]) / math.log(costs[left] / costs[beside]), 0.0), 1.0)


def _remembered(control: CostControl, time: float) -> bool:
    """Whether a level was left upwards so recently that what it cost still counts."""
    return control.left_level >= 0 and time - control.left_at < control.backoff_s


def _since_moved(control: CostControl, time: float) -> float:
    return math.inf if control.moved_at is None else time - control.moved_at


def past_dominated(before: int, after: int, costs: Sequence[float]) -> int:
    """A step from one level to another, carried on over levels that do not pay: those for which a lower, more exact one
    costs no more. Upwards where none is left that pays, ``before``."""
    step = 1 if after > before else -1
    while after != before and 0 < after < len(costs) and min(costs[:after]) <= costs[after]:
        after += step
    return after if after < len(costs) else before


def describe_cost(
    control: CostControl, name: str, value: float, target: float, unit: str, level: int, time: float, scale: float = 1.0
) -> str:
    """Why the target asks for its level, in words. control: after the step. scale: makes value and target ``unit``."""
    shown, limit = f"{name} {quantity(scale * value, unit)}", quantity(scale * target, unit)
    if value <= target:
        if control.demand < level:
            return f"{shown} leaves room under {limit}: level {level} -> {control.demand}"
        return f"{shown} keeps {limit}"
    if control.demand > level:
        return f"{shown} is over {limit}: level {level} -> {control.demand}"
    if patience(control, time) > 0:
        return f"{shown} is over {limit}: whether that lasts is waited for"
    return f"{shown} is over {limit}, and no level helps"
