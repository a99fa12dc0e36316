"""The compiled merge policies against the numpy definition: the same leaders and counts, whatever the channels hold."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from builders import alike_channels, bundle_for, conv_graph, random_network, sign_changing
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_contract import AROUND_THE_VECTOR_WIDTH, INTERPRETED, check_against_numpy, frame_for

from haste_runtime.backends.numba_backend import NumbaBackend
from haste_runtime.backends.numpy_backend import NumpyBackend
from haste_runtime.graph import Graph
from haste_runtime.grouping import DROPPED
from haste_runtime.kernels import group_patch
from haste_runtime.kernels import layout as t
from haste_runtime.plan import BUDGETED, POLICIES

EXAMPLES = 15 if INTERPRETED else 120
CHANNELS = st.sampled_from(AROUND_THE_VECTOR_WIDTH)
BUDGETS = (0.0, 1e-9, 0.1, 1.0, 1e3)


def channels_like(kind: str, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """A map (C, H, W) whose channels are related in one of several ways."""
    c = shape[0]
    if kind == "unlike":
        return sign_changing(rng, shape)
    if kind == "alike":
        return alike_channels(rng, shape)
    if kind == "dead":  # half of them everywhere, others on some patches
        x = np.maximum(alike_channels(rng, shape), 0) * (np.arange(c)[:, None, None] % 2 == 0)
        x[: c // 2, : shape[1] // 2] = 0
        return x.astype(np.float32)
    if kind == "equal":
        return np.repeat(sign_changing(rng, (1, *shape[1:])), c, axis=0)
    factors = rng.choice(np.float32([-3, -1, -0.25, 0, 0.5, 1, 2]), size=(c, 1, 1))
    return alike_channels(rng, shape, noise=0) * factors  # "multiples"


KINDS = st.sampled_from(["unlike", "alike", "dead", "equal", "multiples"])
WEIGHTS = st.sampled_from(["of the filters", "some zero", "all zero", "extreme"])


def importance_of(kind: str, rng: np.random.Generator, channels: int) -> dict[str, np.ndarray] | None:
    """The channels' weights; None: those of `bundle_for`."""
    choices = {"some zero": [0, 1, 700], "all zero": [0], "extreme": [0, 1, 65535]}
    return {"conv": rng.choice(np.uint16(choices[kind]), size=channels)} if kind in choices else None


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    policy=st.sampled_from(POLICIES), channels=CHANNELS, filters=CHANNELS, kernel=st.sampled_from([1, 3, 3, 5]),
    stride=st.sampled_from([1, 1, 2]), dilation=st.sampled_from([1, 1, 2]), height=st.integers(7, 14),
    width=st.integers(7, 17), bits=st.integers(1, 16), patch=st.integers(1, 17), kind=KINDS, weights=WEIGHTS,
    residual=st.booleans(), activation=st.sampled_from(["none", "relu"]), seed=st.integers(0, 1000),
)  # fmt: skip
def test_one_convolution(
    policy: str, channels: int, filters: int, kernel: int, stride: int, dilation: int, height: int, width: int,
    bits: int, patch: int, kind: str, weights: str, residual: bool, activation: str, seed: int,
) -> None:  # fmt: skip
    graph = conv_graph(
        channels, filters, kernel, stride, height, width,
        seed=seed, residual=residual, activation=activation, dilation=dilation,
    )  # fmt: skip
    rng = np.random.default_rng(seed)
    levels = [bits] * len(BUDGETS) if policy in BUDGETED else [bits]
    bundle = bundle_for(
        graph, patch, bits, levels,
        policy=policy, budget=BUDGETS, importance=importance_of(weights, rng, channels), seed=seed,
    )  # fmt: skip
    frame = frame_for(graph, seed) | {"x": channels_like(kind, rng, (channels, height, width))}
    check_against_numpy(bundle, frame)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("peak", [2.0**-99, 2.0**-100, 2.0**-101, 0.0])
def test_patches_that_are_dead_or_nearly(policy: str, peak: float) -> None:
    graph = conv_graph(9, 5, 3, h=8, w=8)
    x = np.zeros((9, 8, 8), np.float32)
    x[:, 1, 1] = np.linspace(-1, 1, 9, dtype=np.float32) * np.float32(peak)
    check_against_numpy(bundle_for(graph, 4, 8, policy=policy), {"x": x})


