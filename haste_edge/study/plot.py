"""The picture of a study: points lost against FLOPs saved, a curve for each policy and baseline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from haste_edge.plot import write_png
from haste_edge.study.configuration import BASELINES
from haste_edge.study.curves import Curve, Point, Spread
from haste_runtime.cli.charts import INK, quiet_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEAST_SAVED = -5.0  # what costs more is not shown: some baselines cost a multiple of the network
LINEAR = 2.0  # points lost up to which the axis is linear; beyond it is logarithmic
TICKS = (-2, -1, 0, 1, 2, 5, 10, 20, 50, 100)
MARKERS = "osD^vPX*<>"


def save_study_plot(curves: Sequence[Curve], path: Path, title: str, subtitle: str, labelled: bool = True) -> None:
    """Writes a PNG of two panels that share the axis of points lost, with error bars of one standard deviation.

    Left, FLOPs saved as they are executed; right, those of the convolutions alone, where a baseline lies straight below
    the policy "mean" whose channels it keeps. labelled: whether the points are of top-1, not of agreement. The file
    appears under its name only when it is complete.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    _panel(left, curves, lambda point: point.saved)
    _panel(right, curves, lambda point: point.kept)
    lost = "top-1 lost, points" if labelled else "agreement with the dense network lost, points"
    left.set_ylabel(lost, color=INK)
    left.set_xlabel("FLOPs saved over the whole network, %: all that is executed counts", color=INK)
    right.set_xlabel("the same, convolutions alone: equal kept channels, equal place", color=INK)
    _accuracy_axis(left, curves)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9, labelcolor=INK)
    figure.suptitle(f"{title}\n{subtitle}", x=0.01, ha="left", fontsize=11, color=INK)
    write_png(figure, path)


def _panel(axes: Axes, curves: Sequence[Curve], saved: Callable[[Point], Spread]) -> None:
    from matplotlib import colormaps

    colours = colormaps["tab10"].colors + colormaps["Dark2"].colors  # type: ignore[attr-defined]
    for index, curve in enumerate(curves):
        x, y = [saved(p) for p in curve.points], [p.drop for p in curve.points]
        hidden = all(spread.mean < LEAST_SAVED for spread in x)
        axes.errorbar(
            [spread.mean for spread in x],
            [spread.mean for spread in y],
            xerr=[spread.deviation for spread in x],
            yerr=[spread.deviation for spread in y],
            label=f"{curve.name} (costs more than it saves)" if hidden else curve.name,
            color=colours[index % len(colours)],
            marker=MARKERS[index % len(MARKERS)],
            linestyle="--" if curve.policy in BASELINES else "-",
            linewidth=1.3,
            markersize=5,
            capsize=2,
            elinewidth=0.9,
        )
    lowest = min((saved(p).mean for curve in curves for p in curve.points), default=0.0)
    highest = max((saved(p).mean for curve in curves for p in curve.points), default=0.0)
    left, right = max(min(lowest, 0.0), LEAST_SAVED), max(highest, -LEAST_SAVED)
    axes.set_xlim(left - 0.04 * (right - left), right + 0.04 * (right - left))
    quiet_axes(axes)


def _accuracy_axis(axes: Axes, curves: Sequence[Curve]) -> None:
    """No loss at the top. Linear where curves that are of use lie, logarithmic where the others do."""
    ends = [p.drop.mean + sign * p.drop.deviation for curve in curves for p in curve.points for sign in (-1, 1)]
    axes.set_yscale("symlog", linthresh=LINEAR, linscale=1.5)
    axes.set_yticks(TICKS, [str(tick) for tick in TICKS])
    axes.set_yticks([], minor=True)
    axes.set_ylim(max(*ends, LINEAR) * 1.15, min(*ends, 0.0) - 0.3)
