"""Layers that stay dense in a frame in which the patch in the middle keeps too many of its channels."""

from __future__ import annotations

import numpy as np
import pytest
from builders import alike_channels, bundle_for, conv_graph, geometry_of, with_algorithms
from layer_contract import INTERPRETED, check_against_numpy, frame_for

from haste_runtime.backends.numba_backend import NumbaBackend
from haste_runtime.backends.numpy_backend import NumpyBackend
from haste_runtime.bundle import Bundle, stored
from haste_runtime.flops import LayerCounts, dense_flops, merged_flops
from haste_runtime.kernels import layout as t
from haste_runtime.plan import POLICIES, UNHASHED
from haste_runtime.table import build_table

CHANNELS, FILTERS, SIDE, PATCH = 10, 6, 11, 4  # 3 x 3 patches, of which number 4 is in the middle
BUDGETS = {"drop": 1.0}  # of others 0.3


def a_bundle(policy: str, dense_above: float, side: int = SIDE) -> Bundle:
    graph = conv_graph(CHANNELS, FILTERS, 3, 1, side, side, activation="relu")
    return bundle_for(graph, PATCH, 6, (6,), policy=policy, budget=BUDGETS.get(policy, 0.3), dense_above=dense_above)


def kept_in_the_middle(policy: str, frame: dict[str, np.ndarray]) -> int:
    backend = NumpyBackend(a_bundle(policy, 1.0), trace=True)
    backend.run(frame, 1)
    return int(np.count_nonzero(backend.groups()["conv"][4] == np.arange(CHANNELS)))


@pytest.mark.parametrize("policy", POLICIES)
def test_the_middle_patch_decides(policy: str) -> None:
    frame = frame_for(a_bundle(policy, 1.0).graph, 3)
    kept = kept_in_the_middle(policy, frame)
    assert 0 < kept < CHANNELS
    merging, same, dense = (
        NumpyBackend(a_bundle(policy, share), trace=True) for share in (1.0, kept / CHANNELS, (kept - 1) / CHANNELS)
    )
    expected, other = merging.run(frame, 1)["conv"], same.run(frame, 1)["conv"]
    np.testing.assert_array_equal(other, expected)
    assert same.counts() == merging.counts()
    exact, found = dense.run(frame, 0)["conv"], dense.run(frame, 1)["conv"]
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-5 * np.abs(exact).max())
    assert np.abs(expected - exact).max() > 1e-3 * np.abs(exact).max()
    assert (dense.codes()["conv"] == -1).all()
    assert (dense.groups()["conv"] == np.arange(CHANNELS)).all()


@pytest.mark.parametrize("policy", POLICIES)
def test_only_what_was_looked_at_is_counted(policy: str) -> None:
    bundle = a_bundle(policy, 0.0)
    backend, geometry = NumpyBackend(bundle), geometry_of(bundle.graph)
    backend.run(frame_for(bundle.graph, 3), 1)
    counts, pixels = backend.counts()["conv"], SIDE * SIDE
    assert counts == LayerCounts(9, 9 * CHANNELS, 0, CHANNELS * pixels, counts.compared, counts.verified, unseen=8)
    bits = 0 if policy in UNHASHED else 6
    looking = LayerCounts(1, compared=counts.compared, verified=counts.verified)
    expected = dense_flops(geometry) + merged_flops(geometry, PATCH, 9, bits, looking, policy)
    assert merged_flops(geometry, PATCH, 9, bits, counts, policy) == expected


def test_a_dead_middle_merges() -> None:
    bundle = a_bundle("budget", 0.0)
    frame = {"x": alike_channels(np.random.default_rng(0), (CHANNELS, SIDE, SIDE))}
    frame["x"][:, 3:9, 3:9] = 0
    backend = NumpyBackend(bundle)
    backend.run(frame, 1)
    assert backend.counts()["conv"].unseen == 0
    check_against_numpy(bundle, frame)


@pytest.mark.parametrize("algorithm", ["direct", "winograd2", "winograd4"])
@pytest.mark.parametrize("policy", POLICIES)
def test_compiled_kernels_decide_alike(policy: str, algorithm: str) -> None:
    for side in (SIDE, 3):  # more patches than one, and one
        for share in (0.0, 0.2, 0.4, 0.7):
            bundle = a_bundle(policy, share, side)
            if policy != "affine":
                bundle = with_algorithms(bundle, algorithm, algorithm)
            for seed in (3, 4):
                check_against_numpy(bundle, frame_for(bundle.graph, seed))


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
@pytest.mark.parametrize("algorithm", ["direct", "winograd4"])
def test_a_layer_that_stays_dense_gives_the_bytes_of_level_0(dtype: str, algorithm: str) -> None:
    for graph in (conv_graph(40, 30, 3, 1, 9, 9), conv_graph(130, 130, 3, 1, 4, 4)):  # the second is a deep one
        bundle = with_algorithms(
            bundle_for(graph, 4, 8, policy="affine", dense_above=0.0, dtype=dtype), algorithm, "direct"
        )
        backend, frame = NumbaBackend(stored(bundle)), frame_for(graph)
        exact = backend.run(frame, 0)["conv"]
        assert backend.run(frame, 1)["conv"].tobytes() == exact.tobytes()
        assert backend.counts()["conv"].unseen == backend.counts()["conv"].patches - 1


@pytest.mark.skipif(INTERPRETED, reason="plain Python runs with one thread")
@pytest.mark.parametrize("threads", [2, 3, 12])
def test_threads_decide_alike(threads: int) -> None:
    dense = set()
    for policy in POLICIES:
        for share in (0.0, 0.3, 0.6):
            bundle = a_bundle(policy, share)
            frame = frame_for(bundle.graph, 5)
            alone, team = NumbaBackend(bundle, trace=True), NumbaBackend(bundle, threads, trace=True)
            for _ in range(3):
                assert team.run(frame, 1)["conv"].tobytes() == alone.run(frame, 1)["conv"].tobytes()
                assert team.counts() == alone.counts()
                np.testing.assert_array_equal(team.groups()["conv"], alone.groups()["conv"])
            dense.add(alone.counts()["conv"].unseen)
            team.close()
    assert dense == {0, 8}


def test_nobody_looks_first_where_the_share_is_1() -> None:
    assert build_table(a_bundle("mean", 1.0), 8).levels[1, 0, t.MOST_KEPT] == -1
    assert build_table(a_bundle("mean", 0.55), 8).levels[1, 0, t.MOST_KEPT] == 5
