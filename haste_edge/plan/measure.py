"""What merging one layer costs and saves: measured on pictures without labels (design: the method, section 4).

A layer's input is recorded once. Its groups are found for every setting of the policy, which gives the FLOPs; what that
does to the network is measured by running the rest of the network again from the merged layer on, and comparing the
outputs with the exact ones.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from haste_edge import method, torch_graph
from haste_edge.importance import channel_importance
from haste_edge.patches import inside_map
from haste_edge.plan.candidates import Candidate
from haste_edge.plan.cost_model import DOUBT, CostModel
from haste_edge.plan.restart import downstream, read_from_outside
from haste_edge.plan.settings import Setting, settings
from haste_runtime.flops import LayerCounts, dense_flops, merged_flops, nonzeros_of_rows
from haste_runtime.geometry import ConvGeometry
from haste_runtime.graph import Graph, Node, Shape
from haste_runtime.hashing import DEAD_CODE
from haste_runtime.plan import BUDGETED, CODED
from haste_runtime.projection import projection_of

SPARSITY = 2 / 3
RUN_BYTES = 64 << 20  # largest value of a run with several settings at once
LEAST = 1e-12  # energies below this count as none
STILL = 1e-6  # share of its energy that what hardly varies is taken to vary by

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Curve:
    """One layer merged by one policy on patches of one size and computed by one algorithm. The tuples have an entry for
    each setting, weakest first.

    importance: of the channels, for policies with a budget. kept: groups per channel, mean. flops_saved, seconds_saved:
    per frame, against the dense layer, of seconds what is beyond doubt (`cost_model.DOUBT`); negative where merging
    costs more than it saves. distortion: of the network's outputs, see `distortion`.
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
    algorithm: str = "direct"

    @property
    def break_even(self) -> float:
        """The share of channels above which merging takes longer than the dense layer; 1 if it never does."""
        points = sorted(zip(self.kept, self.seconds_saved, strict=True), reverse=True)
        if points[0][1] >= 0:
            return 1.0
        for (above, lost), (below, saved) in itertools.pairwise(points):
            if saved >= 0:
                return below + (above - below) * saved / (saved - lost)
        return points[-1][0]


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


def output_parts(graph: Graph, shapes: Mapping[str, Shape]) -> dict[str, tuple[int, ...]]:
    """Output -> channels of the parts that it is joined of, where its last step is to join some.

    A detector gives places and scores in one output. Places are hundreds of pixels, scores are below 1 and nearly all
    about 0: over both together, no score would ever count.
    """
    last = {node.name: node for node in graph.nodes if node.op == "concat" and node.attributes["axis"] == 0}
    return {name: tuple(shapes[i][0] for i in last[name].inputs) for name in graph.outputs if name in last}


def distortion(
    outputs: Mapping[str, Tensor], exact: Mapping[str, Tensor], parts: Mapping[str, tuple[int, ...]] | None = None
) -> float:
    """How much outputs changed, mean over those that ``outputs`` has; 0 for not at all.

    parts: of the outputs, as `output_parts` gives them; of such an output the part that changed most counts, each
    relative to how it varies from picture to picture. Places of boxes are mostly where in the picture they were looked
    for, which tells nothing.
    Maps (N, C, H, W): relative squared change, sums over the pictures. Vectors (N, F) of three and more are scores:
    their mean is taken out, which changes no answer, and every picture counts alike, however large its scores are.
    """
    changes = []
    for name, y in outputs.items():
        pair = y.double(), exact[name].double()
        if parts and name in parts:
            split = (t.split(parts[name], 1) for t in pair)
            changes.append(max(_change(a, b, _variation(b)) for a, b in zip(*split, strict=True)))
        else:
            changes.append(_change(*pair, float(pair[1].square().sum())))
    return sum(changes) / max(len(changes), 1)


def _variation(exact: Tensor) -> float:
    """Squared difference from the mean over the pictures, sum; of one picture, which tells no variation, all of it."""
    whole = float(exact.square().sum())
    if len(exact) == 1:
        return whole
    return max(float((exact - exact.mean(0)).square().sum()), STILL * whole)


def _change(y: Tensor, exact: Tensor, size: float) -> float:
    """size: of a map, what its squared change is relative to."""
    if y.dim() != 2 or y.shape[1] < 3:
        return float((y - exact).square().sum()) / max(size, LEAST)
    y, exact = y - y.mean(1, keepdim=True), exact - exact.mean(1, keepdim=True)
    return float(((y - exact).square().sum(1) / exact.square().sum(1).clamp_min(LEAST)).mean())


