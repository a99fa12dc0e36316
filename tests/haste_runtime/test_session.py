"""Sessions: arrays and dicts, layouts, batches, every wrong input, levels from other threads, statistics."""

from __future__ import annotations

import threading
import time
import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import GraphBuilder, bundle_for, conv_graph, random_network, sign_changing

from haste_runtime import session as session_module
from haste_runtime.backends.numpy_backend import NumpyBackend
from haste_runtime.bundle import write_bundle
from haste_runtime.errors import BackendError, BundleError, GraphError, HasteError, InputError, LevelError
from haste_runtime.flops import LayerCounts
from haste_runtime.graph import Graph
from haste_runtime.session import LevelInfo, Session, TensorInfo

Frames = Mapping[str, np.ndarray]


def opened(graph: Graph | None = None, **bundle: Any) -> Session:
    return Session(bundle_for(random_network(5) if graph is None else graph, **bundle), backend="numpy")


def batch_for(session: Session, count: int = 1, seed: int = 0) -> np.ndarray:
    (info,) = session.inputs
    return sign_changing(np.random.default_rng(seed), (count, *(int(n) for n in info.shape[1:] if n)))


def two_by_two() -> Graph:
    """Inputs "a" (4, 6, 6) and "b" (3,); outputs "map" (5, 6, 6) and "vector" (2,)."""
    b = GraphBuilder(0, a=(4, 6, 6), b=(3,))
    b.conv("map", "a", 4, 5, 3)
    b.linear("vector", "b", 3, 2)
    return b.graph("map", "vector")


def test_compiled_sessions_keep_weights_once(tmp_path: Path) -> None:
    """Traced: what numpy allocates. The file's own order of the weights is not kept beside the packed one."""
    path = tmp_path / "net.haste"
    bundle = bundle_for(conv_graph(256, 256, 3, h=2, w=2))
    write_bundle(path, bundle)
    weights = sum(constant.nbytes for constant in bundle.graph.constants.values())
    Session(path, backend="numba").close()  # compiles and imports whatever it needs
    tracemalloc.start()
    try:
        with Session(path, backend="numba") as session:
            held = tracemalloc.get_traced_memory()[0]
            assert session.bundle.graph.constants == {}
            assert session.bundle.classes == bundle.classes
    finally:
        tracemalloc.stop()
    assert weights < held < 1.3 * (weights + bundle.arena_bytes) + (1 << 19)


# --- arrays in, arrays out -------------------------------------------------------------------------------------------


def test_one_array_in_one_fresh_array_out() -> None:
    with opened() as session:
        x = batch_for(session)
        y = session.run(x)
        assert y.shape == (1, 5)
        assert y.dtype == np.float32
        kept = y.copy()
        y[:] = 0
        assert np.array_equal(session.run(x), kept)


def test_a_file_is_the_same_as_its_bundle(tmp_path: Path) -> None:
    bundle, path = bundle_for(random_network(5)), tmp_path / "net.haste"
    write_bundle(path, bundle)
    with Session(bundle, "numpy") as memory, Session(path, "numpy") as file, Session(str(path), "numpy") as text:
        assert file.levels == memory.levels
        x = batch_for(memory)
        for level in range(len(file.levels)):
            memory.level = file.level = text.level = level
            assert np.array_equal(file.run(x), memory.run(x))
            assert np.array_equal(text.run(x), memory.run(x))
    with pytest.raises(BundleError):
        Session(tmp_path / "nothing.haste")


def test_a_batch_is_its_frames() -> None:
    with opened() as session:
        x = batch_for(session, 3)
        for session.level in (0, 2):
            assert np.array_equal(session.run(x), np.concatenate([session.run(x[i : i + 1]) for i in range(3)]))


def test_dicts_by_name() -> None:
    rng = np.random.default_rng(0)
    inputs = {"b": sign_changing(rng, (2, 3)), "a": sign_changing(rng, (2, 4, 6, 6))}
    with opened(two_by_two()) as session:
        result = session.run(inputs)
        assert {name: y.shape for name, y in result.items()} == {"map": (2, 5, 6, 6), "vector": (2, 2)}
        graph = session.bundle.graph
        expected = inputs["b"] @ graph.constants["vector.weight"].T + graph.constants["vector.bias"]
        assert np.allclose(result["vector"], expected, atol=1e-6)
    with opened() as session:
        x = batch_for(session)
        assert np.array_equal(session.run({"x": x})["logits"], session.run(x))


