"""``haste-run replay``: make the decisions of a recorded trace again, with its own policy or another, and compare."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from haste_runtime.cli.common import print_json
from haste_runtime.errors import InputError

if TYPE_CHECKING:
    from haste_runtime.governor.trace import Replayed


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("trace", help="what session.follow(..., trace=PATH) wrote")
    parser.add_argument("--policy", help="a TOML file; by default the policy that the trace was made with")


def run(options: argparse.Namespace) -> None:
    from haste_runtime.governor.policy import read_policy
    from haste_runtime.governor.trace import replay

    policy = None if options.policy is None else read_policy(options.policy)
    decisions = list(replay(options.trace, policy))
    if not decisions:
        raise InputError(f"The trace {options.trace} holds no decision.", "Let a session follow a policy for a while.")
    differing = [decision for decision in decisions if decision.level != decision.level_again]
    summary: dict[str, Any] = {
        "trace": options.trace,
        "policy": options.policy,
        "seconds": round(decisions[-1].at, 3),
        "decisions": len(decisions),
        "different": len(differing),
        "recorded": _summary([decision.level for decision in decisions]),
        "again": _summary([decision.level_again for decision in decisions]),
    }
    if options.json:
        print_json(summary | {"differences": [vars(decision) for decision in differing]})
        return
    for line in _lines(decisions):
        print(line)
    print()
    for name in ("recorded", "again"):
        print(
            f"{name + ':':<10}", ", ".join(f"{key.replace('_', ' ')} {value:g}" for key, value in summary[name].items())
        )
    print(f"{len(differing)} of {len(decisions)} decisions differ." if differing else "All decisions are the same.")


def _summary(levels: Sequence[int]) -> dict[str, Any]:
    changes = sum(a != b for a, b in pairwise(levels))
    return {"mean_level": round(sum(levels) / len(levels), 3), "changes": changes, "highest": max(levels)}


def _lines(decisions: Sequence[Replayed]) -> list[str]:
    """A line where either level changes, with the reason of the decision that was made again."""
    lines, before = [], (-1, -1)
    for decision in decisions:
        now = (decision.level_again, decision.level)
        if now != before:
            levels = f"level {now[0]}" + (f", was {now[1]}" if now[0] != now[1] else "")
            lines.append(f"{decision.at:>9.1f} s  {levels:<16} {decision.reason_again}")
        before = now
    return lines
