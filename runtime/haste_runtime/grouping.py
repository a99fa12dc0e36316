"""From codes to groups: which channels of a patch share one plane, and by what scale (paper, section 3, and beyond).

One rule a *policy*, and the definition that every backend reproduces channel by channel:

- ``mean``, the paper's: channels of equal code form a group; each is represented by the group's mean.
- ``scaled``: the same groups, but dead channels are dropped, and each channel has its own scale.
- ``budget``: a channel joins the first channel of a group whose code is nearly its own, if what it would lose thereby
  is within its share of an error budget; a channel whose whole energy is within that share is dropped.
- ``affine``: like ``budget``, but with a constant besides the scale, and with a leader's own plane for all of its group
  (`haste_runtime.affine`).
- ``drop``: channels are dropped or stay; none joins another, so nothing is hashed or compared. For layers that wait for
  their weights: a channel that joins needs its filters read, one that is dropped does not.

A group is named after its first channel, the *leader* (for ``affine``, the first that was looked at). Channel c becomes
``scale[c]`` times the group's plane, and the scales go into the merged filters (`haste_runtime.merge`). Decisions are
made on the quantised patch in integers; where these are divided, each operation is one IEEE double, so any machine
decides alike.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from haste_runtime.hashing import groups

DROPPED = -1  # the leader of channels that are left out, and of all channels of a dead patch
CANDIDATES = 2  # how many leaders are looked at closely: those with the nearest codes


class Grouping(NamedTuple):
    """One patch. leaders: int32 (C,), the first channel of each channel's group, or `DROPPED`. scales: float32 (C,).

    compared, verified: how often two codes, and how often two quantised channels were compared. offsets: float32 (C,),
    the constants of the policy "affine", in steps of the quantised patch; None for other policies.
    """

    leaders: NDArray[np.int32]
    scales: NDArray[np.float32]
    compared: int = 0
    verified: int = 0
    offsets: NDArray[np.float32] | None = None

    @property
    def kept(self) -> int:
        """K_p, how many channels lead a group, themselves alone at least."""
        return int(np.count_nonzero(self.leaders == np.arange(len(self.leaders))))


def none_merged(channels: int, policy: str) -> Grouping:
    """Of a patch whose channels all stay as they are."""
    offsets = np.zeros(channels, np.float32) if policy == "affine" else None
    return Grouping(np.arange(channels, dtype=np.int32), np.ones(channels, np.float32), offsets=offsets)


def by_mean(codes: NDArray[np.int32]) -> Grouping:
    """The paper's: equal codes (C,) form a group, and every channel counts as the group's mean."""
    labels = groups(codes)
    _, first = np.unique(labels, return_index=True)  # labels are numbered by first appearance
    return Grouping(first[labels].astype(np.int32), np.ones(len(codes), np.float32))


def by_scale(q: NDArray[np.int8], codes: NDArray[np.int32]) -> Grouping:
    """Equal codes form a group; a channel is its least-squares multiple of the group's mean.

    q: the quantised patch (C, d). With S the sum of a group's n channels, scale = n <q_c, S> / <S, S>, and 0 where
    S is 0. A channel alone has scale 1; dead channels are dropped, which is exact.
    """
    whole = q.astype(np.int64)
    live = np.flatnonzero(whole.any(axis=1))
    leaders, scales = np.full(len(q), DROPPED, np.int32), np.ones(len(q), np.float32)
    if len(live):
        labels = groups(codes[live])
        for label in range(int(labels.max()) + 1):
            members = live[labels == label]
            leaders[members] = members[0]
            if len(members) > 1:
                total = whole[members].sum(axis=0)
                energy = float(total @ total)
                for c in members:
                    scales[c] = np.float32(float(len(members) * (whole[c] @ total)) / energy) if energy else 0.0
    return Grouping(leaders, scales)


def within_budget(
    q: NDArray[np.int8], codes: NDArray[np.int32], importance: NDArray[np.uint16], budget: float, tile_pixels: int
) -> Grouping:
    """Channels join, are dropped or stay, in order, as an error budget allows.

    q: the quantised patch (C, d). importance: w_c, how much an error of channel c weighs (its filters' squared norm).
    budget: the error that may be made, as a share of the patch's weighted energy T = sum of w_c <q_c, q_c>. It is
    handed out evenly: a channel's ``share`` is T * budget / C, what it leaves unused is not passed on. So the error of
    joining and dropping is at most the budget, mostly far less, and budgets above 1 make sense. (The plane that stands
    for a group has the least weighted error at these scales, so it loses no more than its leader would.)
    tile_pixels: m * m; merging a filter costs 1 / (m * m) of keeping it, and must gain that.

    Channel c, with energy w_c <q_c, q_c>, looks at the `CANDIDATES` leaders so far whose codes differ in the fewest
    bits (the earlier ones where several do). Represented by leader l it loses w_c (<q_c, q_c> - <q_c, q_l>^2 /
    <q_l, q_l>), with scale <q_c, q_l> / <q_l, q_l>; of two it prefers the smaller loss, and the nearer where they tie.
    """
    channels = len(q)
    whole = q.astype(np.int64)
    energy, weighted, share = _share_of_budget(whole, importance, budget)
    price = share / tile_pixels
    leaders, scales = np.full(channels, DROPPED, np.int32), np.ones(channels, np.float32)
    found: list[int] = []  # the leaders so far
    compared = verified = 0
    for c in range(channels):
        if weighted[c] <= price:
            continue  # dropped without a look: joining would not gain its price
        least, best, scale = np.inf, DROPPED, 1.0
        compared += len(found)
        for leader in _nearest(codes, c, found):
            product, size = float(whole[c] @ whole[leader]), float(energy[leader])
            verified += 1
            loss = float(importance[c]) * (float(energy[c]) - product * product / size)
            if loss < least:
                least, best, scale = loss, leader, product / size
        if weighted[c] <= share and weighted[c] <= least + price:
            continue  # dropped
        if least + price < share:
            leaders[c], scales[c] = best, np.float32(scale)
        else:
            leaders[c] = c
            found.append(c)
    return Grouping(leaders, scales, compared, verified)


def by_energy(q: NDArray[np.int8], importance: NDArray[np.uint16], budget: float) -> Grouping:
    """Channels are dropped whose weighted energy w_c <q_c, q_c> is within their share of the budget, T * budget / C, as
    `within_budget` has it; the others stay alone."""
    _, weighted, share = _share_of_budget(q.astype(np.int64), importance, budget)
    leaders = np.where(weighted <= share, DROPPED, np.arange(len(q)))
    return Grouping(leaders.astype(np.int32), np.ones(len(q), np.float32))


def _share_of_budget(
    whole: NDArray[np.int64], importance: NDArray[np.uint16], budget: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], float]:
    """Each channel's energy <q_c, q_c>, the same weighted, and what each may lose: T * budget / C."""
    energy = (whole * whole).sum(axis=1)
    weighted = importance.astype(np.int64) * energy
    return energy, weighted, float(weighted.sum()) * budget / len(whole)


def _nearest(codes: NDArray[np.int32], channel: int, found: list[int]) -> list[int]:
    """Of the leaders ``found`` those with the fewest bits unlike the channel's code, nearest first."""
    differing = [int(codes[channel] ^ codes[leader]).bit_count() for leader in found]
    order = sorted(range(len(found)), key=differing.__getitem__)  # stable: the earlier of equals first
    return [found[i] for i in order[:CANDIDATES]]
