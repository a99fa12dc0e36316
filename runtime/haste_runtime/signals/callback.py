"""A plain function as a signal: it returns a number, or None while it knows none, and may raise."""

from __future__ import annotations

import math
from collections.abc import Callable

from haste_runtime.errors import SignalError
from haste_runtime.signals.reading import KNOWN
from haste_runtime.signals.signal import Signal


class Callback(Signal):
    """``function()`` is called in a thread of its own, about once per period of the policy; it may block.

    unit, low, high: for a name such as "battery", whose meaning is known (`KNOWN`), they need not be given.
    """

    may_block = True

    def __init__(
        self,
        function: Callable[[], float | None],
        name: str,
        unit: str = "",
        *,
        low: float | None = None,
        high: float | None = None,
    ) -> None:
        usual, lowest, highest = KNOWN.get(name, ("", -math.inf, math.inf))
        low, high = lowest if low is None else low, highest if high is None else high
        super().__init__(name, unit or usual, low=low, high=high)
        if not callable(function):
            raise SignalError(
                f"The signal {name!r} was given {type(function).__name__} instead of a function.",
                "Give a function without arguments that returns a number or None, not its result.",
            )
        self._function = function

    def measure(self) -> float | None:
        return self._function()
