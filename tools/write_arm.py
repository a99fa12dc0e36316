"""Write docs/arm.md from what measure_arm.py, compare_arm.py and cold_start_arm.py (all in tools) have measured.

python tools/write_arm.py
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Result = Mapping[str, Any]
ORDER = ("resnet20", "resnet56", "demo", "resnet34")
KINDS = ("same", "start")  # NAME.same.json is of compare_arm.py, NAME.start.json of cold_start_arm.py
WANTED = {"resnet20": 0.9, "demo": 0.65, "resnet34": 0.65}  # of the fewest, at the level that loses 1.25 points

HEAD = """# What networks take on an ARM processor, counted without a board

Written by `python tools/write_arm.py`.

**These are counts, not times.** QEMU imitates what a processor computes, not how fast: the numbers are the instructions
of one frame, Python's part of it included, on an emulated {cpu}. Two programs with the same count may take different
times, above all where one waits for memory. No board has been measured.

Every count is a mean over the same {frames} pictures of CIFAR-10, batch 1, float32, one thread, after one that is
not counted. The others are the newest releases that this emulator runs; their outputs agree with ours to 0.2 %. Top-1
is of {pictures} pictures. "of the fewest": beside the other runtime that takes the fewest.

    python tools/measure_arm.py --models FOLDER --data pictures.npz --wheel haste_runtime-...aarch64.whl
