"""What may be compressed and how: per convolution its algorithm, its frozen projections, and the ladder of levels.

A *variant* is one way to merge a layer: a policy, a patch size and the frozen ternary matrix that goes with it. A
*level* picks for each layer a variant and how many bits (rows) of its matrix to use, for policies with a budget also
how large an error it may make, or leaves the layer dense. Level 0 is dense everywhere. Codes nest: fewer bits of the
same matrix merge more channels (design: the method, section 1).
"""

from __future__ import annotations

from collections.abc import Mapping

from haste_runtime.record import record

ALGORITHMS = ("direct", "winograd2", "winograd4")  # how a convolution is computed; Winograd F(2x2,3x3), F(4x4,3x3)
POLICIES = ("mean", "scaled", "budget", "affine", "drop")  # who forms a group, what stands for it: `grouping`
BUDGETED = ("budget", "affine", "drop")  # take an error budget, and weigh errors by the channels' importance
CODED = ("mean", "scaled", "budget")  # give every channel a code
UNHASHED = ("drop",)  # compare no channels: projections without rows, and 0 bits


@record(frozen=True)
class Variant:
    """patch: output tile side m. bits: rows L_max of the projection, 0 for the policies `UNHASHED`.
    sparsity: share of zero entries asked for.

    seed: what `haste_runtime.projection.draw` was called with. projection: key of the packed matrix in the bundle.
    importance: key of the channels' weights, uint16 (C,), for the policies `BUDGETED`; empty for others.
    algorithm: one of `ALGORITHMS`, for the convolution of the merged channels.
    dense_above: the share of channels from which on merging takes longer than the dense layer. The patch in the middle
    of a map is looked at first: if more of its channels are kept, nothing of the layer merges in this frame. 1 to merge
    whatever is kept.
    """

    patch: int
    bits: int
    sparsity: float
    seed: int
    projection: str
    policy: str = "mean"
    importance: str = ""
    algorithm: str = "direct"
    dense_above: float = 1.0


@record(frozen=True)
class LayerPlan:
    """One convolution: the variants it may use (none: always dense) and the reason in words.

    algorithm: one of `ALGORITHMS`, for levels at which the layer is not merged.
    """

    node: str
    variants: tuple[Variant, ...]
    reason: str
    algorithm: str = "direct"


@record(frozen=True)
class Choice:
    """A layer at a level: index into its variants, bits in use (1..variant.bits; 0 if it has none), and the error
    budget, as a share of a patch's weighted energy (0 for policies without one)."""

    variant: int
    bits: int
    budget: float = 0.0


@record(frozen=True)
class Level:
    """choices: node name -> Choice; layers not named are dense. Percentages are expected values from compile time.

    flops_reduction counts the layers that may merge, flops_reduction_network all convolutions and linear layers
    (`haste_runtime.flops`). agreement: frames with the same largest output as at level 0; None where nobody measured.
    """

    choices: Mapping[str, Choice]
    flops_reduction: float
    flops_reduction_network: float
    agreement: float | None = None


@record(frozen=True)
class Plan:
    """layers: every convolution of the graph, in graph order. levels[0] has no choices."""

    layers: tuple[LayerPlan, ...]
    levels: tuple[Level, ...]
    objective: str = "flops"

    def layer(self, node: str) -> LayerPlan:
        return next(p for p in self.layers if p.node == node)
