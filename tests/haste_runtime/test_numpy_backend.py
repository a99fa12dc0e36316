"""The reference backend: whole networks against torch, merged layers in a graph, counts, codes; choosing a backend."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from builders import GraphBuilder, alike_channels, bundle_for, conv_graph, geometry_of, random_network, sign_changing
from hypothesis import given, settings
from hypothesis import strategies as st

from haste_edge import torch_graph
from haste_runtime.backends import choose_backend
from haste_runtime.backends.numpy_backend import NumpyBackend
from haste_runtime.bundle import stored
from haste_runtime.errors import BackendError
from haste_runtime.graph import Graph
from haste_runtime.merge import Rule, merged_conv
from haste_runtime.plan import POLICIES
from haste_runtime.weights import float_graph


def frame_for(graph: Graph, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {value.name: sign_changing(rng, value.shape) for value in graph.inputs}


def by_torch(graph: Graph, frame: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    batch = {name: torch.from_numpy(x)[None] for name, x in frame.items()}
    return {name: y[0].numpy() for name, y in torch_graph.run(graph, batch).outputs.items()}


@given(st.integers(0, 10_000))
@settings(max_examples=20)
def test_level_zero_is_the_network(seed: int) -> None:
    graph = random_network(seed)
    frame = frame_for(graph, seed)
    backend = NumpyBackend(bundle_for(graph))
    (ours,), (theirs,) = backend.run(frame, 0).values(), by_torch(graph, frame).values()
    assert ours.dtype == np.float32
    assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()
    assert backend.counts() == {}


@pytest.mark.parametrize("activation", ["none", "relu", "relu6"])
@pytest.mark.parametrize("residual", [False, True])
def test_merged_layer_in_a_graph(activation: str, residual: bool) -> None:
    """Residual and activation come after the merged convolution, and the plan's variant, bits and budget are used."""
    graph = conv_graph(9, 4, 3, 2, 13, 11, activation=activation, residual=residual)
    bundle = bundle_for(
        graph, (2, 5, 4), 10, (9, 3, 4, 1, 2, 8), policy=("mean", "scaled", "budget"), budget=(0.0, 0.0, 0.2, 1, 1, 1.5)
    )
    backend = NumpyBackend(bundle, trace=True)
    rng = np.random.default_rng(1)
    x, other = alike_channels(rng, (9, 13, 11)), sign_changing(rng, (4, 7, 6))
    frame = {"x": x} | ({"residual": other} if residual else {})
    weight, bias = graph.constants["conv.weight"], graph.constants["conv.bias"]
    settings = [(2, 9, "mean", 0.0), (5, 3, "scaled", 0.0), (4, 4, "budget", 0.2)]
    settings += [(2, 1, "mean", 0.0), (5, 2, "scaled", 0.0), (4, 8, "budget", 1.5)]
    found = set()
    for level, (patch, bits, policy, budget) in enumerate(settings, 1):
        projection, importance = bundle.projections[f"conv.projection{patch}"], bundle.importance["conv.importance"]
        rule = Rule(patch, projection, bits, policy, importance, budget)
        y, counts, codes, groups = merged_conv(x, weight, bias, geometry_of(graph), rule)
        y = y + other if residual else y
        y = {"none": y, "relu": np.maximum(y, 0), "relu6": np.clip(y, 0, 6)}[activation]
        assert np.array_equal(backend.run(frame, level)["conv"], y)
        assert backend.counts() == {"conv": counts}
        assert np.array_equal(backend.codes()["conv"], codes)
        assert np.array_equal(backend.groups()["conv"], groups)
        found.add(groups.tobytes())
    assert len(found) == len(settings)
    backend.run(frame, 0)
    assert backend.counts() == backend.codes() == backend.groups() == {}


@pytest.mark.parametrize("policy", POLICIES)
def test_merging_saves_and_changes_something_in_a_network(policy: str) -> None:
    graph = random_network(11)
    bundle = bundle_for(graph, patch=3, bits=12, levels=(12, 1), policy=policy, budget=(0.1, 1.0))
    backend, frame = NumpyBackend(bundle), frame_for(graph)
    exact = backend.run(frame, 0)["logits"]
    merging = sorted(layer.node for layer in bundle.plan.layers if layer.variants)
    kept = []
    for level in (1, 2):
        changed = backend.run(frame, level)["logits"]
        assert np.isfinite(changed).all()
        counts = backend.counts()
        assert sorted(counts) == merging
        kept.append(sum(count.kept for count in counts.values()))
        for name, count in counts.items():
            geometry = geometry_of(graph, name)
            assert count.patches == len(geometry.tiles(3))
            assert (count.patches if policy == "mean" else 0) <= count.kept <= count.patches * geometry.channels_in
    assert kept[1] < kept[0]
    assert np.abs(changed - exact).max() > 0
    assert backend.codes() == backend.groups() == {}  # without trace


