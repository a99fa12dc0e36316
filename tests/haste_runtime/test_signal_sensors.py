"""Sensors on fake file systems and fake buses: what they say, and what they say when files vanish or hold nonsense."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from haste_runtime.errors import SignalError
from haste_runtime.signals.battery import Battery
from haste_runtime.signals.files import FileNumber
from haste_runtime.signals.frequency import Frequency
from haste_runtime.signals.jetson_power import JetsonPower
from haste_runtime.signals.load import Load
from haste_runtime.signals.reading import Reading
from haste_runtime.signals.signal import Signal
from haste_runtime.signals.thermal import Thermal
from haste_runtime.signals.throttle import Throttle
from haste_runtime.signals.ups import Ina219, Max17040, percent_of


def write(root: Path, files: Mapping[str, object]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return root


def values(signal: Signal, now: float = 0.0) -> dict[str, float | None]:
    return {name: reading.value for name, reading in signal.readings(now).items()}


def reasons(signal: Signal) -> dict[str, str]:
    return {name: reading.reason for name, reading in signal.readings(0.0).items()}


# --- battery ---------------------------------------------------------------------------------------------------------

SUPPLY = "sys/class/power_supply"
BAT = {f"{SUPPLY}/BAT0/type": "Battery", f"{SUPPLY}/BAT0/status": "Discharging"}
AC = {f"{SUPPLY}/AC/type": "Mains", f"{SUPPLY}/AC/online": "0"}


def test_battery_of_a_laptop(tmp_path: Path) -> None:
    write(tmp_path, BAT | AC | {f"{SUPPLY}/BAT0/capacity": 57})
    battery = Battery(tmp_path)
    assert battery.names == ("battery", "charging", "on_mains")
    assert battery.read(3.0) == Reading(57.0, "%", 3.0, True)
    assert values(battery) == {"battery": 57, "charging": 0, "on_mains": 0}
    write(tmp_path, {f"{SUPPLY}/BAT0/status": "Charging", f"{SUPPLY}/AC/online": 1})
    assert values(battery) == {"battery": 57, "charging": 1, "on_mains": 1}
    write(tmp_path, {f"{SUPPLY}/BAT0/status": "Not charging"})
    assert values(battery) == {"battery": 57, "charging": 0, "on_mains": 1}


@pytest.mark.parametrize("kind", ["energy", "charge"])
def test_battery_without_capacity(tmp_path: Path, kind: str) -> None:
    write(tmp_path, BAT | {f"{SUPPLY}/BAT0/{kind}_now": 20_500_000, f"{SUPPLY}/BAT0/{kind}_full": 41_000_000})
    assert values(Battery(tmp_path)) == {"battery": 50, "charging": 0, "on_mains": 0}
    write(tmp_path, {f"{SUPPLY}/BAT0/{kind}_now": 41_500_000})
    assert Battery(tmp_path).read(0.0).value == 100
    write(tmp_path, {f"{SUPPLY}/BAT0/{kind}_full": 0})
    assert "does not tell its charge" in Battery(tmp_path).read(0.0).reason


@pytest.mark.parametrize(("status", "on_mains"), [("Discharging", 0), ("Charging", 1), ("Full", 1), ("Unknown", 0)])
def test_without_a_mains_supply_the_status_tells(tmp_path: Path, status: str, on_mains: int) -> None:
    write(tmp_path, BAT | {f"{SUPPLY}/BAT0/capacity": 57, f"{SUPPLY}/BAT0/status": status})
    assert values(Battery(tmp_path))["on_mains"] == on_mains


def test_batteries_weigh_by_their_size_and_mice_do_not_count(tmp_path: Path) -> None:
    write(tmp_path, BAT | {f"{SUPPLY}/BAT0/capacity": 100, f"{SUPPLY}/BAT0/energy_full": 10})
    write(tmp_path, {f"{SUPPLY}/BAT1/type": "Battery", f"{SUPPLY}/BAT1/status": "Charging"})
    write(tmp_path, {f"{SUPPLY}/BAT1/capacity": 20, f"{SUPPLY}/BAT1/energy_full": 30})
    write(tmp_path, {f"{SUPPLY}/mouse/type": "Battery", f"{SUPPLY}/mouse/scope": "Device"})
    write(tmp_path, {f"{SUPPLY}/mouse/capacity": 1})
    assert values(Battery(tmp_path)) == {"battery": 40, "charging": 1, "on_mains": 0}


@pytest.mark.parametrize("content", ["", "abc", "-5", "250", "nan", "\0\xff"])
def test_battery_that_says_nonsense(tmp_path: Path, content: str) -> None:
    write(tmp_path, BAT | {f"{SUPPLY}/BAT0/capacity": content})
    reading = Battery(tmp_path).read(0.0)
    assert not reading.ok
    assert reading.reason
    assert reading.value is None


def test_battery_that_vanishes_and_comes_back(tmp_path: Path) -> None:
    battery, path = Battery(tmp_path), tmp_path / SUPPLY / "BAT0"
    assert set(reasons(battery).values()) == {f"no battery in {tmp_path / SUPPLY}"}
    write(tmp_path, BAT | {f"{SUPPLY}/BAT0/capacity": 57})
    assert values(battery)["battery"] == 57
    (path / "capacity").unlink()
    assert "does not tell its charge" in battery.read(0.0).reason
    (path / "type").unlink()
    assert not battery.read(0.0).ok
    write(tmp_path, BAT | {f"{SUPPLY}/BAT0/capacity": 56})
    assert values(battery)["battery"] == 56


def test_psutil_is_asked_where_the_kernel_knows_none(tmp_path: Path) -> None:
    answer: Any = SimpleNamespace(percent=63, power_plugged=True, secsleft=1)
    module = SimpleNamespace(sensors_battery=lambda: answer)
    assert values(Battery(tmp_path, module)) == {"battery": 63, "charging": 1, "on_mains": 1}
    answer.power_plugged = None
    assert values(Battery(tmp_path, module)) == {"battery": 63, "charging": 0, "on_mains": 0}
    answer = None
    assert not Battery(tmp_path, module).read(0.0).ok
    assert not Battery(tmp_path, SimpleNamespace()).read(0.0).ok  # psutil of a system without the function


# --- UPS boards ------------------------------------------------------------------------------------------------------


class Bus:
    """Registers of 16 bits, as SMBus gives them: low byte first."""

    def __init__(self, address: int, registers: dict[int, int]) -> None:
        self.address, self.registers, self.closed = address, registers, 0

    def read_word_data(self, address: int, register: int) -> int:
        if address != self.address or register not in self.registers:
            raise OSError(121, "Remote I/O error")
        word = self.registers[register] & 0xFFFF
        return (word & 0xFF) << 8 | word >> 8

    def close(self) -> None:
        self.closed += 1


def test_ina219_by_its_data_sheet() -> None:
    """Bus voltage: LSB 4 mV in the upper 13 bits; shunt voltage: signed, LSB 10 uV."""
    bus = Bus(0x42, {2: round(7.4 / 0.004) << 3 | 0b010, 1: -1200})  # 7.4 V; -12 mV over 0.01 ohm
    chip = Ina219(bus)
    assert chip.names == ("battery", "power", "charging")
    assert values(chip) == {
        "battery": pytest.approx(100 * (3.7 - 3) / 1.2),
        "power": pytest.approx(1.2 * 7.4),
        "charging": 0,
    }
    bus.registers[1] = 500
    assert values(chip) == {"battery": pytest.approx(58.33, abs=0.01), "power": 0, "charging": 1}
    assert values(Ina219(bus, reversed_shunt=True))["power"] == pytest.approx(0.5 * 7.4)
    assert values(Ina219(bus, shunt_ohms=0.1, reversed_shunt=True))["power"] == pytest.approx(0.05 * 7.4)
    bus.registers[2] = round(9.0 / 0.004) << 3
    assert chip.read(0.0).value == 100
    chip.close()
    assert bus.closed == 0  # it was given


def test_ina219_that_is_not_there_or_has_no_battery() -> None:
    assert "Remote I/O error" in Ina219(Bus(0x43, {})).read(0.0).reason
    assert "is there one?" in Ina219(Bus(0x42, {2: 0})).read(0.0).reason


@pytest.mark.parametrize("wrong", [{"cells": 0}, {"shunt_ohms": 0}, {"curve": [(3, 0)]}, {"curve": [(4, 0), (3, 100)]}])
def test_ina219_refuses_what_makes_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(SignalError):
        Ina219(Bus(0x42, {}), **wrong)


def test_curves() -> None:
    curve = [(3.0, 0.0), (3.5, 10.0), (4.2, 100.0)]
    assert [percent_of(v, curve) for v in (2, 3, 3.25, 3.5, 3.85, 4.2, 5)] == pytest.approx([0, 0, 5, 10, 55, 100, 100])


def test_max17040_by_its_data_sheet() -> None:
    """State of charge: percent in the high byte, 1/256 in the low one."""
    bus = Bus(0x36, {4: 57 << 8 | 128})
    assert values(Max17040(bus)) == {"battery": 57.5}
    bus.registers[4] = 103 << 8
    assert Max17040(bus).read(0.0).value == 100
    bus.registers[4] = 0xFFFF  # nobody answers, and the lines stay high
    assert not Max17040(bus).read(0.0).ok


def test_smbus2_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "smbus2", None)
    with pytest.raises(SignalError, match=r'pip install "haste-runtime\[i2c\]"'):
        Max17040(1)
    bus = Bus(0x36, {4: 57 << 8})
    opened: list[int] = []
    monkeypatch.setitem(sys.modules, "smbus2", SimpleNamespace(SMBus=lambda number: opened.append(number) or bus))
    chip = Max17040(3)
    assert opened == []
    assert chip.read(0.0).value == 57
    assert chip.read(0.0).value == 57
    assert opened == [3]
    chip.close()
    chip.close()
    assert bus.closed == 1
    assert chip.read(0.0).value == 57  # followed once more
    assert opened == [3, 3]


# --- Jetson ----------------------------------------------------------------------------------------------------------

HWMON = "sys/class/hwmon/hwmon3"


def test_jetson_power(tmp_path: Path) -> None:
    signal = JetsonPower(root=tmp_path)
    assert "none was found" in signal.read(0.0).reason
    write(tmp_path, {"sys/class/hwmon/hwmon0/name": "nvme", f"{HWMON}/name": "ina3221", f"{HWMON}/in1_label": "VDD_IN"})
    write(tmp_path, {f"{HWMON}/in1_input": 5000, f"{HWMON}/curr1_input": 1500, f"{HWMON}/in2_label": "VDD_CPU"})
    write(tmp_path, {f"{HWMON}/in2_input": 5000, f"{HWMON}/curr2_input": 400})
    assert signal.read(0.0) == Reading(7.5, "W", 0.0, True)
    assert JetsonPower("VDD_CPU", tmp_path).read(0.0).value == 2
    assert "VDD_CPU, VDD_IN" in JetsonPower("VDD_GPU", tmp_path).read(0.0).reason
    (tmp_path / HWMON / "curr1_input").unlink()
    assert "FileNotFoundError" in signal.read(0.0).reason


def test_jetson_power_on_jetpack_4(tmp_path: Path) -> None:
    folder = "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0"
    write(tmp_path, {f"{folder}/rail_name_0": "POM_5V_IN", f"{folder}/in_power0_input": 2350})
    assert JetsonPower(root=tmp_path).read(0.0).value == 2.35


# --- heat, clock, throttling, load -----------------------------------------------------------------------------------

ZONE = "sys/class/thermal/thermal_zone{}/{}"


def test_thermal(tmp_path: Path) -> None:
    assert Thermal(root=tmp_path).read(0.0).reason == "no thermal zone can be read"
    zones = [
        ("cpu-thermal", 61234),
        ("gpu-thermal", 59000),
        ("off", -256000),
        ("broken", "abc"),
        ("cpu-thermal", 62000),
    ]
    for number, (kind, temp) in enumerate(zones):
        write(tmp_path, {ZONE.format(number, "type"): kind, ZONE.format(number, "temp"): temp})
    assert Thermal(root=tmp_path).read(2.0) == Reading(62.0, "°C", 2.0, True)
    assert Thermal("gpu-thermal", tmp_path).read(0.0).value == 59
    assert Thermal("off", tmp_path).read(0.0).reason == "no thermal zone off can be read (cpu-thermal, gpu-thermal can)"
    write(tmp_path, {ZONE.format(9, "temp"): -5000})
    (tmp_path / ZONE.format(0, "temp")).unlink()
    assert Thermal("thermal_zone9", tmp_path).read(0.0).value == -5
    assert Thermal(root=tmp_path).read(0.0).value == 62


def test_frequency(tmp_path: Path) -> None:
    assert "does not tell" in Frequency(tmp_path).read(0.0).reason
    for core, khz in enumerate((600_000, 1_000_000)):
        folder = f"sys/devices/system/cpu/cpu{core}/cpufreq"
        write(tmp_path, {f"{folder}/scaling_cur_freq": khz, f"{folder}/cpuinfo_max_freq": 1_600_000})
    write(tmp_path, {"sys/devices/system/cpu/cpufreq/x": 1, "sys/devices/system/cpu/cpuidle/x": 1})
    assert values(Frequency(tmp_path)) == {"frequency": 800, "frequency_share": 50}


FLAGS = "sys/devices/platform/soc/soc:firmware/get_throttled"


def test_throttle_by_the_kernels_file(tmp_path: Path) -> None:
    throttle = Throttle(tmp_path)
    assert throttle.names == ("throttled", "under_voltage", "frequency_capped", "soft_temperature_limit")
    assert set(reasons(throttle).values()) == {"this board does not tell whether it is throttled"}
    for text, expected in [
        ("0", [0, 0, 0, 0]),
        ("50000", [0, 0, 0, 0]),  # since boot, not now
        ("50005", [1, 1, 0, 0]),
        ("0xa", [1, 0, 1, 1]),
    ]:
        write(tmp_path, {FLAGS: text})
        assert list(values(throttle).values()) == expected
    write(tmp_path, {FLAGS: "zzz"})
    assert set(values(throttle).values()) == {None}


def test_throttle_by_vcgencmd(tmp_path: Path) -> None:
    script = tmp_path / "vcgencmd"
    script.write_text("#!/bin/sh\necho throttled=0x5000$2\n")
    script.chmod(0o755)
    assert values(Throttle(tmp_path, (str(script), "get_throttled", "4")))["throttled"] == 1
    assert values(Throttle(tmp_path, (str(script), "get_throttled", "0")))["throttled"] == 0
    script.write_text("#!/bin/sh\nexit 1\n")
    assert not Throttle(tmp_path, (str(script),)).read(0.0).ok
    assert not Throttle(tmp_path, (str(tmp_path / "nothing"),)).read(0.0).ok


def test_load(tmp_path: Path) -> None:
    write(tmp_path, {"proc/loadavg": "3.00 2.5 2.44 5/105 26977"})
    write(tmp_path, {"proc/meminfo": "MemTotal:        8000 kB\nMemFree:  100 kB\nMemAvailable:    2000 kB"})
    write(tmp_path, {"proc/pressure/memory": "some avg10=1.25 avg60=0.00 total=0\nfull avg10=0.00 avg60=0.00 total=0"})
    load = Load(tmp_path, cores=4)
    found = load.readings(0.0)
    assert found["load"].value == 0.75
    assert found["memory_available"].value == 25
    assert found["memory_pressure"].value == 1.25
    assert "FileNotFoundError" in found["cpu_pressure"].reason
    write(tmp_path, {"proc/loadavg": "", "proc/meminfo": "MemTotal: 0 kB", "proc/pressure/memory": "full"})
    assert [reading.ok for reading in load.readings(0.0).values()] == [False] * 4


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    signal = FileNumber(tmp_path / "soil", "soil", "%", scale=0.1)
    assert "FileNotFoundError" in signal.read(0.0).reason
    write(tmp_path, {"soil": 415})
    assert signal.read(0.0) == Reading(41.5, "%", 0.0, True)
    write(tmp_path, {"soil": "wet"})
    assert "'wet', which is not a number" in signal.read(0.0).reason
    (tmp_path / "soil").unlink()
    (tmp_path / "soil").mkdir()
    assert not signal.read(0.0).ok


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and /sys")
def test_this_machine_is_read_without_harm() -> None:
    for signal in (Battery(), Thermal(), Frequency(), Throttle(), Load(), JetsonPower()):
        for reading in signal.readings(0.0).values():
            assert reading.ok != bool(reading.reason)
    assert Load().read(0.0).ok