def test_channels_last_sources_keep_their_layout() -> None:
    graph = conv_graph(4, 7, 3, h=6, w=9)
    x = sign_changing(np.random.default_rng(0), (2, 4, 6, 9))
    with opened(graph) as first, opened(graph, layout="NHWC") as last:
        assert last.inputs == (TensorInfo("x", (None, 6, 9, 4)),)
        assert last.outputs == (TensorInfo("conv", (None, 6, 9, 7)),)
        y = last.run(x.transpose(0, 2, 3, 1))
        assert y.flags.c_contiguous
        assert np.array_equal(y, first.run(x).transpose(0, 2, 3, 1))


def test_inputs_and_outputs_are_described() -> None:
    with opened(two_by_two()) as session:
        assert session.inputs == (TensorInfo("a", (None, 4, 6, 6), "float32"), TensorInfo("b", (None, 3), "float32"))
        assert session.outputs == (TensorInfo("map", (None, 5, 6, 6)), TensorInfo("vector", (None, 2)))


@pytest.mark.parametrize("dtype", ["float64", "float16", ">f4"])
def test_other_floats_are_converted(dtype: str) -> None:
    with opened() as session:
        x = batch_for(session).astype(np.float16).astype(np.float32)
        assert np.array_equal(session.run(x.astype(dtype)), session.run(x))
        assert np.array_equal(session.run(x.tolist()), session.run(x))


def test_arrays_need_not_be_contiguous() -> None:
    with opened() as session:
        x = batch_for(session)
        assert np.array_equal(session.run(np.asfortranarray(x)), session.run(x))


# --- wrong inputs ----------------------------------------------------------------------------------------------------


def refused(session: Session, x: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        session.run(x)
    assert caught.value.hint
    return caught.value


def test_missing_batch_axis_is_named() -> None:
    with opened(conv_graph(4, 7, 3, h=6, w=9)) as session:
        error = refused(session, np.zeros((4, 6, 9), np.float32))
        assert "no batch axis" in error.message
        assert "(N, 4, 6, 9)" in error.message
        assert "np.newaxis" in error.hint


@pytest.mark.parametrize("shape", [(), (4,), (1, 4, 6, 8), (0, 4, 6, 9), (1, 1, 4, 6, 9), (1, 216)])
def test_wrong_shapes(shape: tuple[int, ...]) -> None:
    with opened(conv_graph(4, 7, 3, h=6, w=9)) as session:
        error = refused(session, np.zeros(shape, np.float32))
        assert str(shape) in error.message
        assert "(N, 4, 6, 9)" in error.message


def test_wrong_layout_is_recognised() -> None:
    graph = conv_graph(4, 7, 3, h=6, w=9)
    with opened(graph) as first, opened(graph, layout="NHWC") as last:
        assert "channels first" in refused(first, np.zeros((1, 6, 9, 4), np.float32)).hint
        assert "channels last" in refused(last, np.zeros((1, 4, 6, 9), np.float32)).hint


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, bool, np.complex64])
def test_integers_are_not_normalised_inputs(dtype: type) -> None:
    with opened() as session:
        error = refused(session, batch_for(session).astype(np.float64).round().astype(dtype))
        assert np.dtype(dtype).name in error.message
        assert "preprocessing" in error.hint


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_not_finite(bad: float) -> None:
    with opened() as session:
        x = batch_for(session, 2).astype(np.float64)
        x[1, 2, 3, 4] = bad
        assert "NaN or infinity" in refused(session, x).message


def test_wrong_names_and_batch_sizes() -> None:
    a, b = np.zeros((1, 4, 6, 6), np.float32), np.zeros((1, 3), np.float32)
    with opened(two_by_two()) as session:
        for wrong in ({}, {"a": a}, {"a": a, "b": b, "c": b}, {"a": a, "B": b}):
            assert "exactly a, b" in refused(session, wrong).hint
        assert "different batch sizes" in refused(session, {"a": a, "b": np.zeros((2, 3), np.float32)}).message
        assert "dict" in refused(session, a).hint


def test_a_refused_input_leaves_the_session_usable() -> None:
    with opened() as session:
        x = batch_for(session)
        y = session.run(x)
        refused(session, x[0])
        assert np.array_equal(session.run(x), y)


# --- levels ----------------------------------------------------------------------------------------------------------


def test_levels_are_described() -> None:
    with opened(bits=12, levels=(12, 4)) as session:
        text = "4 of 6 convolutions merged, on {} bits; about {} % fewer FLOPs in the network"
        assert session.levels == (
            LevelInfo(0, 0.0, 0.0, None, "exact: every layer dense"),
            LevelInfo(1, 20.0, 10.0, None, text.format(12, "10.0")),
            LevelInfo(2, 30.0, 20.0, None, text.format(4, "20.0")),
        )


