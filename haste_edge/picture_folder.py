"""Pictures from a folder, of any sizes: its files, or, with labels, folders in it that are called like classes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from haste_edge.evaluate import BLOCK, DataError, Labels
from haste_runtime.preprocessing import read_image

SUFFIXES = (".png", ".jpg", ".jpeg", ".ppm", ".bmp", ".webp", ".npy")


class PictureFiles(Sequence[NDArray[np.uint8]]):
    """Pictures, uint8 (H, W, 3) RGB, each decoded when it is asked for; some are kept. Raises InputError then."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = tuple(files)
        self._read = lru_cache(BLOCK)(read_image)

    def __len__(self) -> int:
        return len(self.files)

    @overload
    def __getitem__(self, index: int) -> NDArray[np.uint8]: ...

    @overload
    def __getitem__(self, index: slice) -> PictureFiles: ...

    def __getitem__(self, index: int | slice) -> NDArray[np.uint8] | PictureFiles:
        if isinstance(index, slice):
            return PictureFiles(self.files[index])
        return self._read(self.files[index])


def read_folder(
    path: str | Path, classes: Sequence[str] = (), limit: int | None = None, labelled: bool = True
) -> tuple[PictureFiles, Labels | None]:
    """The pictures in a folder by name, and labels if they lie in folders called like classes, or by their numbers.

    limit: take so many, evenly from all. labelled: without, folders may be called anything, and count only where there
    are no pictures beside them. Raises DataError for a folder without pictures, one that has pictures both in itself
    and in folders, and for names of folders that are no class.
    """
    path = Path(path)
    own = _pictures(path)
    folders = {folder: _pictures(folder) for folder in sorted(path.iterdir()) if folder.is_dir()}
    folders = {folder: files for folder, files in folders.items() if files}
    if own and folders and labelled:
        raise DataError(
            f"{path} has pictures, and folders with pictures ({next(iter(folders)).name} ...).",
            "Put all of them into folders that are called like classes, or none.",
        )
    files = own or [file for some in folders.values() for file in some]
    if not files:
        raise DataError(f"There are no pictures in {path}.", f"Put files there that end in {', '.join(SUFFIXES)}.")
    taken = evenly(len(files), len(files) if limit is None else limit)
    chosen = PictureFiles([files[i] for i in taken])
    if own or not labelled:
        return chosen, None
    numbers = {folder: _label(folder.name, classes) for folder in folders}
    return chosen, np.array([numbers[file.parent] for file in chosen.files], np.int64)


def evenly(count: int, most: int) -> list[int]:
    """At most ``most`` of the numbers below ``count``, evenly spread."""
    taken = min(count, most)
    return [i * count // taken for i in range(taken)]


def _pictures(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())


def _label(name: str, classes: Sequence[str]) -> int:
    """A class's number by its name, or as it stands. Raises DataError."""
    if list(classes).count(name) == 1:
        return list(classes).index(name)
    if name.isdecimal():
        return int(name)
    many = "is the name of more than one class" if name in classes else "is not a class of this bundle"
    known = f"It has {', '.join(classes[:3])} and so on" if classes else "It has no names of classes"
    raise DataError(f"The folder {name!r} {many}.", f"{known}; a class's number, from 0, will do for a name, too.")
