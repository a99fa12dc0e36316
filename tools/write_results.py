"""Make docs/results.md and its plots of what tools/measure_method.py measured.

    python tools/write_results.py --measured docs/results --out docs

Reads NETWORK.jsonl for each network, which docs/results/ keeps; nothing is measured here. Every number in the page
comes from these files.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

PAPER_SAVING, PAPER_DROP = 46.2, 1.25  # ResNet-34 on CIFAR-10, in the paper
FALSIFIER = (20.0, 3.0)  # less saved than this, or more points lost, would refute the method
TITLES = {
    "resnet20": "ResNet-20",
    "resnet56": "ResNet-56",
    "resnet34": "ResNet-34",
    "resnet34-own": "ResNet-34, trained by tools/train_networks.py",
    "demo": "The demo network",
    "vgg16bn": "VGG16-BN",
    "bottleneck": "Bottleneck network (1x1 convolutions)",
}


@dataclass(frozen=True)
class Series:
    """Runs that differ in nothing but the seed. levels[s][i]: row of level i with seed s; level 0 is the dense one."""

    name: str
    key: Mapping[str, Any]
    levels: Sequence[Sequence[Mapping[str, Any]]]

    @property
    def frames(self) -> int:
        return int(self.key["limit"])

    def drops(self, i: int) -> list[float]:
        """Points of top-1 lost at level i, one for each seed."""
        return [rows[i]["top1"] - rows[0]["top1"] for rows in self.levels if i < len(rows)]

    def mean(self, i: int, column: str) -> float:
        return mean(rows[i][column] for rows in self.levels if i < len(rows))

    @property
    def count(self) -> int:
        """Levels above 0 that every seed has."""
        return min(map(len, self.levels)) - 1

    def curve(self) -> list[tuple[float, float]]:
        """(saved, change of top-1) of every level, means over seeds, by what is saved; it begins at (0, 0)."""
        points = [(self.mean(i, "saved"), mean(self.drops(i))) for i in range(1, self.count + 1)]
        return [(0.0, 0.0), *sorted(p for p in points if p[0] > 0)]

    def saved_at(self, lost: float) -> float:
        """The most that is saved, between levels on a straight line, before more than ``lost`` points are."""
        (saved, change), *rest = self.curve()
        for next_saved, next_change in rest:
            if next_change < -lost:
                if next_change == change:
                    return saved
                return saved + (next_saved - saved) * max(0.0, (change + lost) / (change - next_change))
            saved, change = next_saved, next_change
        return saved

    def change_at(self, saved: float) -> float | None:
        """Change of top-1 where this much is saved; None where no level saves as much."""
        points = self.curve()
        for (x0, y0), (x1, y1) in pairwise(points):
            if x0 <= saved <= x1:
                return y0 + (y1 - y0) * (saved - x0) / (x1 - x0 or 1)
        return None


def read(file: Path) -> dict[tuple[Any, ...], Series]:
    """The series of a network, by (kind, policy, patch, bits, corruption, severity)."""
    rows: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for line in file.read_text().splitlines():
        found = json.loads(line)
        run = found["run"]
        key = tuple(run[k] for k in ("kind", "policy", "patch", "bits", "corruption", "severity"))
        rows[key].append(found)
    return {
        key: Series(name(lines[0]["run"]), lines[0]["run"], [line["levels"] for line in lines])
        for key, lines in rows.items()
    }


def name(run: Mapping[str, Any]) -> str:
    """Of a series, for tables and legends."""
    if run["kind"] == "ladder":
        return {"budget": "automatic ladder", "mean": "automatic, mean", "scaled": "automatic, scaled"}[run["policy"]]
    policy = {"mean": "paper (mean)", "scaled": "scaled", "budget": "one budget"}[run["policy"]]
    bits = f", {run['bits']} bits" if run["policy"] == "budget" and run["bits"] != 8 else ""
    return f"{policy}, patch {run['patch']}{bits}"


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Mean, and standard deviation where there are several."""
    if len(values) < 2:
        return f"{values[0]:+.{digits}f}"
    return f"{mean(values):+.{digits}f} ± {stdev(values):.{digits}f}"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    head = ["| " + " | ".join(columns) + " |", "|" + "|".join("---" for _ in columns) + "|"]
    return [*head, *("| " + " | ".join(row) + " |" for row in rows), ""]


# --- sections -------------------------------------------------------------------------------------------------------


def ladder_section(series: Series) -> list[str]:
    rows = []
    for i in range(1, series.count + 1):
        kept = [mean(r[i]["kept"].values()) for r in series.levels if r[i]["kept"]]
        rows.append(
            [
                str(i), f"{series.mean(i, 'saved'):.1f}", f"{series.mean(i, 'saved_half_adds'):.1f}",
                f"{series.mean(i, 'expected_saving'):.1f}", spread(series.drops(i)),
                f"{series.mean(i, 'agreement'):.1f}", f"{series.mean(i, 'expected_agreement'):.1f}",
                f"{mean(kept):.2f}" if kept else "-",
            ]
        )  # fmt: skip
    base = mean(rows_[0]["top1"] for rows_ in series.levels)
    columns = [
        "level", "saved %", "adds as half", "expected %", "top-1 change", "agreement %", "expected %", "kept",
    ]  # fmt: skip
    return [
        f"Level 0: {base:.2f} % top-1 on {series.frames} pictures; {len(series.levels)} seeds of the projections. "
        "No data was used for planning.",
        "",
        *table(columns, rows),
    ]


