"""How busy the machine is, and how short of memory."""

from __future__ import annotations

import os
import re
from pathlib import Path

from haste_runtime.errors import SignalError
from haste_runtime.signals.files import ROOT
from haste_runtime.signals.signal import Signal


class Load(Signal):
    """``load``: processes that run or want to, per core, mean over a minute; 1 is fully busy. With
    ``memory_available``, percent, and ``memory_pressure`` and ``cpu_pressure``: percent of the last ten seconds in
    which some process waited for it (Linux 4.20 or newer)."""

    def __init__(self, root: Path = ROOT, cores: int | None = None) -> None:
        self._root, self._cores = root, cores or os.cpu_count() or 1
        pressures = (_Pressure("memory", root), _Pressure("cpu", root))
        super().__init__("load", low=0, companions=(_MemoryAvailable(root), *pressures))

    def measure(self) -> float | None:
        first = (self._root / "proc/loadavg").read_text("utf-8").split()[0]
        return float(first) / self._cores


class _MemoryAvailable(Signal):
    def __init__(self, root: Path) -> None:
        super().__init__("memory_available", "%", low=0, high=100)
        self._root = root

    def measure(self) -> float | None:
        path = self._root / "proc/meminfo"
        found = dict(re.findall(r"^(MemTotal|MemAvailable): +(\d+) kB$", path.read_text("utf-8"), re.MULTILINE))
        if len(found) != 2 or found["MemTotal"] == "0":
            raise SignalError(f"{path} does not tell what is available")
        return 100 * int(found["MemAvailable"]) / int(found["MemTotal"])


class _Pressure(Signal):
    def __init__(self, what: str, root: Path) -> None:
        super().__init__(f"{what}_pressure", "%", low=0, high=100)
        self._path = root / "proc/pressure" / what

    def measure(self) -> float | None:
        found = re.search(r"^some avg10=([\d.]+)", self._path.read_text("utf-8"), re.MULTILINE)
        if found is None:
            raise SignalError(f"{self._path} does not tell the pressure")
        return float(found[1])
