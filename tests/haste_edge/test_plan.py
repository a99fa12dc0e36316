"""Plans keep their promises on small random networks, and say why for every convolution."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import GraphBuilder, bundle_for
from torch import Tensor

from haste_edge import torch_graph
from haste_edge.errors import PlanError
from haste_edge.plan import end, explain, ladder, make, make_plan
from haste_edge.plan.candidates import find_candidates, patch_sizes
from haste_edge.plan.cost_model import CostModel
from haste_edge.plan.joint import Joint, Material, measure_levels
from haste_edge.plan.make import PlanMade
from haste_edge.plan.measure import Curve, Measurements, Merge, distortion, layer_seed, output_parts
from haste_edge.plan.restart import downstream
from haste_edge.plan.settings import Setting
from haste_edge.synthetic import pictures as synthetic_pictures
from haste_edge.targets import load_target
from haste_runtime import Session
from haste_runtime.flops import Totals, dense_flops
from haste_runtime.graph import Graph
from haste_runtime.operators import check_graph
from haste_runtime.plan import POLICIES, Plan
from haste_runtime.preprocessing import Preprocessing
from haste_runtime.projection import projection_of


@lru_cache
def network(seed: int = 0, width: int = 16, side: int = 16) -> Graph:
    """A residual network in small: a stem, two blocks, the second of stride 2 with a 1x1 shortcut, a depthwise conv."""
    b = GraphBuilder(seed, x=(3, side, side))
    b.conv("stem", "x", 3, width, 3, activation="relu")
    b.conv("a1", "stem", width, width, 3, activation="relu")
    b.conv("a2", "a1", width, width, 3, residual="stem", activation="relu")
    b.conv("b1", "a2", width, 2 * width, 3, 2, padding=(1, 1, 1, 1), activation="relu")
    b.conv("short", "a2", width, 2 * width, 1, 2, padding=(0, 0, 0, 0))
    b.conv("b2", "b1", 2 * width, 2 * width, 3, residual="short", activation="relu")
    b.conv("depth", "b2", 2 * width, 2 * width, 3, groups=2 * width, activation="relu")
    b.node("mean", "mean", "depth", keepdim=0)
    b.linear("logits", "mean", 2 * width, 5)
    return b.graph()


@lru_cache
def made(objective: str = "flops", levels: int = 8, seed: int = 0, width: int = 16, target: str = "rpi4") -> PlanMade:
    return make_plan(network(width=width), Preprocessing(), load_target(target), objective, levels, seed)


def single(channels: int, filters: int, kernel: int = 3, side: int = 8, **conv: Any) -> Graph:
    b = GraphBuilder(1, x=(channels, side, side))
    b.conv("conv", "x", channels, filters, kernel, **conv)
    b.node("mean", "mean", "conv", keepdim=0)
    return b.graph()


def check_plan(graph: Graph, plan: Plan, projections: dict[str, np.ndarray], levels: int) -> None:
    """What holds of every plan."""
    assert [layer.node for layer in plan.layers] == [node.name for node in graph.nodes if node.op == "conv"]
    assert plan.levels[0].choices == {}
    assert plan.levels[0].flops_reduction == plan.levels[0].flops_reduction_network == 0.0
    assert len(plan.levels) <= levels + 1
    savings = [level.flops_reduction_network for level in plan.levels]
    assert savings == sorted(set(savings))
    keys = {variant.projection for layer in plan.layers for variant in layer.variants}
    assert keys == set(projections)
    geometries = {c.node: c.geometry for c in find_candidates(graph, check_graph(graph))}
    for layer in plan.layers:
        assert layer.reason
        for variant in layer.variants:
            matrix, side = projections[variant.projection], geometries[layer.node].patch_side(variant.patch)
            assert variant.projection == f"{layer.node}.projection"
            assert matrix.shape == (variant.bits, side * side)
            expected = projection_of(variant.policy, variant.seed, variant.bits, side, variant.sparsity)
            np.testing.assert_array_equal(matrix, expected)
    for level in plan.levels[1:]:
        assert level.choices
        for node, choice in level.choices.items():
            assert 0 <= choice.bits <= plan.layer(node).variants[choice.variant].bits


@pytest.mark.parametrize("objective", ["flops", "time"])
def test_plan_keeps_its_promises(objective: str) -> None:
    plan, projections, _ = made(objective)
    shares = [variant.dense_above for layer in plan.layers for variant in layer.variants]
    assert all(0 < share < 1 for share in shares) if objective == "time" else set(shares) == {1.0}
    check_plan(network(), plan, projections, 8)
    assert (1 if objective == "time" else 4) <= len(plan.levels) - 1 <= 8
    assert plan.objective == objective


def test_budgets_only_grow_from_level_to_level() -> None:
    plan = made().plan
    for weaker, stronger in zip(plan.levels[1:], plan.levels[2:], strict=False):
        assert set(weaker.choices) <= set(stronger.choices)
        assert all(stronger.choices[node].budget >= choice.budget for node, choice in weaker.choices.items())


def test_same_arguments_same_plan_other_seed_other_projections() -> None:
    plan, projections, _ = made()
    again, same, _ = make_plan(network(), Preprocessing(), load_target("rpi4"))
    assert again == plan
    assert all(np.array_equal(same[key], matrix) for key, matrix in projections.items())
    other = made(seed=1).plan
    seeds = [{layer.node: v.seed for layer in p.layers for v in layer.variants} for p in (plan, other)]
    assert not set(seeds[0].values()) & set(seeds[1].values())


def test_seed_differs_for_each_layer_and_patch() -> None:
    seeds = [layer_seed(s, node, m) for s in (0, 1) for node in ("a", "b") for m in (4, 8)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**32 for seed in seeds)


@pytest.mark.parametrize("levels", [1, 3, 5])
def test_levels_are_at_most_as_many_as_asked(levels: int) -> None:
    plan, projections, _ = made(levels=levels)
    check_plan(network(), plan, projections, levels)
    assert len(plan.levels) - 1 >= min(4, levels)


@pytest.mark.parametrize("graph", [single(16, 8), single(24, 24, side=4), single(32, 16, 1), single(64, 32, 5)])
def test_one_layer_is_enough_for_four_levels(graph: Graph) -> None:
    plan, projections, _ = make_plan(graph, Preprocessing(), load_target("host"))
    check_plan(graph, plan, projections, 8)
    assert len(plan.levels) - 1 >= 4


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        (single(3, 16), "3 channels"),
        (single(8, 16), "fewer than 16"),
        (single(32, 32, groups=32), "depthwise"),
        (single(32, 32, groups=4), "grouped"),
        (single(32, 16, stride=(1, 2), padding=(1, 1, 1, 1)), "not square"),
        (single(64, 1, 1), "does not pay"),
    ],
)
def test_what_cannot_merge_has_level_0_alone_and_a_reason(graph: Graph, words: str) -> None:
    plan, projections, _ = make_plan(graph, Preprocessing(), load_target("rpi4"))
    assert len(plan.levels) == 1
    assert projections == {}
    assert plan.layers[0].variants == ()
    assert words in plan.layers[0].reason


def test_network_without_convolutions() -> None:
    b = GraphBuilder(0, x=(12,))
    b.linear("out", "x", 12, 3)
    plan, projections, _ = make_plan(b.graph(), Preprocessing(), load_target("host"))
    assert plan == Plan((), plan.levels, "flops")
    assert len(plan.levels) == 1
    assert projections == {}


def test_explain_has_a_row_and_a_reason_for_every_convolution() -> None:
    plan = made().plan
    text = explain(plan, network())
    rows = text.splitlines()
    for layer in plan.layers:
        row = next(row for row in rows if row.split()[0] == layer.node)
        assert layer.reason in row
        assert ("patch" in row) == bool(layer.variants)
    assert "3 channels" in text
    assert "depthwise" in text
    assert sum(row.startswith("level ") for row in rows) == len(plan.levels)


def test_expected_savings_are_what_the_levels_do_on_the_pictures(tmp_path: Path) -> None:
    """Counted again by a session, with the pictures given: a plan's own numbers must be those of its own levels."""
    graph, pictures = network(), synthetic_pictures(4, (3, 16, 16), seed=9)
    plan, projections, importance = make_plan(graph, Preprocessing(), load_target("rpi4"), pictures=pictures)
    bundle = replace(bundle_for(graph), plan=plan, projections=projections, importance=importance)
    with Session(bundle, "numpy") as session:
        exact = session.run(pictures.numpy()).argmax(1)
        for number, level in enumerate(plan.levels[1:], start=1):
            session.level = number
            totals, answers = Totals(0, 0, 0, 0), []
            for picture in pictures.numpy():
                answers.append(int(session.run(picture[None]).argmax()))
                totals += session.stats.totals
            assert totals.flops_reduction_network == pytest.approx(level.flops_reduction_network, abs=0.01)
            assert totals.flops_reduction == pytest.approx(level.flops_reduction, abs=0.01)
            assert level.agreement == 100 * np.mean(answers == exact)


