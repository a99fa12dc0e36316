"""The compiled backend: one call per frame into `haste_runtime.kernels`, everything in one arena made at load."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haste_runtime.bundle import Bundle
from haste_runtime.flops import LayerCounts
from haste_runtime.kernels import layout as t
from haste_runtime.kernels.lanes import lanes
from haste_runtime.memory import Map
from haste_runtime.table import build_table

Walk = Callable[[int, int, int], None]  # level, worker, workers


class NumbaBackend:
    """Runs the execution table with compiled kernels. The interface is `haste_runtime.backends.Backend`.

    More threads share out each operation: they are parked between frames and meet after every operation within one.
    source: where the compiled code came from, in words. Raises BackendError if HASTE_LANES is set to nonsense, and
    ImportError where the kernels must be compiled first and numba is missing.
    """

    name = "numba"

    def __init__(self, bundle: Bundle, threads: int = 1, trace: bool = False) -> None:
        table = build_table(bundle, lanes())
        interpreted = os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")
        workers = 1 if interpreted else threads
        self._table, self._plan, self._outputs = table, bundle.plan, bundle.graph.outputs
        self._operations, self._index = table.operations, table.index
        self._packed = _line_up(table.packed.size, np.float32)
        self._packed[:] = table.packed
        self._arena = _line_up(table.scratch + workers * table.room, np.float32)
        self._counters = np.zeros((workers, len(table.slots), t.COUNTERS), np.int64)
        self._trace = np.zeros(table.trace if trace else 0, np.int32)
        self._levels = table.levels
        untraced = ~(trace & (self._levels[:, :, t.PATCH] > 0))
        self._levels[:, :, t.TRACE][untraced] = -1
        self._arrivals = np.zeros(1, np.int64)
        names = [value.name for value in bundle.graph.inputs] + list(self._outputs)
        self._views = {name: _view(self._arena, table.maps[name]) for name in names}
        self._level = 0
        walk, self.source = self._interpreted() if interpreted else self._compiled()
        self._team = _Team(walk, workers)

    def run(self, frames: Mapping[str, NDArray[np.float32]], level: int) -> dict[str, NDArray[np.float32]]:
        for name, frame in frames.items():
            whole, inside = self._views[name]
            whole[...] = 0
            inside[...] = frame.transpose(1, 2, 0) if frame.ndim == 3 else frame
        self._arrivals[0] = 0
        self._team.run(level)
        self._level = level
        return {name: self._output(name) for name in self._outputs}

    def _output(self, name: str) -> NDArray[np.float32]:
        inside = self._views[name][1].transpose(2, 0, 1)
        return inside.reshape(self._table.shapes[name]).copy()

    def counts(self) -> dict[str, LayerCounts]:
        choices = self._plan.levels[self._level].choices
        rows = zip(self._table.slots, self._counters.sum(0).tolist(), strict=True)
        return {name: LayerCounts(*row) for name, row in rows if name in choices}

    def codes(self) -> dict[str, NDArray[np.int32]]:
        """Empty without ``trace``."""
        return {name: recorded[:, 0].copy() for name, recorded in self._recorded()}

    def groups(self) -> dict[str, NDArray[np.int32]]:
        """Empty without ``trace``."""
        return {name: recorded[:, 1].copy() for name, recorded in self._recorded()}

    def _recorded(self) -> Iterator[tuple[str, NDArray[np.int32]]]:
        """Of each layer that the last frame merged its codes and leaders, (patches, 2, C)."""
        patches = self._counters[:, :, t.PATCHES].sum(0).tolist()
        for name, count, level in zip(self._table.slots, patches, self._levels[self._level], strict=True):
            if level[t.TRACE] >= 0:
                channels = self._table.shapes[self._table.readers[name]][0]
                begin = int(level[t.TRACE])
                yield name, self._trace[begin : begin + 2 * count * channels].reshape(count, 2, channels)

    def close(self) -> None:
        """End the threads and let go of the weights and the arena."""
        self._team.close()
        self._views = {}
        self._arena = self._packed = np.empty(0, np.float32)

    def _compiled(self) -> tuple[Walk, str]:
        """The machine code, with every pointer that stays the same worked out once."""
        from haste_runtime.kernels.compile import compiled_frame

        frame, slots = compiled_frame(), len(self._table.slots)
        operations, levels = self._operations.ctypes.data, self._levels.ctypes.data
        step, count = self._levels.strides[0], len(self._operations)
        rest = (
            self._arena.ctypes.data, self._packed.ctypes.data, self._index.ctypes.data, self._table.scratch,
            self._table.room, self._counters.ctypes.data, self._trace.ctypes.data, self._arrivals.ctypes.data,
        )  # fmt: skip

        def walk(level: int, worker: int, workers: int) -> None:
            frame.call(operations, count, levels + level * step, slots, *rest, worker, workers)

        return walk, frame.source

    def _interpreted(self) -> tuple[Walk, str]:
        """The same kernels as plain Python: NUMBA_DISABLE_JIT is set, for tests of their logic."""
        from haste_runtime.kernels.frame import run_frame

        operations, counters = self._operations.reshape(-1), self._counters.reshape(-1)

        def walk(level: int, worker: int, workers: int) -> None:
            run_frame(
                operations, len(self._operations), self._levels[level].reshape(-1), len(self._table.slots),
                self._arena, self._packed, self._index, self._table.scratch, self._table.room, counters,
                self._trace, self._arrivals, worker, workers,
            )  # fmt: skip

        return walk, "interpreted, since NUMBA_DISABLE_JIT is set"


class _Team:
    """The calling thread and ``workers - 1`` parked ones, which run one frame together."""

    def __init__(self, walk: Walk, workers: int) -> None:
        self._walk, self._workers, self._level, self._ending = walk, workers, 0, False
        self._go = [threading.Semaphore(0) for _ in range(workers - 1)]
        self._done = threading.Semaphore(0)
        self._threads = [
            threading.Thread(target=self._park, args=(number,), name=f"haste-{number}", daemon=True)
            for number in range(1, workers)
        ]
        for thread in self._threads:
            thread.start()

    def _park(self, number: int) -> None:
        while True:
            self._go[number - 1].acquire()
            if self._ending:
                return
            self._walk(self._level, number, self._workers)
            self._done.release()

    def run(self, level: int) -> None:
        self._level = level
        for gate in self._go:
            gate.release()
        self._walk(level, 0, self._workers)
        for _ in self._go:
            self._done.acquire()  # nobody still reads the counter that the next frame resets

    def close(self) -> None:
        self._ending = True
        for gate in self._go:
            gate.release()
        for thread in self._threads:
            thread.join()
        self._threads, self._go = [], []


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
