"""How long the modules and the kernels are: ``python3 tools/size_report.py [FOLDER ...]``.

Long ones are marked, not refused: a module over 400 lines may hold two ideas, a kernel over 80 two steps.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("haste_edge", "runtime/haste_runtime", "tools")
MODULE_LINES = 400
KERNEL_LINES = 80


def modules(folder: Path) -> Iterator[tuple[Path, str]]:
    """Path and source of each module below the folder, in the order of their names."""
    for path in sorted(folder.rglob("*.py")):
        yield path, path.read_text(encoding="utf-8")


def long_kernels(path: Path, source: str) -> Iterator[str]:
    """``name (lines)`` of each function over the mark, if the module is one of kernels."""
    if not any("kernels" in part for part in path.parts):
        return
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > KERNEL_LINES:
                yield f"{node.name} ({lines})"


def report(folder: Path) -> list[str]:
    """A line per module: its length, its path, and what is over a mark; then the folder's total."""
    rows, total = [], 0
    for path, source in modules(folder):
        lines = len(source.splitlines())
        total += lines
        remarks = [f"over {MODULE_LINES} lines"] if lines > MODULE_LINES else []
        remarks += [
            f"kernel over {KERNEL_LINES}: {kernel}" for kernel in long_kernels(path.relative_to(folder), source)
        ]
        rows.append(f"{lines:6d}  {path.relative_to(folder)}" + (f"  <- {', '.join(remarks)}" if remarks else ""))
    return [*rows, f"{total:6d}  in all"]


def main(folders: list[str]) -> None:
    for folder in [Path(f) for f in folders] or [ROOT / f for f in FOLDERS]:
        print(f"{folder.name}:")
        print("\n".join(report(folder)))


if __name__ == "__main__":
    main(sys.argv[1:])
