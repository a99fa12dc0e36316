"""Make docs/results.md and its plots of what tools/measure_method.py and tools/measure_ablations.py measured.

    python tools/write_results.py --measured docs/results --out docs

Reads NETWORK.jsonl and ablations/NETWORK.jsonl for each network, which docs/results/ keeps; nothing is measured here.
Every number in the page comes from these files.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from measure_ablations import SPARSITY
from measured import PAPER_DROP, PAPER_SAVING, Series, automatic_of, hand_made, read

from haste_edge.study.configuration import BASELINES, Configuration
from haste_edge.study.sweep import read_lines
from haste_runtime.plan import BUDGETED

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
    seeds = "nothing is random" if series.key["policy"] == "affine" else f"{len(series.levels)} seeds"
    return [
        f"Level 0: {base:.2f} % top-1 on {series.frames} pictures, of which one is {100 / series.frames:.2g} points; "
        f"{seeds}. No data was used for planning.",
        "",
        *table(columns, rows),
    ]


def by_hand_section(every: Mapping[str, Mapping[tuple[Any, ...], Series]]) -> list[str]:
    """The ladder that needs nothing from anybody beside the best that labels can choose, for every network."""
    rows = []
    for network, found in every.items():
        automatic, hand = automatic_of(found), hand_made(found)
        if automatic and hand and automatic.frames == hand.frames:
            ours, theirs = automatic.saved_at(PAPER_DROP), hand.saved_at(PAPER_DROP)
            rows.append([TITLES[network], f"{ours:.1f}", f"{theirs:.1f}", f"{ours - theirs:+.1f}", hand.name])
    if not rows:
        return []
    return [
        "## Beside settings made by hand",
        "",
        f"FLOPs saved at a drop of {PAPER_DROP} points. *By hand* is one policy, one patch size and one budget or "
        "number of bits for all layers, the best of all policies on patches of 4, 8 and 16: chosen by the labels of "
        "1,000 of the pictures, then measured like the automatic ladder, which saw neither labels nor pictures.",
        "",
        *table(["network", "automatic, saved %", "by hand, saved %", "difference", "chosen by hand"], rows),
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
    every = [s for s in found.values() if s.key["corruption"]]
    if not every:
        return []
    policy = next(p for p in ("affine", "budget") if any(s.key["policy"] == p for s in every))
    series = [s for s in every if s.key["policy"] == policy]
    shown = [i for i in (2, 4, 6, 8) if i <= min(s.count for s in series)]
    rows = [
        [
            f"{s.key['corruption']} {s.key['severity']}", f"{s.mean(0, 'top1'):.1f}",
            *(f"{s.mean(i, 'top1') - s.mean(0, 'top1'):+.1f} ({s.mean(i, 'saved'):.0f} %)" for i in shown),
        ]
        for s in sorted(series, key=lambda s: (s.key["corruption"], s.key["severity"]))
    ]  # fmt: skip
    columns = ["pictures", "top-1 at level 0", *(f"level {i} (saved)" for i in shown)]
    said = f"Corrupted pictures ({series[0].frames}, severities 1 to 3), policy {policy}:"
    return [said, "", *table(columns, rows)]


def ablation_section(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """What each choice in the paper's method is worth; lines: of tools/measure_ablations.py."""
    if not lines:
        return []
    runs: dict[Configuration, list[Mapping[str, Any]]] = {}
    for line in lines:
        runs.setdefault(replace(Configuration.from_json(line["configuration"]), seed=0), []).append(line)
    usual = next(c for c in runs if c.policy == "mean" and c.sparsity == SPARSITY)
    rows = [
        [
            _ablated(c, usual), spread([0.0 - line["drop"] for line in same]),
            f"{mean(line['flops_reduction_kept'] for line in same):.1f}",
            f"{mean(line['flops_reduction_network'] for line in same):.1f}",
        ]
        for c, same in sorted(runs.items(), key=lambda item: (item[0] != usual, item[0].baseline, item[0].policy))
    ]  # fmt: skip
    return [
        f"Ablations of the paper's method, L = {usual.bits}, patch {usual.patch}, {lines[0]['pictures']} pictures, "
        f"{len(runs[usual])} seeds. What stands instead of the hash keeps as many channels on every patch:",
        "",
        *table(["instead", "top-1 change", "saved by convolutions alone %", "saved, finding groups counted, %"], rows),
    ]


