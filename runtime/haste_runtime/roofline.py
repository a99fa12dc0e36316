"""What this core could do at best: multiply-adds a second, and floats read a second from each cache and from memory.

    python -m haste_runtime.roofline

Measured with the same explicit vectors that the kernels use, so it is the ceiling of those kernels (the roofline of
Williams, Waterman and Patterson, 2009: a layer takes at least its multiply-adds over the one, and at least its bytes
over the other).
"""

from __future__ import annotations

import ctypes
import functools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haste_runtime.cli.system import read_text
from haste_runtime.errors import BackendError
from haste_runtime.kernels.lanes import lanes

CHAINS, STREAMS = 12, 8  # as in `haste_runtime.kernels.probe`, which needs numba to be imported
TYPICAL = {"L1": 32 << 10, "L2": 512 << 10}  # where the system does not say
MEMORY = 128 << 20  # bytes read for memory's speed, or more where a cache is large
SECONDS = 0.02  # of one measurement
REPEATS = 5
Probe = Callable[..., None]


@dataclass(frozen=True)
class Roofline:
    """macs: multiply-adds a second. reads: place -> bytes a second, the nearest place first, "memory" last.
    sizes: place -> bytes it holds, without "memory"."""

    macs: float
    reads: dict[str, float]
    sizes: dict[str, int]

    def place(self, size: float) -> str:
        """Where ``size`` bytes that are read over and over are kept."""
        return next((place for place, holds in self.sizes.items() if size <= holds), "memory")

    def seconds(self, macs: float, size: float, place: str) -> float:
        """The least time for ``macs`` multiply-adds and ``size`` bytes read from ``place``."""
        return max(macs / self.macs, size / self.reads[place])

    def as_json(self) -> dict[str, Any]:
        return {
            "gmacs_per_second": round(self.macs / 1e9, 2),
            "gigabytes_per_second": {place: round(speed / 1e9, 2) for place, speed in self.reads.items()},
            "cache_bytes": self.sizes,
        }


def cache_sizes(root: Path = Path("/")) -> dict[str, int]:
    """Bytes of the first core's data caches, {"L1": ...}, the nearest first; typical ones where nothing is known."""
    found: dict[str, int] = {}
    for index in sorted((root / "sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, size = read_text(index / "level"), read_text(index / "size")
        number = size.rstrip("KM")
        if read_text(index / "type") != "Instruction" and level.isdecimal() and number.isdecimal():
            found[f"L{level}"] = int(number) << {"K": 10, "M": 20}.get(size[-1:], 0)
    return dict(sorted((found or TYPICAL).items()))


@functools.cache
def probes() -> dict[str, Probe]:
    """The compiled kernels of `haste_runtime.kernels.probe`: multiply_add, read_through, find_groups.

    Raises BackendError where numba is needed to compile them and missing.
    """
    try:
        from haste_runtime.kernels.compile import cached, load, log

        code, _ = cached(_compile, log.info, "probes-")
    except ImportError as error:
        raise BackendError(
            f"The kernels that measure have to be compiled first, and numba cannot be imported ({error}).",
            'Install it with `pip install "haste-runtime[jit]"`.',
        ) from error
    engine = load(code)
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    kinds = {
        "multiply_add": (number, pointer),
        "read_through": (number, pointer, number, pointer),
        "find_groups": (pointer, pointer, pointer, pointer, number, pointer, number),
    }
    made: dict[str, Any] = {
        name: ctypes.CFUNCTYPE(None, *kind)(engine.get_function_address(name)) for name, kind in kinds.items()
    }
    _engines.append(engine)  # owns the code
    return made


_engines: list[Any] = []


def _compile(progress: Callable[[str], None]) -> bytes:
    from numba import types

    from haste_runtime.kernels import probe
    from haste_runtime.kernels.codegen import compile_object, this_machine
    from haste_runtime.kernels.simd import float_ptr, int_ptr, long_ptr

    progress("compiling the kernels that measure, once")
    integer = types.int64
    stages = types.void(long_ptr, long_ptr, float_ptr, int_ptr, integer, long_ptr, integer)
    functions = {
        "multiply_add": (probe.multiply_add, types.void(integer, float_ptr)),
        "read_through": (probe.read_through, types.void(integer, float_ptr, integer, float_ptr)),
        "find_groups": (probe.find_groups, stages),
    }
    return compile_object(functions, this_machine(), progress=progress).code


def measure_roofline(sizes: dict[str, int] | None = None) -> Roofline:
    """Takes about a second. sizes: of the caches, if not those the system tells. Raises BackendError as `probes`."""
    sizes = cache_sizes() if sizes is None else sizes
    read = {**{place: held // 4 for place, held in sizes.items()}, "memory": _beyond(sizes)}
    return Roofline(measure_peak(), {place: measure_reading(size) for place, size in read.items()}, sizes)


def measure_peak() -> float:
    """Multiply-adds a second at best. Raises BackendError as `probes`."""
    run, width = probes()["multiply_add"], lanes()
    memory = np.zeros((CHAINS + 2) * width, np.float32)  # which stay zero: nothing overflows
    return _best(lambda rounds: run(rounds, memory.ctypes.data), CHAINS * width)


def measure_reading(size: int) -> float:
    """Bytes a second of ``size`` bytes that are read over and over. Raises BackendError as `probes`."""
    step = STREAMS * lanes()
    floats, sums = _aligned(max(step, size // 4 // step * step)), np.zeros(step, np.float32)
    return _best(_reader(probes()["read_through"], floats, sums), 4 * floats.size)


def _aligned(count: int) -> NDArray[np.float32]:
    """Zeros from the beginning of a cache line, on pages that are really there."""
    memory = np.zeros(count + 16, np.float32)
    memory[:] = 0
    start = -memory.ctypes.data % 64 // 4
    return memory[start : start + count]


def _beyond(sizes: dict[str, int]) -> int:
    """Bytes that no cache holds, but that a small computer has: at most an eighth of its memory."""
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        memory = 8 * MEMORY
    return min(max(MEMORY, 4 * max(sizes.values())), memory // 8)


def _reader(probe: Probe, floats: NDArray[np.float32], sums: NDArray[np.float32]) -> Callable[[int], None]:
    return lambda rounds: probe(rounds, floats.ctypes.data, floats.size, sums.ctypes.data)


def _best(run: Callable[[int], None], work: float) -> float:
    """The highest speed seen, in ``work`` a round per second: other programs only ever make it slower."""
    rounds = 1
    while (seconds := _time(run, rounds)) < SECONDS / 4:
        rounds *= 2
    rounds = max(1, round(rounds * SECONDS / seconds))
    return rounds * work / min(_time(run, rounds) for _ in range(REPEATS))


def _time(run: Callable[[int], None], rounds: int) -> float:
    started = time.perf_counter()
    run(rounds)
    return time.perf_counter() - started


if __name__ == "__main__":
    import json

    print(json.dumps(measure_roofline().as_json(), indent=2))
