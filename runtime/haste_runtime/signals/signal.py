"""Where numbers come from. A `Source` gives readings by name; a `Signal` is a source of one number.

Nothing here raises while it is being read: whatever goes wrong becomes a `Reading` that is not ok and says why. A
signal of one's own needs only `measure`:

    class Moisture(Signal):
        def __init__(self) -> None:
            super().__init__("moisture", "%", low=0, high=100)

        def measure(self) -> float | None:
            return read_my_probe()
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from haste_runtime.errors import SignalError
from haste_runtime.signals.reading import Reading, judge, missing

NAME = re.compile(r"[a-z_][a-z0-9_]*")
RESERVED = ("and", "not", "or")


def checked_name(name: str) -> str:
    """Names stand in policies, so they are as plain as there: lower case letters, digits, underscores."""
    if not isinstance(name, str) or not NAME.fullmatch(name) or name in RESERVED:
        raise SignalError(
            f"{name!r} cannot be the name of a signal.",
            "Use lower case letters, digits and underscores, beginning with a letter, such as battery_2.",
        )
    return name


def require(module: str, extra: str, purpose: str) -> Any:
    """An optional package. Raises SignalError that names the extra which brings it."""
    try:
        return import_module(module)
    except ImportError as error:
        raise SignalError(
            f"{purpose} needs the Python package {module.partition('.')[0]}, which cannot be imported ({error}).",
            f'Install it: pip install "haste-runtime[{extra}]"',
        ) from None


class Source:
    """Gives readings by name, when asked. may_block: reading may take long, so a thread of its own does it."""

    may_block = False

    @property
    def names(self) -> tuple[str, ...]:
        """What it is known to give; more may come."""
        return ()

    def start(self, period_s: float) -> None:
        """Called once before the first reading; ``period_s`` is how often it will be asked."""

    def readings(self, now: float) -> dict[str, Reading]:
        """All readings at ``now``, seconds of a monotonic clock. Never raises."""
        raise NotImplementedError

    def close(self) -> None:
        """Give back what is open; closing twice is harmless. It may be started anew, to be followed once more."""


class Signal(Source):
    """One number with a name. Subclasses implement `measure`, which may raise whatever it likes.

    low, high: what is plausible; beyond, the reading is not ok. companions: signals that come along with this one, as
    `charging` does with `battery`; filters leave them alone.
    """

    def __init__(
        self,
        name: str,
        unit: str = "",
        *,
        low: float = -math.inf,
        high: float = math.inf,
        companions: Sequence[Signal] = (),
    ) -> None:
        self.name, self.unit, self.low, self.high = checked_name(name), unit, low, high
        self.companions = tuple(companions)

    def measure(self) -> float | None:
        """The number now, in `unit`; None where there is none."""
        raise NotImplementedError

    def read(self, now: float) -> Reading:
        """The reading at ``now``. Never raises."""
        try:
            value = self.measure()
        except Exception as error:
            return missing(describe(error), self.unit, now)
        return judge(value, self.unit, now, self.low, self.high)

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *(companion.name for companion in self.companions))

    def readings(self, now: float) -> dict[str, Reading]:
        return {signal.name: signal.read(now) for signal in (self, *self.companions)}


def describe(error: BaseException) -> str:
    """An exception in one line. What we raise ourselves is a sentence already."""
    text = str(error).splitlines()[0] if str(error) else ""
    if isinstance(error, SignalError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
