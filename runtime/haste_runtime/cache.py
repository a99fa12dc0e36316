"""Where the runtime may keep files of its own: compiled kernels, and what it measures of bundles whose own
folder is read-only."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

CACHE_VARIABLE = "HASTE_CACHE"


def cache_folders() -> list[Path]:
    """In order: $HASTE_CACHE, the user's cache folder, one in the temporary folder. They need not exist."""
    user = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folders = [Path(user) / "haste-edge", Path(tempfile.gettempdir()) / f"haste-edge-{os.getuid()}"]
    if os.environ.get(CACHE_VARIABLE):
        folders.insert(0, Path(os.environ[CACHE_VARIABLE]))
    return folders


def write_whole(path: Path, text: str) -> None:
    """Write a file at once or not at all: a reader never sees half of it. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
