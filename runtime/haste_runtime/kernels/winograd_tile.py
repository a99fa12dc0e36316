"""Winograd transforms of one tile, W channels in lanes: inputs to the transformed domain, and products back to pixels.

A transform of a tile is one of its columns, then one of its rows, each a chain of fused multiply-adds in one order, so
results are the same on every CPU and for every register width. `haste_runtime.winograd` has the same in numpy.
"""

from __future__ import annotations

import numpy as np

from haste_runtime.kernels.jit import kernel, simd
from haste_runtime.kernels.winograd_points import BOTH2, FAR, FAR2, FAR3, NEAR, NEAR2, NEAR3, SUM2

at = simd.at
load, store, fma, add, fill, scale = (
    simd.vector_load, simd.vector_store, simd.vector_fma, simd.vector_add, simd.vector_fill, simd.vector_scale,
)  # fmt: skip
W = simd.W
A, A2, A3, B, B2, B3 = (np.float32(v) for v in (NEAR, NEAR2, NEAR3, FAR, FAR2, FAR3))
AB2, S2 = np.float32(BOTH2), np.float32(SUM2)
MINUS = np.float32(-1)


@kernel
def input_line4(source, step, target, target_step):
    """Six vectors, one step apart, to their values at F(4)'s points."""
    d0, d1, d2 = load(source, 0), load(source, step), load(source, 2 * step)
    d3, d4, d5 = load(source, 3 * step), load(source, 4 * step), load(source, 5 * step)
    store(target, 0, fma(fma(d4, d0, fill(AB2)), d2, fill(-S2)))
    even, odd = fma(d4, d2, fill(-B2)), fma(d3, d1, fill(-B2))
    store(target, target_step, fma(even, odd, fill(A)))
    store(target, 2 * target_step, fma(even, odd, fill(-A)))
    even, odd = fma(d4, d2, fill(-A2)), fma(d3, d1, fill(-A2))
    store(target, 3 * target_step, fma(even, odd, fill(B)))
    store(target, 4 * target_step, fma(even, odd, fill(-B)))
    store(target, 5 * target_step, fma(fma(d5, d1, fill(AB2)), d3, fill(-S2)))


@kernel
def output_line4(source, step):
    """Six products at F(4)'s points, one step apart, to four outputs."""
    p0, p1, p2 = load(source, 0), load(source, step), load(source, 2 * step)
    p3, p4, p5 = load(source, 3 * step), load(source, 4 * step), load(source, 5 * step)
    near, far = add(p1, p2), add(p3, p4)
    near_odd, far_odd = fma(p1, p2, fill(MINUS)), fma(p3, p4, fill(MINUS))
    return (
        add(add(p0, near), far), fma(scale(near_odd, A), far_odd, fill(B)), fma(scale(near, A2), far, fill(B2)),
        fma(fma(p5, near_odd, fill(A3)), far_odd, fill(B3)),
    )  # fmt: skip


@kernel
def input_line2(source, step, target, target_step):
    """Four vectors, one step apart, to their values at F(2)'s points."""
    d0, d1, d2, d3 = load(source, 0), load(source, step), load(source, 2 * step), load(source, 3 * step)
    store(target, 0, fma(d0, d2, fill(MINUS)))
    store(target, target_step, add(d2, d1))
    store(target, 2 * target_step, fma(d2, d1, fill(MINUS)))
    store(target, 3 * target_step, fma(d3, d1, fill(MINUS)))


@kernel
def output_line2(source, step):
    """Four products at F(2)'s points, one step apart, to two outputs."""
    p0, p1, p2, p3 = load(source, 0), load(source, step), load(source, 2 * step), load(source, 3 * step)
    return add(add(p0, p1), p2), add(fma(p1, p2, fill(MINUS)), p3)


@kernel
def transform_input(side, source, row, pixel, lines, target, step):
    """W channels of one tile of side + 2 pixels squared, rows and pixels ``row`` and ``pixel`` floats apart; position
    (i, j) goes to target[(i * (side + 2) + j) * step]. lines: scratch for as many vectors as there are positions."""
    if side == 4:
        for j in range(6):
            input_line4(at(source, j * pixel), row, at(lines, j * W), 6 * W)
        for i in range(6):
            input_line4(at(lines, i * 6 * W), W, at(target, i * 6 * step), step)
    else:
        for j in range(4):
            input_line2(at(source, j * pixel), row, at(lines, j * W), 4 * W)
        for i in range(4):
            input_line2(at(lines, i * 4 * W), W, at(target, i * 4 * step), step)


@kernel
def output_columns(side, source, step, lines):
    """The first half of the inverse for W output channels: position (i, j) lies at source[(i * (side + 2) + j) * step],
    ``lines`` gets ``side`` rows of side + 2 vectors, which the output lines turn into pixels."""
    if side == 4:
        for j in range(6):
            a, b, c, d = output_line4(at(source, j * step), 6 * step)
            store(lines, j * W, a)
            store(lines, (6 + j) * W, b)
            store(lines, (12 + j) * W, c)
            store(lines, (18 + j) * W, d)
    else:
        for j in range(4):
            a, b = output_line2(at(source, j * step), 4 * step)
            store(lines, j * W, a)
            store(lines, (4 + j) * W, b)


@kernel
def copy_edge(side, x, row, pixel, y, height, column, width, channel, target):
    """A tile that reaches over the map's edge, W channels, zero outside: rows of side + 2 vectors.

    x: the map's first pixel; y, column: the tile's first pixel in the map of ``height`` by ``width``.
    """
    for i in range(side + 2):
        for j in range(side + 2):
            if 0 <= y + i < height and 0 <= column + j < width:
                value = load(x, (y + i) * row + (column + j) * pixel + channel)
            else:
                value = fill(np.float32(0))
            store(target, (i * (side + 2) + j) * W, value)
