"""What is promised about equality between torch, numpy and compiled code, on the demo network and real pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from haste_edge import demo, method, torch_graph
from haste_edge.compile import compile_model
from haste_edge.demo.network import CLASSES, MEAN, STD
from haste_runtime import Session
from haste_runtime.bundle import Bundle
from haste_runtime.flops import conv_geometries
from haste_runtime.graph import Graph, Value
from haste_runtime.merge import merged_conv
from haste_runtime.operators import check_graph
from haste_runtime.plan import LayerPlan, Level, Plan
from haste_runtime.preprocessing import Preprocessing, images_to_inputs

LAYER_TOLERANCE = 1e-4  # of the layer's largest output


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    path: Path = tmp_path_factory.mktemp("contracts") / "demo.haste"
    compile_model(
        demo.load(), path, input_shape=(1, 3, 32, 32), preprocessing=Preprocessing(MEAN, STD), classes=CLASSES, levels=4
    )
    with Session(path, "numpy") as session:
        return session.bundle


def one_layer(bundle: Bundle, name: str, level: int) -> Bundle:
    """A bundle of one convolution of ``bundle``, with level 1 as the other's ``level``."""
    graph, choice = bundle.graph, bundle.plan.levels[level].choices[name]
    node, shapes = graph.node(name), check_graph(graph)
    alone = Graph(
        tuple(Value(i, shapes[i]) for i in node.inputs),
        (name,),
        (node,),
        {key: graph.constants[key] for key in node.constants.values()},
    )
    layer = LayerPlan(name, bundle.plan.layer(name).variants, "alone")
    plan = Plan((layer,), (Level({}, 0.0, 0.0), Level({name: choice}, 0.0, 0.0)))
    keys = {v.projection for v in layer.variants}
    return Bundle(
        graph=alone, plan=plan, preprocessing=bundle.preprocessing, classes=(), target="host", dtype=bundle.dtype,
        arena_bytes=0, made_by="tests", format_version=bundle.format_version,
        projections={key: bundle.projections[key] for key in keys},
    )  # fmt: skip


def test_layer_contract(bundle: Bundle) -> None:
    """Recorded layer inputs, replayed: identical codes in torch, numpy and numba, and outputs that agree."""
    graph, level = bundle.graph, len(bundle.plan.levels) - 1
    geometries = conv_geometries(graph, check_graph(graph))
    x = images_to_inputs(demo.images()[0][:2], (3, 32, 32), bundle.preprocessing)
    wanted = {name for node in graph.nodes for name in node.inputs}
    recorded = torch_graph.run(graph, {graph.inputs[0].name: torch.from_numpy(x)}, record=wanted).values
    checked = 0
    for name, choice in bundle.plan.levels[level].choices.items():
        node, geometry = graph.node(name), geometries[name]
        variant = bundle.plan.layer(name).variants[choice.variant]
        projection = bundle.projections[variant.projection]
        weight, bias = graph.constants[node.constants["weight"]], graph.constants[node.constants["bias"]]
        inputs = {i: recorded[i].numpy() for i in node.inputs}
        layer_input = recorded[node.inputs[0]]
        torch_y, _, torch_codes = method.merged_conv(
            layer_input, torch.from_numpy(weight), torch.from_numpy(bias), geometry, variant.patch,
            torch.from_numpy(projection), choice.bits,
        )  # fmt: skip
        with (
            Session(one_layer(bundle, name, level), "numba", trace=True) as compiled,
            Session(one_layer(bundle, name, level), "numpy", trace=True) as reference,
        ):
            compiled.level = reference.level = 1
            for frame in range(len(x)):
                one = {i: array[frame : frame + 1] for i, array in inputs.items()}
                y, expected = compiled.run(one)[name], reference.run(one)[name]
                plain, _, codes = merged_conv(
                    inputs[node.inputs[0]][frame], weight, bias, geometry, variant.patch, projection, choice.bits
                )
                np.testing.assert_array_equal(compiled.codes[name], codes)
                np.testing.assert_array_equal(reference.codes[name], codes)
                np.testing.assert_array_equal(torch_codes[frame].numpy(), codes)
                np.testing.assert_allclose(y, expected, rtol=0, atol=LAYER_TOLERANCE * np.abs(expected).max())
                largest = np.abs(plain).max()
                np.testing.assert_allclose(torch_y[frame].numpy(), plain, rtol=0, atol=LAYER_TOLERANCE * largest)
                checked += 1
    assert checked >= 2 * 5, "the last level merges fewer layers than this test is worth having for"


def test_frames_agree_across_backends(bundle: Bundle) -> None:
    """Level 0 to 1e-4; above it rounding may flip a later layer's code, so at least 99.5 % equal answers of 1,000."""
    x = images_to_inputs(demo.images()[0], (3, 32, 32), bundle.preprocessing)
    with Session(bundle, "numba") as compiled, Session(bundle, "numpy") as reference:
        exact, expected = compiled.run(x[:50]), reference.run(x[:50])
        np.testing.assert_allclose(exact, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
        equal = []
        for level in (2, 4):
            compiled.level = reference.level = level
            equal.append(compiled.run(x).argmax(1) == reference.run(x).argmax(1))
        assert np.concatenate(equal).size == 1000
        assert np.mean(equal) >= 0.995
