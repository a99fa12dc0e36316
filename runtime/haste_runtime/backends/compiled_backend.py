"""What the compiled backends share: one call per frame into `haste_runtime.kernels`, and one arena made at load.

Where the machine code comes from is all they differ in: `haste_runtime.backends.numba_backend` compiles it on this
computer, `haste_runtime.backends.native_backend` loads what was compiled on another one.
"""

from __future__ import annotations

import ctypes
import functools
import math
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from haste_runtime.backends import check_threads, not_finite
from haste_runtime.bundle import Bundle
from haste_runtime.errors import InputError
from haste_runtime.flops import LayerCounts
from haste_runtime.graph import Shape
from haste_runtime.kernels import layout as t
from haste_runtime.memory import Map
from haste_runtime.table import Table, build_table, lined_up

Walk = Callable[..., None]  # level, worker, workers; for parts of a frame the first operation, how many, inputs to take


class Frame(NamedTuple):
    """Machine code. call: the function `haste_runtime.kernels.exports.FRAME`, which releases the GIL; lanes: float32 in
    a vector, for which the execution table must be built; source: where it comes from, in words; code: names it."""

    call: Callable[..., None]
    lanes: int
    source: str
    code: str


class CompiledBackend:
    """Runs the execution table with compiled kernels. The interface is `haste_runtime.backends.Backend`.

    More threads share out each operation: they are parked between frames and meet after every operation within one.
    source, code, lanes: see `Frame`.
    """

    name: str

    def __init__(self, bundle: Bundle, frame: Frame, threads: int = 1, trace: bool = False) -> None:
        table = build_table(bundle, frame.lanes)
        self._packed = table.packed
        self._table = replace(table, packed=np.empty(0, np.float32))  # `close` lets go of the other reference
        self._plan, self._outputs = bundle.plan, bundle.graph.outputs
        self._operations, self._index = table.operations, table.index
        self._arena = lined_up(table.scratch + threads * table.room, np.float32)
        self._counters = np.zeros((threads, len(table.slots), t.COUNTERS), np.int64)
        self._trace = np.zeros(table.trace if trace else 0, np.int32)
        self._levels = table.levels
        untraced = ~(trace & (self._levels[:, :, t.PATCH] > 0))
        self._levels[:, :, t.TRACE][untraced] = -1
        self._meeting = np.zeros(2, np.int64)
        self._staged = lined_up(table.staged, np.float32)
        starts = {v: int(row[t.X]) for v, row in zip(bundle.graph.inputs, table.inputs, strict=True)}
        self._inputs = {
            v.name: self._staged[start : start + math.prod(v.shape)].reshape(v.shape) for v, start in starts.items()
        }
        self._results = {
            name: _result(_view(self._arena, table.maps[name]), table.shapes[name]) for name in self._outputs
        }
        self._only = [inside[np.newaxis] for inside in (*self._inputs.values(), *self._results.values())]
        self._only_shape = (1, *table.shapes[self._outputs[0]])
        self._flags = self._meeting.data  # a memoryview, takes a fraction of the time to read
        self._level = 0
        self.source, self.code, self.lanes = frame.source, frame.code, frame.lanes
        self._walk = self._walker(frame)
        self._team = _Team(self._walk, threads)

    def run(self, frames: Mapping[str, NDArray[np.float32]], level: int) -> dict[str, NDArray[np.float32]]:
        self.stage(frames)
        self.run_staged(level)
        return {name: self._output(name) for name in self._outputs}

    def run_only(self, x: NDArray[np.float32], level: int) -> NDArray[np.float32]:
        given, answer = self._only
        given[...] = x
        self.run_staged(level)
        y = answer.copy()
        return y if y.shape == self._only_shape else y.reshape(self._only_shape)

    def stage(self, frames: Mapping[str, NDArray[np.float32]]) -> None:
        """Put a frame's inputs where the kernels take them from. One copy of an array is all that Python does: how it
        lies in the arena, and whether all of it is finite, is compiled code's business."""
        for name, frame in frames.items():
            self._inputs[name][...] = frame

    def run_staged(self, level: int) -> None:
        """The frame that `stage` put there. Raises InputError."""
        self._flags[0] = 0
        self._team.run(level)
        self._level = level
        if self._flags[1]:
            raise self._not_finite()

    def _not_finite(self) -> InputError:
        return not_finite(list(self._inputs)[self._flags[1] - 1])

    def fill(self, frames: Mapping[str, NDArray[np.float32]]) -> None:
        """Write a frame's inputs into the arena, where later operations may overwrite them, and run nothing.
        Raises InputError."""
        self.stage(frames)
        self._walk(0, 0, 1, 0, 0)
        if self._flags[1]:
            raise self._not_finite()

    def _output(self, name: str) -> NDArray[np.float32]:
        return self._results[name].copy().reshape(self._table.shapes[name])

    def counts(self) -> Mapping[str, LayerCounts]:
        choices = self._plan.levels[self._level].choices
        return _Counts(self._table.slots, choices, self._counters.copy()) if choices else {}

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

    def run_operations(self, level: int, first: int, count: int) -> None:
        """Some operations of the table alone, on what the arena holds, in this thread: for `haste_runtime.profile`."""
        self._walk(level, 0, 1, first, count, 0)

    @property
    def workers(self) -> int:
        """How many threads run a frame together."""
        return self._team.active

    def use_threads(self, count: int) -> None:
        check_threads(count, len(self._counters))
        self._counters[:] = 0  # those of threads that are left out would be counted again
        self._team.active = count

    @property
    def table(self) -> Table:
        """What the kernels walk."""
        return self._table

    @property
    def addresses(self) -> tuple[int, int, int, int, int]:
        """Where the table, its levels, the arena, the packed weights and the index lists lie, for kernels in parts."""
        arrays = (self._operations, self._levels, self._arena, self._packed, self._index)
        table, levels, arena, packed, index = (array.ctypes.data for array in arrays)
        return table, levels, arena, packed, index

    def close(self) -> None:
        """End the threads and let go of the weights and the arena."""
        self._team.close()
        self._inputs, self._results, self._only = {}, {}, []
        self._arena = self._packed = np.empty(0, np.float32)

    def _walker(self, frame: Frame) -> Walk:
        """The machine code, with everything that stays the same converted for ctypes once."""
        call, slots, taken = frame.call, len(self._table.slots), len(self._table.inputs)
        operations, levels = self._operations.ctypes.data, self._levels.ctypes.data
        step, row, count = self._levels.strides[0], self._operations.strides[0], len(self._operations)
        arena, packed, index, counters, trace, staged, inputs, meeting = (
            ctypes.c_void_p(array.ctypes.data)
            for array in (
                self._arena, self._packed, self._index, self._counters, self._trace, self._staged, self._table.inputs,
                self._meeting,
            )
        )  # fmt: skip
        scratch, room = ctypes.c_int64(self._table.scratch), ctypes.c_int64(self._table.room)
        rest = arena, packed, index, scratch, room, counters, trace, staged, inputs

        def walk(level: int, worker: int, workers: int, first: int = 0, some: int = count, given: int = taken) -> None:
            call(operations + first * row, some, levels + level * step, slots, *rest, given, meeting, worker, workers)

        return walk


