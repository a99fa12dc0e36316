"""Graphs of one node, and random ones of many, for what writes graphs down in other formats."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from builders import GraphBuilder

from haste_runtime.attributes import BINARY, UNARY
from haste_runtime.graph import Graph
from haste_runtime.operators import check_graph
from haste_runtime.resampling import PAD_MODES


def one(op: str, *shapes: tuple[int, ...], constants: dict[str, Any] | None = None, **attributes: Any) -> Graph:
    """A graph of one node, "y"."""
    b = GraphBuilder(0, **{f"x{number}": shape for number, shape in enumerate(shapes)})
    b.node("y", op, *(value.name for value in b.inputs), constants=constants, **attributes)
    return b.graph()


class RandomGraph:
    """A graph under construction: each method adds an operator to the map that is the latest, where it fits."""

    def __init__(self, seed: int) -> None:
        self.draw = np.random.default_rng(seed)
        self.b = GraphBuilder(seed, x=(self.upto(4), self.upto(9), self.upto(9)))
        self.x, self.earlier = "x", ["x"]

    def upto(self, most: int, least: int = 1) -> int:
        return int(self.draw.integers(least, most, endpoint=True))

    def some(self, *choices: Any) -> Any:
        return choices[self.upto(len(choices)) - 1]

    def shape(self, name: str = "") -> tuple[int, ...]:
        b = self.b
        return check_graph(Graph(b.inputs, ("x",), tuple(b.nodes), b.constants))[name or self.x]

    def node(self, op: str, *others: str, **attributes: Any) -> None:
        self.x = self.b.node(f"{op}{len(self.b.nodes)}", op, self.x, *others, **attributes)
        self.earlier.append(self.x)

    def like(self) -> str:
        """An earlier value of the same shape, which may be the same."""
        return str(self.some(*(name for name in self.earlier if self.shape(name) == self.shape())))

    # --- operators ---------------------------------------------------------------------------------------------------

    def conv(self) -> None:
        (c, h, w), kernel = self.shape(), (self.upto(3), self.upto(3))
        groups = self.some(1, c)
        padding = tuple(self.upto(kernel[i % 2] + 1, 0) for i in range(4))
        dilation = self.upto(2) if min(h, w) > 4 else 1
        rest = {"stride": self.some(1, 2, (1, 2)), "groups": groups, "bias": bool(self.upto(1, 0))}
        if h + padding[0] + padding[2] > 2 * dilation and w + padding[1] + padding[3] > 2 * dilation:
            name = f"conv{len(self.b.nodes)}"
            activation = self.some("none", "relu", "relu6")
            self.x = self.b.conv(
                name, self.x, c, groups * self.upto(3), kernel, padding=padding, dilation=dilation,
                activation=activation, **rest,
            )  # fmt: skip
            self.earlier.append(self.x)

    def scale(self) -> None:
        self.x = self.b.scale(f"scale{len(self.b.nodes)}", self.x, self.shape()[0], self.some("none", "relu6"))
        self.earlier.append(self.x)

    def function(self) -> None:
        self.node("unary", function=self.some(*UNARY[:-4]), alpha=0.2, beta=0.6)

    def sum(self) -> None:
        self.node("add", self.like(), activation=self.some("none", "relu"))

    def combination(self) -> None:
        self.node("binary", self.like(), function=self.some(*BINARY[:3], *BINARY[4:]), activation="none")

    def gate(self) -> None:
        before = self.x
        self.node("mean", keepdim=1)
        self.node("binary", before, function="multiply", activation="none")

    def pool(self) -> None:
        (_, h, w), kernel = self.shape(), (self.upto(3), self.upto(3))
        padding = tuple(self.upto(kernel[i % 2] - 1, 0) for i in range(4))
        window = {"kernel": kernel, "stride": (self.upto(2), self.upto(2)), "padding": padding}
        if h >= kernel[0] and w >= kernel[1]:
            if self.upto(2) == 1:
                self.node("max_pool", dilation=(1, 1), **window)
            else:
                self.node("avg_pool", count_include_pad=self.upto(1, 0), **window)

    def adaptive_pool(self) -> None:
        self.node(self.some("adaptive_avg_pool", "adaptive_max_pool"), size=(self.upto(5), self.upto(5)))

    def concat(self) -> None:
        self.node("concat", self.like(), self.x, axis=self.upto(2, 0))

    def pad(self) -> None:
        self.node("pad", pads=tuple(self.upto(2, 0) for _ in range(6)), value=0.5)

    def border(self) -> None:
        if min(self.shape()) > 2:
            self.node("extend", pads=tuple(self.upto(2, 0) for _ in range(4)), mode=self.some(*PAD_MODES))

    def slice(self) -> None:
        shape = self.shape()
        starts = tuple(self.upto(extent - 1, 0) for extent in shape)
        stops = tuple(self.upto(extent, start + 1) for start, extent in zip(starts, shape, strict=True))
        self.node("slice", starts=starts, stops=stops, steps=tuple(self.upto(3) for _ in shape))

    def resize(self) -> None:
        """After a turn only to the nearest pixels: ONNX Runtime's optimiser moves transposes across a Resize, and then
        refuses what it made of it in the other modes."""
        (_, h, w), size = self.shape(), (self.upto(12), self.upto(12))
        turned = any(node.op == "rearrange" for node in self.b.nodes)
        mode = "nearest" if turned else self.some("nearest", "linear", "cubic")
        self.node(
            "resize", size=size, mode=mode, step_y=h / size[0], step_x=w / size[1],
            coordinates=self.some("half_pixel", "asymmetric"), rounding=self.some("floor", "half_up", "half_down"),
        )  # fmt: skip

    def turn(self) -> None:
        if any(node.op == "resize" for node in self.b.nodes):
            return
        shape = self.shape()
        axes = tuple(int(axis) for axis in self.draw.permutation(3))
        self.node("rearrange", split=shape, axes=axes, shape=tuple(shape[axis] for axis in axes))

    def softmax(self) -> None:
        self.node("softmax", axis=self.upto(2, 0))

    def norm(self) -> None:
        self.node("lrn", size=self.some(1, 2, min(3, 2 * self.shape()[0])), alpha=0.5, beta=0.5, bias=1.0)

    def reduction(self) -> None:
        self.node("reduce", function=self.some("mean", "sum", "maximum"), axes=self.some((0,), (1,), (1, 2), (2,)))


def steps_of(kind: type[RandomGraph]) -> list[Callable[[RandomGraph], None]]:
    """The methods of a kind of random graph that add an operator."""
    helpers = ("upto", "some", "shape", "node", "like")
    return [getattr(kind, name) for name in vars(RandomGraph) if name not in helpers and name[0] != "_"]