class Measurements:
    """One network on one set of pictures, every layer merged alone.

    inputs: input name -> (N, C, H, W) or (N, F), ready for the network. policies: that are tried, of each layer that
    may merge.
    """

    def __init__(
        self,
        graph: Graph,
        shapes: Mapping[str, Shape],
        candidates: Iterable[Candidate],
        inputs: Mapping[str, Tensor],
        cost_model: CostModel,
        policies: Mapping[str, Sequence[str]],
        seed: int,
    ) -> None:
        self.graph, self.shapes = graph, shapes
        self.candidates = {c.node: c for c in candidates}
        self.cost_model, self.policies, self.seed = cost_model, policies, seed
        self.frames = len(next(iter(inputs.values())))
        self.parts = output_parts(graph, shapes)
        self.prepared = torch_graph.prepare(graph)
        merging = [c.node for c in self.candidates.values() if c.patches]
        exact = torch_graph.run(self.prepared, inputs, record=read_from_outside(graph, merging, shapes))
        self.values, self.exact = exact.values, exact.outputs

    def curves(self, node: str) -> list[Curve]:
        """The layer on each of its candidate patch sizes, by each of its policies and whatever algorithm they allow."""
        rest, patches = downstream(self.graph, node, self.shapes), self.candidates[node].patches
        return [c for policy in self.policies[node] for patch in patches for c in self._some(node, policy, patch, rest)]

    def _some(self, name: str, policy: str, patch: int, rest: Graph) -> list[Curve]:
        """The same groups by each algorithm, which differ in what they take."""
        node, geometry = self.graph.node(name), self.candidates[name].geometry
        every = settings(policy, geometry, patch)
        bits = max(setting.bits for setting in every)
        seed = layer_seed(self.seed, name, patch)
        side = geometry.patch_side(patch)
        projection = projection_of(policy, seed, bits, side, SPARSITY)
        importance = channel_importance(self.graph.constants[node.constants["weight"]])
        x = self.values[node.inputs[0]]
        patches = method.extract_patches(x, geometry, patch).flatten(0, 1)
        q, live = method.quantise(patches)
        if policy in CODED:
            codes = method.codes(q, torch.from_numpy(projection), bits).masked_fill(~live[:, None], DEAD_CODE)
        else:
            codes = torch.where(live, 0, DEAD_CODE).int()[:, None].expand(-1, q.shape[1])
        weights = torch.from_numpy(importance.astype(np.int64)) if policy in BUDGETED else None
        rule = method.Rule(patch, torch.from_numpy(projection), bits, policy, weights)
        nonzeros = nonzeros_of_rows(projection)
        dense, dense_seconds = dense_flops(geometry), self.cost_model.dense(geometry).seconds
        seconds: dict[str, list[float]] = {way: [] for way in self.cost_model.algorithms(geometry, policy)}
        kept, flops, changes = [], [], []
        inside = inside_map(x, geometry, patch, (side, side)).flatten(1).repeat(len(x), 1)
        for some in self._batches(every, rest, q):
            groups = group_all(q, codes, rule, some, inside)
            for setting, count in zip(
                some, self._counts(groups, geometry, rule, len(some), (x.shape[2], x.shape[3])), strict=True
            ):
                nonzero = int(nonzeros[setting.bits])
                executed = merged_flops(geometry, patch, nonzero, setting.bits, count, policy)
                for algorithm, saved in seconds.items():
                    merged = self.cost_model.merged(
                        geometry, patch, nonzero, setting.bits, count, self.frames, policy, algorithm
                    )
                    saved.append((1 - DOUBT) * dense_seconds - merged.seconds)
                kept.append(count.kept / (count.patches * geometry.channels_in))
                flops.append(dense - executed / self.frames)
            changes += self._distortions(node, geometry, rule, groups, rest, len(some))
        worst = np.maximum.accumulate(changes)  # a stronger setting never counts as better, whatever chance made of it
        return [
            Curve(
                name, patch, policy, seed, projection, importance, every, tuple(kept), tuple(flops), tuple(saved),
                tuple(worst.tolist()), algorithm,
            )
            for algorithm, saved in seconds.items()
        ]  # fmt: skip

    def _batches(self, every: Sequence[Setting], rest: Graph, q: Tensor) -> list[Sequence[Setting]]:
        """The settings in runs of several at once, one after the other along the batch, as memory allows."""
        largest = self.frames * max(math.prod(self.shapes[n.name]) for n in rest.nodes)
        together = max(1, RUN_BYTES // (4 * max(largest, q.numel())))
        return [every[i : i + together] for i in range(0, len(every), together)]

    @staticmethod
    def _counts(
        groups: method.Grouping, geometry: ConvGeometry, rule: method.Rule, settings: int, size: tuple[int, int]
    ) -> list[LayerCounts]:
        rows = len(groups.leaders) // settings
        parts = [slice(i * rows, (i + 1) * rows) for i in range(settings)]
        return [method.counts(groups.part(part), geometry, rule.patch, size) for part in parts]

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
        outputs = ({name: out[part] for name, out in run.outputs.items()} for part in parts)
        return [distortion(some, self.exact, self.parts) for some in outputs]


def group_all(
    q: Tensor, codes: Tensor, rule: method.Rule, settings: Sequence[Setting], inside: Tensor | None = None
) -> method.Grouping:
    """The groups of M patches for each of several settings, one setting's patches after the other's. inside: (M, d),
    the pixels in the map."""
    if rule.policy in BUDGETED:  # all at once: the loop over channels is what takes time
        assert rule.importance is not None
        budgets = torch.tensor([[s.budget] for s in settings], dtype=torch.float64)
        if rule.policy == "drop":
            return method.group_by_energy(q, codes, rule.importance, budgets)
        if rule.policy == "affine":
            return method.group_within_affine_budget(q, codes, rule, budgets, inside)
        return method.group_within_budget(q, codes, rule.importance, budgets, rule.patch**2)
    parts = [method.decide(q, method.prefix(codes, s.bits), rule._replace(bits=s.bits)) for s in settings]
    return method.join_groupings(parts)
