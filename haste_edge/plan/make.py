"""Making a plan: candidates, measurements, a ladder, and a reason for every convolution."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from haste_edge.errors import PlanError
from haste_edge.plan import ladder
from haste_edge.plan.candidates import Candidate, find_candidates
from haste_edge.plan.cost_model import FLOAT, CostModel
from haste_edge.plan.ladder import Point
from haste_edge.plan.measure import BITS, MEASURED_BITS, SPARSITY, Curve, Joint, Measurements, Progress
from haste_edge.plan.reasons import Aim, dense_reason, merged_reason
from haste_edge.plan.restart import downstream
from haste_edge.synthetic import pictures as synthetic_pictures
from haste_edge.synthetic import white_noise
from haste_edge.targets import Target
from haste_runtime.flops import conv_geometries, dense_flops
from haste_runtime.graph import Graph, Shape
from haste_runtime.operators import check_graph
from haste_runtime.plan import Choice, LayerPlan, Level, Plan, Variant
from haste_runtime.preprocessing import Preprocessing

OBJECTIVES = ("flops", "time")
FEWEST_LEVELS = 4  # above 0, whatever merging does to the network, if that many are asked for
MOST_DISTORTION = 0.12  # of the last level, measured jointly: there the networks tried had lost about five points
PICTURES = (6, 24)  # fewest and most
WORK = 1.0e12  # multiply-adds planning may take; decides how many pictures are used between these two
PICTURE_SEED = 20230  # of the synthetic pictures: not the plan's, so that other projections see the same pictures


def make_plan(
    graph: Graph,
    preprocessing: Preprocessing,
    target: Target,
    objective: str = "flops",
    levels: int = 8,
    seed: int = 0,
    progress: Progress | None = None,
    pictures: Tensor | None = None,
) -> tuple[Plan, dict[str, NDArray[np.int8]]]:
    """The plan of a network, and its projections: `Variant.projection` -> int8 (L, d).

    Important:
        graph: after the passes. preprocessing: how synthetic pictures are normalised.
        target: its cost model decides what merging costs in time.
        objective: "flops", or "time" (layers merge only where the target's cost model predicts that to be quicker).
        levels: how many above level 0 at most; a network that can merge has at least 4 of them.

    To try:
        seed: of the projections. pictures: unlabelled ones of your own, (N, C, H, W), ready for the network's only
        input, instead of synthetic ones; 6 to 24 of them are used, picked evenly. progress: called with (what is being
        done, steps done, steps in all).

    The same arguments give the same plan. A network that cannot merge gets level 0 alone, and reasons. Raises PlanError
    for wrong arguments.
    """
    _check_request(graph, objective, levels, pictures)
    report = progress or (lambda what, done, total: None)
    shapes = check_graph(graph)
    candidates = find_candidates(graph, shapes, objective)
    merging = [c for c in candidates if c.patches]
    cost_model = CostModel(target, FLOAT * graph.parameters())
    if not merging:
        return _assemble(candidates, {}, {}, [], cost_model, Aim(objective, target.name, False))
    candidates = _affordable(graph, shapes, candidates)
    merging = [c for c in candidates if c.patches]
    inputs = _inputs(graph, shapes, preprocessing, merging, pictures)
    measurements = Measurements(graph, shapes, candidates, inputs, cost_model, seed)
    curves: dict[str, list[Curve]] = {}
    for done, candidate in enumerate(merging):
        report(f"measuring {candidate.node}", done, len(merging) + levels)
        curves[candidate.node] = measurements.curves(candidate.node)
    saving, hopeless = _saving(objective, curves)
    chosen = _choose_patches(curves, saving, levels)
    points = ladder.path(chosen, saving)
    steps = len(merging) + levels
    found = _levels(
        points,
        measurements,
        levels,
        lambda done: report("measuring levels", min(len(merging) + done, steps - 1), steps),
    )
    report("planned", steps, steps)
    return _assemble(candidates, curves, chosen, found, cost_model, Aim(objective, target.name, hopeless))


def _check_request(graph: Graph, objective: str, levels: int, pictures: Tensor | None) -> None:
    if objective not in OBJECTIVES:
        raise PlanError(f"There is no objective {objective!r}.", f"Use one of {', '.join(OBJECTIVES)}.")
    if levels < 1:
        raise PlanError(f"A ladder with {levels} levels above level 0 is none.", "Ask for 1 or more; 8 is usual.")
    if pictures is None:
        return
    if len(graph.inputs) != 1:
        raise PlanError("Pictures were given for a network with several inputs.", "Plan it without pictures.")
    wanted = graph.inputs[0].shape
    if tuple(pictures.shape[1:]) != wanted or len(pictures) < 1:
        raise PlanError(f"The pictures have shape {tuple(pictures.shape)}.", f"The network needs (N, {wanted}).")
    if not bool(torch.isfinite(pictures).all()):
        raise PlanError("The pictures hold NaN or infinity.", "Give pictures as the network's input expects them.")


def _inputs(
    graph: Graph,
    shapes: Mapping[str, Shape],
    preprocessing: Preprocessing,
    merging: Sequence[Candidate],
    pictures: Tensor | None,
) -> dict[str, Tensor]:
    """Input name -> what to measure on: some of the user's pictures, or noise that looks like pictures."""
    fewest, most = PICTURES
    count = max(fewest, min(most, int(WORK / max(_work(graph, shapes, merging), 1))))
    if pictures is not None:
        evenly = torch.arange(min(count, len(pictures))) * len(pictures) // min(count, len(pictures))
        return {graph.inputs[0].name: pictures.detach()[evenly].to(torch.float32).contiguous()}
    found = {}
    for index, value in enumerate(graph.inputs):
        if len(value.shape) == 3:
            per_channel = len(preprocessing.mean) in (1, value.shape[0])
            mean, std = (preprocessing.mean, preprocessing.std) if per_channel else ((), ())
            scale = 255.0 / preprocessing.scale
            found[value.name] = synthetic_pictures(count, value.shape, mean, std, PICTURE_SEED + index, scale)
        else:
            found[value.name] = white_noise(count, value.shape[0], PICTURE_SEED + index)
    return found


def _affordable(graph: Graph, shapes: Mapping[str, Shape], candidates: tuple[Candidate, ...]) -> tuple[Candidate, ...]:
    """The candidates as they are, or for large networks each with one patch size only, the one nearest to 8."""
    if PICTURES[0] * _work(graph, shapes, candidates) <= WORK:
        return candidates
    return tuple(replace(c, patches=tuple(sorted(c.patches, key=lambda m: abs(m - 8))[:1])) for c in candidates)


def _work(graph: Graph, shapes: Mapping[str, Shape], candidates: Sequence[Candidate]) -> int:
    """Multiply-adds that measuring takes per picture: every patch size of every layer runs all that comes after it."""
    macs = {name: dense_flops(geometry) // 2 for name, geometry in conv_geometries(graph, shapes).items()}
    total = 0
    for candidate in candidates:
        if candidate.patches:
            after = sum(macs.get(node.name, 0) for node in downstream(graph, candidate.node, shapes).nodes)
            total += after * len(candidate.patches) * len(MEASURED_BITS)
    return total


def _saving(objective: str, curves: Mapping[str, Sequence[Curve]]) -> tuple[ladder.Saving, bool]:
    """What a level saves, and whether time was asked for in vain: where no layer would be quicker, FLOPs are saved."""
    quicker = any(max(curve.seconds_saved) > 0 for options in curves.values() for curve in options)
    if objective == "time" and quicker:
        return lambda curve: curve.seconds_saved, False
    return lambda curve: curve.flops_saved, objective == "time"


def _choose_patches(curves: Mapping[str, Sequence[Curve]], saving: ladder.Saving, levels: int) -> dict[str, Curve]:
    """One patch size per layer: the best at the multipliers that the levels have.

    These follow from the path, and the path from the patches: start from those that can save most, and go round twice.
    """
    chosen = {node: max(options, key=lambda c: max(saving(c))) for node, options in curves.items()}
    for _ in range(2):
        useful = [p for p in ladder.path(chosen, saving) if p.distortion <= MOST_DISTORTION]
        multipliers = ladder.multipliers(useful, levels)
        chosen = {node: ladder.choose_patch(options, saving, multipliers) for node, options in curves.items()}
    return chosen


def _levels(
    points: Sequence[Point], measurements: Measurements, levels: int, report: Callable[[int], None]
) -> list[tuple[Point, Joint]]:
    """The levels above 0, weakest first, each measured jointly."""
    measured: dict[int, Joint] = {}

    def joint(index: int) -> Joint:
        if index not in measured:
            report(len(measured))
            measured[index] = measurements.joint(points[index].merges)
        return measured[index]

    last = _last_useful(len(points), lambda index: joint(index).distortion)
    wanted = min(FEWEST_LEVELS, levels)
    found = _ascending(ladder.pick(points[: last + 1], levels), joint, wanted)
    if len(found) < wanted:
        found = _ascending(ladder.pick(points, levels), joint, wanted)
    return [(points[index], joint(index)) for index in found]


def _last_useful(count: int, distortion: Callable[[int], float]) -> int:
    """The last of ``count`` points before the network is spoilt, by bisection; the first if all are."""
    low, high = 0, count  # everything before low + 1 is fine, everything from high on is not
    while high - low > 1:
        middle = (low + high) // 2
        if distortion(middle) <= MOST_DISTORTION:
            low = middle
        else:
            high = middle
    return low


def _ascending(indices: Sequence[int], joint: Callable[[int], Joint], wanted: int) -> list[int]:
    """Without levels that save no more than a weaker one and, while more than ``wanted`` are left, without those that a
    stronger level beats in both."""
    kept: list[int] = []
    for index in indices:
        best = joint(kept[-1]).flops_reduction_network if kept else 0.0
        if joint(index).flops_reduction_network > best:
            kept.append(index)
    for index in list(kept[:-1]):
        stronger = kept[kept.index(index) + 1 :]
        if len(kept) > wanted and any(joint(i).distortion <= joint(index).distortion for i in stronger):
            kept.remove(index)
    return kept


def _assemble(
    candidates: Sequence[Candidate],
    curves: Mapping[str, Sequence[Curve]],
    chosen: Mapping[str, Curve],
    ladder_points: Sequence[tuple[Point, Joint]],
    cost_model: CostModel,
    aim: Aim,
) -> tuple[Plan, dict[str, NDArray[np.int8]]]:
    """The plan of these levels, with only the layers as variants that some level merges."""
    bits: dict[str, dict[int, int]] = {}  # node -> level -> bits
    for number, (point, _) in enumerate(ladder_points, start=1):
        for node, merge in point.merges.items():
            bits.setdefault(node, {})[number] = merge.bits
    layers, projections = [], {}
    for candidate in candidates:
        node, flops = candidate.node, dense_flops(candidate.geometry)
        variants: tuple[Variant, ...] = ()
        if node in bits:
            curve, key = chosen[node], f"{node}.projection"
            variants = (Variant(curve.patch, BITS, SPARSITY, curve.seed, key),)
            projections[key] = curve.projection
            dense = (flops, cost_model.dense(candidate.geometry).seconds)
            rivals = [c.patch for c in curves[node] if c.patch != curve.patch]
            reason = merged_reason(candidate, dense, curve, bits[node], rivals, aim)
        elif candidate.patches:
            reason = dense_reason(flops, chosen[node], aim)
        else:
            reason = candidate.reason
        layers.append(LayerPlan(node, variants, reason))
    levels = [Level({}, 0.0, 0.0)]
    for point, joint in ladder_points:
        choices = {node: Choice(0, merge.bits) for node, merge in point.merges.items()}
        levels.append(Level(choices, joint.flops_reduction(bits), joint.flops_reduction_network))
    return Plan(tuple(layers), tuple(levels), aim.objective), projections
