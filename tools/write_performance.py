"""Make docs/performance.md and its plots of what tools/measure_performance.py measured.

    python tools/write_performance.py --measured docs/results/performance --out docs

Nothing is measured here, and no number is typed by hand. What was hoped for stands beside what came out.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from haste_edge.bench.plot import save_comparison_plot
from haste_edge.bench.report import label, ordered

TITLES = {
    "resnet20": "ResNet-20",
    "resnet56": "ResNet-56",
    "resnet34": "ResNet-34",
    "resnet34-int8": "ResNet-34, weights stored as int8",
    "demo": "The demo network",
    "demo-images": "The demo network, planned on pictures",
}
KERNELS = "kernels"  # the file of single layers
UNMERGED = 0.95  # share of channels kept from which a layer counts as one where nothing merges
LOST = 4  # groups of layers that are named as those that lose most
OUTSIDE = 0.05  # share of a frame outside kernels that is worth a word
NOTES = {
    "demo-images": "Its levels were chosen with `--images`, on a thousand pictures without their labels, others than "
    "those that tell the accuracy; those of all other networks on noise. There are 16 (`--levels 16`), so that one "
    "loses nearly as much as it may."
}
OLDER = (
    "Measured before bundles were planned for the computer as measured, and with Python's own time in the share of "
    "hash: it is less."
)
Result = Mapping[str, Any]
Row = Mapping[str, Any]


# --- what the measurements say -------------------------------------------------------------------------------------


def level_row(result: Result, level: int) -> Row:
    return next(row for row in result["bench"]["rows"] if row["level"] == level)


def peers(result: Result) -> list[Row]:
    """Others that were timed, the fastest first."""
    return [row for row in ordered(result["bench"]["rows"]) if row["level"] is None and row["wall_ms"]]


def drop(result: Result, level: int) -> float:
    """Points of top-1 that a level loses."""
    return float(level_row(result, 0)["top1"] - level_row(result, level)["top1"])


def speedup(result: Result, level: int) -> float:
    """Over level 0, round by round."""
    return 1 / float(level_row(result, level)["relative"])


def over(row: Row, result: Result, level: int) -> float:
    """How many times as long as our level another takes, both beside level 0 in the same rounds."""
    return float(row["relative"] / level_row(result, level)["relative"])


def profile(result: Result, level: int) -> Mapping[str, Any]:
    found: Mapping[str, Any] = next(p for p in result["profile"]["levels"] if p["level"] == level)
    return found


def merged(layers: Sequence[Row]) -> list[Row]:
    return [layer for layer in layers if layer["stages"]]


def efficiency(layers: Sequence[Row]) -> float | None:
    """Share of time saved over share of arithmetic saved, both summed over the merged layers; None where none saves."""
    those = merged(layers)
    dense, macs = sum(row["dense_ms"] for row in those), sum(row["macs"] for row in those)
    if not those or macs == sum(row["executed"] for row in those):
        return None
    saved = 1 - sum(row["executed"] for row in those) / macs
    return (1 - sum(row["ms"] for row in those) / dense) / saved


def overhead(layers: Sequence[Row]) -> tuple[float, float] | None:
    """(time over dense time, share of channels kept) of the merged layers together."""
    those = merged(layers)
    if not those:
        return None
    dense = sum(row["dense_ms"] for row in those)
    return sum(row["ms"] for row in those) / dense, sum(row["kept"] * row["dense_ms"] for row in those) / dense


def of_peak(layer: Row) -> float:
    """Share of the measured multiply-add peak that a layer of `KERNELS` reaches."""
    return float(layer["gmacs_per_second"] / layer["peak"])


def groups(layers: Sequence[Row]) -> list[dict[str, Any]]:
    """Layers of the same operation, algorithm and shape together, in the order of the first of each."""
    found: dict[tuple[str, str], list[Row]] = {}
    for layer in layers:
        winograd = f", Winograd {layer['algorithm'][-1]}" if layer["algorithm"].startswith("winograd") else ""
        found.setdefault((layer["operation"] + winograd, layer["shape"]), []).append(layer)
    return [_group(operation, shape, rows) for (operation, shape), rows in found.items()]


def _group(operation: str, shape: str, rows: Sequence[Row]) -> dict[str, Any]:
    ms = sum(row["ms"] for row in rows)
    those = merged(rows)
    stages = {}
    if those:
        spent = sum(row["ms"] for row in those) or 1.0
        stages = {name: sum(row["stages"][name] for row in those) / spent for name in those[0]["stages"]}
    return {
        "operation": operation, "shape": shape, "count": len(rows), "ms": ms, "macs": sum(row["macs"] for row in rows),
        "bound_ms": sum(row["bound_ms"] for row in rows), "bound_by": rows[0]["bound_by"],
        "weight_bytes": sum(row["weight_bytes"] for row in rows), "merged": len(those), "stages": stages,
        "kept": sum(row["kept"] for row in those) / len(those) if those else None,
    }  # fmt: skip


# --- goals ---------------------------------------------------------------------------------------------------------


def goals(results: Mapping[str, Result], kernels: Result | None = None) -> Iterator[tuple[str, str, bool]]:
    """(what was hoped for, what came out, whether it is reached), as far as it was measured."""
    if kernels:
        share = [of_peak(layer) for layer in kernels["layers"]]
        said = f"{100 * min(share):.0f} to {100 * max(share):.0f} %"
        yield "Dense 3x3 kernel at 64 to 256 channels: 75 % of the multiply-add peak", said, min(share) >= 0.75
    for name, result in results.items():
        if name in ("resnet34-int8", "demo-images") or not peers(result):
            continue
        rows = {label(row): over(row, result, 0) for row in peers(result)}
        for other in ("litert", "ncnn"):
            own = [times for who, times in rows.items() if who.split()[0] == other]
            if own:
                said = f"it takes {min(own):.2f} times as long as level 0"
                yield f"{TITLES[name]}: level 0 at least as fast as {other}", said, min(own) >= 1
        fastest, times = min(rows.items(), key=lambda item: item[1])
        said = f"{1 / times:.2f} times as long as {fastest}"
        yield f"{TITLES[name]}: level 0 within 10 % of the fastest", said, 1 / times <= 1.1
    for name, wanted in (("resnet34", 1.5), ("demo", 1.3), ("demo-images", 1.3)):
        if name in results:
            result, level = results[name], results[name]["chosen_level"]
            said = f"level {level}: {speedup(result, level):.2f}x, {drop(result, level):.2f} points"
            yield f"{TITLES[name]}: {wanted}x over level 0 for 1.25 points", said, speedup(result, level) >= wanted
    if "resnet34" in results:
        yield from _resnet34(results["resnet34"])
    both = results.get("resnet34-int8"), results.get("resnet34")
    if both[0] and peers(both[0]) and both[1]:
        result = both[0]
        lost = float(level_row(both[1], 0)["top1"] - level_row(result, result["chosen_level"])["top1"])
        times = min(over(row, result, result["chosen_level"]) for row in peers(result))
        said = f"level {result['chosen_level']}: {times:.2f}x, {lost:.2f} points in all"
        wanted_text = "ResNet-34 with int8 weights: 1.8x faster than every fp32 runtime for 1.25 points"
        yield wanted_text, said, times >= 1.8 and lost <= 1.25
    if "resnet20" in results:
        outside = profile(results["resnet20"], 0)["outside_kernels"]
        yield "ResNet-20: under 5 % of level 0 outside kernels", f"{100 * outside:.1f} %", outside < 0.05


def _resnet34(result: Result) -> Iterator[tuple[str, str, bool]]:
    level = result["chosen_level"]
    if peers(result):
        times = min(over(row, result, level) for row in peers(result))
        yield "ResNet-34: that level faster than every dense runtime", f"{times:.2f}x the fastest", times > 1
    found = efficiency(profile(result, level)["layers"])
    if found is not None:
        text = "ResNet-34: share of time saved over share of FLOPs saved, merged layers: 0.85"
        yield text, f"{found:.2f} at level {level}", found >= 0.85
    cost = overhead([row for row in result["noise"]["layers"] if (row["kept"] or 0) > UNMERGED])
    if cost is not None:
        said = f"{100 * (cost[0] - 1):+.1f} % with {100 * cost[1]:.1f} % of channels kept (white noise, no budget)"
        yield "ResNet-34: merging costs at most 8 % where nothing merges", said, cost[0] <= 1.08
    row = level_row(result, 0)
    if row["memory_mb"] is not None and row.get("kernels_mb") is not None:
        used = row["memory_mb"] - row["kernels_mb"]
        allowed = 1.3 * (result["bytes"]["constants"] + result["bytes"]["arena"]) / 1e6 + 8
        said = f"{used:.0f} MB, allowed {allowed:.0f} MB"
        yield "ResNet-34: resident over Python, numpy and LLVM, 1.3 x (weights + arena) + 8 MB", said, used <= allowed


# --- the page ------------------------------------------------------------------------------------------------------


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Markdown. A column whose name begins with ">" is set to the right."""
    head = "| " + " | ".join(column.lstrip(">") for column in columns) + " |"
    rule = "|" + "|".join("---:" if column.startswith(">") else "---" for column in columns) + "|"
    return [head, rule, *("| " + " | ".join(row) + " |" for row in rows), ""]


