"""How much the outcome hangs on each figure of the model: the same day with each of them changed, one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from haste_runtime.governor.policy import Policy
from haste_runtime.simulation.day import Day, Scenario, simulate
from haste_runtime.simulation.device import BOUNDS, Device
from haste_runtime.simulation.ladder import Ladder

FRAME_TIME = "frame time"  # of all levels alike
# Facts of the board rather than measurements: how many cores it has, and where its vendor says that it throttles.
FACTS = ("cores", "throttle_c", "limit_c")


@dataclass(frozen=True)
class Changed:
    """One figure changed by ``percent``. value: what it is then, at most what makes sense. dense, governed: days."""

    figure: str
    percent: float
    value: float
    dense: Day
    governed: Day


def changes(device: Device) -> list[str]:
    """What is changed, one after the other."""
    return [*(name for name in device.figures() if name not in FACTS), FRAME_TIME]


def sensitivity(
    device: Device, ladder: Ladder, scenario: Scenario, policy: Policy, percent: float
) -> Iterator[Changed]:
    """Each figure less and more by ``percent``, one at a time."""
    for name in changes(device):
        for sign in (-1, 1):
            factor = 1 + sign * percent / 100
            other, slower, value = device, ladder, factor
            if name == FRAME_TIME:
                slower = ladder.slower(factor)
            else:
                value = min(device.figures()[name] * factor, BOUNDS[name][1])
                other = replace(device, **{name: value})  # type: ignore[arg-type]  # all of them are numbers
            dense = simulate(other, slower, scenario, name="dense")
            governed = simulate(other, slower, scenario, policy, name="governor")
            yield Changed(name, sign * percent, value, dense, governed)
