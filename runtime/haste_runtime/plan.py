"""What may be compressed and how: per convolution its frozen projections, and the ladder of levels.

A *variant* is one way to merge a layer: a patch size and the frozen ternary matrix that goes with it. A *level* picks
for each layer a variant and how many bits (rows) of its matrix to use, or leaves the layer dense. Level 0 is dense
everywhere. Codes nest: fewer bits of the same matrix merge more channels (design: the method, section 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

POLICIES = ("mean",)  # how a group is represented; "mean" is the paper's


@dataclass(frozen=True)
class Variant:
    """patch: output tile side m. bits: rows L_max of the projection. sparsity: share of zero entries asked for.

    seed: what `haste_runtime.projection.draw` was called with. projection: key of the packed matrix in the bundle.
    """

    patch: int
    bits: int
    sparsity: float
    seed: int
    projection: str
    policy: str = "mean"


@dataclass(frozen=True)
class LayerPlan:
    """One convolution: the variants it may use (none: always dense) and the reason in words."""

    node: str
    variants: tuple[Variant, ...]
    reason: str


@dataclass(frozen=True)
class Choice:
    """A layer at a level: index into its variants, and bits in use (1..variant.bits)."""

    variant: int
    bits: int


@dataclass(frozen=True)
class Level:
    """choices: node name -> Choice; layers not named are dense. Percentages are expected values from compile time.

    flops_reduction counts the layers that may merge, flops_reduction_network all convolutions and linear layers
    (`haste_runtime.flops`).
    """

    choices: Mapping[str, Choice]
    flops_reduction: float
    flops_reduction_network: float


@dataclass(frozen=True)
class Plan:
    """layers: every convolution of the graph, in graph order. levels[0] has no choices."""

    layers: tuple[LayerPlan, ...]
    levels: tuple[Level, ...]
    objective: str = "flops"

    def layer(self, node: str) -> LayerPlan:
        return next(p for p in self.layers if p.node == node)
