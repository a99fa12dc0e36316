"""What machine code and Python agree on: functions, their arguments, and the number that stands for all of it."""

from __future__ import annotations

import hashlib
import inspect
import json
import os

import numpy as np

from haste_runtime.kernels import layout
from haste_runtime.kernels.about import about
from haste_runtime.kernels.compile import load
from haste_runtime.kernels.exports import ABOUT, ARGUMENTS, FRAME, exports, prototypes
from haste_runtime.kernels.frame import run_frame
from haste_runtime.kernels.lanes import lanes

INTERPRETED = os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")
AGREED = (9, "2007fab472ba8ef1")


def digest_of_the_interface() -> str:
    """Of the layout's constants but its number, and of the functions' arguments."""
    constants = {name: value for name, value in vars(layout).items() if name.isupper() and name != "ABI"}
    text = json.dumps([constants, ARGUMENTS], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def test_the_number_stands_for_this_interface() -> None:
    found = (layout.ABI, digest_of_the_interface())
    assert found == AGREED, (
        f"What kernels and Python agree on has changed. Raise ABI in kernels/layout.py to {AGREED[0] + 1}, so that "
        f"machine code built before is refused, then set AGREED here to ({AGREED[0] + 1}, {found[1]!r})."
    )


def test_arguments_are_those_of_the_kernels() -> None:
    for symbol, kernel in ((FRAME, run_frame), (ABOUT, about)):
        parameters = inspect.signature(getattr(kernel, "py_func", kernel)).parameters
        assert tuple(parameters) == tuple(name for name, _ in ARGUMENTS[symbol])


def test_the_kernel_tells_number_and_lanes() -> None:
    if INTERPRETED:
        out = np.zeros(2, np.int64)
        about(out)
    else:
        from haste_runtime.kernels.codegen import compile_object, this_machine

        made = compile_object({ABOUT: exports()[ABOUT]}, this_machine())
        assert made.undefined == ()
        engine = load(made.code)
        out = np.zeros(2, np.int64)
        prototypes()[ABOUT](engine.get_function_address(ABOUT))(out.ctypes.data)
    assert out.tolist() == [layout.ABI, lanes()]
