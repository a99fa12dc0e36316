"""Which channels of a coded patch share one plane, and by what scale: the policies of `haste_runtime.grouping`.

Decisions are made on the quantised patch: sums and products are integers, and where they are divided each operation is
one IEEE double. So every backend, CPU and vector width finds the same leaders and the same scales.
"""

from __future__ import annotations

import numpy as np

from haste_runtime.kernels import layout as t
from haste_runtime.kernels.affine_patch import choose_affine
from haste_runtime.kernels.group_sums import dot, dot_both, spread_channels, weigh_patch
from haste_runtime.kernels.hash_patch import as_double
from haste_runtime.kernels.jit import kernel, simd
from haste_runtime.kernels.layout import CHUNK, NO_KEY, POSITION_BITS

at, as_ints, as_shorts, as_doubles = simd.at, simd.as_ints, simd.as_shorts, simd.as_doubles
W = simd.W
LANES = 2 * W
POSITION = (1 << POSITION_BITS) - 1
DROPPED = -1
ONE = np.float32(1)


@kernel
def drop_dead(rows, channels, span, leaders):
    """Dropped are the channels whose quantised pixels are all zero."""
    for c in range(channels):
        if dot(at(rows, c * span), at(rows, c * span), span) == 0:
            leaders[c] = DROPPED


@kernel
def find_equal(codes, channels, table, size, leaders):
    """leaders[c] = the first channel with c's code, by open addressing in ``table`` (``size`` slots, a power of two of
    at least 2 C). Channels that are `DROPPED` stay so."""
    for i in range(size):
        table[i] = -1
    for c in range(channels):
        if leaders[c] == DROPPED:
            continue
        slot = ((np.int64(codes[c]) * 0x9E3779B1) >> 15) & (size - 1)
        while table[slot] >= 0 and codes[table[slot]] != codes[c]:
            slot = (slot + 1) & (size - 1)
        if table[slot] < 0:
            table[slot] = c
        leaders[c] = table[slot]


@kernel
def list_groups(leaders, channels, count, start, members, singles):
    """From leaders to lists; count: scratch, C long. Returns (number of singles, number of groups).

    singles: the channels that are alone, in order. start, members: the groups of two and more, by leader; group g is
    members[start[g] : start[g + 1]], the leader first, the others in order.
    """
    for c in range(channels):
        count[c] = 0
    for c in range(channels):
        if leaders[c] != DROPPED:
            count[leaders[c]] += 1
    alone, groups, filled = 0, 0, 0
    for c in range(channels):
        if leaders[c] != c:
            continue
        if count[c] == 1:
            singles[alone] = c
            alone += 1
            continue
        start[groups], members[filled] = filled, c
        groups += 1
        size_of_group = count[c]
        count[c] = filled + 1  # from here on: where the group's next member goes
        filled += size_of_group
    for c in range(channels):
        leader = leaders[c]
        if leader != DROPPED and leader != c:
            members[count[leader]] = c
            count[leader] += 1
    start[groups] = filled
    return alone, groups


@kernel
def list_singles(leaders, channels, singles):
    """The channels that are not dropped, where nobody joins another; returns how many. Without a branch, which a
    processor could not predict."""
    alone = np.int64(0)
    for c in range(channels):
        singles[alone] = c  # the next one takes its place, unless it stays
        alone += np.int64(leaders[c] == c)
    return alone


@kernel
def scale_group(rows, span, members, first, last, total, products, scales):
    """Each member becomes its least-squares multiple of the group's mean: n <q_c, S> / <S, S>, S being the group's sum.

    members[first .. last-1] are the group. total: scratch for S, int16, so it is summed over at most `CHUNK` members
    at a time. products: scratch, int64, as long as ``members``.
    """
    for k in range(first, last):
        products[k] = 0
    for begin in range(first, last, CHUNK):
        for i in range(0, span, LANES):
            part = simd.shorts_zero()
            for k in range(begin, min(begin + CHUNK, last)):
                part = simd.shorts_add(part, rows, members[k] * span + i)
            simd.shorts_store(total, i, part)
        for k in range(first, last):
            products[k] += dot(at(rows, members[k] * span), total, span)
    energy = np.int64(0)  # <S, S> = sum of <q_c, S>
    for k in range(first, last):
        energy += products[k]
    size = np.int64(last - first)
    for k in range(first, last):
        scale = as_double(size * products[k]) / as_double(energy) if energy > 0 else 0.0
        scales[members[k]] = np.float32(scale)


@kernel
def nearest_leaders(code, codes, found):
    """Positions of the two of ``found`` codes (one or more) that differ from ``code`` in the fewest bits, of codes as
    near the earlier. Both are the same where there is only one."""
    nearest, second = simd.keys_none(), simd.keys_none()  # in each lane
    for i in range(0, found, W):
        keys = simd.keys_of(code, codes, i, found)
        second = simd.keys_smaller(second, simd.keys_larger(nearest, keys))
        nearest = simd.keys_smaller(nearest, keys)
    key = simd.keys_least(nearest)
    other = simd.keys_least(simd.keys_instead(nearest, key, second))
    return np.int64(key & POSITION), np.int64((key if other == NO_KEY else other) & POSITION)


@kernel
def share_of_budget(energies, importance, channels, budget):
    """What each channel may lose: T * budget / C, T being the patch's weighted energy.

    Its integers are added up as doubles, which is exact up to 2^53: 32-bit ARM cannot convert these to int64.
    """
    total = 0.0
    for c in range(channels):
        total += np.float64(importance[c]) * energies[c]
    return total * budget / np.float64(np.int32(channels))


