"""Policies: every key from TOML, file and dict; conditions; every mistake named by its key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from haste_runtime.errors import HasteError, PolicyError
from haste_runtime.governor.condition import Condition, Term, parse, with_leave
from haste_runtime.governor.policy import Missing, Policy, Rule, Targets, read_policy
from haste_runtime.signals.reading import Reading, judge, missing

COMPLETE = """
period_s = 0.5
dwell_s = 2
min_level = 1
max_level = 7

[[rules]]
name = "low"
when = "battery < 20 and not charging"
leave = 25
dwell_s = 60
min_level = 3

[[rules]]
signal = "ambient"
above = 35.5
leave = 30
max_level = 4

[targets]
latency_ms = 40
temperature_c = 75
release_c = 68
max_duty = 0.6
battery_hours = 8

[missing]
hold_s = 10
min_level = 2
"""
LOW = Condition((Term("battery", "<", 20, 25), Term("charging", "not")))
POLICY = Policy(
    0.5,
    2,
    1,
    7,
    (
        Rule("low", LOW, 60, 3, None),
        Rule("ambient > 35.5", Condition((Term("ambient", ">", 35.5, 30),)), 0, None, 4),
    ),
    Targets(40, 75, 68, 0.6, 8),
    Missing(10, 2),
)


def read(**values: float | None) -> dict[str, Reading]:
    return {name: judge(value, "%", 0.0) for name, value in values.items()}


def refused(given: Any) -> PolicyError:
    with pytest.raises(PolicyError) as caught:
        read_policy(given)
    assert caught.value.hint
    assert isinstance(caught.value, HasteError)
    return caught.value


def test_every_key_from_a_string_and_a_file(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(COMPLETE, "utf-8")
    assert read_policy(COMPLETE) == read_policy(path) == read_policy(str(path)) == POLICY
    assert read_policy(POLICY) is POLICY
    assert read_policy(POLICY.to_dict()) == POLICY


def test_the_dict_of_the_contract() -> None:
    rule = {"signal": "battery", "below": 20, "leave": 25, "dwell_s": 0.2, "min_level": 2}
    policy = read_policy({"period_s": 0.05, "rules": [rule]})
    assert policy.period_s == 0.05
    assert policy.rules == (Rule("battery < 20", Condition((Term("battery", "<", 20, 25),)), 0.2, 2),)
    assert policy.dwell_s == 0.2
    assert policy.signals == ("battery",)


@pytest.mark.parametrize(("given", "rules", "dwell"), [({}, [0], 5), ({}, [9, 2], 2), ({"dwell_s": 3}, [1], 3)])
def test_a_rule_that_asks_for_less_than_the_usual_dwell_gets_it(given: Any, rules: list[float], dwell: float) -> None:
    tables = [{"when": "x", "min_level": 1, "dwell_s": seconds} for seconds in rules]
    assert read_policy(given | {"rules": tables}).dwell_s == dwell


def test_an_empty_policy_decides_nothing() -> None:
    assert read_policy({}) == Policy()
    assert not Policy().decides
    for something in ({"min_level": 1}, {"max_level": 0}, {"targets": {"max_duty": 1}}):
        assert read_policy(something).decides


def test_it_names_its_signals_and_levels() -> None:
    assert POLICY.signals == ("battery", "charging", "ambient", "temperature")
    assert dict(POLICY.levels()) == {
        "min_level": 1,
        "max_level": 7,
        "missing.min_level": 2,
        "min_level of the rule 'low'": 3,
        "max_level of the rule 'ambient > 35.5'": 4,
    }


WRONG = [
    ("period_s = 0", "period_s is 0", "above 0"),
    ("period_s = nan", "period_s is nan", "above 0"),
    ("dwell_s = -1", "dwell_s is -1", "at least 0"),
    ("dwell_s = true", "dwell_s is True", "at least 0"),
    ("min_level = 1.5", "min_level is 1.5", "integer"),
    ("min_level = -1", "min_level is -1", "integer"),
    ("min_level = 3\nmax_level = 2", "min_level is 3, more than max_level", "Exchange"),
    ("dwel_s = 1", "dwel_s is not a key", "Did you mean dwell_s?"),
    ("rules = 3", "rules is 3", "[[rules]]"),
    ("rules = [3]", "rules[0] is 3", "table"),
    ("[targets]\nlatency = 40", "targets.latency is not a key", "Did you mean latency_ms?"),
    ("[targets]\nlatency_ms = 0", "targets.latency_ms is 0", "above 0"),
    ("[targets]\nmax_duty = 60", "targets.max_duty is 60", "at most 1"),
    ("[targets]\nrelease_c = 60", "targets.release_c is 60", "temperature_c"),
    ("[targets]\ntemperature_c = 70\nrelease_c = 70", "targets.release_c is 70", "less"),
    ('[targets]\ntemperature_c = "hot"', "targets.temperature_c is 'hot'", "number"),
    ("[missing]\nhold_s = -3", "missing.hold_s is -3", "at least 0"),
    ("[missing]\nholds = 3", "missing.holds is not a key", "hold_s"),
    ("missing = 3", "missing is 3", "table"),
    ("[[rules]]\nmin_level = 1", "rules[0].when and rules[0].signal are both missing", "either"),
    ('[[rules]]\nwhen = "x"\nsignal = "x"', "rules[0].when and rules[0].signal are both there", "either"),
    ('[[rules]]\nwhen = "x"\nbelow = 1\nmin_level = 1', "rules[0].below does not go with when", "comparisons"),
    ('[[rules]]\nwhen = "x"', "rules[0].min_level is missing", "max_level"),
    ('[[rules]]\nsignal = "x"\nmin_level = 1', "rules[0].below and above are both missing", "one of them"),
    ('[[rules]]\nsignal = "x"\nbelow = 1\nabove = 0\nmin_level = 1', "are both there", "one of them"),
    ('[[rules]]\nsignal = "A b"\nbelow = 1\nmin_level = 1', "rules[0].signal is 'A b'", "lower case"),
    ('[[rules]]\nsignal = "x"\nbelow = 20\nleave = 19\nmin_level = 1', "rules[0].leave is 19", "not be less"),
    ('[[rules]]\nsignal = "x"\nabove = 20\nleave = 21\nmin_level = 1', "rules[0].leave is 21", "not be more"),
    ('[[rules]]\nwhen = "x < 1 and y < 1"\nleave = 2\nmin_level = 1', "has 2 comparisons", "table by signal"),
    ('[[rules]]\nwhen = "x"\nleave = 2\nmin_level = 1', "has 0 comparisons", "table by signal"),
    ('[[rules]]\nwhen = "x < 1"\nleave = {y = 2}\nmin_level = 1', "rules[0].leave names y", "compares x"),
    ('[[rules]]\nwhen = "x < 1"\nleave = {x = "a"}\nmin_level = 1', "rules[0].leave.x is 'a'", "number"),
    ('[[rules]]\nwhen = "x > 1 and x < 5"\nleave = {x = 6}\nmin_level = 1', "rules[0].leave names x", "compares"),
    ('[[rules]]\nwhen = "x < 1"\ndwell_s = -1\nmin_level = 1', "rules[0].dwell_s is -1", "at least 0"),
    ('[[rules]]\nwhen = "x"\nname = ""\nmin_level = 1', "rules[0].name is ''", "text"),
    ("period_s = = 1", "is not TOML", "example"),
]


@pytest.mark.parametrize(("toml", "message", "hint"), WRONG, ids=[wrong[1] for wrong in WRONG])
def test_mistakes_are_named(toml: str, message: str, hint: str) -> None:
    error = refused(toml)
    assert message in error.message
    assert hint in error.hint


def test_paths_and_other_things(tmp_path: Path) -> None:
    assert "nothing.toml cannot be read" in refused(tmp_path / "nothing.toml").message
    assert "cannot be read" in refused("nothing.toml").message
    assert "cannot be read" in refused(tmp_path).message
    assert "not int" in refused(3).message
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe=")
    assert "cannot be read" in refused(tmp_path / "bytes.toml").message


# --- conditions ------------------------------------------------------------------------------------------------------


def test_conditions_are_parsed() -> None:
    text = "battery < 20 and not charging and motion and ambient > -1.5e1"
    condition = parse(text, "when")
    assert condition.terms == (
        Term("battery", "<", 20, 20),
        Term("charging", "not"),
        Term("motion", "is"),
        Term("ambient", ">", -15, -15),
    )
    assert parse(str(condition), "when") == condition
    assert parse(" battery<20and not  charging ", "when") == parse("battery < 20 and not charging", "when")


@pytest.mark.parametrize(
    "text",
    [
        "and", "not", "x and", "x or y", "x y", "x <", "x < y", "1 < x", "x <= 2", "x == 2", "x < 2 < 3", "not x < 2",
        "not not x", "(x)", "x and and y", "X < 2", "x.y", "x < 1e999", "__import__('os')", "x < 2; y", "x,y", "1",
    ],
)  # fmt: skip
def test_everything_else_is_refused(text: str) -> None:
    with pytest.raises(PolicyError, match=r"rules\[0\]\.when is"):
        read_policy({"rules": [{"when": text, "min_level": 1}]})


@given(st.text(max_size=40))
def test_no_text_does_anything_but_parse_or_be_refused(text: str) -> None:
    try:
        condition = parse(text, "when")
    except PolicyError:
        return
    assert parse(str(condition), "when") == condition


def test_unknown_is_neither_yes_nor_no() -> None:
    condition = with_leave(parse("battery < 20 and not charging", "when"), {"battery": 25}, "leave")
    for battery, charging, active, holds in [
        (19, 0, False, True),
        (20, 0, False, False),
        (24, 0, True, True),
        (25, 0, True, False),
        (19, 1, False, False),
        (None, 0, False, None),
        (None, 1, True, False),  # whatever the battery is, it charges
        (30, None, True, False),
        (10, None, True, None),
        (None, None, True, None),
    ]:
        assert condition.holds(read(battery=battery, charging=charging), active) is holds
    assert condition.holds({}, False) is None
    stale = Reading(10, "%", 0, False, "the last value is 9.0 s old")
    assert condition.holds({"battery": stale, **read(charging=0)}, False) is None


def test_it_is_explained() -> None:
    condition = with_leave(parse("battery < 20 and not charging", "when"), {"battery": 25}, "leave")
    assert condition.explain(read(battery=18, charging=0), True) == "battery 18 % is below 20 % and not charging"
    assert (
        condition.explain(read(battery=22.04, charging=0), True)
        == "battery 22.04 % is not back at 25 % and not charging"
    )
    assert condition.explain(read(battery=27, charging=0), False) == "battery 27 % is not below 20 %"
    assert condition.explain(read(battery=18, charging=1), False) == "charging"
    gone = {"battery": missing("no such file", "%", 0)}
    assert condition.missing(gone) == "battery is missing (no such file), charging is missing (nothing gives it)"
