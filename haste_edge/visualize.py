"""The picture of what merging does to a picture: answers, feature maps, groups, and kept channels at every level."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from haste_edge.observe import FATES, LayerSeen, Observation, telling_channels, typical_patch
from haste_edge.plot import EXACT, LINE
from haste_runtime.cli.charts import FAINT, INK
from haste_runtime.errors import InputError
from haste_runtime.grouping import DROPPED
from haste_runtime.plan import BUDGETED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

PALE, DARK = "#e6e9ed", "#33373d"  # of untouched and of dropped channels
FATE_COLOURS = {"merged": LINE, "dropped": EXACT, "untouched": "#5d646d"}
MOST_CHANNELS = 24  # side by side
MOST_LAYERS, MOST_LEVELS = 70, 12  # of the heat map that can each have a label and numbers
MOST_NAMED = 64  # channels that can each have their number below the groups
LAYER_LENGTH, CLASS_LENGTH = 26, 38  # characters of a name
GOLDEN = 0.618034  # the part of the colour circle that keeps successive hues apart
TITLE: dict[str, Any] = {"fontsize": 10, "color": INK, "loc": "left"}


def save_visualization(seen: Observation, path: Path, name: str, channels: int = 12) -> None:
    """Writes a PNG: the answers, ``channels`` feature maps before and after merging, the groups of each patch, and the
    kept channels over layers and levels. name: the bundle's, for the title.

    The file appears under its name only when it is complete. Raises InputError where it can't be written.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = telling_channels(seen.layer, min(channels, MOST_CHANNELS))
    width, height = max(9.5, 0.5 + 0.98 * len(shown)), max(10.0, 0.18 * min(len(seen.bundle.plan.layers), MOST_LAYERS))
    tall = min(4.0, 1.1 + 3 * width / len(shown) * seen.layer.before.shape[1] / seen.layer.before.shape[2])  # the maps
    partial = path.with_name(f".{path.name}.partial")
    with rc_context({"text.parse_math": False}):  # names of classes and layers are no formulas
        figure = Figure(figsize=(width + 5.5, height), dpi=120, layout="constrained")
        FigureCanvasAgg(figure)
        head, body = figure.subfigures(2, 1, squeeze=False, height_ratios=(0.7, height - 0.7)).flat
        left, right = body.subfigures(1, 2, squeeze=False, width_ratios=(width, 5.5), wspace=0.03).flat
        ratios = (2.4, tall, 6.5 - tall)
        answers, maps, groups = left.subfigures(3, 1, squeeze=False, height_ratios=ratios).flat
        _title(head, seen, name)
        _answers(answers, seen)
        _maps(maps, seen.layer, shown)
        _groups(groups, seen.layer)
        _kept(right, seen)
        try:
            figure.savefig(partial, format="png")
            os.replace(partial, path)
        except OSError as error:
            raise InputError(f"{path} could not be written ({error.strerror}).") from error
        finally:
            partial.unlink(missing_ok=True)


def _title(part: SubFigure, seen: Observation, name: str) -> None:
    part.text(0.01, 0.62, f"{name} at level {seen.level}", fontsize=15, fontweight="bold", color=INK, va="center")
    layer = seen.layer
    said = [
        f"{seen.chosen.totals.flops_reduction_network:.1f} % of the network's FLOPs saved on this picture",
        "the same answer as level 0" if seen.agrees(seen.level) else "another answer than level 0",
        f"looking at {layer.node}: {_rule(layer)}",
    ]
    part.text(0.01, 0.12, "  ·  ".join(said), fontsize=10, color=FAINT, va="center")


def _rule(layer: LayerSeen) -> str:
    m, choice = layer.variant.patch, layer.choice
    bits = "bit" if choice.bits == 1 else "bits"
    budget = f", error budget {choice.budget:g}" if layer.variant.policy in BUDGETED else ""
    return f"policy {layer.variant.policy}, {m}x{m} tiles, {choice.bits} {bits}{budget}"


# --- the picture and the answers -------------------------------------------------------------------------------------


def _answers(part: SubFigure, seen: Observation) -> None:
    picture, exact, chosen = part.subplots(1, 3, width_ratios=(1, 1.3, 1.3))
    picture.imshow(seen.picture, interpolation="nearest")
    picture.set_title("What the network sees", **TITLE)
    picture.set_axis_off()
    picture.set_anchor((0.15, 0.5))  # to the left, so that the title of a narrow picture has room
    _likeliest(exact, "Level 0, the exact network", seen, 0)
    _likeliest(chosen, f"Level {seen.level}", seen, seen.level)


