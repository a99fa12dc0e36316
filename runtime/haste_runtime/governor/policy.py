"""Policies: what to do about the battery, the heat and the clock. A short TOML file, a TOML string or a dict.

    period_s = 1            # how often to look
    dwell_s = 5             # the shortest time between two changes of level

    [[rules]]
    when = "battery < 20 and not charging"
    leave = 25
    min_level = 3

    [targets]
    latency_ms = 40

Every key, and what each means for a decision: docs/steering.md. A wrong policy is a PolicyError that names the key.
"""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Union

from haste_runtime.errors import PolicyError
from haste_runtime.governor.condition import GRAMMAR, Condition, Term, parse, with_leave
from haste_runtime.signals.signal import NAME, RESERVED
from haste_runtime.toml_text import parse_toml

PolicyLike = Union[str, "os.PathLike[str]", Mapping[str, Any], "Policy"]
RELEASE_BELOW_C = 5.0  # where no release_c is given


@dataclass(frozen=True)
class Rule:
    """While `condition` holds, the level stays from min_level to max_level (None: no bound). dwell_s: the rule, once
    entered or left, stays so at least that long. latency_ms: the level is at least the one that takes so long at most,
    by a calibration; `with_levels` turns it into min_level."""

    name: str
    condition: Condition
    dwell_s: float = 0.0
    min_level: int | None = None
    max_level: int | None = None
    latency_ms: float | None = None


@dataclass(frozen=True)
class Targets:
    """What is to be kept; None: no such target. latency_ms: of the p90. max_duty: share of time, 0 to 1."""

    latency_ms: float | None = None
    temperature_c: float | None = None
    release_c: float | None = None
    max_duty: float | None = None
    battery_hours: float | None = None


@dataclass(frozen=True)
class Missing:
    """A rule or target without its signal stays as it is for hold_s; then the level is at least min_level (None: it
    stays as it is for ever)."""

    hold_s: float = 30.0
    min_level: int | None = None


@dataclass(frozen=True)
class Policy:
    """period_s: how often signals are read and a decision is made. dwell_s: the shortest time between two changes;
    where a policy does not give it, 5 s, or the least dwell_s that a rule gives if that is less."""

    period_s: float = 1.0
    dwell_s: float = 5.0
    min_level: int = 0
    max_level: int | None = None
    rules: tuple[Rule, ...] = ()
    targets: Targets = Targets()
    missing: Missing = Missing()

    @property
    def signals(self) -> tuple[str, ...]:
        """Every signal it depends on, except those that the session itself gives."""
        names = [name for rule in self.rules for name in rule.condition.signals]
        names += ["temperature"] if self.targets.temperature_c is not None else []
        names += ["battery"] if self.targets.battery_hours is not None else []
        return tuple(dict.fromkeys(names))

    @property
    def decides(self) -> bool:
        """Whether it has anything to decide: a rule, a target or a bound."""
        return bool(self.rules or self.min_level or self.max_level is not None or self.targets != Targets())

    def levels(self) -> tuple[tuple[str, int], ...]:
        """Every level that it names, with the key."""
        found = [("min_level", self.min_level), ("max_level", self.max_level)]
        found.append(("missing.min_level", self.missing.min_level))
        for rule in self.rules:
            found += [(f"min_level of the rule {rule.name!r}", rule.min_level)]
            found += [(f"max_level of the rule {rule.name!r}", rule.max_level)]
        return tuple((key, level) for key, level in found if level is not None)

    def to_dict(self) -> dict[str, Any]:
        """The same as a dict that `read_policy` takes, fit for JSON and TOML."""
        rules = []
        for rule in self.rules:
            leave = {term.signal: term.leave for term in rule.condition.terms if term.leave != term.enter}
            about = {"name": rule.name, "when": str(rule.condition), "leave": leave or None, "dwell_s": rule.dwell_s}
            bounds = {"min_level": rule.min_level, "max_level": rule.max_level, "latency_ms": rule.latency_ms}
            rules.append(_given(about | bounds))
        return _given(
            {
                "period_s": self.period_s,
                "dwell_s": self.dwell_s,
                "min_level": self.min_level,
                "max_level": self.max_level,
                "rules": rules,
                "targets": _given(vars(self.targets)),
                "missing": _given(vars(self.missing)),
            }
        )