class _Counts(Mapping[str, LayerCounts]):
    """Made of the counters of a frame when somebody asks, which few do: it takes longer than a copy."""

    def __init__(self, slots: Sequence[str], choices: Collection[str], counters: NDArray[np.int64]) -> None:
        self._slots, self._choices, self._counters = slots, choices, counters

    @functools.cached_property
    def _made(self) -> dict[str, LayerCounts]:
        rows = zip(self._slots, self._counters.sum(0).tolist(), strict=True)
        return {name: LayerCounts(*row) for name, row in rows if name in self._choices}

    def __getitem__(self, name: str) -> LayerCounts:
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._made)

    def __len__(self) -> int:
        return len(self._made)


class _Team:
    """The calling thread and ``workers - 1`` parked ones, of which the first ``active`` run one frame together."""

    def __init__(self, walk: Walk, workers: int) -> None:
        self._walk, self.active, self._level, self._ending = walk, workers, 0, False
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
            self._walk(self._level, number, self.active)
            self._done.release()

    def run(self, level: int) -> None:
        others = self.active - 1
        if not others:
            self._walk(level, 0, 1)
            return
        self._level = level
        for gate in self._go[:others]:
            gate.release()
        self._walk(level, 0, self.active)
        for _ in range(others):
            self._done.acquire()  # nobody still reads the counter that the next frame resets

    def close(self) -> None:
        self._ending = True
        for gate in self._go:
            gate.release()
        for thread in self._threads:
            thread.join()
        self._threads, self._go = [], []


def _result(inside: NDArray[np.float32], shape: Shape) -> NDArray[np.float32]:
    """A view to copy an output from: (C, H, W), or of its ``shape`` where that needs no copy."""
    result = inside.transpose(2, 0, 1)
    shaped = result.reshape(shape)
    return shaped if np.may_share_memory(shaped, inside) else result


def _view(arena: NDArray[np.float32], place: Map) -> NDArray[np.float32]:
    """A value's memory without its border, (height, width, channels)."""
    border = place.border
    whole = arena[place.corner : place.corner + place.size]
    whole = whole.reshape(place.height + 2 * border, place.width + 2 * border, place.pixel)
    return whole[border : border + place.height, border : border + place.width, : place.channels]
