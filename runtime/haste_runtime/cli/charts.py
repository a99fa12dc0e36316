"""Pictures of what changed over time, through matplotlib: an extra, imported when a picture is asked for."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from haste_runtime.errors import HasteError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT = "#22262b", "#8a9099"
COLOURS = ("#2166ac", "#b2182b", "#8a9099", "#4d9221")
FORMATS = (".svg", ".png", ".pdf")


class ChartError(HasteError, RuntimeError):
    """A picture cannot be drawn here: matplotlib is missing, or the file's ending says nothing."""

    exit_code = 2


@dataclass(frozen=True)
class Panel:
    """One pair of axes. lines: by name; values that are None leave a gap. steps: each value holds until the next."""

    label: str
    lines: Mapping[str, Sequence[float | None]]
    steps: bool = False


def check_plot(path: Path | None) -> None:
    """Raises ChartError now, where it would be raised after long work. None: no picture is asked for."""
    if path is None:
        return
    if path.suffix.lower() not in FORMATS:
        raise ChartError(f"{path} does not say what kind of picture it is to be.", f"End it in {', '.join(FORMATS)}.")
    if not path.absolute().parent.is_dir():
        raise ChartError(f"There is no folder {path.absolute().parent} for the picture.", "Make it first.")
    try:
        import_module("matplotlib")
    except ImportError as error:
        raise ChartError(
            f"Drawing needs the Python package matplotlib, which cannot be imported ({error}).",
            'Install it: pip install "haste-runtime[plots]". Or leave --plot out here, keep the JSON, and draw it '
            "elsewhere with `haste-run plot`.",
        ) from None


def save_panels(
    panels: Sequence[Panel], hours: Mapping[str, Sequence[float]], path: Path, title: str, subtitle: str, unit: str
) -> None:
    """Writes panels one below the other, which share the time axis. hours: the time of each line's values, by name, in
    ``unit``. The file appears under its name only when it is complete. Raises ChartError."""
    check_plot(path)
    backend: Any = import_module("matplotlib.backends.backend_agg")
    figure: Figure = import_module("matplotlib.figure").Figure(
        figsize=(9, 1.1 + 1.55 * len(panels)), dpi=150, layout="constrained"
    )
    backend.FigureCanvasAgg(figure)
    rows = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, panel in zip(rows, panels, strict=True):
        for (name, values), colour in zip(panel.lines.items(), COLOURS, strict=False):
            shown = [float("nan") if value is None else value for value in values]
            style = "steps-post" if panel.steps else "default"
            axes.plot(hours[name], shown, label=name, color=colour, linewidth=1.3, drawstyle=style)
        axes.set_ylabel(panel.label, color=INK, fontsize=9)
        quiet_axes(axes)
    if len(panels[0].lines) > 1:
        rows[0].legend(loc="upper right", frameon=False, fontsize=9, labelcolor=INK)
    rows[-1].set_xlabel(unit, color=INK, fontsize=9)
    figure.suptitle(f"{title}\n{subtitle}", x=0.01, ha="left", fontsize=11, color=INK)
    write_figure(figure, path)


def quiet_axes(axes: Axes) -> None:
    """A faint grid behind what is drawn, and no frame."""
    axes.grid(color="#e4e6ea", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=FAINT, length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def write_figure(figure: Figure, path: Path, format: str | None = None) -> None:
    """Save the figure, by default in the format that its name ends in; it appears there only when it is complete.
    Raises ChartError."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        figure.savefig(partial, format=format or path.suffix.lstrip(".").lower())
        os.replace(partial, path)
    except OSError as error:
        raise ChartError(f"The picture {path} cannot be written: {error}.", "Choose another path.") from None
    finally:
        partial.unlink(missing_ok=True)