def test_pictures_of_ones_own_are_picked_evenly() -> None:
    graph, pictures = single(16, 8, side=6), torch.rand(400, 16, 6, 6)
    plan = make_plan(graph, Preprocessing(), load_target("rpi4"), pictures=pictures).plan
    evenly = pictures[torch.arange(128) * 400 // 128]
    assert make_plan(graph, Preprocessing(), load_target("rpi4"), pictures=evenly).plan == plan


def test_measuring_one_by_one_is_measuring_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large networks are run with fewer settings at a time, which changes nothing."""
    graph, shapes = network(), check_graph(network())
    candidates = find_candidates(graph, shapes)
    model, inputs = CostModel(load_target("rpi4"), 0), {"x": synthetic_pictures(3, (3, 16, 16))}
    measured = Measurements(graph, shapes, candidates, inputs, model, dict.fromkeys(shapes, ("budget",)), 0)
    together = measured.curves("a2")[0].distortion
    monkeypatch.setattr("haste_edge.plan.measure.RUN_BYTES", 1)
    np.testing.assert_allclose(measured.curves("a2")[0].distortion, together, rtol=1e-4)


def test_time_merges_only_where_the_cost_model_predicts_a_win() -> None:
    plan = made("time", width=32).plan
    shapes = check_graph(network(width=32))
    candidates = {c.node: c for c in find_candidates(network(width=32), shapes)}
    inputs = {"x": synthetic_pictures(4, (3, 16, 16))}
    model = CostModel(load_target("rpi4"), 4 * network(width=32).parameters())
    for layer in plan.layers:
        for variant in layer.variants:
            policies = dict.fromkeys(shapes, (variant.policy,))
            measured = Measurements(network(width=32), shapes, candidates.values(), inputs, model, policies, 0)
            curve = next(c for c in measured.curves(layer.node) if c.patch == variant.patch)
            assert max(curve.seconds_saved) > 0


@pytest.mark.parametrize(("objective", "fewest", "most"), [("flops", 4, 8), ("time", 1, 1)])
def test_a_network_that_is_spoilt_at_once_has_levels_that_save_flops(
    monkeypatch: pytest.MonkeyPatch, objective: str, fewest: int, most: int
) -> None:
    """For those that save time, one that leaves it of use is enough."""
    monkeypatch.setattr(make, "last_useful", lambda *given: 0)
    plan = make_plan(network(), Preprocessing(), load_target("rpi4"), objective).plan
    assert fewest <= len(plan.levels) - 1 <= most


def test_where_no_merged_layer_is_quicker_there_is_level_0_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A level that takes longer and answers worse would be of no use to anyone."""
    monkeypatch.setattr(make, "_seconds_saved", lambda curve: [-seconds for seconds in curve.flops_saved])
    made = make_plan(network(), Preprocessing(), load_target("rpi4"), "time")
    assert len(made.plan.levels) == 1
    assert (made.projections, made.importance) == ({}, {})
    assert not any(layer.variants for layer in made.plan.layers)


def test_without_levels_nothing_is_measured() -> None:
    seen: list[str] = []
    progress = lambda what, done, total: seen.append(what)  # noqa: E731
    plan = make_plan(network(), Preprocessing(), load_target("rpi4"), levels=0, progress=progress).plan
    usual = make_plan(network(), Preprocessing(), load_target("rpi4"), levels=1).plan
    assert (len(plan.levels), seen) == (1, [])
    assert [layer.node for layer in plan.layers] == [layer.node for layer in usual.layers]
    assert any("asked for" in layer.reason for layer in plan.layers)
    assert not any(layer.variants for layer in plan.layers)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"objective": "space"}, "objective"),
        ({"levels": -1}, "levels"),
        ({"policy": "median"}, "policy"),
        ({"patches": (8, 0)}, "pixel"),
        ({"pictures": torch.zeros(2, 3, 8, 8)}, "shape"),
        ({"pictures": torch.full((1, 3, 16, 16), torch.nan)}, "NaN"),
    ],
)
def test_wrong_requests_are_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(PlanError, match=words) as caught:
        make_plan(network(), Preprocessing(), load_target("rpi4"), **arguments)
    assert caught.value.hint


