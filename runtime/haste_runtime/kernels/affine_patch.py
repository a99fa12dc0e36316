"""The policy "affine" on one patch: `haste_runtime.affine`, line by line.

Fingerprints are kept as floats, whose products are exact integers in any order; the leaders' lie side by side, W in a
vector, so that a channel is compared with W of them at once.
"""

from __future__ import annotations

import numpy as np

from haste_runtime.affine import COARSE, LEAST_ORDER, LENGTH, MOST_ORDER
from haste_runtime.kernels import layout as t
from haste_runtime.kernels.group_sums import dot, mass_patch, spread_channels, weigh_patch
from haste_runtime.kernels.hash_patch import as_double
from haste_runtime.kernels.jit import kernel, simd

at, as_ints, as_shorts, as_doubles = simd.at, simd.as_ints, simd.as_shorts, simd.as_doubles
vector_load, vector_store, vector_fill, vector_fma = (
    simd.vector_load, simd.vector_store, simd.vector_fill, simd.vector_fma,
)  # fmt: skip
W = simd.W
LANES = 2 * W
POSITION = (1 << t.SHORT_POSITION_BITS) - 1
DROPPED = -1
ZERO = np.float32(0)


@kernel
def count_inside(pixel_lists, starts, bits, side, y0, y1, x0, x1, inside):
    """inside[l] = <inside, v_l>, as float64: how many of the pixels with +1 lie in the map, less those with -1."""
    for half in range(2 * bits):
        row, found = 0, 0
        for i in range(starts[half], starts[half + 1]):
            pixel = pixel_lists[i]
            while pixel >= (row + 1) * side:
                row += 1
            column = pixel - row * side
            found += y0 <= row and row < y1 and x0 <= column and column < x1
        if half % 2 == 0:
            inside[half // 2] = np.float64(np.int32(found))
        else:
            inside[half // 2] -= np.float64(np.int32(found))


@kernel
def make_prints(sums, masses, channels, bits, inside, pixels, prints):
    """prints[c][b] = round(z_b * 128 / |z|), z_b = sums[b][c] - masses[c] / pixels * inside[b]."""
    padded = (channels + LANES - 1) // LANES * LANES
    for c in range(channels):
        mean = masses[c] / pixels
        squares = 0.0
        for b in range(bits):
            z = np.float64(sums[b * padded + c]) - mean * inside[b]
            squares += z * z
        factor = LENGTH / np.sqrt(squares) if squares > 0 else 0.0
        for b in range(bits):
            z = np.float64(sums[b * padded + c]) - mean * inside[b]
            prints[c * bits + b] = np.float32(np.rint(z * factor))


@kernel
def order_channels(weighted, channels, counts, order):
    """The channels by their ``weighted`` energies (float32), large ones first, in coarse steps: a counting sort."""
    bits = as_ints(weighted)
    for i in range(MOST_ORDER + 2):
        counts[i] = 0
    for c in range(channels):
        counts[MOST_ORDER + 1 - min(max((bits[c] >> COARSE) - LEAST_ORDER, 0), MOST_ORDER)] += 1
    for i in range(MOST_ORDER + 1):
        counts[i + 1] += counts[i]  # where the next step begins
    for c in range(channels):
        step = MOST_ORDER - min(max((bits[c] >> COARSE) - LEAST_ORDER, 0), MOST_ORDER)
        order[counts[step]] = c
        counts[step] += 1


@kernel
def remember_print(prints, channel, bits, found_prints, place):
    """The channel's fingerprint becomes the one of the leader at ``place``."""
    block = at(found_prints, (place - place % W) * bits)
    for b in range(bits):
        if place % W == 0:
            vector_store(block, b * W, vector_fill(ZERO))
        block[b * W + place % W] = prints[channel * bits + b]


@kernel
def most_alike(own, found_prints, bits, found):
    """The places of the two leaders, of ``found`` (one or more), whose fingerprints' products with ``own`` are the
    largest in magnitude; of equals the first. Both are the same where there is only one."""
    best, second = simd.keys_none(), simd.keys_none()  # in each lane
    for i in range(0, found, W):
        product = vector_fill(ZERO)
        for b in range(bits):
            product = vector_fma(product, vector_load(found_prints, i * bits + b * W), vector_fill(own[b]))
        keys = simd.keys_of_products(product, i, found)
        second = simd.keys_smaller(second, simd.keys_larger(best, keys))
        best = simd.keys_smaller(best, keys)
    key = simd.keys_least(best)
    other = simd.keys_least(simd.keys_instead(best, key, second))
    return np.int64(key & POSITION), np.int64((key if other == t.NO_KEY else other) & POSITION)


@kernel
def share_of_budget(energies, masses, importance, channels, pixels, budget):
    """What each channel may lose: the patch's energy, in which what does not vary counts half, times the budget / C.

    The integers are added up as doubles, which is exact up to 2^53: 32-bit ARM cannot convert these to int64.
    """
    total = 0.0
    for c in range(channels):
        half = masses[c] * masses[c] / (pixels + pixels)
        total += np.rint(np.float64(importance[c]) * (energies[c] - half))
    return total * budget / np.float64(np.int32(channels))


@kernel
def join_leader(channel, near, weight, price, pixels, so_far, patch):
    """(cost, leader, scale, offset) of the cheapest way to represent the channel, if ``so_far`` is what is known to do
    without the leader ``near``."""
    rows, span, energies, masses = patch
    cost, leader, scale, offset = so_far
    product = as_double(dot(at(rows, channel * span), at(rows, near * span), span))
    energy, mass = energies[channel], masses[channel]
    loss = weight * (energy - product * product / energies[near]) + price
    if loss < cost:
        cost, leader, scale, offset = loss, near, product / energies[near], 0.0
    varying = energies[near] - masses[near] * masses[near] / pixels
    if varying >= 1.0:
        product -= mass * masses[near] / pixels
        slope = product / varying
        loss = weight * (energy - mass * mass / pixels - product * product / varying) + (price + price)
        if loss < cost:
            cost, leader, scale, offset = loss, near, slope, (mass - slope * masses[near]) / pixels
    return cost, leader, scale, offset


@kernel
def spend_affine(order, importance, channels, share, price, pixels, patch, memory, leaders, scales, offsets):
    """Channels are dropped, levelled, join or become leaders, in order.

    patch: (rows, span, energies, masses). memory: (prints, bits, found, found_prints), the last two scratch for the
    leaders so far. Returns how many pairs of fingerprints, and how many pairs of channels were compared.
    """
    _, _, energies, masses = patch
    prints, bits, found, found_prints = memory
    leading, compared, verified = 0, 0, 0
    for k in range(channels):
        c = np.int64(order[k])
        weight, energy, mass = np.float64(importance[c]), energies[c], masses[c]
        cost, leader, scale, offset = weight * energy, np.int64(DROPPED), 1.0, 0.0
        level = weight * (energy - mass * mass / pixels) + price
        if level < cost:
            cost, offset = level, mass / pixels
        if cost > min(price + price, share):
            if leading > 0:
                compared += leading
                near, other = most_alike(at(prints, c * bits), found_prints, bits, leading)
                so_far = cost, leader, scale, offset
                so_far = join_leader(c, np.int64(found[near]), weight, price, pixels, so_far, patch)
                verified += 1
                if near != other:
                    so_far = join_leader(c, np.int64(found[other]), weight, price, pixels, so_far, patch)
                    verified += 1
                cost, leader, scale, offset = so_far
            if cost >= share:
                leader, scale, offset = c, 1.0, 0.0
                found[leading] = c
                remember_print(prints, c, bits, found_prints, leading)
                leading += 1
        leaders[c], scales[c], offsets[c] = leader, np.float32(scale), np.float32(offset)
    return compared, verified


@kernel
def choose_affine(op, level, arena, index, scratch, counters):
    """Leaders, scales and constants of a live patch's channels, and the list of those that have a constant."""
    channels, span, bits = op[t.XC], level[t.SPAN], level[t.BITS]
    quantised, rows = (
        as_shorts(at(arena, scratch + level[t.QUANTISED])),
        as_shorts(at(arena, scratch + level[t.SPREAD])),
    )
    energies, masses = (
        as_doubles(at(arena, scratch + level[t.ENERGIES])),
        as_doubles(at(arena, scratch + level[t.MASSES])),
    )
    importance, inside = at(index, level[t.IMPORTANCE]), as_doubles(at(arena, scratch + level[t.INSIDE]))
    sums, prints = as_ints(at(arena, scratch + level[t.SUMS])), at(arena, scratch + level[t.PRINTS])
    scales, offsets = at(arena, scratch + level[t.SCALES]), at(arena, scratch + level[t.OFFSETS])
    order, counts = as_ints(at(arena, scratch + level[t.ORDER])), as_ints(at(arena, scratch + level[t.COUNTS]))
    pixels, patch = inside[bits], np.float64(np.int32(level[t.PATCH]))
    spread_channels(quantised, channels, span, rows)
    mass_patch(quantised, channels, span, as_ints(offsets), masses)
    make_prints(sums, masses, channels, bits, inside, pixels, prints)
    weigh_patch(quantised, channels, span, sums, energies)
    share = share_of_budget(energies, masses, importance, channels, pixels, as_doubles(at(level, t.BUDGET))[0])
    for c in range(channels):
        scales[c] = np.float32(np.float64(importance[c]) * energies[c])
    order_channels(scales, channels, counts, order)
    compared, verified = spend_affine(
        order, importance, channels, share, share / (patch * patch), pixels, (rows, span, energies, masses),
        (prints, bits, as_ints(at(arena, scratch + level[t.FOUND])), at(arena, scratch + level[t.FOUND_PRINTS])),
        as_ints(at(arena, scratch + level[t.LEADERS])), scales, offsets,
    )  # fmt: skip
    levelled, count = as_ints(at(arena, scratch + level[t.LEVELLED])), 0
    for c in range(channels):
        if offsets[c] != ZERO:
            levelled[2 + count] = c
            count += 1
    levelled[0], levelled[1] = 0, count  # where the only group begins, and where it ends
    counters[t.COMPARED] += compared
    counters[t.VERIFIED] += verified
    counters[t.WITH_CONSTANT] += count
