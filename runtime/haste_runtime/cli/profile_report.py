"""``haste-run bench --profile``: the profile of each level as a table for people, and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haste_runtime.profile import Profile, Profiler
from haste_runtime.roofline import measure_roofline
from haste_runtime.session import Session

Say = Callable[[str], None]


def profile(
    session: Session, levels: Sequence[int], frames: Sequence[dict[str, NDArray[np.float32]]], say: Say
) -> dict[str, Any]:
    """Profiles every level, says it in a table each, and returns all of it for JSON. Raises as `Profiler`."""
    roofline = measure_roofline()
    profiler = Profiler(session, frames, roofline)
    speeds = ", ".join(f"{place} {speed / 1e9:.1f}" for place, speed in roofline.reads.items())
    say(f"\nat best: {roofline.macs / 1e9:.1f} GMAC/s; reading, GB/s: {speeds}; weights lie in: {profiler.place}")
    profiles = [profiler.level(level) for level in levels]
    for one in profiles:
        for line in table(one):
            say(line)
    return {
        "roofline": roofline.as_json(),
        "weights_in": profiler.place,
        "levels": [one.as_json() for one in profiles],
    }


def table(profile: Profile) -> list[str]:
    """Lines: a row for each operation, then the sums."""
    width = max(len(layer.name) for layer in profile.layers)
    outside = f"{100 * profile.outside:.1f} % of it outside kernels"
    lines = [
        f"\nlevel {profile.level}: {profile.frame_ms:.3f} ms a frame, {outside}",
        f"{'layer':{width}}  {'operation':12}  {'shape':26}  {'ms':>7}  {'%':>5}  {'GMAC/s':>6}  {'of best':>7}  "
        f"{'bound by':10}  {'kept':>4}  {'hash %':>6}  {'group':>5}  {'merge':>5}  {'multiply':>8}",
    ]
    total = sum(layer.ms for layer in profile.layers) or 1.0
    for layer in profile.layers:
        best = f"{100 * layer.bound_ms / layer.ms:5.0f} %" if layer.ms and layer.macs else ""
        share, operation = 100 * layer.ms / total, layer.operation
        if layer.algorithm.startswith("winograd"):
            operation += f" W{layer.algorithm[-1]}"
        line = (
            f"{layer.name:{width}}  {operation:12}  {layer.shape:26}  {layer.ms:7.4f}  {share:5.1f}  "
            f"{layer.gmacs:6.1f}  {best:>7}  {layer.bound_by:10}"
        )
        if layer.stages is not None and layer.kept is not None:
            parts = [100 * part / max(layer.ms, 1e-9) for part in vars(layer.stages).values()]
            line += "  {:4.2f}  {:6.0f}  {:5.0f}  {:5.0f}  {:8.0f}".format(layer.kept, *parts)
        lines.append(line.rstrip())
    return lines
