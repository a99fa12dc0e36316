"""Where a frame's time goes: every operation timed on its own, beside what this core could do at best.

Operations are run one at a time, in the frame's order and on the frame's data, through the very code that runs whole
frames; so profiling costs nothing when nobody profiles. A merged layer's stages are told apart by running its first
ones alone (`haste_runtime.kernels.probe`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from haste_runtime.backends.compiled_backend import CompiledBackend
from haste_runtime.errors import BackendError, HasteError
from haste_runtime.flops import LayerCounts
from haste_runtime.kernels import layout as t
from haste_runtime.kernels.lanes import VARIABLE, lanes
from haste_runtime.roofline import Roofline, probes

if TYPE_CHECKING:
    from haste_runtime.graph import Node
    from haste_runtime.session import Session

HASH, GROUP = 1, 2  # stages of `haste_runtime.kernels.probe.find_groups`
ROUNDS = 30
STORED = {"fp32": 4, "fp16": 2, "int8": 1}  # bytes of a weight
Frames = Sequence[dict[str, NDArray[np.float32]]]


@dataclass(frozen=True)
class Stages:
    """Milliseconds of a merged layer. multiply: the layer's time at level 0, times the share of channels kept; merge:
    what remains (making merged planes and filters, lists of entries). Where channels are only dropped, all is
    multiply that is not hash or group."""

    hash: float
    group: float
    merge: float
    multiply: float


@dataclass(frozen=True)
class LayerProfile:
    """One operation at one level.

    ms: median. dense_ms: the same at level 0. macs: of the dense layer; executed: what was left of them, merging's own
    arithmetic included. weight_bytes: as stored. algorithm: of a convolution (`haste_runtime.plan.LayerPlan`), "" of
    others. kept: share of channels, None where nothing merges. stages: of a
    merged layer. bound_ms: the least that `Roofline` allows for what is executed. bound_by: "arithmetic", or the place
    that is read from.
    """

    name: str
    operation: str
    shape: str
    ms: float
    dense_ms: float
    macs: int
    executed: int
    weight_bytes: int
    algorithm: str
    kept: float | None
    stages: Stages | None
    bound_ms: float
    bound_by: str

    @property
    def gmacs(self) -> float:
        """Billions of the dense layer's multiply-adds a second: what is left out counts as done."""
        return self.macs / self.ms / 1e6 if self.ms else 0.0

    def as_json(self) -> dict[str, Any]:
        rounded = {
            "ms": round(self.ms, 5), "dense_ms": round(self.dense_ms, 5), "bound_ms": round(self.bound_ms, 5),
            "gmacs_per_second": round(self.gmacs, 3), "kept": None if self.kept is None else round(self.kept, 4),
            "stages": self.stages and {name: round(ms, 5) for name, ms in vars(self.stages).items()},
        }  # fmt: skip
        return vars(self) | rounded


@dataclass(frozen=True)
class Profile:
    """A level. frame_ms: `Session.run` as a user calls it. outside_ms: what of that is not the one call into compiled
    code, but Python. operations_ms: the operations one at a time, together."""

    level: int
    frame_ms: float
    outside_ms: float
    operations_ms: float
    layers: tuple[LayerProfile, ...]

    @property
    def outside(self) -> float:
        """Share of a frame's time outside kernels."""
        return self.outside_ms / self.frame_ms

    def as_json(self) -> dict[str, Any]:
        return {
            "level": self.level, "frame_ms": round(self.frame_ms, 5), "outside_ms": round(self.outside_ms, 5),
            "operations_ms": round(self.operations_ms, 5), "outside_kernels": round(self.outside, 4),
            "layers": [layer.as_json() for layer in self.layers],
        }  # fmt: skip


