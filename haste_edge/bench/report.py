"""A comparison as a table for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

COLUMNS = (
    "runtime", "version", ">ms p50", ">p90", ">CPU ms p50", ">of level 0", ">top-1 %", ">agreement %", ">memory MB",
    ">error",
)  # fmt: skip


def label(row: Mapping[str, Any]) -> str:
    return f"{row['runtime']} {row['variant']}".rstrip()


def ordered(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Our levels in order, then the others, the fastest first; those without a time last."""

    def place(row: Mapping[str, Any]) -> tuple[bool, float]:
        if row["level"] is not None:
            return False, row["level"]
        return True, row["wall_ms"]["median"] if row["wall_ms"] else float("inf")

    return sorted(rows, key=place)


def cells(row: Mapping[str, Any]) -> list[str]:
    """One row of the table, in the order of `COLUMNS`."""

    def shown(value: float | None, text: str) -> str:
        return "-" if value is None else text.format(value)

    wall, cpu = row["wall_ms"] or {}, row["cpu_ms"] or {}
    times = [shown(wall.get("median"), "{:.3f}"), shown(wall.get("p90"), "{:.3f}"), shown(cpu.get("median"), "{:.3f}")]
    own = row["level"] is not None  # agreement of another runtime would be level 0's with itself
    return [
        label(row),
        row["version"],
        *times,
        shown(row["relative"], "{:.2f}x"),
        shown(row["top1"], "{:.1f}"),
        shown(row["agreement"] if own else None, "{:.1f}"),
        shown(row["memory_mb"], "{:.0f}"),
        f"{row['largest_error']:.0e}" if not row["level"] else "",
    ]
