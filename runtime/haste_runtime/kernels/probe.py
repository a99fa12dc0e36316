"""Kernels that only measure: how fast this core multiplies and reads, and the stages of a merged layer on their own."""

from __future__ import annotations

from haste_runtime.kernels import layout as t
from haste_runtime.kernels.group_patch import group_patch
from haste_runtime.kernels.jit import kernel, simd
from haste_runtime.kernels.look import hash_window, patch_window

at = simd.at
vector_load, vector_store, vector_add, vector_fma = (
    simd.vector_load, simd.vector_store, simd.vector_add, simd.vector_fma,
)  # fmt: skip
W = simd.W
CHAINS = 12  # more than latency times pipes of any core here, and with two operands they fit 16 registers
STREAMS = 8
HASH, GROUP = 1, 2


@kernel
def multiply_add(rounds, memory):
    """rounds x `CHAINS` fused multiply-adds of W lanes, none of which waits for another of its round.

    memory: (CHAINS + 2) * W floats: where the chains begin, and end; then the two factors.
    """
    x, y = vector_load(memory, CHAINS * W), vector_load(memory, (CHAINS + 1) * W)
    a, b, c = vector_load(memory, 0), vector_load(memory, W), vector_load(memory, 2 * W)
    d, e, f = vector_load(memory, 3 * W), vector_load(memory, 4 * W), vector_load(memory, 5 * W)
    g, h, i = vector_load(memory, 6 * W), vector_load(memory, 7 * W), vector_load(memory, 8 * W)
    j, k, m = vector_load(memory, 9 * W), vector_load(memory, 10 * W), vector_load(memory, 11 * W)
    for _ in range(rounds):
        a, b, c = vector_fma(a, x, y), vector_fma(b, x, y), vector_fma(c, x, y)
        d, e, f = vector_fma(d, x, y), vector_fma(e, x, y), vector_fma(f, x, y)
        g, h, i = vector_fma(g, x, y), vector_fma(h, x, y), vector_fma(i, x, y)
        j, k, m = vector_fma(j, x, y), vector_fma(k, x, y), vector_fma(m, x, y)
    vector_store(memory, 0, a)
    vector_store(memory, W, b)
    vector_store(memory, 2 * W, c)
    vector_store(memory, 3 * W, d)
    vector_store(memory, 4 * W, e)
    vector_store(memory, 5 * W, f)
    vector_store(memory, 6 * W, g)
    vector_store(memory, 7 * W, h)
    vector_store(memory, 8 * W, i)
    vector_store(memory, 9 * W, j)
    vector_store(memory, 10 * W, k)
    vector_store(memory, 11 * W, m)


@kernel
def read_through(rounds, source, size, memory):
    """Read ``size`` floats (a multiple of STREAMS * W) from first to last, ``rounds`` times; their sums go to memory,
    STREAMS * W floats that are zero before."""
    a, b, c, d = vector_load(memory, 0), vector_load(memory, W), vector_load(memory, 2 * W), vector_load(memory, 3 * W)
    e, f = vector_load(memory, 4 * W), vector_load(memory, 5 * W)
    g, h = vector_load(memory, 6 * W), vector_load(memory, 7 * W)
    for _ in range(rounds):
        for i in range(0, size, STREAMS * W):
            line = at(source, i)
            a, b = vector_add(a, vector_load(line, 0)), vector_add(b, vector_load(line, W))
            c, d = vector_add(c, vector_load(line, 2 * W)), vector_add(d, vector_load(line, 3 * W))
            e, f = vector_add(e, vector_load(line, 4 * W)), vector_add(f, vector_load(line, 5 * W))
            g, h = vector_add(g, vector_load(line, 6 * W)), vector_add(h, vector_load(line, 7 * W))
    vector_store(memory, 0, a)
    vector_store(memory, W, b)
    vector_store(memory, 2 * W, c)
    vector_store(memory, 3 * W, d)
    vector_store(memory, 4 * W, e)
    vector_store(memory, 5 * W, f)
    vector_store(memory, 6 * W, g)
    vector_store(memory, 7 * W, h)


@kernel
def find_groups(op, level, arena, index, scratch, counters, stage):
    """What `haste_runtime.kernels.merged_conv` does first for every patch of a layer: hash (stage HASH), and group too
    (stage GROUP). counters: a row of layout.COUNTERS; KEPT counts groups and single channels, as it does there."""
    for number in range(level[t.TILES_Y] * level[t.TILES_X]):
        place, y0, y1, x0, x1 = patch_window(op, level, number)
        live = hash_window(op, level, arena, index, scratch, at(arena, place), y0, y1, x0, x1)
        if live and stage == GROUP:
            singles, groups = group_patch(op, level, arena, index, scratch, counters)
            counters[t.KEPT] += singles + groups