def test_progress_rises_to_the_end() -> None:
    seen: list[tuple[str, int, int]] = []
    make_plan(single(16, 8), Preprocessing(), load_target("host"), progress=lambda *step: seen.append(step))
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    assert len({total for _, _, total in seen}) == 1
    assert seen[-1][1] == seen[-1][2]


# --- the parts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("out", "wanted", "sizes"),
    [
        ((2, 2), (), (2,)),
        ((8, 8), (), (8,)),
        ((16, 16), (), (8, 16)),
        ((28, 28), (), (7, 14)),
        ((32, 32), (), (8, 16)),
        ((56, 56), (), (8, 14)),
        ((5, 9), (), (7, 9)),
        ((1, 1), (), (1,)),
        ((16, 16), (4, 32), (4, 16)),
        ((2, 2), (4, 8), (2,)),
    ],
)
def test_patch_sizes(out: tuple[int, int], wanted: tuple[int, ...], sizes: tuple[int, ...]) -> None:
    assert patch_sizes(out, wanted) == sizes


@pytest.mark.parametrize("name", ["stem", "a1", "a2", "short", "b2", "depth"])
def test_restart_gives_what_the_whole_network_gives(name: str) -> None:
    graph, shapes = network(), check_graph(network())
    x = synthetic_pictures(2, (3, 16, 16), seed=1)
    whole = torch_graph.run(graph, {"x": x}, record=[node.name for node in graph.nodes] + ["x"])
    rest = downstream(graph, name, shapes)
    check_graph(rest)
    assert name in {node.name for node in rest.nodes}
    assert len(rest.nodes) < len(graph.nodes) or name == "stem"
    again = torch_graph.run(rest, {value.name: whole.values[value.name] for value in rest.inputs})
    assert torch.equal(again.outputs["logits"], whole.outputs["logits"])


