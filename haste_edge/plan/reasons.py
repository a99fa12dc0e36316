"""Why each convolution is merged or left dense, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from haste_edge.plan.candidates import Candidate
from haste_edge.plan.measure import Curve


def merged_reason(
    candidate: Candidate, dense: int, curve: Curve, bits_per_level: Mapping[int, int], tried: Sequence[int]
) -> str:
    """Of a layer that merges. bits_per_level: level -> bits, only the levels that merge it; dense: its FLOPs."""
    first, last = min(bits_per_level), max(bits_per_level)
    most, least = bits_per_level[first], bits_per_level[last]
    bits = f"{most} bits" if most == least else f"{most} to {least} bits"
    side = curve.patch
    where = "the whole map" if side >= max(candidate.geometry.out) else f"{side}x{side} patches"
    rivals = [str(m) for m in tried if m != side]
    choice = f" (best of {', '.join(map(str, sorted(tried)))})" if rivals else ""
    saved = 100 * curve.flops_saved[least - 1] / dense
    kept = curve.kept[least - 1]
    return (
        f"merged from level {first} on, {bits} on {where}{choice}; at level {last} it keeps {kept:.2f} of its channels "
        f"and saves {saved:.0f} % of its FLOPs"
    )


def dense_reason(dense: int, curve: Curve, objective: str, target: str) -> str:
    """Of a layer that could merge, was measured, and is dense at all levels."""
    best = max(curve.flops_saved)
    bits = curve.flops_saved.index(best) + 1
    kept = curve.kept[bits - 1]
    if best <= 0:
        return f"merging does not pay: hashing and adding filters cost more than {kept:.2f} of the channels save"
    if objective == "time" and max(curve.seconds_saved) <= 0:
        return f"merging would not be quicker on {target}, by its cost model: its overheads outweigh the arithmetic"
    return (
        f"merging costs too much accuracy for what it saves: at most {100 * best / dense:.0f} % of its FLOPs, "
        f"at {kept:.2f} of the channels"
    )
