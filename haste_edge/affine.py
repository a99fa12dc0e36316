"""The policy "affine" in torch: `haste_runtime.affine` for many patches at once, on any device.

The decisions are those of the definition, to the last bit on a CPU: integers wherever the definition has integers, and
one IEEE double for each of its operations on doubles. M patches of C channels with d pixels are grouped side by side.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from haste_edge.hashing import exact_float
from haste_runtime.affine import COARSE, LEAST_ORDER, LENGTH, MOST_ORDER
from haste_runtime.grouping import CANDIDATES, DROPPED

_BLOCK = 32  # channels that are compared with all before them at once
_PRODUCT = 1 << 15  # above every product of two fingerprints


class AffineGroups(NamedTuple):
    """Of B budgets and M patches: leaders int64, scales and offsets float32, all (B, M, C); compared, verified: int64
    (B, M)."""

    leaders: Tensor
    scales: Tensor
    offsets: Tensor
    compared: Tensor
    verified: Tensor


class _Ordered(NamedTuple):
    """What is known of the channels before any budget, in the order in which they are decided. All double (M, C), but
    q (M, C, d) and prints (M, C, L), which hold integers. pixels: (M, 1)."""

    q: Tensor
    prints: Tensor
    energy: Tensor
    mass: Tensor
    varying: Tensor
    weight: Tensor
    pixels: Tensor


def fingerprints(q: Tensor, inside: Tensor, projection: Tensor) -> Tensor:
    """float32 (M, C, L) that holds integers. q: (M, C, d). inside: (M, d), 1 for the pixels that lie in the map."""
    rows = projection.to(exact_float(127 * q.shape[2]))
    sums = (q.to(rows) @ rows.T).double()
    inside = inside.to(rows)
    means = q.to(rows).sum(2).double() / inside.sum(1, keepdim=True).double()
    z = sums - means[..., None] * (inside @ rows.T).double()[:, None]
    squares = torch.zeros_like(means)
    for b in range(z.shape[2]):
        squares = squares + z[..., b] * z[..., b]
    factors = LENGTH / torch.where(squares > 0, squares, torch.inf).sqrt()
    return (z * factors[..., None]).round_().float()


def coarse_order(weighted: Tensor) -> Tensor:
    """int64 (M, C): the channels by their weighted energies (M, C), large ones first, in coarse steps."""
    steps = (weighted.float().view(torch.int32) >> COARSE) - LEAST_ORDER
    return (-steps.clamp(0, MOST_ORDER)).argsort(dim=1, stable=True)


def affine_groups(
    q: Tensor, inside: Tensor, projection: Tensor, importance: Tensor, budgets: Tensor, tile_pixels: int
) -> AffineGroups:
    """The groups for as many patches as go at once: see the definition's docstring.

    q: quantised patches (M, C, d). inside: (M, d). projection: (L, d), the rows in use. importance: integers (C,).
    budgets: float64 (B, M).
    """
    order, share, known = _prepare(q, inside, projection, importance, budgets)
    price = share / tile_pixels
    channels = q.shape[1]
    every = [t.expand(len(budgets), -1, -1) for t in (known.energy, known.mass, known.varying)]
    barred = price.new_full((*price.shape, channels), -torch.inf)  # 0 for the leaders so far
    near, scales, offsets, looked = [], [], [], []
    for c in range(channels):
        place, before = c % _BLOCK, max(c, 1)  # the first channel compares with itself, in vain
        if place == 0:
            keys, products = _compare(known, c, min(c + _BLOCK, channels))
        w, e, s, v = (t[:, c] for t in (known.weight, known.energy, known.mass, known.varying))
        pixels, zero = known.pixels[:, 0], torch.zeros_like(price)
        cost, offset, scale = (w * e).expand_as(price), zero, zero + 1.0
        level = w * v + price
        cost, offset = torch.where(level < cost, level, cost), torch.where(level < cost, s / pixels, offset)
        looks = cost > torch.minimum(price + price, share)
        joined = torch.full_like(cost, DROPPED, dtype=torch.int64)
        candidates = (keys[:, place, :before] + barred[..., :before]).topk(min(CANDIDATES, before), 2)
        for most, leader in zip(candidates.values.unbind(2), candidates.indices.unbind(2), strict=True):
            there = looks & (most > -torch.inf)
            product = products[:, place].expand(len(budgets), -1, -1).gather(2, leader[..., None])[..., 0].double()
            energy, mass, varying = (t.gather(2, leader[..., None])[..., 0] for t in every)
            loss = w * (e - product * product / energy) + price
            better = there & (loss < cost)
            cost, joined = torch.where(better, loss, cost), torch.where(better, leader, joined)
            offset, scale = torch.where(better, zero, offset), torch.where(better, product / energy, scale)
            product = product - s * mass / pixels
            slope = product / varying
            loss = w * (v - product * product / varying) + (price + price)
            better = there & (varying >= 1.0) & (loss < cost)
            cost, joined = torch.where(better, loss, cost), torch.where(better, leader, joined)
            offset = torch.where(better, (s - slope * mass) / pixels, offset)
            scale = torch.where(better, slope, scale)
        leads = looks & (cost >= share)
        near.append(torch.where(leads, c, joined))
        scales.append(torch.where(leads, 1.0, scale).float())
        offsets.append(torch.where(leads, 0.0, offset).float())
        looked.append(looks)
        barred[..., c].masked_fill_(leads, 0.0)
    return _in_channel_order(order, near, scales, offsets, torch.stack(looked, 2))


def _prepare(
    q: Tensor, inside: Tensor, projection: Tensor, importance: Tensor, budgets: Tensor
) -> tuple[Tensor, Tensor, _Ordered]:
    """The order of the channels (M, C), each channel's share (B, M), and what is known of the channels."""
    d = q.shape[2]
    q = q.to(exact_float(127 * 127 * d))
    energy, mass = q.square().sum(2).double(), q.sum(2).double()
    pixels = inside.sum(1, keepdim=True).double()
    weight = importance.to(q.device).double().expand_as(energy)
    total = (weight * (energy - mass * mass / (pixels + pixels))).round().sum(1)
    share = total * budgets / q.shape[1]
    order = coarse_order(weight * energy)
    varying = energy - mass * mass / pixels
    prints = fingerprints(q, inside, projection)
    rows = [t.gather(1, order[..., None].expand_as(t)) for t in (q, prints)]
    numbers = [t.gather(1, order) for t in (energy, mass, varying, weight)]
    return order, share, _Ordered._make([*rows, *numbers, pixels])


