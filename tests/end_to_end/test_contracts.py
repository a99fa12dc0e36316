"""What is promised about equality between torch, numpy and compiled code, on the demo network and real pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import haste_edge
from haste_edge import demo, method, torch_graph
from haste_edge.compile import compile_model
from haste_edge.demo.network import CLASSES, MEAN, STD
from haste_edge.importance import channel_importance
from haste_runtime import Session, merge
from haste_runtime.bundle import Bundle
from haste_runtime.flops import conv_geometries
from haste_runtime.graph import Graph, Value
from haste_runtime.operators import check_graph
from haste_runtime.plan import BUDGETED, POLICIES, UNHASHED, Choice, LayerPlan, Level, Plan
from haste_runtime.preprocessing import Preprocessing, images_to_inputs

LAYER_TOLERANCE = 1e-4  # of the layer's largest output
SETTINGS = {  # per policy: bits and budget of three levels; the last merges a good half of all channels
    "mean": ((14, 0.0), (12, 0.0), (8, 0.0)),
    "scaled": ((14, 0.0), (11, 0.0), (8, 0.0)),
    "budget": ((12, 0.1), (14, 0.2), (14, 0.6)),
    "affine": ((12, 0.1), (16, 0.2), (16, 0.6)),
    "drop": ((0, 0.02), (0, 0.05), (0, 1.4)),
}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """With projections of 16 rows, as many as the policies of equal codes ask for."""
    path: Path = tmp_path_factory.mktemp("contracts") / "demo.haste"
    compile_model(
        demo.load(), path, input_shape=(1, 3, 32, 32), preprocessing=Preprocessing(MEAN, STD), classes=CLASSES,
        levels=4, policy="mean", objective="flops",
    )  # fmt: skip
    with Session(path, "numpy") as session:
        return session.bundle


def with_policy(bundle: Bundle, policy: str, settings: Sequence[tuple[int, float]], only: str | None = None) -> Bundle:
    """The bundle with another policy: a level for each of the settings, in all layers that may merge, or in ``only``
    one, which is all the network then."""
    graph, shapes = bundle.graph, check_graph(bundle.graph)
    if only is not None:
        node = graph.node(only)
        inputs = tuple(Value(name, shapes[name]) for name in node.inputs)
        graph = Graph(inputs, (only,), (node,), {key: graph.constants[key] for key in node.constants.values()})
    layers, importance = [], {}
    for layer in bundle.plan.layers:
        if only not in (None, layer.node):
            continue
        key = f"{layer.node}.weighed" if policy in BUDGETED and layer.variants else ""
        if key:
            weight = graph.constants[graph.node(layer.node).constants["weight"]]
            importance[key] = channel_importance(weight)
        bits = 0 if policy in UNHASHED else 16
        variants = tuple(replace(v, policy=policy, importance=key, bits=bits) for v in layer.variants[:1])
        layers.append(LayerPlan(layer.node, variants, "merged in tests"))
    merging = [layer.node for layer in layers if layer.variants]
    levels = [Level(dict.fromkeys(merging, Choice(0, bits, budget)), 0.0, 0.0) for bits, budget in settings]
    rows = {variant.projection: variant.bits for layer in layers for variant in layer.variants}
    return replace(
        bundle,
        graph=graph,
        classes=() if only is not None else bundle.classes,
        plan=Plan(tuple(layers), (Level({}, 0.0, 0.0), *levels)),
        projections={key: bundle.projections[key][:bits] for key, bits in rows.items()},
        importance=importance,
    )


@pytest.mark.parametrize("policy", POLICIES)
def test_layer_contract(compiled: Bundle, policy: str) -> None:
    """Recorded layer inputs, replayed: identical groups in torch, numpy and numba, and outputs that agree."""
    graph = compiled.graph
    geometries = conv_geometries(graph, check_graph(graph))
    x = images_to_inputs(demo.images()[0][:2], (3, 32, 32), compiled.preprocessing)
    wanted = {name for node in graph.nodes for name in node.inputs}
    recorded = torch_graph.run(graph, {graph.inputs[0].name: torch.from_numpy(x)}, record=wanted).values
    checked = merged = 0
    for name in (layer.node for layer in compiled.plan.layers if layer.variants):
        node, geometry = graph.node(name), geometries[name]
        alone = with_policy(compiled, policy, SETTINGS[policy], name)
        variant = alone.plan.layer(name).variants[0]
        choice = alone.plan.levels[-1].choices[name]
        weight, bias = graph.constants[node.constants["weight"]], graph.constants[node.constants["bias"]]
        importance = alone.importance.get(variant.importance)
        rule = merge.Rule(
            variant.patch, alone.projections[variant.projection], choice.bits, policy, importance, choice.budget
        )
        inputs = {i: recorded[i].numpy() for i in node.inputs}
        in_torch = method.merged_conv(
            recorded[node.inputs[0]],
            torch.from_numpy(weight),
            torch.from_numpy(bias),
            geometry,
            method.Rule(*rule)._replace(
                projection=torch.from_numpy(rule.projection),
                importance=None if importance is None else torch.from_numpy(importance.astype(np.int32)),
            ),
        )
        with Session(alone, "numba", trace=True) as quick, Session(alone, "numpy", trace=True) as reference:
            quick.level = reference.level = 3
            for frame in range(len(x)):
                one = {i: array[frame : frame + 1] for i, array in inputs.items()}
                y, expected = quick.run(one)[name], reference.run(one)[name]
                definition = merge.merged_conv(inputs[node.inputs[0]][frame], weight, bias, geometry, rule)
                for codes, leaders in (
                    (quick.codes[name], quick.groups[name]),
                    (reference.codes[name], reference.groups[name]),
                    (in_torch.codes[frame].numpy(), in_torch.leaders[frame].numpy()),
                ):
                    np.testing.assert_array_equal(codes, definition.codes)
                    np.testing.assert_array_equal(leaders, definition.leaders)
                np.testing.assert_allclose(y, expected, rtol=0, atol=LAYER_TOLERANCE * np.abs(expected).max())
                assert quick.stats.totals == reference.stats.totals
                plain = definition.output
                tolerance = LAYER_TOLERANCE * np.abs(plain).max()
                np.testing.assert_allclose(in_torch.output[frame].numpy(), plain, rtol=0, atol=tolerance)
                checked += definition.leaders.size
                merged += int((definition.leaders != np.arange(geometry.channels_in)).sum())
    assert merged > checked / 4, "too little merges for this test to be worth having"


@pytest.mark.slow
@pytest.mark.parametrize("policy", POLICIES)
def test_frames_agree_between_torch_and_compiled_code(compiled: Bundle, policy: str) -> None:
    """Rounding may flip a later layer's decision: at least 99.5 % equal answers of 1,000 above level 0, 1e-4 there."""
    bundle = with_policy(compiled, policy, SETTINGS[policy])
    x = images_to_inputs(demo.images()[0], (3, 32, 32), bundle.preprocessing)
    model = haste_edge.apply(demo.load().eval(), plan=bundle, level=0)
    with Session(bundle, "numba") as session, torch.no_grad():
        expected = model(torch.from_numpy(x[:50])).numpy()
        np.testing.assert_allclose(session.run(x[:50]), expected, rtol=0, atol=1e-4 * np.abs(expected).max())
        equal = []
        for level in (1, 2):
            session.level = model.haste.level = level
            equal.append(session.run(x).argmax(1) == model(torch.from_numpy(x)).numpy().argmax(1))
        assert model.haste.stats.flops_reduction_network > 1
    assert np.concatenate(equal).size == 1000
    assert np.mean(equal) >= 0.995


@pytest.mark.slow
def test_frames_agree_across_backends(compiled: Bundle) -> None:
    """The same for the strongest levels of a network as it is compiled, against the reference on fewer pictures."""
    x = images_to_inputs(demo.images()[0][:100], (3, 32, 32), compiled.preprocessing)
    with Session(compiled, "numba") as quick, Session(compiled, "numpy") as reference:
        exact, expected = quick.run(x), reference.run(x)
        np.testing.assert_allclose(exact, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
        equal = []
        for level in range(len(quick.levels))[-2:]:
            quick.level = reference.level = level
            equal.append(quick.run(x).argmax(1) == reference.run(x).argmax(1))
    assert np.concatenate(equal).size == 200
    assert np.mean(equal) >= 0.995
