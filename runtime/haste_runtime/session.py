"""Run a bundle: arrays in, arrays out, and one number that says how strongly to compress.

    from haste_runtime import Session

    with Session("net.haste") as session:
        y = session.run(x)                    # exact: every session starts at level 0
        session.level = 3                     # from any thread; the next frame runs at level 3
        y = session.run(x)
        print(session.stats.ms, session.stats.flops_reduction)

One inference at a time runs in a session; more threads may ask, and wait their turn. The level may be set at any time,
by the program, or by a policy that follows battery, heat, latency or a sensor of one's own: `follow`, in
`haste_runtime.governor.steered`.
"""

from __future__ import annotations

import operator
import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Literal, NamedTuple, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from haste_runtime.backends import Backend, choose_backend
from haste_runtime.bundle import Bundle, read_bundle
from haste_runtime.calibration.calibrated import Calibrated
from haste_runtime.errors import HasteError, InputError, LevelError
from haste_runtime.flops import LayerCounts, NetworkFlops, Totals
from haste_runtime.graph import Shape
from haste_runtime.operators import check_graph
from haste_runtime.plan import BUDGETED, Level

Array = NDArray[np.float32]
FLOAT32 = np.dtype(np.float32)


class TensorInfo(NamedTuple):
    """An input or output. The first axis is the batch, of any size from 1, and stands as None; maps have the source
    model's layout."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str = "float32"


class LevelInfo(NamedTuple):
    """What a level means. Reductions are percentages of FLOPs, expected when the bundle was compiled; `Session.stats`
    has what really happened. ``flops_reduction`` is over the layers that may merge, ``flops_reduction_network`` over
    all convolutions and linear layers. ``agreement``: percentage of frames expected to have the same largest output as
    at level 0, None where it was not measured."""

    number: int
    flops_reduction: float
    flops_reduction_network: float
    agreement: float | None
    description: str


class LayerStats(NamedTuple):
    """One merged layer in one frame. groups: kept per patch, mean over its patches. kept: that divided by channels."""

    groups: float
    channels: int
    kept: float


class Stats(NamedTuple):
    """One frame. ms: wall time of the network alone. layers: those merged at this level. totals: FLOPs; to average
    over frames, add the totals up first."""

    level: int
    ms: float
    layers: Mapping[str, LayerStats]
    totals: Totals

    @property
    def flops_done(self) -> int:
        """FLOPs executed in all convolutions and linear layers, the cost of merging included."""
        return self.totals.network_executed

    @property
    def flops_dense(self) -> int:
        """What the exact network needs for them."""
        return self.totals.network_dense

    @property
    def flops_reduction(self) -> float:
        """Percent saved, over the layers that may merge."""
        return self.totals.flops_reduction

    @property
    def flops_reduction_network(self) -> float:
        """Percent saved, over all convolutions and linear layers."""
        return self.totals.flops_reduction_network


class Session(Calibrated):
    """A network, ready to run.

    path_or_bundle: a ``.haste`` file, or a `Bundle` in memory. backend: "native", "numba", "numpy", or "auto", the
    first of them that runs here. threads: for one inference; "auto" is what ``haste-run calibrate`` found to be best, 1
    before it has run. trace: keep the codes of each frame for `codes`.

    Raises BundleError if the file is not a sound bundle, GraphError if the graph of a bundle in memory is not, and
    BackendError if the backend cannot run here.
    """

    def __init__(
        self,
        path_or_bundle: str | os.PathLike[str] | Bundle,
        backend: str = "auto",
        threads: int | Literal["auto"] = 1,
        trace: bool = False,
    ) -> None:
        super().__init__(None if isinstance(path_or_bundle, Bundle) else path_or_bundle)
        bundle = path_or_bundle if isinstance(path_or_bundle, Bundle) else read_bundle(path_or_bundle)
        shapes = check_graph(bundle.graph, numbers=isinstance(path_or_bundle, Bundle))  # of a file, they are checked
        count = self.best_threads() if threads == "auto" else threads
        running, self._backend_reason = choose_backend(backend, bundle, count, trace)
        self._backend_name = running.name
        self._backend: Backend | None = running  # None once closed
        self._flops = NetworkFlops(bundle.graph, shapes, bundle.plan, bundle.projections)
        if running.name != "numpy" and not isinstance(path_or_bundle, Bundle):
            # the backend has packed the weights its own way, and once in memory is enough
            bundle = replace(bundle, graph=replace(bundle.graph, constants={}))
        self._bundle, self._trace = bundle, trace
        self._channels_last = bundle.preprocessing.layout == "NHWC"
        self._inputs = {value.name: value for value in bundle.graph.inputs}
        self._frame_shapes = {name: self._in_layout(value.shape) for name, value in self._inputs.items()}
        self._output_shapes = {name: shapes[name] for name in bundle.graph.outputs}
        single = len(self._inputs) == len(self._output_shapes) == 1
        self._only = (bundle.graph.inputs[0].name, bundle.graph.outputs[0]) if single else None
        one = single and not self._channels_last
        self._one_frame = (1, *bundle.graph.inputs[0].shape) if one else None
        self._level, self._level_count = 0, len(bundle.plan.levels)
        self._lock = threading.Lock()  # held during `run`; never needed to read or set the level
        self._last: tuple[int, float, Mapping[str, LayerCounts]] | None = None

    # --- running -----------------------------------------------------------------------------------------------------

    @overload
    def run(self, x: Mapping[str, ArrayLike]) -> dict[str, Array]: ...

    @overload
    def run(self, x: ArrayLike) -> Array: ...

    def run(self, x: ArrayLike | Mapping[str, ArrayLike]) -> Array | dict[str, Array]:
        """Run a batch, frame by frame; each frame takes the level that is set when it begins.

        x: what the source model itself takes, *already normalised*, in its own layout and with the batch first, for
        example (N, 3, 32, 32); float32, or float64 and float16, which are converted. A network with one input and one
        output takes one array and returns one; any network takes a dict of arrays by name and returns a dict. Outputs
        are float32, laid out as the source model does, and yours to keep.

        Raises InputError for a missing or unknown name, a wrong shape or type, different batch sizes, and, when the
        frame's turn has come, NaN or infinity.
        Pictures as integers are such an error: ``haste-run infer`` and `haste_runtime.preprocessing` normalise them.
        """
        if isinstance(x, np.ndarray):
            if x.shape == self._one_frame and x.dtype == FLOAT32:
                return self._run_one(x)
        elif isinstance(x, Mapping):
            return self._run(x)
        if self._only is None:
            raise InputError(
                f"One array was given to a network with inputs {', '.join(self._inputs)} "
                f"and outputs {', '.join(self._output_shapes)}.",
                "Give a dict of arrays by name; a dict comes back.",
            )
        return self._run_only(x, *self._only)

    def _run_one(self, x: Array) -> Array:
        """A batch of one frame of such a network as most are: one input, one output, and channels first. Little Python:
        after a frame its code has left the caches."""
        with self._lock:
            backend, level = self._running(), self._level
            start = time.perf_counter()
            y = backend.run_only(x, level)
            self._took(level, time.perf_counter() - start, backend)
        return y

    def _run_only(self, x: ArrayLike, given: str, wanted: str) -> Array:
        batch = self._checked_input(given, x)
        with self._lock:
            results = [self._frame({given: frame})[wanted] for frame in batch]
        return self._restored(results)

    def _run(self, arrays: Mapping[str, ArrayLike]) -> dict[str, Array]:
        if self._only is not None and len(arrays) == 1 and self._only[0] in arrays:
            return {self._only[1]: self._run_only(arrays[self._only[0]], *self._only)}
        batch = self._checked(arrays)
        count = len(next(iter(batch.values())))
        with self._lock:
            results = [self._frame({name: array[i] for name, array in batch.items()}) for i in range(count)]
        return {name: self._restored([result[name] for result in results]) for name in self._output_shapes}

    def _frame(self, frames: Mapping[str, Array]) -> dict[str, Array]:
        backend, level = self._running(), self._level
        start = time.perf_counter()
        result = backend.run(frames, level)
        self._took(level, time.perf_counter() - start, backend)
        return result

    def _took(self, level: int, seconds: float, backend: Backend) -> None:
        """A frame has been run: keep what it took."""
        self._last = (level, seconds, backend.counts())
        governor = self.governor
        if governor is not None:
            governor.frame(level, seconds)

    def _checked(self, arrays: Mapping[str, ArrayLike]) -> dict[str, Array]:
        """The batches (N, C, H, W) or (N, F) as the graph has them."""
        if arrays.keys() != self._inputs.keys():
            raise InputError(
                f"The inputs given are {', '.join(map(str, arrays)) or 'none'}.",
                f"This network takes exactly {', '.join(self._inputs)}.",
            )
        batch = {name: self._checked_input(name, arrays[name]) for name in self._inputs}
        sizes = {name: len(array) for name, array in batch.items()}
        if len(sizes) > 1 and len(set(sizes.values())) > 1:
            raise InputError(
                f"The inputs have different batch sizes: {sizes}.", "Give all of them the same first axis."
            )
        return batch

    def _checked_input(self, name: str, given: ArrayLike) -> Array:
        x, shape = np.asarray(given), self._frame_shapes[name]
        if x.shape[1:] != shape or not x.shape or not len(x):
            raise self._shape_error(name, x.shape, shape)
        if x.dtype.kind != "f":
            raise InputError(
                f"Input {name!r} is {x.dtype}, but the network takes normalised float32.",
                "For pictures use `haste-run infer`, or normalise them with haste_runtime.preprocessing first.",
            )
        if x.dtype != np.float32:
            with np.errstate(over="ignore"):  # a float64 that float32 cannot hold becomes infinity, which is refused
                x = x.astype(np.float32)
        return x.transpose(0, 3, 1, 2) if self._channels_last and x.ndim == 4 else x

    def _shape_error(self, name: str, given: Shape, shape: Shape) -> InputError:
        wanted = f"({', '.join(map(str, ('N', *shape)))})"
        if given == shape:
            return InputError(
                f"Input {name!r} has shape {given} and so no batch axis; {wanted} is needed.",
                "For a single frame give x[np.newaxis].",
            )
        hint = "N is the batch: 1 or more."
        if len(given) == 4 and given[1:] in ((*shape[1:], shape[0]), (shape[-1], *shape[:-1])):
            hint = (
                f"The source model has its channels {'last' if self._channels_last else 'first'}: transpose the array."
            )
        return InputError(f"Input {name!r} has shape {given}; {wanted} is needed.", hint)

    def _in_layout(self, shape: Shape) -> Shape:
        """The per-frame shape that users see of one that the graph has."""
        return (*shape[1:], shape[0]) if self._channels_last and len(shape) == 3 else shape

    def _restored(self, frames: list[Array]) -> Array:
        """A batch of outputs in the source model's layout."""
        batch = np.stack(frames) if len(frames) > 1 else frames[0][np.newaxis]
        return np.ascontiguousarray(batch.transpose(0, 2, 3, 1)) if self._channels_last and batch.ndim == 4 else batch

    def _running(self) -> Backend:
        if self._backend is None:
            raise HasteError("This session is closed.", "Open a new one with Session(path).")
        return self._backend

    # --- the level ---------------------------------------------------------------------------------------------------

    @property
    def level(self) -> int:
        """How strongly the next frame is compressed: 0 is the exact network, the last of `levels` the strongest.

        Setting it costs nothing, never waits, and may be done from any thread while `run` is busy: a frame that has
        begun keeps its level. Raises LevelError if there is no such level.

        While a policy is followed, setting the level overrides it until the level is set to None.
        """
        return self._level

    @level.setter
    def level(self, number: int | None) -> None:
        governor = self.governor
        if number is None and governor is not None:
            governor.override(None)
            return
        try:
            number = operator.index(number)  # type: ignore[arg-type]  # whatever it is: that is what is checked
        except TypeError:
            raise LevelError(f"A level is an integer, not {number!r}.", self._level_advice()) from None
        if not 0 <= number < self._level_count:
            raise LevelError(f"There is no level {number}.", self._level_advice())
        if governor is not None:
            governor.override(number)
        else:
            self._level = number

    def _set_level(self, level: int) -> None:
        self._level = level

    def _level_advice(self) -> str:
        last = self._level_count - 1
        return (
            f"This bundle has the levels 0 to {last}." if last else "This bundle has only level 0, the exact network."
        )

    @property
    def levels(self) -> tuple[LevelInfo, ...]:
        """Every level of the bundle, in order, with what it is expected to save, and how often to answer alike."""
        return tuple(
            LevelInfo(
                number, level.flops_reduction, level.flops_reduction_network, level.agreement, self._describe(level)
            )
            for number, level in enumerate(self._bundle.plan.levels)
        )

    def _describe(self, level: Level) -> str:
        if not level.choices:
            return "exact: every layer dense"
        layers = {layer.node: layer for layer in self._bundle.plan.layers}
        bits = sorted({choice.bits for choice in level.choices.values()})
        budgets = sorted(
            {c.budget for node, c in level.choices.items() if layers[node].variants[c.variant].policy in BUDGETED}
        )
        how = f"on {_span(bits)} bits"
        if budgets:
            how += f" and {'a budget' if len(budgets) == 1 else 'budgets'} of {_span(budgets)}"
        agreement = "" if level.agreement is None else f", {level.agreement:.1f} % of answers kept"
        return (
            f"{len(level.choices)} of {len(self._flops.geometries)} convolutions merged, {how}; "
            f"about {level.flops_reduction_network:.1f} % fewer FLOPs in the network{agreement}"
        )

    # --- what is inside ----------------------------------------------------------------------------------------------

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """What `run` takes."""
        return tuple(TensorInfo(name, (None, *self._in_layout(value.shape))) for name, value in self._inputs.items())

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """What `run` returns."""
        return tuple(TensorInfo(name, (None, *self._in_layout(shape))) for name, shape in self._output_shapes.items())

    @property
    def bundle(self) -> Bundle:
        """The bundle itself: class names, preprocessing, plan.

        Its graph has no constants where the session has read the file for a compiled backend, which keeps the weights
        in another order; `haste_runtime.bundle.read_bundle` gives all of it."""
        return self._bundle

    @property
    def dtype(self) -> str:
        """How the bundle's weights are stored, and held in memory by the compiled backend: "fp32", "fp16" or "int8"."""
        return self._bundle.dtype

    @property
    def backend(self) -> str:
        """The name of the backend that runs: "native", "numba" or "numpy"."""
        return self._backend_name

    @property
    def threads(self) -> int:
        """How many threads share a frame; may be set, from 1 to as many as the session was opened with (the numpy
        backend always has one), and takes effect after the frame that runs. Raises BackendError."""
        return self._running().workers

    @threads.setter
    def threads(self, count: int) -> None:
        with self._lock:
            self._running().use_threads(count)

    @property
    def backend_reason(self) -> str:
        """Why it is this backend, and where its machine code comes from, in words."""
        return self._backend_reason

    @property
    def stats(self) -> Stats:
        """The last frame that ran, in any thread. Raises HasteError before the first one."""
        if self._last is None:
            raise HasteError("No frame has run in this session yet.", "Call run first.")
        level, seconds, counts = self._last
        layers = {}
        for node, count in counts.items():
            channels, groups = self._flops.geometries[node].channels_in, count.kept / count.patches
            layers[node] = LayerStats(groups, channels, groups / channels)
        return Stats(level, 1000 * seconds, layers, self._flops.totals(level, counts))

    @property
    def codes(self) -> dict[str, NDArray[np.int32]]:
        """The codes of the last frame's merged layers: (patches, channels) each, -1 on dead patches, and in layers that
        stayed dense (`haste_runtime.plan.Variant.dense_above`). With ``trace``."""
        return self._traced().codes()

    @property
    def groups(self) -> dict[str, NDArray[np.int32]]:
        """Of the same layers, per patch and channel the first channel of its group, -1 where it was dropped and
        throughout on dead patches. With ``trace``."""
        return self._traced().groups()

    def _traced(self) -> Backend:
        if not self._trace:
            raise HasteError("This session keeps no codes.", "Open it with Session(..., trace=True).")
        return self._running()

    # --- closing -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Let go of the weights and threads, after the inference that is running; closing twice is harmless."""
        self.unfollow()
        with self._lock:
            if self._backend is not None:
                self._backend.close()
            self._backend = None

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _span(values: Sequence[float]) -> str:
    """Of sorted numbers the least and the largest, or the only one."""
    return f"{values[0]:.3g}" if len(values) == 1 else f"{values[0]:.3g} to {values[-1]:.3g}"
