"""From codes to groups in torch: the policies of `haste_runtime.grouping` for many patches at once, on any device.

The decisions are those of the definition, to the last bit on a CPU: integers wherever the definition has integers, and
one IEEE double for each of its operations on doubles. M patches of C channels with d pixels are grouped side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from haste_edge.affine import affine_groups
from haste_edge.hashing import exact_float, no_autocast
from haste_runtime.grouping import CANDIDATES, DROPPED
from haste_runtime.hashing import DEAD_CODE

_BLOCK = 32  # channels that are compared with all before them at once
_CHUNK_BYTES = 32 << 20  # of quantised patches, or of comparisons, held at a time
_BARRED = 2.0**23  # added to the key of a channel that leads no group, see `_keys`


class Rule(NamedTuple):
    """How a layer merges, as `haste_runtime.merge.Rule` says it, with tensors.

    patch: tile side m. projection: ternary int8 (L, n * n). bits: how many of its rows to use. policy: one of
    `haste_runtime.plan.POLICIES`. importance: integers (C,) and budget, for the policies `BUDGETED` there. dense_above:
    see `Variant` there.
    """

    patch: int
    projection: Tensor
    bits: int
    policy: str = "mean"
    importance: Tensor | None = None
    budget: float = 0.0
    dense_above: float = 1.0

    @property
    def weights(self) -> Tensor | None:
        """How much each channel weighs in its group's plane; None where all weigh alike."""
        return self.importance if self.policy == "budget" else None


class Grouping(NamedTuple):
    """Of M patches. leaders: int64 (M, C), the first channel of each channel's group, or -1 where it is dropped and
    throughout a dead patch. scales: float32 (M, C). compared, verified: int64 (M,), how often two codes, and how often
    two quantised channels were compared. offsets: float32 (M, C), the constants of the policy "affine", in steps of the
    quantised patch; None for other policies. unseen: bool (M,), the patches that were not looked at, since their layer
    stayed dense; None where none can be.
    """

    leaders: Tensor
    scales: Tensor
    compared: Tensor
    verified: Tensor
    offsets: Tensor | None = None
    unseen: Tensor | None = None

    def part(self, patches: slice) -> Grouping:
        """Of some of the patches."""
        return Grouping._make(None if t is None else t[patches] for t in self)


def join_groupings(parts: Sequence[Grouping]) -> Grouping:
    """Of the patches of all, in order."""
    return Grouping._make(None if tensors[0] is None else torch.cat(tensors) for tensors in zip(*parts, strict=True))


def decide(q: Tensor, codes: Tensor, rule: Rule, inside: Tensor | None = None) -> Grouping:
    """The groups by the rule's policy. q: quantised patches (M, C, d), float32 that holds integers. codes: (M, C), only
    -1 or not for policies that are not `CODED`. inside: (M, d), the pixels in the map, for the policy "affine"; all if
    not given.
    """
    if rule.policy == "mean":
        return group_by_mean(codes)
    if rule.policy == "scaled":
        return group_by_scale(q, codes)
    if rule.policy == "drop" and rule.importance is not None:
        return group_by_energy(q, codes, rule.importance, rule.budget)
    if rule.policy == "affine" and rule.importance is not None:
        return group_within_affine_budget(q, codes, rule, rule.budget, inside)
    if rule.policy != "budget" or rule.importance is None:
        raise ValueError(f"the policy {rule.policy!r} is unknown, or lacks its importance")
    return group_within_budget(q, codes, rule.importance, rule.budget, rule.patch * rule.patch)


