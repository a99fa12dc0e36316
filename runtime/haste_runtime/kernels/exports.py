"""What machine code of the kernels exports, stated once for who compiles it and for who calls it.

A shared object for a device and the object file compiled on this computer have the same functions. This module imports
nothing but the standard library until `exports` is called, since the device that calls them has no Numba.
"""

from __future__ import annotations

import ctypes
from typing import Any

FRAME, ABOUT = "haste_frame", "haste_about"

# Each argument's name, and what it is: a pointer to numbers of that kind, or an int64 by value.
ARGUMENTS: dict[str, tuple[tuple[str, str], ...]] = {
    FRAME: (
        ("table", "int64*"),
        ("operations", "int64"),
        ("levels", "int64*"),
        ("slots", "int64"),
        ("arena", "float32*"),
        ("packed", "float32*"),
        ("index", "int32*"),
        ("scratch", "int64"),
        ("room", "int64"),
        ("counters", "int64*"),
        ("trace", "int32*"),
        ("staged", "float32*"),
        ("inputs", "int64*"),
        ("given", "int64"),
        ("meeting", "int64*"),
        ("worker", "int64"),
        ("workers", "int64"),
    ),
    ABOUT: (("out", "int64*"),),
}


def prototypes() -> dict[str, Any]:
    """{symbol: its ctypes prototype}; calling one with an address gives a function that releases the GIL."""
    return {
        symbol: ctypes.CFUNCTYPE(
            None, *(ctypes.c_void_p if kind.endswith("*") else ctypes.c_int64 for _, kind in arguments)
        )
        for symbol, arguments in ARGUMENTS.items()
    }


def exports() -> dict[str, tuple[Any, Any]]:
    """{symbol: (kernel, its Numba signature)}, as `haste_runtime.kernels.codegen.compile_object` takes them.

    Imports Numba.
    """
    from numba import types

    from haste_runtime.kernels.about import about
    from haste_runtime.kernels.frame import run_frame
    from haste_runtime.kernels.simd_types import float_ptr, int_ptr, long_ptr

    kinds = {"int64": types.int64, "int64*": long_ptr, "int32*": int_ptr, "float32*": float_ptr}
    kernels = {FRAME: run_frame, ABOUT: about}
    return {
        symbol: (kernels[symbol], types.void(*(kinds[kind] for _, kind in arguments)))
        for symbol, arguments in ARGUMENTS.items()
    }
