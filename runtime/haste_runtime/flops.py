"""What a network costs in floating-point operations: the one place that counts (design: the method, section 2).

One multiply-add is 2, one add, multiply or comparison is 1. *Executed* operations are counted: an edge tile has only
its real output pixels, a projection only its real non-zeros. Bias, residual and activation are on neither side of the
comparison, and a dead patch is charged for quantising and hashing like any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haste_runtime.geometry import ConvGeometry
from haste_runtime.graph import Graph, Shape
from haste_runtime.plan import Plan
from haste_runtime.record import record


@record(frozen=True)
class LayerCounts:
    """What merging did to one layer: sums over its patches (and, added up, over frames).

    patches: how many. kept: groups K_p. merged: channels in groups of two or more. kept_pixels: K_p times the real
    output pixels of the patch's tile. compared, verified: pairs of codes, and of quantised channels, that were compared
    (policies with a budget). Of the policy "affine": merged counts the channels that others lead; levelled, those that
    have a constant; constant_adds, the additions that constants take for each output channel. unseen: patches that were
    not looked at, since the layer stayed dense (`haste_runtime.plan.Variant.dense_above`); all their channels are kept.
    """

    patches: int = 0
    kept: int = 0
    merged: int = 0
    kept_pixels: int = 0
    compared: int = 0
    verified: int = 0
    levelled: int = 0
    constant_adds: int = 0
    unseen: int = 0

    def __add__(self, other: LayerCounts) -> LayerCounts:
        return LayerCounts(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


def dense_flops(geometry: ConvGeometry) -> int:
    """The convolution as it stands, the baseline: 2 * O * C * K^2 * px, C being the channels a filter really reads."""
    ky, kx = geometry.kernel
    height, width = geometry.out
    return 2 * geometry.channels_out * (geometry.channels_in // geometry.groups) * ky * kx * height * width


def linear_flops(features_in: int, features_out: int) -> int:
    """A fully connected layer on one vector."""
    return 2 * features_in * features_out


def merged_flops(
    geometry: ConvGeometry, patch: int, nonzeros: int, bits: int, counts: LayerCounts, policy: str = "mean"
) -> int:
    """The merged convolution as it was executed.

    patch: tile side m. nonzeros: non-zero entries in the ``bits`` rows in use. For several frames give the sum of their
    counts. Two codes are compared by three operations, two quantised channels by a product and five more. Scaled
    policies multiply where the paper's only adds, and find the scales: of a group's sum and its products with the
    channels, or of the products that were verified. "affine" makes fingerprints of the hash's sums, by five operations
    an entry, and compares two by a product. "drop" squares and adds up, and compares each channel with its share.
    """
    channels, filters = geometry.channels_in, geometry.channels_out
    taps = geometry.kernel[0] * geometry.kernel[1]
    d = geometry.patch_side(patch) ** 2
    patches = counts.patches - counts.unseen
    quantising = patches * 2 * channels * d  # one comparison for the largest |x|, one multiplication by 127 / a
    hashing = patches * (channels * nonzeros + channels * bits)  # centring costs C per bit
    deciding = {
        "mean": 0,
        "scaled": counts.merged * (d + 2 * d + 2 * d + 2),
        "budget": patches * channels * (2 * d + 3) + counts.compared * 3 + counts.verified * (2 * d + 5),
        "affine": patches * channels * (2 * d + 5 * bits + 20)
        + counts.compared * (2 * bits + 1)
        + counts.verified * (2 * d + 25),
        "drop": patches * channels * (2 * d + 2),
    }[policy]
    multiplied = 1 if policy == "mean" else 2
    merging = multiplied * counts.merged * ((0 if policy == "affine" else d) + filters * taps)
    merging += filters * (2 * counts.levelled * taps + counts.constant_adds)
    return quantising + hashing + deciding + merging + 2 * filters * taps * counts.kept_pixels


def constant_adds(geometry: ConvGeometry, size: tuple[int, int], patch: int) -> NDArray[np.int64]:
    """int64 (P,), for a map of ``size`` (H, W): additions for each output channel that the constants of a patch take.

    One filter's taps are added up once for all pixels that see only the map, and for every other pixel those of its
    taps that do; and there is one addition to each output.
    """
    rows, columns = (_taps_inside(geometry, size, axis) for axis in (0, 1))
    every, adds = geometry.kernel[0] * geometry.kernel[1], []
    for tile in geometry.tiles(patch):
        top, left = tile.ty * patch, tile.tx * patch
        seen = np.outer(rows[top : top + tile.height], columns[left : left + tile.width])
        adds.append(every + seen.size + int(seen[seen < every].sum()))
    return np.array(adds, np.int64)


def _taps_inside(geometry: ConvGeometry, size: tuple[int, int], axis: int) -> NDArray[np.int64]:
    """For each output row (axis 0) or column, how many taps of the kernel lie inside the map."""
    first = np.arange(geometry.out[axis])[:, None] * geometry.stride[axis] - geometry.padding[axis]
    place = first + np.arange(geometry.kernel[axis]) * geometry.dilation[axis]
    return ((place >= 0) & (place < size[axis])).sum(axis=1)


def nonzeros_of_rows(projection: NDArray[np.int8]) -> NDArray[np.int64]:
    """(L + 1,): the non-zero entries of no row, of the first, of the first two and so on of a projection (L, d)."""
    return np.concatenate([[0], np.count_nonzero(projection, axis=1).cumsum()])


def reduction(executed: int, dense: int) -> float:
    """Percentage saved, 0 to 100; negative where the overhead exceeds what merging saves, 0 where nothing counts."""
    return 100.0 * (1.0 - executed / dense) if dense else 0.0


@record(frozen=True)
class Totals:
    """FLOPs of one or more frames. ``may_merge``: the layers whose plan has a variant; ``network``: every convolution
    and linear layer."""

    may_merge_executed: int
    may_merge_dense: int
    network_executed: int
    network_dense: int

    def __add__(self, other: Totals) -> Totals:
        return Totals(
            self.may_merge_executed + other.may_merge_executed,
            self.may_merge_dense + other.may_merge_dense,
            self.network_executed + other.network_executed,
            self.network_dense + other.network_dense,
        )

    @property
    def flops_reduction(self) -> float:
        """Percent saved over the layers that may merge."""
        return reduction(self.may_merge_executed, self.may_merge_dense)

    @property
    def flops_reduction_network(self) -> float:
        """Percent saved over all convolutions and linear layers."""
        return reduction(self.network_executed, self.network_dense)


class NetworkFlops:
    """Counts for one network and plan.

    shapes: every value's shape, as `haste_runtime.operators.check_graph` returns it. projections: `Variant.projection`
    -> its ternary matrix (L, d).
    """

    def __init__(
        self, graph: Graph, shapes: Mapping[str, Shape], plan: Plan, projections: Mapping[str, NDArray[np.int8]]
    ) -> None:
        self.plan = plan
        self.geometries = conv_geometries(graph, shapes)
        self.dense = {name: dense_flops(geometry) for name, geometry in self.geometries.items()}
        for node in graph.nodes:
            if node.op == "linear":
                self.dense[node.name] = linear_flops(shapes[node.inputs[0]][0], shapes[node.name][0])
        self._variants = {layer.node: layer.variants for layer in plan.layers if layer.variants}
        # nonzeros[key][b]: entries in the first b rows, since fewer bits are a prefix of the matrix.
        self._nonzeros: dict[str, NDArray[Any]] = {key: nonzeros_of_rows(matrix) for key, matrix in projections.items()}

    def layer(self, node: str, level: int, counts: LayerCounts) -> int:
        """Executed FLOPs of a layer that is merged at this level."""
        choice = self.plan.levels[level].choices[node]
        variant = self._variants[node][choice.variant]
        nonzeros = int(self._nonzeros[variant.projection][choice.bits])
        return merged_flops(self.geometries[node], variant.patch, nonzeros, choice.bits, counts, variant.policy)

    def totals(self, level: int, counts: Mapping[str, LayerCounts]) -> Totals:
        """Of one frame at a level. counts: for each layer merged at that level; the others ran dense."""
        executed = self.dense | {node: self.layer(node, level, counts[node]) for node in counts}
        return Totals(
            may_merge_executed=sum(executed[node] for node in self._variants),
            may_merge_dense=sum(self.dense[node] for node in self._variants),
            network_executed=sum(executed.values()),
            network_dense=sum(self.dense.values()),
        )


def conv_geometries(graph: Graph, shapes: Mapping[str, Shape]) -> dict[str, ConvGeometry]:
    """The geometry of every convolution, by node name, in graph order."""
    return {
        node.name: ConvGeometry.from_node(node, shapes[node.inputs[0]], graph.constants[node.constants["weight"]].shape)
        for node in graph.nodes
        if node.op == "conv"
    }
