"""Pixels that lie further apart than their channels take: the same numbers, whatever lies between them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from builders import bundle_for, conv_graph, random_network, shuffling_network, with_algorithms
from layer_contract import INTERPRETED, frame_for

from haste_runtime import memory
from haste_runtime.backends.numba_backend import NumbaBackend
from haste_runtime.bundle import STORAGE, Bundle, stored
from haste_runtime.graph import Graph
from haste_runtime.memory import ALIGNMENT, as_map, pixel_steps, place_maps
from haste_runtime.operators import check_graph
from haste_runtime.plan import POLICIES

PATCHES = (4, 5, 6, 3, 9)[: len(POLICIES)]


def merging(graph: Graph, seed: int) -> Bundle:
    dtype = list(STORAGE)[seed % 3]
    return stored(bundle_for(graph, PATCHES, 10, [10] * len(PATCHES), policy=POLICIES, budget=0.3, dtype=dtype))


def by_winograd(graph: Graph, seed: int) -> Bundle:
    bundle = bundle_for(graph, [4, 5, 4, 5], 9, [9, 9, 9, 5], policy=POLICIES, budget=0.3)
    return with_algorithms(bundle, "winograd4", "winograd2", "winograd4")


def dense(graph: Graph, seed: int) -> Bundle:
    return stored(bundle_for(graph, levels=[], dtype=list(STORAGE)[seed % 3]))


@pytest.mark.parametrize("seed", range(1 if INTERPRETED else 9))
@pytest.mark.parametrize(
    ("network", "bundled"), [(random_network, merging), (random_network, by_winograd), (shuffling_network, dense)]
)
def test_every_operator_leaves_out_what_lies_between_pixels(
    network: Callable[[int], Graph], bundled: Callable[[Graph, int], Bundle], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = network(seed)
    bundle, frame = bundled(graph, seed), frame_for(graph, seed)
    beside = NumbaBackend(bundle)
    monkeypatch.setattr(memory, "pixel_steps", lambda g, s: {n: as_map(s[n])[0] + 1 + i % 5 for i, n in enumerate(s)})
    apart = NumbaBackend(bundle)
    apart._arena[:] = np.nan
    for level in range(len(bundle.plan.levels)):
        expected, got = beside.run(frame, level), apart.run(frame, level)
        assert all(got[name].tobytes() == expected[name].tobytes() for name in expected)
        assert apart.counts() == beside.counts()


@pytest.mark.parametrize(
    ("channels", "kernel", "more"), [(128, 3, 16), (256, 3, 16), (384, 5, 16), (128, 1, 0), (120, 3, 0), (64, 3, 0)]
)
def test_crowded_pixels_lie_a_cache_line_further_apart(channels: int, kernel: int, more: int) -> None:
    graph = conv_graph(channels, 8, kernel)
    shapes = check_graph(graph)
    maps, _ = place_maps(graph, shapes)
    assert pixel_steps(graph, shapes) == {"x": channels + more, "conv": 8}
    assert maps["x"].row == (maps["x"].width + 2 * maps["x"].border) * (channels + more)
    assert more in (0, ALIGNMENT)