def comparison_section(found: Mapping[tuple[Any, ...], Series]) -> list[str]:
    clean = [s for s in found.values() if not s.key["corruption"]]
    rows = [
        [
            s.name, str(len(s.levels)), str(s.frames), f"{s.saved_at(0.5):.1f}", f"{s.saved_at(1.0):.1f}",
            f"{s.saved_at(PAPER_DROP):.1f}", _points(s.change_at(PAPER_SAVING)), f"{max(x for x, _ in s.curve()):.1f}",
        ]
        for s in sorted(clean, key=lambda s: -s.saved_at(PAPER_DROP))
    ]  # fmt: skip
    columns = [
        "setting", "seeds", "pictures", "saved % at -0.5", "at -1.0", f"at -{PAPER_DROP}",
        f"points at {PAPER_SAVING} %", "most saved %",
    ]  # fmt: skip
    return table(columns, rows)


def _points(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f}"


def corruption_section(found: Mapping[tuple[Any, ...], Series]) -> list[str]:
    series = [s for s in found.values() if s.key["corruption"]]
    if not series:
        return []
    shown = [i for i in (2, 4, 6, 8) if i <= min(s.count for s in series)]
    rows = [
        [
            f"{s.key['corruption']} {s.key['severity']}", f"{s.mean(0, 'top1'):.1f}",
            *(f"{s.mean(i, 'top1') - s.mean(0, 'top1'):+.1f} ({s.mean(i, 'saved'):.0f} %)" for i in shown),
        ]
        for s in sorted(series, key=lambda s: (s.key["corruption"], s.key["severity"]))
    ]  # fmt: skip
    columns = ["pictures", "top-1 at level 0", *(f"level {i} (saved)" for i in shown)]
    return [f"Corrupted pictures ({series[0].frames}, severities 1 to 3), one seed:", "", *table(columns, rows)]


def headline(name: str, found: Mapping[tuple[Any, ...], Series]) -> list[str]:
    """The paper's claim, our best, what dead channels alone give, and the falsifier."""
    lines = []
    paper = [s for s in found.values() if s.key["kind"] == "uniform" and s.key["policy"] == "mean"]
    reached = [(s.change_at(PAPER_SAVING), s) for s in paper if s.change_at(PAPER_SAVING) is not None]
    if reached:
        change, best = max(reached, key=lambda pair: pair[0] or 0.0)
        lines.append(
            f"- Paper mode, one L for all layers, at {PAPER_SAVING} % saved: {change:+.2f} points "
            f"({best.name}, {_bits_at(best, PAPER_SAVING)})."
        )
    elif paper:
        best = max(paper, key=lambda s: s.saved_at(PAPER_DROP))
        lines.append(f"- Paper mode does not reach {PAPER_SAVING} % here; at -{PAPER_DROP} it saves "
                     f"{best.saved_at(PAPER_DROP):.1f} % ({best.name}).")  # fmt: skip
    automatic = found.get(("ladder", "budget", 0, 8, "", 0))
    if automatic:
        at = automatic.change_at(PAPER_SAVING)
        lines.append(
            f"- The automatic ladder saves {automatic.saved_at(0.5):.1f} % at -0.5, {automatic.saved_at(1.0):.1f} % at "
            f"-1.0 and {automatic.saved_at(PAPER_DROP):.1f} % at -{PAPER_DROP} points"
            + (f"; at {PAPER_SAVING} % it changes top-1 by {at:+.2f}." if at is not None else ".")
        )
        hand = [s for s in found.values() if s.key["kind"] == "uniform" and not s.key["corruption"]]
        if hand:
            best = max(hand, key=lambda s: s.saved_at(PAPER_DROP))
            lines.append(
                f"- The best setting made by hand, the same for all layers, saves {best.saved_at(PAPER_DROP):.1f} % at "
                f"-{PAPER_DROP} ({best.name})."
            )
        saved, lost = FALSIFIER
        holds = automatic.saved_at(lost) >= saved
        lines.append(
            f"- Less than {saved:.0f} % saved for {lost:.0f} points would refute the method: it saves "
            f"{automatic.saved_at(lost):.1f} % for that, so it is " + ("not refuted." if holds else "refuted here.")
        )
    dead = found.get(("uniform", "budget", 8, 8, "", 0))
    if dead:
        saved = dead.mean(dead.count, "saved_kept_only")
        lines.append(
            f"- Dead channels alone (all zero on a patch of 8, skipped for free): {saved:.1f} % of all FLOPs. That is "
            "ReLU's doing, not the method's."
        )
    return [*lines, ""]


