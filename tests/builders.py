"""Small random networks as graphs, plans and bundles, for the tests of every backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haste_runtime.attributes import BINARY, UNARY
from haste_runtime.bundle import FORMAT_VERSION, Bundle
from haste_runtime.geometry import ConvGeometry
from haste_runtime.graph import Graph, Node, Shape, Value
from haste_runtime.operators import check_graph, may_merge, may_use_winograd
from haste_runtime.plan import BUDGETED, UNHASHED, Choice, LayerPlan, Level, Plan, Variant
from haste_runtime.preprocessing import Preprocessing
from haste_runtime.projection import draw

Pair = int | tuple[int, int]


def pair(value: Pair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def sign_changing(rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
    """Normal float32 numbers."""
    return rng.standard_normal(tuple(shape)).astype(np.float32)


def alike_channels(rng: np.random.Generator, shape: Shape, kinds: int = 3, noise: float = 0.05) -> np.ndarray:
    """A map (C, H, W) whose channels are ``kinds`` patterns with a little noise, so that hashing finds groups."""
    patterns = sign_changing(rng, (kinds, *shape[1:]))
    return patterns[rng.integers(kinds, size=shape[0])] + np.float32(noise) * sign_changing(rng, shape)


class GraphBuilder:
    """Adds nodes one after the other; each method of the test suite's networks returns the new node's name."""

    def __init__(self, seed: int, **inputs: Shape) -> None:
        self.rng = np.random.default_rng(seed)
        self.inputs = tuple(Value(name, shape) for name, shape in inputs.items())
        self.nodes: list[Node] = []
        self.constants: dict[str, np.ndarray] = {}

    def node(self, name: str, op: str, *inputs: str, constants: dict[str, Any] | None = None, **attributes: Any) -> str:
        keys = {}
        for role, array in (constants or {}).items():
            keys[role] = f"{name}.{role}"
            self.constants[keys[role]] = np.ascontiguousarray(array, np.float32)
        self.nodes.append(Node(name, op, inputs, attributes, keys))
        return name

    def conv(
        self,
        name: str,
        x: str,
        channels: int,
        filters: int,
        kernel: Pair,
        stride: Pair = 1,
        padding: tuple[int, int, int, int] | None = None,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = True,
        residual: str | None = None,
        activation: str = "none",
    ) -> str:
        """padding None keeps the size of the map (for odd kernels and stride 1)."""
        (ky, kx), (dy, dx) = pair(kernel), pair(dilation)
        top, left = dy * (ky - 1) // 2, dx * (kx - 1) // 2
        weight = sign_changing(self.rng, (filters, channels // groups, ky, kx)) / np.sqrt(channels // groups * ky * kx)
        constants = {"weight": weight} | ({"bias": sign_changing(self.rng, (filters,))} if bias else {})
        return self.node(
            name,
            "conv",
            x,
            *(() if residual is None else (residual,)),
            constants=constants,
            stride=pair(stride),
            padding=(top, left, top, left) if padding is None else padding,
            dilation=(dy, dx),
            groups=groups,
            activation=activation,
        )

    def linear(
        self, name: str, x: str, features: int, filters: int, bias: bool = True, activation: str = "none"
    ) -> str:
        constants = {"weight": sign_changing(self.rng, (filters, features)) / np.sqrt(features)}
        if bias:
            constants["bias"] = sign_changing(self.rng, (filters,))
        return self.node(name, "linear", x, constants=constants, activation=activation)

    def scale(self, name: str, x: str, channels: int, activation: str = "none") -> str:
        constants = {
            "scale": 1 + sign_changing(self.rng, (channels,)) / 4,
            "shift": sign_changing(self.rng, (channels,)),
        }
        return self.node(name, "scale", x, constants=constants, activation=activation)

    def graph(self, *outputs: str) -> Graph:
        graph = Graph(self.inputs, outputs or (self.nodes[-1].name,), tuple(self.nodes), self.constants)
        check_graph(graph)
        return graph


def conv_graph(
    c: int,
    o: int,
    k: Pair,
    stride: Pair = 1,
    h: int = 8,
    w: int = 8,
    *,
    seed: int = 0,
    residual: bool = False,
    **conv: Any,
) -> Graph:
    """One convolution "conv" of input "x"; with ``residual`` a second input "residual" of the output's shape.

    Other keywords are those of `GraphBuilder.conv`.
    """
    probe = GraphBuilder(seed, x=(c, h, w))
    probe.conv("conv", "x", c, o, k, stride, **conv)
    if not residual:
        return probe.graph()
    builder = GraphBuilder(seed, x=(c, h, w), residual=check_graph(probe.graph())["conv"])
    builder.conv("conv", "x", c, o, k, stride, residual="residual", **conv)
    return builder.graph()


def geometry_of(graph: Graph, name: str = "conv") -> ConvGeometry:
    node = graph.node(name)
    return ConvGeometry.from_node(
        node, check_graph(graph)[node.inputs[0]], graph.constants[node.constants["weight"]].shape
    )


def random_network(seed: int) -> Graph:
    """Input "x" (3, H, W), output "logits" (5,): a small network with every operator, residuals and all activations.

    The seed decides on sizes, activations and some attributes. Stem, "residual", "strided" and "pointwise" may merge.
    """
    rng = np.random.default_rng(seed)
    height, width = (int(n) for n in rng.integers(9, 15, size=2))
    c = 2 * int(rng.integers(3, 9))
    some = ["none", "relu", "relu6"]
    b = GraphBuilder(seed + 1, x=(3, height, width))
    b.conv("stem", "x", 3, c, int(rng.choice([3, 5, 7])), activation="relu")
    b.scale("scaled", "stem", c, activation=str(rng.choice(some)))
    b.node("pooled", "max_pool", "scaled", kernel=(3, 2), stride=(2, 2), padding=(1, 0, 1, 1), dilation=(1, 1))
    b.conv("residual", "pooled", c, c, 3, bias=bool(rng.integers(2)), residual="pooled", activation="relu6")
    b.conv("depthwise", "residual", c, c, 3, groups=c, activation="relu6")
    b.conv("grouped", "depthwise", c, c, (1, 3), groups=2, dilation=(1, int(rng.integers(1, 3))))
    b.node("sum", "add", "grouped", "residual", activation=str(rng.choice(some)))
    b.node("activated", "activation", "sum", activation="relu")
    shape = check_graph(b.graph())["activated"]
    b.node("halved", "slice", "activated", starts=(0, 0, 0), stops=shape, steps=(1, 2, 2))
    b.node("widened", "pad", "halved", pads=(c // 2, c - c // 2, 0, 0, 0, 0), value=0.0)
    b.conv("strided", "activated", c, 2 * c, 3, 2, residual="widened", activation=str(rng.choice(some)))
    b.node(
        "averaged",
        "avg_pool",
        "strided",
        kernel=(2, 2),
        stride=(1, 1),
        padding=(0, 1, 1, 0),
        count_include_pad=int(rng.integers(2)),
    )
    b.node("both", "concat", "averaged", "strided", axis=0)
    b.conv("pointwise", "both", 4 * c, c, 1, activation="relu")
    b.node("small", "adaptive_avg_pool", "pointwise", size=(2, 3))
    b.node("largest", "adaptive_max_pool", "pointwise", size=(1, 2))
    b.node("mean", "mean", "pointwise", keepdim=0)
    b.node("mean_map", "mean", "pointwise", keepdim=1)
    b.node("flat1", "flatten", "small", order="CHW")
    b.node("flat2", "flatten", "largest", order="HWC")
    b.node("flat3", "flatten", "mean_map", order="CHW")
    b.node("features", "concat", "flat1", "flat2", "flat3", "mean", axis=0)
    b.linear("hidden", "features", 10 * c, 9)
    b.scale("rescaled", "hidden", 9)
    b.node("odd", "slice", "rescaled", starts=(1,), stops=(9,), steps=(2,))
    b.linear("logits", "odd", 4, 5, bias=bool(rng.integers(2)))
    return b.graph()


def shuffling_network(seed: int) -> Graph:
    """Input "x" (3, H, W), output "logits" (7,): the operators that `random_network` lacks, between convolutions."""
    rng = np.random.default_rng(seed)
    height, width = (2 * int(n) for n in rng.integers(3, 6, size=2))
    c = 4 * int(rng.integers(1, 6))
    b = GraphBuilder(seed + 1, x=(3, height, width))
    last = b.conv("stem", "x", 3, c, 3)
    for number, function in enumerate(UNARY):  # each of numbers that are neither large nor near a pole
        near = b.node(f"near{number}", "unary", last, function="clip", alpha=-3.0, beta=3.0)
        if function in ("sqrt", "reciprocal"):
            near = b.node(f"size{number}", "unary", near, function="hard_sigmoid", alpha=0.3, beta=1.0)
        y = b.node(function, "unary", near, function=function, alpha=0.3, beta=0.6)
        last = b.node(f"and_{function}", "binary", last, y, function=BINARY[number % len(BINARY)], activation="none")
        if BINARY[number % len(BINARY)] == "divide":
            last = b.node(f"finite{number}", "unary", last, function="clip", alpha=-4.0, beta=4.0)
    slope = sign_changing(b.rng, (c,))
    last = b.node("slopes", "prelu", last, constants={"slope": slope})
    b.node("gate", "mean", last, keepdim=1)
    last = b.node("gated", "binary", last, "gate", function="multiply", activation="relu6")
    grid = sign_changing(b.rng, (1, height, width))
    last = b.node("placed", "binary", last, constants={"other": grid}, function="add", activation="none")
    last = b.node("normal", "lrn", last, size=5, alpha=0.2, beta=0.75, bias=2.0)
    split = (2, c // 2, height, width)
    last = b.node("shuffled", "rearrange", last, split=split, axes=(1, 0, 2, 3), shape=(c, height, width))
    pixels = (c // 4, 2, 2, height, width)
    b.node("pixels", "rearrange", last, split=pixels, axes=(0, 3, 1, 4, 2), shape=(c // 4, 2 * height, 2 * width))
    b.node(
        "bordered", "extend", "pixels", pads=(1, 2, 0, 3), mode=str(rng.choice(["reflect", "replicate", "circular"]))
    )
    mode = str(rng.choice(["nearest", "linear", "cubic"]))
    half = {"mode": mode, "step_y": 1.9, "step_x": 2.1, "coordinates": "half_pixel", "rounding": "half_up"}
    b.node("resized", "resize", "bordered", size=(height, width), **half)
    last = b.conv("mixed", "resized", c // 4, c, 3, residual=last, activation="relu")
    for number, axis in enumerate((0, 1, 2)):
        b.node(f"shares{axis}", "softmax", last, axis=axis)
        function = ["mean", "sum", "maximum"][number]
        b.node(f"reduced{axis}", "reduce", f"shares{axis}", function=function, axes=(axis,))
        b.node(f"row{axis}", "flatten", f"reduced{axis}", order="CHW")
    b.node("table", "reshape", last, shape=(c, height * width))
    b.node("turned", "rearrange", "table", split=(c, height * width), axes=(1, 0), shape=(height * width, c))
    b.node("least", "reduce", "turned", function="minimum", axes=(0,))
    b.node("least_row", "reshape", "least", shape=(c,))
    b.node("features", "concat", "row0", "row1", "row2", "least_row", axis=0)
    b.linear("logits", "features", height * width + c * width + c * height + c, 7)
    return b.graph()


def filter_importance(graph: Graph, node: Node) -> NDArray[np.uint16]:
    """The squared norm of each input channel's filters as whole numbers, (C,), the largest 4096 (or all 0)."""
    weight = graph.constants[node.constants["weight"]].astype(np.float64)
    norms = (weight * weight).sum(axis=(0, 2, 3))
    return np.rint(4096 * norms / max(norms.max(), 1e-30)).astype(np.uint16)