def _compare(known: _Ordered, start: int, stop: int) -> tuple[Tensor, Tensor]:
    """Of channels ``start`` to ``stop`` with all up to ``stop``, (M, stop - start, stop): keys, of which the largest
    belongs to the most alike, the earlier where several are; and the products of the channels."""
    width = 1 << stop.bit_length()
    likeness = torch.bmm(known.prints[:, start:stop], known.prints[:, :stop].transpose(1, 2)).abs_()
    keys = likeness.to(exact_float(_PRODUCT * width)).mul_(width) - torch.arange(stop, device=likeness.device)
    return keys, torch.bmm(known.q[:, start:stop], known.q[:, :stop].transpose(1, 2))


def _in_channel_order(
    order: Tensor, near: list[Tensor], scales: list[Tensor], offsets: list[Tensor], looked: Tensor
) -> AffineGroups:
    leaders = torch.stack(near, 2)
    places = torch.arange(order.shape[1], device=order.device)
    led = leaders == places
    found = (led.cumsum(2) - led.long()) * looked  # the leaders so far, where they were looked at
    every = order.expand_as(leaders)
    names = torch.where(leaders == DROPPED, DROPPED, every.gather(2, leaders.clamp_min(0)))
    back = every.argsort(2)
    named, scaled, shifted = (t.gather(2, back) for t in (names, torch.stack(scales, 2), torch.stack(offsets, 2)))
    return AffineGroups(named, scaled, shifted, found.sum(2), found.clamp(max=CANDIDATES).sum(2))
