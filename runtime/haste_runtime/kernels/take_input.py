"""A frame's way in: from where it was staged, as (C, H, W), into the arena, looked through for NaN and infinity."""

from __future__ import annotations

from haste_runtime.kernels import layout as t
from haste_runtime.kernels.jit import kernel, simd
from haste_runtime.kernels.move import clear_border

at = simd.at
EXPONENT = 0x7F800000  # of a float32: all of its bits are set in NaN and infinity, and in no other number


@kernel
def finite(numbers, count):
    """Whether none of them is NaN or infinity."""
    bits, most = simd.as_ints(numbers), 0
    for i in range(count):
        most = max(most, bits[i] & EXPONENT)
    return most < EXPONENT


@kernel
def take_input(row, staged, arena):
    """Write an input into its map, and zeros around it."""
    if row[t.YBORDER] > 0:
        clear_border(row, arena)
    pixel = row[t.YPIXEL]
    for c in range(row[t.YC]):
        for y in range(row[t.YH]):
            source = at(staged, row[t.X] + (c * row[t.YH] + y) * row[t.YW])
            target = at(arena, row[t.Y] + y * row[t.YROW] + c)
            for x in range(row[t.YW]):
                target[x * pixel] = source[x]


@kernel
def take_inputs(inputs, count, staged, arena):
    """All of them, or none if one holds NaN or infinity: returns its number from 1 on, else 0."""
    for i in range(count):
        row = at(inputs, i * t.COLUMNS)
        if not finite(at(staged, row[t.X]), row[t.YC] * row[t.YH] * row[t.YW]):
            return i + 1
    for i in range(count):
        take_input(at(inputs, i * t.COLUMNS), staged, arena)
    return 0
