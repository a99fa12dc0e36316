"""The merged convolution: per patch, channels that look alike are convolved once (design: the method, section 1).

    sum over c of F_c * x_c   ~   sum over groups g of (sum of s_c F_c in g) * plane_g
    plane_g = (sum of w_c s_c x_c in g) / (sum of w_c s_c^2 in g)

which is the plane with the least weighted error at these scales. w_c is how much an error of channel c weighs, 1 for
policies that don't weigh. With w and s of 1, as in the paper, the plane is the group's mean. Which channels form a
group, and their scales, is the policy's business (`haste_runtime.grouping`). This is the readable definition; the
compiled kernels do the same in the same order. The policy "affine" takes the leader's own plane instead, and adds the
channels' constants by one more filter (`merge_affine`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from haste_runtime.affine import within_affine_budget
from haste_runtime.flops import LayerCounts, constant_adds
from haste_runtime.geometry import ConvGeometry, Tile
from haste_runtime.grouping import DROPPED, Grouping, by_energy, by_mean, by_scale, none_merged, within_budget
from haste_runtime.hashing import DEAD_CODE, codes, quantise
from haste_runtime.plan import CODED
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


class Rule(NamedTuple):
    """How a layer merges at some level.

    patch: tile side m. projection: ternary (L, n * n). bits: how many of its rows to use. policy: one of
    `haste_runtime.plan.POLICIES`. importance: uint16 (C,) and budget, for the policies `haste_runtime.plan.BUDGETED`.
    dense_above: see `haste_runtime.plan.Variant`.
    """

    patch: int
    projection: NDArray[np.int8]
    bits: int
    policy: str = "mean"
    importance: NDArray[np.uint16] | None = None
    budget: float = 0.0
    dense_above: float = 1.0

    @property
    def weights(self) -> NDArray[np.uint16] | None:
        """How much each channel weighs in its group's plane; None where all weigh alike."""
        return self.importance if self.policy == "budget" else None


class Merged(NamedTuple):
    """output: (O, H', W') with bias, without residual and activation. codes, leaders: int32 (P, C), -1 on dead patches;
    leaders are -1 for dropped channels, too (`haste_runtime.grouping`). Codes are 0 where the policy needs none. Where
    the layer stayed dense, all codes are -1, and every channel is its own leader."""

    output: Array
    counts: LayerCounts
    codes: NDArray[np.int32]
    leaders: NDArray[np.int32]


def group(
    q: NDArray[np.int8], codes: NDArray[np.int32], rule: Rule, inside: NDArray[np.bool_] | None = None
) -> Grouping:
    """The groups of one live patch (C, d) by the rule's policy. inside: (d,), its pixels in the map; else all."""
    if rule.policy == "mean":
        return by_mean(codes)
    if rule.policy == "scaled":
        return by_scale(q, codes)
    assert rule.importance is not None  # the bundle's checks have seen to it
    if rule.policy == "drop":
        return by_energy(q, rule.importance, rule.budget)
    if rule.policy == "affine":
        rows, inside = rule.projection[: rule.bits], np.ones(q.shape[1], np.bool_) if inside is None else inside
        return within_affine_budget(q, inside, rows, rule.importance, rule.budget, rule.patch * rule.patch)
    return within_budget(q, codes, rule.importance, rule.budget, rule.patch * rule.patch)


def merge(
    patch: Array, weight: Array, grouping: Grouping, importance: NDArray[np.uint16] | None = None
) -> tuple[Array, Array, int]:
    """A patch (C, n, n) and filters (O, C, K, K) by its groups -> (K_p, n, n), (O, K_p, K, K), merged.

    First come the channels that are alone, untouched and in channel order; then the groups of two or more, by first
    member. ``merged`` counts the channels in these groups. Dropped channels are in none. importance: w_c, (C,).
    """
    leaders, scales = grouping.leaders, grouping.scales
    sizes = np.bincount(leaders[leaders != DROPPED], minlength=len(leaders))  # by leader
    alone = np.flatnonzero(sizes == 1)
    members = [np.flatnonzero(leaders == leader) for leader in np.flatnonzero(sizes > 1)]
    if len(alone) == len(leaders):
        return patch, weight, 0
    shares = scales if importance is None else importance.astype(np.float32) * scales
    channels = _sums(patch, shares, alone, members)
    for channel, group in zip(channels[len(alone) :], members, strict=True):
        squares = np.float32(0)
        for share, scale in zip(shares[group], scales[group], strict=True):
            squares += share * scale
        channel *= np.float32(1) / squares if squares > 0 else np.float32(0)
    filters = _sums(output_channels_last(weight).transpose(1, 2, 3, 0), scales, alone, members)
    return channels, filters.transpose(3, 0, 1, 2), sum(map(len, members))