def number(value: float | None, form: str = ".2f") -> str:
    return "" if value is None else format(value, form)


def bench_section(result: Result) -> list[str]:
    rows = []
    for row in ordered(result["bench"]["rows"]):
        wall, cpu = row["wall_ms"] or {}, row["cpu_ms"] or {}
        own = row["level"] is not None
        rows.append([
            label(row), row["version"], number(wall.get("median"), ".3f"), number(wall.get("p90"), ".3f"),
            number(cpu.get("median"), ".3f"), number(row["relative"]), number(row["top1"] if own else None, ".1f"),
            number(row["memory_mb"], ".0f"), row["settings"],
        ])  # fmt: skip
    columns = ["runtime", "version", ">ms, median", ">p90", ">CPU ms", ">of level 0", ">top-1 %", ">memory MB", "how"]
    lines = table(columns, rows)
    lines += [f"- {missing['runtime']} took no part: {missing['reason']}" for missing in result["bench"]["missing"]]
    return [*lines, ""] if result["bench"]["missing"] else lines


def profile_section(result: Result, level: int) -> list[str]:
    found = profile(result, level)
    total = sum(layer["ms"] for layer in found["layers"]) or 1.0
    rows = []
    for group in groups(found["layers"]):
        if group["ms"] < 0.002 * total:
            continue
        stages = " / ".join(f"{100 * share:.0f}" for share in group["stages"].values())
        best = 100 * group["bound_ms"] / group["ms"] if group["macs"] else None
        rows.append([
            f"{group['count']}x" if group["count"] > 1 else "", group["operation"], group["shape"],
            number(group["ms"], ".3f"), number(100 * group["ms"] / total, ".1f"),
            number(group["macs"] / group["ms"] / 1e6 if group["macs"] else None, ".1f"), number(best, ".0f"),
            group["bound_by"] if group["macs"] else "", number(group["kept"]), stages,
        ])  # fmt: skip
    columns = [
        ">layers", "operation", "shape", ">ms", ">% of frame", ">GMAC/s", ">% of best", "bound by", ">kept",
        "hash / group / merge / multiply, %",
    ]  # fmt: skip
    outside = f"{100 * found['outside_kernels']:.1f} % of it outside kernels"
    lines = [f"Level {level}: {found['frame_ms']:.3f} ms a frame, {outside}.", "", *table(columns, rows)]
    merging = efficiency(found["layers"])
    if merging is not None:
        those = merged(found["layers"])
        saved = 1 - sum(row["executed"] for row in those) / sum(row["macs"] for row in those)
        lines += [
            f"The merged layers save {100 * saved:.1f} % of their arithmetic and {100 * merging * saved:.1f} % of "
            f"their time, {merging:.2f} of the one for the other.",
            "",
        ]
    return lines


