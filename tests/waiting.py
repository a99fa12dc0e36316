"""Waiting for what other threads and processes do, ending them, and looking whether they are gone."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from typing import Any


def eventually(true: Callable[[], Any], seconds: float = 10) -> Any:
    """Waits until it is so, and returns what it gave; fails after ``seconds``."""
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end
        time.sleep(0.002)
    return found


def our_threads() -> list[str]:
    """Names of those that haste_runtime has started and that still run."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("haste-")]


def heed_ctrl_c() -> None:
    """A ``preexec_fn``: whoever starts the tests in the background has SIGINT ignored in them and their children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
