"""Why each convolution is merged or left dense, in words."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from haste_edge.plan.candidates import Candidate
from haste_edge.plan.cost_model import DOUBT
from haste_edge.plan.measure import Curve
from haste_runtime.plan import BUDGETED


@dataclass(frozen=True)
class Aim:
    """What the plan is for, as far as reasons tell."""

    objective: str
    target: str


def merged_reason(
    candidate: Candidate,
    dense: tuple[int, float],
    curve: Curve,
    used: Mapping[int, int],
    rivals: Collection[int],
    aim: Aim,
) -> str:
    """Of a layer that merges.

    dense: its FLOPs and predicted seconds. used: level -> index of the curve's setting, only the levels that merge it.
    rivals: other patch sizes that were tried.
    """
    first, last = min(used), max(used)
    weakest, strongest = (_setting(curve, used[level]) for level in (first, last))
    strength = weakest if weakest == strongest else f"{weakest} to {strongest}"
    side = curve.patch
    where = "the whole map" if side >= max(candidate.geometry.out) else f"{side}x{side} patches"
    against = f" (better than {', '.join(map(str, sorted(rivals)))})" if rivals else ""
    flops, seconds = dense
    time = 1 - DOUBT - curve.seconds_saved[used[last]] / seconds
    kept, saved = curve.kept[used[last]], 100 * curve.flops_saved[used[last]] / flops
    return (
        f"merged from level {first} on, {strength} on {where}{against}; at level {last} it keeps {kept:.2f} of its "
        f"channels, saves {saved:.0f} % of its FLOPs, and takes {time:.2f} of the dense time on {aim.target} by the "
        f"cost model"
    )


def _setting(curve: Curve, index: int) -> str:
    setting = curve.settings[index]
    return f"budget {setting.budget:g}" if curve.policy in BUDGETED else f"{setting.bits} bits"


def dense_reason(flops: int, curve: Curve, aim: Aim) -> str:
    """Of a layer that could merge, was measured, and is dense at all levels. flops: of the dense layer."""
    best = max(curve.flops_saved)
    kept = curve.kept[curve.flops_saved.index(best)]
    if best <= 0:
        return f"merging does not pay: hashing and adding filters cost more than {kept:.2f} of the channels save"
    if aim.objective == "time" and max(curve.seconds_saved) <= 0:
        return f"merging would hardly be quicker on {aim.target} by the cost model: overheads outweigh the arithmetic"
    return (
        f"merging costs too much accuracy for what it saves: at most {100 * best / flops:.0f} % of its FLOPs, "
        f"at {kept:.2f} of the channels"
    )
