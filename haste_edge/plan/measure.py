"""What merging one layer costs and saves: measured on pictures without labels (design: the method, section 4).

A layer's input is recorded once. Its groups are found for every setting of the policy, which gives the FLOPs; what that
does to the network is measured by running the rest of the network again from the merged layer on, and comparing the
outputs with the exact ones.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from haste_edge import method, torch_graph
from haste_edge.importance import channel_importance
from haste_edge.plan.candidates import Candidate
from haste_edge.plan.cost_model import CostModel
from haste_edge.plan.restart import downstream, read_from_outside
from haste_edge.plan.settings import Setting, settings
from haste_runtime.flops import LayerCounts, dense_flops, merged_flops
from haste_runtime.geometry import ConvGeometry
from haste_runtime.graph import Graph, Node, Shape
from haste_runtime.projection import draw

SPARSITY = 2 / 3
RUN_BYTES = 64 << 20  # largest value of a run with several settings at once
LEAST = 1e-12  # energies below this count as none

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Curve:
    """One layer merged by one policy on patches of one size. The tuples have an entry for each setting, weakest first.

    importance: of the channels, for the policy "budget". kept: groups per channel, mean. flops_saved, seconds_saved:
    per frame, against the dense layer; negative where merging costs more than it saves. distortion: of the
    network's outputs, see `distortion`.
    """

    node: str
    patch: int
    policy: str
    seed: int
    projection: NDArray[np.int8]
    importance: NDArray[np.uint16]
    settings: tuple[Setting, ...]
    kept: tuple[float, ...]
    flops_saved: tuple[float, ...]
    seconds_saved: tuple[float, ...]
    distortion: tuple[float, ...]


@dataclass(frozen=True)
class Merge:
    """How a layer is merged at some level: a curve, and the index of the setting in use."""

    curve: Curve
    index: int

    @property
    def setting(self) -> Setting:
        return self.curve.settings[self.index]


def layer_seed(seed: int, node: str, patch: int) -> int:
    """The seed of a layer's projection, 32 bits: from the plan's seed, and different for every layer and patch size."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{node}/{patch}".encode()).digest()[:4], "big")


def distortion(outputs: Mapping[str, Tensor], exact: Mapping[str, Tensor]) -> float:
    """How much outputs changed, mean over those that ``outputs`` has; 0 for not at all.

    Maps (N, C, H, W): relative squared change, sums over the pictures. Vectors (N, F) of three and more are scores:
    their mean is taken out, which changes no answer, and every picture counts alike, however large its scores are.
    """
    changes = [_change(outputs[name].double(), exact[name].double()) for name in outputs]
    return sum(changes) / max(len(changes), 1)


def _change(y: Tensor, exact: Tensor) -> float:
    if y.dim() != 2 or y.shape[1] < 3:
        return float((y - exact).square().sum()) / max(float(exact.square().sum()), LEAST)
    y, exact = y - y.mean(1, keepdim=True), exact - exact.mean(1, keepdim=True)
    return float(((y - exact).square().sum(1) / exact.square().sum(1).clamp_min(LEAST)).mean())


