"""Frames from a camera, over OpenCV, which is imported only here. A thread of its own keeps the newest one: a network
that is slower than the camera sees what is there now, not what was there a while ago."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haste_runtime.errors import InputError
from haste_runtime.service.sources.frame import Frame, FrameSource, SourceEnded

SILENT_S = 10.0  # a camera that gives nothing for so long is opened again
JOIN_S = 2.0


class Camera(FrameSource):
    """where: the number of a camera, a device, the URL of a stream, or a video file, which is read frame by frame."""

    def __init__(self, where: str, cv2: Any = None) -> None:
        self.name, self._where = f"camera:{where}", where
        try:
            self._cv2: Any = cv2 or import_module("cv2")
        except ImportError as error:
            raise InputError(
                f"A camera needs OpenCV, which cannot be imported ({error}).",
                "Install it: pip install opencv-python-headless, or apt install python3-opencv.",
            ) from None
        self._is_file = os.path.isfile(where)
        self._ready = threading.Condition()
        self._newest: NDArray[np.uint8] | None = None
        self._failure, self._number, self._heard = "", 0, 0.0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        capture = self._cv2.VideoCapture(int(self._where) if self._where.isdecimal() else self._where)
        if not capture.isOpened():
            capture.release()
            raise OSError(f"{self.name} cannot be opened")
        self._newest, self._failure, self._heard, self._stop = None, "", time.monotonic(), threading.Event()
        self._thread = threading.Thread(target=self._read, args=(capture, self._stop), name="haste-camera", daemon=True)
        self._thread.start()

    def _read(self, capture: Any, stop: threading.Event) -> None:
        try:
            while not stop.is_set():
                good, picture = capture.read()
                with self._ready:
                    if not good:
                        self._failure = "it gives no more pictures"
                        self._ready.notify()
                        return
                    while self._is_file and self._newest is not None and not stop.is_set():
                        self._ready.wait(0.1)  # no frame of a file is left out
                    self._newest, self._heard = picture, time.monotonic()
                    self._ready.notify()
        except Exception as error:  # whatever OpenCV raises
            with self._ready:
                self._failure = str(error) or type(error).__name__
                self._ready.notify()
        finally:
            with contextlib.suppress(Exception):
                capture.release()

    def next(self, timeout_s: float) -> Frame | None:
        with self._ready:
            if self._newest is None and not self._failure:
                self._ready.wait(timeout_s)
            picture, self._newest = self._newest, None
            self._ready.notify()
            if picture is None and self._failure:
                if self._is_file:
                    raise SourceEnded(f"{self.name} has no more frames.")
                raise OSError(f"{self.name}: {self._failure}")
            if picture is None and time.monotonic() - self._heard > SILENT_S:
                raise OSError(f"{self.name} has given nothing for {SILENT_S:g} s")
        if picture is None:
            return None
        self._number += 1
        return Frame(f"{self.name} {self._number}", np.ascontiguousarray(picture[:, :, ::-1]))  # OpenCV has BGR

    def close(self) -> None:
        self._stop.set()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(JOIN_S)
