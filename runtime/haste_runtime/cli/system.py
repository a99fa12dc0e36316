"""What computer is this? Small probes that read /proc and /sys, for `doctor` and for the head of a benchmark.

Every probe takes the root of the file system, so that tests can point it at a folder, and answers None or an empty
value where the machine does not say: a container, a foreign kernel and a missing sensor are all normal.
"""

from __future__ import annotations

import os
import platform
import struct
from pathlib import Path
from typing import Any

from haste_runtime.signals.thermal import zones
from haste_runtime.signals.throttle import THROTTLE_BITS, throttle_flags

# Implementer and part numbers as /proc/cpuinfo prints them (Arm's MIDR_EL1 registers; NVIDIA is 0x4e).
CORES = {
    ("0x41", "0xb76"): "ARM1176",
    ("0x41", "0xc07"): "Cortex-A7",
    ("0x41", "0xd03"): "Cortex-A53",
    ("0x41", "0xd04"): "Cortex-A35",
    ("0x41", "0xd05"): "Cortex-A55",
    ("0x41", "0xd07"): "Cortex-A57",
    ("0x41", "0xd08"): "Cortex-A72",
    ("0x41", "0xd0b"): "Cortex-A76",
    ("0x41", "0xd0c"): "Neoverse-N1",
    ("0x41", "0xd42"): "Cortex-A78AE",
    ("0x4e", "0x003"): "Denver 2",
    ("0x4e", "0x004"): "Carmel",
}
FEATURES = ("neon", "asimd", "asimdhp", "asimddp", "sve", "sse4_2", "avx2", "fma", "avx512f")


def read_text(path: Path) -> str:
    """The file's text without the NUL that device-tree strings end with, or "" where it can't be read."""
    try:
        return path.read_bytes().decode(errors="replace").strip("\0 \n")
    except OSError:
        return ""


def python_bits() -> int:
    """Bits of this Python, which is what decides which wheels fit; a 64-bit kernel may well run a 32-bit userland."""
    return struct.calcsize("P") * 8


def cpu(root: Path = Path("/")) -> dict[str, Any]:
    """board, model, cores, usable cores (affinity) and the vector features that matter here."""
    fields: dict[str, set[str]] = {}
    for line in read_text(root / "proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), set()).add(value.strip())
    parts = {(i, p) for i in fields.get("CPU implementer", ()) for p in fields.get("CPU part", ())}
    named = sorted(CORES[part] for part in parts if part in CORES)
    model = ", ".join(named or sorted(fields.get("model name", ()))) or platform.processor() or platform.machine()
    flags = {flag for key in ("flags", "Features") for text in fields.get(key, ()) for flag in text.split()}
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "board": read_text(root / "proc/device-tree/model") or None,
        "model": model,
        "cores": os.cpu_count(),
        "usable_cores": usable,
        "features": [flag for flag in FEATURES if flag in flags],
    }


def temperature(root: Path = Path("/")) -> dict[str, Any] | None:
    """The hottest thermal zone: its name and degrees Celsius; None where none can be read."""
    found = zones(root)
    if not found:
        return None
    degrees, name = max(found)
    return {"zone": name, "celsius": degrees}


def throttling(root: Path = Path("/")) -> dict[str, Any] | None:
    """Raspberry Pi throttle flags in words, now and since boot; None where the machine has no such flags."""
    bits = throttle_flags(root)
    if bits is None:
        return None
    return {
        "flags": hex(bits),
        "now": [word for bit, word in THROTTLE_BITS.items() if bits >> bit & 1],
        "since_boot": [word for bit, word in THROTTLE_BITS.items() if bits >> (bit + 16) & 1],
    }


def peak_memory_mb() -> float | None:
    """Largest resident memory of this process so far, in MB (10**6 bytes); None where the system does not say."""
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if platform.system() == "Darwin" else 1024  # Linux counts in KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def resident_memory_mb(root: Path = Path("/")) -> float | None:
    """Resident memory of this process now, in MB (10**6 bytes); None where the system does not say."""
    fields = read_text(root / "proc/self/statm").split()
    if len(fields) < 2 or not fields[1].isdecimal() or not hasattr(os, "sysconf"):
        return None
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
