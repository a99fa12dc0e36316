"""The operator table: shapes against hand-made examples and brute force, and every rule a graph can break."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from builders import GraphBuilder, bundle_for, conv_graph, random_network
from hypothesis import given
from hypothesis import strategies as st

from haste_runtime.backends.numpy_backend import NumpyBackend
from haste_runtime.errors import GraphError
from haste_runtime.graph import Graph, Node, Shape, Value
from haste_runtime.operators import OPERATORS, check_graph, infer_shape, may_merge
from haste_runtime.weights import int8_graph

WINDOW: dict[str, Any] = {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1, 1, 1)}
CONV: dict[str, Any] = {
    "stride": (1, 1),
    "padding": (1, 1, 1, 1),
    "dilation": (1, 1),
    "groups": 1,
    "activation": "relu",
}
NONE = {"activation": "none"}
LRN: dict[str, Any] = {"size": 5, "alpha": 1e-4, "beta": 0.75, "bias": 1.0}
RESIZE: dict[str, Any] = {
    "size": (4, 20),
    "mode": "linear",
    "step_y": 2,
    "step_x": 0.45,
    "coordinates": "half_pixel",
    "rounding": "floor",
}
NUMBERS = ("value", "alpha", "beta", "bias", "step_y", "step_x")  # attributes that need not be whole

Case = tuple[str, dict[str, Any], list[Shape], dict[str, Shape], Shape]
CASES: list[Case] = [
    ("conv", CONV, [(3, 8, 9)], {"weight": (5, 3, 3, 3)}, (5, 8, 9)),
    ("conv", CONV, [(3, 8, 9), (5, 8, 9)], {"weight": (5, 3, 3, 3), "bias": (5,)}, (5, 8, 9)),
    ("conv", {**CONV, "stride": (2, 2)}, [(3, 8, 9)], {"weight": (5, 3, 3, 3)}, (5, 4, 5)),
    ("conv", {**CONV, "padding": (0, 1, 2, 3)}, [(3, 8, 9)], {"weight": (5, 3, 3, 3)}, (5, 8, 11)),
    ("conv", {**CONV, "dilation": (2, 3)}, [(3, 8, 9)], {"weight": (5, 3, 3, 2)}, (5, 6, 8)),
    ("conv", {**CONV, "groups": 2}, [(4, 8, 9)], {"weight": (6, 2, 3, 3)}, (6, 8, 9)),
    ("linear", NONE, [(7,)], {"weight": (4, 7), "bias": (4,)}, (4,)),
    ("scale", NONE, [(3, 8, 9)], {"scale": (3,), "shift": (3,)}, (3, 8, 9)),
    ("scale", NONE, [(3,)], {"scale": (3,), "shift": (3,)}, (3,)),
    ("add", NONE, [(3, 8, 9), (3, 8, 9)], {}, (3, 8, 9)),
    ("activation", {"activation": "relu6"}, [(3,)], {}, (3,)),
    ("unary", {"function": "clip", "alpha": -1.0, "beta": 2}, [(3, 8)], {}, (3, 8)),
    ("prelu", {}, [(3, 8, 9)], {"slope": (3,)}, (3, 8, 9)),
    ("binary", {"function": "multiply", **NONE}, [(3, 8, 9), (3, 1, 1)], {}, (3, 8, 9)),
    ("binary", {"function": "add", **NONE}, [(3, 1, 1)], {"other": (1, 8, 9)}, (3, 8, 9)),
    ("binary", {"function": "divide", **NONE}, [(2, 3, 8, 9), (1, 1, 8, 9)], {}, (2, 3, 8, 9)),
    ("binary", {"function": "minimum", **NONE}, [(3,), (1,)], {}, (3,)),
    ("max_pool", {**WINDOW, "dilation": (1, 1)}, [(3, 8, 9)], {}, (3, 4, 5)),
    ("max_pool", {**WINDOW, "dilation": (2, 2)}, [(3, 8, 9)], {}, (3, 3, 4)),
    ("max_pool", {**WINDOW, "padding": (1, 1, 2, 1), "dilation": (1, 1)}, [(3, 8, 9)], {}, (3, 5, 5)),  # ceil_mode
    ("avg_pool", {**WINDOW, "count_include_pad": 1}, [(3, 8, 9)], {}, (3, 4, 5)),
    ("adaptive_avg_pool", {"size": (2, 12)}, [(3, 8, 9)], {}, (3, 2, 12)),
    ("adaptive_max_pool", {"size": (1, 1)}, [(3, 8, 9)], {}, (3, 1, 1)),
    ("mean", {"keepdim": 0}, [(3, 8, 9)], {}, (3,)),
    ("mean", {"keepdim": 1}, [(3, 8, 9)], {}, (3, 1, 1)),
    ("flatten", {"order": "HWC"}, [(3, 8, 9)], {}, (216,)),
    ("flatten", {"order": "CHW"}, [(3,)], {}, (3,)),
    ("concat", {"axis": 0}, [(3, 8, 9), (4, 8, 9), (1, 8, 9)], {}, (8, 8, 9)),
    ("concat", {"axis": 2}, [(3, 8, 9), (3, 8, 2)], {}, (3, 8, 11)),
    ("concat", {"axis": 0}, [(3,), (4,)], {}, (7,)),
    ("pad", {"pads": (4, 5, 0, 1, 2, 3), "value": 0.0}, [(3, 8, 9)], {}, (12, 9, 14)),
    ("slice", {"starts": (0, 1, 0), "stops": (3, 8, 9), "steps": (1, 2, 2)}, [(3, 8, 9)], {}, (3, 4, 5)),
    ("slice", {"starts": (1,), "stops": (7,), "steps": (4,)}, [(7,)], {}, (2,)),
    ("slice", {"starts": (0, 0, 1, 0), "stops": (2, 3, 8, 9), "steps": (1,) * 4}, [(2, 3, 8, 9)], {}, (2, 3, 7, 9)),
    ("concat", {"axis": 3}, [(2, 3, 8, 9), (2, 3, 8, 1)], {}, (2, 3, 8, 10)),
    ("reshape", {"shape": (3, 1, 72)}, [(3, 8, 9)], {}, (3, 1, 72)),
    ("rearrange", {"split": (2, 2, 8, 9), "axes": (1, 0, 2, 3), "shape": (4, 8, 9)}, [(4, 8, 9)], {}, (4, 8, 9)),
    ("rearrange", {"split": (4, 8, 9), "axes": (1, 2, 0), "shape": (8, 9, 4)}, [(4, 8, 9)], {}, (8, 9, 4)),
    ("extend", {"pads": (1, 2, 3, 4), "mode": "reflect"}, [(3, 8, 9)], {}, (3, 12, 15)),
    ("resize", RESIZE, [(3, 8, 9)], {}, (3, 4, 20)),
    ("reduce", {"function": "sum", "axes": (0, 2)}, [(3, 8, 9)], {}, (1, 8, 1)),
    ("reduce", {"function": "mean", "axes": (1,)}, [(2, 3, 8, 9)], {}, (2, 1, 8, 9)),
    ("softmax", {"axis": 1}, [(3, 8)], {}, (3, 8)),
    ("lrn", LRN, [(3, 8, 9)], {}, (3, 8, 9)),
]
CASE_IDS = [f"{op}-{number}" for number, (op, *_) in enumerate(CASES)]


def shape_of(op: str, attributes: dict[str, Any], inputs: list[Shape], constants: dict[str, Shape]) -> Shape:
    node = Node("n", op, tuple(f"x{i}" for i in range(len(inputs))), attributes, {role: role for role in constants})
    return infer_shape(node, inputs, {role: np.zeros(shape, np.float32) for role, shape in constants.items()})


# --- shapes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("op", "attributes", "inputs", "constants", "expected"), CASES, ids=CASE_IDS)
def test_shape(
    op: str, attributes: dict[str, Any], inputs: list[Shape], constants: dict[str, Shape], expected: Shape
) -> None:
    assert shape_of(op, attributes, inputs, constants) == expected


def test_every_operator_has_an_example() -> None:
    assert {op for op, *_ in CASES} == set(OPERATORS)


@pytest.mark.parametrize("seed", range(4))
def test_shapes_are_what_the_reference_computes(seed: int) -> None:
    graph = random_network(seed)
    shapes = check_graph(graph)
    everything = replace(graph, outputs=tuple(node.name for node in graph.nodes))
    frame = np.zeros(graph.inputs[0].shape, np.float32)
    values = NumpyBackend(bundle_for(everything)).run({"x": frame}, 0)
    assert {name: value.shape for name, value in values.items()} == {name: shapes[name] for name in everything.outputs}


@given(
    extent=st.integers(1, 7),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 4),
    dilation=st.integers(1, 5),
    before=st.integers(0, 6),
    after=st.integers(0, 6),
)
def test_pooling_windows_against_brute_force(
    extent: int, kernel: int, stride: int, dilation: int, before: int, after: int
) -> None:
    attributes = {
        "kernel": (kernel, 1),
        "stride": (stride, 1),
        "padding": (before, 0, after, 0),
        "dilation": (dilation, 1),
    }
    last = extent + after - (kernel - 1) * dilation
    windows = [[at + tap * dilation for tap in range(kernel)] for at in range(-before, last, stride)]
    if not windows or not all(any(0 <= i < extent for i in window) for window in windows):
        with pytest.raises(GraphError, match="window"):
            shape_of("max_pool", attributes, [(2, extent, 3)], {})
    else:
        assert shape_of("max_pool", attributes, [(2, extent, 3)], {}) == (2, len(windows), 3)


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("op", "attributes", "inputs", "constants", "expected"), CASES, ids=CASE_IDS)
def test_attributes_are_exactly_the_entrys(
    op: str, attributes: dict[str, Any], inputs: list[Shape], constants: dict[str, Shape], expected: Shape
) -> None:
    with pytest.raises(GraphError, match="has attributes"):
        shape_of(op, {**attributes, "colour": 1}, inputs, constants)
    for name, good in attributes.items():
        with pytest.raises(GraphError, match="has attributes"):
            shape_of(op, {key: value for key, value in attributes.items() if key != name}, inputs, constants)
        wrong: list[Any] = [None, True, "other", 1.5, math.nan, -1, (), [1, 1], (1.0, 1.0), np.int64(1), (True, True)]
        if name in NUMBERS:
            wrong = [None, True, "other", math.nan, math.inf, 10**400, (0.0,)] + [1e39, -1e39] * (name != "value")
        elif isinstance(good, tuple):
            wrong += [tuple(-1 for _ in good), list(good), tuple(2**40 for _ in good)]
            if op not in ("reshape", "rearrange", "slice") or name == "axes":  # else any number of axes may be right
                wrong += [(*good, good[-1])]
        for bad in wrong:
            with pytest.raises(GraphError, match=f"'n' .*attribute '{name}' is"):
                shape_of(op, {**attributes, name: bad}, inputs, constants)


@pytest.mark.parametrize(("op", "attributes", "inputs", "constants", "expected"), CASES, ids=CASE_IDS)
def test_constants_are_exactly_the_entrys(
    op: str, attributes: dict[str, Any], inputs: list[Shape], constants: dict[str, Shape], expected: Shape
) -> None:
    with pytest.raises(GraphError, match="no constant called 'zeros'"):
        shape_of(op, attributes, inputs, {**constants, "zeros": (1,)})
    for role, needed in OPERATORS[op].roles.items():
        if needed:
            with pytest.raises(GraphError, match=f"needs a constant '{role}'"):
                shape_of(op, attributes, inputs, {key: shape for key, shape in constants.items() if key != role})
    for role, shape in constants.items():
        for bad in (shape[:-1], (*shape, 1), (shape[0], *(n + 1 for n in shape[1:])), (shape[0] + 1,)):
            if op == "binary":
                with pytest.raises(GraphError, match="cannot combine"):
                    shape_of(op, attributes, inputs, {role: (*shape, 1)})
            elif bad != shape and (role, op, len(bad)) != ("weight", "conv", 4):
                with pytest.raises(GraphError, match=f"its {role} has shape"):
                    shape_of(op, attributes, inputs, {**constants, role: bad})


REFUSED: list[tuple[str, dict[str, Any], list[Shape], dict[str, Shape], str]] = [
    ("attention", {}, [(3,)], {}, "no operator 'attention'"),
    ("reshape", {"shape": (5, 5)}, [(3, 8)], {}, "another number of elements"),
    ("rearrange", {"split": (3, 8), "axes": (2, 1, 0), "shape": (8, 3)}, [(3, 8)], {}, "differ in length"),
    ("rearrange", {"split": (4, 6), "axes": (1, 0), "shape": (6, 4)}, [(3, 8)], {}, "do not split into (4, 6)"),
    ("rearrange", {"split": (3, 8), "axes": (1, 0), "shape": (6, 4)}, [(3, 8)], {}, "do not split into (8, 3)"),
    ("extend", {"pads": (8, 0, 0, 0), "mode": "reflect"}, [(3, 8, 9)], {}, "wider than what a side of 8 pixels"),
    ("extend", {"pads": (0, 0, 0, 10), "mode": "circular"}, [(3, 8, 9)], {}, "wider than what a side of 9 pixels"),
    ("resize", RESIZE, [(3,)], {}, "needs a map"),
    ("reduce", {"function": "sum", "axes": (2,)}, [(3, 8)], {}, "axis 2 does not exist"),
    ("reduce", {"function": "sum", "axes": (0, 2)}, [(2, 3, 4, 8, 9)], {}, "lie apart"),
    ("softmax", {"axis": 1}, [(3,)], {}, "axis 1 does not exist"),
    ("lrn", {**LRN, "size": 7}, [(3, 8, 9)], {}, "more than twice as wide"),
    ("lrn", {**LRN, "alpha": -1.0}, [(3, 8, 9)], {}, "its alpha is negative"),
    ("add", NONE, [(3,)], {}, "takes 2 inputs, not 1"),
    ("conv", CONV, [(3, 8, 9)] * 3, {"weight": (5, 3, 3, 3)}, "takes 1 to 2 inputs, not 3"),
    ("concat", {"axis": 0}, [(3,)], {}, "takes 2 or more inputs, not 1"),
    ("add", NONE, [(3,), (4,)], {}, "differ in shape"),
    ("conv", CONV, [(3,)], {"weight": (5, 3, 3, 3)}, "needs a map"),
    ("conv", CONV, [(4, 8, 9)], {"weight": (5, 3, 3, 3)}, "its weight has shape"),
    ("conv", CONV, [(3, 8, 9), (5, 8, 8)], {"weight": (5, 3, 3, 3)}, "its residual has shape"),
    ("conv", {**CONV, "groups": 2}, [(4, 8, 9)], {"weight": (5, 2, 3, 3)}, "groups do not divide"),
    (
        "conv",
        {**CONV, "dilation": (5, 1)},
        [(3, 8, 9)],
        {"weight": (5, 3, 3, 3)},
        "does not fit the padded map of 10x11",
    ),
    ("linear", NONE, [(3, 8, 9)], {"weight": (4, 216)}, "needs a vector"),
    ("max_pool", {**WINDOW, "dilation": (1, 1)}, [(3,)], {}, "needs a map"),
    ("avg_pool", {**WINDOW, "padding": (3, 0, 0, 0), "count_include_pad": 0}, [(3, 8, 9)], {}, "sees no pixel"),
    ("mean", {"keepdim": 0}, [(3,)], {}, "needs a map"),
    ("binary", {"function": "add", **NONE}, [(3,)], {}, "needs a second operand"),
    ("binary", {"function": "add", **NONE}, [(3,), (3,)], {"other": (3,)}, "needs a second operand"),
    ("binary", {"function": "add", **NONE}, [(1, 1, 1, 1, 3)], {"other": (1, 1, 1, 1, 3)}, "at most 4 axes"),
    ("binary", {"function": "add", **NONE}, [(3, 8), (3,)], {}, "cannot combine (3, 8) with (3,)"),
    ("binary", {"function": "add", **NONE}, [(3, 8), (2, 8)], {}, "cannot combine"),
    ("binary", {"function": "add", **NONE}, [(2, 3, 8, 9), (1, 3, 8, 9)], {}, "not along all of them"),
    ("adaptive_avg_pool", {"size": (1, 1)}, [(3,)], {}, "needs a map"),
    ("concat", {"axis": 1}, [(3,), (4,)], {}, "axis 1 does not exist"),
    ("concat", {"axis": 1}, [(3, 8, 9), (3, 8, 8)], {}, "do not fit beside"),
    ("concat", {"axis": 0}, [(3, 8, 9), (3,)], {}, "do not fit beside"),
    ("pad", {"pads": (0, 0, 0, 0, 0, 0), "value": 0.0}, [(3,)], {}, "needs a map"),
    ("slice", {"starts": (0,), "stops": (3,), "steps": (1,)}, [(3, 8, 9)], {}, "one number per axis"),
    ("slice", {"starts": (2,), "stops": (2,), "steps": (1,)}, [(3,)], {}, "is empty"),
    ("slice", {"starts": (0,), "stops": (4,), "steps": (1,)}, [(3,)], {}, "leaves the axis"),
    ("adaptive_avg_pool", {"size": (2**20, 2**20)}, [(3, 8, 9)], {}, "more than 2147483647 elements"),
]


@pytest.mark.parametrize(("op", "attributes", "inputs", "constants", "message"), REFUSED, ids=[r[4] for r in REFUSED])
def test_refused(
    op: str, attributes: dict[str, Any], inputs: list[Shape], constants: dict[str, Shape], message: str
) -> None:
    with pytest.raises(GraphError, match="'n'") as caught:
        shape_of(op, attributes, inputs, constants)
    assert message in caught.value.message


# --- whole graphs ----------------------------------------------------------------------------------------------------


def small() -> Graph:
    b = GraphBuilder(0, x=(3, 8, 8))
    b.conv("conv", "x", 3, 4, 3)
    b.node("relu", "activation", "conv", activation="relu")
    return b.graph()


def test_good_graph() -> None:
    assert check_graph(small()) == {"x": (3, 8, 8), "conv": (4, 8, 8), "relu": (4, 8, 8)}


def test_constants_may_be_half_precision_and_shared() -> None:
    graph = small()
    twin = replace(graph.node("conv"), name="twin")
    half = {key: value.astype(np.float16) for key, value in graph.constants.items()}
    shapes = check_graph(replace(graph, nodes=(*graph.nodes, twin), constants=half, outputs=("twin", "x")))
    assert shapes["twin"] == (4, 8, 8)


def test_int8_weights_have_a_scale_and_nothing_else_has() -> None:
    graph = int8_graph(small())
    assert check_graph(graph)["conv"] == (4, 8, 8)
    conv, relu = graph.nodes
    constants = dict(graph.constants)
    without = replace(conv, constants={role: key for role, key in conv.constants.items() if role != "weight_scale"})
    twin = replace(conv, name="twin", constants={**conv.constants, "weight_scale": "other"})
    cases = {
        "its weight is int8": replace(graph, nodes=(without, relu)),
        "its weight is float32": replace(
            graph, constants={**constants, "conv.weight": small().constants["conv.weight"]}
        ),
        "its bias is int8": replace(graph, constants={**constants, "conv.bias": np.zeros(4, np.int8)}),
        "its weight_scale has shape": replace(
            graph, constants={**constants, "conv.weight.scale": np.ones(1, np.float32)}
        ),
        "with another scale": replace(
            graph, nodes=(*graph.nodes, twin), constants={**constants, "other": np.ones(4, np.float32)}
        ),
    }
    for message, wrong in cases.items():
        with pytest.raises(GraphError, match=message):
            check_graph(wrong)


def with_weight(graph: Graph, weight: np.ndarray) -> Graph:
    return replace(graph, constants={**graph.constants, "conv.weight": weight})


def damaged(what: str) -> Graph:
    graph = small()
    conv, relu = graph.nodes
    weight = graph.constants["conv.weight"]
    nan = weight.copy()
    nan[1, 2, 0, 1] = np.nan
    return {
        "order": replace(graph, nodes=(relu, conv)),
        "same name": replace(graph, nodes=(conv, replace(relu, name="conv"))),
        "named like input": replace(graph, nodes=(replace(conv, name="x"), relu)),
        "two inputs": replace(graph, inputs=graph.inputs * 2),
        "input shape": replace(graph, inputs=(Value("x", (3, 1, 1, 8, 8)),)),
        "input of nothing": replace(graph, inputs=(Value("x", (3, 0, 8)),)),
        "input too large": replace(graph, inputs=(Value("x", (3, 2**16, 2**16)),)),
        "no inputs": replace(graph, inputs=(), nodes=(), outputs=("x",)),
        "no outputs": replace(graph, outputs=()),
        "unknown output": replace(graph, outputs=("logits",)),
        "output twice": replace(graph, outputs=("relu", "relu")),
        "no constant": replace(graph, constants={}),
        "double precision": with_weight(graph, weight.astype(np.float64)),
        "integers": with_weight(graph, weight.astype(np.int16)),
        "not contiguous": with_weight(graph, np.asfortranarray(weight)),
        "empty": with_weight(graph, weight[:0]),
        "nan": with_weight(graph, nan),
        "infinity": with_weight(graph, np.where(np.isnan(nan), np.float32(np.inf), nan)),
    }[what]


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("order", "'relu' .*reads 'conv', which is neither"),
        ("same name", "'conv' .*another value has the same name"),
        ("named like input", "'x' .*another value has the same name"),
        ("two inputs", "Two inputs are called 'x'"),
        ("input shape", r"Input 'x' has shape \(3, 1, 1, 8, 8\)"),
        ("input of nothing", r"Input 'x' has shape \(3, 0, 8\)"),
        ("input too large", "Input 'x' .*more than"),
        ("no inputs", "at least one input"),
        ("no outputs", "one output"),
        ("unknown output", "Output 'logits'"),
        ("output twice", "named twice"),
        ("no constant", "'conv' .*its weight 'conv.weight' is not among"),
        ("double precision", "'conv.weight' is float64"),
        ("integers", "'conv.weight' is int16"),
        ("not contiguous", "'conv.weight' is not C-contiguous"),
        ("empty", "'conv.weight' is empty"),
        ("nan", "'conv.weight' holds NaN"),
        ("infinity", "'conv.weight' holds NaN or infinity"),
    ],
)
def test_bad_graph(what: str, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        check_graph(damaged(what))


# --- merging ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        (conv_graph(4, 4, 3), ""),
        (conv_graph(4, 4, 1), ""),
        (conv_graph(2, 1, 5, 2), ""),
        (conv_graph(4, 4, 3, dilation=2), ""),
        (conv_graph(4, 4, 3, groups=4), "depthwise"),
        (conv_graph(4, 4, 3, groups=2), "grouped"),
        (conv_graph(1, 4, 3), "one input channel"),
        (conv_graph(4, 4, (1, 3)), "kernel 1x3 is not square"),
        (conv_graph(4, 4, 3, (1, 2)), "stride 1x2 is not square"),
        (conv_graph(4, 4, 3, dilation=(1, 2)), "dilation 1x2 is not square"),
    ],
    ids=["3x3", "1x1", "two channels", "dilated", "depthwise", "grouped", "one", "kernel", "stride", "dilation"],
)
def test_may_merge(graph: Graph, reason: str) -> None:
    said = may_merge(graph.node("conv"), graph)
    assert said.startswith(reason)
    assert bool(said) == bool(reason)


def test_only_convolutions_merge() -> None:
    graph = small()
    assert may_merge(graph.node("relu"), graph) == "activation: only convolutions merge"
