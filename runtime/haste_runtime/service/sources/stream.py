"""Frames from a stream of bytes: standard input, or a serial port. A thread reads and cuts; a few frames wait at most.

Standard input then makes its writer wait. A serial port cannot: what its buffer does not hold is lost, and the packets
that suffer from it are left out.
"""

from __future__ import annotations

import os
import queue
import select
import threading
from collections.abc import Callable
from typing import Any

from haste_runtime.service.sources.frame import Frame, FrameSource, SourceEnded
from haste_runtime.service.sources.packets import Packets, RawPictures
from haste_runtime.signals.signal import require

__all__ = ["Packets", "RawPictures", "SerialFrames", "Stdin"]

WAITING = 8  # frames that are cut and not taken yet
READ_S = 0.2
JOIN_S = 2.0
AT_ONCE = 1 << 16

Cutter = Callable[[], "RawPictures | Packets"]


class Stream(FrameSource):
    """Base of the two. cutter: makes what cuts the bytes into frames."""

    def __init__(self, name: str, cutter: Cutter) -> None:
        self.name, self._cutter = name, cutter
        self._queue: queue.Queue[Any] = queue.Queue(WAITING)
        self._stop, self._number = threading.Event(), 0
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        self._queue, self._stop = queue.Queue(WAITING), threading.Event()
        port = self._connect()
        self._thread = threading.Thread(
            target=self._read, args=(port, self._queue, self._stop), name="haste-source", daemon=True
        )
        self._thread.start()

    def _connect(self) -> Any:
        raise NotImplementedError

    def _bytes(self, port: Any) -> bytes | None:
        """What has come, b"" if nothing has in `READ_S`, None at the end."""
        raise NotImplementedError

    def _disconnect(self, port: Any) -> None: ...

    def _read(self, port: Any, frames: queue.Queue[Any], stop: threading.Event) -> None:
        last: BaseException = SourceEnded(f"{self.name} has ended.")
        cutter = self._cutter()
        try:
            while not stop.is_set():
                data = self._bytes(port)
                if data is None:
                    break
                for frame in cutter.feed(data):
                    self._put(frames, frame, stop)
        except Exception as error:  # of pyserial: SerialException, OSError, TypeError, termios.error ...
            last = error
        finally:
            self._disconnect(port)
        self._put(frames, last, stop)

    def _put(self, frames: queue.Queue[Any], frame: Any, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                frames.put(frame, timeout=READ_S)
                return
            except queue.Full:
                continue

    def next(self, timeout_s: float) -> Frame | None:
        try:
            frame = self._queue.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if isinstance(frame, BaseException):
            raise frame
        self._number += 1
        return Frame(f"{self.name} {self._number}", frame)

    def close(self) -> None:
        self._stop.set()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(JOIN_S)


class Stdin(Stream):
    """Standard input, or another file descriptor."""

    def __init__(self, cutter: Cutter, descriptor: int = 0) -> None:
        super().__init__("stdin", cutter)
        self._descriptor = descriptor

    def _connect(self) -> int:
        return self._descriptor

    def _bytes(self, port: int) -> bytes | None:
        if not select.select([port], [], [], READ_S)[0]:
            return b""
        return os.read(port, AT_ONCE) or None


class SerialFrames(Stream):
    """A serial port. where: what pyserial's ``serial_for_url`` takes, with ``@`` and a baud rate behind, if it is not
    115200: ``/dev/ttyUSB0@921600``."""

    def __init__(self, where: str, cutter: Cutter) -> None:
        super().__init__(f"serial:{where}", cutter)
        url, at, baudrate = where.rpartition("@")
        self._url, self._baudrate = (url, int(baudrate)) if at and baudrate.isdecimal() else (where, 115200)
        self._serial = require("serial", "serial", "A serial port")

    def _connect(self) -> Any:
        return self._serial.serial_for_url(self._url, baudrate=self._baudrate, timeout=READ_S)

    def _bytes(self, port: Any) -> bytes:
        return bytes(port.read(max(1, min(port.in_waiting, AT_ONCE))))

    def _disconnect(self, port: Any) -> None:
        port.close()
