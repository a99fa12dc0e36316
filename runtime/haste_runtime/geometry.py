"""The shape of a convolution, and where its tiles and patches lie.

The *output* is tiled in squares of m x m pixels; a *patch* is the part of the zero-padded input that one tile sees
(design: the method, section 1, step 1). Edge tiles have fewer real pixels, but their patches keep the full size, so
that one projection fits all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from haste_runtime.graph import Node, Shape
from haste_runtime.record import record


class Tile(NamedTuple):
    """One tile of the output: its place in the grid of tiles, and its *real* size in output pixels."""

    ty: int
    tx: int
    height: int
    width: int


@record(frozen=True)
class ConvGeometry:
    """Everything about a convolution but its numbers. Pairs are (vertical, horizontal).

    channels_in C, channels_out O; out is the output map (H', W'); padding is (top, left, bottom, right).
    """

    channels_in: int
    channels_out: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int, int, int]
    groups: int
    out: tuple[int, int]

    @classmethod
    def from_node(cls, node: Node, input_shape: Sequence[int], weight_shape: Sequence[int]) -> ConvGeometry:
        """Of a ``conv`` node, its input's shape (C, H, W) and its weight's shape (O, C / groups, Kh, Kw)."""
        channels_in, height, width = input_shape
        channels_out, _, ky, kx = weight_shape
        (sy, sx), (dy, dx) = node.attributes["stride"], node.attributes["dilation"]
        top, left, bottom, right = node.attributes["padding"]
        return cls(
            channels_in=channels_in,
            channels_out=channels_out,
            kernel=(ky, kx),
            stride=(sy, sx),
            dilation=(dy, dx),
            padding=(top, left, bottom, right),
            groups=node.attributes["groups"],
            out=(
                output_size(height + top + bottom, ky, sy, dy),
                output_size(width + left + right, kx, sx, dx),
            ),
        )

    @property
    def output_shape(self) -> Shape:
        """(O, H', W')"""
        return (self.channels_out, *self.out)

    @property
    def square(self) -> bool:
        """Whether kernel, stride and dilation are the same in both directions, as merging needs it."""
        return all(a == b for a, b in (self.kernel, self.stride, self.dilation))

    def patch_side(self, m: int) -> int:
        """n, the side in input pixels of the patch that an m x m tile sees. Raises ValueError if not `square`."""
        if not self.square:
            raise ValueError("patches need the same kernel, stride and dilation in both directions")
        return (m - 1) * self.stride[0] + (self.kernel[0] - 1) * self.dilation[0] + 1

    def grid(self, m: int) -> tuple[int, int]:
        """How many tiles there are, (rows, columns)."""
        return -(-self.out[0] // m), -(-self.out[1] // m)

    def middle(self, m: int) -> int:
        """The number of the tile in the middle, the one that is looked at first (`haste_runtime.plan.Variant`)."""
        rows, columns = self.grid(m)
        return rows // 2 * columns + columns // 2

    def tiles(self, m: int) -> list[Tile]:
        """All tiles, row by row. Tile (ty, tx) begins at output pixel (ty * m, tx * m).

        Its patch begins at input pixel (ty * m * stride - top, tx * m * stride - left), and whatever of it lies outside
        the map is zero, be it in the padding or beyond it.
        """
        rows, columns = self.grid(m)
        height, width = self.out
        return [
            Tile(ty, tx, min(m, height - ty * m), min(m, width - tx * m)) for ty in range(rows) for tx in range(columns)
        ]


def output_size(padded: int, kernel: int, stride: int, dilation: int = 1) -> int:
    """How many places a kernel finds along one side of a map, padding included (the floor rule); may be 0 or less."""
    return (padded - dilation * (kernel - 1) - 1) // stride + 1
