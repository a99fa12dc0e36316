"""Which channels of a patch look alike, in torch: the hash of `haste_runtime.hashing` on batches, on any device.

On one layer input the integer hash gives the same codes as there, bit for bit. C are the channels, d = n * n the pixels
of a patch, L the bits of a code; leading dimensions are free.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.nn import functional as F

from haste_runtime.errors import InputError
from haste_runtime.hashing import DEAD, DEAD_CODE, MAX_BITS

HASHES = ("integer", "float")  # the decisions every backend reproduces; the textbook's, for studies


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
    at most 127 * d (`exact_float`).
    """
    _check_bits(bits, projection)
    channels, d = q.shape[-2:]
    exact = exact_float(127 * d)
    with no_autocast(q):
        sums = q.to(exact) @ projection[:bits].to(exact).T
    sums = sums.to(torch.int32 if 127 * d * channels < 2**31 else torch.int64)
    return _pack(sums * channels > sums.sum(-2, keepdim=True, dtype=sums.dtype))


def float_codes(patches: Tensor, projection: Tensor, bits: int) -> Tensor:
    """The textbook hash of patches (..., C, d): bit l = [<x_c - mean over channels, v_l> > 0] in float32.

    For studies: its last bits depend on the order of summation, so it differs between machines. No patch is dead.
    """
    _check_bits(bits, projection)
    patches = patches.detach().to(torch.float32)
    with no_autocast(patches):
        centred = patches - patches.mean(-2, keepdim=True)
        return _pack(centred @ projection[:bits].to(torch.float32).T > 0)


def prefix(codes: Tensor, bits: int) -> Tensor:
    """The codes that the first ``bits`` rows alone would have given; dead patches stay marked. Codes nest."""
    return torch.where(codes < 0, codes, codes & ((1 << bits) - 1))


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


def exact_float(bound: int) -> torch.dtype:
    """The narrowest floating type in which sums of integers are exact in any order, if none of them exceeds ``bound``.

    Below 2^24 (for doubles 2^53) every integer is representable. Reduced-precision modes of matrix units (TF32,
    bfloat16) round the *factors* of a product only, and keep -127..127 as they are.
    """
    return torch.float32 if bound < 2**24 else torch.float64


def no_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Autocast would turn products of integers into half precision, whose integers end at 2048."""
    device = x.device.type
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def _check_bits(bits: int, projection: Tensor) -> None:
    if not 1 <= bits <= min(MAX_BITS, len(projection)):
        raise ValueError(f"{bits} bits asked of a projection with {len(projection)} rows (and at most {MAX_BITS})")


def _pack(bits: Tensor) -> Tensor:
    """bool (..., L) -> int32 (...); bit l has the value 2^l."""
    values = torch.arange(bits.shape[-1], dtype=torch.int32, device=bits.device)
    return (bits.to(torch.int32) << values).sum(-1, dtype=torch.int32)
