"""Dense convolution of one map, read in place: the zero border of the map serves as padding."""

from __future__ import annotations

import numpy as np

from haste_runtime.kernels import layout as t
from haste_runtime.kernels.jit import kernel, simd
from haste_runtime.kernels.layout import ROWS, UNROLLED
from haste_runtime.kernels.tile_conv import conv_stored

at, as_ints = simd.at, simd.as_ints
W = simd.W
AHEAD = 18  # filter rows of float32: how far ahead of their use they are asked for


@kernel
def list_pixels(op, first, last, sources, targets, residuals):
    """Offsets of output pixels first..last-1 (row by row) into input, output and residual (-1 where there is none)."""
    width = op[t.YW]
    row = first // width
    column = first - row * width
    for i in range(last - first):
        sources[i] = row * op[t.SY] * op[t.XROW] + column * op[t.SX] * op[t.XPIXEL]
        targets[i] = row * op[t.YROW] + column * op[t.YPIXEL]
        residuals[i] = row * op[t.RROW] + column * op[t.RPIXEL] if op[t.R] >= 0 else -1
        column += 1
        if column == width:
            column = 0
            row += 1


@kernel
def block_scales(op, packed, channel, channels):
    """What `conv_block` needs of a block that begins at ``channel`` of the layer's padded ``channels``."""
    scale = at(packed, max(op[t.SCALE], 0) + channel)
    return op[t.SCALE] >= 0, scale, at(scale, channels)


@kernel
def dense_conv(op, arena, packed, index, scratch, worker, workers):
    """act(conv(x) + bias + residual), any kernel, stride, dilation and groups.

    A strip of pixels is chosen so that its input stays in the second-level cache while all filters pass over it.
    Workers share out (strip, group, block) triples. All channels are the taps of one entry: that makes the inner loop
    long, and the order of sums is the same.
    """
    pixels, width = op[t.YH] * op[t.YW], op[t.VECTORS] * W
    taps, strip = op[t.GROUP_IN] * op[t.KY] * op[t.KX], op[t.STRIP]
    block_size = op[t.BLOCK_STEP] >> op[t.STORED]  # in float32
    if workers > 1:  # no strip so long that others have nothing to do
        strip = min(strip, (pixels + workers * ROWS - 1) // (workers * ROWS) * ROWS)
    sources = as_ints(at(arena, scratch + op[t.PIXELS]))
    targets = at(sources, op[t.ROOM])
    residuals = at(targets, op[t.ROOM])
    spill = at(arena, scratch + op[t.SPILL])
    channels = at(index, op[t.CHANNELS])  # 0, 1, 2 ... and behind it each channel's filter offset
    filters = at(channels, op[t.GROUP_IN])
    source = at(arena, op[t.X] - op[t.PTOP] * op[t.XROW] - op[t.PLEFT] * op[t.XPIXEL])  # in the zero border
    residual = at(arena, max(op[t.R], 0))
    padded = op[t.GROUPS] * op[t.BLOCKS] * width
    ahead = max(1, (AHEAD << op[t.STORED]) // (op[t.KY] * op[t.KX]))
    one, nothing = np.int64(1), (np.int64(0), source, np.int64(0), sources, spill, np.int64(0))  # is merged
    # of one tap each, they lie in a row
    row = op[t.GROUP_IN] - op[t.GROUP_IN] % UNROLLED if op[t.KY] * op[t.KX] == 1 else np.int64(0)
    unit = 0
    for first in range(0, pixels, strip):
        last = min(first + strip, pixels)
        listed = False
        for group in range(op[t.GROUPS]):
            for block in range(op[t.BLOCKS]):
                unit += 1
                if unit % workers != worker:
                    continue
                if not listed:
                    list_pixels(op, first, last, sources, targets, residuals)
                    listed = True
                number = group * op[t.BLOCKS] + block
                channel = group * op[t.GROUP_OUT] + block * width
                scales = block_scales(op, packed, number * width, padded)
                conv_stored(op[t.STORED], at(packed, op[t.WEIGHT] + number * block_size), (
                    op[t.VECTORS], at(packed, op[t.BIAS] + number * width), scales,
                    (last - first, sources, sources, targets, residuals), taps, at(source, group * op[t.GROUP_IN]),
                    at(index, op[t.TAPS]), row, one, channels, filters, min(ahead, op[t.GROUP_IN] - 1), nothing,
                    min(width, op[t.GROUP_OUT] - block * width), op[t.ACTIVATION],
                    at(residual, channel), at(arena, op[t.Y] + channel), spill,
                ))  # fmt: skip
