"""Winograd's algorithm: its numpy definition against direct convolution, and the compiled kernels against both."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from builders import alike_channels, bundle_for, conv_graph, random_network, sign_changing, with_algorithms
from hypothesis import example, given, settings
from hypothesis import strategies as st
from layer_contract import AROUND_THE_VECTOR_WIDTH, INTERPRETED, check_against_numpy, frame_for

from haste_runtime import winograd
from haste_runtime.backends.numba_backend import NumbaBackend
from haste_runtime.bundle import stored
from haste_runtime.kernels import layout as t
from haste_runtime.kernels.lanes import blocks, lanes
from haste_runtime.memory import arena_bytes
from haste_runtime.plan import POLICIES
from haste_runtime.table import build_table
from haste_runtime.winograd import TILE_SIDES, convolve, filter_matrix, pack_filters, transform_filters

WINOGRAD = ("winograd2", "winograd4")
ERROR = {"direct": 2e-6, "winograd2": 2e-6, "winograd4": 8e-6}  # of the largest output
EXAMPLES = 12 if INTERPRETED else 120
CHANNELS = st.sampled_from(AROUND_THE_VECTOR_WIDTH)
PADDING = st.tuples(*[st.integers(0, 2)] * 4)
SIDES = st.sampled_from([2, 4])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 5), st.integers(3, 17), st.integers(3, 17), PADDING, SIDES, st.integers(0, 99))
def test_the_definition_is_a_convolution(
    channels: int, filters: int, height: int, width: int, padding: tuple[int, int, int, int], side: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x, weight = sign_changing(rng, (channels, height, width)), sign_changing(rng, (filters, channels, 3, 3))
    bias = sign_changing(rng, (filters,))
    top, left, bottom, right = padding
    padded = torch.nn.functional.pad(torch.from_numpy(x).double(), (left, right, top, bottom))
    expected = torch.conv2d(padded[None], torch.from_numpy(weight).double(), torch.from_numpy(bias).double())[0].numpy()
    found = convolve(x, weight, bias, (top, left), expected.shape[1:], side)
    size = torch.conv2d(padded[None].abs(), torch.from_numpy(weight).double().abs()).max()  # of what is added up
    np.testing.assert_allclose(found, expected, rtol=0, atol=4e-6 * float(size))


@pytest.mark.parametrize("side", [2, 4])
def test_filters_transform_exactly_where_float32_can(side: int) -> None:
    """At infinity a filter's corner stays what it is; other points' rows are their powers, but for a factor."""
    matrix = filter_matrix(side)
    assert matrix.shape == (side + 2, 3)
    np.testing.assert_array_equal(matrix[0, 1:], 0)
    np.testing.assert_array_equal(matrix[-1], [0, 0, 1])
    np.testing.assert_allclose(matrix[1:-1, 1] ** 2, matrix[1:-1, 0] * matrix[1:-1, 2], rtol=1e-12)
    weight = sign_changing(np.random.default_rng(0), (2, 3, 3, 3))
    np.testing.assert_array_equal(transform_filters(weight, side)[..., -1, -1], weight[..., 2, 2])


def test_the_points_are_better_than_whole_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean error of F(4) at 0, +-5/8, +-3/2 is about 0.6 of that at 0, +-1, +-2."""
    rng = np.random.default_rng(0)
    x, weight = np.maximum(sign_changing(rng, (64, 20, 20)), 0), sign_changing(rng, (8, 64, 3, 3))
    exact = torch.conv2d(torch.from_numpy(x).double()[None], torch.from_numpy(weight).double())[0].numpy()
    errors = [np.abs(convolve(x, weight, None, (0, 0), (18, 18), 4) - exact).mean()]
    for name, near, far in (("", 1.0, 2.0), ("2", 1.0, 4.0), ("3", 1.0, 8.0)):
        monkeypatch.setattr(winograd, f"NEAR{name}", near)
        monkeypatch.setattr(winograd, f"FAR{name}", far)
    monkeypatch.setattr(winograd, "BOTH2", 4.0)
    monkeypatch.setattr(winograd, "SUM2", 5.0)
    errors.append(np.abs(convolve(x, weight, None, (0, 0), (18, 18), 4) - exact).mean())
    assert 1e-7 < errors[0] < 0.7 * errors[1] < 1e-4


