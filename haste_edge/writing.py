"""Files that appear under their name only when they are complete and proved."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from haste_runtime.bundle_errors import BundleWriteError


def check_place(out: Path, source: Path | None = None) -> None:
    """Before anything takes long. source: a file that ``out`` must not replace. Raises BundleWriteError."""
    if out.is_dir():
        raise BundleWriteError(f"{out} is a folder.", f"Give the name of the file to write, as in -o {out / 'net'}.")
    if not out.parent.is_dir():
        raise BundleWriteError(f"The folder {out.parent} does not exist.", f"Make it: mkdir -p {out.parent}")
    if source is not None and out.exists() and source.exists() and out.samefile(source):
        raise BundleWriteError(f"{out} is the bundle itself.", "Give another name with -o.")


@contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """A path beside ``out`` to write to. What is there when the block ends becomes ``out``, durably: the folder is
    synced too, where the system can. Nothing is left of it if the block raises.

    Raises BundleWriteError for any OSError, also the block's own.
    """
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        yield partial
        os.replace(partial, out)
        _sync_folder(out.parent)
    except OSError as error:
        raise BundleWriteError(f"{out} could not be written ({error.strerror or error}).") from error
    finally:
        partial.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
