"""Moving, resampling, reducing: compiled kernels against the definitions, over shapes around the vector width."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from builders import GraphBuilder, bundle_for
from layer_contract import check_against_numpy, frame_for

from haste_runtime.graph import Graph, Shape
from haste_runtime.operators import check_graph
from haste_runtime.resampling import PAD_MODES


def check(graph: Graph, tolerance: float = 1e-6) -> None:
    check_against_numpy(bundle_for(graph, levels=[]), frame_for(graph), tolerance=tolerance)


def check_one(before: Shape, op: str, tolerance: float = 1e-6, /, **attributes: Any) -> None:
    """The operator alone, and where it gives a map of three axes, with a border around it for a convolution."""
    b = GraphBuilder(0, x=before)
    b.node("y", op, "x", **attributes)
    result = b.graph()
    b.node("again", "activation", "y", activation="none")
    outputs = ["y", "again"]
    made = check_graph(result)["y"]
    if len(made) == 3:
        outputs.append(b.conv("conv", "y", made[0], 3, 3))
    check(b.graph(*outputs), tolerance)


RESHAPES: list[tuple[Shape, Shape]] = [
    ((24,), (2, 3, 4)), ((2, 3, 4), (24,)), ((2, 3, 4), (4, 3, 2)), ((6, 4), (4, 6)), ((17, 5), (5, 17)),
    ((2, 3, 4, 5), (6, 20)), ((6, 20), (2, 3, 4, 5)), ((34, 3, 2), (2, 17, 3, 2)), ((40, 1, 1), (40,)), ((9,), (1, 9)),
]  # fmt: skip


@pytest.mark.parametrize(("before", "after"), RESHAPES)
def test_reshape(before: Shape, after: Shape) -> None:
    check_one(before, "reshape", shape=after)


REARRANGED: list[tuple[Shape, Shape, Shape, Shape]] = [  # shape, split, axes, new shape
    ((17, 3, 4), (17, 3, 4), (1, 2, 0), (3, 4, 17)), ((3, 4, 17), (3, 4, 17), (2, 0, 1), (17, 3, 4)),
    ((17, 33), (17, 33), (1, 0), (33, 17)), ((24, 3, 4), (4, 6, 3, 4), (1, 0, 2, 3), (24, 3, 4)),
    ((20, 3, 2), (5, 2, 2, 3, 2), (0, 3, 1, 4, 2), (5, 6, 4)),
    ((5, 6, 4), (5, 3, 2, 2, 2), (0, 2, 4, 1, 3), (20, 3, 2)),
    ((2, 3, 4, 5), (2, 3, 4, 5), (0, 2, 3, 1), (2, 4, 5, 3)), ((2, 3, 4, 5), (2, 3, 4, 5), (3, 1, 0, 2), (5, 3, 2, 4)),
    ((8, 3, 4), (8, 3, 4), (0, 1, 2), (8, 3, 4)), ((1, 1, 5), (1, 1, 5), (2, 0, 1), (5, 1, 1)),
    ((6,), (2, 3), (1, 0), (6,)),
    ((40, 6, 5), (40, 6, 5), (0, 2, 1), (40, 5, 6)),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "split", "axes", "after"), REARRANGED)
def test_rearrange(shape: Shape, split: Shape, axes: Shape, after: Shape) -> None:
    check_one(shape, "rearrange", split=split, axes=axes, shape=after)


@pytest.mark.parametrize("order", ["CHW", "HWC"])
@pytest.mark.parametrize("shape", [(17, 3, 4), (1, 5, 5), (9, 1, 1), (7,), (3, 5)])
def test_flatten(shape: Shape, order: str) -> None:
    check_one(shape, "flatten", order=order)


@pytest.mark.parametrize("shape", [(5,), (5, 6), (17, 4, 3), (2, 3, 4, 5)])
def test_slices_and_joins_along_every_axis(shape: Shape) -> None:
    b = GraphBuilder(0, x=shape, y=shape)
    for axis in range(len(shape)):
        starts, steps = ([new if i == axis else old for i in range(len(shape))] for old, new in ((0, 1), (1, 2)))
        b.node(f"cut{axis}", "slice", "x", starts=tuple(starts), stops=shape, steps=tuple(steps))
        b.node(f"joined{axis}", "concat", "x", f"cut{axis}", "y", axis=axis)
    check(b.graph(*(node.name for node in b.nodes)))


@pytest.mark.parametrize("channels", [1, 17])
@pytest.mark.parametrize("pads", [(2, 0, 0, 1, 3, 0), (0, 0, 1, 2, 0, 0), (0, 0, 0, 0, 0, 0), (0, 3, 0, 0, 0, 2)])
def test_borders_of_a_constant(channels: int, pads: tuple[int, ...]) -> None:
    check_one((channels, 5, 4), "pad", pads=pads, value=-1.5)


@pytest.mark.parametrize("channels", [1, 3, 16, 17])
@pytest.mark.parametrize("mode", PAD_MODES)
def test_borders_of_the_maps_own_pixels(channels: int, mode: str) -> None:
    check_one((channels, 5, 4), "extend", pads=(1, 3, 2, 0), mode=mode)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("coordinates", ["half_pixel", "asymmetric"])
@pytest.mark.parametrize(("shape", "size"), [((17, 5, 4), (10, 8)), ((3, 6, 7), (4, 11)), ((1, 1, 2), (3, 3))])
def test_resize(shape: Shape, size: tuple[int, int], mode: str, coordinates: str) -> None:
    for rounding in ("floor", "ceil", "half_down", "half_up") if mode == "nearest" else ("floor",):
        check_one(
            shape, "resize", size=size, mode=mode, step_y=shape[1] / size[0], step_x=shape[2] / size[1],
            coordinates=coordinates, rounding=rounding,
        )  # fmt: skip


AXES_OF: list[tuple[Shape, Shape]] = [
    ((17, 4, 5), (1, 2)), ((17, 4, 5), (0,)), ((17, 4, 5), (1,)), ((17, 4, 5), (2,)), ((17, 4, 5), (0, 1, 2)),
    ((17, 4, 5), (0, 2)), ((40,), (0,)), ((9, 20), (0,)), ((9, 20), (1,)), ((2, 3, 4, 5), (0,)), ((2, 3, 4, 5), (1,)),
    ((2, 3, 4, 5), (0, 1, 3)),
]  # fmt: skip


@pytest.mark.parametrize("function", ["mean", "sum", "maximum", "minimum"])
@pytest.mark.parametrize(("shape", "axes"), AXES_OF)
def test_reduce(shape: Shape, axes: Shape, function: str) -> None:
    check_one(shape, "reduce", 1e-5, function=function, axes=axes)


SOFTMAX: list[tuple[Shape, int]] = [
    ((17, 4, 5), 0), ((17, 4, 5), 1), ((17, 4, 5), 2), ((40,), 0), ((9, 20), 0), ((9, 20), 1), ((2, 3, 4, 5), 0),
    ((3, 17, 4, 5), 1), ((17, 3, 2, 2), 0), ((1, 6, 1), 1), ((1, 1, 6), 2), ((1, 4, 5), 0),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "axis"), SOFTMAX)
def test_softmax(shape: Shape, axis: int) -> None:
    check_one(shape, "softmax", 1e-6, axis=axis)


def test_softmax_of_large_numbers() -> None:
    b = GraphBuilder(0, x=(17,))
    b.node("y", "softmax", "x", axis=0)
    x = np.linspace(-1e4, 1e4, 17, dtype=np.float32)
    check_against_numpy(bundle_for(b.graph()), {"x": x}, tolerance=1e-6)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("channels", [4, 17, 33])
def test_normalising_by_neighbouring_channels(channels: int, size: int) -> None:
    check_one((channels, 3, 4), "lrn", 2e-6, size=size, alpha=0.3, beta=0.75, bias=1.5)