def _ablated(configuration: Configuration, usual: Configuration) -> str:
    """What differs from the paper's method."""
    if configuration == usual:
        return "nothing: the paper's"
    if configuration.policy == "mean":
        return f"{configuration.sparsity:.0%} of the projections' entries are zeros, not {usual.sparsity:.0%}"
    return BASELINES.get(configuration.policy, "channels scaled, not means (*scaled*)")


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
    automatic = automatic_of(found)
    if automatic:
        at = automatic.change_at(PAPER_SAVING)
        ours = automatic.key["policy"] == "affine"
        ladder = "automatic ladder" if ours else "ladder by the policy budget, which the compiler used before affine,"
        lines.append(
            f"- The {ladder} saves {automatic.saved_at(0.5):.1f} % at -0.5, {automatic.saved_at(1.0):.1f} % at "
            f"-1.0 and {automatic.saved_at(PAPER_DROP):.1f} % at -{PAPER_DROP} points"
            + (f"; at {PAPER_SAVING} % it changes top-1 by {at:+.2f}." if at is not None else ".")
        )
        hand = hand_made(found)
        if hand:
            lines.append(
                f"- The best setting made by hand, the same for all layers, saves {hand.saved_at(PAPER_DROP):.1f} % at "
                f"-{PAPER_DROP} ({hand.name})."
            )
        saved, lost = FALSIFIER
        holds = automatic.saved_at(lost) >= saved
        lines.append(
            f"- Less than {saved:.0f} % saved for {lost:.0f} points would refute the method: it saves "
            f"{automatic.saved_at(lost):.1f} % for that, so it is " + ("not refuted." if holds else "refuted here.")
        )
    without_budget = (found.get(("uniform", policy, 8, 8, "", 0)) for policy in BUDGETED)
    dead = next((series for series in without_budget if series), None)
    if dead:  # its last level
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


COLOURS = {"affine": "C0", "budget": "C1", "drop": "C2", "scaled": "C3", "mean": "C4"}
MARKERS = {4: "v", 8: "o", 16: "^"}  # by patch size


def plot_curves(title: str, found: Mapping[tuple[Any, ...], Series], file: Path) -> None:
    """A colour for each policy, a marker for each patch size, solid lines for ladders. What was measured again on more
    pictures is drawn instead of what was measured first."""
    figure, axes = plt.subplots(figsize=(10, 5), layout="constrained")
    again = {series.name for series in found.values() if series.key["kind"] == "hand"}
    for key, series in sorted(found.items(), key=lambda item: (item[0][0] != "ladder", item[1].name)):
        first = series.key["kind"] == "uniform" and series.name in again
        if series.key["corruption"] or series.key["bits"] != 8 or first:
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
            [0.0, *(x for x, _ in points)], [0.0, *(mean(d) for _, d in points)], [0.0, *errors],
            marker=MARKERS.get(series.key["patch"], "s"), color=COLOURS[series.key["policy"]], markersize=4,
            linewidth=2.2 if ladder else 1.0, linestyle="-" if ladder else "--", label=series.name,
        )  # fmt: skip
    axes.plot([PAPER_SAVING], [-PAPER_DROP], "k*", markersize=12, label="paper's claim, ResNet-34")
    axes.set(xlabel="FLOPs saved over the whole network, %", ylabel="change of top-1, points", title=title)
    axes.set_ylim(-12, 1.5)
    axes.grid(alpha=0.3)
    figure.legend(fontsize=8, loc="outside right upper")
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
        "Generated by `tools/write_results.py` of what `tools/measure_method.py` and `tools/measure_ablations.py` "
        "measured; no number is typed by hand. "
        "Pictures are CIFAR-10 test pictures that nothing was trained on or planned with; labels are used for "
        "reporting only. Savings are FLOPs of all convolutions and linear layers, with everything counted that merging "
        'itself costs ([method.md](method.md)); "adds as half" counts an addition or comparison as half an operation.',
        "",
        "What the settings mean: *automatic ladder* is what `haste-edge compile` does without any option: a budget for "
        "each layer, planned on noise. *paper (mean)* is one number of bits for all layers; *one budget* is one error "
        "budget for all layers. *budget* is the policy that came before *affine*, which the automatic ladder uses.",
        "",
    ]  # fmt: skip
    files = {network: measured / f"{network}.jsonl" for network in TITLES}
    every = {network: read(file) for network, file in files.items() if file.exists()}
    lines += by_hand_section(every)
    for network, found in every.items():
        report(network)
        title = TITLES[network]
        lines += [f"## {title}", "", *headline(network, found)]
        automatic = automatic_of(found)
        if automatic:
            lines += ladder_section(automatic)
            plot_kept(f"{title}: channels kept", automatic, pictures / f"{network}-kept.png")
        plot_curves(title, found, pictures / f"{network}.png")
        lines += [f"![accuracy against FLOPs saved]({pictures.name}/{network}.png)", ""]
        if automatic:
            lines += [f"![channels kept]({pictures.name}/{network}-kept.png)", ""]
        lines += comparison_section(found) + ablation_section(read_lines(measured / "ablations" / f"{network}.jsonl"))
        lines += corruption_section(found)
    lines += [
        "## Limits",
        "",
        "- The reference ResNet-34 is not as good as the paper's (about 93 %), and its maps end at 2x2 pixels: half of "
        "its FLOPs are in layers with 256 and 512 channels on a patch that is the whole map.",
        "- All networks are for CIFAR-10 pictures of 32x32. Nothing here says how ImageNet networks behave.",
        "- FLOPs are not time. `haste-edge evaluate` and `haste-run bench` tell what a level saves in time.",
        "- The expected agreement is that on noise, where networks are less sure of their answers than on pictures: of "
        "strong levels it is far too low. Planned on pictures (`--images`), it is about what others of that kind give.",
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
