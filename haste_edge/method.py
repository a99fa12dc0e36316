"""The method in torch: hash the channels of every patch, group them, convolve what stands for the groups (paper, 3).

Pure functions on batches, on any device; nothing here knows of models. They are what `haste_edge.apply` runs and what
planning measures with. The definition they follow is `haste_runtime.merge`: on one layer input the integer hash gives
the same codes and groups here, bit for bit. N is the batch, P the patches of a frame, M = N * P of them side by side;
C channels, d = n * n the pixels of a patch. The steps have modules of their own: `haste_edge.patches`,
`haste_edge.hashing`, `haste_edge.grouping`.

A merged convolution is simulated: every channel is replaced by its scale times the plane of its group, and the
*original* filters are applied. By distributivity that is the same sum as convolving the K_p planes with the K_p merged
filters, without a kernel of its own; what the merged kernel would have cost is counted in `LayerCounts`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from haste_edge.grouping import (
    Grouping,
    Rule,
    decide,
    group_by_energy,
    group_by_mean,
    group_by_scale,
    group_rows,
    group_within_affine_budget,
    group_within_budget,
    join_groupings,
)
from haste_edge.hashing import HASHES, codes, float_codes, kept_per_bits, prefix, quantise
from haste_edge.patches import CHUNK_BYTES, assemble, chunks, extract_patches, inside_map, patch_steps, real_pixels
from haste_runtime.flops import LayerCounts, constant_adds
from haste_runtime.geometry import ConvGeometry
from haste_runtime.grouping import DROPPED
from haste_runtime.hashing import DEAD_CODE
from haste_runtime.plan import CODED

__all__ = [
    "CHUNK_BYTES",
    "HASHES",
    "Grouping",
    "Merged",
    "Rule",
    "codes",
    "convolve_groups",
    "counts",
    "decide",
    "extract_patches",
    "float_codes",
    "group_by_energy",
    "group_by_mean",
    "group_by_scale",
    "group_layer",
    "group_within_affine_budget",
    "group_within_budget",
    "join_groupings",
    "kept_per_bits",
    "layer_codes",
    "merged_conv",
    "prefix",
    "quantise",
    "represent",
    "represent_affine",
]


class Merged(NamedTuple):
    """output: (N, O, H', W') with bias. counts: summed over the batch. codes: int32 and leaders: int64 (N, P, C), -1
    throughout a dead patch; leaders are -1 for dropped channels, too (`haste_runtime.grouping`). Of a frame that left
    the layer dense all codes are -1, and every channel is its own leader."""

    output: Tensor
    counts: LayerCounts
    codes: Tensor
    leaders: Tensor


def layer_codes(
    x: Tensor,
    geometry: ConvGeometry,
    m: int,
    projection: Tensor,
    bits: int,
    hash: str = "integer",
    chunk_bytes: int = CHUNK_BYTES,
) -> Tensor:
    """The codes (N, P, C) int32 of a layer's input (N, C, H, W), -1 throughout a dead patch.

    projection: int8 (L, n * n). hash: "integer", or "float" for the textbook's, which knows no dead patches. Raises
    InputError for NaN or infinity.
    """
    return group_layer(x, geometry, Rule(m, projection, bits), hash, chunk_bytes)[0]


def group_layer(
    x: Tensor, geometry: ConvGeometry, rule: Rule, hash: str = "integer", chunk_bytes: int = CHUNK_BYTES
) -> tuple[Tensor, Grouping]:
    """The codes (N, P, C) int32 of a layer's input (N, C, H, W), and the groups of its N * P patches.

    Arguments as for `merged_conv`. Raises InputError for NaN or infinity.
    """
    if hash not in HASHES:
        raise ValueError(f"hash must be one of {HASHES}, not {hash!r}")
    n = geometry.patch_side(rule.patch)
    rows, columns = geometry.grid(rule.patch)
    top, left, _, _ = geometry.padding
    # With one row of tiles, whatever of the patch lies below the map is zero in all of them and adds nothing: leave it.
    height = n if rows > 1 else min(n, top + x.shape[2])
    width = n if columns > 1 else min(n, left + x.shape[3])
    rule = rule._replace(projection=rule.projection.to(x.device).view(-1, n, n)[:, :height, :width].flatten(1))
    inside = inside_map(x, geometry, rule.patch, (height, width)).flatten(1) if rule.policy == "affine" else None
    found: list[Tensor] = []
    groupings, done = [], 0
    for _, _, block in chunks(x.detach(), geometry, rule.patch, (height, width), chunk_bytes):
        patches = block.flatten(2)
        q, live = quantise(patches)
        if rule.policy not in CODED:
            c = torch.where(live, 0, DEAD_CODE).int()[:, None].repeat(1, q.shape[1])
        elif hash == "float":
            c = float_codes(patches, rule.projection, rule.bits)
        else:
            c = codes(q, rule.projection, rule.bits).masked_fill_(~live[:, None], DEAD_CODE)
        found.append(c)
        within = None if inside is None else inside[_numbers(done, len(q), inside)]
        groupings.append(decide(q, c, rule, within))
        done += len(q)
    all_codes, grouping = torch.cat(found).view(len(x), -1, geometry.channels_in), join_groupings(groupings)
    if rule.dense_above < 1:
        dense, grouping = stay_dense(grouping, len(x), geometry.middle(rule.patch), rule.dense_above)
        all_codes.masked_fill_(dense[:, None, None], DEAD_CODE)
    return all_codes, grouping


def stay_dense(grouping: Grouping, frames: int, middle: int, dense_above: float) -> tuple[Tensor, Grouping]:
    """Which frames, bool (N,), leave the layer dense, since their ``middle`` patch keeps more of its channels than that
    share; and the groups of all patches, where those of such frames have none."""
    leaders = grouping.leaders
    channels, own = leaders.shape[1], torch.arange(leaders.shape[1], device=leaders.device)
    kept = (leaders == own).sum(1).view(frames, -1)[:, middle]
    dense = kept > int(dense_above * channels)
    of_patch = dense.repeat_interleave(len(leaders) // frames)
    unseen = of_patch.clone().view(frames, -1)
    unseen[:, middle] = False
    unseen = unseen.flatten()
    alone = of_patch[:, None]
    return dense, Grouping(
        torch.where(alone, own, leaders),
        grouping.scales.masked_fill(alone, 1.0),
        grouping.compared.masked_fill(unseen, 0),
        grouping.verified.masked_fill(unseen, 0),
        None if grouping.offsets is None else grouping.offsets.masked_fill(alone, 0.0),
        unseen,
    )


def _numbers(first: int, count: int, of_frame: Tensor) -> Tensor:
    """Which patches of a frame, (P, ...), those from ``first`` to ``first + count`` are in a batch of frames."""
    return torch.arange(first, first + count, device=of_frame.device) % len(of_frame)


def represent(patches: Tensor, leaders: Tensor, scales: Tensor, importance: Tensor | None = None) -> Tensor:
    """Patches (M, C, ...) with every channel replaced by its scale times its group's plane; dropped channels by zero.

    leaders, scales: (M, C) as in `Grouping`. importance: w_c, (C,), 1 if not given. plane = (sum of w_c s_c x_c) /
    (sum of w_c s_c^2), 0 where all scales are 0. Sums run in channel order and are multiplied by float32(1) / squares,
    as in the definition; half-precision input is summed in float32. Differentiable in the patches.
    """
    rows = patches.reshape(leaders.numel(), -1)
    if rows.dtype in (torch.float16, torch.bfloat16):
        rows = rows.float()
    leader = group_rows(leaders)
    dropped = leader == DROPPED
    own = torch.arange(len(leader), device=leader.device)
    leader = torch.where(dropped, own, leader)  # no group has a dropped channel's row; with scale 0 it stays zero
    scale = scales.flatten().masked_fill(dropped, 0.0)
    share = scale
    if importance is not None:
        weights = importance.to(scale).repeat(len(leaders))
        alone = torch.bincount(leader, minlength=len(leader))[leader] == 1  # left as they are, without rounding
        share = torch.where(alone, scale, weights * scale)
    squares = torch.zeros_like(scale).index_add_(0, leader, share * scale)
    inverse = torch.where(squares > 0, squares.reciprocal(), 0.0)
    scale, share, inverse = (t.to(rows.dtype)[:, None] for t in (scale, share, inverse))
    planes = rows.new_zeros(rows.shape).index_add_(0, leader, rows * share).mul_(inverse)
    return planes.index_select(0, leader).mul_(scale).view(patches.shape).to(patches.dtype)


def represent_affine(patches: Tensor, grouping: Grouping, steps: Tensor, inside: Tensor) -> Tensor:
    """Patches (M, C, ...) with every channel replaced by its scale times its leader, plus its constant inside the map.

    steps: (M,), what the constants are counted in. inside: (M, ...), 1 in the map. Differentiable in the patches, the
    constants being taken as such.
    """
    assert grouping.offsets is not None
    rows = patches.reshape(grouping.leaders.numel(), -1)
    if rows.dtype in (torch.float16, torch.bfloat16):
        rows = rows.float()
    leader = group_rows(grouping.leaders)
    scale = grouping.scales.flatten().masked_fill(leader == DROPPED, 0.0).to(rows.dtype)
    led = rows.index_select(0, leader.clamp_min(0)).mul_(scale[:, None]).view(patches.shape)
    constant = (grouping.offsets * steps[:, None]).to(rows.dtype)
    spread = constant.view(*constant.shape, *(1,) * (patches.dim() - 2)) * inside[:, None]
    return (led + spread).to(patches.dtype)


def counts(grouping: Grouping, geometry: ConvGeometry, m: int, size: tuple[int, int] | None = None) -> LayerCounts:
    """What merging by these groups does to a layer, summed over all patches: those of whole frames, in their order.

    size: of the layer's map, (H, W), for groups with constants.
    """
    leaders = grouping.leaders
    rows, pixels = group_rows(leaders), real_pixels(geometry, m).to(leaders.device)
    sizes = torch.bincount(rows[rows != DROPPED], minlength=1)
    kept = (leaders == torch.arange(leaders.shape[1], device=leaders.device)).sum(1)
    shared = sizes[sizes > 1]
    totals = (
        kept.sum(),
        shared.sum() - (0 if grouping.offsets is None else len(shared)),
        (kept.view(-1, len(pixels)) * pixels).sum(),
        grouping.compared.sum(),
        grouping.verified.sum(),
    )
    unseen = 0 if grouping.unseen is None else int(grouping.unseen.sum())
    whole = replace(LayerCounts(len(leaders), *torch.stack(totals).tolist()), unseen=unseen)
    if grouping.offsets is None:
        return whole
    assert size is not None
    levelled = (grouping.offsets != 0).sum(1)
    adds = torch.from_numpy(constant_adds(geometry, size, m)).to(levelled.device)
    with_constants = (levelled.view(-1, len(adds)) > 0) * adds
    return replace(whole, levelled=int(levelled.sum()), constant_adds=int(with_constants.sum()))


def convolve_groups(
    x: Tensor,
    grouping: Grouping,
    weight: Tensor,
    bias: Tensor | None,
    geometry: ConvGeometry,
    m: int,
    importance: Tensor | None = None,
    chunk_bytes: int = CHUNK_BYTES,
) -> tuple[Tensor, LayerCounts]:
    """The merged convolution of (N, C, H, W) for given groups of its N * P patches: (N, O, H', W'), and its counts.

    weight: (O, C, K, K). bias: (O,) or None. importance: as in `represent`, for groups by budget. One map may be
    convolved for several groupings.
    """
    columns = geometry.grid(m)[1]
    tile = (min(m, geometry.out[0]), min(m, geometry.out[1]))  # a map smaller than a tile isn't computed beyond its end
    reach = (geometry.kernel[0] - 1) * geometry.dilation[0] + 1
    side = ((tile[0] - 1) * geometry.stride[0] + reach, (tile[1] - 1) * geometry.stride[1] + reach)
    affine = grouping.offsets is not None
    steps, inside = (patch_steps(x, geometry, m), inside_map(x, geometry, m, side)) if affine else (None, None)
    outputs, done = [], 0
    for images, tile_rows, block in chunks(x, geometry, m, side, chunk_bytes):
        part = slice(done, done + len(block))
        if steps is not None and inside is not None:
            within = inside[_numbers(done, len(block), inside)]
            replaced = represent_affine(block, grouping.part(part), steps[part], within)
        else:
            replaced = represent(block, grouping.leaders[part], grouping.scales[part], importance)
        done += len(block)
        y = F.conv2d(replaced, weight, bias, geometry.stride, 0, geometry.dilation)
        y = y.view(images, tile_rows, columns, -1, *tile).permute(0, 3, 1, 4, 2, 5)
        outputs.append(y.reshape(images, -1, tile_rows * tile[0], columns * tile[1]))
    y = assemble(outputs, x.shape[0], dim=2)
    return y[:, :, : geometry.out[0], : geometry.out[1]].contiguous(), counts(
        grouping, geometry, m, (x.shape[2], x.shape[3])
    )


def merged_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: ConvGeometry,
    rule: Rule,
    hash: str = "integer",
    chunk_bytes: int = CHUNK_BYTES,
) -> Merged:
    """One layer: hash, group by the rule's policy, merge, convolve, add the bias.

    x: (N, C, H, W), N >= 1, any floating type (decided in float32). weight: (O, C, K, K), bias: (O,) or None.
    hash: "integer", or "float" for the textbook's. chunk_bytes: patches held in memory at a time. Raises InputError for
    NaN or infinity in x.
    """
    found, grouping = group_layer(x, geometry, rule, hash, chunk_bytes)
    y, count = convolve_groups(x, grouping, weight, bias, geometry, rule.patch, rule.weights, chunk_bytes)
    return Merged(y, count, found, grouping.leaders.view(found.shape))
