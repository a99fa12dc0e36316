"""Convolution of so many input channels that the filters of one block of outputs do not stay in the cache.

Input channels are taken in parts: a part's filters stay in the cache while a strip of pixels passes over them, and the
strip's sums wait in scratch for the next part. Each output element is the same chain of fused multiply-adds in the same
order as by `haste_runtime.kernels.dense_conv`.
"""

from __future__ import annotations

import numpy as np

from haste_runtime.kernels import layout as t
from haste_runtime.kernels.deep_conv import add_stored, begin_totals, finish_totals
from haste_runtime.kernels.dense_conv import list_pixels
from haste_runtime.kernels.jit import kernel, simd
from haste_runtime.kernels.layout import ROWS

at, as_ints = simd.at, simd.as_ints
W = simd.W


@kernel
def add_parts(op, packed, index, source, block, where):
    """Multiply-add all input channels into the sums of one block. where: see `add_entries`."""
    one, taps, ranges, inner = np.int64(1), op[t.KY] * op[t.KX], where[5], where[1]
    channels = at(index, op[t.CHANNELS])  # 0, 1, 2 ... and behind it each channel's filter offset
    nothing = (np.int64(0), source, np.int64(0), inner, source, np.int64(0))  # is merged
    for c in range(0, op[t.XC], op[t.PART]):
        some = min(op[t.PART], op[t.XC] - c)
        for i in range((where[0] + ROWS - 1) // ROWS):
            ranges[2 * i], ranges[2 * i + 1] = 0, some * taps
        first = block * op[t.BLOCK_STEP] + c * op[t.CHANNEL_STEP]
        filters = at(packed, op[t.WEIGHT] + (first >> op[t.STORED]))
        parts = (at(source, c), at(index, op[t.TAPS]), one, channels, at(channels, op[t.XC]), nothing)
        add_stored(op[t.STORED], filters, (op[t.VECTORS], one, taps, where, parts))


@kernel
def parted_conv(op, arena, packed, index, scratch, worker, workers):
    """act(conv(x) + bias + residual), any kernel, stride and dilation, one group. Workers share out (strip, block)
    pairs."""
    pixels, strip = op[t.YH] * op[t.YW], op[t.STRIP]
    if workers > 1:  # no strip so long that others have nothing to do
        strip = min(strip, (pixels + workers * ROWS - 1) // (workers * ROWS) * ROWS)
    sources = as_ints(at(arena, scratch + op[t.PIXELS]))
    targets = at(sources, op[t.ROOM])
    residuals = at(targets, op[t.ROOM])
    totals, spill = at(arena, scratch + op[t.TOTALS]), at(arena, scratch + op[t.SPILL])
    ranges = as_ints(at(totals, op[t.STRIP] * op[t.VECTORS] * W))
    source = at(arena, op[t.X] - op[t.PTOP] * op[t.XROW] - op[t.PLEFT] * op[t.XPIXEL])  # in the zero border
    unit = 0
    for first in range(0, pixels, strip):
        count = min(strip, pixels - first)
        listed = False
        for block in range(op[t.BLOCKS]):
            unit += 1
            if unit % workers != worker:
                continue
            if not listed:
                list_pixels(op, first, first + count, sources, targets, residuals)
                listed = True
            bias = at(packed, op[t.BIAS] + block * op[t.VECTORS] * W)
            begin_totals(op[t.VECTORS], bias, 1, count, totals)
            where = (count, sources, sources, totals, np.int64(ROWS), ranges)
            add_parts(op, packed, index, source, block, where)
            finish_totals(op, arena, packed, block, block + 1, count, targets, residuals, totals, spill)
