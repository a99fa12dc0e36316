"""Every pass keeps the function of random graphs, folds what it should, and leaves what it must."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from haste_edge.passes import PIPELINE, eliminate, fold_batchnorm, fold_padding, fuse_epilogue, run_passes, trim_taps
from haste_edge.show_graph import format_graph
from haste_edge.torch_graph import run
from haste_runtime.errors import GraphError
from haste_runtime.graph import Graph, Node, Value
from haste_runtime.operators import check_graph

PASSES = list(dict.fromkeys(PIPELINE))
ACTIVATIONS = ("none", "relu", "relu6")
WINDOW = {"stride": (1, 1), "padding": (1, 1, 1, 1), "dilation": (1, 1)}


class Random:
    """Grows a random graph: every new node reads values that are there, weights and scales are shared now and then."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.shapes: dict[str, tuple[int, ...]] = {"x": (4, 7, 6)}
        self.nodes: list[Node] = []
        self.constants: dict[str, np.ndarray] = {}

    def graph(self, size: int) -> Graph:
        while len(self.nodes) < size:
            grow = self.rng.choice(
                [self.layer, self.scale, self.scale, self.activation, self.add, self.shape, self.pool, self.move]
            )
            grow()
        read = {name for node in self.nodes for name in node.inputs}
        outputs = [node.name for node in self.nodes if node.name not in read]
        outputs += [node.name for node in self.nodes if node.name in read and self.rng.random() < 0.1]
        graph = Graph((Value("x", self.shapes["x"]),), tuple(outputs), tuple(self.nodes), self.constants)
        assert {k: v for k, v in check_graph(graph).items() if k in self.shapes} == self.shapes
        return graph

    def any(self, *, rank: int | None = 3, recent: bool = True) -> str:
        names = [name for name, shape in self.shapes.items() if rank in (None, len(shape))]
        return names[-1] if recent and self.rng.random() < 0.6 else str(self.rng.choice(names))

    def put(
        self, op: str, inputs: tuple[str, ...], attributes: dict[str, Any], constants: dict[str, str] | None = None
    ) -> None:
        node = Node(f"n{len(self.nodes)}", op, inputs, attributes, constants or {})
        values = tuple(Value(name, self.shapes[name]) for name in dict.fromkeys(inputs))
        used = {key: self.constants[key] for key in node.constants.values()}
        self.shapes[node.name] = check_graph(Graph(values, (node.name,), (node,), used))[node.name]
        self.nodes.append(node)

    def constant(self, *shape: int, scale: float = 1.0) -> str:
        """A new constant, or one of the same shape that is there."""
        same = [key for key, value in self.constants.items() if value.shape == shape]
        if same and self.rng.random() < 0.3:
            return str(self.rng.choice(same))
        key = f"c{len(self.constants)}"
        self.constants[key] = (scale * self.rng.standard_normal(shape)).astype(np.float32)
        return key

    def act(self) -> dict[str, str]:
        return {"activation": str(self.rng.choice(ACTIVATIONS, p=[0.7, 0.2, 0.1]))}

    def layer(self, x: str = "") -> None:
        x = x or self.any(rank=None)
        shape = self.shapes[x]
        if len(shape) == 1:
            constants = {"weight": self.constant(4, shape[0], scale=shape[0] ** -0.5)}
            self.put("linear", (x,), self.act(), constants)
            return
        if len(shape) != 3:
            return
        groups = int(self.rng.choice([g for g in (1, 2, 4) if shape[0] % g == 0]))
        constants = {"weight": self.constant(4, shape[0] // groups, 3, 3, scale=(9 * shape[0] / groups) ** -0.5)}
        if self.rng.random() < 0.5:
            constants["bias"] = self.constant(4)
        same = [name for name, s in self.shapes.items() if s == (4, *shape[1:])]
        residual = (str(self.rng.choice(same)),) if same and self.rng.random() < 0.2 else ()
        self.put("conv", (x, *residual), {**WINDOW, "groups": groups, **self.act()}, constants)

    def scale(self) -> None:
        x = self.any(rank=None)
        channels = self.shapes[x][0]
        constants = {"scale": self.constant(channels), "shift": self.constant(channels)}
        if self.rng.random() < 0.1:
            constants = {"scale": "one", "shift": "zero"}
            self.constants |= {"one": np.ones(4, np.float32), "zero": np.zeros(4, np.float32)}
            if channels != 4:
                return
        self.put("scale", (x,), self.act(), constants)

    def activation(self) -> None:
        self.put("activation", (self.any(rank=None),), {"activation": str(self.rng.choice(ACTIVATIONS))})

    def add(self) -> None:
        a = self.any(rank=None)
        b = str(self.rng.choice([name for name, shape in self.shapes.items() if shape == self.shapes[a]]))
        self.put("add", (a, b) if self.rng.random() < 0.5 else (b, a), self.act())

    def shape(self) -> None:
        x = self.any()
        channels, height, width = self.shapes[x]
        kind = self.rng.integers(4)
        if kind == 0 and min(height, width) > 2:
            step = int(self.rng.integers(1, 3))
            top = int(self.rng.integers(2))
            stops = (channels, height, int(self.rng.integers(width - 1, width + 1)))
            self.put("slice", (x,), {"starts": (0, top, 0), "stops": stops, "steps": (1, step, step)})
        elif kind == 1 and channels < 9:
            pads = tuple(map(int, self.rng.integers(0, 2, 6) * (self.rng.random(6) < 0.7) * (self.rng.random() < 0.9)))
            if self.rng.random() < 0.85:
                pads = (0, 0, *pads[2:])
            self.put("pad", (x,), {"pads": pads, "value": float(self.rng.choice([0.0, 0.0, 0.0, 1.5]))})
            self.layer(self.nodes[-1].name)
        elif kind == 2 and channels < 9:
            same = [name for name, s in self.shapes.items() if len(s) == 3 and s[1:] == (height, width) and s[0] < 9]
            self.put("concat", (x, str(self.rng.choice(same))), {"axis": 0})
        elif kind == 3:
            self.put("mean", (x,), {"keepdim": 0}) if self.rng.random() < 0.5 else self.put(
                "flatten", (x,), {"order": "CHW"}
            )

    def move(self) -> None:
        """A few moves one after the other: transposes, and reshapes that join or split axes."""
        x = self.any()
        if len(self.shapes[x]) == 3 and self.rng.random() < 0.5:
            self.layer(x)
            x = self.nodes[-1].name
        for _ in range(int(self.rng.integers(1, 4))):
            shape = self.shapes[x]
            if self.rng.random() < 0.5:
                axes = tuple(map(int, self.rng.permutation(len(shape))))
                self.put(
                    "rearrange", (x,), {"split": shape, "axes": axes, "shape": tuple(shape[axis] for axis in axes)}
                )
            elif len(shape) == 3:
                self.put("reshape", (x,), {"shape": (shape[0], shape[1] * shape[2])})
            else:
                factor = next(n for n in (2, 3, 1) if shape[0] % n == 0)
                self.put("reshape", (x,), {"shape": (factor, shape[0] // factor, shape[1])})
            x = self.nodes[-1].name
        if self.rng.random() < 0.5:
            channels = self.shapes[x][0]
            self.put("scale", (x,), self.act(), {"scale": self.constant(channels), "shift": self.constant(channels)})

    def pool(self) -> None:
        x = self.any()
        kernel, stride = (int(n) for n in self.rng.integers(1, 3, 2))
        if min(self.shapes[x][1:]) < 2:
            return
        window = {"kernel": (kernel,) * 2, "stride": (stride,) * 2, "padding": (0, 0, 0, 0)}
        kind = self.rng.integers(3)
        if kind == 0:
            self.put("max_pool", (x,), {**window, "dilation": (1, 1)})
        elif kind == 1:
            self.put("avg_pool", (x,), {**window, "count_include_pad": 1})
        else:
            self.put("adaptive_avg_pool", (x,), {"size": tuple(self.shapes[x][1:])})


def results(graph: Graph) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    inputs = {v.name: torch.randn(3, *v.shape, generator=random) for v in graph.inputs}
    return list(run(graph, inputs).outputs.values())


def assert_same_function(before: Graph, after: Graph) -> None:
    assert before.inputs == after.inputs
    check_graph(after)
    for a, b in zip(results(before), results(after), strict=True):
        assert a.shape == b.shape
        assert (a - b).abs().max() <= 2e-5 * max(1.0, float(a.abs().max()))


@pytest.mark.parametrize("step", [*PASSES, run_passes], ids=lambda step: step.__name__)
@pytest.mark.parametrize("seed", range(40))
def test_random_graphs_keep_their_function(step: Callable[[Graph], Graph], seed: int) -> None:
    graph = Random(seed).graph(12 + seed)
    before = {key: value.copy() for key, value in graph.constants.items()}
    assert_same_function(graph, step(graph))
    for key, value in before.items():  # a pass writes to nothing it was given
        assert np.array_equal(value, graph.constants[key])


def test_random_graphs_exercise_every_pass() -> None:
    """Else the test above would prove nothing about a pass that never does anything."""
    graphs = [Random(seed).graph(12 + seed) for seed in range(40)]
    for step in PASSES:
        changed = sum(step(graph).nodes != graph.nodes for graph in graphs)
        assert changed >= 5, step.__name__
    ops = {node.op for graph in graphs for node in graph.nodes}
    assert {"conv", "linear", "scale", "add", "activation", "pad", "slice", "concat", "flatten", "mean"} <= ops


def test_the_pipeline_reaches_a_fixed_point() -> None:
    for seed in range(10):
        once = run_passes(Random(seed).graph(30))
        again = run_passes(once)
        assert [n.op for n in once.nodes] == [n.op for n in again.nodes]


# --- what folds, and what must not ------------------------------------------------------------------------------------


def conv(
    name: str, x: str, *residual: str, activation: str = "none", weight: str = "w", bias: str | None = None
) -> Node:
    constants = {"weight": weight} | ({} if bias is None else {"bias": bias})
    return Node(name, "conv", (x, *residual), {**WINDOW, "groups": 1, "activation": activation}, constants)


def scale(name: str, x: str, activation: str = "none", key: str = "s") -> Node:
    return Node(name, "scale", (x,), {"activation": activation}, {"scale": f"{key}.scale", "shift": f"{key}.shift"})


def relu(name: str, x: str, kind: str = "relu") -> Node:
    return Node(name, "activation", (x,), {"activation": kind})


def add(name: str, a: str, b: str, activation: str = "none") -> Node:
    return Node(name, "add", (a, b), {"activation": activation})


def build(*nodes: Node, outputs: tuple[str, ...] = ()) -> Graph:
    """A graph on x (4, 5, 5); constants: w, v (4, 4, 3, 3), b (4,), scale and shift of s and t."""
    rng = np.random.default_rng(0)
    constants = {key: rng.standard_normal((4, 4, 3, 3)).astype(np.float32) / 6 for key in "wv"}
    vectors = ("b", "s.scale", "s.shift", "t.scale", "t.shift")
    constants |= {key: rng.standard_normal(4).astype(np.float32) for key in vectors}
    used = {key for node in nodes for key in node.constants.values()}
    kept = {key: value for key, value in constants.items() if key in used}
    return Graph((Value("x", (4, 5, 5)),), outputs or (nodes[-1].name,), nodes, kept)


def ops(graph: Graph) -> list[str]:
    return [node.op for node in graph.nodes]


def test_batch_norm_folds_into_the_convolution_before_it() -> None:
    graph = build(conv("c", "x", bias="b"), scale("n", "c"), relu("r", "n"))
    folded = fold_batchnorm(graph)
    assert ops(folded) == ["conv", "activation"]
    assert set(folded.constants) == {"w", "b"}
    factor, shift = graph.constants["s.scale"].astype(float), graph.constants["s.shift"].astype(float)
    weight = graph.constants["w"] * factor[:, None, None, None]
    np.testing.assert_array_equal(folded.constant(folded.nodes[0], "weight"), weight.astype(np.float32))
    bias = graph.constants["b"] * factor + shift
    np.testing.assert_array_equal(folded.constant(folded.nodes[0], "bias"), bias.astype(np.float32))
    assert_same_function(graph, folded)


@pytest.mark.parametrize(
    "graph",
    [
        build(conv("c", "x"), scale("n", "c"), add("a", "n", "c")),  # a second reader
        build(conv("c", "x"), scale("n", "c"), outputs=("n", "c")),  # an output itself
        build(conv("c", "x", activation="relu"), scale("n", "c")),  # an activation in between
        build(conv("c", "x", "x"), scale("n", "c")),  # a residual in between
        build(scale("n", "x"), conv("c", "n")),  # before the convolution, whose padding is zeros
        build(relu("r", "x"), scale("n", "r")),  # nothing to fold into
    ],
)
def test_batch_norm_that_cannot_fold_stays_a_scale(graph: Graph) -> None:
    folded = fold_batchnorm(graph)
    assert ops(folded) == ops(graph)
    assert all(np.array_equal(value, graph.constants[key]) for key, value in folded.constants.items())


def test_a_scale_with_an_activation_hands_it_on_and_ends_the_chain() -> None:
    graph = build(conv("c", "x"), scale("n", "c", "relu"), scale("m", "n", key="t"))
    folded = fold_batchnorm(graph)
    assert [(n.op, n.attributes["activation"]) for n in folded.nodes] == [("conv", "relu"), ("scale", "none")]
    assert_same_function(graph, folded)


def test_scales_in_a_row_become_one() -> None:
    graph = build(scale("n", "x"), scale("m", "n", key="t"), conv("c", "m"))
    folded = fold_batchnorm(graph)
    assert ops(folded) == ["scale", "conv"]
    assert_same_function(graph, folded)


def test_the_same_scale_many_times_in_a_row() -> None:
    graph = build(conv("c", "x"), scale("n", "c"), scale("m", "n"), scale("o", "m"), scale("p", "o"))
    assert ops(fold_batchnorm(graph)) == ["conv"]
    assert_same_function(graph, fold_batchnorm(graph))


def test_a_shared_convolution_folds_each_batch_norm_for_itself() -> None:
    """Weight sharing: one weight, read by two convolutions with different batch norms, and by a bare third."""
    graph = build(
        *(conv("c", "x"), scale("n", "c"), conv("d", "n"), scale("m", "d", key="t")),
        conv("e", "m"),
        outputs=("m", "e"),
    )
    folded = fold_batchnorm(graph)
    assert ops(folded) == ["conv", "conv", "conv"]
    weights = [folded.constant(node, "weight") for node in folded.nodes]
    np.testing.assert_array_equal(weights[2], graph.constants["w"])
    assert not any(np.array_equal(a, b) for a, b in itertools.combinations(weights, 2))
    assert_same_function(graph, folded)


def test_a_shared_convolution_with_a_shared_batch_norm_stays_shared() -> None:
    graph = build(conv("c", "x"), scale("n", "c"), conv("d", "n"), scale("m", "d"), scale("o", "m", key="t"))
    folded = fold_batchnorm(build(*graph.nodes[:4]))
    first, second = folded.nodes
    assert first.constants == second.constants
    assert len(folded.constants) == 2
    assert_same_function(build(*graph.nodes[:4]), folded)
    assert_same_function(graph, fold_batchnorm(graph))  # and parts again where only one goes on


def test_padding_folds_only_where_it_is_zeros_around_the_map_of_convolutions() -> None:
    border = Node("p", "pad", ("x",), {"pads": (0, 0, 1, 0, 2, 3), "value": 0.0})
    graph = build(border, conv("c", "p"), conv("d", "p", weight="v"), outputs=("c", "d"))
    folded = fold_padding(graph)
    assert [node.attributes["padding"] for node in folded.nodes] == [(2, 3, 1, 4)] * 2
    assert_same_function(graph, folded)
    ones = replace(border, attributes={"pads": (0, 0, 1, 0, 2, 3), "value": 1.0})
    channels = replace(border, attributes={"pads": (0, 1, 1, 0, 2, 3), "value": 0.0})
    also_read = relu("r", "p")
    for kept in (
        build(border, conv("c", "p"), also_read, outputs=("c", "r")),
        build(border, conv("c", "p"), outputs=("c", "p")),
        build(border, conv("c", "p", "p")),
        build(ones, conv("c", "p")),
    ):
        assert ops(fold_padding(kept)) == ops(kept)
    wide = Graph(graph.inputs, ("p",), (channels,), {})
    assert ops(fold_padding(wide)) == ["pad"]


def one_conv(size: tuple[int, int], kernel: int, **window: Any) -> Graph:
    weight = np.random.default_rng(0).standard_normal((3, 2, kernel, kernel)).astype(np.float32)
    attributes = {"stride": (1, 1), "dilation": (1, 1), "groups": 1, "activation": "none"} | window
    node = Node("c", "conv", ("x",), attributes, {"weight": "w"})
    return Graph((Value("x", (2, *size)),), ("c",), (node,), {"w": weight})


TRIMMED = [
    # a map of one pixel, of one row, two pixels that reach all taps
    ((1, 1), 3, {"padding": (1, 1, 1, 1)}, (1, 1)), ((1, 5), 3, {"padding": (1, 1, 1, 1)}, (1, 3)),
    ((2, 2), 3, {"padding": (1, 1, 1, 1)}, (3, 3)), ((1, 1), 5, {"padding": (2, 2, 2, 2)}, (1, 1)),
    ((2, 3), 5, {"padding": (2, 2, 2, 2)}, (3, 5)), ((2, 2), 7, {"padding": (3, 3, 3, 3), "stride": (2, 2)}, (2, 2)),
    # dilations that reach over the map, or nearly
    ((14, 14), 3, {"padding": (36,) * 4, "dilation": (36, 36)}, (1, 1)),
    ((14, 14), 3, {"padding": (12,) * 4, "dilation": (12, 12)}, (3, 3)),
    ((14, 12), 3, {"padding": (12,) * 4, "dilation": (12, 12)}, (3, 1)),
    # uneven padding; an output that ends before the map does; one that would begin inside it
    ((4, 4), 3, {"padding": (0, 6, 2, 0)}, (3, 3)), ((5, 5), 2, {"padding": (9, 9, 0, 0), "dilation": (9, 9)}, (1, 1)),
    ((3, 3), 2, {"padding": (0, 0, 9, 9), "dilation": (9, 9)}, (1, 1)),
    ((9, 9), 2, {"padding": (0, 0, 0, 0), "stride": (8, 8)}, (2, 2)),
    ((9, 9), 2, {"padding": (4, 4, 0, 0), "dilation": (5, 5), "stride": (8, 8)}, (2, 2)),
]  # fmt: skip


@pytest.mark.parametrize(("size", "kernel", "window", "left"), TRIMMED)
def test_taps_that_read_only_padding_go(
    size: tuple[int, int], kernel: int, window: dict[str, Any], left: tuple[int, int]
) -> None:
    graph = one_conv(size, kernel, **window)
    trimmed = trim_taps(graph)
    (weight,) = trimmed.constants.values()
    assert weight.shape[2:] == left
    assert_same_function(graph, trimmed)


@settings(max_examples=200, deadline=None)
@given(
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)), kernel=st.integers(1, 4),
    padding=st.tuples(*[st.integers(0, 6)] * 4), stride=st.tuples(*[st.integers(1, 3)] * 2),
    dilation=st.tuples(*[st.integers(1, 6)] * 2),
)  # fmt: skip
def test_trimming_keeps_every_function(
    size: tuple[int, int], kernel: int, padding: tuple[int, ...], stride: tuple[int, int], dilation: tuple[int, int]
) -> None:
    graph = one_conv(size, kernel, padding=padding, stride=stride, dilation=dilation)
    try:
        shape = check_graph(graph)["c"]
    except GraphError:
        return  # the kernel does not fit the padded map
    trimmed = trim_taps(graph)
    assert check_graph(trimmed)["c"] == shape
    assert_same_function(graph, trimmed)
    assert sum(padding) >= sum(trimmed.nodes[0].attributes["padding"]) or graph == trimmed


@pytest.mark.parametrize("order", [("c", "s"), ("s", "c")])
def test_a_residual_goes_into_the_convolution_computed_last(order: tuple[str, str]) -> None:
    graph = build(
        conv("c", "x"), conv("d", "c", weight="v"), conv("s", "x", weight="v"), add("a", "d", "s"), relu("r", "a")
    )
    fused = fuse_epilogue(graph)
    assert [node.name for node in fused.nodes] == ["c", "d", "s"]
    assert fused.nodes[-1].inputs == ("x", "d")
    assert fused.nodes[-1].attributes["activation"] == "relu"
    assert fused.outputs == ("s",)
    assert_same_function(graph, fused)


def test_a_convolution_moves_after_the_residual_it_takes() -> None:
    """The convolution comes first in the graph; the other operand, which cannot take it, later."""
    graph = build(conv("c", "x"), relu("r", "x"), add("a", "c", "r", "relu6"), conv("d", "a", weight="v"))
    fused = fuse_epilogue(graph)
    assert [(node.name, node.inputs) for node in fused.nodes] == [("r", ("x",)), ("c", ("x", "r")), ("d", ("c",))]
    assert fused.nodes[1].attributes["activation"] == "relu6"
    assert_same_function(graph, fused)


@pytest.mark.parametrize(
    "graph",
    [
        build(conv("c", "x"), add("a", "c", "c")),  # added to itself
        build(conv("c", "x"), add("a", "c", "x"), outputs=("a", "c")),  # an output itself
        build(conv("c", "x", activation="relu"), add("a", "c", "x")),  # the activation comes before the sum
        build(conv("c", "x", "x"), add("a", "c", "x")),  # has a residual already
        build(conv("c", "x"), relu("r", "c"), outputs=("r", "c")),
        build(conv("c", "x", activation="relu6"), relu("r", "c")),
        build(Node("c", "mean", ("x",), {"keepdim": 1}), relu("r", "c")),  # has no activation of its own
    ],
)
def test_what_cannot_fuse_stays(graph: Graph) -> None:
    assert fuse_epilogue(graph) == graph


def test_two_additions_in_a_row_use_one_convolution_each() -> None:
    graph = build(conv("c", "x"), add("a", "c", "x"), conv("d", "a", weight="v"), add("b", "a", "d"), relu("r", "b"))
    fused = fuse_epilogue(graph)
    assert [(node.name, node.inputs) for node in fused.nodes] == [("c", ("x", "x")), ("d", ("c", "c"))]
    assert_same_function(graph, fused)


def test_slices_in_a_row_become_one() -> None:
    def cut(name: str, x: str, starts: tuple[int, ...], stops: tuple[int, ...], steps: tuple[int, ...]) -> Node:
        return Node(name, "slice", (x,), {"starts": starts, "stops": stops, "steps": steps})

    graph = build(
        cut("a", "x", (0, 1, 0), (4, 5, 5), (1, 2, 2)),
        cut("b", "a", (1, 0, 1), (4, 2, 3), (2, 1, 1)),
        cut("c", "b", (0, 1, 0), (2, 2, 2), (1, 1, 1)),
    )
    short = eliminate(graph)
    assert ops(short) == ["slice"]
    assert short.nodes[0].inputs == ("x",)
    assert_same_function(graph, short)


def test_identities_and_dead_nodes_go() -> None:
    pool = {"kernel": (1, 1), "stride": (1, 1), "padding": (0, 0, 0, 0)}
    ones = {"scale": np.ones(4, np.float32), "shift": np.zeros(4, np.float32)}
    graph = Graph(
        (Value("x", (4, 5, 5)),),
        ("end", "pool"),
        (
            relu("r", "x", "relu6"),
            relu("again", "r"),
            relu("nothing", "again", "none"),
            Node("full", "slice", ("nothing",), {"starts": (0,) * 3, "stops": (4, 5, 5), "steps": (1,) * 3}),
            Node("wide", "pad", ("full",), {"pads": (0,) * 6, "value": 0.0}),
            Node("one", "scale", ("wide",), {"activation": "none"}, {"scale": "scale", "shift": "shift"}),
            Node("same", "adaptive_max_pool", ("one",), {"size": (5, 5)}),
            Node("dead", "mean", ("same",), {"keepdim": 0}),
            Node("dead too", "activation", ("dead",), {"activation": "relu"}),
            Node("end", "max_pool", ("same",), {**pool, "dilation": (1, 1)}),
            Node("pool", "avg_pool", ("end",), {**pool, "count_include_pad": 1}),
        ),
        ones,
    )
    short = eliminate(graph)
    assert [node.name for node in short.nodes] == ["r", "pool"]  # two outputs cannot become one
    assert short.outputs == ("r", "pool")
    assert short.constants == {}
    assert_same_function(graph, short)


def test_the_log_names_each_pass_and_the_table_shows_the_graph() -> None:
    graph = build(conv("c", "x", bias="b"), scale("n", "c"), relu("r", "n"))
    lines: list[str] = []
    fused = run_passes(graph, lines.append)
    assert [line.split(":")[0] for line in lines] == [step.__name__ for step in PIPELINE]
    assert "fold_batchnorm: 3 -> 2 nodes" in lines
    table = format_graph(fused).splitlines()
    assert table[0].split() == ["name", "op", "inputs", "shape", "attributes"]
    assert table[1].split() == ["x", "input", "4x5x5"]
    assert table[2].split()[:4] == ["c", "conv", "x", "4x5x5"]
    assert {"activation=relu", "padding=1,1,1,1", "weight=4x4x3x3", "bias=4"} <= set(table[2].split())
    assert table[-2:] == ["outputs: c", "148 parameters"]


def test_a_pass_that_breaks_a_graph_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("haste_edge.passes.PIPELINE", (lambda graph: replace(graph, outputs=("gone",)),))
    with pytest.raises(GraphError, match="gone"):
        run_passes(build(conv("c", "x")))