def _likeliest(axes: Axes, title: str, seen: Observation, level: int) -> None:
    """Three bars, blue for level 0's answer; or how far the outputs have moved, where they are no scores."""
    axes.set_title(title, **TITLE)
    axes.set(xlim=(0, 1), ylim=(2.6, -0.6), xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    likely = seen.likeliest(level)
    if not likely:
        said = "Its outputs are no scores of classes." if level == 0 else f"Outputs change by {seen.change(level):.1%}."
        axes.text(0.0, -0.2, said, fontsize=9.5, color=INK, va="center")
    for row, one in enumerate(likely):
        right = one.index == seen.likeliest(0)[0].index
        axes.barh(row + 0.16, 1.0, height=0.3, color=PALE)
        axes.barh(row + 0.16, one.probability, height=0.3, color=LINE if right else FAINT)
        axes.text(0.0, row - 0.2, _begin(one.name), fontsize=9.5, color=INK, va="center")
        percent = f"{100 * one.probability:.1f} %"
        axes.text(1.0, row - 0.2, percent, fontsize=9.5, color=INK, va="center", ha="right")


# --- feature maps ----------------------------------------------------------------------------------------------------


def _maps(part: SubFigure, layer: LayerSeen, shown: list[int]) -> None:
    """A column for each channel: its map before, after, and the difference, all on one scale."""
    low, high = min(0.0, float(layer.before[shown].min())), float(np.percentile(layer.before[shown], 99.7)) or 1.0
    scale: dict[str, Any] = {"cmap": "magma", "vmin": low, "vmax": high}
    reach = max(high, -low)
    patch = typical_patch(layer)
    colours = group_colours(layer)[patch]
    rows = part.subplots(3, len(shown), squeeze=False)
    for column, channel in zip(rows.T, shown, strict=True):
        before, after = layer.before[channel], layer.after[channel]
        column[0].imshow(before, interpolation="nearest", **scale)
        column[1].imshow(after, interpolation="nearest", **scale)
        column[2].imshow(after - before, interpolation="nearest", cmap="RdBu_r", vmin=-reach, vmax=reach)
        for axes in column:
            axes.set(xticks=[], yticks=[], facecolor=PALE)
            axes.spines[:].set(color=colours[channel], linewidth=2.5)
        for axes in column[1:]:
            _tile_borders(axes, layer)
        fate, often = _fate(layer, channel)
        column[0].set_title(f"{channel}\n{often}", fontsize=8, color=FATE_COLOURS[fate])
    for axes, what in zip(rows[:, 0], ("before", "after", "difference"), strict=True):
        axes.set_ylabel(what, fontsize=9, color=INK)
    frames = f"frames: their groups of patch {patch}, coloured as below"
    title = f"Channels of {layer.node}'s input, and what stands for them after merging ({frames})"
    part.suptitle(title, fontsize=10, color=INK, x=0.01, ha="left")


def _fate(layer: LayerSeen, channel: int) -> tuple[str, str]:
    """A channel's usual fate, and how often it met it where it isn't always."""
    patches = layer.patches_by_fate[channel]
    index = int(layer.usual_fate[channel])
    fate, total = FATES[index], int(patches.sum())
    return fate, fate if patches[index] == total else f"{fate}\n{patches[index]} of {total}"


def _tile_borders(axes: Axes, layer: LayerSeen) -> None:
    """Lines between the parts of the input that belong to different tiles."""
    height, width = layer.before.shape[1:]
    m, (rows, columns) = layer.variant.patch, layer.geometry.grid(layer.variant.patch)
    step = m * layer.geometry.stride[0]
    for row in range(1, rows):
        if row * step < height:
            axes.axhline(row * step - 0.5, color="white", linewidth=0.5, alpha=0.6)
    for column in range(1, columns):
        if column * step < width:
            axes.axvline(column * step - 0.5, color="white", linewidth=0.5, alpha=0.6)


# --- groups ----------------------------------------------------------------------------------------------------------


def _groups(part: SubFigure, layer: LayerSeen) -> None:
    """Patches x channels, these in an order that shows the groups of one patch in one piece."""
    from matplotlib.patches import Patch

    axes = part.subplots()
    patches, channels = layer.leaders.shape
    patch = typical_patch(layer)
    order = np.lexsort((np.arange(channels), layer.leaders[patch], layer.fates[patch]))
    axes.imshow(group_colours(layer)[:, order], aspect="auto", interpolation="nearest")
    _outline(axes, (-0.5, patch - 0.5), channels, 1, INK)
    axes.spines[:].set_visible(False)
    if channels <= MOST_NAMED:
        axes.set_xticks(range(channels), list(map(str, order)))
    else:
        axes.set_xticks([])
    axes.set_yticks(range(0, patches, -(-patches // 8)))
    axes.tick_params(colors=FAINT, length=0, labelsize=7)
    axes.set_ylabel("patch", fontsize=9, color=INK)
    axes.set_xlabel(f"{channels} channels, in the order of patch {patch}'s groups", fontsize=9, color=INK)
    axes.set_title("The groups of each patch, a colour for each", **TITLE)
    swatches = [Patch(color=PALE, label="untouched"), Patch(color=DARK, label="dropped")]
    axes.legend(handles=swatches, loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False, fontsize=8.5)


def group_colours(layer: LayerSeen) -> NDArray[np.float64]:
    """RGB (P, C, 3), 0 to 1: channels of one group have one colour, a group of the same first channel has it on every
    patch; untouched channels are pale, dropped ones dark."""
    from matplotlib.colors import hsv_to_rgb, to_rgb

    leaders = layer.leaders
    number = np.arange(leaders.shape[1])
    hues = np.stack([number * GOLDEN % 1, 0.45 + 0.1 * (number % 4), 0.92 - 0.1 * (number // 4 % 3)], 1)
    colours: NDArray[np.float64] = hsv_to_rgb(hues)[np.where(leaders == DROPPED, 0, leaders)]
    colours[layer.fates == FATES.index("untouched")] = to_rgb(PALE)
    colours[layer.fates == FATES.index("dropped")] = to_rgb(DARK)
    return colours


# --- kept channels ---------------------------------------------------------------------------------------------------


def _kept(part: SubFigure, seen: Observation) -> None:
    """Layers x levels, with the FLOPs that each level saves above."""
    names = [layer.node for layer in seen.bundle.plan.layers]
    kept = np.array([[100 * level.kept.get(name, np.nan) for level in seen.levels] for name in names])
    axes = part.subplots()
    image = axes.imshow(kept, cmap="Blues_r", vmin=0, vmax=110, aspect="auto", interpolation="nearest")
    axes.set_facecolor(PALE)
    axes.spines[:].set_visible(False)
    rows = range(0, len(names), -(-len(names) // MOST_LAYERS))
    columns = range(0, len(seen.levels), -(-len(seen.levels) // MOST_LEVELS))
    small = 8 if len(names) <= 40 else 6
    axes.set_yticks(rows, [_short(names[row]) for row in rows], fontsize=small)
    axes.set_xticks(columns, [str(column) for column in columns], fontsize=8)
    axes.set_xlabel("level", fontsize=9, color=INK)
    above = axes.secondary_xaxis("top")
    saved = [seen.levels[column].totals.flops_reduction_network for column in columns]
    above.set_xticks(columns, [str(round(percent)) for percent in saved], fontsize=8)
    above.set_xlabel("FLOPs saved on this picture, %", fontsize=9, color=INK)
    above.spines[:].set_visible(False)
    for axis in (axes, above):
        axis.tick_params(colors=INK, length=0)
    axes.set_title("Channels kept, % (grey: dense)", **TITLE)
    if len(rows) == len(names) and len(columns) == len(seen.levels):
        for row, column in np.argwhere(np.isfinite(kept)):
            colour = "white" if kept[row, column] < 55 else INK
            text = str(round(kept[row, column]))
            axes.text(column, row, text, ha="center", va="center", fontsize=min(small, 7), color=colour)
    else:
        part.colorbar(image, ax=axes, location="bottom", fraction=0.03, aspect=30).ax.set_xlim(0, 100)
    _outline(axes, (seen.level - 0.5, names.index(seen.layer.node) - 0.5), 1, 1, EXACT)


# --- what panels share -----------------------------------------------------------------------------------------------


def _outline(axes: Axes, corner: tuple[float, float], width: float, height: float, colour: str) -> None:
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=colour, linewidth=1.4, clip_on=False))


def _short(layer: str) -> str:
    return layer if len(layer) <= LAYER_LENGTH else f"…{layer[1 - LAYER_LENGTH :]}"


def _begin(name: str) -> str:
    return name if len(name) <= CLASS_LENGTH else f"{name[: CLASS_LENGTH - 1]}…"
