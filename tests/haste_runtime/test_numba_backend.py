"""The compiled kernels against their twins in numpy, over shapes around the vector width, and against torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from builders import (
    GraphBuilder,
    bundle_for,
    conv_graph,
    geometry_of,
    random_network,
    shuffling_network,
    with_algorithms,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_contract import AROUND_THE_VECTOR_WIDTH, INTERPRETED, check_against_numpy, frame_for

from haste_runtime import memory
from haste_runtime.backends.numba_backend import NumbaBackend
from haste_runtime.bundle import STORAGE, stored, write_bundle
from haste_runtime.kernels import layout as t
from haste_runtime.memory import is_deep
from haste_runtime.operators import check_graph
from haste_runtime.plan import POLICIES
from haste_runtime.table import build_table

EXAMPLES = 15 if INTERPRETED else 90
CHANNELS = st.sampled_from(AROUND_THE_VECTOR_WIDTH)


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    channels=CHANNELS, filters=CHANNELS, kernel=st.sampled_from([1, 3, 3, 5, 7]), stride=st.sampled_from([1, 1, 2]),
    dilation=st.sampled_from([1, 1, 2]), height=st.integers(7, 14), width=st.integers(7, 17), bits=st.integers(1, 16),
    patches=st.lists(st.integers(1, 17), min_size=1, max_size=3, unique=True), residual=st.booleans(),
    activation=st.sampled_from(["none", "relu", "relu6"]), dtype=st.sampled_from(list(STORAGE)),
    seed=st.integers(0, 1000),
)  # fmt: skip
def test_one_convolution(
    channels: int, filters: int, kernel: int, stride: int, dilation: int, height: int, width: int, bits: int,
    patches: list[int], residual: bool, activation: str, dtype: str, seed: int,
) -> None:  # fmt: skip
    dilation = 1 if kernel > 3 else dilation
    graph = conv_graph(
        channels, filters, kernel, stride, height, width,
        seed=seed, residual=residual, activation=activation, dilation=dilation,
    )  # fmt: skip
    bundle = bundle_for(graph, patches, bits, [bits] * len(patches), seed=seed, dtype=dtype)
    check_against_numpy(stored(bundle), frame_for(graph, seed))


@settings(max_examples=EXAMPLES // 3, deadline=None)
@given(
    groups=st.integers(1, 9), per_group=st.integers(1, 9), filters=st.integers(1, 9), kernel=st.sampled_from([1, 3, 5]),
    stride=st.integers(1, 2), residual=st.booleans(), bias=st.booleans(), dtype=st.sampled_from(list(STORAGE)),
    seed=st.integers(0, 1000),
)  # fmt: skip
def test_grouped_and_depthwise(
    groups: int, per_group: int, filters: int, kernel: int, stride: int, residual: bool, bias: bool, dtype: str,
    seed: int,
) -> None:  # fmt: skip
    graph = conv_graph(
        groups * per_group, groups * filters, kernel, stride, 6, 7,
        seed=seed, groups=groups, residual=residual, bias=bias, activation="relu",
    )  # fmt: skip
    check_against_numpy(stored(bundle_for(graph, 4, 3, dtype=dtype)), frame_for(graph, seed))


@pytest.mark.parametrize("channels", [1, 7, 8, 9, 17])
@pytest.mark.parametrize("padding", [(0, 0, 0, 0), (0, 1, 1, 0), (1, 0, 2, 1)])
def test_uneven_padding_and_depthwise_tails(channels: int, padding: tuple[int, int, int, int]) -> None:
    graph = conv_graph(channels, channels, (3, 2), (2, 1), 9, 6, groups=channels, padding=padding, activation="relu6")
    check_against_numpy(bundle_for(graph), frame_for(graph))


@pytest.mark.parametrize("seed", range(3 if INTERPRETED else 25))
def test_every_operator(seed: int) -> None:
    graph = random_network(seed)
    dtype = list(STORAGE)[seed % 3]
    check_against_numpy(stored(bundle_for(graph, [3, 4, 9], 10, dtype=dtype)), frame_for(graph, seed))


@pytest.mark.parametrize("seed", range(2 if INTERPRETED else 10))
def test_every_other_operator(seed: int) -> None:
    graph = shuffling_network(seed)
    dtype = list(STORAGE)[seed % 3]
    check_against_numpy(stored(bundle_for(graph, levels=[], dtype=dtype)), frame_for(graph, seed))


@settings(max_examples=EXAMPLES // 3, deadline=None)
@given(
    features=CHANNELS, filters=CHANNELS, bias=st.booleans(), activation=st.sampled_from(["none", "relu6"]),
    dtype=st.sampled_from(list(STORAGE)), seed=st.integers(0, 1000),
)  # fmt: skip
def test_linear(features: int, filters: int, bias: bool, activation: str, dtype: str, seed: int) -> None:
    b = GraphBuilder(seed, x=(features,))
    b.linear("linear", "x", features, filters, bias, activation)
    check_against_numpy(stored(bundle_for(b.graph(), dtype=dtype)), frame_for(b.graph(), seed))


@pytest.mark.parametrize("dtype", STORAGE)
def test_packed_weights_take_the_memory_that_their_storage_says(dtype: str) -> None:
    b = GraphBuilder(0, x=(32, 4, 4))
    b.conv("conv", "x", 32, 32, 3)
    b.node("mean", "mean", "conv", keepdim=0)
    b.linear("linear", "mean", 32, 32)
    bundle = stored(bundle_for(b.graph(), dtype=dtype))
    table = build_table(bundle, 8)
    stored_bytes = sum(
        bundle.graph.constants[node.constants["weight"]].nbytes for node in b.graph().nodes if node.op != "mean"
    )
    assert stored_bytes <= table.packed.nbytes <= stored_bytes + 1024
    kinds = {"fp32": t.FLOATS, "fp16": t.HALVES, "int8": t.BYTES}
    assert set(table.operations[[0, 2], t.STORED].tolist()) == {kinds[dtype]}


def test_int8_sums_begin_at_zero_and_end_with_scale_and_bias() -> None:
    """The very numbers: integers times pixels in one chain, then one multiply-add."""
    graph = conv_graph(5, 6, 1, h=1, w=1)
    bundle, x = stored(bundle_for(graph, dtype="int8")), frame_for(graph)
    weight, scale, bias = (bundle.graph.constants[f"conv.{key}"] for key in ("weight", "weight.scale", "bias"))
    total = np.zeros(6, np.float32)
    for channel in range(5):  # products of 8 and 24 bits and their sums are exact in float64: each is rounded once
        total = (total + weight[:, channel, 0, 0] * x["x"][channel, 0, 0].astype(np.float64)).astype(np.float32)
    expected = (total * scale.astype(np.float64) + bias).astype(np.float32)
    output = NumbaBackend(bundle).run(x, 0)["conv"][:, 0, 0]
    if INTERPRETED:
        np.testing.assert_allclose(output, expected, rtol=1e-6)
    else:
        assert output.tobytes() == expected.tobytes()


@settings(max_examples=EXAMPLES // 3, deadline=None)
@given(
    op=st.sampled_from(["max_pool", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool"]), channels=CHANNELS,
    height=st.integers(3, 9), width=st.integers(3, 9), kernel=st.tuples(st.integers(2, 3), st.integers(2, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)), padding=st.tuples(*[st.integers(0, 1)] * 4),
    counted=st.integers(0, 1), size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
)  # fmt: skip
def test_pools(
    op: str, channels: int, height: int, width: int, kernel: tuple[int, int], stride: tuple[int, int],
    padding: tuple[int, int, int, int], counted: int, size: tuple[int, int],
) -> None:  # fmt: skip
    b = GraphBuilder(0, x=(channels, height, width))
    window = {"kernel": kernel, "stride": stride, "padding": padding}
    attributes = {
        "max_pool": {**window, "dilation": (1, 1)},
        "avg_pool": {**window, "count_include_pad": counted},
    }.get(op, {"size": size})
    b.node("pool", op, "x", **attributes)
    check_against_numpy(bundle_for(b.graph()), frame_for(b.graph()))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_concat_along_each_axis_and_a_border_behind_it(axis: int) -> None:
    """The joined map has readers with padding, so it has a border of zeros that both copies must leave alone."""
    b = GraphBuilder(0, x=(5, 6, 7), y=(5, 6, 7))
    b.node("both", "concat", "x", "y", "x", axis=axis)
    b.conv("conv", "both", 15 if axis == 0 else 5, 6, 3)
    b.node("padded", "pad", "conv", pads=(1, 0, 2, 1, 0, 3), value=-1.5)
    b.node("cut", "slice", "padded", starts=(1, 0, 2), stops=(6, 8, 9), steps=(2, 3, 1))
    graph = b.graph("cut", "both", "padded")
    check_against_numpy(bundle_for(graph), frame_for(graph))


def test_graph_inputs_as_outputs() -> None:
    b = GraphBuilder(0, x=(3, 4, 5), v=(6,))
    b.conv("conv", "x", 3, 4, 3)
    graph = b.graph("x", "conv", "v")
    check_against_numpy(bundle_for(graph), frame_for(graph))


@pytest.mark.parametrize("padding", [(5, 0, 0, 0), (0, 5, 0, 0), (0, 0, 5, 0), (0, 0, 0, 5), (5, 5, 5, 5)])
def test_patches_that_lie_in_the_border_alone(padding: tuple[int, int, int, int]) -> None:
    graph = conv_graph(3, 5, 1, 1, 4, 4, padding=padding)
    check_against_numpy(bundle_for(graph, [1, 2, 3], 4, [4] * 3), frame_for(graph))


@pytest.mark.parametrize("peak", [2.0**-99, 2.0**-100, 2.0**-101, 0.0])
def test_patches_that_are_dead_or_nearly(peak: float) -> None:
    """Below 2^-100 a patch has no groups and gives the bias; a mixed map has live and dead patches side by side."""
    graph = conv_graph(9, 5, 3, h=8, w=8)
    x = np.zeros((9, 8, 8), np.float32)
    x[:, 1, 1] = np.linspace(-1, 1, 9, dtype=np.float32) * np.float32(peak)
    check_against_numpy(bundle_for(graph, 4, 8), {"x": x})


def test_wide_projections_do_not_overflow() -> None:
    """All pixels at the range's end and rows with far more than 258 entries: sums leave int16 many times over."""
    graph = conv_graph(40, 3, 3, h=40, w=41)
    x = np.where(np.arange(40)[:, None, None] % 3 == 0, np.float32(1), np.float32(-1)) * np.ones(
        (40, 40, 41), np.float32
    )
    x[::2, :20] *= np.float32(0.99)
    check_against_numpy(bundle_for(graph, 41, 6), {"x": x})


