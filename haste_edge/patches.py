"""The patches of a batch of maps in torch, whole or in pieces of bounded size (design: the method, section 1).

N is the batch, P the patches of a frame: one a tile, row by row, as `ConvGeometry.tiles` lists them.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from haste_runtime.geometry import ConvGeometry

CHUNK_BYTES = 64 << 20  # patches held at a time; with its intermediate results a chunk takes about four times as much


def extract_patches(x: Tensor, geometry: ConvGeometry, m: int) -> Tensor:
    """All patches of a batch: (N, C, H, W) -> (N, P, C, n * n), zero wherever a patch leaves the map."""
    n = geometry.patch_side(m)
    return _windows(x, geometry, m, (n, n)).flatten(4).flatten(1, 2)


def chunks(
    x: Tensor, geometry: ConvGeometry, m: int, side: tuple[int, int], chunk_bytes: int
) -> Iterator[tuple[int, int, Tensor]]:
    """The top left ``side`` pixels of every patch, in pieces of bounded size and in the order of (N, P): images, rows
    of tiles, and patches (M, C, *side).

    A piece is some whole images, or where one image alone is too large, some rows of its tiles.
    """
    windows = _windows(x, geometry, m, side)
    batch, rows = windows.shape[:2]
    row_bytes = windows[0, 0].numel() * x.element_size()
    images = max(1, chunk_bytes // (row_bytes * rows))
    tile_rows = min(rows, max(1, chunk_bytes // row_bytes))
    for image in range(0, batch, images):
        for row in range(0, rows, tile_rows):
            piece = windows[image : image + images, row : row + tile_rows]
            yield piece.shape[0], piece.shape[1], piece.flatten(0, 2)


def assemble(pieces: list[Tensor], batch: int, dim: int) -> Tensor:
    """Puts the results of `chunks` together: along ``dim`` until an image is whole, then along the batch."""
    if sum(len(piece) for piece in pieces) == batch:
        return torch.cat(pieces)
    each = len(pieces) // batch  # images were split, so every piece is of one image
    return torch.cat([torch.cat(pieces[i : i + each], dim) for i in range(0, len(pieces), each)])


def inside_map(x: Tensor, geometry: ConvGeometry, m: int, side: tuple[int, int]) -> Tensor:
    """float32 (P, *side): 1 for those of the top left ``side`` pixels of every patch that lie in a map like x's."""
    ones = torch.ones(1, 1, *x.shape[2:], device=x.device)
    return _windows(ones, geometry, m, side).flatten(0, 3)


def patch_steps(x: Tensor, geometry: ConvGeometry, m: int) -> Tensor:
    """float32 (N * P,): what one step of every quantised patch stands for, its largest |x| / 127."""
    largest = x.detach().float().abs().amax(1, keepdim=True)
    return extract_patches(largest, geometry, m).amax((2, 3)).flatten() / torch.full((), 127.0, device=x.device)


@lru_cache(maxsize=256)
def real_pixels(geometry: ConvGeometry, m: int) -> Tensor:
    """int64 (P,): the real output pixels of each tile."""
    return torch.tensor([tile.height * tile.width for tile in geometry.tiles(m)])


def _windows(x: Tensor, geometry: ConvGeometry, m: int, side: tuple[int, int]) -> Tensor:
    """The top left ``side`` pixels of every patch, as a view (N, rows, columns, C, *side) of the padded map."""
    step = m * geometry.stride[0]
    rows, columns = geometry.grid(m)
    top, left, _, _ = geometry.padding
    # Where the stride leaves pixels over, the last patch ends before the map does, and the padding is negative.
    bottom = (rows - 1) * step + side[0] - top - x.shape[2]
    right = (columns - 1) * step + side[1] - left - x.shape[3]
    padded = F.pad(x, (left, right, top, bottom))
    return padded.unfold(2, side[0], step).unfold(3, side[1], step).permute(0, 2, 3, 1, 4, 5)
