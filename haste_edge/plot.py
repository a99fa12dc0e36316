"""The picture of a ladder: what each level costs in accuracy, against milliseconds and against FLOPs saved."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from haste_edge.evaluate import LevelResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, FAINT, LINE, EXACT = "#22262b", "#8a9099", "#2166ac", "#b2182b"


def save_ladder_plot(results: Sequence[LevelResult], path: Path, title: str, subtitle: str) -> None:
    """Writes a PNG of two panels that share the accuracy axis. Top-1, or agreement where the data has no labels.

    The file appears under its name only when it is complete.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    labelled = results[0].top1 is not None
    accuracy = [r.agreement if r.top1 is None else r.top1 for r in results]
    figure = Figure(figsize=(10, 4.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    _panel(left, [r.ms_p50 for r in results], accuracy, results)
    _panel(right, [r.flops_reduction_network for r in results], accuracy, results)
    left.set_ylabel("top-1, %" if labelled else "agreement with level 0, %", color=INK)
    left.set_xlabel("milliseconds per frame (median, batch 1)", color=INK)
    right.set_xlabel("FLOPs saved over the whole network, %", color=INK)
    left.set_xlim(left=0)
    span = max(accuracy) - min(accuracy)
    left.set_ylim(min(accuracy) - 0.12 * span - 0.5, max(accuracy) + 0.18 * span + 0.5)
    figure.suptitle(f"{title}\n", x=0.01, ha="left", fontsize=13, fontweight="bold", color=INK)
    figure.text(0.011, 0.918, subtitle, fontsize=9.5, color=FAINT)

    partial = path.with_name(f".{path.name}.partial")
    try:
        figure.savefig(partial, format="png")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _panel(axes: Axes, x: list[float], y: list[float], results: Sequence[LevelResult]) -> None:
    """One line through the levels in order, each point with its level's number."""
    axes.plot(x, y, color=LINE, linewidth=1.2, alpha=0.5, zorder=2)
    for px, py, result in zip(x, y, results, strict=True):
        exact = result.level == 0
        axes.plot(px, py, "o", color=EXACT if exact else LINE, markersize=7, zorder=3)
        label = "0 (exact)" if exact else str(result.level)
        axes.annotate(label, (px, py), (0, 8), textcoords="offset points", ha="center", fontsize=9, color=INK)
    axes.grid(color="#e4e6ea", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=FAINT, length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