DEEP = [  # channels, filters, kernel, stride, height, width: many weights on a small output
    (131, 130, 3, 1, 4, 4), (128, 136, 3, 2, 8, 7), (70, 264, 3, 1, 2, 2), (121, 300, 2, 1, 3, 4),
    (40, 140, 5, 2, 5, 5),
]  # fmt: skip


@pytest.mark.parametrize("sizes", DEEP[: 2 if INTERPRETED else None])
@pytest.mark.parametrize(("dtype", "residual"), [("fp32", False), ("fp32", True), ("fp16", True), ("int8", True)])
def test_deep_convolutions(sizes: tuple[int, ...], dtype: str, residual: bool) -> None:
    """Dense and by every policy, the whole map as one patch and as several."""
    channels, filters, kernel, stride, height, width = sizes
    graph = conv_graph(channels, filters, kernel, stride, height, width, residual=residual, activation="relu")
    assert is_deep(geometry_of(graph), 8)
    bundle = bundle_for(graph, [4, 5, 6, 2], 9, [9, 9, 9, 9], policy=(*POLICIES, "mean"), budget=0.4, dtype=dtype)
    check_against_numpy(stored(bundle), frame_for(graph))


@pytest.mark.parametrize("dtype", STORAGE)
def test_deep_and_other_convolutions_give_the_same_bytes(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of operations on each output element is one, whatever the order in memory."""
    graph = conv_graph(128, 130, 3, 1, 4, 4)
    bundle, frame = (
        bundle_for(graph, [4, 5, 6], 9, [9, 9, 5], policy=POLICIES, budget=0.4, dtype=dtype),
        frame_for(graph),
    )
    bundle = stored(bundle)
    monkeypatch.setattr(memory, "DEEP_LANES", 0)  # with any vectors
    deep = NumbaBackend(bundle)
    assert deep._operations[0, t.DEEP] == 1
    monkeypatch.setattr(memory, "DEEP_PIXELS", 0)
    other = NumbaBackend(bundle)
    assert other._operations[0, t.DEEP] == 0
    for level in range(4):
        assert deep.run(frame, level)["conv"].tobytes() == other.run(frame, level)["conv"].tobytes()


PARTED = [  # channels, filters, kernel, stride, height, width: parts of 8 channels do not divide all of them
    (20, 9, 3, 1, 5, 6), (33, 70, 3, 2, 9, 9), (16, 8, 2, 1, 4, 4), (43, 21, 1, 1, 6, 5), (30, 17, 1, 2, 7, 9),
]  # fmt: skip


@pytest.mark.parametrize("sizes", PARTED[: 2 if INTERPRETED else None])
@pytest.mark.parametrize(("dtype", "residual"), [("fp32", False), ("fp32", True), ("fp16", True), ("int8", True)])
def test_convolutions_in_parts(
    sizes: tuple[int, ...], dtype: str, residual: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of input channels: byte by byte what they give in one, by any number of threads; merged levels are as ever."""
    channels, filters, kernel, stride, height, width = sizes
    graph = conv_graph(channels, filters, kernel, stride, height, width, residual=residual, activation="relu6")
    bundle, frame = stored(bundle_for(graph, 4, 9, policy=POLICIES, budget=0.4, dtype=dtype)), frame_for(graph)
    whole = NumbaBackend(bundle)
    assert whole._operations[0, t.PART] == 0
    monkeypatch.setattr(memory, "BLOCK_FLOATS", 0)
    monkeypatch.setattr(memory, "PART_FLOATS", 0)
    monkeypatch.setattr(memory, "UNROLLED", 8)
    monkeypatch.setattr(memory, "PART_PIXELS", 13)
    for threads in (1,) if INTERPRETED else (1, 3):
        parted = NumbaBackend(bundle, threads)
        assert parted._operations[0, t.PART] == 8
        for level in range(len(bundle.plan.levels)):
            assert parted.run(frame, level)["conv"].tobytes() == whole.run(frame, level)["conv"].tobytes()
        parted.close()
    check_against_numpy(bundle, frame)


def test_convolutions_are_parted_where_weights_come_from_far_away() -> None:
    """A block's filters outgrow the cache; all filters do, and a strip has few pixels; else not."""
    for graph, parted in (
        (conv_graph(2048, 64, 3, 1, 7, 7), True),
        (conv_graph(2048, 512, 1, 1, 14, 14), True),
        (conv_graph(2048, 512, 1, 1, 2, 2), False),
        (conv_graph(64, 64, 3, 1, 32, 32), False),
        (conv_graph(256, 64, 1, 1, 28, 28), False),
    ):
        row = memory.place_maps(graph, check_graph(graph))[0]["x"].row
        assert (memory.dense_scratch(geometry_of(graph), row, (), 16).part > 0) == parted


@pytest.mark.skipif(INTERPRETED, reason="plain Python runs with one thread")
@pytest.mark.parametrize("threads", [2, 3, 7])
def test_one_patch_is_shared_out(threads: int) -> None:
    """Fewer patches than threads: blocks of output channels are shared out, and counts are made once."""
    for graph in (conv_graph(131, 130, 3, 1, 4, 4), conv_graph(17, 70, 3, 1, 9, 9), conv_graph(9, 5, 3, 1, 9, 9)):
        bundle = bundle_for(graph, [9, 6, 9], 9, policy=POLICIES, budget=0.3)
        frame = frame_for(graph)
        alone, team = NumbaBackend(bundle, trace=True), NumbaBackend(bundle, threads, trace=True)
        for level in range(len(bundle.plan.levels)):
            for _ in range(3):
                assert team.run(frame, level)["conv"].tobytes() == alone.run(frame, level)["conv"].tobytes()
                assert team.counts() == alone.counts()
                for name, leaders in alone.groups().items():
                    np.testing.assert_array_equal(team.groups()[name], leaders)
        team.close()


@pytest.mark.skipif(INTERPRETED, reason="plain Python runs with one thread")
@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_nothing(threads: int) -> None:
    """Not a byte: each output element is one chain of operations, whoever computes it."""
    for seed in range(7):
        graph = random_network(seed) if seed < 6 else shuffling_network(seed)
        bundle = bundle_for(graph, [3, 4, 3], 10, policy=POLICIES, budget=0.3, dtype=list(STORAGE)[seed % 3])
        bundle, frame = stored(bundle), frame_for(graph, seed)
        alone, team = NumbaBackend(bundle, trace=True), NumbaBackend(bundle, threads, trace=True)
        for level in range(len(bundle.plan.levels)):
            for _ in range(5):
                assert team.run(frame, level)["logits"].tobytes() == alone.run(frame, level)["logits"].tobytes()
                assert team.counts() == alone.counts()
                for name, leaders in alone.groups().items():
                    np.testing.assert_array_equal(team.groups()[name], leaders)
        team.close()


FRAMES = """
import sys
import numpy as np
from haste_runtime import Session
with Session(sys.argv[1], backend="numba", trace=True) as session, np.load(sys.argv[2]) as inputs:
    for level in session.levels:
        session.level = level.number
        y = session.run(inputs["x"])
        for part in (y.tobytes(), *(leaders.tobytes() for leaders in session.groups.values())):
            sys.stdout.write(part.hex() + " ")
        print()
print(*sys.modules, file=sys.stderr)
"""


def frames_in_a_new_process(folder: Path, **environment: str) -> tuple[str, str]:
    script = [sys.executable, "-c", FRAMES, str(folder / "net.haste"), str(folder / "x.npz")]
    done = subprocess.run(script, capture_output=True, text=True, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.fixture(params=[*STORAGE, "winograd2", "winograd4", "others"])
def small_network(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """By how weights are stored, how convolutions are computed, and with the operators that are not in all networks."""
    graph = shuffling_network(1) if request.param == "others" else random_network(1)
    bundle = bundle_for(
        graph, [4, 5, 4, 5], 9, [9, 9, 9, 5],
        policy=[*POLICIES, "budget"], budget=[0.1, 0.1, 0.1, 1],
        dtype=request.param if request.param in STORAGE else "fp32",
    )  # fmt: skip
    if request.param.startswith("winograd"):
        bundle = with_algorithms(bundle, request.param, request.param, "winograd2")
    write_bundle(tmp_path / "net.haste", bundle)
    np.savez(tmp_path / "x.npz", x=np.stack([frame_for(graph, seed)["x"] for seed in range(3)]))
    return tmp_path


@pytest.mark.skipif(INTERPRETED, reason="compares machine code")
def test_frames_are_the_same_bytes_at_every_vector_width(small_network: Path) -> None:
    """The frame contract: NEON's, AVX2's and AVX-512's register tiles give one result, and the same groups."""
    four, eight, sixteen = (frames_in_a_new_process(small_network, HASTE_LANES=n)[0] for n in ("4", "8", "16"))
    assert four == eight == sixteen
    assert len(four.splitlines()) == 5


@pytest.mark.skipif(INTERPRETED, reason="compares machine code")
def test_a_later_start_needs_no_compiler(small_network: Path) -> None:
    """With the machine code on disk, numba is not even imported."""
    frames_in_a_new_process(small_network)
    modules = frames_in_a_new_process(small_network)[1].split()
    assert "llvmlite.binding" in modules
    assert "numba" not in modules


def test_nothing_grows_from_frame_to_frame() -> None:
    graph = random_network(0)
    bundle, frame = bundle_for(graph), frame_for(graph)
    backend = NumbaBackend(bundle)
    arena = backend._arena.ctypes.data
    first = backend.run(frame, 1)["logits"]
    kept = first.copy()
    backend.run({"x": -frame["x"]}, 0)
    np.testing.assert_array_equal(first, kept)  # outputs are the caller's to keep
    for level in (0, 1, 2, 3, 1):
        again = backend.run(frame, level)["logits"]
    assert again.tobytes() == kept.tobytes()
    assert backend._arena.ctypes.data == arena