def losses(result: Result) -> list[str]:
    """Sentences on where time goes that the roofline does not ask for, the most first."""
    lines = []
    for level in sorted({0, result["chosen_level"]}):
        found = groups(profile(result, level)["layers"])
        found.sort(key=lambda group: group["bound_ms"] - group["ms"])
        for group in found[:LOST]:
            lost = group["ms"] - group["bound_ms"]
            if lost < 0.02 * profile(result, level)["frame_ms"]:
                continue
            which = f"{group['count']} x {group['operation']} {group['shape']}"
            above = f"{lost:.2f} ms of {group['ms']:.2f} ms above the bound"
            lines.append(f"- Level {level}, {which}: {above}. {why(group, result['profile'])}")
    return lines


def why(group: Mapping[str, Any], measured: Mapping[str, Any]) -> str:
    """A sentence. measured: the profile, with its roofline."""
    if group["merged"]:
        stage = max(group["stages"], key=lambda name: group["stages"][name])
        parts = {
            "merge": "making merged planes and filters: every filter of a channel in a group is read and added up",
            "hash": "quantising and hashing the channels",
            "group": "comparing channels to find groups",
            "multiply": "multiplying what is left",
        }
        return f"Most of it goes to {parts[stage]} ({100 * group['stages'][stage]:.0f} %)."
    megabytes = f"{group['weight_bytes'] / 1e6:.1f} MB of weights"
    if group["bound_by"] != "arithmetic":
        return f"It waits for {megabytes}, read from {group['bound_by']} in every frame."
    roofline, place = measured["roofline"], measured["weights_in"]
    reading = group["weight_bytes"] / roofline["gigabytes_per_second"][place]
    if reading > group["macs"] / roofline["gmacs_per_second"] / 2:
        return f"Its maps are so small that reading {megabytes} from {place} takes more than half as long."
    return "Its arithmetic does not reach the peak."


