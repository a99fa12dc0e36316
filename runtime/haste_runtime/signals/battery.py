"""The battery, as Linux knows it: laptops, phones, and UPS boards that have a kernel driver.

Many UPS boards for the Raspberry Pi have none; for those see `haste_runtime.signals.ups`. Elsewhere psutil is asked.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from haste_runtime.errors import SignalError
from haste_runtime.signals.files import ROOT, number_of, text_of
from haste_runtime.signals.signal import Signal

SUPPLIES = "sys/class/power_supply"


class Battery(Signal):
    """``battery``: percent, over all batteries; with ``charging`` and ``on_mains``, 1 for yes and 0 for no.

    root: of the file system. psutil: for tests, the module to ask where /sys knows no battery.
    """

    def __init__(self, root: Path = ROOT, psutil: Any = None) -> None:
        self._root, self._psutil = root, psutil
        super().__init__("battery", "%", low=0, high=100, companions=(_Charging(self), _OnMains(self)))

    def measure(self) -> float | None:
        batteries = self.supplies("Battery")
        if not batteries:
            return float(self.elsewhere().percent)
        shares = [_charge(battery) for battery in batteries]
        whole = sum(full for _, full in shares)
        return sum(percent * full for percent, full in shares) / whole

    def supplies(self, *kinds: str) -> list[Path]:
        """The power supplies of these kinds; those of mice and headsets are left out."""
        folder = self._root / SUPPLIES
        try:
            found = sorted(folder.iterdir())
        except OSError:
            return []
        return [p for p in found if text_of(p / "type").startswith(kinds) and text_of(p / "scope") != "Device"]

    def elsewhere(self) -> Any:
        """psutil's answer. Raises SignalError where there is none."""
        module = self._psutil
        if module is None and self._root == ROOT:
            try:
                module = import_module("psutil")
            except ImportError:
                raise SignalError(
                    f"no battery in {self._root / SUPPLIES}, and psutil, which may know one, is not installed",
                    'Install it: pip install "haste-runtime[battery]"',
                ) from None
        answer = None if module is None or not hasattr(module, "sensors_battery") else module.sensors_battery()
        if answer is None:
            raise SignalError(f"no battery in {self._root / SUPPLIES}")
        return answer


class _Charging(Signal):
    def __init__(self, battery: Battery) -> None:
        super().__init__("charging")
        self._battery = battery

    def measure(self) -> float | None:
        batteries = self._battery.supplies("Battery")
        if not batteries:
            answer = self._battery.elsewhere()
            return bool(answer.power_plugged) and answer.percent < 100
        return any(text_of(battery / "status") == "Charging" for battery in batteries)


class _OnMains(Signal):
    def __init__(self, battery: Battery) -> None:
        super().__init__("on_mains")
        self._battery = battery

    def measure(self) -> float | None:
        mains = self._battery.supplies("Mains", "USB", "Wireless")
        if mains:
            return any(text_of(supply / "online") not in ("", "0") for supply in mains)
        batteries = self._battery.supplies("Battery")
        if not batteries:
            return bool(self._battery.elsewhere().power_plugged)
        return all(text_of(battery / "status") in ("Charging", "Full", "Not charging") for battery in batteries)


def _charge(battery: Path) -> tuple[float, float]:
    """Percent, and what full is, to weigh batteries by (1 where it is not told). Raises OSError or SignalError."""
    full = next((path for kind in ("energy", "charge") if (path := battery / f"{kind}_full").exists()), None)
    size = number_of(full) if full is not None else 1.0
    if (battery / "capacity").exists():
        return number_of(battery / "capacity"), size if size > 0 else 1.0
    if full is None or size <= 0:
        raise SignalError(f"{battery} does not tell its charge")
    return min(100.0, 100 * number_of(battery / full.name.replace("full", "now")) / size), size
