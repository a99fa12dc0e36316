"""The hash families of a study: codes of patches, and groups cut from codes at any number of groups."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from haste_edge import method
from haste_edge.hashing import exact_float
from haste_edge.plan.measure import layer_seed
from haste_runtime.geometry import ConvGeometry
from haste_runtime.hashing import DEAD_CODE
from haste_runtime.projection import draw


def projection(family: str, seed: int, node: str, geometry: ConvGeometry, m: int, bits: int, sparsity: float) -> Tensor:
    """The matrix (bits, n * n) of a layer: ternary int8, for the family "gaussian" float32.

    Fewer bits of the same seed are a prefix of more.
    """
    own, side = layer_seed(seed, node, m), geometry.patch_side(m)
    if family == "gaussian":
        rng = np.random.Generator(np.random.PCG64(own))
        return torch.from_numpy(rng.standard_normal((bits, side * side), np.float32))
    return torch.from_numpy(draw(own, bits, side, sparsity))


def codes(family: str, patches: Tensor, q: Tensor, live: Tensor, matrix: Tensor, bits: int) -> Tensor:
    """Codes (M, C) int32 of patches (M, C, d), by the first ``bits`` rows of the family's matrix.

    q, live: of `haste_edge.method.quantise`. All channels of a dead patch have the code -1, but in the family "float",
    which has no such notion.
    """
    if family == "float":
        return method.float_codes(patches, matrix, bits)
    if family == "integer":
        found = method.codes(q, matrix, bits)
    else:
        kind = torch.float32 if family == "gaussian" else exact_float(127 * q.shape[-1])
        sums = q.to(kind) @ matrix[:bits].to(kind).T
        above = sums > (sums.mean(1, keepdim=True) if family == "gaussian" else 0)
        found = (above.int() << torch.arange(bits, dtype=torch.int32)).sum(-1, dtype=torch.int32)
    return found.masked_fill_(~live[:, None], DEAD_CODE)


def cut(codes: Tensor, bits: int, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Leaders (M, C) of exactly ``kept`` (M,) groups a patch from codes (M, C), and the bits that were looked at (M,).

    The bits part the channels one after the other. The bit that would give too many groups parts the groups with the
    lowest second parts only; where all bits give too few, single channels leave their groups, the lowest first. With
    as many groups as the codes have on some number of bits, the groups are those of equal codes on that many.
    """
    channels = codes.shape[1]
    leaders = torch.zeros(codes.shape, dtype=torch.int64)
    count = torch.ones(len(codes), dtype=torch.int64)
    used = torch.zeros(len(codes), dtype=torch.int64)
    for bit in range(bits):
        short = count < kept
        if not bool(short.any()):
            break
        used += short
        finer = method.group_by_mean((2 * leaders + ((codes >> bit) & 1)).int()).leaders
        leaders, count = _part(leaders, finer, kept, count)
    leaders, _ = _part(leaders, torch.arange(channels).expand_as(leaders), kept, count)
    return leaders, used


def _part(leaders: Tensor, finer: Tensor, kept: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Groups and their number after those leaders of the ``finer`` groups that are new and still wanted have their own
    group; channels of other new groups stay where they are."""
    own = torch.arange(leaders.shape[1])
    new = (finer == own) & (leaders != own)
    accepted = new & (new.cumsum(1) <= (kept - count)[:, None])
    moves = accepted.gather(1, finer)
    return torch.where(moves, finer, leaders), count + accepted.sum(1)