def test_restart_leaves_out_outputs_that_do_not_depend_on_the_node() -> None:
    b = GraphBuilder(0, x=(4, 6, 6))
    b.conv("left", "x", 4, 4, 3)
    b.conv("right", "x", 4, 4, 3)
    rest = downstream(b.graph("left", "right"), "right", check_graph(b.graph("left", "right")))
    assert rest.outputs == ("right",)
    assert [node.name for node in rest.nodes] == ["right"]
    assert set(rest.constants) == {"right.weight", "right.bias"}


def test_distortion_of_maps_is_relative_and_squared() -> None:
    exact = {"a": torch.ones(2, 4, 3, 3), "b": 2 * torch.ones(2, 4, 1, 1)}
    assert distortion({"a": 1.5 * exact["a"]}, exact) == pytest.approx(0.25)
    assert distortion({"a": exact["a"], "b": 3 * exact["b"]}, exact) == pytest.approx(2.0)
    assert distortion(exact, exact) == 0.0


def test_distortion_of_scores_ignores_their_mean_and_counts_pictures_alike() -> None:
    scores = torch.tensor([[1.0, 2.0, 4.0], [300.0, -100.0, 0.0]])
    assert distortion({"a": scores + 7}, {"a": scores}) == pytest.approx(0.0, abs=1e-6)
    assert distortion({"a": 0.5 * scores}, {"a": scores}) == pytest.approx(0.25)
    only_first = torch.stack([torch.zeros(3), scores[1]])
    assert distortion({"a": only_first}, {"a": scores}) == pytest.approx(0.5)
    assert distortion({"b": torch.tensor([[3.0]])}, {"b": torch.tensor([[2.0]])}) == pytest.approx(0.25)


def detector() -> Graph:
    """Places, in hundreds of pixels, and scores, nearly all about 0, joined to one output (2 + 3, 12, 12)."""
    b = GraphBuilder(0, x=(3, 12, 12))
    b.conv("stem", "x", 3, 16, 3, activation="relu")
    b.conv("body", "stem", 16, 16, 3, activation="relu")
    b.conv("places", "body", 16, 2, 3)
    b.conv("scores", "body", 16, 3, 3)
    b.node("sure", "unary", "scores", function="sigmoid", alpha=0.0, beta=0.0)
    b.node("both", "concat", "places", "sure", axis=0)
    return b.graph("both")


