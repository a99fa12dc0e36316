"""The compiled backend: one call per frame into `haste_runtime.kernels`, everything in one arena made at load."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haste_runtime.bundle import Bundle
from haste_runtime.flops import LayerCounts
from haste_runtime.kernels import layout as t
from haste_runtime.kernels.lanes import lanes
from haste_runtime.memory import Map
from haste_runtime.table import Table, build_table


def _line_up(size: int, dtype: type) -> NDArray[Any]:
    """Zeros that begin at a cache line."""
    item = np.dtype(dtype).itemsize
    memory = np.zeros(size * item + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size * item].view(dtype)


def _view(arena: NDArray[np.float32], place: Map) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A value's memory with and without its border, (height, width, channels)."""
    border = place.border
    whole = arena[place.corner : place.corner + place.size]
    whole = whole.reshape(place.height + 2 * border, place.width + 2 * border, place.channels)
    return whole, whole[border : border + place.height, border : border + place.width]


class NumbaBackend:
    """Runs the execution table with compiled kernels. The interface is `haste_runtime.backends.Backend`.

    source: where the compiled code came from, in words. Raises BackendError if HASTE_LANES is set to nonsense.
    """

    name = "numba"

    def __init__(self, bundle: Bundle, threads: int = 1, trace: bool = False) -> None:
        table = build_table(bundle, lanes())
        self._table, self._plan, self._outputs = table, bundle.plan, bundle.graph.outputs
        self._arena = _line_up(table.arena, np.float32)
        self._packed = _line_up(table.packed.size, np.float32)
        self._packed[:] = table.packed
        self._counters = np.zeros((max(1, len(table.slots)), t.COUNTERS), np.int64)
        self._codes = np.zeros(table.trace if trace else 0, np.int32)
        levels = table.levels.copy()
        levels[:, :, t.TRACE] = np.where(trace & (levels[:, :, t.PATCH] > 0), levels[:, :, t.TRACE], -1)
        self._levels = levels
        names = [value.name for value in bundle.graph.inputs] + list(self._outputs)
        self._views = {name: _view(self._arena, table.maps[name]) for name in names}
        self._level = 0
        self._walk, self.source = _walker(table, levels, self._arena, self._packed, self._counters, self._codes)

    def run(self, frames: Mapping[str, NDArray[np.float32]], level: int) -> dict[str, NDArray[np.float32]]:
        for name, frame in frames.items():
            whole, inside = self._views[name]
            whole[...] = 0
            inside[...] = frame.transpose(1, 2, 0) if frame.ndim == 3 else frame
        self._walk(level)
        self._level = level
        return {name: self._output(name) for name in self._outputs}

    def _output(self, name: str) -> NDArray[np.float32]:
        inside = self._views[name][1].transpose(2, 0, 1)
        return inside.reshape(self._table.shapes[name]).copy()

    def counts(self) -> dict[str, LayerCounts]:
        choices = self._plan.levels[self._level].choices
        rows = zip(self._table.slots, self._counters.tolist(), strict=False)
        return {name: LayerCounts(*row) for name, row in rows if name in choices}

    def codes(self) -> dict[str, NDArray[np.int32]]:
        """Empty without ``trace``."""
        found = {}
        for name, row, level in zip(self._table.slots, self._counters, self._levels[self._level], strict=False):
            if level[t.TRACE] >= 0:
                channels = self._table.shapes[self._table.readers[name]][0]
                patches = int(row[t.PATCHES])
                start = int(level[t.TRACE])
                found[name] = self._codes[start : start + patches * channels].reshape(patches, channels).copy()
        return found

    def close(self) -> None:
        """Let go of the weights and the arena."""
        self._views = {}
        self._walk = _closed
        self._arena = self._packed = np.empty(0, np.float32)


def _closed(level: int) -> None:
    raise RuntimeError("this backend is closed")


def _walker(
    table: Table, levels: NDArray[np.int64], arena: NDArray[np.float32], packed: NDArray[np.float32],
    counters: NDArray[np.int64], codes: NDArray[np.int32],
) -> tuple[Callable[[int], None], str]:  # fmt: skip
    """A function that runs one frame at a level, all pointers resolved once, and where its code came from."""
    operations, slots = table.operations, len(table.slots)
    if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        from haste_runtime.kernels.frame import run_frame

        def interpret(level: int) -> None:
            run_frame(
                operations.reshape(-1), len(operations), levels[level].reshape(-1), slots, arena, packed, table.index,
                table.scratch, counters.reshape(-1), codes,
            )  # fmt: skip

        return interpret, "interpreted: NUMBA_DISABLE_JIT is set"
    from haste_runtime.kernels.compile import compiled_frame

    frame = compiled_frame()
    first, step = levels.ctypes.data, levels.strides[0]
    before = (operations.ctypes.data, len(operations))
    after = (arena.ctypes.data, packed.ctypes.data, table.index.ctypes.data, table.scratch,
             counters.ctypes.data, codes.ctypes.data)  # fmt: skip

    def walk(level: int) -> None:
        frame.call(*before, first + level * step, slots, *after)

    walk.owners = (table, levels, arena, packed, counters, codes)  # type: ignore[attr-defined]  # pointers need them
    return walk, frame.source