def group_by_mean(codes: Tensor) -> Grouping:
    """The paper's: equal codes (M, C) form a group, and every channel counts as the group's mean."""
    ordered, order = codes.sort(dim=1, stable=True)  # so that the first of equal codes is the first channel
    place = torch.arange(codes.shape[1], device=codes.device).expand_as(order)
    begins = torch.ones_like(ordered, dtype=torch.bool)
    begins[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    begin = torch.where(begins, place, 0).cummax(1).values
    leaders = torch.empty_like(order).scatter_(1, order, order.gather(1, begin))
    leaders.masked_fill_(codes == DEAD_CODE, DROPPED)
    none = leaders.new_zeros(len(leaders))
    return Grouping(leaders, torch.ones_like(leaders, dtype=torch.float32), none, none)


def group_by_scale(q: Tensor, codes: Tensor) -> Grouping:
    """Equal codes form a group, dead channels are dropped; a channel is its least-squares multiple of the group's mean.

    q: (M, C, d). codes: (M, C). With S the sum of a group's n channels, scale = n <q_c, S> / <S, S>, 0 where S is 0.
    """
    patches, channels, d = q.shape
    grouping = group_by_mean(codes.masked_fill(~q.any(2), DEAD_CODE))
    step = max(1, _CHUNK_BYTES // (8 * channels * d))
    for i in range(0, patches, step):
        _own_scales(q[i : i + step], grouping.leaders[i : i + step], grouping.scales[i : i + step])
    return grouping


def _own_scales(q: Tensor, leaders: Tensor, scales: Tensor) -> None:
    """Sets the scales (M, C) of channels that aren't alone in their group."""
    leaders = group_rows(leaders)
    sizes = torch.bincount(leaders[leaders != DROPPED], minlength=len(leaders))
    shared = ((leaders != DROPPED) & (sizes[leaders] > 1)).nonzero()[:, 0]
    rows = q.flatten(0, 1)[shared].long()
    _, own, count = leaders[shared].unique(return_inverse=True, return_counts=True)
    sums = rows.new_zeros(len(count), rows.shape[1]).index_add_(0, own, rows)
    energies = sums.square().sum(1).double()[own]
    products = (count[own] * (rows * sums[own]).sum(1)).double()
    scales.view(-1)[shared] = torch.where(energies > 0, products / energies, 0.0).float()


def group_within_budget(
    q: Tensor, codes: Tensor, importance: Tensor, budget: float | Tensor, tile_pixels: int
) -> Grouping:
    """Channels join, are dropped or stay, in order, as an error budget allows: see the definition's docstring.

    q: (M, C, d). codes: (M, C). importance: integers (C,). budget: a number for all patches, or float64 (M,), one for
    each. tile_pixels: m * m. Several budgets are quicker together: with budgets (B, 1) or (B, M) the result has B * M
    rows, those of the first budget first.
    """
    patches, channels, d = q.shape
    budgets = _budgets(q, budget)
    row_bytes = 4 * channels * max(d, min(_BLOCK, channels), 4 * len(budgets))
    step = max(1, _CHUNK_BYTES // row_bytes)
    with no_autocast(q), torch.no_grad():
        pieces = [
            _within_budget(q[i : i + step], codes[i : i + step], importance, budgets[:, i : i + step], tile_pixels)
            for i in range(0, patches, step)
        ]
    return Grouping(*(torch.cat(parts, 1).flatten(0, 1) for parts in zip(*(p[:4] for p in pieces), strict=True)))


def group_within_affine_budget(
    q: Tensor, codes: Tensor, rule: Rule, budget: float | Tensor, inside: Tensor | None = None
) -> Grouping:
    """By `haste_runtime.affine`. Arguments as for `decide` and, for the budget, `group_within_budget`."""
    patches, channels, d = q.shape
    assert rule.importance is not None
    budgets = _budgets(q, budget)
    rows = rule.projection[: rule.bits]
    inside = q.new_ones(patches, d) if inside is None else inside
    row_bytes = 4 * channels * max(2 * d, 2 * min(_BLOCK, channels), 8 * len(budgets))
    step = max(1, _CHUNK_BYTES // row_bytes)
    with no_autocast(q), torch.no_grad():
        pieces = []
        for i in range(0, patches, step):
            of = slice(i, i + step)
            pieces.append(affine_groups(q[of], inside[of], rows, rule.importance, budgets[:, of], rule.patch**2))
    leaders, scales, offsets, compared, verified = (
        torch.cat(parts, 1).flatten(0, 1) for parts in zip(*pieces, strict=True)
    )
    dead = (codes == DEAD_CODE).repeat(len(budgets), 1)
    leaders, offsets = leaders.masked_fill(dead, DROPPED), offsets.masked_fill(dead, 0.0)
    compared, verified = (t.masked_fill(dead[:, 0], 0) for t in (compared, verified))
    return Grouping(leaders, scales, compared, verified, offsets)


def group_by_energy(q: Tensor, codes: Tensor, importance: Tensor, budget: float | Tensor) -> Grouping:
    """Channels are dropped or stay: `haste_runtime.grouping.by_energy`. Arguments as for `group_within_budget`."""
    budgets = _budgets(q, budget)
    with no_autocast(q), torch.no_grad():
        energies = torch.cat([part.double().square().sum(2) for part in q.split(_patches_at_once(q))])
        weighted = importance.to(q.device).double() * energies
        share = weighted.sum(1) * budgets / q.shape[1]
        small = (weighted <= share[..., None]) | (codes == DEAD_CODE)
        leaders = torch.where(small, DROPPED, torch.arange(q.shape[1], device=q.device)).flatten(0, 1)
    none = leaders.new_zeros(len(leaders))
    return Grouping(leaders, torch.ones_like(leaders, dtype=torch.float32), none, none)


def _patches_at_once(q: Tensor) -> int:
    """How many patches' doubles are held at a time."""
    return max(1, _CHUNK_BYTES // (8 * q.shape[1] * q.shape[2]))


def _budgets(q: Tensor, budget: float | Tensor) -> Tensor:
    """float64 (B, M)."""
    budgets = torch.as_tensor(budget, dtype=torch.float64, device=q.device)
    return budgets.expand(budgets.shape[0] if budgets.dim() == 2 else 1, len(q))


def group_rows(leaders: Tensor) -> Tensor:
    """The leaders (M, C) by their row among all M * C channels: int64 (M * C,), -1 where dropped."""
    patches, channels = leaders.shape
    first = torch.arange(0, patches * channels, channels, device=leaders.device)[:, None]
    return torch.where(leaders == DROPPED, DROPPED, leaders + first).flatten()


def _within_budget(q: Tensor, codes: Tensor, importance: Tensor, budgets: Tensor, tile_pixels: int) -> Grouping:
    """`group_within_budget` for as many patches as go at once and budgets (B, M): every tensor has (B, M) in front.

    A step for each channel; what doesn't depend on the budget, distances and products, comes from blocks of channels.
    """
    channels, d = q.shape[1:]
    q = q.to(exact_float(127 * 127 * d))  # in which products of channels are exact
    energies = q.square().sum(2).long()
    importance = importance.to(q.device).long()
    weighted = importance * energies
    share = weighted.sum(1).double() * budgets / channels
    price = share / tile_pixels
    energy, weight, weighted = energies.double(), importance.double(), weighted.double()
    energy_of = energy.expand(len(budgets), -1, -1)
    barred = energy_of.new_full(energy_of.shape, _BARRED, dtype=torch.float32)  # 0 for the leaders so far
    signs, width = _signs(codes), _width(channels)
    leaders, scales = [], []
    for c in range(channels):
        place, before = c % _BLOCK, max(c, 1)  # the first channel compares with itself, in vain
        if place == 0:
            stop = min(c + _BLOCK, channels)
            keys = _keys(signs, c, stop, width)
            products = torch.bmm(q[:, c:stop], q[:, :stop].transpose(1, 2))
        near = _smallest(keys[:, place, :before] + barred[..., :before], width)
        there, leader = near < _BARRED, near.long() & (width - 1)
        product = products[:, place].expand(len(budgets), -1, -1).gather(2, leader).double()
        size = energy_of.gather(2, leader)
        loss = weight[c] * (energy[:, c, None] - product * product / size)
        least, better = torch.where(there, loss, torch.inf).min(2, keepdim=True)  # the nearer where they tie
        own, limit = weighted[:, c], least[..., 0] + price
        dropped = (own <= price) | ((own <= share) & (own <= limit))
        joins = ~dropped & (limit < share)
        best = torch.where(joins, leader.gather(2, better)[..., 0], c)
        leaders.append(best.masked_fill_(dropped, DROPPED))
        scales.append(torch.where(joins, (product / size).gather(2, better)[..., 0], 1.0).float())
        barred[..., c].masked_fill_(best == c, 0.0)
    chosen = torch.stack(leaders, 2)
    led = chosen == torch.arange(channels, device=q.device)
    looked = weighted > price[..., None]
    found = (led.cumsum(2) - led.long()) * looked  # the leaders so far
    return Grouping(chosen, torch.stack(scales, 2), found.sum(2), found.clamp(max=CANDIDATES).sum(2))


def _signs(codes: Tensor) -> Tensor:
    """Codes (M, C) as float32 (M, C, L) of -1 and 1, with as many bits L as the largest needs."""
    bits = torch.arange(max(1, int(codes.max()).bit_length()), dtype=codes.dtype, device=codes.device)
    return ((codes[..., None] >> bits) & 1).float().mul_(2).sub_(1)


def _width(channels: int) -> int:
    """The power of two by which distances are multiplied in a key; larger than any channel."""
    return 1 << channels.bit_length()


def _keys(signs: Tensor, start: int, stop: int, width: int) -> Tensor:
    """How near channels ``start`` to ``stop`` are to all up to ``stop``: float32 (M, stop - start, stop).

    A key is width * (bits unlike) + channel, so that the smallest belongs to the nearest, the earlier where several
    are. The bits unlike of two codes of L bits are (L - <signs, signs>) / 2. All numbers are exact integers: a key of
    31 bits is below 32 * width, which with `_BARRED` on top stays below 2^24 for up to 2^17 channels.
    """
    bits = signs.shape[2]
    least = torch.arange(stop, dtype=torch.float32, device=signs.device) + width * bits / 2
    ours, theirs = signs[:, start:stop], signs[:, :stop].transpose(1, 2)
    return torch.baddbmm(least.expand(len(signs), stop - start, stop), ours, theirs, alpha=-width / 2)


def _smallest(keys: Tensor, width: int) -> Tensor:
    """Of keys (..., K), overwritten, the `CANDIDATES` smallest in order; `_BARRED` or more where there are none."""
    found = []
    for _ in range(CANDIDATES):
        least = keys.amin(-1, keepdim=True)
        keys.scatter_(-1, least.long() & (width - 1), _BARRED)
        found.append(least)
    return torch.cat(found, -1)