def comparison_losses(results: Mapping[str, Result]) -> list[str]:
    lines = []
    for name, result in results.items():
        faster = [(label(row), 1 / over(row, result, 0)) for row in peers(result) if over(row, result, 0) < 1]
        if faster:
            said = ", ".join(f"{who} ({times:.2f} times as long)" for who, times in faster)
            lines.append(f"- {TITLES[name]}: our level 0 is slower than {said}.")
        slower = [
            row["level"] for row in result["bench"]["rows"] if row["level"] and row["relative"] and row["relative"] > 1
        ]
        if slower:
            which = ", ".join(map(str, sorted(slower)))
            lines.append(f"- {TITLES[name]}: slower than level 0 itself: level {which}.")
        frame = profile(result, 0)
        if frame["outside_kernels"] >= OUTSIDE:
            lines.append(
                f"- {TITLES[name]}: of level 0, {1000 * frame['outside_ms']:.0f} of {1000 * frame['frame_ms']:.0f} "
                "microseconds are Python around the one compiled call: checking and copying the input, and the answer. "
                "Python's code and data have left the caches by the time a frame is through."
            )
    return lines


def computers(results: Mapping[str, Result]) -> list[list[str]]:
    """Rows of the page's head: each computer, and which networks were measured there if there are several."""
    found: dict[tuple[str, ...], list[str]] = {}
    for name, result in results.items():
        machine, roofline = result["bench"]["machine"], result["profile"]["roofline"]
        who = f"{machine['cpu']['model']} ({', '.join(machine['cpu']['features'])})"
        system = f"{machine['system']}, Python {machine['python']}, numpy {machine['numpy']}, numba {machine['numba']}"
        reads = ", ".join(f"{place} {speed:.0f}" for place, speed in roofline["gigabytes_per_second"].items())
        best = f"{roofline['gmacs_per_second']:.1f} GMAC/s; reading, GB/s: {reads}"
        found.setdefault((who, system, machine["date"]), []).append(f"{TITLES[name]}: {best}")
    lines = []
    for (who, system, date), rows in found.items():
        lines += [["processor", who], ["system", system], ["date", date]]
        lines.append(["one core at best (`python -m haste_runtime.roofline`)", "<br>".join(rows)])
    return lines


