"""The merged convolution against its oracle: replace every channel by its group's mean and convolve as usual."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from builders import alike_channels, conv_graph, geometry_of, sign_changing
from hypothesis import given, settings
from hypothesis import strategies as st

from haste_runtime.geometry import ConvGeometry
from haste_runtime.hashing import codes, groups, quantise
from haste_runtime.merge import gather, merge, merged_conv
from haste_runtime.projection import draw
from haste_runtime.reference_ops import output_channels_last

TOLERANCE = 1e-4  # of the largest output, the layer contract


@st.composite
def layers(draw_: st.DrawFn) -> dict[str, Any]:
    """Keywords of `conv_graph` and a tile side, with odd maps, paddings, strides and dilations."""
    kernel, dilation = draw_(st.sampled_from([1, 3, 5, 7])), draw_(st.sampled_from([1, 1, 2]))
    reach = (kernel - 1) * dilation
    padding = tuple(draw_(st.integers(0, reach // 2 + 1)) for _ in range(4))
    least = max(1, reach + 1 - min(padding[0] + padding[2], padding[1] + padding[3]))
    return {
        "c": draw_(st.integers(2, 12)),
        "o": draw_(st.integers(1, 7)),
        "k": kernel,
        "stride": draw_(st.sampled_from([1, 2])),
        "h": draw_(st.integers(least, least + 9)),
        "w": draw_(st.integers(least, least + 9)),
        "padding": padding,
        "dilation": dilation,
        "seed": draw_(st.integers(0, 999)),
        "m": draw_(st.integers(1, 9)),
    }


def patch_of(x: np.ndarray, geometry: ConvGeometry, m: int, ty: int, tx: int) -> np.ndarray:
    """Pixel by pixel, straight from the definition."""
    n, s = geometry.patch_side(m), geometry.stride[0]
    top, left = ty * m * s - geometry.padding[0], tx * m * s - geometry.padding[1]
    patch = np.zeros((len(x), n, n), np.float32)
    for i in range(n):
        for j in range(n):
            if 0 <= top + i < x.shape[1] and 0 <= left + j < x.shape[2]:
                patch[:, i, j] = x[:, top + i, left + j]
    return patch


def reconstruct(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray, geometry: ConvGeometry, m: int, all_codes: np.ndarray
) -> np.ndarray:
    """The oracle, in double precision and by torch."""
    y = np.empty(geometry.output_shape)
    for tile, patch_codes in zip(geometry.tiles(m), all_codes, strict=True):
        patch = patch_of(x, geometry, m, tile.ty, tile.tx).astype(np.float64)
        for code in set(patch_codes.tolist()):
            patch[patch_codes == code] = patch[patch_codes == code].mean(axis=0)
        values = torch.nn.functional.conv2d(
            torch.from_numpy(patch)[None],
            torch.from_numpy(weight.astype(np.float64)),
            torch.from_numpy(bias.astype(np.float64)),
            stride=geometry.stride,
            dilation=geometry.dilation,
        )[0].numpy()
        rows, columns = slice(tile.ty * m, tile.ty * m + tile.height), slice(tile.tx * m, tile.tx * m + tile.width)
        y[:, rows, columns] = values[:, : tile.height, : tile.width]
    return y


def parts(m: int, bits: int = 8, **keywords: Any) -> tuple[np.ndarray, np.ndarray, ConvGeometry, np.ndarray]:
    """Weight, bias, geometry and projection of a layer."""
    graph = conv_graph(**keywords)
    geometry = geometry_of(graph)
    projection = draw(keywords.get("seed", 0) + 1, bits, geometry.patch_side(m))
    return graph.constants["conv.weight"], graph.constants["conv.bias"], geometry, projection


@given(layers())
@settings(max_examples=60)
def test_gather_takes_the_patches_of_the_definition(layer: dict[str, Any]) -> None:
    m = layer.pop("m")
    geometry = geometry_of(conv_graph(**layer))
    x = sign_changing(np.random.default_rng(layer["seed"]), (layer["c"], layer["h"], layer["w"]))
    patches = gather(x, geometry, m)
    assert len(patches) == len(geometry.tiles(m))
    for patch, tile in zip(patches, geometry.tiles(m), strict=True):
        assert np.array_equal(patch, patch_of(x, geometry, m, tile.ty, tile.tx))


@given(layers(), st.integers(1, 8))
@settings(max_examples=80)
def test_agrees_with_reconstruction(layer: dict[str, Any], bits: int) -> None:
    m = layer.pop("m")
    weight, bias, geometry, projection = parts(m, **layer)
    x = alike_channels(np.random.default_rng(layer["seed"]), (layer["c"], layer["h"], layer["w"]))
    y, counts, all_codes = merged_conv(x, weight, bias, geometry, m, projection, bits)
    expected = reconstruct(x, weight, bias, geometry, m, all_codes)
    assert y.dtype == np.float32
    assert y.shape == expected.shape
    assert np.abs(y - expected).max() <= TOLERANCE * np.abs(expected).max()

    live = all_codes[:, 0] >= 0
    kinds = [len(set(patch.tolist())) if alive else 0 for patch, alive in zip(all_codes, live, strict=True)]
    assert counts.patches == len(all_codes)
    assert counts.kept == sum(kinds)
    assert counts.kept_pixels == sum(
        k * tile.height * tile.width for k, tile in zip(kinds, geometry.tiles(m), strict=True)
    )


def test_codes_are_those_of_the_hash() -> None:
    weight, bias, geometry, projection = parts(4, c=6, o=5, k=3, h=9, w=7)
    x = alike_channels(np.random.default_rng(0), (6, 9, 7))
    _, _, all_codes = merged_conv(x, weight, bias, geometry, 4, projection, 7)
    q, live = quantise(gather(x, geometry, 4).reshape(-1, 6, 36))
    assert live.all()
    assert np.array_equal(all_codes, codes(q, projection, 7))


def test_channels_alone_are_exact() -> None:
    """Where no two channels share a code, nothing is replaced and the result is the plain convolution."""
    weight, bias, geometry, projection = parts(8, bits=24, c=6, o=5, k=3, h=8, w=8)
    x = sign_changing(np.random.default_rng(3), (6, 8, 8))
    y, counts, all_codes = merged_conv(x, weight, bias, geometry, 8, projection, 24)
    assert len(set(all_codes[0].tolist())) == 6
    assert (counts.kept, counts.merged, counts.kept_pixels) == (6, 0, 6 * 64)
    exact = torch.nn.functional.conv2d(
        torch.from_numpy(x)[None], torch.from_numpy(weight), torch.from_numpy(bias), padding=1
    )
    assert np.abs(y - exact[0].numpy()).max() <= 1e-5 * float(exact.abs().max())


def test_equal_channels_are_one_and_exact() -> None:
    weight, bias, geometry, projection = parts(4, c=6, o=5, k=3, h=8, w=8)
    x = np.repeat(sign_changing(np.random.default_rng(3), (1, 8, 8)), 6, axis=0)
    y, counts, _ = merged_conv(x, weight, bias, geometry, 4, projection, 8)
    assert (counts.patches, counts.kept, counts.merged, counts.kept_pixels) == (4, 4, 24, 64)
    exact = torch.nn.functional.conv2d(
        torch.from_numpy(x)[None], torch.from_numpy(weight), torch.from_numpy(bias), padding=1
    )
    assert np.abs(y - exact[0].numpy()).max() <= 1e-5 * float(exact.abs().max())


def test_dead_patches_give_the_bias() -> None:
    weight, bias, geometry, projection = parts(4, c=6, o=5, k=3, h=8, w=12)
    x = sign_changing(np.random.default_rng(3), (6, 8, 12))
    x[:, :, 3:] = 0  # the patch of the first column of tiles reads columns -1 to 4
    x[:, 7, 11] = 1e-40  # a denormal is as good as nothing
    y, counts, all_codes = merged_conv(x, weight, bias, geometry, 4, projection, 8)
    assert (all_codes[[1, 2, 4, 5]] == -1).all()
    assert (all_codes[[0, 3]] >= 0).all()
    assert np.array_equal(y[:, :, 4:], np.broadcast_to(bias[:, None, None], (5, 8, 8)))
    assert counts.patches == 6
    assert counts.kept == sum(len(set(all_codes[p].tolist())) for p in (0, 3))
    without, _, _ = merged_conv(np.zeros_like(x), weight, None, geometry, 4, projection, 8)
    assert not without.any()


def test_groups_hold_means_and_sums_in_order() -> None:
    """Channels 0 and 3 alone; 1, 4 and 5 one group; 2 and 6 another."""
    patch = np.arange(7, dtype=np.float32)[:, None, None] * np.ones((1, 2, 2), np.float32)
    weight = (10.0 ** np.arange(7, dtype=np.float32))[None, :, None, None] * np.ones((3, 1, 1, 1), np.float32)
    labels = groups(np.array([5, 9, 8, 1, 9, 9, 8], np.int32))
    channels, filters, merged = merge(patch, weight, labels)
    assert merged == 5
    assert channels[:, 0, 0].tolist() == pytest.approx([0, 3, 10 / 3, 4])
    assert filters.shape == (3, 4, 1, 1)
    assert filters[0, :, 0, 0].tolist() == [1, 1000, 110_010, 1_000_100]


def test_memory_order_of_the_weights_does_not_matter() -> None:
    weight, bias, geometry, projection = parts(4, c=9, o=5, k=3, h=10, w=10)
    x = alike_channels(np.random.default_rng(0), (9, 10, 10))
    first = merged_conv(x, weight, bias, geometry, 4, projection, 6)
    second = merged_conv(x, output_channels_last(weight), bias, geometry, 4, projection, 6)
    assert first[1].merged > 0
    assert np.array_equal(first[0], second[0])
    assert np.array_equal(first[2], second[2])


def test_fewer_bits_keep_fewer_groups() -> None:
    weight, bias, geometry, projection = parts(4, bits=16, c=12, o=5, k=3, h=12, w=12)
    x = sign_changing(np.random.default_rng(5), (12, 12, 12))
    kept = [merged_conv(x, weight, bias, geometry, 4, projection, bits)[1].kept for bits in range(16, 0, -1)]
    assert kept == sorted(kept, reverse=True)
    assert kept[-1] <= 2 * 9 < kept[0]
