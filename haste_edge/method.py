"""The method in torch: hash the channels of every patch, group them, convolve the groups' means (paper, section 3).

Pure functions on batches, on any device; nothing here knows of models. They are what `haste_edge.apply` runs and what
planning measures with. The definition they follow is `haste_runtime.hashing`: on one layer input the integer hash gives
the same codes here, bit for bit. N is the batch, P the patches of a frame (one a tile, row by row, as
`ConvGeometry.tiles` lists them), C the channels, d = n * n the pixels of a patch, L the bits of a code.

A merged convolution is simulated: every channel is replaced by the mean of its group, and the *original* filters are
applied. By distributivity that is the same sum as convolving the K_p means with the K_p summed filters, without a
kernel of its own; what the merged kernel would have cost is counted in `LayerCounts`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from haste_runtime.errors import InputError
from haste_runtime.flops import LayerCounts
from haste_runtime.geometry import ConvGeometry
from haste_runtime.hashing import DEAD, DEAD_CODE, MAX_BITS

HASHES = ("integer", "float")  # the decisions every backend reproduces; the textbook's, for studies
CHUNK_BYTES = 64 << 20  # patches held at a time; with its intermediate results a chunk takes about four times as much


class Groups(NamedTuple):
    """Which channels of which patch share a code, for M patches of C channels.

    ids: int64 (M * C,), the group of each channel; groups are numbered through all patches. sizes: int64 (G,).
    kept, merged: int64 (M,), per patch the groups, and the channels in groups of two or more; 0 where it is dead.
    """

    ids: Tensor
    sizes: Tensor
    kept: Tensor
    merged: Tensor


def extract_patches(x: Tensor, geometry: ConvGeometry, m: int) -> Tensor:
    """All patches of a batch: (N, C, H, W) -> (N, P, C, n * n), zero wherever a patch leaves the map."""
    n = geometry.patch_side(m)
    return _windows(x, geometry, m, (n, n)).flatten(4).flatten(1, 2)


def quantise(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Patches (..., C, d) as whole numbers -127..127 of each patch's largest |x|, and which patches are live (...,).

    q is float32 that holds integers. All in single precision as the definition demands: one true division (torch's
    ``127 / tensor`` multiplies by a reciprocal instead), one product, ties to even. Denormals flushed to zero change
    nothing: inv is at most 127 * 2^100, so they become 0 either way. Raises InputError where a patch holds NaN or
    infinity.
    """
    patches = patches.detach().to(torch.float32)
    largest = patches.abs().amax((-2, -1))
    if not bool(torch.isfinite(largest).all()):
        raise InputError("The input of a merged convolution holds NaN or infinity.", "Look for it at level 0.")
    live = largest >= float(DEAD)
    inverse = torch.full_like(largest, 127.0) / torch.where(live, largest, 1.0)
    q = (patches * inverse[..., None, None]).round_()
    return q.masked_fill_(~live[..., None, None], 0.0), live


def codes(q: Tensor, projection: Tensor, bits: int) -> Tensor:
    """Codes (..., C) int32 of quantised patches (..., C, d) on the first ``bits`` rows of a ternary matrix (L, d).

    Bit l = [C * s_c > sum over j of s_j] with s = <q, v_l>: the patch's mean is taken off after projecting.
    The floating-point product is exact: every partial sum, in whatever order and with or without FMA, is an integer of
    at most 127 * d, and below 2^24 (for doubles 2^53) all integers are representable. Reduced-precision modes of
    matrix units (TF32, bfloat16) round the *factors*, and keep -127..127 and -1, 0, 1 as they are.
    """
    _check_bits(bits, projection)
    channels, d = q.shape[-2:]
    exact = torch.float32 if 127 * d < 2**24 else torch.float64
    with _no_autocast(q):
        sums = q.to(exact) @ projection[:bits].to(exact).T
    sums = sums.to(torch.int32 if 127 * d * channels < 2**31 else torch.int64)
    return _pack(sums * channels > sums.sum(-2, keepdim=True, dtype=sums.dtype))


def float_codes(patches: Tensor, projection: Tensor, bits: int) -> Tensor:
    """The textbook hash of patches (..., C, d): bit l = [<x_c - mean over channels, v_l> > 0] in float32.

    For studies: its last bits depend on the order of summation, so it differs between machines. No patch is dead.
    """
    _check_bits(bits, projection)
    patches = patches.detach().to(torch.float32)
    with _no_autocast(patches):
        centred = patches - patches.mean(-2, keepdim=True)
        return _pack(centred @ projection[:bits].to(torch.float32).T > 0)