def test_levels_tell_what_is_known_of_budgets_and_agreement() -> None:
    bundle = bundle_for(random_network(5), policy="budget", levels=(12, 12, 12), budget=(0.03, 0.25, 1.5))
    dense, first, second, third = bundle.plan.levels
    (one, choice), *others = second.choices.items()
    levels = (
        replace(dense, agreement=100.0),
        replace(first, agreement=99.46),
        replace(second, choices={one: replace(choice, budget=0.0), **dict(others)}),
        replace(third, choices={one: replace(choice, bits=3, budget=1e-4)}, agreement=0.0),
    )
    with Session(replace(bundle, plan=replace(bundle.plan, levels=levels)), "numpy") as session:
        assert [info.agreement for info in session.levels] == [100.0, 99.46, None, 0.0]
        texts = [info.description for info in session.levels]
    network = "fewer FLOPs in the network"
    assert texts == [
        "exact: every layer dense",
        f"4 of 6 convolutions merged, on 12 bits and a budget of 0.03; about 10.0 % {network}, 99.5 % of answers kept",
        f"4 of 6 convolutions merged, on 12 bits and budgets of 0 to 0.25; about 20.0 % {network}",
        f"1 of 6 convolutions merged, on 3 bits and a budget of 0.0001; about 30.0 % {network}, 0.0 % of answers kept",
    ]


def test_level_is_kept_and_checked() -> None:
    with opened(levels=(8, 4)) as session:
        assert session.level == 0
        session.level = np.int64(2)
        assert session.level == 2
        assert type(session.level) is int
        for wrong in (3, -1, 1.0, "1", None):
            with pytest.raises(LevelError) as caught:
                session.level = wrong
            assert "0 to 2" in caught.value.hint
        assert session.level == 2
    with opened(levels=()) as session, pytest.raises(LevelError, match="only level 0"):
        session.level = 1


def test_the_level_changes_what_is_computed() -> None:
    with opened(levels=(12, 1)) as session:
        x = batch_for(session)
        exact = session.run(x)
        session.level = 2
        assert not np.array_equal(session.run(x), exact)
        session.level = 0
        assert np.array_equal(session.run(x), exact)


class ScriptedBackend:
    """Stands in for a backend: calls a function in each frame, and notes the levels."""

    name = "scripted"

    def __init__(self, during: Callable[[int], None]) -> None:
        self.during, self.levels, self.closed = during, list[int](), 0

    def run(self, frames: Frames, level: int) -> dict[str, np.ndarray]:
        self.levels.append(level)
        self.during(len(self.levels))
        return {"conv": np.zeros((2, 8, 8), np.float32)}

    def counts(self) -> dict[str, LayerCounts]:
        return {}

    def codes(self) -> dict[str, np.ndarray]:
        return {}

    def groups(self) -> dict[str, np.ndarray]:
        return {}

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int], None]], tuple[Session, ScriptedBackend]]:
    def make(during: Callable[[int], None]) -> tuple[Session, ScriptedBackend]:
        backend = ScriptedBackend(during)
        monkeypatch.setattr(session_module, "choose_backend", lambda *_: (backend, "scripted"))
        return Session(bundle_for(conv_graph(3, 2, 3), levels=(8, 4, 2))), backend

    return make


def test_each_frame_of_a_batch_reads_the_level(scripted: Any) -> None:
    def during(number: int) -> None:
        session.level = 3 - number if number < 3 else 0

    session, backend = scripted(during)
    session.level = 3
    session.run(batch_for(session, 4))
    assert backend.levels == [3, 2, 1, 0]
    assert session.stats.level == 0


def test_setting_the_level_does_not_wait_for_the_frame(scripted: Any) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def during(number: int) -> None:
        entered.set()
        assert go_on.wait(10)

    session, backend = scripted(during)
    runner = threading.Thread(target=session.run, args=(batch_for(session, 2),))
    runner.start()
    assert entered.wait(10)
    session.level = 2  # would hang here, and time out in `during`, if it waited for the frame
    assert session.level == 2
    go_on.set()
    runner.join(10)
    assert backend.levels == [0, 2]


def test_one_inference_at_a_time_and_close_waits(scripted: Any) -> None:
    inside, overlaps = [0], []

    def during(number: int) -> None:
        inside[0] += 1
        overlaps.append(inside[0])
        assert backend.closed == 0
        time.sleep(0.001)
        inside[0] -= 1

    session, backend = scripted(during)
    x = batch_for(session, 3)
    runners = [threading.Thread(target=session.run, args=(x,)) for _ in range(4)]
    for runner in runners:
        runner.start()
    for runner in runners:
        runner.join(10)
    assert overlaps == [1] * 12
    session.close()
    session.close()
    assert backend.closed == 1