def test_leaders_far_beyond_a_vector() -> None:
    """Few bits and many leaders: nearly every choice among codes is a tie, which the earlier leader wins."""
    channels = 70 if INTERPRETED else 200
    graph = conv_graph(channels, 5, 3, h=6, w=6)
    bundle = bundle_for(graph, 3, 12, [1, 2, 5, 12], policy="budget", budget=[1e-6, 0.5, 0.9])
    frame = {"x": sign_changing(np.random.default_rng(0), (channels, 6, 6))}
    check_against_numpy(bundle, frame)
    backend = NumbaBackend(bundle, trace=True)
    backend.run(frame, 1)
    leaders = backend.groups()["conv"]
    assert max(len(set(patch.tolist())) for patch in leaders) > 40
    assert backend.counts()["conv"].compared > 40 * channels


@pytest.mark.parametrize("policy", ["scaled", "budget"])
def test_large_patches_do_not_overflow(policy: str) -> None:
    """All pixels at the range's end: a channel's product with its group's sum takes more than 32 bits."""
    graph = conv_graph(120, 3, 3, h=40, w=41)
    x = np.ones((120, 40, 41), np.float32)
    x[0] = -1
    x[::9, :20] *= np.float32(0.9)
    bundle = bundle_for(graph, 41, 3, [3], policy=policy, budget=0.5)
    check_against_numpy(bundle, {"x": x})
    reference = NumpyBackend(bundle, trace=True)
    reference.run({"x": x}, 1)
    assert np.bincount(reference.groups()["conv"][0] + 1).max() * 127 * 127 * 40 * 41 > 2**31


@pytest.mark.skipif(INTERPRETED, reason="plain Python takes its time over so many pixels")
@pytest.mark.parametrize("policy", ["scaled", "budget"])
def test_energies_beyond_32_bits(policy: str) -> None:
    """A patch of 370 x 370 pixels at the range's end has channels whose squares add up to more than an int32 holds."""
    graph = conv_graph(3, 2, 1, h=370, w=370)
    x = np.ones((3, 370, 370), np.float32)
    x[1, :90] = -0.5
    assert x[0].size * 127 * 127 > 2**31
    check_against_numpy(bundle_for(graph, 370, 2, [2, 2], policy=policy, budget=[0.5, 2.0]), {"x": x})


def test_groups_larger_than_an_int16_sum() -> None:
    """Hundreds of large channels in a group: their sum is taken in parts."""
    graph = conv_graph(1400, 2, 1, h=2, w=3)
    x = np.random.default_rng(0).uniform(0.2, 1, (1400, 2, 3)).astype(np.float32)
    bundle = bundle_for(graph, 3, 1, [1], policy="scaled")
    check_against_numpy(bundle, {"x": x})
    reference = NumpyBackend(bundle, trace=True)
    reference.run({"x": x}, 1)
    assert np.bincount(reference.groups()["conv"][0]).max() > 2 * t.CHUNK


def test_of_leaders_that_cost_the_same_the_nearer_is_joined() -> None:
    """The third channel is as well represented by either of two unlike leaders, which weigh too much to be dropped."""
    graph = conv_graph(3, 4, 1, h=2, w=2)
    x = np.zeros((3, 2, 2), np.float32)
    x[0, 0, 0] = x[1, 0, 1] = x[2, 0, :] = 1
    importance = {"conv": np.uint16([10, 10, 1])}
    for bits, seed in ((1, 0), (3, 1), (12, 2), (12, 3)):
        bundle = bundle_for(graph, 2, bits, [bits], policy="budget", budget=0.3, importance=importance, seed=seed)
        check_against_numpy(bundle, {"x": x})
        backend = NumbaBackend(bundle, trace=True)
        backend.run({"x": x}, 1)
        assert (backend.counts()["conv"].kept, backend.counts()["conv"].merged) == (2, 2)


def test_a_group_whose_sum_is_zero() -> None:
    """x and -x with one code, far below a third channel: their scales are 0, and their plane and filter vanish."""
    graph = conv_graph(3, 4, 1, h=4, w=4)
    bundle = bundle_for(graph, 4, 1, [1], policy="scaled")
    pattern = bundle.projections["conv.projection4"][0].reshape(4, 4).astype(np.float32)
    x = np.stack([0.01 * np.ones((4, 4), np.float32), -0.01 * np.ones((4, 4), np.float32), pattern])
    check_against_numpy(bundle, {"x": x})
    backend = NumbaBackend(bundle, trace=True)
    y = backend.run({"x": x}, 1)["conv"]
    np.testing.assert_array_equal(backend.groups()["conv"], [[0, 0, 2]])
    weight, bias = graph.constants["conv.weight"][:, 2, 0, 0], graph.constants["conv.bias"]
    np.testing.assert_allclose(y, weight[:, None, None] * pattern + bias[:, None, None], rtol=0, atol=1e-5)