@kernel
def drop_small(energies, importance, channels, share, leaders):
    """`haste_runtime.grouping.by_energy`."""
    for c in range(channels):
        leaders[c] = DROPPED if np.float64(importance[c]) * energies[c] <= share else c


@kernel
def spend_budget(codes, importance, channels, share, price, spread, leaders, scales, found, found_codes):
    """Channels join, are dropped or become leaders, in order: `haste_runtime.grouping.within_budget`, line by line.

    spread: (rows, span, energies), see `spread_channels` and `weigh_patch`. found, found_codes: scratch for the leaders
    so far and their codes. Returns how many pairs of codes, and how many pairs of channels were compared.
    """
    rows, span, energies = spread
    leading, compared, verified = 0, 0, 0
    for c in range(channels):
        leaders[c] = DROPPED
        weight, energy = np.float64(importance[c]), energies[c]
        weighted = weight * energy
        if weighted <= price:
            continue
        least, best, scale = np.inf, np.int64(DROPPED), 1.0
        compared += leading
        if leading > 0:
            near, next_near = nearest_leaders(codes[c], found_codes, leading)
            a, b = np.int64(found[near]), np.int64(found[next_near])
            verified += 1 if a == b else 2
            whole, other = dot_both(at(rows, c * span), at(rows, a * span), at(rows, b * span), span)
            product, size = as_double(whole), energies[a]
            least, best, scale = weight * (energy - product * product / size), a, product / size
            product, size = as_double(other), energies[b]
            loss = weight * (energy - product * product / size)
            if loss < least:
                least, best, scale = loss, b, product / size
        if weighted <= share and weighted <= least + price:
            continue
        if least + price < share:
            leaders[c], scales[c] = best, np.float32(scale)
        else:
            leaders[c] = c
            found[leading], found_codes[leading] = c, codes[c]
            leading += 1
    return compared, verified


@kernel
def choose_leaders(op, level, arena, index, scratch, counters):
    """Leaders of a live patch's channels by the level's policy; their scales are 1, or those of the budget."""
    channels, policy, span = op[t.XC], level[t.POLICY], level[t.SPAN]
    codes, leaders = as_ints(at(arena, scratch + level[t.CODES])), as_ints(at(arena, scratch + level[t.LEADERS]))
    scales = at(arena, scratch + level[t.SCALES])
    for c in range(channels):
        leaders[c], scales[c] = 0, ONE
    quantised = as_shorts(at(arena, scratch + level[t.QUANTISED]))
    rows = as_shorts(at(arena, scratch + level[t.SPREAD]))
    if policy == t.BY_SCALE or policy == t.WITHIN_BUDGET:
        spread_channels(quantised, channels, span, rows)
    if policy == t.WITHIN_BUDGET or policy == t.BY_ENERGY:
        importance, budget = at(index, level[t.IMPORTANCE]), as_doubles(at(level, t.BUDGET))[0]
        energies = as_doubles(at(arena, scratch + level[t.ENERGIES]))
        sums = as_ints(at(arena, scratch + level[t.SUMS]))
        weigh_patch(quantised, channels, span, sums, energies)
        share = share_of_budget(energies, importance, channels, budget)
        if policy == t.BY_ENERGY:
            drop_small(energies, importance, channels, share, leaders)
            return
        patch = np.float64(np.int32(level[t.PATCH]))
        compared, verified = spend_budget(
            codes, importance, channels, share, share / (patch * patch), (rows, span, energies), leaders, scales,
            as_ints(at(arena, scratch + level[t.FOUND])), as_ints(at(arena, scratch + level[t.FOUND_CODES])),
        )  # fmt: skip
        counters[t.COMPARED] += compared
        counters[t.VERIFIED] += verified
    else:
        if policy == t.BY_SCALE:
            drop_dead(rows, channels, span, leaders)
        size = 1
        while size < 2 * channels:
            size *= 2
        find_equal(codes, channels, as_ints(at(arena, scratch + level[t.TABLE])), size, leaders)


@kernel
def group_patch(op, level, arena, index, scratch, counters):
    """Group the coded channels of a live patch; returns (singles, groups), which are listed then."""
    if level[t.POLICY] == t.WITHIN_AFFINE_BUDGET:
        choose_affine(op, level, arena, index, scratch, counters)
    else:
        choose_leaders(op, level, arena, index, scratch, counters)
    leaders, alone = as_ints(at(arena, scratch + level[t.LEADERS])), as_ints(at(arena, scratch + level[t.WEIGHTS]))
    members = as_ints(at(arena, scratch + level[t.MEMBERS]))
    start = as_ints(at(arena, scratch + level[t.START]))
    if level[t.POLICY] == t.BY_ENERGY:
        start[0] = 0
        return list_singles(leaders, op[t.XC], alone), np.int64(0)
    count = as_ints(at(arena, scratch + level[t.MEMBERS_OF]))
    singles, groups = list_groups(leaders, op[t.XC], count, start, members, alone)
    if level[t.POLICY] == t.BY_SCALE:
        rows = as_shorts(at(arena, scratch + level[t.SPREAD]))
        total = as_shorts(at(arena, scratch + level[t.TOTAL]))
        products = simd.as_longs(at(arena, scratch + level[t.PRODUCTS]))
        scales = at(arena, scratch + level[t.SCALES])
        for g in range(groups):
            scale_group(rows, level[t.SPAN], members, start[g], start[g + 1], total, products, scales)
    return singles, groups
