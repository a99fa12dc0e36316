"""How many float32 lanes a vector register has, chosen once per process: 4 (NEON, SSE), 8 (AVX2) or 16 (AVX-512)."""

from __future__ import annotations

import functools
import os
import sys

from haste_runtime.errors import BackendError

VARIABLE = "HASTE_LANES"
REGISTERS_VARIABLE = "HASTE_REGISTERS"
# A vector of outputs takes so much longer in a block of so few: a tile of one waits for loads and for its own sums.
# Medians of five layers, alike within 0.1 with vectors of 4, 8 and 16 lanes (x86-64).
VECTOR_TIME = {1: 1.5, 2: 1.06, 4: 1.0}


@functools.cache
def lanes() -> int:
    """Lanes of this CPU, or what the environment variable HASTE_LANES says (for tests and comparisons)."""
    chosen = os.environ.get(VARIABLE)
    if chosen:
        if chosen not in ("4", "8", "16"):
            raise BackendError(f"{VARIABLE}={chosen} is not a vector width.", "Use 4, 8 or 16, or unset it.")
        return int(chosen)
    from llvmlite.binding import get_host_cpu_features

    features = get_host_cpu_features()
    if features.get("avx512f"):
        return 16
    return 8 if features.get("avx2") and features.get("fma") else 4


def widest(lanes: int) -> int:
    """The most vectors of a block: 4 of 6 rows fit the 32 registers of 64-bit ARM and AVX-512, 2 the 16 of AVX2 and of
    32-bit ARM. HASTE_REGISTERS says how many there are when code is made for another computer."""
    own = 16 if lanes == 8 or sys.maxsize < 1 << 32 else 32
    return 2 if int(os.environ.get(REGISTERS_VARIABLE) or own) == 16 else 4


def blocks(lanes: int, channels: int) -> tuple[int, int]:
    """(vectors per block, blocks) that cover ``channels`` output channels in the least time, padding included."""
    choices = [vectors for vectors in (4, 2, 1) if vectors <= widest(lanes)]
    vectors = min(choices, key=lambda v: -(-channels // (v * lanes)) * v * VECTOR_TIME[v])
    return vectors, -(-channels // (vectors * lanes))