@pytest.mark.parametrize("width", [4, 8, 16])
@pytest.mark.parametrize("side", [2, 4])
def test_filters_are_packed_as_the_kernels_read_them(side: int, width: int) -> None:
    weight = sign_changing(np.random.default_rng(0), (21, 5, 3, 3))
    vectors, count = blocks(width, 21)
    packed = pack_filters(weight, side, width)
    assert packed.shape == (count, (side + 2) ** 2, 5, vectors * width)
    unpacked = packed.transpose(0, 3, 2, 1).reshape(-1, 5, side + 2, side + 2)
    np.testing.assert_allclose(unpacked[:21], transform_filters(weight, side), rtol=2e-7)  # rounded from float64
    assert not unpacked[21:].any()


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    channels=CHANNELS, filters=CHANNELS, height=st.integers(1, 17), width=st.integers(1, 17), padding=PADDING,
    patches=st.lists(st.integers(1, 17), min_size=1, max_size=2, unique=True), policy=st.sampled_from(POLICIES),
    residual=st.booleans(), bias=st.booleans(), activation=st.sampled_from(["none", "relu", "relu6"]),
    dense=st.sampled_from(["direct", *WINOGRAD]), merged=st.permutations(WINOGRAD), seed=st.integers(0, 1000),
)  # fmt: skip
@example(40, 33, 17, 17, (1, 1, 1, 1), [17, 8], "budget", True, True, "relu", "winograd4", list(WINOGRAD), 0)
@example(1, 1, 1, 1, (1, 1, 1, 1), [1], "mean", False, False, "none", "winograd2", list(WINOGRAD), 0)
def test_one_convolution(
    channels: int, filters: int, height: int, width: int, padding: tuple[int, int, int, int], patches: list[int],
    policy: str, residual: bool, bias: bool, activation: str, dense: str, merged: list[str], seed: int,
) -> None:  # fmt: skip
    """The same codes, groups and counts as the reference, which is direct, and nearly its outputs; at every size."""
    top, left, bottom, right = padding
    height, width = max(height, 3 - top - bottom), max(width, 3 - left - right)
    graph = conv_graph(
        channels, filters, 3, 1, height, width,
        seed=seed, padding=padding, residual=residual, bias=bias, activation=activation,
    )  # fmt: skip
    bundle = bundle_for(graph, patches, 9, [9, 4], policy=policy, budget=[0.1, 1.0], seed=seed)
    check_against_numpy(with_algorithms(bundle, dense, *merged), frame_for(graph, seed), tolerance=3e-5, least=1)


@pytest.mark.parametrize("algorithm", WINOGRAD)
@pytest.mark.parametrize(("channels", "filters", "side"), [(3, 5, 9), (17, 8, 12), (40, 40, 14), (64, 24, 16)])
def test_kernels_compute_the_definition(channels: int, filters: int, side: int, algorithm: str) -> None:
    """Far nearer to it than either is to a direct convolution: the same operations in the same order."""
    graph = conv_graph(channels, filters, 3, 1, side, side + 1)
    node = graph.node("conv")
    weight, bias = graph.constants[node.constants["weight"]], graph.constants[node.constants["bias"]]
    frame = {"x": sign_changing(np.random.default_rng(0), (channels, side, side + 1))}
    found = NumbaBackend(with_algorithms(bundle_for(graph, levels=[]), algorithm, algorithm)).run(frame, 0)["conv"]
    expected = convolve(frame["x"], weight, bias, (1, 1), (side, side + 1), TILE_SIDES[algorithm])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-7 * np.abs(expected).max())


@pytest.mark.parametrize("algorithm", ["direct", *WINOGRAD])
def test_error_of_float32(algorithm: str) -> None:
    """What docs/winograd.md says of the error, on a layer of 64 channels: see ``tools/winograd_error.py``."""
    size = 10 if INTERPRETED else 16
    graph = conv_graph(64, 64, 3, 1, size, size, bias=False)
    weight = torch.from_numpy(graph.constants[graph.node("conv").constants["weight"]]).double()
    for seed in range(1 if INTERPRETED else 5):
        x = np.maximum(sign_changing(np.random.default_rng(seed), (64, size, size)), 0)
        exact = torch.conv2d(torch.from_numpy(x).double()[None], weight, padding=1)[0].numpy()
        found = NumbaBackend(with_algorithms(bundle_for(graph, levels=[]), algorithm, algorithm)).run({"x": x}, 0)
        assert np.abs(found["conv"] - exact).max() < ERROR[algorithm] * np.abs(exact).max()


