"""Tables that more than one subcommand prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from haste_edge.cli.common import print_table
from haste_edge.evaluate import LevelResult
from haste_runtime.plan import BUDGETED

NOISE = (
    "The agreement expected is that on the pictures of the plan. Without --images they are noise, on which networks "
    "are less sure than on real ones, so that of strong levels is too low: see haste-edge evaluate."
)


def size(count: float) -> str:
    """Bytes for people, in powers of ten."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def print_results(results: Sequence[LevelResult]) -> None:
    """One line a level. Levels that were interrupted have measured fewer pictures than the others."""
    columns = [">level", ">top-1 %", ">agreement %", ">FLOPs saved %", ">of mergeable layers %", ">ms p50", ">ms p90"]
    rows = [
        [
            str(r.level),
            percent(r.top1),
            percent(r.agreement),
            percent(r.flops_reduction_network),
            percent(r.flops_reduction),
            f"{r.ms_p50:.2f}",
            f"{r.ms_p90:.2f}",
        ]
        for r in results
    ]
    if len({r.frames for r in results}) > 1:
        columns.append(">pictures")
        rows = [[*row, str(r.frames)] for row, r in zip(rows, results, strict=True)]
    print_table(columns, rows)


def print_layers(summary: Mapping[str, Any]) -> None:
    """The plan, layer by layer. summary: of `haste_runtime.bundle.inspect_bundle`."""
    rows = []
    for layer in summary["layers"]:
        kernel = "x".join(map(str, layer["kernel"])) + (
            f", stride {layer['stride'][0]}" if max(layer["stride"]) > 1 else ""
        )
        if layer["groups"] > 1:
            kernel += f", {layer['groups']} groups"
        variants = layer["variants"]
        choices = [level["choices"].get(layer["name"]) for level in summary["levels"][1:]]
        merging = "; ".join(
            _variant(v, [c["bits"] for c in choices if c and c["variant"] == i]) for i, v in enumerate(variants)
        )
        strengths = " ".join("." if choice is None else _strength(variants, choice) for choice in choices)
        shapes = " -> ".join("x".join(map(str, layer[key])) for key in ("input", "output"))
        reason = layer["reason"] or layer["why_not"]
        plain = _choice(layer["choice"], layer["algorithm"])
        rows.append([layer["name"], shapes, kernel, merging or plain, strengths if merging else "", reason])
    print_table(["layer", "shape", "kernel", "choice", "bits or budget at levels", "reason"], rows)


def _choice(text: str, algorithm: str) -> str:
    return text if algorithm == "direct" else f"{text}, {algorithm}"


def _variant(variant: Mapping[str, Any], bits: list[int]) -> str:
    """bits: in use at the levels that merge by it; told where the column of levels tells budgets instead."""
    text = _choice(f"{variant['policy']}, patch {variant['patch']}", variant["algorithm"])
    if variant["policy"] not in BUDGETED or not bits:
        return text
    return f"{text}, {min(bits)} bits" if min(bits) == max(bits) else f"{text}, {min(bits)} to {max(bits)} bits"


def _strength(variants: Sequence[Mapping[str, Any]], choice: Mapping[str, Any]) -> str:
    """The setting that decides how strongly a layer merges at a level."""
    return f"{choice['budget']:.3g}" if variants[choice["variant"]]["policy"] in BUDGETED else str(choice["bits"])


def print_levels(summary: Mapping[str, Any]) -> None:
    """The ladder as the compiler expects it."""
    columns = [
        ">level",
        ">merged layers",
        ">FLOPs saved % (expected)",
        ">of mergeable layers %",
        ">agreement % (expected)",
    ]
    rows = [
        [
            str(level["level"]),
            str(level["merged_layers"]),
            percent(level["flops_reduction_network"]),
            percent(level["flops_reduction"]),
            percent(level["agreement"]),
        ]
        for level in summary["levels"]
    ]
    print_table(columns, rows)
    if any(level["agreement"] is not None and level["level"] for level in summary["levels"]):
        print(NOISE)
