"""The merged convolution: per patch, channels that look alike are convolved once (design: the method, section 1).

    sum over c of F_c * x_c   ~   sum over groups g of (sum of F_c in g) * (mean of x_c in g)

This is the readable definition; the compiled kernels do the same in the same order.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from haste_runtime.flops import LayerCounts
from haste_runtime.geometry import ConvGeometry
from haste_runtime.hashing import DEAD_CODE, codes, groups, quantise
from haste_runtime.reference_ops import Array, add_bias, convolve, output_channels_last


def gather(x: Array, geometry: ConvGeometry, m: int) -> Array:
    """The patches (P, C, n, n) of a map (C, H, W), tile by tile in the order of `ConvGeometry.tiles`; zero outside."""
    n, step = geometry.patch_side(m), m * geometry.stride[0]
    top, left = geometry.padding[:2]
    rows, columns = geometry.grid(m)
    seen = np.zeros((len(x), (rows - 1) * step + n, (columns - 1) * step + n), np.float32)
    inside = seen[:, top : top + x.shape[1], left : left + x.shape[2]]  # with a stride, the last rows may be unseen
    inside[:] = x[:, : inside.shape[1], : inside.shape[2]]
    windows = sliding_window_view(seen, (n, n), axis=(1, 2))[:, ::step, ::step]
    return np.ascontiguousarray(windows.transpose(1, 2, 0, 3, 4)).reshape(rows * columns, len(x), n, n)


def merge(patch: Array, weight: Array, labels: NDArray[np.int32]) -> tuple[Array, Array, int]:
    """A patch (C, n, n) and filters (O, C, K, K), by the labels of the channels -> (K_p, n, n), (O, K_p, K, K), merged.

    First come the channels that are alone, untouched and in channel order; then the groups of two or more, by first
    member: the mean of their channels, and the sum of their filters. ``merged`` counts the channels in these groups.
    """
    sizes = np.bincount(labels)
    alone = np.flatnonzero(sizes[labels] == 1)
    if len(alone) == len(labels):
        return patch, weight, 0
    members = [np.flatnonzero(labels == group) for group in np.flatnonzero(sizes > 1)]
    channels = _sums(patch, alone, members)
    for channel, group in zip(channels[len(alone) :], members, strict=True):
        channel *= np.float32(1) / np.float32(len(group))
    filters = _sums(output_channels_last(weight).transpose(1, 2, 3, 0), alone, members).transpose(3, 0, 1, 2)
    return channels, filters, len(labels) - len(alone)


def _sums(rows: Array, alone: NDArray[np.intp], members: list[NDArray[np.intp]]) -> Array:
    """The rows that are alone, then for each group the sum of its rows, added in order."""
    sums = np.empty((len(alone) + len(members), *rows.shape[1:]), np.float32)
    sums[: len(alone)] = rows[alone]
    for row, group in zip(sums[len(alone) :], members, strict=True):
        np.add.reduce(rows[group], axis=0, out=row)
    return sums


def merged_conv(
    x: Array,
    weight: Array,
    bias: Array | None,
    geometry: ConvGeometry,
    patch: int,
    projection: NDArray[np.int8],
    bits: int,
) -> tuple[Array, LayerCounts, NDArray[np.int32]]:
    """Convolve a map (C, H, W) with merged channels.

    patch: tile side m. projection: ternary (L, n * n). bits: how many of its rows to use.
    Returns the output (O, H', W') with bias but without residual and activation, what was merged, and the codes (P, C),
    which are -1 on dead patches. Those have no groups, so their output is the bias.
    """
    patches = gather(x, geometry, patch)
    q, live = quantise(patches.reshape(*patches.shape[:2], -1))
    all_codes = codes(q, projection, bits)
    all_codes[~live] = DEAD_CODE
    y = np.zeros(geometry.output_shape, np.float32)
    kept = merged = kept_pixels = 0
    for p, tile in enumerate(geometry.tiles(patch)):
        if not live[p]:
            continue
        channels, filters, in_groups = merge(patches[p], weight, groups(all_codes[p]))
        top, left = tile.ty * patch, tile.tx * patch
        y[:, top : top + tile.height, left : left + tile.width] = convolve(
            channels,
            filters,
            stride=geometry.stride,
            dilation=geometry.dilation,
            groups=1,
            out=(tile.height, tile.width),
        )
        kept += len(channels)
        merged += in_groups
        kept_pixels += len(channels) * tile.height * tile.width
    return add_bias(y, bias), LayerCounts(len(patches), kept, merged, kept_pixels), all_codes
