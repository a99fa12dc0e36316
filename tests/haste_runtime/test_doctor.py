"""``haste-run doctor``: what it finds, what it advises, and that nothing can make it fail."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from haste_runtime import cli
from haste_runtime.cli import doctor, system


def as_json(capsys: pytest.CaptureFixture[str]) -> Any:
    assert cli.run(["doctor", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def raspberry_pi(root: Path) -> Path:
    """What a Pi 4 that got too hot on a weak power supply shows under /proc and /sys."""
    files = {
        "proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd evtstrm crc32 cpuid\nCPU implementer\t: 0x41\n"
        "CPU part\t: 0xd08\n\nprocessor\t: 1\nCPU implementer\t: 0x41\nCPU part\t: 0xd08\n",
        "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0",
        "sys/class/thermal/thermal_zone0/temp": "81301\n",
        "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
        "sys/class/thermal/thermal_zone1/temp": "not now\n",
        "sys/devices/platform/soc/soc:firmware/get_throttled": "50008\n",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_doctor_reads_a_raspberry_pi(tmp_path: Path) -> None:
    findings = doctor.report(raspberry_pi(tmp_path))
    assert findings["cpu"]["board"] == "Raspberry Pi 4 Model B Rev 1.4"
    assert findings["cpu"]["model"] == "Cortex-A72"
    assert findings["cpu"]["features"] == ["asimd"]
    assert findings["temperature"] == {"zone": "cpu-thermal", "celsius": 81.301}
    assert findings["throttling"] == {
        "flags": "0x50008",
        "now": ["soft temperature limit"],
        "since_boot": ["under-voltage", "throttled"],
    }
    advice = " ".join(findings["advice"])
    assert "power supply" in advice
    assert "cool it" in advice


def test_doctor_says_what_it_cannot_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    findings = doctor.report(tmp_path)
    assert findings["temperature"] is None
    assert findings["throttling"] is None
    assert findings["cpu"]["model"]
    doctor.print_findings(findings)
    assert "temperature:   cannot be read here" in capsys.readouterr().out


def test_doctor_never_fails(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any) -> None:
        raise OSError("no such luck")

    for name in ("cpu", "temperature", "throttling", "python_bits"):
        monkeypatch.setattr(system, name, broken)
    monkeypatch.setattr(doctor, "_cache", broken)
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.setitem(sys.modules, "PIL", None)
    findings = as_json(capsys)
    assert findings["cpu"] == {"error": "OSError: no such luck"}
    assert findings["numba"]["available"] is False
    assert findings["backend"]["auto"] == "numpy"
    assert any("pip install" in sentence for sentence in findings["advice"])
    assert cli.run(["doctor"]) == 0


@pytest.mark.parametrize(
    ("bits", "machine", "words"), [(32, "aarch64", "although the kernel is 64-bit"), (32, "armv7l", "as the kernel is")]
)
def test_doctor_looks_at_the_userland_not_the_kernel(bits: int, machine: str, words: str) -> None:
    findings = doctor.report()
    findings["python"]["bits"], findings["system"]["machine"] = bits, machine
    assert words in doctor.advise(findings)[0]
    findings["native"] = {"available": True}
    assert not any("32-bit" in sentence for sentence in doctor.advise(findings))


def test_doctor_names_a_cache_that_cannot_be_written() -> None:
    findings = doctor.report()
    findings["numba"] = {"available": True, "version": "0"}
    findings["cache"] = {"folder": None, "writable": False, "set_by": "HASTE_CACHE"}
    assert any("HASTE_CACHE" in sentence for sentence in doctor.advise(findings))


def test_doctor_tells_the_main_things(capsys: pytest.CaptureFixture[str]) -> None:
    findings = as_json(capsys)
    assert findings["python"]["bits"] in (32, 64)
    assert findings["numpy"]["version"] == np.__version__
    assert findings["backend"]["auto"] in ("native", "numba", "numpy")
    assert findings["cpu"]["usable_cores"] >= 1
    assert cli.run(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("numba:") for line in lines)


def test_doctor_says_first_that_python_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "OLDEST_PYTHON", (sys.version_info[0], sys.version_info[1] + 1))
    assert "needs Python 3.10" in doctor.report()["advice"][0]