def prefix(codes: Tensor, bits: int) -> Tensor:
    """The codes that the first ``bits`` rows alone would have given; dead patches stay marked. Codes nest."""
    return torch.where(codes < 0, codes, codes & ((1 << bits) - 1))


def layer_codes(
    x: Tensor,
    geometry: ConvGeometry,
    m: int,
    projection: Tensor,
    bits: int,
    hash: str = "integer",
    chunk_bytes: int = CHUNK_BYTES,
) -> Tensor:
    """The codes (N, P, C) int32 of a layer's input (N, C, H, W), -1 throughout a dead patch.

    projection: int8 (L, n * n). hash: "integer", or "float" for the textbook's. Raises InputError for NaN or infinity.
    """
    if hash not in HASHES:
        raise ValueError(f"hash must be one of {HASHES}, not {hash!r}")
    n = geometry.patch_side(m)
    rows, columns = geometry.grid(m)
    top, left, _, _ = geometry.padding
    # With one row of tiles, whatever of the patch lies below the map is zero in all of them and adds nothing: leave it.
    height = n if rows > 1 else min(n, top + x.shape[2])
    width = n if columns > 1 else min(n, left + x.shape[3])
    projection = projection.to(x.device).view(-1, n, n)[:, :height, :width].flatten(1)
    found = []
    for images, _, block in _chunks(x.detach(), geometry, m, (height, width), chunk_bytes):
        patches = block.flatten(2)
        if hash == "float":
            c = float_codes(patches, projection, bits)
        else:
            q, live = quantise(patches)
            c = codes(q, projection, bits).masked_fill_(~live[:, None], DEAD_CODE)
        found.append(c.view(images, -1, geometry.channels_in))
    return _assemble(found, x.shape[0], dim=1)


def group(codes: Tensor) -> Groups:
    """The groups of equal codes in each of M patches, codes (M, C)."""
    patches, channels = codes.shape
    ordered, order = codes.sort(dim=1)
    first = torch.ones_like(ordered, dtype=torch.bool)  # whether a group begins here, in the order of the codes
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    numbers = first.flatten().cumsum(0) - 1
    ids = (
        torch.empty_like(numbers).view(patches, channels).scatter_(1, order, numbers.view(patches, channels)).flatten()
    )
    sizes = torch.bincount(ids)
    live = codes[:, 0] != DEAD_CODE
    kept = first.sum(1) * live
    merged = (sizes[ids] > 1).view(patches, channels).sum(1) * live
    return Groups(ids, sizes, kept, merged)


def group_means(patches: Tensor, codes: Tensor) -> tuple[Tensor, Groups]:
    """Patches (M, C, ...) with every channel replaced by the mean of the channels that share its code (M, C).

    A dead patch becomes zero. Sums run in channel order and are multiplied by float32(1) / count, as in the
    definition; half-precision input is summed in float32. Differentiable in the patches. Also returns the groups.
    """
    groups = group(codes)
    rows = patches.reshape(codes.numel(), -1)
    if rows.dtype in (torch.float16, torch.bfloat16):
        rows = rows.float()
    sums = rows.new_zeros(len(groups.sizes), rows.shape[1]).index_add(0, groups.ids, rows)
    means = sums * groups.sizes.to(rows.dtype).reciprocal()[:, None]
    dead = (codes == DEAD_CODE).view(-1, 1)
    replaced = means.index_select(0, groups.ids).masked_fill(dead, 0.0)
    return replaced.view(patches.shape).to(patches.dtype), groups


def convolve_groups(
    x: Tensor,
    codes: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: ConvGeometry,
    m: int,
    chunk_bytes: int = CHUNK_BYTES,
) -> tuple[Tensor, LayerCounts]:
    """The merged convolution of (N, C, H, W) for given codes (N, P, C): (N, O, H', W') and what was merged, summed.

    weight: (O, C, K, K). bias: (O,) or None. One map may be convolved for several prefixes of the same codes.
    """
    columns = geometry.grid(m)[1]
    tile = (min(m, geometry.out[0]), min(m, geometry.out[1]))  # a map smaller than a tile isn't computed beyond its end
    reach = (geometry.kernel[0] - 1) * geometry.dilation[0] + 1
    side = ((tile[0] - 1) * geometry.stride[0] + reach, (tile[1] - 1) * geometry.stride[1] + reach)
    pixels = _pixels(geometry, m).to(x.device)
    counts = LayerCounts(0, 0, 0, 0)
    outputs, done = [], 0
    flat = codes.reshape(-1, codes.shape[-1])
    for images, tile_rows, block in _chunks(x, geometry, m, side, chunk_bytes):
        replaced, groups = group_means(block, flat[done : done + len(block)])
        real = pixels[done % len(pixels) :][: tile_rows * columns].repeat(images)
        total = torch.stack([groups.kept.sum(), groups.merged.sum(), (groups.kept * real).sum()]).tolist()
        counts += LayerCounts(len(block), *total)
        done += len(block)
        y = F.conv2d(replaced, weight, bias, geometry.stride, 0, geometry.dilation)
        y = y.view(images, tile_rows, columns, -1, *tile).permute(0, 3, 1, 4, 2, 5)
        outputs.append(y.reshape(images, -1, tile_rows * tile[0], columns * tile[1]))
    y = _assemble(outputs, x.shape[0], dim=2)
    return y[:, :, : geometry.out[0], : geometry.out[1]].contiguous(), counts