class Measurements:
    """One network on one set of pictures, every layer merged alone.

    inputs: input name -> (N, C, H, W) or (N, F), ready for the network. policy: of all layers.
    """

    def __init__(
        self,
        graph: Graph,
        shapes: Mapping[str, Shape],
        candidates: Iterable[Candidate],
        inputs: Mapping[str, Tensor],
        cost_model: CostModel,
        policy: str,
        seed: int,
    ) -> None:
        self.graph, self.shapes = graph, shapes
        self.candidates = {c.node: c for c in candidates}
        self.cost_model, self.policy, self.seed = cost_model, policy, seed
        self.frames = len(next(iter(inputs.values())))
        self.prepared = torch_graph.prepare(graph)
        merging = [c.node for c in self.candidates.values() if c.patches]
        exact = torch_graph.run(self.prepared, inputs, record=read_from_outside(graph, merging, shapes))
        self.values, self.exact = exact.values, exact.outputs

    def curves(self, node: str) -> list[Curve]:
        """The layer on each of its candidate patch sizes."""
        rest = downstream(self.graph, node, self.shapes)
        return [self._curve(node, patch, rest) for patch in self.candidates[node].patches]

    def _curve(self, name: str, patch: int, rest: Graph) -> Curve:
        node, geometry = self.graph.node(name), self.candidates[name].geometry
        every = settings(self.policy, geometry.channels_in)
        bits = max(setting.bits for setting in every)
        seed = layer_seed(self.seed, name, patch)
        projection = draw(seed, bits, geometry.patch_side(patch), SPARSITY)
        importance = channel_importance(self.graph.constants[node.constants["weight"]])
        patches = method.extract_patches(self.values[node.inputs[0]], geometry, patch).flatten(0, 1)
        q, live = method.quantise(patches)
        codes = method.codes(q, torch.from_numpy(projection), bits).masked_fill(~live[:, None], -1)
        weights = torch.from_numpy(importance.astype(np.int64)) if self.policy == "budget" else None
        rule = method.Rule(patch, torch.from_numpy(projection), bits, self.policy, weights)
        nonzeros = np.count_nonzero(projection, axis=1).cumsum()
        dense, dense_seconds = dense_flops(geometry), self.cost_model.dense(geometry).seconds
        kept, flops, seconds, changes = [], [], [], []
        for some in self._batches(every, rest, q):
            groups = group_all(q, codes, rule, some)
            for setting, count in zip(some, self._counts(groups, geometry, patch, len(some)), strict=True):
                nonzero = int(nonzeros[setting.bits - 1])
                executed = merged_flops(geometry, patch, nonzero, setting.bits, count, self.policy)
                merged = self.cost_model.merged(
                    geometry, patch, nonzero, setting.bits, count, self.frames, policy=self.policy
                )
                kept.append(count.kept / (count.patches * geometry.channels_in))
                flops.append(dense - executed / self.frames)
                seconds.append(dense_seconds - merged.seconds)
            changes += self._distortions(node, geometry, rule, groups, rest, len(some))
        worst = np.maximum.accumulate(changes)  # a stronger setting never counts as better, whatever chance made of it
        return Curve(
            name, patch, self.policy, seed, projection, importance, every, tuple(kept), tuple(flops), tuple(seconds),
            tuple(worst.tolist()),
        )  # fmt: skip

    def _batches(self, every: Sequence[Setting], rest: Graph, q: Tensor) -> list[Sequence[Setting]]:
        """The settings in runs of several at once, one after the other along the batch, as memory allows."""
        largest = self.frames * max(math.prod(self.shapes[n.name]) for n in rest.nodes)
        together = max(1, RUN_BYTES // (4 * max(largest, q.numel())))
        return [every[i : i + together] for i in range(0, len(every), together)]

    def _counts(self, groups: method.Grouping, geometry: ConvGeometry, patch: int, settings: int) -> list[LayerCounts]:
        rows = len(groups.leaders) // settings
        parts = [slice(i * rows, (i + 1) * rows) for i in range(settings)]
        return [method.counts(method.Grouping(*(t[part] for t in groups)), geometry, patch) for part in parts]

    def _distortions(
        self, node: Node, geometry: ConvGeometry, rule: method.Rule, groups: method.Grouping, rest: Graph, settings: int
    ) -> list[float]:
        x = self.values[node.inputs[0]].repeat(settings, 1, 1, 1)
        constants = self.prepared.constants
        bias = node.constants.get("bias")
        y, _ = method.convolve_groups(
            x, groups, constants[node.constants["weight"]], None if bias is None else constants[bias], geometry,
            rule.patch, rule.weights,
        )  # fmt: skip
        again = {v.name: self.values[v.name].repeat(settings, *(1,) * len(v.shape)) for v in rest.inputs}
        run = torch_graph.run(rest, again, convolve={node.name: lambda node, x: y})
        parts = [slice(i * self.frames, (i + 1) * self.frames) for i in range(settings)]
        return [distortion({name: out[part] for name, out in run.outputs.items()}, self.exact) for part in parts]


def group_all(q: Tensor, codes: Tensor, rule: method.Rule, settings: Sequence[Setting]) -> method.Grouping:
    """The groups of M patches for each of several settings, one setting's patches after the other's."""
    if rule.policy == "budget":  # all at once: the loop over channels is what takes time
        assert rule.importance is not None
        budgets = torch.tensor([[s.budget] for s in settings], dtype=torch.float64)
        return method.group_within_budget(q, codes, rule.importance, budgets, rule.patch**2)
    parts = [method.decide(q, method.prefix(codes, s.bits), rule._replace(bits=s.bits)) for s in settings]
    return method.Grouping(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))
