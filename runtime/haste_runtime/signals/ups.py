"""UPS boards that are asked over I2C: with a current sensor (INA219), or with a fuel gauge (MAX17040, MAX17043).

An INA219 knows volts and amperes only. The percentage is read off a curve, and a battery under load shows less than it
has: smooth it, and leave room in the policy. Registers: data sheets of Texas Instruments (INA219, SBOS448) and Maxim
(MAX17040/41). Needs ``haste-runtime[i2c]``; a bus of one's own may be given instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from haste_runtime.errors import SignalError
from haste_runtime.signals.signal import Signal, require

# Volts of one lithium-ion cell, percent: the straight line that makers of such boards have in their examples. It is
# generous around the middle; a curve measured with the battery in use is better.
STRAIGHT = ((3.0, 0.0), (4.2, 100.0))
CHARGING_A = 0.01  # below, the sensor's own offset


class _Chip(Signal):
    """A chip with registers of 16 bits, high byte first. bus: the number of an I2C bus, or an object such as smbus2's
    ``SMBus``, with ``read_word_data(address, register)``, low byte first."""

    may_block = True

    def __init__(self, bus: Any, address: int, companions: Sequence[Signal] = ()) -> None:
        self._number = bus if isinstance(bus, int) else None
        self._bus = None if isinstance(bus, int) else bus
        self._address = address
        self._smbus: Any = require("smbus2", "i2c", "A UPS board on the I2C bus") if isinstance(bus, int) else None
        super().__init__("battery", "%", low=0, high=100, companions=companions)

    def register(self, number: int) -> int:
        if self._bus is None:
            self._bus = self._smbus.SMBus(self._number)
        word = int(self._bus.read_word_data(self._address, number))
        return (word & 0xFF) << 8 | word >> 8 & 0xFF

    def close(self) -> None:
        if self._number is not None and self._bus is not None:  # one that was given belongs to whoever gave it
            self._bus.close()
            self._bus = None


class Ina219(_Chip):
    """``battery`` by the voltage, ``power`` drawn from the battery in W (0 while it charges), and ``charging``.

    address: 0x40 to 0x4f, 0x42 or 0x43 on common boards. cells: in series. shunt_ohms: as on the board, 0.01 on many
    UPS boards, 0.1 on most breakouts. curve: (volts of one cell, percent), rising. reversed_shunt: for boards whose
    current is negative while the battery charges.
    """

    def __init__(
        self,
        bus: Any = 1,
        address: int = 0x42,
        *,
        cells: int = 2,
        shunt_ohms: float = 0.01,
        curve: Sequence[tuple[float, float]] = STRAIGHT,
        reversed_shunt: bool = False,
    ) -> None:
        if cells < 1 or not shunt_ohms > 0:
            raise SignalError("A battery has at least one cell, and a shunt a resistance.", "See the board's manual.")
        if len(curve) < 2 or any(a >= b or p > q for (a, p), (b, q) in pairwise(curve)):
            raise SignalError("The curve of a battery has two or more points of rising voltage.", "Sort it.")
        self._cells, self._shunt_ohms, self._curve = cells, shunt_ohms, tuple(curve)
        self._sign = -1.0 if reversed_shunt else 1.0
        super().__init__(bus, address, (_Power(self), _ChargingCurrent(self)))

    def measure(self) -> float | None:
        return percent_of(self.volts() / self._cells, self._curve)

    def volts(self) -> float:
        """Of the whole battery. A board that is off, or has no battery, says 0."""
        volts = (self.register(2) >> 3) * 0.004
        if volts < 1:
            raise SignalError(f"the battery's voltage is {volts:.2f} V: is there one?")
        return volts

    def charging_amperes(self) -> float:
        """Into the battery; negative while it feeds the board."""
        word = self.register(1)
        return self._sign * (word - 0x10000 if word & 0x8000 else word) * 1e-5 / self._shunt_ohms


class _Power(Signal):
    def __init__(self, chip: Ina219) -> None:
        super().__init__("power", "W", low=0)
        self._chip = chip

    def measure(self) -> float | None:
        return max(0.0, -self._chip.charging_amperes()) * self._chip.volts()


class _ChargingCurrent(Signal):
    def __init__(self, chip: Ina219) -> None:
        super().__init__("charging")
        self._chip = chip

    def measure(self) -> float | None:
        return self._chip.charging_amperes() > CHARGING_A


class Max17040(_Chip):
    """``battery`` as the fuel gauge estimates it, also of a MAX17043. It may say a little over 100 %, which is 100."""

    def __init__(self, bus: Any = 1, address: int = 0x36) -> None:
        super().__init__(bus, address)

    def measure(self) -> float | None:
        raw = self.register(4)
        percent = raw / 256
        return 100.0 if 100 < percent <= 110 else percent


def percent_of(volts: float, curve: Sequence[tuple[float, float]]) -> float:
    """Between two points of the curve in proportion, beyond its ends their percentage."""
    if volts <= curve[0][0]:
        return curve[0][1]
    for (low, start), (high, end) in pairwise(curve):
        if volts <= high:
            return start + (end - start) * (volts - low) / (high - low)
    return curve[-1][1]
