"""How strongly a layer may merge: the settings of each policy that planning tries, from weakest to strongest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

BITS = 16  # L_max: rows of every projection; with more, hardly a channel finds another of equal code


@dataclass(frozen=True)
class Setting:
    """bits: rows of the projection in use. budget: the error a patch may make, for the policy "budget"."""

    bits: int
    budget: float = 0.0


SETTINGS: Mapping[str, tuple[Setting, ...]] = {
    "mean": tuple(Setting(bits) for bits in (16, 14, 12, 10, 8, 6, 4, 2)),
    "scaled": tuple(Setting(bits) for bits in (16, 14, 12, 10, 8, 6, 4, 2)),
    "budget": tuple(Setting(BITS, budget) for budget in (0.03, 0.06, 0.12, 0.22, 0.4, 0.75, 1.4, 3.0)),
}
