"""A file of JSON lines that cannot fill the disk, nor stop the service when the disk is full.

When a file has reached its size it becomes ``NAME.1``, that one ``NAME.2``, and so on; the oldest is dropped. A line is
written whole or not at all. Lines that could not be written are counted, and told of in the first one that can.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LOG = logging.getLogger("haste_runtime")
RETRY_S = 1.0


class Journal:
    """Appends to ``path``; may be used from any thread. most_bytes: of one file. keep: how many of them, the one that
    grows among them. Nothing here raises; `lost` says how many lines went missing."""

    def __init__(self, path: str | os.PathLike[str], most_bytes: int = 1_000_000, keep: int = 3) -> None:
        self.path, self._most, self._keep = Path(path), most_bytes, max(1, keep)
        self.lost = 0
        self._untold = 0
        self._file: int | None = None
        self._tried, self._warned = -1e9, False
        self._lock = threading.Lock()

    def write(self, entry: Mapping[str, Any]) -> None:
        line = json.dumps(entry, allow_nan=False, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        trouble: OSError | None = None
        with self._lock:
            try:
                self._append(line)
            except OSError as error:
                self.lost += 1
                self._untold += 1
                self._close()
                if not self._warned:
                    self._warned, trouble = True, error
        if trouble is not None:  # without the lock: whoever hears of it may want to write it here
            LOG.warning("%s cannot be written (%s); the service goes on without.", self.path, trouble)

    def _append(self, line: bytes) -> None:
        if self._file is None:
            if time.monotonic() - self._tried < RETRY_S:
                raise OSError("it is tried again soon")
            self._tried = time.monotonic()
            self._open()
        elif not self._is_there():  # somebody has moved or deleted it
            self._close()
            self._open()
        if self._untold:
            gap = json.dumps({"event": "lines_lost", "lines": self._untold}).encode() + b"\n"
            self._put(gap)
            self._untold = 0
        self._put(line)
        self._warned = False

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def _is_there(self) -> bool:
        assert self._file is not None
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self._file))
        except FileNotFoundError:
            return False

    def _put(self, line: bytes) -> None:
        assert self._file is not None
        size = os.fstat(self._file).st_size
        if size and size + len(line) > self._most:
            self._rotate()
            size = 0
        written = os.write(self._file, line)
        if written < len(line):
            os.ftruncate(self._file, size)
            raise OSError(28, "the disk took only half a line")

    def _rotate(self) -> None:
        self._close()
        for number in range(self._keep - 1, 0, -1):
            older = self.path.with_name(f"{self.path.name}.{number}")
            newer = self.path if number == 1 else self.path.with_name(f"{self.path.name}.{number - 1}")
            if newer.exists():
                os.replace(newer, older)
        if self._keep == 1:
            self.path.unlink(missing_ok=True)
        self._open()

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            try:
                os.close(file)
            except OSError as error:
                LOG.debug("%s: %s", self.path, error)

    def close(self) -> None:
        with self._lock:
            self._close()
