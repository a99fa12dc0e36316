"""Conditions of rules: ``battery < 20 and not charging``. A small language of its own: a policy is data, not code.

    condition = term ("and" term)*
    term      = NAME "<" NUMBER | NAME ">" NUMBER | NAME | "not" NAME

A plain name is a yes-or-no signal: above 0.5 means yes. Each comparison has a second threshold at which it ends, its
*leave* value, so that noise around the first one changes nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from haste_runtime.errors import PolicyError
from haste_runtime.signals.reading import Reading, quantity

NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
TOKEN = re.compile(rf"\s*({NUMBER}|[A-Za-z_]\w*|[<>])", re.ASCII)
GRAMMAR = (
    'Allowed are comparisons with < and > such as "battery < 20", names of yes-or-no signals such as "charging", the '
    'same with "not" before it, and "and" between them.'
)
YES = 0.5


@dataclass(frozen=True)
class Term:
    """``signal operator enter``, or a yes-or-no signal: operator "is" or "not". leave: where a comparison ends."""

    signal: str
    operator: str
    enter: float = YES
    leave: float = YES

    def holds(self, value: float, active: bool) -> bool:
        """Whether it is so. An active comparison goes on up to its leave value."""
        threshold = self.leave if active else self.enter
        return value < threshold if self.operator in ("<", "not") else value > threshold

    def __str__(self) -> str:
        if self.operator in ("<", ">"):
            short = f"{self.enter:g}"
            return f"{self.signal} {self.operator} {short if float(short) == self.enter else repr(self.enter)}"
        return self.signal if self.operator == "is" else f"not {self.signal}"

    def explain(self, reading: Reading) -> str:
        """What the reading means for this term, in words."""
        value = reading.value or 0.0
        if self.operator in ("is", "not"):
            return self.signal if value > YES else f"not {self.signal}"
        name, unit = self.signal.replace("_", " "), reading.unit
        shown = f"{name} {quantity(value, unit)}"
        if self.holds(value, active=False):
            return f"{shown} is {'below' if self.operator == '<' else 'above'} {quantity(self.enter, unit)}"
        if self.holds(value, active=True):
            return f"{shown} is not back at {quantity(self.leave, unit)}"
        return f"{shown} is {'not below' if self.operator == '<' else 'not above'} {quantity(self.enter, unit)}"


@dataclass(frozen=True)
class Condition:
    """All terms together. In three values: no as soon as one term is no; unknown while one is unknown; else yes."""

    terms: tuple[Term, ...]

    def holds(self, readings: Mapping[str, Reading], active: bool) -> bool | None:
        """None where a reading is missing on which it depends."""
        known = [_holds(term, readings.get(term.signal), active) for term in self.terms]
        if False in known:
            return False
        return None if None in known else True

    def missing(self, readings: Mapping[str, Reading]) -> str:
        """The signals that are not there, with their reasons."""
        told = []
        for name in self.signals:
            reading = readings.get(name)
            if reading is None:
                told.append(f"{name} is missing (nothing gives it)")
            elif not reading.ok:
                told.append(f"{name} is missing ({reading.reason})")
        return ", ".join(told)

    def explain(self, readings: Mapping[str, Reading], holds: bool) -> str:
        """Why it holds: all terms. Why it does not: the terms that say so."""
        told = []
        for term in self.terms:
            reading = readings.get(term.signal)
            if reading is not None and reading.ok and (holds or not _holds(term, reading, active=True)):
                told.append(term.explain(reading))
        return " and ".join(told)

    @property
    def signals(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(term.signal for term in self.terms))

    def __str__(self) -> str:
        return " and ".join(map(str, self.terms))


def _holds(term: Term, reading: Reading | None, active: bool) -> bool | None:
    if reading is None or not reading.ok or reading.value is None:
        return None
    return term.holds(reading.value, active)


def parse(text: str, where: str) -> Condition:
    """The condition meant by ``text``, without leave values. Raises PolicyError; ``where`` names the key."""
    tokens = _tokens(text, where)
    terms: list[Term] = []
    while True:
        operator = "is"
        if tokens[:1] == ["not"]:
            operator = "not"
            tokens.pop(0)
        if not tokens or not re.fullmatch(r"[a-z_][a-z0-9_]*", tokens[0]) or tokens[0] in ("and", "not", "or"):
            raise _error(text, where, tokens[0] if tokens else "")
        name = tokens.pop(0)
        if tokens and tokens[0] in "<>" and operator == "is":
            operator = tokens.pop(0)
            if not tokens or not re.fullmatch(NUMBER, tokens[0], re.ASCII):
                raise _error(text, where, tokens[0] if tokens else "")
            threshold = float(tokens[0])
            if not math.isfinite(threshold):
                raise _error(text, where, tokens[0])
            tokens.pop(0)
            terms.append(Term(name, operator, threshold, threshold))
        else:
            terms.append(Term(name, operator))
        if not tokens:
            return Condition(tuple(terms))
        if tokens.pop(0) != "and":
            raise _error(text, where, "")


def with_leave(condition: Condition, leave: Mapping[str, float], where: str) -> Condition:
    """The same with leave values by signal. Raises PolicyError where one is on the wrong side of its comparison, or
    where its signal is not compared exactly once."""
    names = [term.signal for term in condition.terms if term.operator in ("<", ">")]
    unknown = [name for name in leave if names.count(name) != 1]
    if unknown:
        raise PolicyError(
            f"{where} names {', '.join(unknown)}, which the condition does not compare with a number exactly once.",
            f"It compares {', '.join(names) or 'nothing'}.",
        )
    terms = []
    for term in condition.terms:
        value = leave.get(term.signal) if term.operator in ("<", ">") else None
        if value is None:
            terms.append(term)
            continue
        if (value < term.enter) if term.operator == "<" else (value > term.enter):
            side, other = ("below", "less") if term.operator == "<" else ("above", "more")
            raise PolicyError(
                f"{where} is {value:g}, but the rule is entered {side} {term.enter:g}.",
                f"Leave must not be {other} than that, so that the rule ends on the way back.",
            )
        terms.append(replace(term, leave=value))
    return Condition(tuple(terms))


def _tokens(text: str, where: str) -> list[str]:
    tokens, at = [], 0
    while text[at:].strip():
        match = TOKEN.match(text, at)
        if match is None:
            raise _error(text, where, text[at:].strip()[:10])
        tokens.append(match[1])
        at = match.end()
    return tokens


def _error(text: str, where: str, found: str) -> PolicyError:
    near = f" near {found!r}" if found else ""
    return PolicyError(f"{where} is {text!r}, which cannot be understood{near}.", GRAMMAR)
