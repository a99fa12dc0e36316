"""A target for this very computer: what its core computes and reads is measured, not looked up.

A virtual machine or a busy server gives a program less than its data sheet says, the last cache above all. So that is
taken for as large as the most that is read at its speed.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import platform
from typing import Any

from haste_edge.targets import Target
from haste_runtime.cli.system import cpu
from haste_runtime.kernels.lanes import lanes
from haste_runtime.roofline import cache_sizes, measure_peak, measure_reading

FMA_PER_CYCLE = 2.0
MEASURED, SYSTEM = "measured by haste-edge targets --measure", "the system"
BEYOND = 4  # times the last cache, for memory
MOST = 256 << 20  # bytes that are read at once


def measure_target(name: str = "measured") -> Target:
    """Takes some seconds. name: of the target.

    Its clock is the one at which two multiply-adds of vectors a cycle give the peak that was measured; its arithmetic
    is that of kernels with the vectors of `haste_runtime.kernels.lanes`. Raises BackendError where numba is missing.
    """
    sizes = dict(itertools.islice(cache_sizes().items(), 3))
    nearest, *outer = sizes.values()
    beyond = max(64 << 20, min(BEYOND * max(sizes.values()), MOST))
    bandwidth = measure_reading(beyond)
    caches: dict[str, Any] = {"l1d": _cache(nearest, measure_reading(nearest // 2), False)}
    inner = nearest
    for level, size in zip(("l2", "l3"), outer, strict=False):
        speed = measure_reading(size // 2 if level == "l2" else 2 * inner)
        last = level == "l3"
        caches[level] = _cache(_ours(inner, min(size, beyond), speed, bandwidth) if last else size, speed, last)
        inner = size
    here, memory = cpu(), os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Target.model_validate({
        "name": name, "title": "This computer, as measured", "architecture": "native",
        "core": f"{here['model']}, {32 * lanes()} bit vectors", "llvm_cpu": "native", "cores": here["cores"] or 1,
        "clock_mhz": round(measure_peak() / (lanes() * FMA_PER_CYCLE) / 1e6),
        "simd": {"lanes": lanes(), "fma_per_cycle": FMA_PER_CYCLE}, "caches": caches,
        "memory": {"size_mib": memory >> 20, "bandwidth_gb_s": _gb(bandwidth)},
        "software": {"userland": f"{platform.system()}, Python {platform.python_version()}",
                     "notes": "Measure again where other programs ran meanwhile."},
        "sources": {"core": SYSTEM, "cores": SYSTEM, "clock_mhz": f"{MEASURED}, from multiply-adds a second",
                    "simd": "an assumption: two multiply-adds a cycle", "caches": f"sizes: {SYSTEM}; speed: {MEASURED}",
                    "memory_size": SYSTEM, "memory_bandwidth": MEASURED, "software": SYSTEM},
    })  # fmt: skip


def _ours(inner: int, size: int, speed: float, bandwidth: float) -> int:
    """Bytes of the last cache that are read much faster than memory, up to all of it; at least twice the inner one."""
    found = 2 * inner
    while 2 * found <= size and measure_reading(2 * found) > math.sqrt(speed * bandwidth):
        found *= 2
    return found


def _cache(size: int, speed: float, shared: bool) -> dict[str, Any]:
    return {"kib": size >> 10, "shared": shared, "gb_s": _gb(speed)}


def _gb(speed: float) -> float:
    return round(speed / 1e9, 1)


def as_toml(target: Target) -> str:
    """The target as a file that `haste_edge.targets.load_target` reads."""
    top, tables = [], []
    for key, value in target.model_dump(exclude_none=True).items():
        if isinstance(value, dict):
            tables += ["", f"[{key}]", *(f"{name} = {_value(inner)}" for name, inner in value.items())]
        else:
            top.append(f"{key} = {_value(value)}")
    return "\n".join([*top, *tables, ""])


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {_value(inner)}" for name, inner in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False)