def bundle_for(
    graph: Graph,
    patch: int | Sequence[int] = 4,
    bits: int = 12,
    levels: Sequence[int] | None = None,
    *,
    policy: str | Sequence[str] = "mean",
    budget: float | Sequence[float] = 0.1,
    importance: Mapping[str, NDArray[np.uint16]] | None = None,
    seed: int = 0,
    layout: str = "NCHW",
    dtype: str = "fp32",
    dense_above: float = 1.0,
) -> Bundle:
    """A bundle in memory whose plan merges every convolution that may merge.

    patch: tile side m, or several: one variant each, which the levels take in turn. bits: of the projections. levels:
    bits in use at the levels above 0, by default all, half and a quarter. policy: of all variants, or one for each in
    turn. budget: of the levels with a variant of a policy with one, or several, which they take in turn. importance:
    by node, uint16 (C,); for nodes without, `filter_importance`. dense_above: of all variants. The reductions in its
    levels are made up.
    """
    patches = [patch] if isinstance(patch, int) else list(patch)
    policies = [policy] if isinstance(policy, str) else list(policy)
    budgets = [budget] if isinstance(budget, int | float) else list(budget)
    levels = [bits, max(1, bits // 2), max(1, bits // 4)] if levels is None else levels
    layers, projections, weighing = [], {}, {}
    for number, node in enumerate(n for n in graph.nodes if n.op == "conv"):
        why_not = may_merge(node, graph)
        variants = []
        for i, m in enumerate(patches if not why_not else []):
            by, variant_seed = policies[i % len(policies)], 1000 * seed + 10 * number + m
            key, rows = f"{node.name}.projection{m}", bits
            if by in UNHASHED:
                key, rows = f"{node.name}.nothing{m}", 0
            side = geometry_of(graph, node.name).patch_side(m)
            projections[key] = draw(variant_seed, bits, side)[:rows]
            weights = f"{node.name}.importance" if by in BUDGETED else ""
            if weights:
                given = (importance or {}).get(node.name)
                weighing[weights] = filter_importance(graph, node) if given is None else given
            variants.append(Variant(m, rows, 2 / 3, variant_seed, key, by, weights, dense_above=dense_above))
        layers.append(LayerPlan(node.name, tuple(variants), why_not or "merged in tests"))
    merging = [layer.node for layer in layers if layer.variants]
    ladder = [Level({}, 0.0, 0.0)]
    for number, in_use in enumerate(levels):
        variant = number % len(patches)
        by = policies[variant % len(policies)]
        budget_in_use = budgets[number % len(budgets)] if by in BUDGETED else 0.0
        choice = Choice(variant, 0 if by in UNHASHED else in_use, budget_in_use)
        ladder.append(Level(dict.fromkeys(merging, choice), 20.0 + 10 * number, 10.0 + 10 * number))
    return Bundle(
        graph=graph,
        plan=Plan(tuple(layers), tuple(ladder)),
        preprocessing=Preprocessing(mean=(0.5,), std=(0.25,), layout=layout),
        classes=(),
        target="host",
        dtype=dtype,
        arena_bytes=0,
        made_by="tests",
        projections=projections,
        format_version=FORMAT_VERSION,
        importance=weighing,
    )


def with_algorithms(bundle: Bundle, dense: str, *merged: str) -> Bundle:
    """The bundle with every convolution that may use Winograd's algorithms computed by ``dense``, its variants by
    ``merged`` in turn."""
    layers = []
    for layer in bundle.plan.layers:
        if not may_use_winograd(bundle.graph.node(layer.node), bundle.graph):
            variants = tuple(replace(v, algorithm=merged[i % len(merged)]) for i, v in enumerate(layer.variants))
            layer = replace(layer, algorithm=dense, variants=variants)
        layers.append(layer)
    return replace(bundle, plan=replace(bundle.plan, layers=tuple(layers)))
