"""Lines of text over a serial port: an Arduino, a battery monitor, a GPS, another computer.

    session.follow(SerialPort("/dev/ttyUSB0", baudrate=115200, names=["battery"]), policy="policy.toml")

A thread of its own listens. It survives garbage, partial lines, a device that is unplugged and one that is not there
yet: it tries again, at first soon, then every ten seconds. Needs ``haste-runtime[serial]``.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from haste_runtime.errors import SignalError
from haste_runtime.signals.heard import Heard
from haste_runtime.signals.lines import Splitter, parse_line, readings_in
from haste_runtime.signals.signal import describe, require

LOG = logging.getLogger("haste_runtime")
READ_S = 0.2  # the longest that a read waits, and so the end of the thread too
FIRST_RETRY_S, LONGEST_RETRY_S = 0.5, 10.0
JOIN_S = 2.0
NOT_YET = "it has not been opened yet"

Parser = Callable[[str], Any]


class SerialPort(Heard):
    """Gives whatever names the lines hold (`haste_runtime.signals.lines`).

    url: of pyserial's ``serial_for_url``: /dev/ttyUSB0, COM3, socket://host:port, rfc2217://host:port, loop://.
    names: those that are expected, so that they are known to be missing before the first line. parser: a function from
    a line to a dict of numbers, to a number (of the only name in ``names``), or to None; what it raises is ignored, as
    the line is. stale_after_s: how long a value may be acted on. opened: for tests, instead of serial_for_url.
    """

    def __init__(
        self,
        url: str,
        baudrate: int = 115200,
        *,
        names: Iterable[str] = (),
        parser: Parser | None = None,
        stale_after_s: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
        opened: Callable[..., Any] | None = None,
    ) -> None:
        super().__init__(names, stale_after_s, clock)
        self._url, self._baudrate, self._parser = url, baudrate, parser or parse_line
        self._open = opened or require("serial", "serial", "A serial port").serial_for_url
        self._failure = NOT_YET  # why the port is not open; empty while it is
        self._unread = 0  # lines that were no readings
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def ignored(self) -> int:
        """How many lines were no readings."""
        return self._unread

    def trouble(self) -> str:
        return f"{self._url} cannot be read: {self._failure}" if self._failure else ""

    def start(self, period_s: float) -> None:
        if self._thread is not None:
            raise SignalError(f"{self._url} is being listened to already.", "Make another SerialPort.")
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._listen, args=(self._stop,), name="haste-signal-serial", daemon=True
        )
        self._thread.start()

    def _listen(self, stop: threading.Event) -> None:
        wait = FIRST_RETRY_S
        while not stop.is_set():
            try:
                with self._open(self._url, baudrate=self._baudrate, timeout=READ_S) as port:
                    self._told("")
                    wait = FIRST_RETRY_S
                    self._lines(port, stop)
            except Exception as error:  # pyserial raises SerialException, OSError, TypeError, termios.error ...
                self._told(describe(error))
            stop.wait(wait)
            wait = min(2 * wait, LONGEST_RETRY_S)

    def _lines(self, port: Any, stop: threading.Event) -> None:
        splitter = Splitter()
        while not stop.is_set():
            data = port.read(max(1, min(port.in_waiting, 4096)))
            for line in splitter.feed(data):
                self._line(line)

    def _line(self, line: str) -> None:
        try:
            found = self._parser(line)
        except Exception as error:
            LOG.debug("%s: the parser raised %s", self._url, describe(error))
            found = None
        if found is not None and not isinstance(found, Mapping) and len(self._expected) == 1:
            found = {self._expected[0]: found}
        values = readings_in(found)
        self.hear(values)
        if not values and line.strip():
            self._unread += 1

    def _told(self, failure: str) -> None:
        """A line in the log when the port is lost, and one when it is back; not one for each attempt."""
        if failure and self._failure in ("", NOT_YET):
            LOG.warning("The serial port %s cannot be read: %s. Trying again.", self._url, failure)
        elif not failure:
            LOG.info("The serial port %s is open.", self._url)
        self._failure = failure

    def close(self) -> None:
        self._stop.set()
        thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join(JOIN_S)
        self._failure = NOT_YET
