"""The picture of a ladder: what each level costs in accuracy, against milliseconds and against FLOPs saved."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from haste_edge.evaluate import LevelResult
from haste_runtime.cli.charts import FAINT, INK, quiet_axes, write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LABEL_POINTS = 11  # between a point's middle and its label's
AROUND = ((0, 1), (0, -1), (0.9, 0.6), (-0.9, 0.6), (0.9, -0.6), (-0.9, -0.6))  # above first
LINE, EXACT = "#2166ac", "#b2182b"


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
    panels = ((left, [r.ms_p50 for r in results]), (right, [r.flops_reduction_network for r in results]))
    for axes, x in panels:
        _panel(axes, x, accuracy, results)
    left.set_ylabel("top-1, %" if labelled else "agreement with level 0, %", color=INK)
    left.set_xlabel("milliseconds per frame (median, batch 1)", color=INK)
    right.set_xlabel("FLOPs saved over the whole network, %", color=INK)
    left.set_xlim(left=0)
    span = max(accuracy) - min(accuracy)
    left.set_ylim(min(accuracy) - 0.12 * span - 0.5, max(accuracy) + 0.18 * span + 0.5)
    figure.suptitle(f"{title}\n", x=0.01, ha="left", fontsize=13, fontweight="bold", color=INK)
    figure.text(0.011, 0.918, f"{subtitle}. Red: level 0, the exact network.", fontsize=9.5, color=FAINT)

    figure.draw_without_rendering()  # lays the panels out
    for axes, x in panels:
        _label(axes, x, accuracy, results)

    write_png(figure, path)


def write_png(figure: Figure, path: Path) -> None:
    """Save the figure; the file appears under its name only when it is complete."""
    write_figure(figure, path, "png")


def _panel(axes: Axes, x: list[float], y: list[float], results: Sequence[LevelResult]) -> None:
    """One line through the levels in order."""
    axes.plot(x, y, color=LINE, linewidth=1.2, alpha=0.5, zorder=2)
    axes.scatter(x, y, s=45, color=[EXACT if r.level == 0 else LINE for r in results], zorder=3)
    axes.margins(x=0.1)
    quiet_axes(axes)


def _label(axes: Axes, x: list[float], y: list[float], results: Sequence[LevelResult]) -> None:
    """Writes each point's level beside it, where it is farthest from the other points and labels.

    The axes' limits must be final, since distances are those on the picture.
    """
    points = axes.transData.transform(list(zip(x, y, strict=True)))
    taken = [tuple(point) for point in points]
    reach = LABEL_POINTS * axes.figure.dpi / 72
    for at, point, result in zip(zip(x, y, strict=True), points, results, strict=True):
        spots = [(point[0] + dx * reach, point[1] + dy * reach) for dx, dy in AROUND]
        room = [min(math.dist(spot, other) for other in taken) for spot in spots]
        best = next((i for i, distance in enumerate(room) if distance > 0.95 * reach), room.index(max(room)))
        taken.append(spots[best])
        offset = (AROUND[best][0] * LABEL_POINTS, AROUND[best][1] * LABEL_POINTS)
        text = axes.annotate(str(result.level), at, offset, textcoords="offset points", fontsize=9, color=INK)
        text.set_horizontalalignment("center")
        text.set_verticalalignment("center")