"""


def label(row: Mapping[str, Any], chosen: int) -> str:
    if row["level"] is None:
        return f"{row['runtime']} {row['version']} {row['variant']}".rstrip()
    return f"haste-edge, {row['runtime']}, level {row['level']}" + (" (chosen)" if row["level"] == chosen else "")


def fewest(result: Result) -> int | None:
    """Instructions of the other runtime that takes the fewest; None where none took part."""
    return min((row["instructions"] for row in result["rows"] if row["level"] is None), default=None)


def share(result: Result, level: int) -> float | None:
    """Of the native backend at a level, beside `fewest`."""
    least = fewest(result)
    own = [r["instructions"] for r in result["rows"] if r["runtime"] == "native" and r["level"] == level]
    return own[0] / least if own and least else None


def goal_lines(results: Sequence[Result]) -> list[str]:
    """What was aimed for, and what came of it."""
    lines = ["## Beside the aims", ""]
    lines += ["Aimed for: at level 0 no more instructions than the other runtime that takes the fewest; at the level"]
    lines += ["that loses 1.25 points of top-1 a share of them, by network.", ""]
    lines += ["| | level 0 of the fewest | | level | of the fewest | aimed for | |", "|---" * 7 + "|"]
    rows = []
    for result in results:
        exact, chosen = share(result, 0), share(result, result["chosen_level"])
        if exact is None or chosen is None or result["name"] not in WANTED:
            continue
        aim = WANTED[result["name"]]
        first, second = (f"{'met' if it else 'not met'}" for it in (exact <= 1, chosen <= aim))
        rows.append(
            f"| {result['name']} | {exact:.2f} | {first} | {result['chosen_level']} | {chosen:.2f} | {aim:.2f} | "
            f"{second} |"
        )
    return [*lines, *rows, ""] if rows else []


def start_lines(starts: Sequence[Result]) -> list[str]:
    """First starts."""
    if not starts:
        return []
    lines = ["## The first start", ""]
    lines += ["Emulated milliseconds from where numpy is imported until a session is ready, with nothing in a cache"]
    lines += [
        "(`tools/cold_start_arm.py`). Numba translates all kernels first; it was stopped where it took as long as"
    ]
    lines += ["the table says without being ready.", ""]
    lines += ["| | processor | native | Numba | native of Numba |", "|---|---|---|---|---|"]
    for one in starts:
        numba, bound = one["numba_ms"], one["numba_ms"] is None
        ms = one["limit_ms"] if bound else numba
        lines.append(
            f"| {one['bundle']} | {one['cpu']} | {one['native_ms']} | {'more than ' * bound}{ms} | "
            f"{'less than ' * bound}{one['native_ms'] / ms:.2f} |"
        )
    return [*lines, ""]


def network_lines(result: Result) -> list[str]:
    """The table of one network."""
    least = fewest(result)
    lines = [f"## {result['name']}", ""]
    lines += [f"Planned for the target `{result['target']}`, kernels of interface {result['abi']}; level"]
    lines += [
        f"{result['chosen_level']} is the one with fewest instructions that loses at most 1.25 points of top-1.",
        "",
    ]
    lines += ["| | millions of instructions a frame | of the fewest | top-1 % |"]
    lines += ["|---|---|---|---|"]
    for row in sorted(result["rows"], key=lambda row: (row["level"] is None, row["runtime"], row["level"] or 0)):
        relative = "" if not least else f"{row['instructions'] / least:.2f}"
        top1 = "" if row["top1"] is None else f"{row['top1']:.1f}"
        lines.append(
            f"| {label(row, result['chosen_level'])} | {row['instructions'] / 1e6:.2f} | {relative} | {top1} |"
        )
    lines += [""] + [f"{one['runtime']} takes no part: {one['reason']}\n" for one in result["missing"]]
    return lines


def loop_lines(results: Sequence[Result]) -> list[str]:
    """Inner loops, and what llvm-mca says of them."""
    lines = ["## Inner loops", ""]
    lines += ["The blocks in which most vector multiply-adds run, and cycles of one pass as llvm-mca estimates them,"]
    lines += [
        "with every load in the nearest cache and every jump foreseen, by LLVM's models of the cores. Code for one"
    ]
    lines += ["core, looked at as every core would run it. In brackets: multiply-adds a cycle.", ""]
    cores: list[str] = []
    rows = []
    for result in results:
        for level, loops in result["loops"].items():
            for loop in loops:
                cores = list(loop["cycles"])
                cells = [f"{c:.1f} ({loop['multiply_adds'] / c:.2f})" for c in loop["cycles"].values()]
                what = f"{loop['instructions']} instructions, {loop['multiply_adds']} multiply-adds"
                rows.append(f"| {result['name']}, {level} | {what} | {' | '.join(cells)} |")
    if not rows:
        return []
    return [*lines, f"| | loop | {' | '.join(cores)} |", "|---" * (2 + len(cores)) + "|", *rows, ""]


def same_lines(same: Sequence[Result]) -> list[str]:
    """How many pictures give the very bytes that the compiled code of another processor gives."""
    if not same:
        return []
    lines = ["## The same bytes as on x86-64", ""]
    lines += ["Pictures whose outputs are identical, byte for byte, to the compiled backend's on an x86-64 with"]
    lines += [
        "vectors as long (`tools/compare_arm.py`), all levels added up, and how often the top-1 is the same.",
        "",
    ]
    lines += ["| | processor | algorithms in the plan | levels | identical | same top-1 % | largest difference |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for one in same:
        levels = one["levels"]
        identical, pictures = (sum(level[key] for level in levels) for key in ("identical", "pictures"))
        top1 = 100 * sum(level["same_top1"] * level["pictures"] for level in levels) / pictures
        error = max(level["largest_error"] for level in levels)
        lines.append(
            f"| {one['bundle']} | {one['cpu']} | {', '.join(one['algorithms'])} | {len(levels)} | "
            f"{identical} of {pictures} | {top1:.1f} | {error:.0e} |"
        )
    return [*lines, ""]


def page(results: Sequence[Result], same: Sequence[Result], starts: Sequence[Result] = ()) -> str:
    ordered = sorted(results, key=lambda one: ORDER.index(one["name"]) if one["name"] in ORDER else len(ORDER))
    lines = []
    if ordered:
        first = ordered[0]
        frames = max(len(row["frames"]) for row in first["rows"])
        lines += [HEAD.format(cpu=first["cpu"], frames=frames, pictures=first["pictures"])]
    lines += goal_lines(ordered)
    for result in ordered:
        lines += network_lines(result)
    return "\n".join([*lines, *loop_lines(ordered), *same_lines(same), *start_lines(starts)]).rstrip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("docs/results/arm"))
    parser.add_argument("--out", type=Path, default=Path("docs/arm.md"))
    args = parser.parse_args()
    found: dict[str, list[Result]] = {"": [], **{kind: [] for kind in KINDS}}
    for path in sorted(args.results.glob("*.json")):
        kind = path.suffixes[0].strip(".") if len(path.suffixes) > 1 else ""
        found[kind].append(json.loads(path.read_text()))
    args.out.write_text(page(found[""], found["same"], found["start"]), encoding="utf-8")


if __name__ == "__main__":
    main()