def test_levels_set_by_many_threads_while_others_run() -> None:
    """Every result is, to the byte, the one of some level, and the statistics always tell one frame's story."""
    session = opened(levels=(12, 6, 2))
    inputs = [batch_for(session, seed=seed) for seed in range(2)]
    expected = []
    for x in inputs:
        results = set()
        for session.level in range(4):
            results.add(session.run(x).tobytes())
        assert len(results) == 4
        expected.append(results)
    done, wrong = threading.Event(), []

    def steer(seed: int) -> None:
        rng = np.random.default_rng(seed)
        while not done.is_set():
            session.level = int(rng.integers(4))
            stats = session.stats
            if bool(stats.layers) != (stats.level > 0):
                wrong.append("statistics mix two frames")
            time.sleep(0)

    def run(which: int) -> None:
        for _ in range(40):
            if session.run(inputs[which]).tobytes() not in expected[which]:
                wrong.append("a result belongs to no level")

    steering = [threading.Thread(target=steer, args=(seed,)) for seed in range(3)]
    running = [threading.Thread(target=run, args=(which,)) for which in (0, 1)]
    for thread in steering + running:
        thread.start()
    for thread in running:
        thread.join()
    done.set()
    for thread in steering:
        thread.join()
    assert not wrong


# --- what is inside --------------------------------------------------------------------------------------------------


def test_statistics_of_the_last_frame() -> None:
    graph = random_network(5)
    with opened(graph, patch=3, levels=(12, 3)) as session:
        with pytest.raises(HasteError, match="No frame"):
            _ = session.stats
        x = batch_for(session)
        session.run(x)
        stats = session.stats
        assert stats.level == 0
        assert stats.ms > 0
        assert stats.layers == {}
        assert stats.flops_done == stats.flops_dense > 0
        assert stats.flops_reduction == stats.flops_reduction_network == 0.0

        session.level = 2
        session.run(x)
        stats = session.stats
        backend = NumpyBackend(session.bundle)
        backend.run({"x": x[0]}, 2)
        counts = backend.counts()
        assert set(stats.layers) == set(counts)
        for name, layer in stats.layers.items():
            assert layer.groups == counts[name].kept / counts[name].patches
            assert 1 <= layer.groups <= layer.channels
            assert layer.kept == layer.groups / layer.channels
        assert stats.flops_dense == session.stats.totals.network_dense
        assert stats.flops_reduction_network == pytest.approx(100 * (1 - stats.flops_done / stats.flops_dense))
        assert stats.flops_reduction != stats.flops_reduction_network


def test_codes_and_groups_when_traced() -> None:
    bundle = bundle_for(conv_graph(6, 2, 3, h=9, w=9), patch=4, levels=(5,))
    with Session(bundle, "numpy", trace=True) as session:
        session.level = 1
        session.run(batch_for(session))
        assert session.codes["conv"].shape == (9, 6)
        assert 0 <= session.codes["conv"].min() <= session.codes["conv"].max() < 32
        assert session.groups["conv"].shape == (9, 6)
        for codes, leaders in zip(session.codes["conv"], session.groups["conv"], strict=True):
            assert np.array_equal(codes[leaders], codes)  # by the policy "mean" a leader has the same code
        session.level = 0
        session.run(batch_for(session))
        assert session.codes == session.groups == {}
    with Session(bundle, "numpy") as session:
        for name in ("codes", "groups"):
            with pytest.raises(HasteError, match="no codes"):
                getattr(session, name)


def test_backend_and_reason() -> None:
    with opened() as session:
        assert (session.backend, session.backend_reason) == ("numpy", "asked for")
        assert session.dtype == "fp32"
    with pytest.raises(BackendError):
        Session(bundle_for(conv_graph(3, 2, 3)), backend="tpu")


def test_closed_sessions_do_not_run() -> None:
    with opened() as session:
        x = batch_for(session)
        session.run(x)
    with pytest.raises(HasteError, match="closed"):
        session.run(x)
    assert session.stats.level == 0  # what is known stays known


def test_an_unsound_graph_is_refused() -> None:
    graph = conv_graph(3, 2, 3)
    bundle = bundle_for(graph)
    unsound = Graph(graph.inputs, ("nothing",), graph.nodes, graph.constants)
    with pytest.raises(GraphError, match="nothing"):
        Session(type(bundle)(**{**vars(bundle), "graph": unsound}), "numpy")
