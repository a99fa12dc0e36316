"""The decision: a pure function of policy, state, readings and time. Same trace in, same decisions out.

`decide` has no clock, no randomness and no memory but `State`, so that a recorded trace can be decided again, with the
same policy or another. The order of things:

1. The policy's own bounds, then the fail-safe of missing signals, then each active rule in its order narrow the span of
   levels that are allowed; what an earlier one demands, a later one cannot take back.
2. Each target asks for a level (`haste_runtime.governor.cost`, `.controllers`); the highest wins, within that span.
3. The level that is so *wanted* becomes the level if dwell_s have passed since the last change; else it waits.

An override goes before all of it, until it is cleared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from haste_runtime.errors import PolicyError
from haste_runtime.governor.controllers import EnergyControl, HeatControl, steer_energy, steer_heat
from haste_runtime.governor.cost import CostControl, describe_cost, past_dominated, steer_cost
from haste_runtime.governor.policy import RELEASE_BELOW_C, Policy, Rule
from haste_runtime.signals.reading import Reading, quantity

NO_RULE = "no rule and no target asks for more"
TICK_S = 1e-9  # what rounding may take from a dwell time


@dataclass(frozen=True)
class RuleState:
    """active: the rule is entered. since: when it was entered or left. missing_since: its signal is missing since."""

    active: bool = False
    since: float | None = None
    missing_since: float | None = None


@dataclass(frozen=True)
class State:
    """All that a decision remembers; numbers, None and tuples of them, fit for JSON.

    level: as it is set. costs: expected relative cost of a frame at each level of the bundle. time: of the last
    decision, on a clock that never goes back; lost: how far it is ahead of the caller's, which may have. changed_at:
    the last change of level. override: the level that the user asked for, None where the policy decides.
    """

    level: int
    costs: tuple[float, ...]
    rules: tuple[RuleState, ...]
    latency: CostControl
    duty: CostControl = field(default_factory=CostControl)
    heat: HeatControl = field(default_factory=HeatControl)
    energy: EnergyControl = field(default_factory=EnergyControl)
    override: int | None = None
    changed_at: float | None = None
    time: float | None = None
    lost: float = 0.0

    @staticmethod
    def start(policy: Policy, level: int, costs: Sequence[float]) -> State:
        """Before the first decision: ``level`` is set, and ``costs`` has an entry for each level of the bundle. Raises
        PolicyError for a rule that asks for milliseconds which nobody has turned into a level."""
        for rule in policy.rules:
            if rule.latency_ms is not None:
                raise PolicyError(
                    f"The rule {rule.name!r} asks for {rule.latency_ms:g} ms, but nobody knows what a level takes.",
                    "Let a session that is calibrated follow the policy, or give the rule a min_level.",
                )
        rules = (RuleState(),) * len(policy.rules)
        return State(level, tuple(costs), rules, CostControl(demand=level), CostControl(demand=level))

    @property
    def top(self) -> int:
        return len(self.costs) - 1


@dataclass(frozen=True)
class Decision:
    """state: for the next decision. level: to be set now. wanted: what it would be without dwell_s. reason: in words,
    for the level that is wanted."""

    state: State
    level: int
    wanted: int
    reason: str


def decide(policy: Policy, state: State, readings: Mapping[str, Reading], now: float) -> Decision:
    """The next level. state: from `State.start`, or from a decision with the same policy. now: seconds, of the clock
    that all calls share."""
    time = now + state.lost
    if state.time is not None and time < state.time:  # the caller's clock went back: no time has passed
        time = state.time
    state = replace(state, time=time, lost=time - now)
    state = replace(
        state,
        rules=tuple(
            _followed(rule, known, readings, time) for rule, known in zip(policy.rules, state.rules, strict=True)
        ),
    )
    state, demands = _targets(policy, state, readings, time)
    wanted, reason = _wanted(policy, state, readings, demands, time)
    reason = "; ".join([reason, *_waiting(policy, state, readings)])
    level = state.level
    if state.override is not None:
        level, reason = min(state.override, state.top), "override by the user"
    elif wanted != level:
        left = 0.0 if state.changed_at is None else policy.dwell_s - (time - state.changed_at)
        if left <= TICK_S:
            level = wanted
        else:
            reason = f"held: {left:.1f} s of the {policy.dwell_s:g} s dwell are left before level {wanted} ({reason})"
    if level != state.level:
        state = replace(state, level=level, changed_at=time)
    return Decision(state, level, wanted, reason)


# --- rules -----------------------------------------------------------------------------------------------------------


def _followed(rule: Rule, known: RuleState, readings: Mapping[str, Reading], time: float) -> RuleState:
    """The rule's state after a look at the readings."""
    holds = rule.condition.holds(readings, known.active)
    if holds is None:
        return replace(known, missing_since=time if known.missing_since is None else known.missing_since)
    known = replace(known, missing_since=None)
    dwelt = known.since is None or time - known.since >= rule.dwell_s - TICK_S
    return replace(known, active=holds, since=time) if holds != known.active and dwelt else known


