"""`torch_graph` against plain loops over its definition, and what it promises about recording and replacing."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from haste_edge.torch_graph import prepare, run
from haste_runtime.attributes import BINARY, UNARY
from haste_runtime.errors import GraphError
from haste_runtime.graph import Graph, Node, Value
from haste_runtime.operators import check_graph
from haste_runtime.reference_ops import FUNCTIONS
from haste_runtime.weights import float_graph, int8_graph

PLAIN = {"stride": (1, 1), "padding": (0, 0, 0, 0), "dilation": (1, 1), "groups": 1, "activation": "none"}


def rand(*shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(len(shape) + sum(shape)).standard_normal(shape, np.float32))


def run_one(node_op: str, *inputs: Tensor, constants: dict[str, Tensor] | None = None, **attributes: object) -> Tensor:
    """One node on batched inputs, in a graph that is checked, with a shape that is checked, too."""
    values = tuple(Value(f"x{i}", tuple(x.shape[1:])) for i, x in enumerate(inputs))
    arrays = {role: tensor.numpy() for role, tensor in (constants or {}).items()}
    node = Node("y", node_op, tuple(v.name for v in values), attributes, {role: role for role in arrays})
    graph = Graph(values, ("y",), (node,), arrays)
    y = run(graph, {v.name: x for v, x in zip(values, inputs, strict=True)}).outputs["y"]
    assert tuple(y.shape[1:]) == check_graph(graph)["y"]
    return y


def windows(
    x: Tensor, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int, int, int]
) -> Iterator[tuple[tuple[int, int], list[tuple[int, int]]]]:
    """For each output pixel the list of (row, column) inside the map that its window covers."""
    height, width = x.shape[-2:]
    rows = (height + padding[0] + padding[2] - kernel[0]) // stride[0] + 1
    columns = (width + padding[1] + padding[3] - kernel[1]) // stride[1] + 1
    for i, j in itertools.product(range(rows), range(columns)):
        top, left = i * stride[0] - padding[0], j * stride[1] - padding[1]
        yield (
            (i, j),
            [
                (r, c)
                for r, c in itertools.product(range(top, top + kernel[0]), range(left, left + kernel[1]))
                if 0 <= r < height and 0 <= c < width
            ],
        )


@pytest.mark.parametrize("padding", [(0, 0, 0, 0), (1, 2, 1, 2), (0, 1, 1, 0), (2, 0, 1, 3)])
@pytest.mark.parametrize(
    ("groups", "dilation", "stride"), [(1, (1, 2), (2, 1)), (2, (1, 1), (1, 2)), (4, (2, 1), (1, 1))]
)
def test_convolution_is_the_sum_over_the_padded_map(
    padding: tuple[int, int, int, int], groups: int, dilation: tuple[int, int], stride: tuple[int, int]
) -> None:
    x, weight, bias = rand(2, 4, 7, 8), rand(8, 4 // groups, 3, 2), rand(8)
    y = run_one(
        "conv",
        x,
        constants={"weight": weight, "bias": bias},
        **{**PLAIN, "padding": padding, "groups": groups, "dilation": dilation, "stride": stride},
    )
    top, left, bottom, right = padding
    padded = torch.zeros(2, 4, 7 + top + bottom, 8 + left + right, dtype=torch.float64)
    padded[:, :, top : top + 7, left : left + 8] = x
    for (o, i, j), n in itertools.product(itertools.product(range(8), *map(range, y.shape[2:])), range(2)):
        per_group = 4 // groups
        first = o // (8 // groups) * per_group
        expected = float(bias[o])
        for c, ky, kx in itertools.product(range(per_group), range(3), range(2)):
            row, column = i * stride[0] + ky * dilation[0], j * stride[1] + kx * dilation[1]
            expected += float(padded[n, first + c, row, column]) * float(weight[o, c, ky, kx])
        assert y[n, o, i, j].item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("activation", "low", "high"), [("none", None, None), ("relu", 0, None), ("relu6", 0, 6)])
def test_epilogue_adds_the_residual_before_the_activation(activation: str, low: int | None, high: int | None) -> None:
    x, residual, weight = 3 * rand(2, 3, 5, 5), 3 * rand(2, 4, 5, 5), rand(4, 3, 1, 1)
    y = run_one("conv", x, residual, constants={"weight": weight}, **{**PLAIN, "activation": activation})
    expected = F.conv2d(x, weight) + residual
    assert torch.equal(y, expected if low is None else expected.clamp(low, high))
    assert (activation == "none") == bool(y.min() < 0)


@pytest.mark.parametrize("padding", [(0, 0, 0, 0), (1, 1, 1, 1), (0, 1, 1, 1), (1, 0, 0, 1)])
@pytest.mark.parametrize("counted", [0, 1])
def test_pools_see_only_the_map(padding: tuple[int, int, int, int], counted: int) -> None:
    x = rand(1, 2, 6, 7) - 5  # all negative: a padding of zeros would win a maximum
    window = {"kernel": (3, 2), "stride": (2, 3), "padding": padding}
    largest = run_one("max_pool", x, **window, dilation=(1, 1))
    mean = run_one("avg_pool", x, **window, count_include_pad=counted)
    for (i, j), inside in windows(x, (3, 2), (2, 3), padding):
        values = torch.stack([x[0, :, r, c] for r, c in inside])
        assert torch.equal(largest[0, :, i, j], values.amax(0))
        assert torch.allclose(mean[0, :, i, j], values.sum(0) / (6 if counted else len(inside)), atol=1e-5)


def test_dilated_max_pool() -> None:
    x = rand(1, 2, 8, 9)
    y = run_one("max_pool", x, kernel=(2, 3), stride=(1, 2), padding=(1, 1, 0, 1), dilation=(3, 2))
    assert y[0, 1, 0, 0] == x[0, 1, 2, [1, 3]].max()  # rows -1 and 2, columns -1, 1 and 3
    assert y[0, 0, 2, 1] == x[0, 0][[1, 4]][:, [1, 3, 5]].max()


@pytest.mark.parametrize("size", [(1, 1), (3, 4), (7, 2), (9, 9)])
def test_adaptive_pools_follow_torchs_window_rule(size: tuple[int, int]) -> None:
    x = rand(2, 3, 7, 5)
    mean, largest = run_one("adaptive_avg_pool", x, size=size), run_one("adaptive_max_pool", x, size=size)
    for i, j in itertools.product(*map(range, size)):
        rows = slice(i * 7 // size[0], -(-(i + 1) * 7 // size[0]))
        columns = slice(j * 5 // size[1], -(-(j + 1) * 5 // size[1]))
        assert torch.allclose(mean[:, :, i, j], x[:, :, rows, columns].mean((2, 3)), atol=1e-6)
        assert torch.equal(largest[:, :, i, j], x[:, :, rows, columns].amax((2, 3)))


def test_elementwise_operators() -> None:
    x, other = 5 * rand(2, 3, 4, 5), 5 * rand(2, 3, 4, 5) + 1
    scale, shift = rand(3), rand(3) + 1
    y = run_one("scale", x, constants={"scale": scale, "shift": shift}, activation="relu")
    assert torch.equal(y[:, 2], (x[:, 2] * scale[2] + shift[2]).clamp(min=0))
    v = run_one("scale", x[:, :, 0, 0], constants={"scale": scale, "shift": shift}, activation="none")
    assert torch.equal(v, x[:, :, 0, 0] * scale + shift)
    assert torch.equal(run_one("add", x, other, activation="relu6"), (x + other).clamp(0, 6))
    assert torch.equal(run_one("activation", x, activation="relu"), x.clamp(min=0))
    assert torch.equal(run_one("mean", x, keepdim=0), x.mean((2, 3)))
    assert run_one("mean", x, keepdim=1).shape == (2, 3, 1, 1)


def test_linear() -> None:
    x, weight, bias = rand(2, 6), rand(4, 6), rand(4)
    y = run_one("linear", x, constants={"weight": weight, "bias": bias}, activation="relu")
    assert torch.allclose(y, (x @ weight.T + bias).clamp(min=0), atol=1e-6)


def test_operators_that_move_numbers() -> None:
    x = rand(2, 3, 4, 5)
    assert torch.equal(run_one("flatten", x, order="CHW"), x.reshape(2, -1))
    assert torch.equal(run_one("flatten", x, order="HWC"), x.permute(0, 2, 3, 1).reshape(2, -1))
    assert torch.equal(run_one("flatten", x[:, :, 0, 0], order="HWC"), x[:, :, 0, 0])
    assert torch.equal(run_one("concat", x, x + 1, axis=2), torch.cat([x, x + 1], 3))
    assert torch.equal(run_one("concat", x[:, :, 0, 0], x[:, 0, 0], axis=0), torch.cat([x[:, :, 0, 0], x[:, 0, 0]], 1))
    y = run_one("slice", x, starts=(1, 0, 1), stops=(3, 4, 5), steps=(1, 2, 3))
    assert torch.equal(y, x[:, 1:3, 0:4:2, 1:5:3])
    assert torch.equal(run_one("slice", x[:, 0, 0], starts=(1,), stops=(4,), steps=(2,)), x[:, 0, 0, 1:4:2])
    y = run_one("pad", x, pads=(1, 2, 0, 3, 2, 0), value=-1.5)
    assert torch.equal(y[:, 1:4, :4, 2:], x)
    assert (y.shape[1:], float(y[0, 0, 0, 0]), float(y[1, 5, 6, 6])) == ((6, 7, 7), -1.5, -1.5)
    assert float(y.sum()) == pytest.approx(float(x.sum()) - 1.5 * (y.numel() - x.numel()), rel=1e-5)


def against_the_reference(
    op: str, *inputs: Tensor, constants: dict[str, Tensor] | None = None, **attributes: object
) -> None:
    """A batch, frame by frame against the definition in numpy."""
    y = run_one(op, *inputs, constants=constants, **attributes)
    arrays = {role: tensor.numpy() for role, tensor in (constants or {}).items()}
    for frame in range(len(y)):
        expected = FUNCTIONS[op](*(x[frame].numpy() for x in inputs), **arrays, **attributes)
        torch.testing.assert_close(y[frame], torch.from_numpy(np.ascontiguousarray(expected)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("function", UNARY)
def test_functions_of_one_number(function: str) -> None:
    x = 10 * rand(2, 3, 5, 5)
    x = x.abs() + 0.1 if function in ("sqrt", "reciprocal") else x
    against_the_reference("unary", x, function=function, alpha=0.25, beta=0.5)


@pytest.mark.parametrize("function", BINARY)
@pytest.mark.parametrize(
    "shapes", [((3, 5, 4), (3, 1, 1)), ((1, 5, 4), (3, 1, 4)), ((5,), (5,)), ((2, 3, 4, 5), (1, 1, 4, 1))]
)
def test_functions_of_two_numbers(function: str, shapes: tuple[tuple[int, ...], ...]) -> None:
    a, b = rand(2, *shapes[0]), rand(2, *shapes[1])
    against_the_reference("binary", a, b, function=function, activation="relu6")
    against_the_reference("binary", a, constants={"other": b[0]}, function=function, activation="none")


@pytest.mark.parametrize("shape", [(5,), (5, 3), (5, 3, 4), (5, 2, 3, 4)])
def test_prelu_has_a_slope_for_each_channel(shape: tuple[int, ...]) -> None:
    against_the_reference("prelu", rand(2, *shape), constants={"slope": rand(5)})


RESIZE: dict[str, Any] = {"size": (7, 4), "step_y": 5 / 7, "step_x": 1.5, "coordinates": "half_pixel"}
MOVES: list[tuple[str, tuple[int, ...], dict[str, Any]]] = [
    ("reshape", (4, 5, 6), {"shape": (2, 60)}),
    ("rearrange", (4, 5, 6), {"split": (2, 2, 5, 6), "axes": (1, 2, 0, 3), "shape": (2, 5, 12)}),
    ("concat", (2, 4), {"axis": 1}),
    ("slice", (2, 4, 3, 5), {"starts": (0, 1, 0, 2), "stops": (2, 4, 3, 5), "steps": (1, 2, 1, 2)}),
    *(("extend", (3, 5, 6), {"pads": (1, 2, 0, 3), "mode": m}) for m in ("reflect", "replicate", "circular")),
    *(("resize", (3, 5, 6), {**RESIZE, "mode": m, "rounding": "ceil"}) for m in ("nearest", "linear", "cubic")),
    *(("reduce", (2, 3, 4, 5), {"function": f, "axes": (1, 3)}) for f in ("mean", "sum", "maximum", "minimum")),
    ("softmax", (3, 5, 6), {"axis": 1}),
    ("lrn", (6, 3, 4), {"size": 4, "alpha": 0.3, "beta": 0.75, "bias": 2.0}),
]


@pytest.mark.parametrize(("op", "shape", "attributes"), MOVES)
def test_moving_resampling_and_reducing(op: str, shape: tuple[int, ...], attributes: dict[str, Any]) -> None:
    x = rand(2, *shape)
    against_the_reference(op, *([x, x + 1] if op == "concat" else [x]), **attributes)


def two_convolutions() -> Graph:
    weights = {"a.weight": rand(4, 3, 3, 3).numpy(), "b.weight": rand(4, 4, 1, 1).numpy(), "b.bias": rand(4).numpy()}
    first = Node("a", "conv", ("x",), {**PLAIN, "padding": (1, 1, 1, 1), "activation": "relu"}, {"weight": "a.weight"})
    constants = {"weight": "b.weight", "bias": "b.bias"}
    second = Node("b", "conv", ("a", "a"), {**PLAIN, "activation": "relu"}, constants)
    return Graph((Value("x", (3, 5, 5)),), ("b",), (first, second), weights)


def test_a_replaced_convolution_gets_the_nodes_input_and_keeps_its_epilogue() -> None:
    graph, x = two_convolutions(), rand(2, 3, 5, 5)
    plain = run(graph, {"x": x}, record=("a",))
    seen = []

    def replacement(node: Node, value: Tensor) -> Tensor:
        seen.append((node.name, value))
        weight, bias = (torch.from_numpy(graph.constants[node.constants[role]]) for role in ("weight", "bias"))
        return F.conv2d(value, weight, bias) - 1

    changed = run(graph, {"x": x}, convolve={"b": replacement})
    assert [name for name, _ in seen] == ["b"]
    assert torch.equal(seen[0][1], plain.values["a"])
    without_epilogue = replacement(graph.node("b"), plain.values["a"])
    assert torch.equal(changed.outputs["b"], (without_epilogue + plain.values["a"]).clamp(min=0))


def test_only_what_was_asked_for_is_recorded() -> None:
    graph, x = two_convolutions(), rand(2, 3, 5, 5)
    recorded = run(prepare(graph), {"x": x}, record=("x", "b"))
    assert set(recorded.values) == {"x", "b"}
    assert recorded.values["x"] is x
    assert recorded.values["b"] is recorded.outputs["b"]
    assert run(prepare(graph), {"x": x}).values == {}


def test_an_unread_node_and_an_input_as_output() -> None:
    graph = two_convolutions()
    nodes = (*graph.nodes, Node("unread", "activation", ("x",), {"activation": "relu"}))
    recorded = run(Graph(graph.inputs, ("x", "a"), nodes, graph.constants), {"x": rand(1, 3, 5, 5)})
    assert list(recorded.outputs) == ["x", "a"]


def test_half_precision_constants_and_no_gradients() -> None:
    graph = two_convolutions()
    half = Graph(
        graph.inputs, graph.outputs, graph.nodes, {k: v.astype(np.float16) for k, v in graph.constants.items()}
    )
    for array in half.constants.values():
        array.setflags(write=False)  # as they are when they lie in a file
    x = rand(2, 3, 5, 5).requires_grad_()
    y = run(half, {"x": x}).outputs["b"]
    assert y.dtype == torch.float32
    assert not y.requires_grad
    assert torch.allclose(y, run(graph, {"x": x}).outputs["b"], atol=0.05)


def test_int8_weights_are_what_they_mean() -> None:
    graph = two_convolutions()
    x = rand(2, 3, 5, 5)
    y = run(int8_graph(graph), {"x": x}).outputs["b"]
    assert torch.equal(y, run(float_graph(int8_graph(graph)), {"x": x}).outputs["b"])
    exact = run(graph, {"x": x}).outputs["b"]
    assert 0 < (y - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"inputs": {}}, "input 'x' was not given"),
        ({"inputs": {"x": torch.zeros(1, 3, 5, 4)}}, r"shape \(1, 3, 5, 4\)"),
        ({"inputs": {"x": torch.zeros(1, 3, 5, 5)}, "record": ("c",)}, "no value 'c'"),
        ({"inputs": {"x": torch.zeros(1, 3, 5, 5)}, "convolve": {"x": F.relu}}, "no convolution 'x'"),
    ],
)
def test_wrong_names_and_shapes_are_told(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(GraphError, match=message):
        run(two_convolutions(), **arguments)