def test_same_frame_same_bytes_and_fresh_arrays() -> None:
    graph = random_network(4)
    backend, frame = NumpyBackend(bundle_for(graph)), frame_for(graph)
    before = {name: x.copy() for name, x in frame.items()}
    first = backend.run(frame, 2)["logits"]
    kept = first.copy()
    first[:] = np.nan
    assert np.array_equal(backend.run(frame, 2)["logits"], kept)
    assert np.array_equal(frame["x"], before["x"])


def test_outputs_that_are_views_are_copied() -> None:
    """An input, a view of it and an inner value, all as outputs."""
    b = GraphBuilder(0, x=(2, 3, 4))
    b.node("flat", "flatten", "x", order="CHW")
    b.node("cut", "slice", "flat", starts=(2,), stops=(20,), steps=(3,))
    graph = b.graph("x", "flat", "cut")
    frame = frame_for(graph)
    outputs = NumpyBackend(bundle_for(graph)).run(frame, 0)
    assert list(outputs) == ["x", "flat", "cut"]
    assert np.array_equal(outputs["x"], frame["x"])
    assert np.array_equal(outputs["flat"], frame["x"].ravel())
    assert np.array_equal(outputs["cut"], frame["x"].ravel()[2:20:3])
    arrays = [frame["x"], *outputs.values()]
    for i, a in enumerate(arrays):
        assert a.flags.c_contiguous
        assert not any(np.shares_memory(a, b) for b in arrays[i + 1 :])


def test_half_precision_weights() -> None:
    graph = random_network(2)
    half = {key: array.astype(np.float16) for key, array in graph.constants.items()}
    single = {key: array.astype(np.float32) for key, array in half.items()}
    results = []
    for constants in (half, single):
        stored = Graph(graph.inputs, graph.outputs, graph.nodes, constants)
        results.append(NumpyBackend(bundle_for(stored)).run(frame_for(graph), 1)["logits"])
    assert np.array_equal(*results)


def test_int8_weights() -> None:
    bundle = stored(bundle_for(random_network(2), dtype="int8"))
    single = replace(bundle, dtype="fp32", graph=float_graph(bundle.graph))
    frame = frame_for(bundle.graph)
    for level in range(2):
        assert np.array_equal(*(NumpyBackend(b).run(frame, level)["logits"] for b in (bundle, single)))


# --- choosing a backend ----------------------------------------------------------------------------------------------


def fake_numba_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = ModuleType("haste_runtime.backends.numba_backend")
    module.NumbaBackend = type("NumbaBackend", (NumpyBackend,), {"name": "numba", "source": "from a test"})
    monkeypatch.setitem(sys.modules, module.__name__, module)


def test_auto_takes_numba_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_numba_backend(monkeypatch)
    bundle = bundle_for(conv_graph(3, 2, 3))
    no_native = "native cannot run (No native kernels are installed)"
    for asked, reason in (("auto", f"{no_native}; numba is installed"), ("numba", "asked for")):
        backend, why = choose_backend(asked, bundle)
        assert (backend.name, why) == ("numba", f"{reason}; kernels from a test")
    assert choose_backend("numpy", bundle)[0].name == "numpy"


def test_without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "haste_runtime.backends.numba_backend", None)  # importing it raises ImportError
    bundle = bundle_for(conv_graph(3, 2, 3))
    backend, reason = choose_backend("auto", bundle)
    assert backend.name == "numpy"
    assert "numba cannot be imported" in reason
    with pytest.raises(BackendError, match="cannot run here") as caught:
        choose_backend("numba", bundle)
    assert "haste-runtime[jit]" in caught.value.hint


def test_unknown_backend_and_threads() -> None:
    bundle = bundle_for(conv_graph(3, 2, 3))
    with pytest.raises(BackendError, match="'tpu'") as caught:
        choose_backend("tpu", bundle)
    assert "numpy" in caught.value.hint
    with pytest.raises(BackendError, match="0 threads"):
        choose_backend("numpy", bundle, threads=0)
