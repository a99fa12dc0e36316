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
from haste_edge.plan import pictures as looks
from haste_edge.plan.candidates import Candidate, find_candidates
from haste_edge.plan.cost_model import FLOAT, CostModel
from haste_edge.plan.end import CLOSER, MOST_DISTORTION, TRIALS, between, harm, last_useful
from haste_edge.plan.joint import Joint, Material, are_scores, measure_levels
from haste_edge.plan.ladder import Point
from haste_edge.plan.measure import Curve, Measurements, Progress
from haste_edge.plan.reasons import Aim, dense_reason, merged_reason
from haste_edge.plan.restart import downstream
from haste_edge.plan.settings import BUDGETS
from haste_edge.targets import Target
from haste_runtime.flops import conv_geometries, dense_flops
from haste_runtime.graph import Graph, Shape
from haste_runtime.operators import check_graph
from haste_runtime.plan import POLICIES, LayerPlan, Level, Plan
from haste_runtime.preprocessing import Preprocessing

OBJECTIVES = ("flops", "time")
PLANNED_POLICIES = ("auto", *POLICIES)
FEWEST_LEVELS = 4  # above 0 that save FLOPs, whatever merging does to the network, if that many are asked for
LARGE_PATCH_ALLOWANCE = 0.1  # large patches run quicker than the cost model knows: what they may miss of the best
PICTURES = (6, 32)  # fewest and most that single layers are measured on
END_PICTURES = (8, 64)  # fewest and most that show where the ladder ends, if they are synthetic
LEVEL_PICTURES = (16, 128)  # fewest and most that levels are measured on
WORK = 1.2e12  # multiply-adds that measuring single layers, and later levels, may take; decides on the pictures
NONE_ASKED_FOR = "no level above 0 was asked for"
SLOW_STEPS = 10  # of progress, for each time that levels are measured


class PlanMade(NamedTuple):
    """projections: `Variant.projection` -> int8 (L, d). importance: `Variant.importance` -> uint16 (C,)."""

    plan: Plan
    projections: dict[str, NDArray[np.int8]]
    importance: dict[str, NDArray[np.uint16]]


class _Climbed(NamedTuple):
    """The levels found, above level 0, and what they are made of. chosen: each layer's curve, of its best patch."""

    chosen: dict[str, Curve]
    material: Material
    found: list[tuple[Point, Joint]]
    aim: Aim