def _given(table: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in table.items() if value is not None}


def with_levels(policy: Policy, level_for: Callable[[float], int]) -> Policy:
    """The policy with min_level in place of every rule's latency_ms. level_for: the level that takes so many ms."""
    if all(rule.latency_ms is None for rule in policy.rules):
        return policy
    rules = []
    for rule in policy.rules:
        if rule.latency_ms is not None:
            level = max(level_for(rule.latency_ms), rule.min_level or 0)
            high = None if rule.max_level is None else max(level, rule.max_level)
            rule = replace(rule, min_level=level, max_level=high, latency_ms=None)
        rules.append(rule)
    return replace(policy, rules=tuple(rules))


# --- reading ---------------------------------------------------------------------------------------------------------


def read_policy(given: PolicyLike) -> Policy:
    """A policy from a path, a TOML string or a dict. Raises PolicyError.

    A string is TOML if it holds a line break or an equals sign, else the path of a file.
    """
    if isinstance(given, Policy):
        return given
    if isinstance(given, Mapping):
        return _policy(_Table(given, ""))
    if isinstance(given, str) and ("\n" in given or "=" in given):
        return _policy(_Table(_toml(given, "The policy"), ""))
    if not isinstance(given, (str, os.PathLike)):
        raise PolicyError(
            f"A policy is a path, a TOML string or a dict, not {type(given).__name__}.", "See docs/steering.md."
        )
    path = Path(given)
    try:
        text = path.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise PolicyError(f"The policy {path} cannot be read: {error}.", "Check the path.") from None
    return _policy(_Table(_toml(text, f"The policy {path}"), ""))


def _toml(text: str, what: str) -> Mapping[str, Any]:
    return parse_toml(text, what, PolicyError, "See the example in docs/steering.md.")


class _Table:
    """A table of the policy whose keys are taken one by one, each checked; what is left over at the end is an error."""

    def __init__(self, table: Any, where: str) -> None:
        if not isinstance(table, Mapping):
            raise PolicyError(f"{where} is {table!r}.", "A table is needed there, with keys and values.")
        self._left, self._where = dict(table), where
        self._known: list[str] = []

    def key(self, name: str) -> str:
        return f"{self._where}.{name}" if self._where else name

    def take(self, name: str) -> Any:
        self._known.append(name)
        return self._left.pop(name, None)

    def number(self, name: str, low: float = -math.inf, high: float = math.inf, above: float | None = None) -> Any:
        """A finite number as float, None where the key is not there."""
        value = self.take(name)
        if value is None:
            return None
        fits = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if not fits or not low <= value <= high or (above is not None and value <= above):
            bounds = [f"above {above:g}"] if above is not None else []
            bounds += [f"at least {low:g}"] if math.isfinite(low) else []
            bounds += [f"at most {high:g}"] if math.isfinite(high) else []
            allowed = " ".join(["a number", " and ".join(bounds)]).rstrip()
            raise PolicyError(f"{self.key(name)} is {value!r}.", f"Allowed is {allowed}.")
        return float(value)

    def level(self, name: str) -> int | None:
        value = self.take(name)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise PolicyError(f"{self.key(name)} is {value!r}.", "A level is an integer, 0 or more.")
        return value

    def levels(self) -> tuple[int | None, int | None]:
        low, high = self.level("min_level"), self.level("max_level")
        if low is not None and high is not None and low > high:
            raise PolicyError(
                f"{self.key('min_level')} is {low}, more than max_level, which is {high}.", "Exchange them."
            )
        return low, high

    def text(self, name: str) -> str | None:
        value = self.take(name)
        if value is not None and (not isinstance(value, str) or not value.strip()):
            raise PolicyError(f"{self.key(name)} is {value!r}.", "A text is needed there.")
        return value

    def done(self) -> None:
        for name in self._left:
            near = difflib.get_close_matches(str(name), self._known, 1)
            guess = f"Did you mean {near[0]}? " if near else ""
            raise PolicyError(
                f"{self.key(str(name))} is not a key of a policy.", f"{guess}Allowed here: {', '.join(self._known)}."
            )


