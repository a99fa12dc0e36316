"""The physics of a simulated board: a battery that empties, one mass that warms, a clock that the heat slows down.

power       = idle_w + busy cores * core_w * clock ** clock_exponent
temperature -> ambient_c + resistance_c_w * power, exponentially with time_constant_s (one resistance, one capacity)
battery     loses power / efficiency
clock       = 1 up to throttle_c, then in a straight line down to slowest_clock at limit_c
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from haste_runtime.simulation.device import Device

SECONDS = 3600.0


@dataclass(frozen=True)
class Board:
    """temperature: of the processor, in °C. stored_wh: in the battery. power_w: of the last step, out of the battery's
    terminals and into the board."""

    temperature: float
    stored_wh: float
    power_w: float

    @staticmethod
    def start(device: Device, percent: float = 100.0) -> Board:
        """Idle for so long that all is warm, the battery at ``percent``."""
        warm = device.ambient_c + device.resistance_c_w * device.idle_w
        return Board(warm, device.battery_wh * percent / 100, device.idle_w)

    def percent(self, device: Device) -> float:
        return 100 * self.stored_wh / device.battery_wh


def clock(device: Device, temperature: float) -> float:
    """The share of its full clock at which the processor runs."""
    over = (temperature - device.throttle_c) / (device.limit_c - device.throttle_c)
    return 1 - (1 - device.slowest_clock) * min(max(over, 0.0), 1.0)


def step(device: Device, board: Board, busy_cores: float, seconds: float, ambient_c: float, charge_w: float) -> Board:
    """The board ``seconds`` later. busy_cores: mean over that time. charge_w: what flows into the battery meanwhile."""
    power = device.idle_w + busy_cores * device.core_w * clock(device, board.temperature) ** device.clock_exponent
    settled = ambient_c + device.resistance_c_w * power
    temperature = settled + (board.temperature - settled) * math.exp(-seconds / device.time_constant_s)
    stored = board.stored_wh + (charge_w - power / device.efficiency) * seconds / SECONDS
    return replace(board, temperature=temperature, stored_wh=min(max(stored, 0.0), device.battery_wh), power_w=power)
