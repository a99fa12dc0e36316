"""Write docs/zoo.md out of docs/results/zoo.jsonl, which tools/run_zoo.py records.

    python tools/write_zoo.py

Nothing is measured here, and no number is typed by hand.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from run_zoo import ENVIRONMENT, RESULTS, Records
from write_performance import table
from zoo_export import SPREAD
from zoo_measure import ALLOWED, FRAMES, LEVELS, PATCHES
from zoo_members import BY_NAME, CLASSIFIER, DETECTOR, MEMBERS, NOT_CONVOLUTIONAL, RESOLUTION, SEGMENTATION, Member

PAGE = RESULTS.parents[1] / "zoo.md"
WANTED = 95.0  # percent of torchvision's convolutional classifiers
TITLES = {
    CLASSIFIER: "Classifiers", SEGMENTATION: "Segmentation", DETECTOR: "Detectors", RESOLUTION: "Super-resolution",
}  # fmt: skip

Record = Mapping[str, Any]

HEAD = """# The zoo: published architectures

Written by `python tools/write_zoo.py`; no number is typed by hand. What follows comes from

    python tools/run_zoo.py    # once more where it was interrupted: what is recorded is not done again

which sets up torchvision and timm in an environment of their own, writes each architecture as an ONNX file
(`torch.onnx.export` as it is by default, for one picture), compiles that file with `haste_edge.compile.compile_model`,
and appends what came of it to [results/zoo.jsonl](results/zoo.jsonl).
"""


def error_of(record: Record) -> float:
    """Of level 0, the larger of ours and of what the compiler found itself."""
    return float(max(record["error"], record["proof"]))


def good(record: Record) -> bool:
    """Compiled, with a level 0 that computes what the file does."""
    return record["state"] == "compiled" and error_of(record) < ALLOWED


def transformers(names: Sequence[str]) -> list[str]:
    return [name for name in names if name.startswith(NOT_CONVOLUTIONAL)]


def shortened(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


# --- what came out ---------------------------------------------------------------------------------------------------


def summary(found: Mapping[str, Record], classifiers: Sequence[str]) -> list[str]:
    """Sentences. classifiers: all names that torchvision has; none where they are not known."""
    left_out = transformers(classifiers)
    counted = [name for name in classifiers if name not in left_out] or [
        m.name for m in MEMBERS if (m.kind, m.source) == (CLASSIFIER, "torchvision")
    ]
    done = [found[name] for name in counted if name in found]
    passed = [record for record in done if good(record)]
    share = 100 * len(passed) / max(len(counted), 1)
    reached = "reached" if share >= WANTED else "not reached"
    lines = [
        f"**Of torchvision's {len(counted)} convolutional classifiers {len(passed)} ({share:.1f} %) compile with an "
        f"error of level 0 below {ALLOWED:.0e}** of the largest output; {WANTED:.0f} % were aimed at: {reached}."
    ]
    if len(done) < len(counted):
        missing = [name for name in counted if name not in found]
        lines.append(f"{len(missing)} of them have not been run yet: {shortened(missing)}.")
    if left_out:
        lines.append(f"Left out, being transformers: {shortened(left_out)}.")
    rest = [m for m in MEMBERS if m.name not in counted]
    known = [found[m.name] for m in rest if m.name in found]
    lines.append(f"Of {len(rest)} other networks {sum(map(good, known))} do" + ("." if len(known) == len(rest) else
        f"; {len(rest) - len(known)} have not been run yet: "
        f"{shortened([m.name for m in rest if m.name not in found])}."))  # fmt: skip
    compiled = [record for record in found.values() if record["state"] == "compiled"]
    if compiled:
        worst = max(compiled, key=error_of)
        lines.append(f"The largest error is {error_of(worst):.1e}, of `{worst['name']}`.")
    return lines


def notes(environment: Record, records: Sequence[Record]) -> list[str]:
    """How it was done: a list in Markdown."""
    versions = {**environment.get("versions", {})}
    there = ", ".join(f"{name} {version}" for name, version in versions.items())
    ours = ", ".join(f"{name} {version}" for name, version in environment.get("ours", {}).items())
    about = environment.get("machine", {})
    where = f" on {about['cpu']['model']}, numba {about['numba']}" if about else ""
    alone = all(record.get("alone") for record in records if record["state"] == "compiled")
    calibrated = sorted(
        {record.get("calibrated_on", "4 of smooth noise") for record in records if "opset" in record}, reverse=True
    )
    shared = "" if alone else " Other programs were running on that machine, so small differences say nothing."
    return [
        f"- **Files** are made with {there}; and compiled with {ours}.",
        "- **Weights** are random, from one seed, and made so that mistakes show: parameters that are one number "
        f"everywhere (biases, norms) get noise of deviation {SPREAD} added, and a pass over pictures "
        f"({'; in older files '.join(calibrated)}) scales each layer to give a deviation of one and sets the "
        "statistics of batch norms.",
        "- **Input**: 224 x 224 for most, also where the authors took larger pictures, as for EfficientNet and "
        "segmentation: shapes of layers and operators are the same, arithmetic is less.",
        f"- **Error**: the largest difference of level 0 from ONNX Runtime on the same file and {FRAMES} pictures, as "
        "a share of the largest output, in the runtime's fastest backend here; or what the compiler found when it "
        f"checked its bundle on white noise and in numpy, if that is larger. {ALLOWED:.0e} was allowed; compiling "
        "usually allows 1e-04.",
        "- **May merge**: the share of convolutions, and of all FLOPs of convolutions and linear layers, that the "
        "compiler considers at all: square kernels, one group, 16 channels or more.",
        f"- **Time**: milliseconds of processor time a picture, one thread{where}. Medians of rounds in which all "
        f"levels and ONNX Runtime take turns.{shared}",
    ]


def size(record: Record) -> str:
    return f"{record['channels']}x{record['size']}x{record['size']}"


def row(member: Member, record: Record) -> list[str]:
    parameters = f"{record['parameters'] / 1e6:.1f}" if "parameters" in record else ""
    begin = [f"`{member.name}`", size(record), parameters]
    if record["state"] != "compiled":
        return [*begin, "", record["state"], "", "", "", ""]
    flops = record["flops"]
    return [
        *begin, f"{flops / 1e9:.2f}", f"{error_of(record):.1e}", f"{record['may_merge']} of {record['convolutions']}",
        f"{100 * record['may_merge_flops'] / max(flops, 1):.0f}", f"{record['cpu_ms'][0]:.1f}",
        f"{record['onnxruntime_cpu_ms']:.1f}",
    ]  # fmt: skip


def networks(kind: str, found: Mapping[str, Record]) -> list[str]:
    members = [m for m in MEMBERS if m.kind == kind and m.name in found]
    if not members:
        return []
    columns = ["network", "input", ">M parameters", ">GFLOPs", ">error of level 0", ">layers that may merge",
               ">% of FLOPs", ">level 0, ms", ">ONNX Runtime, ms"]  # fmt: skip
    return [f"## {TITLES[kind]}", "", *table(columns, [row(m, found[m.name]) for m in members])]


def ladders(found: Mapping[str, Record]) -> list[str]:
    """Levels of those that have some: percent of FLOPs saved, and time."""
    planned = [found[m.name] for m in MEMBERS if m.name in found and found[m.name]["ladder"]]
    planned = [record for record in planned if record["state"] == "compiled"]
    if not planned:
        return []
    most = max(len(record["levels"]) for record in planned)
    counts = " or ".join(map(str, sorted({record["planned_on"] for record in planned})))
    rows = []
    for record in planned:
        cells = [
            f"{ms:.1f}" if level["level"] == 0 else f"{ms:.1f} ({level['flops_saved']:.0f} %)"
            for level, ms in zip(record["levels"], record["cpu_ms"], strict=True)
        ]
        rows.append([f"`{record['name']}`", *cells, *[""] * (most - len(cells)), f"{record['compile_seconds']:.0f}"])
    columns = ["network", *(f">level {level}, ms" for level in range(most)), ">s to compile"]
    return [
        "## Levels",
        "",
        f"One or two members of nearly each family have a ladder of up to {LEVELS} levels, planned by the compiler on "
        f"only {counts} pictures and with patches of {PATCHES[0]} or so (`--levels {LEVELS} --images FOLDER --patch "
        f"{PATCHES[0]}`), the others level 0 alone (`--levels 0`). In brackets: FLOPs of the network that the level "
        "saves, as planned. **Random weights have no accuracy to lose**, so these ladders say nothing of what levels "
        "cost: see [results.md](results.md) and [performance.md](performance.md) for trained networks. Here the point "
        "is that levels can be had, and how long they take.",
        "",
        *table(columns, rows),
    ]


def refusals(found: Mapping[str, Record]) -> list[str]:
    """Every reason in the compiler's words, with the networks that have it."""
    rows = []
    for state in ("refused", "differs", "failed"):
        reasons: dict[tuple[str, str], list[str]] = defaultdict(list)
        for record in found.values():
            if record["state"] != state:
                continue
            for refusal in record.get("refusals") or [{"operation": "", "reason": record["reason"], "hint": ""}]:
                key = refusal["operation"], f"{refusal['reason']} {refusal['hint']}".strip()
                if record["name"] not in reasons[key]:
                    reasons[key].append(record["name"])
        rows += [[state, shortened(names), op, why.replace("|", "\\|")] for (op, why), names in reasons.items()]
    if not rows:
        return ["## What is refused", "", "Nothing of what was run.", ""]
    return ["## What is refused", "", *table(["", "networks", "operation", "in the compiler's words"], rows)]


def page(records: Mapping[str, Record]) -> str:
    environment = records.get(ENVIRONMENT, {})
    found = {name: record for name, record in records.items() if name in BY_NAME}
    lines = [HEAD, *summary(found, environment.get("classifiers", [])), "", "## How", ""]
    lines += [*notes(environment, list(found.values())), ""]
    for kind in TITLES:
        lines += networks(kind, found)
    lines += [*refusals(found), *ladders(found)]
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--out", type=Path, default=PAGE)
    args = parser.parse_args()
    records = Records(args.results).found
    if not records:
        raise SystemExit(f"There are no records in {args.results}. Run tools/run_zoo.py first.")
    args.out.write_text(page(records))


if __name__ == "__main__":
    main()