def _policy(table: _Table) -> Policy:
    default = Policy()
    period = table.number("period_s", above=0, high=3600)
    dwell = table.number("dwell_s", low=0)
    low, high = table.levels()
    rules = table.take("rules")
    if rules is not None and (isinstance(rules, (str, Mapping)) or not hasattr(rules, "__iter__")):
        raise PolicyError(f"rules is {rules!r}.", "A list of tables is needed there: [[rules]] in TOML.")
    parsed = tuple(_rule(_Table(rule, f"rules[{i}]")) for i, rule in enumerate(rules or ()))
    if dwell is None:  # a rule that asks for less means it
        dwell = min([default.dwell_s, *(rule.dwell_s for rule in parsed if rule.dwell_s)])
    policy = Policy(
        default.period_s if period is None else period,
        dwell,
        low or 0,
        high,
        parsed,
        _targets(_Table(table.take("targets") or {}, "targets")),
        _missing(_Table(table.take("missing") or {}, "missing")),
    )
    table.done()
    return policy


def _rule(table: _Table) -> Rule:
    name = table.text("name")
    condition = _condition(table)
    dwell = table.number("dwell_s", low=0)
    low, high = table.levels()
    latency = table.number("latency_ms", above=0)
    if low is None and high is None and latency is None:
        raise PolicyError(f"{table.key('min_level')} is missing.", "A rule needs min_level, max_level or latency_ms.")
    table.done()
    return Rule(name or str(condition), condition, dwell or 0.0, low, high, latency)


def _condition(table: _Table) -> Condition:
    when, signal = table.text("when"), table.text("signal")
    below, above = table.number("below"), table.number("above")
    where = table.key("leave")
    if (when is None) == (signal is None):
        raise PolicyError(
            f"{table.key('when')} and {table.key('signal')} are {'both there' if when else 'both missing'}.",
            'A rule has either when = "battery < 20", or signal = "battery" with below or above.',
        )
    if when is not None:
        if below is not None or above is not None:
            raise PolicyError(f"{table.key('below' if above is None else 'above')} does not go with when.", GRAMMAR)
        condition = parse(when, table.key("when"))
    else:
        assert signal is not None
        if not NAME.fullmatch(signal) or signal in RESERVED:
            raise PolicyError(
                f"{table.key('signal')} is {signal!r}.", "The name of a signal has lower case letters, digits and _."
            )
        if (below is None) == (above is None):
            raise PolicyError(
                f"{table.key('below')} and above are {'both there' if below is not None else 'both missing'}.",
                "Give one of them: the number at which the rule is entered.",
            )
        threshold = below if below is not None else above
        condition = Condition((Term(signal, "<" if below is not None else ">", threshold, threshold),))
    return with_leave(condition, _leave(table, condition), where)


def _leave(table: _Table, condition: Condition) -> dict[str, float]:
    """Leave values by signal: a number alone goes with the only comparison."""
    value = table.take("leave")
    if value is None:
        return {}
    if isinstance(value, Mapping):
        inner = _Table(value, table.key("leave"))
        return {str(name): inner.number(str(name)) for name in value}
    compared = [term.signal for term in condition.terms if term.operator in ("<", ">")]
    if len(compared) != 1:
        raise PolicyError(
            f"{table.key('leave')} is {value!r}, but the condition has {len(compared)} comparisons.",
            "Give a table by signal, such as leave = {battery = 25}.",
        )
    return {compared[0]: _Table({"leave": value}, table.key("leave").rpartition(".")[0]).number("leave")}


def _targets(table: _Table) -> Targets:
    targets = Targets(
        latency_ms=table.number("latency_ms", above=0),
        temperature_c=table.number("temperature_c", low=-40, high=150),
        release_c=table.number("release_c", low=-40, high=150),
        max_duty=table.number("max_duty", above=0, high=1),
        battery_hours=table.number("battery_hours", above=0),
    )
    table.done()
    hot, release = targets.temperature_c, targets.release_c
    if release is not None and (hot is None or release >= hot):
        raise PolicyError(
            f"{table.key('release_c')} is {release:g}.", "It goes with temperature_c, and must be less than that."
        )
    return targets


def _missing(table: _Table) -> Missing:
    hold, level = table.number("hold_s", low=0), table.level("min_level")
    table.done()
    return Missing(Missing().hold_s if hold is None else hold, level)
