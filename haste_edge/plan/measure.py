"""What merging costs and saves in a network, layer by layer: measured on pictures without labels (the method, 4).

Each layer that may merge is hashed once, with all the bits it may ever use; as codes nest, that gives the groups, and
so the FLOPs, for every number of bits. What merging does to the network is measured by running the rest of the network
again from the merged layer on, for a few numbers of bits, and comparing the outputs with the exact ones.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from haste_edge import method, torch_graph
from haste_edge.plan.candidates import Candidate
from haste_edge.plan.cost_model import CostModel
from haste_edge.plan.restart import downstream, read_from_outside
from haste_runtime.flops import LayerCounts, dense_flops, linear_flops, merged_flops, reduction
from haste_runtime.geometry import ConvGeometry
from haste_runtime.graph import Graph, Node, Shape
from haste_runtime.projection import draw

BITS = 16  # L_max: rows of every projection; with more, hardly a channel finds another
SPARSITY = 2 / 3
MEASURED_BITS = (2, 4, 7, 10, 13, 16)  # where the outputs are compared; in between the logarithm is interpolated
RUN_BYTES = 64 << 20  # largest value of a run with several numbers of bits at once
LEAST = 1e-12  # distortions below this count as none

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Curve:
    """One layer merged on patches of one size. Index b - 1 of the tuples stands for b bits, 1 to `BITS`.

    kept: groups per channel, mean. flops_saved, seconds_saved: per frame, against the dense layer; negative where
    merging costs more than it saves. distortion: relative squared change of the network's outputs.
    """

    node: str
    patch: int
    seed: int
    projection: NDArray[np.int8]
    kept: tuple[float, ...]
    flops_saved: tuple[float, ...]
    seconds_saved: tuple[float, ...]
    distortion: tuple[float, ...]


@dataclass(frozen=True)
class Merge:
    """How a layer is merged at some level: a curve's patch and projection, and the bits in use."""

    curve: Curve
    bits: int


@dataclass(frozen=True)
class Joint:
    """A whole network with several layers merged.

    executed, dense: FLOPs of every convolution, summed over the pictures; linear: those of all linear layers together.
    distortion: relative squared change of the outputs.
    """

    executed: Mapping[str, int]
    dense: Mapping[str, int]
    linear: int
    distortion: float

    def flops_reduction(self, nodes: Iterable[str]) -> float:
        """Percent saved over these convolutions."""
        names = list(nodes)
        return reduction(sum(self.executed[n] for n in names), sum(self.dense[n] for n in names))

    @property
    def flops_reduction_network(self) -> float:
        """Percent saved over all convolutions and linear layers."""
        return reduction(sum(self.executed.values()) + self.linear, sum(self.dense.values()) + self.linear)


