"""One run of a study, and the grid of them: policies and baselines over bits, budgets, patches, hashes and seeds."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from haste_runtime.errors import HasteError
from haste_runtime.hashing import MAX_BITS
from haste_runtime.plan import BUDGETED, POLICIES

HASHES: Mapping[str, str] = {
    "integer": "ternary projections of the quantised patch, centred: what every backend computes",
    "float": "the textbook's: ternary projections of the centred float patch",
    "gaussian": "as integer, with normally distributed projections",
    "uncentred": "as integer, without centring",
}
BASELINES: Mapping[str, str] = {
    "dead": "only dead channels are skipped: what ReLU gives for nothing",
    "random": "channels are thrown together at random",
    "kmeans": "k-means on each patch",
    "gaussian": "normally distributed instead of ternary projections",
    "uncentred": "no centring before hashing",
    "float": "the textbook's float hash instead of the integer one",
    "image": "one grouping for the whole image instead of one per patch",
    "pruned": "the channels with the smallest filters are left out everywhere, on all images",
}
LADDER = "ladder"  # the levels of a compiled bundle


class StudyError(HasteError, ValueError):
    """A study was asked for something that makes no sense, or its results can't be used."""

    exit_code = 2


@dataclass(frozen=True)
class Configuration:
    """One run. What does not apply to a policy has the default, so that equal runs are equal.

    policy: one of `haste_runtime.plan.POLICIES`, a name in `BASELINES`, or "ladder". bits: L, rows of the projection.
    budget: the error a patch may make, for policies with one. patch: tile side m; a layer whose map is smaller has one
    tile of that map. sparsity: share of zeros in the projections. hash: a name in `HASHES`, for the policies; baselines
    have their own. seed: of the projections and of all else that is drawn. bundle, level: for "ladder".

    A baseline has as many groups on every patch as the policy "mean" has at the same bits, patch, sparsity and seed.
    Raises StudyError where a value is out of range.
    """

    policy: str
    bits: int = 0
    budget: float = 0.0
    patch: int = 0
    sparsity: float = 0.0
    hash: str = ""
    seed: int = 0
    bundle: str = ""
    level: int = 0

    def __post_init__(self) -> None:
        if self.policy == LADDER:
            return
        if self.policy not in POLICIES and self.policy not in BASELINES:
            raise StudyError(
                f"There is no policy or baseline {self.policy!r}.", f"Known: {', '.join((*POLICIES, *BASELINES))}."
            )
        if not 1 <= self.patch <= 1024:
            raise StudyError(f"A patch of side {self.patch} makes no sense.", "Give 1 to 1024 output pixels, as in 8.")
        if self.policy == "dead":
            return
        if not 1 <= self.bits <= MAX_BITS:
            raise StudyError(f"Codes of {self.bits} bits make no sense.", f"Give 1 to {MAX_BITS}.")
        if not 0 <= self.sparsity < 1:
            raise StudyError(f"A sparsity of {self.sparsity} makes no sense.", "Give a share of zeros, as in 2/3.")
        if self.seed < 0:
            raise StudyError(f"The seed {self.seed} is negative.", "Give 0 or more.")
        if self.policy in POLICIES and self.hash not in HASHES:
            raise StudyError(f"There is no hash {self.hash!r}.", f"Known: {', '.join(HASHES)}.")
        if self.policy in BUDGETED and not 0 < self.budget <= 1000:
            raise StudyError(
                f"An error budget of {self.budget:g} makes no sense.", "Give a share of the energy, as in 0.1."
            )

    @property
    def baseline(self) -> bool:
        """Whether it groups as many channels as "mean" does, by another rule."""
        return self.policy in BASELINES and self.policy != "dead"

    @property
    def reference(self) -> Configuration:
        """The paper's run that a baseline is compared with."""
        return Configuration("mean", self.bits, 0.0, self.patch, self.sparsity, "integer", self.seed)

    def key(self) -> str:
        """What tells it from all others: one line of JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, value: Any) -> Configuration:
        """The inverse of `dataclasses.asdict`, whatever JSON may hold. Raises StudyError."""
        kinds = {field.name: type(field.default) for field in fields(cls) if field.name != "policy"} | {"policy": str}
        if not isinstance(value, dict) or set(value) != set(kinds):
            raise StudyError("It does not name the settings of a run.")
        for name, kind in kinds.items():
            if type(value[name]) is not kind and not (kind is float and type(value[name]) is int):
                raise StudyError(f"Its {name} is {value[name]!r}.")
        return cls(**value)


def grid(
    policies: Sequence[str],
    *,
    bits: Sequence[int] = (12,),
    budgets: Sequence[float] = (0.1,),
    patches: Sequence[int] = (8,),
    sparsities: Sequence[float] = (2 / 3,),
    hashes: Sequence[str] = ("integer",),
    seeds: Sequence[int] = (0, 1, 2),
) -> tuple[Configuration, ...]:
    """Every combination that differs, each once. The baselines of one setting follow each other, so that a process that
    runs several of them computes their common reference once. Raises StudyError for values out of range.
    """
    settings = itertools.product(patches, sparsities, seeds, bits, policies)
    found: dict[Configuration, None] = {}
    for patch, sparsity, seed, count, policy in settings:
        if policy == "dead":
            found[Configuration(policy, patch=patch)] = None
        elif policy in POLICIES:
            for hash, budget in itertools.product(hashes, budgets if policy in BUDGETED else (0.0,)):
                found[Configuration(policy, count, budget, patch, sparsity, hash, seed)] = None
        else:
            found[Configuration(policy, count, 0.0, patch, sparsity, "", seed)] = None
    return tuple(found)


def ladder(bundle: str, levels: int) -> tuple[Configuration, ...]:
    """The levels of a bundle. levels: how many it has, level 0 included, which is not run."""
    return tuple(Configuration(LADDER, bundle=bundle, level=level) for level in range(1, levels))