def _waiting(policy: Policy, state: State, readings: Mapping[str, Reading]) -> list[str]:
    """Rules that are not active and cannot be entered, since a signal is missing."""
    return [
        f"{rule.condition.missing(readings)}; the rule {rule.name!r} waits"
        for rule, known in zip(policy.rules, state.rules, strict=True)
        if known.missing_since is not None and not known.active
    ]


def _because(rule: Rule, known: RuleState, readings: Mapping[str, Reading]) -> str:
    """Why an active rule is active."""
    holds = rule.condition.holds(readings, active=True)
    if holds is None:
        return f"{rule.condition.missing(readings)}; the rule {rule.name!r} stays as it was"
    if not holds:
        return f"{rule.condition.explain(readings, False)}, but the rule {rule.name!r} stays for {rule.dwell_s:g} s"
    return rule.condition.explain(readings, True)


# --- targets ---------------------------------------------------------------------------------------------------------


def _targets(
    policy: Policy, state: State, readings: Mapping[str, Reading], time: float
) -> tuple[State, list[tuple[int, str]]]:
    """The controllers after one step, and what they ask for: (level, reason)."""
    demands: list[tuple[int, str]] = []
    targets, level = policy.targets, state.level

    def steered(name: str, unit: str, shown: str, target: float, control: CostControl, scale: float) -> CostControl:
        reading = readings.get(name)
        if reading is None or not reading.ok or reading.value is None:  # no frames, no costs: it waits for more
            demands.append((control.demand, f"{shown} is waited for ({reading.reason if reading else 'no frames'})"))
            return control
        after = steer_cost(control, reading.value, target, level, state.costs, time)
        demands.append((after.demand, describe_cost(after, shown, reading.value, target, unit, level, time, scale)))
        return after

    if targets.latency_ms is not None:
        latency = steered("latency", "ms", "p90", targets.latency_ms, state.latency, 1)
        state = replace(state, latency=latency)
    if targets.max_duty is not None:
        state = replace(state, duty=steered("duty", "%", "duty", targets.max_duty, state.duty, 100))
    if targets.temperature_c is not None:
        state = replace(state, heat=_heat(policy, state, readings, time, demands))
    if targets.battery_hours is not None:
        state = replace(state, energy=_energy(policy, state, readings, time, demands))
    return state, demands


def _heat(
    policy: Policy, state: State, readings: Mapping[str, Reading], time: float, demands: list[tuple[int, str]]
) -> HeatControl:
    hot = policy.targets.temperature_c or 0.0
    release = hot - RELEASE_BELOW_C if policy.targets.release_c is None else policy.targets.release_c
    value, why, control = _value(readings, "temperature"), _why_missing(readings, "temperature"), state.heat
    if value is None:
        control = replace(control, missing_since=time if control.missing_since is None else control.missing_since)
        demands.append((control.demand, f"{why}; the level for heat stays as it was"))
        return control
    control = replace(control, missing_since=None)
    after = steer_heat(control, value, hot, release, state.level, state.top, time, policy.dwell_s)
    control = replace(after, demand=past_dominated(control.demand, after.demand, state.costs))
    where = (
        f"over {hot:g}" if value > hot else f"not yet below {release:g}" if value >= release else f"below {release:g}"
    )
    demands.append((control.demand, f"temperature {quantity(value, '°C')} is {where} °C"))
    return control


