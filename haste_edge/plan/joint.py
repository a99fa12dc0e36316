"""Several layers merged at once: whole levels, run by the very runtime that will run them on the device.

Layers measured alone tell which should merge; what they do together is measured here. The candidate levels become the
ladder of a bundle in memory, so the kernels' own decisions and counts are what is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from haste_edge.plan.measure import SPARSITY, Merge, distortion, output_parts
from haste_runtime.backends import choose_backend
from haste_runtime.bundle import Bundle
from haste_runtime.flops import NetworkFlops, Totals
from haste_runtime.graph import Graph, Shape
from haste_runtime.plan import BUDGETED, Choice, LayerPlan, Level, Plan, Variant
from haste_runtime.preprocessing import Preprocessing

MOST_KEPT = 0.95  # share of channels above which merging is never sure to be quicker, whatever the cost model says
Arrays = Mapping[str, NDArray[np.float32]]
Merges = Mapping[str, Merge]


@dataclass(frozen=True)
class Joint:
    """A level as measured. totals: FLOPs of all pictures. distortion: `haste_edge.plan.measure.distortion` of the
    outputs. agreement: percent of pictures with the same largest score in every output that is a vector of scores; None
    where none is, as the largest number of a map, or of a detector's boxes, is no answer."""

    totals: Totals
    distortion: float
    agreement: float | None

    @property
    def saving(self) -> float:
        """Percent of the FLOPs of all convolutions and linear layers."""
        return self.totals.flops_reduction_network


@dataclass
class Material:
    """What levels are made of: the layers with their variants, projections and importance.

    Each layer has one variant, the curve that `merge` first gave it. timely: layers stay dense in frames in which
    merging would take longer (`Variant.dense_above`).
    """

    graph: Graph
    timely: bool = False
    variants: dict[str, Variant] = field(default_factory=dict)
    projections: dict[str, NDArray[np.int8]] = field(default_factory=dict)
    importance: dict[str, NDArray[np.uint16]] = field(default_factory=dict)

    def level(self, merges: Merges, joint: Joint | None = None) -> Level:
        """A level of the plan; with what was measured of it, if anything was."""
        choices = {name: self._choice(merge) for name, merge in merges.items()}
        if joint is None:
            return Level(choices, 0.0, 0.0)
        agreement = None if joint.agreement is None else round(joint.agreement, 2)
        return Level(choices, joint.totals.flops_reduction, joint.saving, agreement)

    def _choice(self, merge: Merge) -> Choice:
        curve, setting = merge.curve, merge.setting
        if curve.node not in self.variants:
            key = f"{curve.node}.projection"
            weigh = f"{curve.node}.importance" if curve.policy in BUDGETED else ""
            bits = len(curve.projection)
            self.variants[curve.node] = Variant(
                curve.patch, bits, SPARSITY, curve.seed, key, curve.policy, weigh, curve.algorithm,
                dense_above=round(min(curve.break_even, MOST_KEPT), 4) if self.timely else 1.0,
            )  # fmt: skip
            self.projections[key] = curve.projection
            if weigh:
                self.importance[weigh] = curve.importance
        return Choice(0, setting.bits, setting.budget)

    def bundle(self, levels: Sequence[Level]) -> Bundle:
        """A bundle in memory with these levels above level 0."""
        layers = tuple(
            LayerPlan(n.name, (self.variants[n.name],) if n.name in self.variants else (), "on trial")
            for n in self.graph.nodes
            if n.op == "conv"
        )
        plan = Plan(layers, (Level({}, 0.0, 0.0), *levels))
        return Bundle(
            graph=self.graph, plan=plan, preprocessing=Preprocessing(), classes=(), target="host", dtype="fp32",
            arena_bytes=0, made_by="haste-edge", projections=self.projections, importance=self.importance,
        )  # fmt: skip


def measure_levels(
    material: Material,
    shapes: Mapping[str, Shape],
    levels: Sequence[Merges],
    inputs: Mapping[str, Tensor],
    report: Callable[[int, int], None] = lambda done, total: None,
) -> list[Joint]:
    """Each of the levels on all pictures. inputs: input name -> (N, ...). report: gets frames done, and all."""
    if not levels:
        return []
    bundle = material.bundle([material.level(merges) for merges in levels])
    flops = NetworkFlops(bundle.graph, shapes, bundle.plan, bundle.projections)
    backend, _ = choose_backend("auto", bundle)
    frames = len(next(iter(inputs.values())))
    pictures = {name: tensor.numpy() for name, tensor in inputs.items()}
    outputs: list[list[Arrays]] = [[] for _ in range(len(levels) + 1)]
    totals = [Totals(0, 0, 0, 0)] * len(levels)
    try:
        for frame in range(frames):
            one = {name: batch[frame] for name, batch in pictures.items()}
            for number, answers in enumerate(outputs):
                answers.append(backend.run(one, number))
                if number:
                    totals[number - 1] += flops.totals(number, backend.counts())
            report(frame + 1, frames)
    finally:
        backend.close()
    parts = output_parts(bundle.graph, shapes)
    exact, *others = ({name: np.stack([a[name] for a in answers]) for name in answers[0]} for answers in outputs)
    return [
        Joint(t, distortion(_tensors(y), _tensors(exact), parts), _agreement(y, exact))
        for t, y in zip(totals, others, strict=True)
    ]


def _tensors(arrays: Arrays) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def are_scores(shape: Shape) -> bool:
    """Whether an output is a vector of three scores or more, whose largest is the answer."""
    return len(shape) == 1 and shape[0] >= 3


def _agreement(outputs: Arrays, exact: Arrays) -> float | None:
    equal = [outputs[name].argmax(1) == y.argmax(1) for name, y in exact.items() if are_scores(y.shape[1:])]
    return 100.0 * float(np.logical_and.reduce(equal).mean()) if equal else None
