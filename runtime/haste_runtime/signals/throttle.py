"""The Raspberry Pi's account of being held back: ``vcgencmd get_throttled``, or the kernel's file with the same bits.

The file first: asking the firmware through vcgencmd can disturb other users of it, and starts a program each time.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from haste_runtime.errors import SignalError
from haste_runtime.signals.files import ROOT, text_of
from haste_runtime.signals.signal import Signal

# Raspberry Pi firmware: bit -> what is so now; the same 16 bits higher: since boot.
THROTTLE_BITS = {0: "under-voltage", 1: "frequency capped", 2: "throttled", 3: "soft temperature limit"}
COMMAND = ("vcgencmd", "get_throttled")


def throttle_flags(root: Path = ROOT, command: Sequence[str] = COMMAND) -> int | None:
    """The flags; None where the machine has none. The command is run only where the root is the real one, or where
    another command is given."""
    text = ""
    for path in sorted((root / "sys/devices/platform").glob("soc*/*firmware/get_throttled")):
        text = text or text_of(path)
    if not text and (root == ROOT or command != COMMAND) and shutil.which(command[0]):
        try:
            answer = subprocess.run(command, capture_output=True, text=True, timeout=2)
        except (OSError, subprocess.SubprocessError):
            return None
        text = answer.stdout.strip().rpartition("=")[2]
    try:
        return int(text, 16)
    except ValueError:
        return None


class Throttle(Signal):
    """``throttled``: 1 while the processor is held back now, for whatever reason; with ``under_voltage``,
    ``frequency_capped`` and ``soft_temperature_limit``, the reasons. root, command: for tests."""

    may_block = True

    def __init__(self, root: Path = ROOT, command: Sequence[str] = COMMAND) -> None:
        self._root, self._command = root, tuple(command)
        self._flags = 0
        reasons = [_Flag(self, bit) for bit in (0, 1, 3)]
        super().__init__("throttled", companions=reasons)

    def measure(self) -> float | None:
        flags = throttle_flags(self._root, self._command)
        if flags is None:
            self._flags = -1
            raise SignalError("this board does not tell whether it is throttled")
        self._flags = flags
        return bool(flags & 0b1111)

    def flag(self, bit: int) -> bool:
        """As of the last measurement of `throttled`: all four are asked for at once."""
        if self._flags < 0:
            raise SignalError("this board does not tell whether it is throttled")
        return bool(self._flags >> bit & 1)


class _Flag(Signal):
    def __init__(self, throttle: Throttle, bit: int) -> None:
        super().__init__(THROTTLE_BITS[bit].replace(" ", "_").replace("-", "_"))
        self._throttle, self._bit = throttle, bit

    def measure(self) -> float | None:
        return self._throttle.flag(self._bit)
