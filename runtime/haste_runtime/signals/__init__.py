"""Signals: what the level may depend on. `haste_runtime.signals.signal` says what one is.

    from haste_runtime.signals import Battery, Latency, smoothed

Names are imported when they are first used: a device loads only what it follows.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from haste_runtime.signals.battery import Battery
    from haste_runtime.signals.callback import Callback
    from haste_runtime.signals.files import FileNumber
    from haste_runtime.signals.filters import clamped, hysteresis, smoothed, stale_after
    from haste_runtime.signals.frequency import Frequency
    from haste_runtime.signals.jetson_power import JetsonPower
    from haste_runtime.signals.latency import Latency
    from haste_runtime.signals.load import Load
    from haste_runtime.signals.mqtt import Mqtt
    from haste_runtime.signals.reading import Reading
    from haste_runtime.signals.scripted import Scripted
    from haste_runtime.signals.serial_port import SerialPort
    from haste_runtime.signals.signal import Signal, Source
    from haste_runtime.signals.thermal import Thermal
    from haste_runtime.signals.throttle import Throttle
    from haste_runtime.signals.ups import Ina219, Max17040

_PLACES = {
    "Battery": "battery",
    "Callback": "callback",
    "FileNumber": "files",
    "Frequency": "frequency",
    "Ina219": "ups",
    "JetsonPower": "jetson_power",
    "Latency": "latency",
    "Load": "load",
    "Max17040": "ups",
    "Mqtt": "mqtt",
    "Reading": "reading",
    "Scripted": "scripted",
    "SerialPort": "serial_port",
    "Signal": "signal",
    "Source": "signal",
    "Thermal": "thermal",
    "Throttle": "throttle",
    "clamped": "filters",
    "hysteresis": "filters",
    "smoothed": "filters",
    "stale_after": "filters",
}
__all__ = [
    "Battery",
    "Callback",
    "FileNumber",
    "Frequency",
    "Ina219",
    "JetsonPower",
    "Latency",
    "Load",
    "Max17040",
    "Mqtt",
    "Reading",
    "Scripted",
    "SerialPort",
    "Signal",
    "Source",
    "Thermal",
    "Throttle",
    "clamped",
    "hysteresis",
    "smoothed",
    "stale_after",
]


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(import_module(f"haste_runtime.signals.{_PLACES[name]}"), name)
    raise AttributeError(f"module 'haste_runtime.signals' has no attribute {name!r}")