def merged_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: ConvGeometry,
    m: int,
    projection: Tensor,
    bits: int,
    hash: str = "integer",
    chunk_bytes: int = CHUNK_BYTES,
) -> tuple[Tensor, LayerCounts, Tensor]:
    """One layer of the paper: hash, group, merge, convolve. Returns convolution + bias, counts, codes (N, P, C).

    x: (N, C, H, W), N >= 1, any floating type (hashed in float32). weight: (O, C, K, K), bias: (O,) or None.
    m: side of the output tiles. projection: int8 (L, n * n), of which the first ``bits`` rows are used.
    chunk_bytes: patches held in memory at a time. Raises InputError for NaN or infinity in x.
    """
    found = layer_codes(x, geometry, m, projection, bits, hash, chunk_bytes)
    y, counts = convolve_groups(x, found, weight, bias, geometry, m, chunk_bytes)
    return y, counts, found


def kept_per_bits(codes: Tensor, max_bits: int) -> tuple[Tensor, Tensor]:
    """For every prefix length 0..max_bits of codes (..., C): groups, and channels in groups of two or more.

    Both int64 (max_bits + 1, ...), 0 where a patch is dead. With no bits at all a live patch is one group.
    """
    backwards = torch.zeros_like(codes)  # bit 0 made the most significant, so that sorting keeps every prefix together
    for bit in range(max_bits):
        backwards |= ((codes >> bit) & 1) << (max_bits - 1 - bit)
    ordered = backwards.sort(-1).values
    differ = ordered[..., 1:] ^ ordered[..., :-1]
    live = codes[..., 0] != DEAD_CODE
    kept, merged = [], []
    for bits in range(max_bits + 1):
        parted = F.pad(differ >> (max_bits - bits) != 0, (1, 1), value=True)  # borders between groups, ends included
        alone = parted[..., 1:] & parted[..., :-1]
        kept.append((parted.sum(-1) - 1) * live)
        merged.append((~alone).sum(-1) * live)
    return torch.stack(kept), torch.stack(merged)


def _check_bits(bits: int, projection: Tensor) -> None:
    if not 1 <= bits <= min(MAX_BITS, len(projection)):
        raise ValueError(f"{bits} bits asked of a projection with {len(projection)} rows (and at most {MAX_BITS})")


def _pack(bits: Tensor) -> Tensor:
    """bool (..., L) -> int32 (...); bit l has the value 2^l."""
    values = torch.arange(bits.shape[-1], dtype=torch.int32, device=bits.device)
    return (bits.to(torch.int32) << values).sum(-1, dtype=torch.int32)


def _no_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Autocast would turn the hash's products into half precision, whose integers end at 2048."""
    device = x.device.type
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


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


def _chunks(
    x: Tensor, geometry: ConvGeometry, m: int, side: tuple[int, int], chunk_bytes: int
) -> Iterator[tuple[int, int, Tensor]]:
    """Patches in pieces of bounded size: (images, rows of tiles, patches (M, C, *side)), in the order of (N, P).

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


def _assemble(pieces: list[Tensor], batch: int, dim: int) -> Tensor:
    """Puts the results of `_chunks` together: along ``dim`` until an image is whole, then along the batch."""
    if sum(len(piece) for piece in pieces) == batch:
        return torch.cat(pieces)
    each = len(pieces) // batch  # images were split, so every piece is of one image
    return torch.cat([torch.cat(pieces[i : i + each], dim) for i in range(0, len(pieces), each)])


@lru_cache(maxsize=256)
def _pixels(geometry: ConvGeometry, m: int) -> Tensor:
    """int64 (P,): the real output pixels of each tile."""
    return torch.tensor([tile.height * tile.width for tile in geometry.tiles(m)])