def _bits_at(series: Series, saved: float) -> str:
    """Between which numbers of bits a saving lies."""
    points = sorted((series.mean(i, "saved"), series.levels[0][i]["bits"]) for i in range(1, series.count + 1))
    below, above = [b for s, b in points if s <= saved], [b for s, b in points if s > saved]
    return f"L between {above[0]} and {below[-1]}" if below and above else f"L = {(below or above)[-1]}"


# --- plots ----------------------------------------------------------------------------------------------------------


def plot_curves(title: str, found: Mapping[tuple[Any, ...], Series], file: Path) -> None:
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for key, series in found.items():
        if series.key["corruption"] or series.key["bits"] != 8:
            continue
        points = [
            (series.mean(i, "saved"), series.drops(i))
            for i in range(1, series.count + 1)
            if series.mean(i, "saved") > 0
        ]
        points.sort(key=lambda point: point[0])
        errors = [stdev(d) if len(d) > 1 else 0.0 for _, d in points]
        ladder = key[0] == "ladder"
        axes.errorbar(
            [0.0, *(x for x, _ in points)], [0.0, *(mean(d) for _, d in points)], [0.0, *errors], marker="o",
            markersize=4, linewidth=2.2 if ladder else 1.2, linestyle="-" if ladder else "--", label=series.name,
        )  # fmt: skip
    axes.plot([PAPER_SAVING], [-PAPER_DROP], "k*", markersize=12, label="paper's claim, ResNet-34")
    axes.set(xlabel="FLOPs saved over the whole network, %", ylabel="change of top-1, points", title=title)
    axes.set_ylim(-12, 1.5)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="lower left")
    figure.savefig(file, dpi=110)
    plt.close(figure)


def plot_kept(title: str, series: Series, file: Path) -> None:
    """Kept ratio of every layer at every level, one seed; a layer that is dense at a level is white."""
    names = list(dict.fromkeys(node for row in series.levels[0] for node in row["kept"]))
    grid = [[row["kept"].get(node, float("nan")) for node in names] for row in series.levels[0][1:]]
    figure, axes = plt.subplots(figsize=(max(6, 0.27 * len(names)), 3.6), layout="constrained")
    image = axes.imshow(grid, aspect="auto", cmap="viridis", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axes.set_yticks(range(len(grid)), [str(i) for i in range(1, len(grid) + 1)])
    axes.set(ylabel="level", title=title)
    figure.colorbar(image, label="channels kept")
    figure.savefig(file, dpi=110)
    plt.close(figure)


# --- the page -------------------------------------------------------------------------------------------------------


def page(measured: Path, pictures: Path, report: Callable[[str], None]) -> str:
    lines = [
        "# Results",
        "",
        "Generated by `tools/write_results.py` of what `tools/measure_method.py` measured; no number is typed by hand. "
        "Pictures are CIFAR-10 test pictures that nothing was trained on or planned with; labels are used for "
        "reporting only. Savings are FLOPs of all convolutions and linear layers, with everything counted that merging "
        'itself costs ([method.md](method.md)); "adds as half" counts an addition or comparison as half an operation.',
        "",
        "What the settings mean: *automatic ladder* is what `haste-edge compile` does without any option: a budget for "
        "each layer, planned on noise. *paper (mean)* is one number of bits for all layers; *one budget* is one error "
        "budget for all layers.",
        "",
    ]  # fmt: skip
    for network in TITLES:
        file = measured / f"{network}.jsonl"
        if not file.exists():
            continue
        report(network)
        found = read(file)
        title = TITLES[network]
        lines += [f"## {title}", "", *headline(network, found)]
        automatic = found.get(("ladder", "budget", 0, 8, "", 0))
        if automatic:
            lines += ladder_section(automatic)
            plot_kept(f"{title}: channels kept", automatic, pictures / f"{network}-kept.png")
        plot_curves(title, found, pictures / f"{network}.png")
        lines += [f"![accuracy against FLOPs saved]({pictures.name}/{network}.png)", ""]
        if automatic:
            lines += [f"![channels kept]({pictures.name}/{network}-kept.png)", ""]
        lines += comparison_section(found) + corruption_section(found)
    lines += [
        "## Limits",
        "",
        "- The reference ResNet-34 is not as good as the paper's (about 93 %), and its maps end at 2x2 pixels: half of "
        "its FLOPs are in layers with 256 and 512 channels on a patch that is the whole map.",
        "- All networks are for CIFAR-10 pictures of 32x32. Nothing here says how ImageNet networks behave.",
        "- FLOPs are not time. `haste-edge evaluate` and `haste-run bench` tell what a level saves in time.",
        "- The expected agreement is that on noise, where networks are less sure than on pictures: it is too low.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measured", type=Path, default=Path("docs/results"), help="folder of NETWORK.jsonl")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    args = parser.parse_args()
    pictures = args.out / "results"
    pictures.mkdir(parents=True, exist_ok=True)
    (args.out / "results.md").write_text(page(args.measured, pictures, print))


if __name__ == "__main__":
    main()