def layer_seed(seed: int, node: str, patch: int) -> int:
    """The seed of a layer's projection, 32 bits: from the plan's seed, and different for every layer and patch size."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{node}/{patch}".encode()).digest()[:4], "big")


def distortion(outputs: Mapping[str, Tensor], exact: Mapping[str, Tensor]) -> float:
    """Relative squared change of the outputs, mean over those that ``outputs`` has, sums over the pictures."""
    shares = [
        float((outputs[name] - exact[name]).square().sum()) / max(float(exact[name].square().sum()), LEAST)
        for name in outputs
    ]
    return sum(shares) / max(len(shares), 1)


class Measurements:
    """One network on one set of pictures: measures layers alone, and levels jointly.

    inputs: input name -> (N, C, H, W) or (N, F), ready for the network.
    """

    def __init__(
        self,
        graph: Graph,
        shapes: Mapping[str, Shape],
        candidates: Iterable[Candidate],
        inputs: Mapping[str, Tensor],
        cost_model: CostModel,
        seed: int,
    ) -> None:
        self.graph, self.shapes, self.inputs = graph, shapes, inputs
        self.candidates = {c.node: c for c in candidates}
        self.cost_model, self.seed = cost_model, seed
        self.frames = len(next(iter(inputs.values())))
        self.prepared = torch_graph.prepare(graph)
        merging = [c.node for c in self.candidates.values() if c.patches]
        wanted = read_from_outside(graph, merging, shapes)
        exact = torch_graph.run(self.prepared, inputs, record=wanted)
        self.values, self.exact = exact.values, exact.outputs
        self.dense = {name: dense_flops(c.geometry) for name, c in self.candidates.items()}
        self.linear = sum(
            linear_flops(shapes[n.inputs[0]][0], shapes[n.name][0]) for n in graph.nodes if n.op == "linear"
        )

    def curves(self, node: str) -> list[Curve]:
        """The layer on each of its candidate patch sizes."""
        rest = downstream(self.graph, node, self.shapes)
        return [self._curve(node, patch, rest) for patch in self.candidates[node].patches]

    def _curve(self, name: str, patch: int, rest: Graph) -> Curve:
        node, geometry = self.graph.node(name), self.candidates[name].geometry
        seed = layer_seed(self.seed, name, patch)
        projection = draw(seed, BITS, geometry.patch_side(patch), SPARSITY)
        x = self.values[node.inputs[0]]
        codes = method.layer_codes(x, geometry, patch, torch.from_numpy(projection), BITS)
        counts = _counts(codes, geometry, patch)
        nonzeros = np.count_nonzero(projection, axis=1).cumsum().tolist()
        dense_seconds = self.cost_model.dense(geometry).seconds
        flops, seconds = [], []
        for bits, (count, nonzero) in enumerate(zip(counts, nonzeros, strict=True), start=1):
            flops.append(self.dense[name] - merged_flops(geometry, patch, nonzero, bits, count) / self.frames)
            merged = self.cost_model.merged(geometry, patch, nonzero, bits, count, self.frames)
            seconds.append(dense_seconds - merged.seconds)
        patches = counts[0].patches * geometry.channels_in
        return Curve(
            node=name,
            patch=patch,
            seed=seed,
            projection=projection,
            kept=tuple(count.kept / patches for count in counts),
            flops_saved=tuple(flops),
            seconds_saved=tuple(seconds),
            distortion=self._distortions(node, geometry, patch, codes, rest),
        )

    def _distortions(
        self, node: Node, geometry: ConvGeometry, patch: int, codes: Tensor, rest: Graph
    ) -> tuple[float, ...]:
        """Several of `MEASURED_BITS` in one run of the rest of the network, one after the other along the batch."""
        x = self.values[node.inputs[0]]
        weight, bias = self._constants(node)
        largest = max(math.prod(self.shapes[n.name]) for n in rest.nodes)
        together = max(1, RUN_BYTES // (4 * largest * self.frames))
        measured: list[float] = []
        for start in range(0, len(MEASURED_BITS), together):
            some = MEASURED_BITS[start : start + together]
            outputs = torch.cat(
                [
                    method.convolve_groups(x, method.prefix(codes, bits), weight, bias, geometry, patch)[0]
                    for bits in some
                ]
            )
            again = {v.name: self.values[v.name].repeat(len(some), *(1,) * len(v.shape)) for v in rest.inputs}
            run = torch_graph.run(rest, again, convolve={node.name: _always(outputs)})
            for index in range(len(some)):
                part = slice(index * self.frames, (index + 1) * self.frames)
                measured.append(distortion({name: y[part] for name, y in run.outputs.items()}, self.exact))
        return interpolate(measured)

    def joint(self, merges: Mapping[str, Merge]) -> Joint:
        """All these layers merged at once."""
        counts: dict[str, LayerCounts] = {}

        def convolve(node: Node, x: Tensor) -> Tensor:
            merge, geometry = merges[node.name], self.candidates[node.name].geometry
            projection = torch.from_numpy(merge.curve.projection)
            y, counts[node.name], _ = method.merged_conv(
                x, *self._constants(node), geometry, merge.curve.patch, projection, merge.bits
            )
            return y

        run = torch_graph.run(self.prepared, self.inputs, convolve=dict.fromkeys(merges, convolve))
        dense = {name: self.frames * flops for name, flops in self.dense.items()}
        executed = dict(dense)
        for name, merge in merges.items():
            nonzeros = int(np.count_nonzero(merge.curve.projection[: merge.bits]))
            geometry = self.candidates[name].geometry
            executed[name] = merged_flops(geometry, merge.curve.patch, nonzeros, merge.bits, counts[name])
        return Joint(executed, dense, self.frames * self.linear, distortion(run.outputs, self.exact))

    def _constants(self, node: Node) -> tuple[Tensor, Tensor | None]:
        bias = node.constants.get("bias")
        constants = self.prepared.constants
        return constants[node.constants["weight"]], None if bias is None else constants[bias]


def _counts(codes: Tensor, geometry: ConvGeometry, patch: int) -> list[LayerCounts]:
    """For 1 to `BITS` bits what merging does to a layer, summed over patches and pictures. codes: (N, P, C)."""
    kept, merged = method.kept_per_bits(codes, BITS)
    pixels = torch.tensor([tile.height * tile.width for tile in geometry.tiles(patch)])
    return [
        LayerCounts(kept[b].numel(), int(kept[b].sum()), int(merged[b].sum()), int((kept[b] * pixels).sum()))
        for b in range(1, BITS + 1)
    ]


def _always(y: Tensor) -> torch_graph.Convolution:
    """A convolution whose result is known already."""
    return lambda node, x: y


def interpolate(measured: list[float]) -> tuple[float, ...]:
    """Distortions for 1 to `BITS` bits from those at `MEASURED_BITS`: straight lines for their logarithm.

    More bits never count as worse, whatever chance made of them; one bit goes on as two and four do.
    """
    logs = [math.log(max(value, LEAST)) for value in measured]
    logs = np.maximum.accumulate(logs[::-1])[::-1].tolist()
    first, second = MEASURED_BITS[:2]
    at_one = logs[0] + (first - 1) * (logs[0] - logs[1]) / (second - first)
    curve = np.interp(np.arange(1, BITS + 1), (1, *MEASURED_BITS), (at_one, *logs))
    return tuple(math.exp(value) if value > math.log(LEAST) else 0.0 for value in curve)
