"""Temperature: the thermal zones of the kernel."""

from __future__ import annotations

from pathlib import Path

from haste_runtime.errors import SignalError
from haste_runtime.signals.files import ROOT, text_of
from haste_runtime.signals.signal import Signal

PLAUSIBLE_C = (-40.0, 150.0)  # zones that are off say 0 K, or -256 °C


def zones(root: Path = ROOT) -> list[tuple[float, str]]:
    """(degrees Celsius, type) of every zone that can be read and says something plausible."""
    found = []
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        text = text_of(zone / "temp")
        if text.lstrip("-").isdecimal():
            celsius = int(text) / 1000
            if PLAUSIBLE_C[0] <= celsius <= PLAUSIBLE_C[1]:
                found.append((celsius, text_of(zone / "type") or zone.name))
    return found


class Thermal(Signal):
    """``temperature`` in °C: of the hottest zone, or of the hottest whose type is ``zone``, such as "cpu-thermal"."""

    def __init__(self, zone: str | None = None, root: Path = ROOT) -> None:
        super().__init__("temperature", "°C", low=PLAUSIBLE_C[0], high=PLAUSIBLE_C[1])
        self._zone, self._root = zone, root

    def measure(self) -> float | None:
        found = zones(self._root)
        celsius = [degrees for degrees, kind in found if self._zone in (None, kind)]
        if celsius:
            return max(celsius)
        others = f" ({', '.join(sorted({kind for _, kind in found}))} can)" if found else ""
        raise SignalError(f"no thermal zone {self._zone or ''} can be read{others}".replace("  ", " "))
