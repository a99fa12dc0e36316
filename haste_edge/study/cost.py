"""What a study's policies and baselines execute, counted by the rules of `haste_runtime.flops`.

Two sums are kept: operations that are an addition or a comparison alone, and all others. So the reduction can also be
told with additions counted as half an operation.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from haste_runtime.flops import LayerCounts, merged_flops
from haste_runtime.geometry import ConvGeometry


class Work(NamedTuple):
    """adds: additions and comparisons alone, 1 each. full: all else; a multiplication is 1, a multiply-add 2."""

    full: int = 0
    adds: int = 0

    def plus(self, *others: Work) -> Work:
        return Work(self.full + sum(o.full for o in others), self.adds + sum(o.adds for o in others))

    @property
    def executed(self) -> int:
        """FLOPs as everywhere else."""
        return self.full + self.adds

    @property
    def half_adds(self) -> float:
        """FLOPs where an addition or comparison counts half."""
        return self.full + self.adds / 2


def convolution(geometry: ConvGeometry, counts: LayerCounts) -> Work:
    """Convolving what is kept."""
    return Work(merged_flops(geometry, 1, 0, 0, LayerCounts(kept_pixels=counts.kept_pixels)))


def merging(geometry: ConvGeometry, patch: int, counts: LayerCounts) -> Work:
    """Adding up the inputs and the filters of groups, as the policy "mean" does."""
    return Work(adds=merged_flops(geometry, patch, 0, 0, LayerCounts(merged=counts.merged)))


def quantising(channels: int, d: int, patches: int) -> Work:
    """A comparison and a multiplication for each of d pixels."""
    return Work(patches * channels * d, patches * channels * d)


def hashing(family: str, channels: int, d: int, nonzeros: int, bits: int, patches: int) -> Work:
    """Codes of ``bits`` bits without quantising. nonzeros: entries of the projection's rows in use."""
    if family == "gaussian":
        return Work(patches * channels * 2 * d * bits, patches * channels * bits)
    centring = {"integer": bits, "uncentred": 0, "float": 2 * d}[family]  # float: the mean, and subtracting it
    return Work(adds=patches * channels * (nonzeros + centring))


def deciding(
    geometry: ConvGeometry, patch: int, counts: LayerCounts, policy: str, quantised: bool = True, bits: int = 0
) -> Work:
    """All that a policy does beside hashing and convolving: quantise (unless the hash does without), decide, merge.

    bits: rows of the projection in use, which some policies decide by.
    """
    patches = counts.patches - counts.unseen if quantised or policy != "mean" else 0
    hashed = hashing("integer", geometry.channels_in, 0, 0, bits, patches).executed
    rest = (
        merged_flops(geometry, patch, 0, bits, replace(counts, patches=patches, unseen=0, kept_pixels=0), policy)
        - hashed
    )
    d = geometry.patch_side(patch) ** 2
    adds = patches * geometry.channels_in * d  # for the largest |x|
    if policy == "mean":
        adds += merging(geometry, patch, counts).adds
    else:
        constants = counts.constant_adds * geometry.channels_out
        adds += {
            "scaled": counts.merged * d,
            "budget": counts.compared * 3,
            "affine": constants,
            "drop": patches * geometry.channels_in,
        }[policy]
    return Work(rest - adds, adds)
