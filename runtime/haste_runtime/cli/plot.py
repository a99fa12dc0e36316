"""``haste-run plot``: draw what ``simulate --json`` or ``bench --soak`` told, for a device that has no matplotlib."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from haste_runtime.cli.charts import Panel, check_plot, save_panels
from haste_runtime.cli.common import print_json
from haste_runtime.errors import InputError

HINT = "Give what `haste-run simulate --json`, `bench --soak --json` or `bench --soak --out` wrote."


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="what `simulate --json`, `bench --soak --json` or --out wrote")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the .svg, .png or .pdf to write")


def run(options: argparse.Namespace) -> None:
    check_plot(options.output)
    content = read(options.file)
    try:
        draw = draw_day if "samples" in content else draw_soak
        draw(content, options.output)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise InputError(f"{options.file} cannot be drawn ({type(error).__name__}: {error}).", HINT) from None
    if options.json:
        print_json({"plot": str(options.output)})
    else:
        print(f"Plot: {options.output}")


def read(path: Path) -> dict[str, Any]:
    """One JSON object, or JSON lines with a head; of a file that several soaks went to, the last one. A last line that
    was not written completely is left out. Raises InputError."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}.", HINT) from None
    try:
        content = json.loads(text)
        rows = [] if "rows" in content or "samples" in content else [content]
    except ValueError:
        content, rows = {}, []
        for line in text.splitlines(keepends=True):
            if line.endswith("\n"):
                try:
                    rows.append(json.loads(line))
                except ValueError as error:
                    raise InputError(f"{path} is neither JSON nor JSON lines: {error}.", HINT) from None
    for row in rows:
        if isinstance(row, dict) and "haste_soak" in row:
            content = row | {"rows": []}
        elif "rows" in content:
            content["rows"].append(row)
    if not isinstance(content, dict) or not (content.get("rows") or content.get("samples")):
        raise InputError(f"{path} holds nothing to draw.", HINT)
    return content


def draw_day(result: dict[str, Any], path: Path) -> None:
    """The day of the governor beside the exact network's."""
    days = {name: samples for name, samples in result["samples"].items() if samples}
    hours = {name: [sample["hours"] for sample in samples] for name, samples in days.items()}

    def lines(key: str) -> dict[str, list[float | None]]:
        return {name: [sample[key] for sample in samples] for name, samples in days.items()}

    panels = [
        Panel("level", lines("level"), steps=True),
        Panel("frames/s", lines("fps")),
        Panel("battery, %", lines("battery")),
        Panel("processor, °C", lines("temperature")),
        Panel("clock, share", lines("clock")),
    ]
    rows = {row["name"]: row for row in result["days"]}
    governed = rows["governor"]
    title = f"{result['device']['name']}: {governed['frames_over_dense']:.2f} times the frames of the exact network"
    agreement = governed["agreement"]
    subtitle = f"simulated; {result['times']['about']}" + (
        "" if agreement is None else f"; expected agreement {agreement:.1f} %"
    )
    save_panels(panels, hours, path, title, subtitle, "hours")


def draw_soak(result: dict[str, Any], path: Path) -> None:
    """Percentiles, level, heat, clock and memory over time; what the computer does not tell is left out."""
    rows = result["rows"]
    minutes = [row["at"] / 60 for row in rows]
    panels = [Panel("ms", {name: [row["ms"][name] for row in rows] for name in ("p50", "p90")})]
    for label, key in (("mean level", "mean_level"), ("°C", "celsius"), ("MHz", "mhz"), ("memory, MB", "memory_mb")):
        values = [row[key] for row in rows]
        if any(value is not None for value in values):
            panels.append(Panel(label, {label: values}))
    if any(row["held_back"] for row in rows):
        panels.append(Panel("held back", {"held back": [float(bool(row["held_back"])) for row in rows]}, steps=True))
    hours = {name: minutes for panel in panels for name in panel.lines}
    cpu, title = result["cpu"], f"{Path(result['bundle']).name}: {rows[-1]['at'] / 60:.3g} minutes"
    subtitle = f"{cpu['board'] or cpu['model']}, {result['backend']} backend, since {result['began']}"
    save_panels(panels, hours, path, title, subtitle, "minutes")
