"""Latency against accuracy: our ladder as a line, every dense runtime as a point at the exact network's accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from haste_edge.bench.report import label, ordered
from haste_edge.plot import EXACT, LINE, write_png
from haste_runtime.cli.charts import FAINT, INK, quiet_axes

ROOM = 1.8  # times our slowest level: what is slower is named, not drawn

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def save_comparison_plot(rows: Sequence[Mapping[str, Any]], path: Path, title: str, subtitle: str) -> None:
    """Writes a PNG. rows: of `haste_edge.bench.compare.as_json`. Without accuracy it shows bars of latency alone.

    The file appears under its name only when it is complete.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    timed = [row for row in ordered(rows) if row["wall_ms"]]
    key = next((key for key in ("top1", "agreement") if all(row[key] is not None for row in timed)), None)
    figure = Figure(figsize=(9, 5) if key else (9, 1.2 + 0.28 * len(timed)), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_title(f"{title}\n", loc="left", fontsize=12, fontweight="bold", color=INK)
    axes.text(0, 1.02, subtitle, transform=axes.transAxes, fontsize=9, color=FAINT)
    axes.set_xlabel("milliseconds per frame (median, batch 1)", color=INK)
    if key is None:
        _bars(axes, timed)
    else:
        _points(axes, timed, key)
    axes.set_xlim(left=0)
    quiet_axes(axes)
    write_png(figure, path)


def _bars(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    colours = [FAINT if row["level"] is None else LINE if row["level"] else EXACT for row in rows]
    axes.barh(range(len(rows)), [row["wall_ms"]["median"] for row in rows], color=colours, height=0.7)
    axes.set_yticks(range(len(rows)), [label(row) for row in rows], fontsize=8)
    axes.invert_yaxis()


def _points(axes: Axes, rows: Sequence[Mapping[str, Any]], key: str) -> None:
    axes.set_ylabel("top-1, %" if key == "top1" else "agreement with level 0, %", color=INK)
    own = [row for row in rows if row["level"] is not None]
    others = [row for row in rows if row["level"] is None]
    x, y = [row["wall_ms"]["median"] for row in own], [row[key] for row in own]
    axes.plot(x, y, color=LINE, linewidth=1.2, alpha=0.5, zorder=2)
    axes.scatter(x, y, s=45, color=[LINE if row["level"] else EXACT for row in own], zorder=3)
    for row, at in zip(own, zip(x, y, strict=True), strict=True):
        axes.annotate(str(row["level"]), at, (0, 7), textcoords="offset points", ha="center", fontsize=8, color=INK)
    edge = ROOM * max(x)  # a very slow runtime would press everything else together
    near = [row for row in others if row["wall_ms"]["median"] <= edge]
    exact, top, span = y[0], max(y), max(max(y) - min(y), 1.0)
    for place, row in enumerate(near):  # labels stand upright above everything, in turn at two heights
        ms = row["wall_ms"]["median"]
        height = top + (0.12 + 0.3 * (place % 2)) * span
        axes.plot([ms, ms], [exact, height - 0.02 * span], color="#c9cdd3", linewidth=0.8, zorder=1)
        axes.scatter([ms], [exact], s=30, marker="D", color=FAINT, zorder=2)
        axes.text(ms, height, label(row), rotation=90, ha="center", va="bottom", fontsize=7.5, color=INK)
    far = [f"{label(row)} {row['wall_ms']['median']:.1f} ms" for row in others if row["wall_ms"]["median"] > edge]
    if far:
        axes.text(
            0.99, 0.02, "farther right:\n" + "\n".join(far), transform=axes.transAxes, ha="right", fontsize=8, color=INK
        )
    axes.set_ylim(min(y) - 0.1 * span, top + 0.95 * span)
    axes.set_xlim(right=1.05 * max([*x, *(row["wall_ms"]["median"] for row in near)]))
    axes.set_yticks([tick for tick in axes.get_yticks() if tick <= min(100, top + 0.1 * span)])
