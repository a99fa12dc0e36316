"""Making a plan: candidates, measurements, a ladder, and a reason for every convolution."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from haste_edge.errors import PlanError
from haste_edge.plan import ladder
from haste_edge.plan.candidates import Candidate, find_candidates
from haste_edge.plan.cost_model import FLOAT, CostModel
from haste_edge.plan.joint import Joint, Material, measure_levels
from haste_edge.plan.ladder import Point
from haste_edge.plan.measure import Curve, Measurements, Progress
from haste_edge.plan.reasons import Aim, dense_reason, merged_reason
from haste_edge.plan.restart import downstream
from haste_edge.plan.settings import BUDGETS
from haste_edge.synthetic import pictures as synthetic_pictures
from haste_edge.synthetic import white_noise
from haste_edge.targets import Target
from haste_runtime.flops import conv_geometries, dense_flops
from haste_runtime.graph import Graph, Shape
from haste_runtime.operators import check_graph
from haste_runtime.plan import POLICIES, LayerPlan, Level, Plan
from haste_runtime.preprocessing import Preprocessing

OBJECTIVES = ("flops", "time")
FEWEST_LEVELS = 4  # above 0, whatever merging does to the network, if that many are asked for
MOST_DISTORTION = 0.2  # of the last level, measured jointly: there the networks tried had lost some two to five points
TRIALS = 16  # points on the path that are measured jointly, to find where the network is spoilt
PICTURES = (6, 16)  # fewest and most that single layers are measured on
LEVEL_PICTURES = (16, 128)  # fewest and most that levels are measured on
WORK = 0.6e12  # multiply-adds that measuring single layers, and later levels, may take; decides on the pictures
SLOW_STEPS = 10  # of progress, for each time that levels are measured
PICTURE_SEED = 20230  # of the synthetic pictures: not the plan's, so that other projections see the same pictures


class PlanMade(NamedTuple):
    """projections: `Variant.projection` -> int8 (L, d). importance: `Variant.importance` -> uint16 (C,)."""

    plan: Plan
    projections: dict[str, NDArray[np.int8]]
    importance: dict[str, NDArray[np.uint16]]


def make_plan(
    graph: Graph,
    preprocessing: Preprocessing,
    target: Target,
    objective: str = "flops",
    levels: int = 8,
    seed: int = 0,
    progress: Progress | None = None,
    pictures: Tensor | None = None,
    policy: str = "budget",
    patches: Sequence[int] = (),
) -> PlanMade:
    """The plan of a network.

    Important:
        graph: after the passes. preprocessing: how synthetic pictures are normalised.
        target: its cost model decides what merging costs in time.
        objective: "flops", or "time" (layers merge only where the target's cost model predicts that to be quicker).
        levels: how many above level 0 at most; a network that can merge has at least 4 of them.

    To try:
        pictures: unlabelled ones of your own, (N, C, H, W), ready for the network's only input, instead of synthetic
        ones; some are picked evenly. policy: who forms a group (`haste_runtime.grouping`). patches: tile sides to try,
        instead of about 8 and 16. seed: of the projections. progress: called with (what is being done, steps done,
        steps in all).

    The same arguments give the same plan. A network that cannot merge gets level 0 alone, and reasons. Raises PlanError
    for wrong arguments.
    """
    _check_request(graph, objective, levels, pictures, policy, patches)
    report = progress or (lambda what, done, total: None)
    shapes = check_graph(graph)
    candidates = find_candidates(graph, shapes, patches)
    merging = [c for c in candidates if c.patches]
    cost_model = CostModel(target, FLOAT * graph.parameters())
    if not merging:
        return _assemble(candidates, {}, {}, [], Material(graph), cost_model, Aim(objective, target.name, False))
    candidates = _affordable(graph, shapes, candidates)
    merging = [c for c in candidates if c.patches]
    count = _afford(PICTURES, _layer_work(graph, shapes, merging))
    inputs = _inputs(graph, preprocessing, pictures, count)
    measurements = Measurements(graph, shapes, candidates, inputs, cost_model, policy, seed)
    curves: dict[str, list[Curve]] = {}
    steps = len(merging) + 2 * SLOW_STEPS
    for done, candidate in enumerate(merging):
        report(f"measuring {candidate.node}", done, steps)
        curves[candidate.node] = measurements.curves(candidate.node)
    saving, hopeless = _saving(objective, curves)
    chosen = _choose_patches(curves, saving, levels)
    points = ladder.path(chosen, saving)
    material = Material(graph)
    measure = partial(_measure, points, material, shapes)

    def slowly(what: str, first: int) -> Callable[[int, int], None]:
        return lambda done, total: report(what, first + SLOW_STEPS * done // total, steps)

    tried = ladder.pick(points, TRIALS)
    last = _last_useful(points, measure(tried, inputs, slowly("measuring levels", len(merging))))
    dense_work = sum(dense_flops(g) // 2 for g in conv_geometries(graph, shapes).values())
    more = _inputs(graph, preprocessing, pictures, _afford(LEVEL_PICTURES, (levels + 1) * dense_work))
    wanted = min(FEWEST_LEVELS, levels)
    found: list[tuple[Point, Joint]] = []
    for end in dict.fromkeys((last, len(points) - 1)):  # the whole path, if what is useful of it has too few levels
        if len(found) < wanted:
            picked = ladder.pick(points[: end + 1], levels)
            joints = measure(picked, more, slowly("measuring the ladder", len(merging) + SLOW_STEPS))
            found = [(points[i], joints[i]) for i in _ascending(picked, joints, wanted)]
    report("planned", steps, steps)
    return _assemble(candidates, curves, chosen, found, material, cost_model, Aim(objective, target.name, hopeless))


def _check_request(
    graph: Graph, objective: str, levels: int, pictures: Tensor | None, policy: str, patches: Sequence[int]
) -> None:
    if objective not in OBJECTIVES:
        raise PlanError(f"There is no objective {objective!r}.", f"Use one of {', '.join(OBJECTIVES)}.")
    if policy not in POLICIES:
        raise PlanError(f"There is no policy {policy!r}.", f"Use one of {', '.join(POLICIES)}.")
    if levels < 1:
        raise PlanError(f"A ladder with {levels} levels above level 0 is none.", "Ask for 1 or more; 8 is usual.")
    if any(m < 1 for m in patches):
        raise PlanError(f"A patch has at least 1 output pixel a side, not {min(patches)}.", "8 and 16 are usual.")
    if pictures is None:
        return
    if len(graph.inputs) != 1:
        raise PlanError("Pictures were given for a network with several inputs.", "Plan it without pictures.")
    wanted = graph.inputs[0].shape
    if tuple(pictures.shape[1:]) != wanted or len(pictures) < 1:
        raise PlanError(f"The pictures have shape {tuple(pictures.shape)}.", f"The network needs (N, {wanted}).")
    if not bool(torch.isfinite(pictures).all()):
        raise PlanError("The pictures hold NaN or infinity.", "Give pictures as the network's input expects them.")


def _inputs(graph: Graph, preprocessing: Preprocessing, pictures: Tensor | None, count: int) -> dict[str, Tensor]:
    """Input name -> what to measure on: some of the user's pictures, or noise that looks like pictures."""
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
    if PICTURES[0] * _layer_work(graph, shapes, candidates) <= WORK:
        return candidates
    return tuple(replace(c, patches=tuple(sorted(c.patches, key=lambda m: abs(m - 8))[:1])) for c in candidates)


def _layer_work(graph: Graph, shapes: Mapping[str, Shape], candidates: Sequence[Candidate]) -> int:
    """Multiply-adds that measuring takes per picture: every patch size of every layer runs all that comes after it."""
    macs = {name: dense_flops(geometry) // 2 for name, geometry in conv_geometries(graph, shapes).items()}
    total = 0
    for candidate in candidates:
        if candidate.patches:
            after = sum(macs.get(node.name, 0) for node in downstream(graph, candidate.node, shapes).nodes)
            total += after * len(candidate.patches) * len(BUDGETS)
    return total


def _afford(pictures: tuple[int, int], work: int) -> int:
    """How many pictures, between the fewest and the most, that `WORK` pays for."""
    fewest, most = pictures
    return max(fewest, min(most, int(WORK / max(work, 1))))


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


def _measure(
    points: Sequence[Point],
    material: Material,
    shapes: Mapping[str, Shape],
    indices: Sequence[int],
    inputs: Mapping[str, Tensor],
    report: Callable[[int, int], None],
) -> dict[int, Joint]:
    """Point's index -> what it does to the network."""
    joints = measure_levels(material, shapes, [points[i].merges for i in indices], inputs, report)
    return dict(zip(indices, joints, strict=True))


def _last_useful(points: Sequence[Point], tried: Mapping[int, Joint]) -> int:
    """The last point before the network is spoilt: between two trials by what points save alone; 0 if all spoil it."""
    before: tuple[float, float] = (0.0, 0.0)  # saving, distortion
    for index, joint in tried.items():
        saving = points[index].saving
        if joint.distortion > MOST_DISTORTION:
            share = (MOST_DISTORTION - before[1]) / (joint.distortion - before[1])
            return ladder.nearest(points, before[0] + share * (saving - before[0]))
        before = (saving, joint.distortion)
    return len(points) - 1


def _ascending(indices: Sequence[int], joints: Mapping[int, Joint], wanted: int) -> list[int]:
    """Without levels that save no more than a weaker one and, while more than ``wanted`` are left, without those that a
    stronger level beats in both."""
    kept: list[int] = []
    for index in indices:
        best = joints[kept[-1]].saving if kept else 0.0
        if joints[index].saving > best:
            kept.append(index)
    for index in list(kept[:-1]):
        stronger = kept[kept.index(index) + 1 :]
        if len(kept) > wanted and any(joints[i].distortion <= joints[index].distortion for i in stronger):
            kept.remove(index)
    return kept


def _assemble(
    candidates: Sequence[Candidate],
    curves: Mapping[str, Sequence[Curve]],
    chosen: Mapping[str, Curve],
    found: Sequence[tuple[Point, Joint]],
    material: Material,
    cost_model: CostModel,
    aim: Aim,
) -> PlanMade:
    """The plan of these levels, with only the layers as variants that some level merges."""
    used: dict[str, dict[int, int]] = {}  # node -> level -> index of the setting
    for number, (point, _) in enumerate(found, start=1):
        for node, merge in point.merges.items():
            used.setdefault(node, {})[number] = merge.index
    levels = [Level({}, 0.0, 0.0, 100.0), *(material.level(point.merges, joint) for point, joint in found)]
    layers = []
    for candidate in candidates:
        node, flops = candidate.node, dense_flops(candidate.geometry)
        if node in used:
            dense = (flops, cost_model.dense(candidate.geometry).seconds)
            rivals = [c.patch for c in curves[node] if c.patch != chosen[node].patch]
            reason = merged_reason(candidate, dense, chosen[node], used[node], rivals, aim)
        elif candidate.patches:
            reason = dense_reason(flops, chosen[node], aim)
        else:
            reason = candidate.reason
        layers.append(LayerPlan(node, (material.variants[node],) if node in used else (), reason))
    variants = [variant for layer in layers for variant in layer.variants]
    projections = {v.projection: material.projections[v.projection] for v in variants}
    importance = {v.importance: material.importance[v.importance] for v in variants if v.importance}
    return PlanMade(Plan(tuple(layers), tuple(levels), aim.objective), projections, importance)
