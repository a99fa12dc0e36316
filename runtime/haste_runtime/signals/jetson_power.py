"""What a Jetson draws: its INA3221 sensors, as the kernel shows them.

Files: Documentation/hwmon/ina3221.rst of Linux; on JetPack 4 the older ones below iio.
"""

from __future__ import annotations

from pathlib import Path

from haste_runtime.errors import SignalError
from haste_runtime.signals.files import ROOT, number_of, text_of
from haste_runtime.signals.signal import Signal

# The rail into the module, by board: Orin and Xavier NX; Nano; TX2 and Xavier.
WHOLE = ("VDD_IN", "POM_5V_IN", "VDD_IN_5V0", "SYS5V")


class JetsonPower(Signal):
    """``power`` in W, of the rail that feeds the whole module, or of the one that is named."""

    def __init__(self, rail: str | None = None, root: Path = ROOT) -> None:
        super().__init__("power", "W", low=0)
        self._wanted, self._root = (rail,) if rail else WHOLE, root

    def measure(self) -> float | None:
        rails = self._rails()
        for name in self._wanted:
            if name in rails:
                folder, channel, iio = rails[name]
                if iio:
                    return number_of(folder / f"in_power{channel}_input") / 1000
                millivolts, milliamperes = (number_of(folder / f"{kind}{channel}_input") for kind in ("in", "curr"))
                return millivolts * milliamperes / 1e6
        found = f"those found are {', '.join(sorted(rails))}" if rails else "none was found at all"
        raise SignalError(f"no power rail {' or '.join(self._wanted)}; {found}")

    def _rails(self) -> dict[str, tuple[Path, int, bool]]:
        """Rails by name: folder, channel, whether it is of the older kind."""
        rails: dict[str, tuple[Path, int, bool]] = {}
        for folder in sorted(self._root.glob("sys/class/hwmon/hwmon*")):
            if text_of(folder / "name") == "ina3221":
                for channel in (1, 2, 3):
                    rails.setdefault(text_of(folder / f"in{channel}_label"), (folder, channel, False))
        for folder in sorted(self._root.glob("sys/bus/i2c/drivers/ina3221x/*/iio:device*")):
            for channel in (0, 1, 2):
                rails.setdefault(text_of(folder / f"rail_name_{channel}"), (folder, channel, True))
        rails.pop("", None)
        return rails