def kernel_section(kernels: Result) -> list[str]:
    rows = []
    for layer in kernels["layers"]:
        forms = ((layer["ms"], ".3f"), (layer["gmacs_per_second"], ".1f"), (layer["peak"], ".1f"))
        rows.append([layer["shape"], *(number(*form) for form in forms), number(100 * of_peak(layer), ".0f")])
    return [
        "## The kernel of dense convolution by itself",
        "",
        "Single 3x3 layers of the sizes that ResNets have on pictures of 224 pixels, computed directly, without "
        "Winograd's algorithms; the peak is measured in the same process. On maps as small as CIFAR's, further down, a "
        f"layer also waits for its weights. {kernels['cpu']}, {kernels['date']}.",
        "",
        *table(["shape", ">ms", ">GMAC/s", ">peak, GMAC/s", ">% of peak"], rows),
    ]


def page(results: Mapping[str, Result], pictures: Path, kernels: Result | None = None) -> str:
    first = next(iter(results.values()))
    lines = [
        "# Performance",
        "",
        "Generated by `tools/write_performance.py` of what `tools/measure_performance.py` measured; no number is typed "
        "by hand. FLOPs saved are in [results.md](results.md); this page is about time.",
        "",
        *table(["", ""], [
            *computers(results),
            ["threads", f"{first['bench']['threads']}, for all"],
            ["command", "`python tools/measure_performance.py --models FOLDER --data pictures.npz`"],
        ]),
        "No ARM board has been measured yet.",
        "",
        "How: `haste-edge bench` gives every runtime the same network, exported from the same torch program, in a "
        "process and an environment of its own. Outputs are compared first. In each of "
        f"{first['bench']['rounds']} rounds all take turns, in an order drawn anew, with a burst of about "
        f"{first['bench']['burst_ms']} ms. A frame's time is that of the Python call, from array to array. All compute "
        "in float32. *of level 0* is the time over that of our level 0 in the same round, median over rounds. *Memory* "
        "is what a process has over Python and numpy; LLVM and the kernels are a part of ours.",
        "",
        "## What was hoped for",
        "",
        *table(["goal", "measured", "reached"], [[goal, said, "yes" if ok else "**no**"] for goal, said, ok in
                                                 goals(results, kernels)]),
        *(kernel_section(kernels) if kernels else []),
    ]  # fmt: skip
    for name, result in results.items():
        plot = pictures / f"{name}.png"
        machine = result["bench"]["machine"]
        subtitle = f"{machine['cpu']['model']}, {result['bench']['threads']} thread, {machine['date']}"
        save_comparison_plot(result["bench"]["rows"], plot, f"{TITLES[name]}: latency against accuracy", subtitle)
        level = result["chosen_level"]
        lines += [
            f"## {TITLES[name]}",
            "",
            f"Accuracy on {result['pictures']} pictures. The fastest level that loses at most 1.25 points is level "
            f"{level}: {speedup(result, level):.2f}x over level 0, {drop(result, level):.2f} points.",
            "",
            *bench_section(result),
            f"![latency against top-1](results/performance/{plot.name})",
            "",
            f"Where the time goes; weights are read from: {result['profile']['weights_in']}. *% of best* is the least "
            "time that the core's peak and its reading speed allow for what is executed, over the time taken. "
            "Winograd's algorithms multiply less than is counted here, and may pass 100.",
            "",
            *([] if "target" in result else [OLDER, ""]),
            *([NOTES[name], ""] if name in NOTES else []),
        ]
        for shown in sorted({0, level}):
            lines += profile_section(result, shown)
    lines += ["## Where we lose, and why", "", *comparison_losses(results), ""]
    for name, result in results.items():
        said = losses(result)
        lines += [f"{TITLES[name]}:", "", *said, ""] if said else []
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measured", type=Path, default=Path("docs/results/performance"), help="folder of NAME.json")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    args = parser.parse_args()
    files = {name: args.measured / f"{name}.json" for name in TITLES}
    results = {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}
    if not results:
        raise SystemExit(f"There are no measurements in {args.measured}. Run tools/measure_performance.py first.")
    pictures = args.out / "results" / "performance"
    pictures.mkdir(parents=True, exist_ok=True)
    single = args.measured / f"{KERNELS}.json"
    kernels = json.loads(single.read_text()) if single.exists() else None
    (args.out / "performance.md").write_text(page(results, pictures, kernels))


if __name__ == "__main__":
    main()
