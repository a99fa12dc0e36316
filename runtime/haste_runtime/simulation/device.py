"""Simulated boards: one small TOML file each, with the source of every figure.

They lie in ``devices/`` beside this module and end in ``.sim``. A file of one's own is given by its path.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any

from haste_runtime.errors import HasteError
from haste_runtime.toml_text import parse_toml

SUFFIX = ".sim"
HINT = "Compare with haste_runtime/simulation/devices/rpi4.sim, which has every field."


class DeviceError(HasteError, ValueError):
    """A simulated device is not known, or its file is wrong; the message names the file and the field."""

    exit_code = 2


@dataclass(frozen=True)
class Device:
    """idle_w: of the whole board, in watts, with nothing to do. core_w: what each busy core adds at full clock.

    clock_exponent: a busy core takes core_w * clock ** clock_exponent at a share ``clock`` of its full clock.
    ambient_c: of the air. resistance_c_w: degrees that the processor is above the air per watt of the board, once all
    is warm; time_constant_s: how long it takes to get 63 % of the way. Between throttle_c and limit_c the clock falls
    in a straight line to the share slowest_clock. battery_wh: of the cells when full; efficiency: the share of it that
    reaches the board. cores: how many can be busy. sources: for each of these, in words.
    """

    name: str
    title: str
    cores: float
    idle_w: float
    core_w: float
    clock_exponent: float
    ambient_c: float
    resistance_c_w: float
    time_constant_s: float
    throttle_c: float
    limit_c: float
    slowest_clock: float
    battery_wh: float
    efficiency: float
    sources: Mapping[str, str]

    def figures(self) -> dict[str, float]:
        """Every number, by name."""
        return {name: value for name, value in asdict(self).items() if isinstance(value, float)}


# The least and the most that makes sense; what is 0 at least must be more than that.
BOUNDS = {
    "cores": (1, 1024),
    "idle_w": (0, 1000),
    "core_w": (0, 1000),
    "clock_exponent": (0, 4),
    "ambient_c": (-60, 100),
    "resistance_c_w": (0, 1000),
    "time_constant_s": (0, 1e5),
    "throttle_c": (1, 150),
    "limit_c": (1, 150),
    "slowest_clock": (0, 1),
    "battery_wh": (0, 1e6),
    "efficiency": (0, 1),
}


def list_devices() -> list[str]:
    """Names of the devices that come with haste-runtime, sorted."""
    folder = resources.files(__package__) / "devices"
    return sorted(entry.name[: -len(SUFFIX)] for entry in folder.iterdir() if entry.name.endswith(SUFFIX))


def load_device(name_or_path: str) -> Device:
    """A device that comes along, with or without ``.sim``, or the one in a file. Raises DeviceError."""
    name = name_or_path[: -len(SUFFIX)] if name_or_path.endswith(SUFFIX) else name_or_path
    path = Path(name_or_path)
    if name in list_devices() and not path.is_file():
        text = (resources.files(__package__) / "devices" / f"{name}{SUFFIX}").read_text("utf-8")
        return _parse(text, f"{name}{SUFFIX}")
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        known = f"Known devices: {', '.join(list_devices())}; or give the path of a file made like one of theirs."
        raise DeviceError(f"The simulated device {name_or_path} cannot be read: {error}.", known) from None
    return _parse(text, name_or_path)


def _parse(text: str, file: str) -> Device:
    table = dict(parse_toml(text, file, DeviceError, HINT))
    known = [field.name for field in fields(Device)]
    strange = [*(key for key in table if key not in known), *(key for key in known if key not in table)]
    if strange:
        raise DeviceError(f"{file}: {strange[0]} is {'unknown' if strange[0] in table else 'missing'}.", HINT)
    for key in ("name", "title"):
        if not isinstance(table[key], str) or not table[key]:
            raise DeviceError(f"{file}: {key} is {table[key]!r}.", "A name is needed there.")
    for key, (low, high) in BOUNDS.items():
        table[key] = _number(table[key], low, high, f"{file}: {key}")
    sources = table["sources"]
    if not isinstance(sources, Mapping) or set(sources) != set(BOUNDS) or not all(sources.values()):
        raise DeviceError(f"{file}: sources has to name each of {', '.join(BOUNDS)}, and nothing else.", HINT)
    if table["limit_c"] <= table["throttle_c"]:
        raise DeviceError(f"{file}: limit_c is {table['limit_c']:g}.", "It has to be above throttle_c.")
    return Device(**table)


def _number(value: Any, low: float, high: float, where: str) -> float:
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not good or not low <= value <= high or (low == 0 and value == 0):
        bounds = f"above 0, at most {high:g}" if low == 0 else f"from {low:g} to {high:g}"
        raise DeviceError(f"{where} is {value!r}.", f"Allowed is a number {bounds}.")
    return float(value)