def test_of_an_output_that_is_joined_the_part_that_changed_most_counts() -> None:
    graph = detector()
    parts = output_parts(graph, check_graph(graph))
    assert parts == {"both": (2, 3)}
    varied = torch.tensor([-1.0, 1.0]).reshape(2, 1, 1, 1)  # from picture to picture
    places = 200 + 10 * varied.expand(2, 2, 12, 12)
    scores = 0.01 * (1 + varied).expand(2, 3, 12, 12)

    def changed(places: Tensor, scores: Tensor) -> float:
        return distortion({"both": torch.cat([places, scores], 1)}, exact, parts)

    exact = {"both": torch.cat([places, scores], 1)}
    assert changed(places, scores) == 0.0
    assert changed(places, 0 * scores) == pytest.approx(2.0)
    assert changed(places + 5, scores) == pytest.approx(0.25)
    assert changed(places + 5, 0 * scores) == pytest.approx(2.0)
    blind = {"both": torch.cat([places, 0 * scores], 1)}
    assert distortion(blind, exact) < 1e-8
    one = ({"both": y["both"][:1]} for y in (blind, exact))  # a single picture: what does not vary counts, too
    assert 0 <= distortion(*one, parts) < 1e6
    assert output_parts(network(), check_graph(network())) == {}


def test_a_level_of_a_network_without_scores_promises_no_answers() -> None:
    graph = detector()
    made = make_plan(graph, Preprocessing(), load_target("host"), "flops", 4)
    assert len(made.plan.levels) > 1
    assert {level.agreement for level in made.plan.levels[1:]} == {None}


@pytest.mark.parametrize("policy", POLICIES)
def test_curve_of_one_layer_agrees_with_merging_it(policy: str) -> None:
    """Measured alone in torch, and in a whole network by the runtime."""
    graph, shapes = network(), check_graph(network())
    inputs = {"x": synthetic_pictures(3, (3, 16, 16))}
    measured = Measurements(
        graph,
        shapes,
        find_candidates(graph, shapes),
        inputs,
        CostModel(load_target("rpi4"), 0),
        dict.fromkeys(shapes, (policy,)),
        0,
    )
    dense = dense_flops(measured.candidates["b2"].geometry)
    for curve in measured.curves("b2"):
        merges = [{"b2": Merge(curve, index)} for index in range(len(curve.settings))]
        joints = measure_levels(Material(graph), shapes, merges, inputs)
        for joint, saved in zip(joints, curve.flops_saved, strict=True):
            assert joint.totals.flops_reduction == pytest.approx(100 * saved / dense, abs=1e-6)
        worst = np.maximum.accumulate([joint.distortion for joint in joints])
        np.testing.assert_allclose(curve.distortion, worst, rtol=1e-3, atol=1e-9)


def _curve(node: str, saved: list[float], distorted: list[float], patch: int = 8) -> Curve:
    empty, none = np.zeros((0, 0), np.int8), np.zeros(0, np.uint16)
    settings = tuple(Setting(16, 0.1 * i) for i in range(len(saved)))
    return Curve(node, patch, "budget", 0, empty, none, settings, (), tuple(saved), (), tuple(distorted))


def _saving(curve: Curve) -> tuple[float, ...]:
    return curve.flops_saved


@pytest.mark.parametrize(
    ("kept", "saved", "expected"),
    [
        ((0.9, 0.5, 0.1), (-1.0, 1.0, 3.0), 0.7),  # halfway
        ((0.9, 0.5, 0.1), (-4.0, -2.0, 2.0), 0.3),
        ((0.9, 0.5, 0.1), (0.0, 1.0, 3.0), 1.0),  # never loses
        ((0.9, 0.5, 0.1), (-3.0, -2.0, -1.0), 0.1),  # always loses
        ((0.5, 0.9, 0.1), (1.0, -1.0, 3.0), 0.7),  # in any order
    ],
)
def test_break_even_is_where_no_time_is_saved(
    kept: tuple[float, ...], saved: tuple[float, ...], expected: float
) -> None:
    curve = replace(_curve("a", [0.0] * 3, [0.0] * 3), kept=kept, seconds_saved=saved)
    assert curve.break_even == pytest.approx(expected)


def test_hull_skips_what_a_line_beats() -> None:
    curve = _curve("a", [-2.0, 1.0, 5.0, 6.0, 8.0], [0.0, 0.5, 0.9, 1.0, 4.0])
    assert [(o.index, o.saving) for o in ladder.hull(curve, _saving)] == [(-1, 0.0), (3, 6.0), (4, 8.0)]


