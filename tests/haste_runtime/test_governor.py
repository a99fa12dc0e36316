"""Decisions: what rules, targets, missing sensors and overrides come to, and what holds for all of them."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from steering import COSTS, TOP, Run

from haste_runtime.governor.controllers import EnergyControl, hours_left, steer_energy
from haste_runtime.governor.decide import State, decide
from haste_runtime.governor.policy import Policy, read_policy
from haste_runtime.signals.reading import judge

LOW_BATTERY = {"signal": "battery", "below": 20, "leave": 25, "min_level": 2}

# --- rules -----------------------------------------------------------------------------------------------------------


def test_a_rule_has_hysteresis() -> None:
    run = Run({"dwell_s": 0, "rules": [LOW_BATTERY]})
    levels = [run.step(1, battery=battery) for battery in (50, 21, 20, 19.9, 24.9, 20, 25, 24, 20.1, 19)]
    assert levels == [0, 0, 0, 2, 2, 2, 0, 0, 0, 2]
    reasons = [reason for _, _, reason in run.changes]
    assert reasons == [
        "battery 19.9 % is below 20 %: at least level 2",
        "battery 25 % is not below 20 %",
        "battery 19 % is below 20 %: at least level 2",
    ]


def test_while_nothing_changes_the_reason_stays_true() -> None:
    run = Run({"dwell_s": 0, "rules": [LOW_BATTERY]})
    run.step(1, battery=50)
    assert run.reason == "no rule and no target asks for more"
    run.step(1, battery=10)
    run.step(1, battery=22)
    assert run.reason == "battery 22 % is not back at 25 %: at least level 2"


def test_no_change_is_faster_than_the_dwell() -> None:
    run = Run({"dwell_s": 5, "rules": [LOW_BATTERY]})
    assert run.step(0, battery=10) == 2  # the first change need not wait
    assert run.step(2, battery=90) == 2
    assert run.reason == "held: 3.0 s of the 5 s dwell are left before level 0 (battery 90 % is not below 20 %)"
    assert run.step(2.9, battery=90) == 2
    assert run.step(0.1, battery=90) == 0


def test_a_rule_has_a_dwell_of_its_own() -> None:
    run = Run({"dwell_s": 0, "rules": [LOW_BATTERY | {"dwell_s": 10, "name": "low"}]})
    run.step(0, battery=10)
    assert run.step(9, battery=90) == 2
    assert run.reason == "battery 90 % is not below 20 %, but the rule 'low' stays for 10 s: at least level 2"
    assert run.step(1, battery=90) == 0
    assert run.step(9, battery=10) == 0
    assert run.step(1, battery=10) == 2


def test_bounds_meet_and_the_earlier_rule_wins() -> None:
    low, hot, busy = (
        {"when": "battery < 20", "min_level": 3},
        {"when": "hot", "min_level": 5},
        {"when": "busy", "max_level": 1},
    )
    ask = {"battery": 10.0, "hot": 1.0, "busy": 1.0}
    assert Run({"rules": [low, hot]}).step(1, **ask) == 5
    assert Run({"rules": [low, busy]}).step(1, **ask) == 3
    assert Run({"rules": [busy, low]}).step(1, **ask) == 1
    assert Run({"rules": [busy, low]}).step(1, **ask | {"busy": 0.0}) == 3
    run = Run({"min_level": 2, "max_level": 4, "rules": [hot]})
    assert run.step(1, hot=0) == 2
    assert run.reason == "the policy: at least level 2"
    assert Run({"min_level": 2, "max_level": 4, "rules": [hot]}).step(1, hot=1) == 4


def test_the_targets_stay_below_a_ceiling() -> None:
    run = Run({"dwell_s": 0, "rules": [{"when": "busy", "max_level": 1}], "targets": {"latency_ms": 40}})
    assert [run.step(1, busy=1, latency=52) for _ in range(2)] == [0, 1]
    assert run.reason == "p90 52 ms is over 40 ms: level 0 -> 7, but busy: at most level 1"


def test_levels_above_the_top_are_the_top() -> None:
    run = Run({"min_level": 3, "max_level": 99, "rules": [{"when": "hot", "min_level": 20}]})
    assert run.step(1, hot=1) == TOP
    assert Run({"min_level": 3}, costs=(1.0, 0.9)).step(1) == 1
    assert Run({"min_level": 3, "rules": [{"when": "hot", "min_level": 20}]}, costs=(1.0,)).step(1, hot=1) == 0


# --- missing sensors -------------------------------------------------------------------------------------------------


def test_a_missing_sensor_holds_and_then_fails_safe() -> None:
    policy = {"dwell_s": 0, "rules": [LOW_BATTERY | {"name": "low"}], "missing": {"hold_s": 30, "min_level": 4}}
    run = Run(policy)
    run.step(1, battery=10)
    assert run.step(1, battery=None) == 2
    assert run.reason == "battery is missing (it gave no value); the rule 'low' stays as it was: at least level 2"
    assert run.step(29.9, battery=None) == 2
    assert run.step(0.1, battery=None) == 4
    assert run.reason == "battery is missing (it gave no value) for 30 s, the fail-safe: at least level 4"
    assert run.step(1, battery=90) == 0

    run = Run(policy)
    assert run.step(1) == 0
    assert run.reason.endswith("; battery is missing (nothing gives it); the rule 'low' waits")
    assert run.step(30) == 4


def test_without_a_fail_safe_it_holds_for_ever() -> None:
    run = Run({"dwell_s": 0, "rules": [LOW_BATTERY]})
    run.step(1, battery=10)
    assert {run.step(1000, battery=None) for _ in range(5)} == {2}


def test_a_sensor_that_comes_back_in_time_is_no_failure() -> None:
    run = Run({"dwell_s": 0, "rules": [LOW_BATTERY], "missing": {"hold_s": 30, "min_level": 4}})
    for _ in range(5):
        assert run.step(20, battery=None) == 0
        assert run.step(20, battery=80) == 0


@pytest.mark.parametrize("target", [{"temperature_c": 70}, {"battery_hours": 8}])
def test_targets_without_their_sensor_fail_safe_too(target: dict[str, float]) -> None:
    run = Run({"dwell_s": 0, "targets": target, "missing": {"hold_s": 30, "min_level": 4}})
    assert [run.step(10) for _ in range(4)] == [0, 0, 0, 4]
    assert "is missing (nothing gives it) for 30 s" in run.reason


def test_no_frames_are_no_failure() -> None:
    run = Run({"targets": {"latency_ms": 40, "max_duty": 0.5}, "missing": {"hold_s": 30, "min_level": 4}})
    assert [run.step(20) for _ in range(4)] == [0, 0, 0, 0]
    assert "is waited for (no frames)" in run.reason


# --- override --------------------------------------------------------------------------------------------------------


def test_an_override_wins_until_it_is_cleared() -> None:
    run = Run({"dwell_s": 5, "min_level": 1, "rules": [LOW_BATTERY]})
    run.step(0, battery=10)
    run.state = replace(run.state, override=0)
    assert run.step(0.1, battery=10) == 0  # at once, and below every bound
    assert run.reason == "override by the user"
    assert run.step(100, battery=10) == 0
    run.state = replace(run.state, override=7)
    assert run.step(0.1, battery=10) == 7
    run.state = replace(run.state, override=None)
    assert run.step(1, battery=10) == 7
    assert run.step(4, battery=10) == 2


# --- targets ---------------------------------------------------------------------------------------------------------


def test_heat_is_answered_step_by_step() -> None:
    run = Run({"dwell_s": 5, "targets": {"temperature_c": 75}})
    assert [run.step(5, temperature=76) for _ in range(5)] == [1, 1, 2, 2, 3]
    assert "temperature 76 °C is over 75 °C" in run.changes[-1][2]
    assert [run.step(5, temperature=72) for _ in range(3)] == [3, 3, 3]
    assert run.reason == "temperature 72 °C is not yet below 70 °C"
    assert [run.step(5, temperature=69) for _ in range(6)] == [2, 2, 1, 1, 0, 0]


@pytest.mark.parametrize("target", [{"temperature_c": 70}, {"battery_hours": 8}])
def test_a_target_that_is_held_back_does_not_run_ahead(target: dict[str, float]) -> None:
    """While a rule keeps the level at one, a target does not ask for ever more, to jump to the top afterwards."""
    run = Run({"dwell_s": 0, "rules": [{"when": "busy", "max_level": 1}], "targets": target})
    for minute in range(200):
        assert run.step(60, busy=1, temperature=80, battery=100 - minute / 3) <= 1
    assert run.step(60, busy=0, temperature=80, battery=30) <= 3
    assert run.state.level >= 1


def test_heat_is_held_below_the_trip_point_of_a_simulated_board() -> None:
    """A case of one thermal resistance and capacity, 25 °C outside, which would reach 85 °C at level 0."""
    run = Run({"period_s": 1, "dwell_s": 5, "targets": {"temperature_c": 70, "release_c": 65}})
    heat, hottest = 25.0, 0.0
    for _ in range(7200):
        power = 5.0 * COSTS[run.state.level]
        heat += (power * 12 - (heat - 25)) / 300
        hottest = max(hottest, heat)
        run.step(1, temperature=heat)
    assert hottest < 75
    assert len(run.changes) < 60


def test_battery_hours() -> None:
    """20 W over 100 Wh: five hours at level 0, not eight; the levels that last are found, and the battery lasts."""
    run = Run({"dwell_s": 5, "targets": {"battery_hours": 8}})
    charge, hours = 100.0, 0.0
    while charge > 0 and hours < 12:
        charge -= 20 * (1 - 0.09 * run.state.level) * 30 / 3600
        hours += 30 / 3600
        run.step(30, battery=float(np.floor(charge)))
    assert hours > 7.7
    assert any(level > 3 for _, level, _ in run.changes)
    run.step(30, battery=1, charging=1)
    assert run.step(30, battery=1, charging=1) == 0


def test_hours_left_is_a_slope() -> None:
    assert hours_left([(0, 90), (300, 89)], 89) is None
    assert hours_left([(0, 90), (1800, 85), (3600, 80)], 80) == pytest.approx(8)
    assert hours_left([(0, 90), (3600, 90)], 90) == float("inf")
    assert steer_energy(EnergyControl(3), 50, True, 8, 0, TOP, 0.0) == EnergyControl()


# --- whatever comes --------------------------------------------------------------------------------------------------

levels = st.integers(0, 10)
rules = st.builds(
    lambda signal, dwell, level, edge, band, below: (
        {"signal": signal, "dwell_s": dwell, "min_level": level}
        | ({"below": edge, "leave": edge + band} if below else {"above": edge, "leave": edge - band})
    ),
    st.sampled_from(["battery", "temperature", "charging"]),
    st.sampled_from([0, 0.5, 3]),
    levels,
    st.integers(0, 100),
    st.integers(0, 20),
    st.booleans(),
)
battery_rules = st.tuples(st.integers(0, 100), st.integers(0, 20), levels, st.sampled_from([0, 2])).map(
    lambda r: {"signal": "battery", "below": r[0], "leave": r[0] + r[1], "min_level": r[2], "dwell_s": r[3]}
)
ceilings = st.tuples(st.integers(30, 90), levels).map(
    lambda r: {"signal": "temperature", "above": r[0], "leave": r[0] - 3, "max_level": r[1]}
)
TARGETS = {"latency_ms": 40, "temperature_c": 70, "max_duty": 0.5, "battery_hours": 8}
targets = st.fixed_dictionaries({}, optional={name: st.just(value) for name, value in TARGETS.items()})
policies = st.fixed_dictionaries(
    {"dwell_s": st.sampled_from([0, 1, 5]), "rules": st.lists(rules | ceilings, max_size=3), "targets": targets},
    optional={
        "min_level": st.integers(0, 4),
        "max_level": st.integers(4, 10),
        "missing": st.just({"hold_s": 4, "min_level": 3}),
    },
)
number = st.none() | st.floats(-10, 120)
inputs = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(("battery", "temperature", "charging", "latency", "duty"), number),
)
steps = st.lists(st.tuples(st.floats(-2, 5), inputs), min_size=1, max_size=25)


@settings(max_examples=80)
@given(policies, steps, st.integers(0, TOP))
def test_bounds_dwell_determinism(policy: dict[str, Any], steps: list[Any], level: int) -> None:
    """Never outside the bounds once the first change was made, never faster than the dwell, the same again each time;
    states and traces are JSON; clocks may jump back."""
    run, again = Run(policy, level), Run(policy, level)
    low, high = policy.get("min_level", 0), min(policy.get("max_level", TOP), TOP)
    honest = 0.0  # time as an honest clock has it: it only goes on
    changed: list[float] = []
    for seconds, values in steps:
        if seconds > 0 and run.state.time is not None:
            honest += seconds
        before = run.state.level
        run.step(seconds, **values)
        again.step(seconds, **values)
        assert run.last == again.last
        assert run.last is not None
        assert run.last.reason
        if run.state.level != before:
            assert min(low, high) <= run.state.level <= high
            changed.append(honest)
        else:
            assert run.state.level == before
    gaps = np.diff(changed)
    assert (gaps >= policy["dwell_s"] - 1e-6).all()
    json.dumps(asdict(run.state), allow_nan=False)


@settings(max_examples=60)
@given(
    st.lists(battery_rules | ceilings, min_size=1, max_size=4),
    targets.filter(lambda t: "battery_hours" not in t),
    st.sampled_from([0, 3]),
    steps,
    st.tuples(st.floats(0, 100), st.floats(0, 100)),
    inputs,
)
def test_less_battery_never_means_a_lower_level(
    rules: list[Any], targets: Any, dwell: float, history: list[Any], batteries: tuple[float, float], values: Any
) -> None:
    """From equal state, and for constant readings otherwise: the next level, what is wanted at every moment, and the
    level in the end. In between a dwell may hold one of them a while longer."""
    policy = {"dwell_s": dwell, "rules": rules, "targets": targets}
    less, more = Run(policy), Run(policy)
    for seconds, past in history:
        less.step(abs(seconds), **past)
        more.step(abs(seconds), **past)
    for moment in range(60):
        less.step(1, **values | {"battery": min(batteries)})
        more.step(1, **values | {"battery": max(batteries)})
        assert less.last is not None
        assert more.last is not None
        assert less.last.wanted >= more.last.wanted
        assert less.last.level >= more.last.level or moment > 0
    assert less.state.level >= more.state.level


@settings(max_examples=60)
@given(st.lists(battery_rules, min_size=1, max_size=3), st.sampled_from([0, 3]), levels, steps, st.floats(0, 100))
def test_a_battery_that_is_not_heard_of_holds_and_then_fails_safe(
    rules: list[Any], dwell: float, safe: int, history: list[Any], battery: float
) -> None:
    run = Run({"dwell_s": dwell, "rules": rules, "missing": {"hold_s": 10, "min_level": safe}})
    for seconds, past in history:
        run.step(abs(seconds), **past)
    for _ in range(20):
        run.step(1, battery=battery)
    held = run.state.level
    assert {run.step(1, battery=None) for _ in range(10)} == {held}
    failing = [run.step(1) for _ in range(20)]
    assert failing[0] == (max(held, min(safe, TOP)))  # ten seconds after the first time that it was missing
    assert set(failing) == {failing[0]}
    for _ in range(20):
        run.step(1, battery=battery)
    assert run.state.level == held


@settings(max_examples=60)
@given(policies, steps, inputs)
def test_constant_readings_come_to_rest(policy: dict[str, Any], history: list[Any], values: dict[str, Any]) -> None:
    run = Run(policy)
    for seconds, past in history:
        run.step(seconds, **past)
    for _ in range(250):
        run.step(1, **values)
    rest = run.state.level
    assert {run.step(1, **values) for _ in range(150)} == {rest}


@settings(max_examples=60)
@given(
    battery_rules.filter(lambda rule: rule["leave"] - rule["below"] >= 2),
    st.floats(0, 100),
    st.integers(0, 2**32 - 1),
)
def test_noise_within_the_band_changes_the_level_once_at_most(rule: Any, mean: float, seed: int) -> None:
    run, rng = Run({"dwell_s": 0, "rules": [rule]}), np.random.default_rng(seed)
    band = rule["leave"] - rule["below"]
    for _ in range(150):
        run.step(1, battery=mean + band * float(rng.uniform(-0.499, 0.499)))
    assert len(run.changes) <= 1


@pytest.mark.parametrize("reading", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_none_never_get_this_far(reading: float) -> None:
    assert not judge(reading, "%", 0.0).ok


def test_a_clock_that_jumps() -> None:
    run = Run({"dwell_s": 5, "rules": [LOW_BATTERY]})
    run.step(0, battery=10)
    assert run.step(-1000, battery=90) == 2
    assert run.step(4.9, battery=90) == 2
    assert run.step(0.2, battery=90) == 0  # five seconds after the change, the jump left out
    assert run.step(1e7, battery=10) == 2


def test_a_state_belongs_to_its_policy() -> None:
    state = State.start(read_policy({"rules": [LOW_BATTERY]}), 0, COSTS)
    with pytest.raises(ValueError, match="zip"):
        decide(Policy(), state, {}, 0.0)