def make_plan(
    graph: Graph,
    preprocessing: Preprocessing,
    target: Target,
    objective: str = "flops",
    levels: int = 8,
    seed: int = 0,
    progress: Progress | None = None,
    pictures: Tensor | None = None,
    policy: str = "auto",
    patches: Sequence[int] = (),
    winograd: bool = True,
) -> PlanMade:
    """The plan of a network.

    Important:
        graph: after the passes. preprocessing: how synthetic pictures are normalised.
        target: its cost model decides what merging costs in time.
        objective: "flops", or "time" (layers merge only where the target's cost model predicts that to be quicker).
        levels: how many above level 0 at most. To save FLOPs a network that can merge has at least 4 of them. To
        save time it has those that leave it of use, and none if no merged layer is predicted to be quicker, or the
        first of them spoils it. 0 is the exact network alone, and nothing is measured.

    To try:
        pictures: unlabelled ones of your own, (N, C, H, W), ready for the network's only input, instead of synthetic
        ones; some are picked evenly. policy: who forms a group (`haste_runtime.grouping`), or "auto": "affine", but to
        save time "drop" where that is better. patches: tile sides to try,
        instead of about 8 and 16. winograd: layers may be computed by Winograd's algorithms where the target's cost
        model predicts that to be quicker. seed: of the projections. progress: called with (what is being done, steps
        done, steps in all).

    The same arguments give the same plan. A network that cannot merge gets level 0 alone, and reasons. Raises PlanError
    for wrong arguments.
    """
    _check_request(graph, objective, levels, pictures, policy, patches)
    report = progress or (lambda what, done, total: None)
    shapes = check_graph(graph)
    candidates = find_candidates(graph, shapes, patches)
    if levels == 0:
        candidates = tuple(replace(c, patches=(), reason=c.reason or NONE_ASKED_FOR) for c in candidates)
    merging = [c for c in candidates if c.patches]
    cost_model = CostModel(target, FLOAT * graph.parameters(), winograd)
    if not merging:
        nothing = _Climbed({}, Material(graph), [], Aim(objective, target.name))
        return _assemble(candidates, {}, nothing, cost_model)
    candidates = _affordable(graph, shapes, candidates)
    merging = [c for c in candidates if c.patches]
    count = _afford(PICTURES, _layer_work(graph, shapes, merging))
    make_inputs = partial(_inputs, graph, preprocessing, pictures)
    inputs = make_inputs(count, looks.LAYERS_SEED)
    policies = {c.node: _policies(policy, objective, cost_model, c) for c in merging}
    measurements = Measurements(graph, shapes, candidates, inputs, cost_model, policies, seed)
    curves: dict[str, list[Curve]] = {}
    steps = len(merging) + 2 * SLOW_STEPS
    for done, candidate in enumerate(merging):
        report(f"measuring {candidate.node}", done, steps)
        curves[candidate.node] = measurements.curves(candidate.node)
    dense_work = sum(dense_flops(g) // 2 for g in conv_geometries(graph, shapes).values())
    by_agreement = pictures is not None and all(are_scores(shapes[name]) for name in graph.outputs)
    fewest_and_most = LEVEL_PICTURES if pictures is not None else END_PICTURES
    trial = make_inputs(_afford(fewest_and_most, (TRIALS + CLOSER) * dense_work), looks.LEVELS_SEED, noise=0.0)
    more = make_inputs(_afford(LEVEL_PICTURES, (levels + 1) * dense_work), looks.LEVELS_SEED)
    timely = objective == "time"
    wanted = 0 if timely else min(FEWEST_LEVELS, levels)

    def slowly(what: str, first: int, count: int = SLOW_STEPS) -> Callable[[int, int], None]:
        return lambda done, total: report(what, first + count * done // total, steps)

    saving, allowance = (_seconds_saved, LARGE_PATCH_ALLOWANCE) if timely else (_flops_saved, 0.0)
    chosen = _choose_patches(curves, saving, levels, allowance)
    points, material = ladder.path(chosen, saving), Material(graph, timely)
    measure = partial(_measure, points, material, shapes)

    def useful_end() -> int:
        """The index of the last point of the path that leaves the network of use."""
        tried = dict[int, float]()
        trials, begun = ladder.pick(points, TRIALS), len(merging)
        for count in (SLOW_STEPS * TRIALS // (TRIALS + CLOSER), SLOW_STEPS * CLOSER // (TRIALS + CLOSER)):
            joined = measure(trials, trial, slowly("measuring levels", begun, count))
            tried |= {index: harm(joint, by_agreement) for index, joint in joined.items()}
            tried = dict(sorted(tried.items()))
            trials, begun = between(points, tried), begun + count
        return last_useful(points, tried)

    def climb(end: int) -> list[tuple[Point, Joint]]:
        picked = ladder.pick(points[: end + 1], levels)
        joints = measure(picked, more, slowly("measuring the ladder", len(merging) + SLOW_STEPS))
        return [(points[i], joints[i]) for i in _ascending(picked, joints, wanted)]

    found = climb(useful_end())
    if len(found) < wanted:
        found = climb(len(points) - 1)
    report("planned", steps, steps)
    return _assemble(candidates, curves, _Climbed(chosen, material, found, Aim(objective, target.name)), cost_model)


def _check_request(
    graph: Graph, objective: str, levels: int, pictures: Tensor | None, policy: str, patches: Sequence[int]
) -> None:
    if objective not in OBJECTIVES:
        raise PlanError(f"There is no objective {objective!r}.", f"Use one of {', '.join(OBJECTIVES)}.")
    if policy not in PLANNED_POLICIES:
        raise PlanError(f"There is no policy {policy!r}.", f"Use one of {', '.join(PLANNED_POLICIES)}.")
    if levels < 0:
        raise PlanError(f"A ladder cannot have {levels} levels above level 0.", "Ask for 0 or more; 8 is usual.")
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


def _policies(policy: str, objective: str, cost_model: CostModel, candidate: Candidate) -> tuple[str, ...]:
    """What is tried on one layer, where the policy that was asked for may be "auto"."""
    if policy != "auto":
        return (policy,)
    if objective == "flops":
        return ("affine",)
    largest = max(candidate.patches)
    return ("drop", "affine") if cost_model.worth_joining(candidate.geometry, largest) else ("drop",)


def _inputs(
    graph: Graph, preprocessing: Preprocessing, pictures: Tensor | None, count: int, seed: int, noise: float = 0.5
) -> dict[str, Tensor]:
    """Input name -> what to measure on; seed and noise: of synthetic pictures."""
    if pictures is not None:
        return looks.own(graph, pictures, count)
    return looks.synthetic(graph, preprocessing, count, seed, noise)


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


def _seconds_saved(curve: Curve) -> Sequence[float]:
    return curve.seconds_saved


def _flops_saved(curve: Curve) -> Sequence[float]:
    return curve.flops_saved


def _choose_patches(
    curves: Mapping[str, Sequence[Curve]], saving: ladder.Saving, levels: int, allowance: float
) -> dict[str, Curve]:
    """One patch size per layer: the best at the multipliers that the levels have.

    These follow from the path, and the path from the patches: start from those that can save most, and go round twice.
    """
    chosen = {node: max(options, key=lambda c: max(saving(c))) for node, options in curves.items()}
    for _ in range(2):
        useful = [p for p in ladder.path(chosen, saving) if p.distortion <= MOST_DISTORTION]
        slopes = ladder.multipliers(useful, levels)
        chosen = {node: ladder.choose_patch(options, saving, slopes, allowance) for node, options in curves.items()}
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
    climbed: _Climbed,
    cost_model: CostModel,
) -> PlanMade:
    """The plan of these levels, with only the layers as variants that some level merges."""
    chosen, material, found, aim = climbed
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
            rivals = {c.patch for c in curves[node]} - {chosen[node].patch}
            reason = merged_reason(candidate, dense, chosen[node], used[node], rivals, aim)
        elif candidate.patches:
            reason = dense_reason(flops, chosen[node], aim)
        else:
            reason = candidate.reason
        own = (material.variants[node],) if node in used else ()
        layers.append(LayerPlan(node, own, reason, cost_model.algorithm(candidate.geometry)))
    variants = [variant for layer in layers for variant in layer.variants]
    projections = {v.projection: material.projections[v.projection] for v in variants}
    importance = {v.importance: material.importance[v.importance] for v in variants if v.importance}
    return PlanMade(Plan(tuple(layers), tuple(levels), aim.objective), projections, importance)