def test_path_takes_the_cheapest_saving_first() -> None:
    curves = {"cheap": _curve("cheap", [2.0, 3.0], [0.1, 0.2]), "dear": _curve("dear", [1.0, 5.0], [1.0, 5.0])}
    points = ladder.path(curves, _saving)
    assert [{n: m.index for n, m in p.merges.items()} for p in points] == [
        {"cheap": 0},
        {"cheap": 1},
        {"cheap": 1, "dear": 0},
        {"cheap": 1, "dear": 1},
    ]
    assert [p.saving for p in points] == [2.0, 3.0, 4.0, 8.0]
    assert points[-1].distortion == pytest.approx(5.2)


def test_pick_is_even_and_fills_up_where_steps_are_coarse() -> None:
    points = [ladder.Point({}, saving, saving) for saving in (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0)]
    assert ladder.pick(points, 4) == [1, 3, 5, 7]
    coarse = [ladder.Point({}, saving, saving) for saving in (9.0, 9.5, 9.9, 10.0)]
    assert ladder.pick(coarse, 4) == [0, 1, 2, 3]
    assert ladder.pick(points[:2], 8) == [0, 1]


def test_patch_choice_prefers_large_ones_unless_small_ones_win_clearly() -> None:
    small, large = _curve("a", [10.0], [1.0], patch=4), _curve("a", [9.5], [1.0], patch=8)
    assert ladder.choose_patch([small, large], _saving, [1.0], 0.1).patch == 8
    worse = _curve("a", [5.0], [1.0], patch=8)
    assert ladder.choose_patch([small, worse], _saving, [1.0], 0.1).patch == 4
    assert ladder.choose_patch([small, large], _saving, [1.0]).patch == 4
    equal = _curve("a", [10.0], [1.0], patch=8)
    assert ladder.choose_patch([small, equal], _saving, [1.0]).patch == 8


def test_the_ladder_ends_between_two_trials() -> None:
    points = [ladder.Point({}, float(saving), 0.0) for saving in range(1, 11)]
    assert end.last_useful(points, {1: 0.2, 4: 0.5, 8: 2.0}) == 5  # harm 1 at a saving of 5 + 4 * 0.5 / 1.5 = 6.3
    assert end.last_useful(points, {1: 0.2, 9: 0.9}) == 9
    assert end.last_useful(points, {0: 50.0, 9: 60.0}) == -1
    assert end.last_useful(points, {0: 1.5, 9: 60.0}) == -1
    assert end.last_useful(points, {1: 50.0, 9: 60.0}) == 0  # which was not tried
    assert end.last_useful(points, {}) == 9


def test_more_trials_lie_where_the_network_is_spoilt() -> None:
    points = [ladder.Point({}, float(saving), 0.0) for saving in range(1, 41)]
    found = end.between(points, {4: 0.2, 12: 0.5, 30: 2.0, 35: 0.4})
    assert len(found) == end.CLOSER
    assert found == sorted(set(found))
    assert 12 < found[0] < 16
    assert 26 < found[-1] < 30
    assert end.between(points, {0: 3.0, 35: 9.0}) == []  # the first point already spoils it
    assert end.between(points, {2: 3.0}) == [0, 1]
    assert end.between(points, {12: 0.5, 13: 2.0}) == []
    assert end.between(points, {12: 0.5, 39: 0.9}) == []
    assert end.between(points, {}) == []


def test_the_algorithm_that_saves_more_time_is_taken() -> None:
    slow, fast = (replace(_curve("a", [3.0], [0.1]), algorithm=name) for name in ("direct", "winograd2"))
    fast = replace(fast, flops_saved=(3.1,))
    assert ladder.choose_patch([slow, fast], _saving, [1.0], allowance=0.1) is fast
    assert ladder.choose_patch([slow, replace(fast, flops_saved=(3.0,))], _saving, [1.0]) is slow  # of equals the first
    larger = replace(slow, patch=16, flops_saved=(2.9,))
    assert ladder.choose_patch([slow, fast, larger], _saving, [1.0], allowance=0.1) is larger


def test_harm_is_one_at_the_limits() -> None:
    """Of answers where they are known to count; else of the outputs, whatever the answers do."""
    joint = Joint(Totals(0, 0, 0, 0), end.MOST_DISTORTION, end.LEAST_AGREEMENT)
    assert end.harm(joint, True) == pytest.approx(1.0)
    assert end.harm(joint, False) == pytest.approx(1.0)
    assert end.harm(replace(joint, agreement=100.0), True) == 0.0
    assert end.harm(replace(joint, distortion=0.0), False) == 0.0