def _energy(
    policy: Policy, state: State, readings: Mapping[str, Reading], time: float, demands: list[tuple[int, str]]
) -> EnergyControl:
    hours = policy.targets.battery_hours or 0.0
    percent, control = _value(readings, "battery"), state.energy
    if percent is None:
        control = replace(control, missing_since=time if control.missing_since is None else control.missing_since)
        demands.append(
            (control.demand, f"{_why_missing(readings, 'battery')}; the level for its hours stays as it was")
        )
        return control
    control = replace(control, missing_since=None)
    charging = any((_value(readings, name) or 0.0) > 0.5 for name in ("charging", "on_mains"))
    after = steer_energy(control, percent, charging, hours, state.level, state.top, time)
    control = replace(after, demand=past_dominated(control.demand, after.demand, state.costs))
    demands.append((control.demand, f"battery {quantity(percent, '%')} has to last {hours:g} hours"))
    return control


def _value(readings: Mapping[str, Reading], name: str) -> float | None:
    reading = readings.get(name)
    return reading.value if reading is not None and reading.ok else None


def _why_missing(readings: Mapping[str, Reading], name: str) -> str:
    reading = readings.get(name)
    return f"{name} is missing ({'nothing gives it' if reading is None else reading.reason})"


# --- together --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Span:
    """The levels allowed so far, and what set each end."""

    low: int
    high: int
    why_low: str
    why_high: str

    def narrowed(self, low: int | None, high: int | None, why: str) -> _Span:
        """Never beyond its own ends: who came first is stronger."""
        span = self
        if low is not None and min(low, span.high) > span.low:
            span = replace(span, low=min(low, span.high), why_low=f"{why}: at least level {min(low, span.high)}")
        if high is not None and max(high, span.low) < span.high:
            span = replace(span, high=max(high, span.low), why_high=f"{why}: at most level {max(high, span.low)}")
        return span


def _wanted(
    policy: Policy, state: State, readings: Mapping[str, Reading], demands: list[tuple[int, str]], time: float
) -> tuple[int, str]:
    """The level that rules and targets agree on, and why it is this one."""
    span = _Span(0, state.top, "", "the bundle has no more").narrowed(policy.min_level, policy.max_level, "the policy")
    failed = _failed(policy, state, readings, time)
    if failed:
        span = span.narrowed(policy.missing.min_level, None, failed)
    for rule, known in zip(policy.rules, state.rules, strict=True):
        if known.active:
            span = span.narrowed(rule.min_level, rule.max_level, _because(rule, known, readings))
    demand, why = max(demands, key=lambda one: one[0], default=(0, ""))
    if demand > span.high:
        return span.high, f"{why}, but {span.why_high}"
    if demand > span.low:
        return demand, why
    if span.why_low:
        return span.low, span.why_low
    return span.low, _relaxed(policy, state, readings) or why or NO_RULE


def _failed(policy: Policy, state: State, readings: Mapping[str, Reading], time: float) -> str:
    """Why the fail-safe applies; empty where it does not."""
    if policy.missing.min_level is None:
        return ""
    hold = policy.missing.hold_s
    waiting = [
        (known.missing_since, rule.condition.missing(readings))
        for rule, known in zip(policy.rules, state.rules, strict=True)
    ]
    waiting.append((state.heat.missing_since, _why_missing(readings, "temperature")))
    waiting.append((state.energy.missing_since, _why_missing(readings, "battery")))
    for since, what in waiting:
        if since is not None and time - since >= hold - TICK_S:
            return f"{what} for {time - since:.0f} s, the fail-safe"
    return ""


def _relaxed(policy: Policy, state: State, readings: Mapping[str, Reading]) -> str:
    """At the lowest level: which rules were left since the last change, and why."""
    told = [
        rule.condition.explain(readings, False)
        for rule, known in zip(policy.rules, state.rules, strict=True)
        if not known.active
        and known.since is not None
        and (state.changed_at is None or known.since >= state.changed_at)
    ]
    return "; ".join(dict.fromkeys(filter(None, told)))