@pytest.mark.parametrize("dtype", ["fp16", "int8"])
@pytest.mark.parametrize("algorithm", WINOGRAD)
def test_stored_weights(algorithm: str, dtype: str) -> None:
    """Transformed filters are float32 however the weights are stored; int8 layers have their biases elsewhere."""
    graph = conv_graph(9, 12, 3, 1, 7, 9, activation="relu")
    bundle = stored(bundle_for(graph, [4, 5], 9, dtype=dtype))
    check_against_numpy(with_algorithms(bundle, algorithm, algorithm, "direct"), frame_for(graph))


@pytest.mark.parametrize("algorithm", WINOGRAD)
def test_a_map_full_of_nothing_but_its_neighbours(algorithm: str) -> None:
    """What lies behind the map in the arena is no part of a tile that reaches over its edge."""
    graph = conv_graph(5, 7, 3, 1, 6, 5)
    bundle = with_algorithms(bundle_for(graph, [3, 6]), algorithm, algorithm)
    backend = NumbaBackend(bundle)
    frame = frame_for(graph)
    for level in (0, 1, 2):
        expected = backend.run(frame, level)["conv"]
        place = backend._table.maps["x"]
        backend._arena[place.corner + place.size :] = np.nan
        np.testing.assert_array_equal(backend.run(frame, level)["conv"], expected)


@pytest.mark.skipif(INTERPRETED, reason="plain Python runs with one thread")
@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("algorithm", WINOGRAD)
def test_threads_change_nothing(algorithm: str, threads: int) -> None:
    rng = np.random.default_rng(0)
    for channels, filters, side in ((8, 16, 4), (40, 33, 15), (64, 64, 40)):
        graph = conv_graph(channels, filters, 3, 1, side, side, residual=True, activation="relu")
        bundle = with_algorithms(bundle_for(graph, [8, 5], policy="budget"), algorithm, algorithm)
        frame = frame_for(graph) | {"x": alike_channels(rng, (channels, side, side))}
        alone, team = NumbaBackend(bundle), NumbaBackend(bundle, threads)
        for level in (0, 1, 2):
            for _ in range(3):
                assert team.run(frame, level)["conv"].tobytes() == alone.run(frame, level)["conv"].tobytes()
                assert team.counts() == alone.counts()
        team.close()


@pytest.mark.parametrize("seed", range(2 if INTERPRETED else 8))
def test_whole_networks(seed: int) -> None:
    graph = random_network(seed)
    bundle = bundle_for(graph, [3, 4, 9], 10, policy=POLICIES)
    bundle = with_algorithms(bundle, WINOGRAD[seed % 2], *WINOGRAD)
    dense = {layer.algorithm for layer in bundle.plan.layers}
    assert WINOGRAD[seed % 2] in dense
    check_against_numpy(with_algorithms(bundle_for(graph, levels=[]), *WINOGRAD), frame_for(graph, seed))
    assert arena_bytes(graph, bundle.plan, lanes()) == NumbaBackend(bundle)._arena.nbytes


def test_only_what_some_level_uses_is_packed() -> None:
    """Directly computed weights take 9 numbers a filter, F(2) 16, F(4) 36: they are there once, or not at all."""
    graph = conv_graph(16, 16, 3, 1, 8, 8)
    sizes = {}
    for dense, merged in (("direct", "direct"), ("winograd2", "winograd2"), ("winograd4", "direct")):
        table = build_table(with_algorithms(bundle_for(graph), dense, merged), 8)
        sizes[dense] = table.packed.size // 256
        assert (table.operations[0, t.WINOGRAD + t.EDGE], table.levels[1, 0, t.MERGED_WINOGRAD + t.EDGE]) == (
            TILE_SIDES[dense], TILE_SIDES[merged],
        )  # fmt: skip
    assert sizes == {"direct": 9, "winograd2": 16, "winograd4": 45}
