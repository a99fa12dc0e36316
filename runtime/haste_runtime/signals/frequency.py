"""The clock of the processor, which falls when it is hot or short of power."""

from __future__ import annotations

from pathlib import Path

from haste_runtime.errors import SignalError
from haste_runtime.signals.files import ROOT, number_of
from haste_runtime.signals.signal import Signal


class Frequency(Signal):
    """``frequency`` in MHz, mean of the cores; with ``frequency_share``, percent of what they can do at most."""

    def __init__(self, root: Path = ROOT) -> None:
        self._root = root
        super().__init__("frequency", "MHz", low=0, companions=(_Share(self),))

    def measure(self) -> float | None:
        return self.mean("scaling_cur_freq") / 1000

    def mean(self, file: str) -> float:
        """Of all cores, in kHz."""
        values = [number_of(path) for path in self._root.glob(f"sys/devices/system/cpu/cpu[0-9]*/cpufreq/{file}")]
        if not values:
            raise SignalError("the kernel does not tell the cores' frequency")
        return sum(values) / len(values)


class _Share(Signal):
    def __init__(self, frequency: Frequency) -> None:
        super().__init__("frequency_share", "%", low=0, high=200)
        self._frequency = frequency

    def measure(self) -> float | None:
        return 100 * self._frequency.mean("scaling_cur_freq") / self._frequency.mean("cpuinfo_max_freq")
