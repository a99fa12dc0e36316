"""Placing maps and scratch in one arena."""

from __future__ import annotations

import pytest
from builders import bundle_for, conv_graph, geometry_of, random_network
from hypothesis import given
from hypothesis import strategies as st

from haste_runtime.backends.numba_backend import NumbaBackend
from haste_runtime.kernels import layout
from haste_runtime.kernels.lanes import blocks, lanes
from haste_runtime.memory import ALIGNMENT, SLACK, arena_bytes, borders, lifetimes, merge_scratch, place_maps
from haste_runtime.operators import check_graph
from haste_runtime.plan import POLICIES


@pytest.mark.parametrize("seed", range(8))
def test_maps_alive_together_never_overlap(seed: int) -> None:
    graph = random_network(seed)
    shapes = check_graph(graph)
    maps, total = place_maps(graph, shapes)
    spans = lifetimes(graph)
    assert maps.keys() == shapes.keys()
    for a in maps:
        assert maps[a].corner >= 0
        assert maps[a].corner + maps[a].size <= total - SLACK
        for b in maps:
            together = spans[a][0] <= spans[b][1] and spans[b][0] <= spans[a][1]
            if a < b and together:
                first, second = sorted((maps[a], maps[b]), key=lambda m: m.corner)
                assert first.corner + first.size <= second.corner, (a, b)
    assert total < sum(m.size + 16 for m in maps.values()), "no map shares memory with another"


def test_borders_are_the_widest_padding_of_the_readers() -> None:
    graph = conv_graph(3, 4, 7)
    assert borders(graph) == {"x": 3, "conv": 0}


@pytest.mark.parametrize("policy", [*POLICIES, POLICIES])
@pytest.mark.parametrize("patch", [2, 5, [3, 8]])
def test_the_arena_is_as_large_as_was_said(patch: int | list[int], policy: str | tuple[str, ...]) -> None:
    bundle = bundle_for(random_network(3), patch, policy=policy)
    backend = NumbaBackend(bundle)
    assert arena_bytes(bundle.graph, bundle.plan, lanes()) == backend._arena.nbytes


def test_merging_needs_more_scratch_and_threads_need_their_own() -> None:
    graph = conv_graph(32, 32, 3, h=16, w=16)
    dense, merged = bundle_for(graph, levels=[]), bundle_for(graph, 16)
    assert arena_bytes(graph, merged.plan, 8) > arena_bytes(graph, dense.plan, 8)
    one, three = NumbaBackend(merged), NumbaBackend(merged, threads=3)
    assert three._arena.size - one._arena.size in (0, 2 * one._table.room)  # 0 where plain Python runs one thread
    three.close()


@given(st.sampled_from([4, 8, 16]), st.integers(2, 70), st.integers(1, 12), st.sampled_from(POLICIES))
def test_merge_scratch_has_room_for_what_the_kernels_write(width: int, channels: int, patch: int, policy: str) -> None:
    graph = conv_graph(channels, 5, 3)
    variant = bundle_for(graph, patch, policy=policy).plan.layers[0].variants[0]
    place = merge_scratch(geometry_of(graph), variant, width)
    pixels = (patch + 2) ** 2
    assert (place.plane - pixels, place.span - pixels) == (-pixels % width, -pixels % (2 * width))
    lanes_of_channels = channels + -channels % (2 * width)  # whole registers of int16 are written
    bytes_needed = {
        "PLANES": 4 * place.plane * (channels // 2), "QUANTISED": 2 * place.span * lanes_of_channels,
        "SUMS": 4 * max(1, variant.bits) * lanes_of_channels, "LEADERS": 4 * channels, "SCALES": 4 * channels,
    }  # fmt: skip
    if policy not in ("mean", "drop"):
        bytes_needed |= {"SPREAD": 2 * place.span * lanes_of_channels}
    if policy == "scaled":
        bytes_needed |= {"TOTAL": 2 * place.span, "PRODUCTS": 8 * channels}
    if policy == "budget":
        bytes_needed |= {"ENERGIES": 8 * channels, "FOUND": 4 * channels, "FOUND_CODES": 4 * lanes_of_channels}
    if policy == "drop":
        bytes_needed |= {"ENERGIES": 8 * channels}
    if policy == "affine":
        vectors, _ = blocks(width, 5)
        bytes_needed |= {
            "ENERGIES": 8 * channels, "MASSES": 8 * channels,
            "INSIDE": 8 * (variant.bits + 1), "PRINTS": 4 * variant.bits * channels,
            "FOUND_PRINTS": 4 * variant.bits * (channels + -channels % width), "FOUND": 4 * channels,
            "ORDER": 4 * channels, "COUNTS": 4 * 257, "LEVELLED": 4 * (channels + 2), "OFFSETS": 4 * lanes_of_channels,
            "CONSTANT": 4 * 9 * vectors * width, "EVERY": 4 * vectors * width,
            "ADDENDS": 4 * patch * patch * vectors * width, "ADDEND_PLACES": 4 * patch * patch,
        }  # fmt: skip
    assert bytes_needed.keys() <= place.offsets.keys()
    regions = sorted((offset, name) for name, offset in place.offsets.items())
    for (offset, name), (end, _) in zip(regions, [*regions[1:], (place.size, "")], strict=True):
        assert hasattr(layout, name)
        assert offset % ALIGNMENT == 0
        assert 4 * (end - offset) >= bytes_needed.get(name, 1)


@given(st.sampled_from([4, 8, 16]), st.integers(1, 300))
def test_blocks_cover_the_channels_and_all_are_needed(width: int, channels: int) -> None:
    vectors, count = blocks(width, channels)
    assert (count - 1) * vectors * width < channels <= count * vectors * width


@pytest.mark.parametrize(
    ("channels", "wanted"),
    [
        (16, (1, 1)),
        (24, (2, 1)),
        (40, (4, 1)),
        (64, (4, 1)),
        (80, (2, 3)),
        (96, (2, 3)),
        (112, (4, 2)),
        (1000, (4, 16)),
    ],
)
def test_wide_blocks_are_worth_some_padding(channels: int, wanted: tuple[int, int]) -> None:
    assert blocks(16, channels) == wanted
