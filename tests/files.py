"""Files for tests that write one again and again."""

from __future__ import annotations

from pathlib import Path


def write_anew(path: Path, data: bytes) -> None:
    """Like ``path.write_bytes``, but never into a file that is there: ext4 makes one who overwrites a file wait for
    the disk when it is closed (its option auto_da_alloc), and a test that does so a thousand times takes minutes."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)
