"""How strongly a layer may merge: the settings of each policy that planning tries, from weakest to strongest."""

from __future__ import annotations

from dataclasses import dataclass

from haste_runtime.affine import block_projection
from haste_runtime.geometry import ConvGeometry
from haste_runtime.plan import BUDGETED, UNHASHED

BITS = (16, 14, 12, 10, 8, 6, 4, 2)  # with more than 16, hardly a channel finds another of equal code
BUDGETS = (0.03, 0.06, 0.12, 0.22, 0.4, 0.75, 1.4, 3.0)
MORE_BITS = 2  # than a number for each channel takes


@dataclass(frozen=True)
class Setting:
    """bits: rows of the projection in use. budget: the error a patch may make, for policies that have one."""

    bits: int
    budget: float = 0.0


def settings(policy: str, geometry: ConvGeometry, patch: int) -> tuple[Setting, ...]:
    """All settings of a layer on patches of some size.

    By equal codes, the bits say how alike channels must be. A budget only needs to know who is near, and a few bits
    more than it takes to number the channels tell that: 6 for 16 channels, 11 for 512.
    """
    if policy not in BUDGETED:
        return tuple(Setting(bits) for bits in BITS)
    if policy in UNHASHED:
        bits = 0
    elif policy == "affine":
        bits = len(block_projection(geometry.patch_side(patch)))
    else:
        bits = (geometry.channels_in - 1).bit_length() + MORE_BITS
    return tuple(Setting(bits, budget) for budget in BUDGETS)
