"""The one decorator of all kernels, and the names of the vector operations they use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import config, njit

if config.DISABLE_JIT:
    from haste_runtime.kernels import simd_twins as simd
else:
    from haste_runtime.kernels import simd  # type: ignore[no-redef]


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile without exceptions, bounds checks or the GIL, and without any fastmath flag: results are the same
    everywhere only if no operation is reordered or contracted."""
    return njit(error_model="numpy", boundscheck=False, nogil=True)(function)


__all__ = ["kernel", "simd"]
