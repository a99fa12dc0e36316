"""Frames from files: the pictures of a folder, also those that come later, or the rows of a ``.npy``."""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haste_runtime.errors import InputError
from haste_runtime.preprocessing import read_image
from haste_runtime.service.sources.frame import BadFrame, Frame, FrameSource, SourceEnded

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff", ".npy")
POLL_S = 0.1


class Folder(FrameSource):
    """The pictures in a folder and those below it, by name. watch: then wait for new and changed ones; a file counts
    once two looks have found it the same, so that none is read while it is written. repeat: begin again at the end."""

    def __init__(self, path: Path, *, watch: bool = False, repeat: bool = False) -> None:
        self.name, self._path, self._watch, self._repeat = f"dir:{path}", path, watch, repeat
        self._waiting: deque[Path] = deque()
        self._done: dict[Path, tuple[int, int]] = {}  # as they were when they were read
        self._before: dict[Path, tuple[int, int]] = {}  # as they were at the look before
        self._looked = -1.0

    def open(self) -> None:
        self._before = self._look()
        if not self._watch:
            if not self._before:
                raise InputError(f"There is no picture in {self._path}.", f"Known are {' '.join(PICTURES)}.")
            self._waiting = deque(self._before)

    def next(self, timeout_s: float) -> Frame | None:
        if not self._waiting and self._watch:
            self._wait(timeout_s)
        elif not self._waiting:
            if not self._repeat:
                raise SourceEnded(f"{self.name} has no more pictures.")
            self.open()
        if not self._waiting:
            return None
        path = self._waiting.popleft()
        try:
            return Frame(str(path.relative_to(self._path)), read_image(path))
        except InputError as error:
            raise BadFrame(error.message, error.hint) from None

    def _wait(self, timeout_s: float) -> None:
        now = time.monotonic()
        if now - self._looked < POLL_S:
            time.sleep(min(timeout_s, POLL_S))
        self._looked, found = time.monotonic(), self._look()
        ready = [path for path, seen in found.items() if self._before.get(path) == seen != self._done.get(path)]
        self._done = {path: seen for path, seen in self._done.items() if path in found}
        self._done |= {path: found[path] for path in ready}
        self._before = found
        self._waiting.extend(ready)

    def _look(self) -> dict[Path, tuple[int, int]]:
        """Size and time of change of every picture. Raises OSError where the folder has gone."""
        if not self._path.is_dir():
            raise FileNotFoundError(f"there is no folder {self._path}")
        found = {}
        for path in sorted(self._path.rglob("*")):
            if path.suffix.lower() in PICTURES and not path.name.startswith("."):
                try:
                    status = path.stat()
                except OSError:
                    continue  # it has gone since
                found[path] = (status.st_size, status.st_mtime_ns)
        return found


class Npy(FrameSource):
    """The frames of one array: uint8 (N, H, W, 3) or one picture of it, else floats as the network takes them."""

    def __init__(self, path: Path, *, repeat: bool = False) -> None:
        self.name, self._path, self._repeat = f"npy:{path}", path, repeat
        self._frames: NDArray[Any] | None = None
        self._number = 0

    def open(self) -> None:
        try:
            frames: NDArray[Any] = np.lib.format.open_memmap(
                self._path, mode="r"
            )  # never unpickles, and checks the size first
        except (ValueError, EOFError) as error:
            raise InputError(f"{self._path} can't be read as a .npy array: {error}.") from None
        if frames.dtype.kind == "f" or frames.dtype == np.uint8:
            if frames.dtype == np.uint8 and frames.ndim == 3:
                frames = frames[np.newaxis]
            if frames.ndim > 1 and len(frames):
                self._frames, self._number = frames, 0
                return
        raise InputError(
            f"{self._path} holds {frames.dtype} of shape {frames.shape}.",
            "Needed are pictures, uint8 (N, H, W, 3), or floats with the network's input shape behind a first axis.",
        )

    def next(self, timeout_s: float) -> Frame | None:
        assert self._frames is not None
        if self._number == len(self._frames):
            if not self._repeat:
                raise SourceEnded(f"{self.name} has no more frames.")
            self._number = 0
        number, self._number = self._number, self._number + 1
        return Frame(f"{self._path.name}[{number}]", np.array(self._frames[number]))

    def close(self) -> None:
        self._frames = None