class Profiler:
    """Profiles a session, at one level after the other. frames: batches of one for `Session.run`, taken in turn.

    Raises BackendError unless the session's backend is a compiled one with one thread and vectors as wide as those of
    the kernels that measure (`haste_runtime.roofline`), which are always compiled on this computer.
    """

    def __init__(self, session: Session, frames: Frames, roofline: Roofline, rounds: int = ROUNDS) -> None:
        backend: Any = session._running()
        if not isinstance(backend, CompiledBackend) or backend.workers != 1:
            raise BackendError(
                "Only a compiled backend with one thread can be profiled.", "Use --backend numba --threads 1."
            )
        if backend.lanes != lanes():
            raise BackendError(
                f"The kernels that measure have vectors of {lanes()} lanes, those of the {backend.name} backend "
                f"{backend.lanes}.",
                f"Set {VARIABLE}={backend.lanes}.",
            )
        self._session, self._backend, self._frames = session, backend, frames
        self._roofline, self._rounds = roofline, rounds
        self._nodes = _nodes(session, backend)
        self._dense: list[float] | None = None
        weights = sum(self._weight_bytes(i) for i in range(len(self._nodes)))
        self._place = roofline.place(weights + 4 * backend.table.scratch)

    @property
    def place(self) -> str:
        """Where weights are read from: the nearest place that holds all of the network's weights and maps."""
        return self._place

    def level(self, number: int) -> Profile:
        """Takes a few hundred frames' time."""
        if self._dense is None:
            self._dense = self._operations(0)[0]
        times, stages = self._operations(number)
        self._session.level = number
        run, outside = self._whole(number)
        counts: Mapping[str, LayerCounts] = self._backend.counts()
        layers = tuple(
            self._layer(i, number, times[i], stages.get(i), counts.get(self._nodes[i].name)) for i in range(len(times))
        )
        return Profile(number, run, outside, sum(times), layers)

    def _whole(self, level: int) -> tuple[float, float]:
        """Milliseconds of `Session.run`, and of what it does outside compiled code."""
        runs, walks = [], []
        only = self._session._only  # of a network with one input and one output, which takes arrays
        given = [frame[only[0]] if only else frame for frame in self._frames]
        for i in range(self._rounds + 2):
            runs.append(_ms(partial(self._session.run, given[i % len(given)])))
            self._backend.stage(self._inputs(i))
            walks.append(_ms(lambda: self._backend.run_staged(level)))
        outside = np.median(np.subtract(runs, walks)[2:])
        return float(np.median(runs[2:])), max(0.0, float(outside))

    def _operations(self, level: int) -> tuple[list[float], dict[int, tuple[float, float]]]:
        """Milliseconds of each operation, and of the stages hash and group of those that merge."""
        count, levels = len(self._nodes), self._backend.table.levels[level]
        slots = self._backend.table.operations[:, t.SLOT]
        merged = {i for i in range(count) if slots[i] >= 0 and levels[slots[i], t.PATCH] > 0}
        times, hashes, groups = (np.zeros((self._rounds, count)) for _ in range(3))
        nothing: list[float] = []  # what a call takes that does nothing
        idle: list[float] = []  # likewise of the stages
        stages = {i: [self._stages(level, i, *what) for what in ((HASH, 0), (HASH, 1), (GROUP, 1))] for i in merged}
        self._session.level = level
        for turn in range(self._rounds):
            self.fill(turn)
            nothing += [_ms(lambda: self._backend.run_operations(level, 0, 0)) for _ in range(3)]
            for i in range(count):
                if i in merged:  # first, since an operation may overwrite what it reads
                    no_patch, hashing, grouping = stages[i]
                    idle.append(_ms(no_patch))
                    hashes[turn, i] = _ms(hashing)
                    groups[turn, i] = _ms(grouping) - hashes[turn, i]
                times[turn, i] = _ms(partial(self._backend.run_operations, level, i, 1))
        call, stage_call = float(np.median(nothing)), float(np.median(idle or [0.0]))
        for array, less in ((times, call), (hashes, stage_call), (groups, 0.0)):
            array[0] = np.maximum(np.median(array, axis=0) - less, 0)
        return times[0].tolist(), {i: (float(hashes[0, i]), float(groups[0, i])) for i in merged}

    def fill(self, number: int) -> None:
        """Put an input frame where the first operations read it; the maps after it have to be computed in order."""
        self._backend.fill(self._inputs(number))

    def _inputs(self, number: int) -> dict[str, NDArray[np.float32]]:
        frame = self._frames[number % len(self._frames)]
        return {name: batch[0] for name, batch in self._session._checked(frame).items()}

    def find_groups(self, level: int, number: int, stage: int) -> NDArray[np.int64]:
        """Run the first stages of a merged operation, when the one before it has just run. Returns its counters."""
        counters = np.zeros(t.COUNTERS, np.int64)
        self._stages(level, number, stage, 1, counters)()
        return counters

    def _stages(
        self, level: int, number: int, stage: int, patches: int, counters: NDArray[np.int64] | None = None
    ) -> Callable[[], None]:
        """The call that runs the first stages, with everything made ready. patches: 0 for none of them, else all."""
        table, _, arena, _, index = self._backend.addresses
        rows = self._backend.table
        own = rows.levels[level, int(rows.operations[number, t.SLOT])].copy()
        own[t.TILES_Y] *= patches
        counted = np.zeros(t.COUNTERS, np.int64) if counters is None else counters
        run, operation, scratch = probes()["find_groups"], table + number * rows.operations.strides[0], rows.scratch
        addresses = own.ctypes.data, arena, index, scratch, counted.ctypes.data
        kept = own, counted  # addresses do not keep arrays alive

        def call() -> None:
            run(operation, *addresses, stage)
            assert kept

        return call

    def _layer(
        self, i: int, level: int, ms: float, first: tuple[float, float] | None, counts: LayerCounts | None
    ) -> LayerProfile:
        assert self._dense is not None
        node, row, flops = self._nodes[i], self._backend.table.operations[i], self._session._flops
        macs = flops.dense.get(node.name, 0) // 2
        executed, kept, stages, rows = macs, None, None, 1.0
        if counts is not None and first is not None:
            executed = flops.layer(node.name, level, counts) // 2
            channels = counts.patches * flops.geometries[node.name].channels_in
            seen = 1 - counts.unseen / counts.patches  # the stages were timed on every patch
            first = first[0] * seen, first[1] * seen
            kept, rows = counts.kept / channels, min(1.0, (counts.kept + counts.merged / 2) / channels)
            multiply = max(0.0, ms - sum(first))
            if counts.merged or counts.levelled:
                multiply = min(multiply, kept * self._dense[i])
            stages = Stages(*first, max(0.0, ms - sum(first) - multiply), multiply)
        weights = self._weight_bytes(i)
        maps = 4 * int(row[t.XH] * row[t.XW] * row[t.XC] + row[t.YH] * row[t.YW] * row[t.YC])
        bound = self._roofline.seconds(executed, rows * weights + maps, self._place)  # a group has two rows or more
        arithmetic = executed / self._roofline.macs >= bound
        shape = f"{row[t.XC]}x{row[t.XH]}x{row[t.XW]} -> {row[t.YC]}x{row[t.YH]}x{row[t.YW]}"
        algorithm = self._algorithm(node.name, level if counts is not None else 0)
        return LayerProfile(
            node.name, _operation(node, row), shape, ms, self._dense[i], macs, executed, weights, algorithm, kept,
            stages, 1000 * bound, "arithmetic" if arithmetic else self._place,
        )  # fmt: skip

    def _weight_bytes(self, i: int) -> int:
        """Of an operation's filters, as the bundle stores them; padding is left out."""
        node, row = self._nodes[i], self._backend.table.operations[i]
        macs = self._session._flops.dense.get(node.name, 0) // 2
        return macs // int(row[t.YH] * row[t.YW]) * STORED[self._session.bundle.dtype]

    def _algorithm(self, name: str, level: int) -> str:
        """How the layer is computed at this level."""
        plan = self._session.bundle.plan
        layer, choice = next((p for p in plan.layers if p.node == name), None), plan.levels[level].choices.get(name)
        if layer is None:
            return ""
        return layer.algorithm if choice is None else layer.variants[choice.variant].algorithm


def _ms(run: Callable[[], object]) -> float:
    started = time.perf_counter_ns()
    run()
    return (time.perf_counter_ns() - started) / 1e6


def _nodes(session: Session, backend: CompiledBackend) -> list[Node]:
    """The node that each row of the table belongs to. A concat has a row for each input."""
    nodes = []
    for node in session.bundle.graph.nodes:
        nodes += [node] * (len(node.inputs) if node.op == "concat" else 1)
    if len(nodes) != len(backend.table.operations):
        raise HasteError("The execution table has other operations than the graph.", "Please report it.")
    return nodes


def _operation(node: Node, row: NDArray[np.int64]) -> str:
    if node.op != "conv":
        return node.op
    kernel = f"conv {row[t.KY]}x{row[t.KX]}"
    return kernel if row[t.SY] == row[t.SX] == 1 else f"{kernel}/{row[t.SY]}"