@pytest.mark.parametrize("residual", [False, True])
def test_where_all_channels_are_dropped_the_output_is_the_bias(residual: bool) -> None:
    graph = conv_graph(9, 5, 3, h=6, w=7, residual=residual, activation="relu")
    frame = frame_for(graph)
    backend = NumbaBackend(bundle_for(graph, 4, policy="budget", budget=1e6), trace=True)
    y = backend.run(frame, 1)["conv"]
    expected = graph.constants["conv.bias"][:, None, None] + frame.get("residual", np.zeros(y.shape, np.float32))
    np.testing.assert_array_equal(y, np.maximum(expected, 0))
    assert (backend.groups()["conv"] == DROPPED).all()
    assert (backend.counts()["conv"].kept, backend.counts()["conv"].merged) == (0, 0)


def test_weights_of_dropped_channels_are_not_read() -> None:
    """Channels without importance may have any filters, and any content below infinity."""
    graph = conv_graph(20, 5, 3, h=8, w=8)
    importance = np.full(20, 500, np.uint16)
    importance[[3, 17, 18]] = 0
    changed = dict(graph.constants)
    changed["conv.weight"] = changed["conv.weight"].copy()
    changed["conv.weight"][:, [3, 17, 18]] = 1e30
    other = Graph(graph.inputs, graph.outputs, graph.nodes, changed)
    outputs = [
        NumbaBackend(bundle_for(g, 4, policy="budget", importance={"conv": importance})).run(frame_for(graph), 1)
        for g in (graph, other)
    ]
    assert outputs[0]["conv"].tobytes() == outputs[1]["conv"].tobytes()


@pytest.mark.parametrize("policy", POLICIES)
def test_what_scratch_held_before_does_not_matter(policy: str) -> None:
    whole = conv_graph(32, 5, 3, h=6, w=6, padding=(0, 0, 0, 0))  # whole registers, and nothing outside the map
    for graph, output in ((random_network(4), "logits"), (whole, "conv")):
        backend = NumbaBackend(bundle_for(graph, 4, 9, [9], policy=policy, budget=0.5), trace=True)
        results = []
        for filling in (0, 0xFF, 0x3F):  # zeros, NaN, numbers below 1
            backend._arena[backend._table.scratch :].view(np.uint8)[:] = filling
            y = backend.run(frame_for(graph), 1)[output].tobytes()
            results.append((y, {name: leaders.tolist() for name, leaders in backend.groups().items()}))
        assert results[0] == results[1] == results[2]


@given(st.integers(-(2**63), 2**63 - 1))
def test_a_double_is_the_nearest(whole: int) -> None:
    assert float(group_patch.as_double(np.int64(whole))) == float(whole)


@pytest.mark.skipif(INTERPRETED, reason="compares with plain Python in another process")
def test_plain_python_finds_the_same(tmp_path: Path) -> None:
    """The intrinsics' twins, at every width."""
    script = tmp_path / "run.py"
    script.write_text(PLAIN)
    for lanes in ("4", "8", "16"):
        environment = {**os.environ, "NUMBA_DISABLE_JIT": "1", "HASTE_LANES": lanes}
        environment["PYTHONPATH"] = os.pathsep.join(sys.path)
        subprocess.run([sys.executable, str(script)], check=True, env=environment)


PLAIN = """
import numpy as np
from builders import alike_channels, bundle_for, conv_graph
from layer_contract import check_against_numpy
graph = conv_graph(21, 7, 3, h=7, w=9)
x = alike_channels(np.random.default_rng(0), (21, 7, 9))
x[::5] *= -2
x[3] = 0
check_against_numpy(bundle_for(graph, [4, 5, 4, 4], 7, [7, 7, 7, 3], policy=("mean", "scaled", "budget", "budget"),
                               budget=[0.1, 0.1, 0.1, 0.8]), {"x": x})
"""
