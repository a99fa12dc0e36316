"""The compiled backend with kernels that Numba compiles on this computer, once, and that a cache keeps."""

from __future__ import annotations

import os
from typing import Any

from haste_runtime.backends.compiled_backend import CompiledBackend, Frame, Walk
from haste_runtime.bundle import Bundle
from haste_runtime.kernels import layout as t
from haste_runtime.kernels.lanes import lanes


class NumbaBackend(CompiledBackend):
    """See `haste_runtime.backends.compiled_backend.CompiledBackend`.

    Raises BackendError if HASTE_LANES is set to nonsense, and ImportError where the kernels must be compiled first and
    numba is missing.
    """

    name = "numba"

    def __init__(self, bundle: Bundle, threads: int = 1, trace: bool = False) -> None:
        self._plain = os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")
        super().__init__(bundle, _interpreted() if self._plain else _compiled(), 1 if self._plain else threads, trace)

    def _walker(self, frame: Frame) -> Walk:
        if not self._plain:
            return super()._walker(frame)
        operations, counters = self._operations.reshape(-1), self._counters.reshape(-1)

        count, taken = len(self._operations), len(self._table.inputs)

        def walk(level: int, worker: int, workers: int, first: int = 0, some: int = count, given: int = taken) -> None:
            frame.call(
                operations[first * t.COLUMNS :], some, self._levels[level].reshape(-1), len(self._table.slots),
                self._arena, self._packed, self._index, self._table.scratch, self._table.room, counters,
                self._trace, self._staged, self._table.inputs.reshape(-1), given, self._meeting, worker, workers,
            )  # fmt: skip

        return walk


def _compiled() -> Frame:
    from haste_runtime.kernels.compile import compiled_frame, digest

    made = compiled_frame()
    return Frame(made.call, lanes(), made.source, digest())


def _interpreted() -> Frame:
    """The same kernels as plain Python, which take arrays for pointers: for tests of their logic."""
    from haste_runtime.kernels.compile import digest
    from haste_runtime.kernels.frame import run_frame

    walker: Any = run_frame
    return Frame(walker, lanes(), "interpreted, since NUMBA_DISABLE_JIT is set", digest())
