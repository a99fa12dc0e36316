"""The policy "affine": a channel becomes a multiple of another channel, plus a constant, if an error budget allows it.

    x_c  ~  s_c x_l + t_c      on the patch's pixels inside the map

Channel l, the *leader*, stays as it is; s_c goes into its merged filter. The constants of all channels go into one
filter, which convolves a plane of ones: its outputs are sums of its taps, hardly more than additions
(`haste_runtime.merge`). A channel that varies little becomes a constant alone, one that is small is dropped.

Who might lead whom is told by *fingerprints*: the patch's projections, which are sums over blocks of its pixels,
without their mean and scaled to a common length. The quantised channels themselves decide. Sums and products are
integers; all else is IEEE doubles, one operation at a time, so any machine decides alike.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from haste_runtime.grouping import CANDIDATES, DROPPED, Grouping

BLOCKS = 4  # a side: the projection's rows are the indicators of at most 4 x 4 blocks of the patch's pixels
LENGTH = 128.0  # of a fingerprint, before it is rounded: products of two stay below 2^15
MOST_CHANNELS = 1 << 16  # positions and products of fingerprints share an int32 in the kernels
COARSE, LEAST_ORDER, MOST_ORDER = 21, 504, 255  # bits of a float32 that order drops: it keeps quarters of octaves


def block_projection(side: int) -> NDArray[np.int8]:
    """The projection (L, side * side) of 0 and 1 whose rows are the blocks of a patch, row by row; L = 16 from a side
    of 4 on, less below."""
    count = min(BLOCKS, side)
    edges = [i * side // count for i in range(count + 1)]
    rows = np.zeros((count, count, side, side), np.int8)
    for i in range(count):
        for j in range(count):
            rows[i, j, edges[i] : edges[i + 1], edges[j] : edges[j + 1]] = 1
    return rows.reshape(count * count, side * side)


def fingerprints(q: NDArray[np.int8], inside: NDArray[np.bool_], projection: NDArray[np.int8]) -> NDArray[np.int16]:
    """(C, L) of a quantised patch (C, d). inside: (d,), the pixels that lie in the map; outside q is 0.

    z_b = <q_c, v_b> - mean_c <inside, v_b>, with the mean over the pixels inside; u_b = round(z_b * (128 / |z|)), half
    to even. Squares are added up in the order of b. All zero where z is.
    """
    rows = projection.astype(np.int64)
    sums = (q.astype(np.int64) @ rows.T).astype(np.float64)
    means = q.sum(axis=1, dtype=np.int64).astype(np.float64) / float(inside.sum())
    z = sums - means[:, None] * (rows @ inside).astype(np.float64)
    squares = np.zeros(len(q))
    for column in z.T:
        squares += column * column
    factors = LENGTH / np.sqrt(np.where(squares > 0, squares, np.inf))
    return np.rint(z * factors[:, None]).astype(np.int16)


def coarse_order(weighted: NDArray[np.float64]) -> NDArray[np.intp]:
    """The channels by their weighted energies (C,), large ones first; in steps of a quarter of an octave or so, so that
    counting sorts them: the earlier of two in one step comes first."""
    steps = (weighted.astype(np.float32).view(np.int32) >> COARSE) - LEAST_ORDER
    return np.argsort(-np.clip(steps, 0, MOST_ORDER), kind="stable")


def within_affine_budget(
    q: NDArray[np.int8],
    inside: NDArray[np.bool_],
    projection: NDArray[np.int8],
    importance: NDArray[np.uint16],
    budget: float,
    tile_pixels: int,
) -> Grouping:
    """The groups of one live patch, decided channel by channel in `coarse_order`.

    q: the quantised patch (C, d). inside: (d,), its pixels in the map, p of them. importance: w_c, how much an error of
    channel c weighs (its filters' squared norm). tile_pixels: m * m; merging a filter costs 1 / (m * m) of keeping it.

    A channel has the energy e = <q_c, q_c>, the sum S_c, and varies by v = e - S_c S_c / p. The budget is a share of T,
    the sum of all round(w (e - S_c S_c / (p + p))), in which what does not vary counts half; each channel may lose
    ``share`` = T * budget / C, and a filter's merge is worth ``price`` = share / (m * m). So channel c may be

    - dropped, for w e
    - replaced by its mean, for w v + price: t = S_c / p
    - multiplied from the leader l, for w (e - <q_c, q_l>^2 / e_l) + price: s = <q_c, q_l> / e_l
    - made of the leader by both, for w (v - r^2 / v_l) + 2 price, with r = <q_c, q_l> - S_c S_l / p: s = r / v_l and
      t = (S_c - s S_l) / p; only if v_l >= 1

    whichever is cheapest (of equals the first), if that is below the share; otherwise it leads. Where one of the first
    two costs at most 2 price (and the share: on tiles of one pixel), no leader is looked at. Of the leaders so far the
    `CANDIDATES` are looked at, one after the other, whose fingerprints have the largest products with the channel's,
    whatever their sign; of equals those that led first.
    """
    channels, pixels = len(q), float(inside.sum())
    whole = q.astype(np.int64)
    energy = (whole * whole).sum(axis=1).astype(np.float64)
    sums = whole.sum(axis=1).astype(np.float64)
    weight = importance.astype(np.float64)
    varying = energy - sums * sums / pixels
    total = float(np.rint(weight * (energy - sums * sums / (pixels + pixels))).sum())  # integers, so in any order
    share = total * budget / channels
    price = share / tile_pixels
    prints = fingerprints(q, inside, projection).astype(np.int64)
    leaders = np.full(channels, DROPPED, np.int32)
    scales, offsets = np.ones(channels, np.float32), np.zeros(channels, np.float32)
    found: list[int] = []
    compared = verified = 0
    for c in coarse_order(weight * energy).tolist():
        w, e, v, s = weight[c], energy[c], varying[c], sums[c]
        cost, leader, scale, offset = w * e, DROPPED, 1.0, 0.0
        if w * v + price < cost:
            cost, offset = w * v + price, s / pixels
        looks = cost > min(price + price, share)
        compared += len(found) if looks else 0
        for near in _most_alike(prints, c, found) if looks else []:
            verified += 1
            product = float(whole[c] @ whole[near])
            loss = w * (e - product * product / energy[near]) + price
            if loss < cost:
                cost, leader, scale, offset = loss, near, product / energy[near], 0.0
            if varying[near] >= 1.0:
                product -= s * sums[near] / pixels
                slope = product / varying[near]
                loss = w * (v - product * product / varying[near]) + (price + price)
                if loss < cost:
                    cost, leader, scale, offset = loss, near, slope, (s - slope * sums[near]) / pixels
        if looks and cost >= share:
            leader, scale, offset = c, 1.0, 0.0
            found.append(c)
        leaders[c], scales[c], offsets[c] = leader, np.float32(scale), np.float32(offset)
    return Grouping(leaders, scales, compared, verified, offsets)


def _most_alike(prints: NDArray[np.int64], channel: int, found: list[int]) -> list[int]:
    """Of the leaders ``found`` those whose fingerprints have the largest products with the channel's, largest first."""
    likeness = np.abs(prints[found] @ prints[channel])
    return [found[i] for i in np.argsort(-likeness, kind="stable")[:CANDIDATES]]
