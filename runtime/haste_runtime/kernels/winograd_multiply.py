"""The multiplications of Winograd's algorithm: at each position a small matrix product, tiles by output channels.

An entry is, as in `haste_runtime.kernels.tile_conv`, one input plane with one filter, here with a single number of
each per tile and output channel. Each product is one chain of fused multiply-adds over the entries in their order.
"""

from __future__ import annotations

from haste_runtime.kernels.jit import kernel, simd
from haste_runtime.kernels.lanes import widest
from haste_runtime.kernels.layout import ROWS, UNROLLED

at, tile_repeat, tile_pixels, tile_fma, tile_store = (
    simd.at, simd.tile_repeat, simd.tile_pixels, simd.tile_fma, simd.tile_store,
)  # fmt: skip
tile_fma_run, tile_fma_next, tile_prefetch, tile_width = (
    simd.tile_fma_run, simd.tile_fma_next, simd.tile_prefetch, simd.tile_width,
)  # fmt: skip
WIDEST = widest(simd.W)
AHEAD = 128  # entries: how far ahead of its use a filter row is asked for


@kernel
def multiply_tile(tile, sources, targets, entries, target):
    """Add all entries up in registers, starting at ``tile``, and store them. entries: see `multiply`."""
    source, channels, singles, inputs, weights, packed, groups, filters = entries
    width, w = tile_width(tile), packed
    if channels > 0:
        pixels, whole = tile_pixels(tile, source, sources), channels - channels % UNROLLED
        for k in range(0, whole, UNROLLED):
            for i in range(UNROLLED):
                tile_prefetch(tile, w, (AHEAD + i) * width)
            tile = tile_fma_run(tile, pixels, k, w)
            w = at(w, UNROLLED * width)
        for k in range(whole, channels):
            tile = tile_fma(tile, pixels, k, w)
            w = at(w, width)
    else:
        pixel = at(source, sources[0])
        for k in range(singles):
            w = at(packed, weights[k])
            tile_prefetch(tile, w, AHEAD * width)
            tile = tile_fma_next(tile, pixel, inputs[k], w)
        w = filters
        for k in range(singles, singles + groups):
            tile = tile_fma_next(tile, pixel, inputs[k], w)
            w = at(w, width)
    tile_store(tile, target, targets)


@kernel
def multiply_tiles(row, tiles, sources, targets, entries, target):
    """Register tiles of up to ROWS Winograd tiles each; ``row`` is a row of zeros."""
    for first in range(0, tiles, ROWS):
        rows, a, b = min(ROWS, tiles - first), at(sources, first), at(targets, first)
        if rows == 6:
            multiply_tile(tile_repeat(row, 6), a, b, entries, target)
        elif rows == 5:
            multiply_tile(tile_repeat(row, 5), a, b, entries, target)
        elif rows == 4:
            multiply_tile(tile_repeat(row, 4), a, b, entries, target)
        elif rows == 3:
            multiply_tile(tile_repeat(row, 3), a, b, entries, target)
        elif rows == 2:
            multiply_tile(tile_repeat(row, 2), a, b, entries, target)
        else:
            multiply_tile(row, a, b, entries, target)


@kernel
def multiply(vectors, zeros, tiles, sources, targets, entries, target):
    """One position and one block of ``vectors`` * W output channels.

    target[targets[i]...] = sum over entries k of pixel k of tile i * filter k, for i < ``tiles``. zeros: that many
    zeros as a block has channels. entries: (source, channels, singles, inputs, weights, packed, groups, filters).
    With ``channels``, all of these are entries, from source[sources[i]] and from ``packed`` on. Without, the tiles'
    pixels follow each other: they are source[i + inputs[k]]; of the first ``singles`` entries the filters are
    packed[weights[k]...], of the ``groups`` others they lie in a row in ``filters``.
    """
    if vectors == 1:
        multiply_tiles(simd.tile_bias(1, zeros, 0), tiles, sources, targets, entries, target)
    elif vectors == 2:
        multiply_tiles(simd.tile_bias(2, zeros, 0), tiles, sources, targets, entries, target)
    elif WIDEST == 4:
        multiply_tiles(simd.tile_bias(4, zeros, 0), tiles, sources, targets, entries, target)