def merge_affine(patch: Array, weight: Array, grouping: Grouping) -> tuple[Array, Array, Array, int]:
    """A patch (C, n, n) and filters (O, C, K, K) by groups of the policy "affine" -> the leaders' planes (K_p, n, n),
    filters (O, K_p, K, K), the filter of the constants (O, K, K), and how many channels are merged into another's.

    Leaders that are alone come first, then those with a group, both in channel order. In a group's sum the leader comes
    first. The filter of the constants is the sum of all t_c F_c; its outputs on a plane of ones, inside the map, times
    the step of the quantised patch, belong to the output.
    """
    leaders, scales, offsets = grouping.leaders, grouping.scales, grouping.offsets
    assert offsets is not None
    sizes = np.bincount(leaders[leaders != DROPPED], minlength=len(leaders))
    alone, shared = np.flatnonzero(sizes == 1), np.flatnonzero(sizes > 1)
    members = [np.array([k, *(c for c in np.flatnonzero(leaders == k) if c != k)]) for k in shared]
    rows = output_channels_last(weight).transpose(1, 2, 3, 0)
    filters = _sums(rows, scales, alone, members)
    levelled = np.flatnonzero(offsets)
    constant = _sums(rows, offsets, alone[:0], [levelled])[0] if len(levelled) else np.zeros_like(rows[0])
    planes = patch[np.concatenate([alone, shared])]
    return planes, filters.transpose(3, 0, 1, 2), constant.transpose(2, 0, 1), int(sizes[shared].sum() - len(shared))


def _sums(rows: Array, factors: NDArray[np.float32], alone: NDArray[np.intp], members: list[NDArray[np.intp]]) -> Array:
    """The rows that are alone, then for each group the sum of its rows times their factors, added in order."""
    sums = np.empty((len(alone) + len(members), *rows.shape[1:]), np.float32)
    sums[: len(alone)] = rows[alone]
    for row, group in zip(sums[len(alone) :], members, strict=True):
        np.add.reduce(rows[group] * factors[group].reshape(-1, *[1] * (rows.ndim - 1)), axis=0, out=row)
    return sums


def merged_conv(x: Array, weight: Array, bias: Array | None, geometry: ConvGeometry, rule: Rule) -> Merged:
    """Convolve a map (C, H, W) with merged channels. A dead patch has no groups, so its output is the bias.

    Nothing merges if the patch in the middle keeps more of its channels than ``rule.dense_above``.
    """
    patches = gather(x, geometry, rule.patch)
    inside = gather(np.ones_like(x[:1]), geometry, rule.patch)[:, 0]
    adds = constant_adds(geometry, (x.shape[1], x.shape[2]), rule.patch)
    q, live = quantise(patches.reshape(*patches.shape[:2], -1))
    affine = rule.policy == "affine"
    coded = rule.policy in CODED
    all_codes = codes(q, rule.projection, rule.bits) if coded else np.zeros(q.shape[:2], np.int32)
    all_codes[~live] = DEAD_CODE
    leaders = np.full_like(all_codes, DROPPED)
    y = np.zeros(geometry.output_shape, np.float32)
    counts, middle, dense = LayerCounts(len(patches)), geometry.middle(rule.patch), False
    if live[middle] and rule.dense_above < 1:
        seen = group(q[middle], all_codes[middle], rule, inside[middle].reshape(-1) > 0)
        dense = seen.kept > int(rule.dense_above * len(x))
        if dense:
            counts += LayerCounts(compared=seen.compared, verified=seen.verified, unseen=len(patches) - 1)
            all_codes[:] = DEAD_CODE
    for p, tile in enumerate(geometry.tiles(rule.patch)):
        if dense:
            grouping = none_merged(len(x), rule.policy)
        elif live[p]:
            grouping = group(q[p], all_codes[p], rule, inside[p].reshape(-1) > 0)
        else:
            continue
        leaders[p] = grouping.leaders
        levelled = 0
        if affine:
            channels, filters, constant, merged = merge_affine(patches[p], weight, grouping)
            assert grouping.offsets is not None
            levelled = int(np.count_nonzero(grouping.offsets))
        else:
            channels, filters, merged = merge(patches[p], weight, grouping, rule.weights)
        top, left = tile.ty * rule.patch, tile.tx * rule.patch
        target = y[:, top : top + tile.height, left : left + tile.width]
        if levelled:
            step = np.abs(patches[p]).max() / np.float32(127)
            target += _convolve_tile(inside[p][None], constant[:, None] * step, geometry, tile)
        if len(channels):
            target += _convolve_tile(channels, filters, geometry, tile)
        kept_pixels = len(channels) * tile.height * tile.width
        counts += LayerCounts(
            0, len(channels), merged, kept_pixels, grouping.compared, grouping.verified,
            levelled, int(adds[p]) if levelled else 0,
        )  # fmt: skip
    return Merged(add_bias(y, bias), counts, all_codes, leaders)


def _convolve_tile(planes: Array, filters: Array, geometry: ConvGeometry, tile: Tile) -> Array:
    return convolve(
        planes, filters, stride=geometry.stride, dilation=geometry.dilation, groups=1, out=(tile.height, tile.width)
    )
