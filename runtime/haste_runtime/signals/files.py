"""Numbers in files: of /proc and /sys, and of one's own.

Every signal that reads files of the system takes the root of the file system, so that a test, or a container that has
the host's /sys elsewhere, can point it at another folder.
"""

from __future__ import annotations

import os
from pathlib import Path

from haste_runtime.errors import SignalError
from haste_runtime.signals.signal import Signal

ROOT = Path("/")


def text_of(path: Path) -> str:
    """The file's text without the newline; "" where it cannot be read."""
    try:
        return path.read_text("utf-8", errors="replace").strip("\0 \n")
    except OSError:
        return ""


def number_of(path: Path) -> float:
    """The number in a file. Raises OSError, and SignalError where it holds something else."""
    text = path.read_text("utf-8", errors="replace").strip()
    try:
        return float(text)
    except ValueError:
        raise SignalError(f"{path} holds {text[:40]!r}, which is not a number") from None


class FileNumber(Signal):
    """Any number in a file, such as one that another program writes: the value is ``scale`` times what it holds."""

    def __init__(self, path: str | os.PathLike[str], name: str, unit: str = "", *, scale: float = 1.0) -> None:
        super().__init__(name, unit)
        self._path, self._scale = Path(path), scale

    def measure(self) -> float | None:
        return self._scale * number_of(self._path)
