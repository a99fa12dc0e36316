"""Telling systemd how the service is: the protocol of sd_notify(3), which is one datagram each time.

Without systemd, NOTIFY_SOCKET is not set and nothing is sent.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Mapping


class Notifier:
    """ready, status, stopping and alive. environment: what systemd sets."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket: socket.socket | None = None
        if self._address.startswith(("/", "\0")):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)
        ours = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        limit = environment.get("WATCHDOG_USEC", "")
        self.watchdog_s = int(limit) / 1e6 if ours and limit.isdecimal() and int(limit) else None
        self._alive_at = -1e9

    def send(self, *lines: str) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):  # systemd's queue is full, or it has gone: no reason to stop
                self._socket.sendto("\n".join(lines).encode(), self._address)

    def starting(self, status: str, seconds: float) -> None:
        """It may take so long yet."""
        self.send(f"STATUS={status}", f"EXTEND_TIMEOUT_USEC={round(1e6 * seconds)}")

    def ready(self, status: str) -> None:
        self.send("READY=1", f"STATUS={status}")

    def status(self, status: str) -> None:
        self.send(f"STATUS={status}")

    def stopping(self) -> None:
        self.send("STOPPING=1", "STATUS=stopping")

    def alive(self) -> None:
        """For the watchdog: called often, sends as often as is needed, which is three times in its limit."""
        if self.watchdog_s is not None and time.monotonic() - self._alive_at >= self.watchdog_s / 3:
            self._alive_at = time.monotonic()
            self.send("WATCHDOG=1")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
