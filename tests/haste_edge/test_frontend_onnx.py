"""ONNX files: every rule, in every version of the standard that differs, against ONNX Runtime; what is refused, how."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx_models import OnnxBuilder, assert_agrees, load, ops
from torch import Tensor, nn
from torch.nn import functional as F

from haste_edge.compile import compile_model
from haste_edge.errors import ModelError, UnsupportedModelError
from haste_edge.frontends import load_model
from haste_edge.passes import run_passes
from haste_runtime import Session

IMAGE = ("N", 3, 11, 13)
LAST = ("N", 11, 13, 3)

# --- layers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weight", "attributes"),
    [
        ((4, 3, 3, 3), {}),
        ((4, 3, 3, 2), {"pads": [0, 1, 2, 3], "strides": [2, 1]}),
        ((6, 1, 3, 3), {"group": 3, "dilations": [2, 1], "pads": [1, 1, 1, 1]}),
        *[
            ((4, 3, *kernel), {"auto_pad": mode, "strides": strides})
            for mode in ("SAME_UPPER", "SAME_LOWER", "VALID")
            for kernel in ((3, 3), (2, 4))
            for strides in ([1, 1], [2, 3])
        ],
        ((4, 3, 2, 3), {"auto_pad": "VALID", "dilations": [2, 3]}),
        ((5, 3, 1, 1), {"auto_pad": "NOTSET", "kernel_shape": [1, 1]}),
    ],
)
@pytest.mark.parametrize("bias", [False, True])
def test_convolutions(tmp_path: Path, weight: tuple[int, ...], attributes: dict[str, Any], bias: bool) -> None:
    b = OnnxBuilder(x=IMAGE)
    b("Conv", "x", b.random(*weight), *([b.random(weight[0])] if bias else []), **attributes)
    assert ops(assert_agrees(b.model(), tmp_path).graph) == ["conv"]


@pytest.mark.parametrize(
    "attributes", [{}, {"alpha": 0.5, "beta": 2.0}, {"transB": 1}, {"transB": 1, "alpha": -2.0, "beta": 0.0}]
)
@pytest.mark.parametrize("bias", [(), (5,), (1,), (1, 5), None])
def test_gemm(tmp_path: Path, attributes: dict[str, Any], bias: tuple[int, ...] | None) -> None:
    b = OnnxBuilder(x=("N", 7))
    weight = b.random(*((5, 7) if "transB" in attributes else (7, 5)))
    b("Gemm", "x", weight, *([] if bias is None else [b.random(*bias)]), **attributes)
    assert ops(assert_agrees(b.model(), tmp_path).graph) == ["linear"]


def test_a_matrix_product_of_a_vector_or_of_all_channels_at_every_place(tmp_path: Path) -> None:
    b = OnnxBuilder(x=("N", 7))
    b("Add", b("MatMul", "x", b.random(7, 5)), b.random(5))
    assert ops(run_passes(assert_agrees(b.model(), tmp_path).graph)) == ["linear"]
    b = OnnxBuilder(x=("N", 3, 5, 6))
    last = b("Transpose", "x", perm=[0, 2, 3, 1])
    b("Transpose", b("Add", b("MatMul", last, b.random(3, 4)), b.random(4)), perm=[0, 3, 1, 2])
    assert ops(run_passes(assert_agrees(b.model(), tmp_path).graph)) == ["conv"]


@pytest.mark.parametrize("opset", [7, 9, 14, 15, 17])
@pytest.mark.parametrize("shape", [IMAGE, ("N", 3)])
def test_batch_norm_alone_and_folded(tmp_path: Path, opset: int, shape: tuple[Any, ...]) -> None:
    b = OnnxBuilder(opset, x=shape)
    x = "x" if len(shape) == 2 else b("Conv", "x", b.random(3, 3, 1, 1))
    variance = b.weight(b.rng.uniform(0.5, 2, 3))
    b("BatchNormalization", x, b.random(3), b.random(3), b.random(3), variance, epsilon=1e-3)
    graph = run_passes(assert_agrees(b.model(), tmp_path).graph)
    assert ops(graph) == (["scale"] if len(shape) == 2 else ["conv"])


# --- elementwise -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div"])
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("shape", [(), (1,), (3, 1, 1), (1, 3, 1, 1), (1, 1, 1, 1)])
def test_arithmetic_with_a_constant_per_channel(tmp_path: Path, op: str, first: bool, shape: tuple[int, ...]) -> None:
    b = OnnxBuilder(x=IMAGE)
    constant = b.weight(b.rng.uniform(0.5, 2, shape))
    x = b("Exp", "x") if op == "Div" and first else "x"  # not near 0
    b(op, *((constant, x) if first else (x, constant)))
    assert ops(assert_agrees(b.model(), tmp_path).graph)[-1] == "scale"


FUNCTIONS: list[tuple[str, dict[str, Any], int]] = [
    *[(op, {}, 17) for op in ("Abs", "Exp", "HardSwish", "Neg", "Sigmoid", "Softplus", "Tanh", "Selu", "Celu")],
    ("Mish", {}, 18),
    *[(op, {}, 11) for op in ("LeakyRelu", "HardSigmoid", "Elu")],
    ("LeakyRelu", {"alpha": 0.3}, 17),
    ("HardSigmoid", {"alpha": 0.25, "beta": 0.4}, 17),
    ("Elu", {"alpha": 0.5}, 17),
    ("Selu", {"alpha": 1.5, "gamma": 2.0}, 17),
    ("Gelu", {}, 20),
    ("Gelu", {"approximate": "tanh"}, 20),
]


@pytest.mark.parametrize(("op", "attributes", "opset"), FUNCTIONS)
@pytest.mark.parametrize("shape", [IMAGE, ("N", 5)])
def test_functions_of_one_number(
    tmp_path: Path, op: str, attributes: dict[str, Any], opset: int, shape: tuple[Any, ...]
) -> None:
    b = OnnxBuilder(opset, x=shape)
    b(op, "x", **attributes)
    assert ops(assert_agrees(b.model(), tmp_path).graph)[0] == "unary"


@pytest.mark.parametrize(("low", "high"), [(-0.5, 0.25), (None, 1.0), (-1.0, None)])
@pytest.mark.parametrize("opset", [9, 11, 17])
def test_clipping_to_any_bounds(tmp_path: Path, low: float | None, high: float | None, opset: int) -> None:
    b = OnnxBuilder(opset, x=IMAGE)
    bounds = {"min": low, "max": high}
    if opset < 11:
        b("Clip", "x", **{name: bound for name, bound in bounds.items() if bound is not None})
    else:
        b("Clip", "x", *("" if bound is None else b.weight(bound) for bound in bounds.values()))
    assert ops(assert_agrees(b.model(), tmp_path).graph) == ["unary"]


@pytest.mark.parametrize("shape", [(1,), (3, 1, 1), (1, 3, 1, 1)])
def test_slopes_for_each_channel_or_for_all(tmp_path: Path, shape: tuple[int, ...]) -> None:
    b = OnnxBuilder(x=IMAGE)
    b("PRelu", "x", b.random(*shape))
    assert_agrees(b.model(), tmp_path)
    b = OnnxBuilder(x=LAST)
    b("PRelu", b("Transpose", b("Transpose", "x", perm=[0, 3, 1, 2]), perm=[0, 2, 3, 1]), b.random(*shape[::-1]))
    if len(shape) < 4:
        assert_agrees(b.model(), tmp_path)


@pytest.mark.parametrize("exponent", [-1.0, -0.5, 0.5, 1.0, 2.0, 3.0])
def test_powers(tmp_path: Path, exponent: float) -> None:
    b = OnnxBuilder(x=IMAGE)
    b("Relu", b("Pow", b("Exp", "x"), b.weight(exponent)))
    assert_agrees(b.model(), tmp_path)


@pytest.mark.parametrize("op", ["Sigmoid", "HardSigmoid"])
def test_what_multiplies_itself_by_its_gate_is_one_node(tmp_path: Path, op: str) -> None:
    b = OnnxBuilder(x=IMAGE)
    x = b("Relu", "x")
    b("Mul", b(op, x), x)
    assert ops(run_passes(assert_agrees(b.model(), tmp_path).graph)) == ["activation", "unary"]


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Max", "Min"])
@pytest.mark.parametrize("constant", [None, (11, 13), (1, 3, 11, 13), (13,), (3, 11, 1)])
@pytest.mark.parametrize("first", [False, True])
def test_two_operands_of_all_kinds(tmp_path: Path, op: str, constant: tuple[int, ...] | None, first: bool) -> None:
    b = OnnxBuilder(x=IMAGE, **({"y": ("N", 1, 11, 1)} if constant is None else {}))
    y = b("Exp", "y") if constant is None else b.weight(b.rng.uniform(0.5, 2, constant))
    x = b("Exp", "x")
    b(op, *((y, x) if first else (x, y)))
    assert_agrees(b.model(), tmp_path)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dense", [False, True])
def test_squeeze_and_excitation_in_both_layouts(tmp_path: Path, last: bool, dense: bool) -> None:
    b = OnnxBuilder(x=("N", 7, 6, 4) if last else ("N", 4, 7, 6))
    axes = [1, 2] if last else [2, 3]
    s = b("ReduceMean", "x", axes=axes, keepdims=int(not dense))
    if dense:
        s = b("Sigmoid", b("MatMul", s, b.random(4, 4)))
        s = b("Reshape", s, b.ints(*((-1, 1, 1, 4) if last else (-1, 4, 1, 1))))
    else:
        s = b("Transpose", s, perm=[0, 3, 1, 2]) if last else s
        s = b("HardSigmoid", b("Conv", s, b.random(4, 4, 1, 1)))
        s = b("Transpose", s, perm=[0, 2, 3, 1]) if last else s
    b("Mul", "x", s)
    loaded = assert_agrees(b.model(), tmp_path)
    assert "rearrange" not in ops(loaded.graph)


def test_sums_of_computed_values(tmp_path: Path) -> None:
    b = OnnxBuilder(x=IMAGE, y=IMAGE)
    b("Sum", b("Add", "x", "y"), "y", "x")
    assert ops(assert_agrees(b.model(), tmp_path).graph) == ["add"] * 3


@pytest.mark.parametrize("opset", [7, 11, 12, 13, 17, 21])
@pytest.mark.parametrize("bounds", [(0.0, 6.0), (0.0, None)])
def test_relu_in_all_its_forms(tmp_path: Path, opset: int, bounds: tuple[float, float | None]) -> None:
    b = OnnxBuilder(opset, x=IMAGE)
    x = b("Relu", b("Add", "x", b.weight(1.0)))
    low, high = bounds
    if opset < 11:
        b("Clip", x, min=low, **({} if high is None else {"max": high}))
    else:
        b("Clip", x, b.weight(low), *([] if high is None else [b.weight(high)]))
    activations = [n.attributes["activation"] for n in assert_agrees(b.model(), tmp_path).graph.nodes]
    assert activations == ["none", "relu", "relu" if high is None else "relu6"]


# --- pooling ---------------------------------------------------------------------------------------------------------

WINDOWS: list[dict[str, Any]] = [
    {"kernel_shape": [2, 3]},
    {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
    {"kernel_shape": [3, 2], "strides": [2, 3], "pads": [1, 0, 0, 1]},
    {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
    {"kernel_shape": [3, 3], "strides": [3, 2], "pads": [1, 1, 1, 1], "ceil_mode": 1},
    {"kernel_shape": [4, 3], "strides": [3, 3], "pads": [0, 1, 2, 0], "ceil_mode": 1},
    *[{"kernel_shape": [3, 2], "strides": [2, 2], "auto_pad": m} for m in ("SAME_UPPER", "SAME_LOWER", "VALID")],
]


@pytest.mark.parametrize("opset", [11, 17, 22])
@pytest.mark.parametrize("attributes", [*WINDOWS, {"kernel_shape": [2, 3], "dilations": [3, 2], "pads": [0, 1, 1, 0]}])
def test_max_pools(tmp_path: Path, opset: int, attributes: dict[str, Any]) -> None:
    b = OnnxBuilder(opset, x=IMAGE)
    b("MaxPool", "x", **attributes)
    assert ops(assert_agrees(b.model(), tmp_path).graph) == ["max_pool"]


@pytest.mark.parametrize("opset", [11, 17, 19, 22])
@pytest.mark.parametrize("counted", [0, 1])
@pytest.mark.parametrize("attributes", WINDOWS)
def test_average_pools(tmp_path: Path, opset: int, counted: int, attributes: dict[str, Any]) -> None:
    b = OnnxBuilder(opset, x=IMAGE)
    b("AveragePool", "x", count_include_pad=counted, **attributes)
    assert ops(assert_agrees(b.model(), tmp_path).graph)[-1] == "avg_pool"


@pytest.mark.parametrize("opset", [11, 13, 18])
@pytest.mark.parametrize("keep", [0, 1])
def test_averages_over_the_map_end_as_one_node(tmp_path: Path, opset: int, keep: int) -> None:
    b = OnnxBuilder(opset, x=IMAGE)
    axes = {"axes": [2, -1]} if opset < 18 else {}
    x = b("ReduceMean", "x", *([] if axes else [b.ints(2, -1)]), keepdims=keep, **axes)
    b("Gemm", b("Flatten", x), b.random(3, 4))
    assert ops(run_passes(assert_agrees(b.model(), tmp_path).graph)) == ["mean", "linear"]
    b = OnnxBuilder(opset, x=IMAGE)
    b("Gemm", b("Flatten", b("GlobalAveragePool", "x")), b.random(3, 4))
    assert ops(run_passes(assert_agrees(b.model(), tmp_path).graph)) == ["mean", "linear"]


def test_the_largest_of_a_map(tmp_path: Path) -> None:
    b = OnnxBuilder(x=IMAGE)
    b("GlobalMaxPool", "x")
    assert_agrees(b.model(), tmp_path)


# --- transposed convolutions, resizing, and what works along an axis -------------------------------------------------


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]},
        {"strides": [2, 3], "pads": [0, 1, 1, 0], "dilations": [2, 1]},
        {"strides": [3, 2], "output_shape": [17, 10]},
        {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
        {"strides": [2, 2], "auto_pad": "SAME_LOWER"},
        {"strides": [2, 2], "auto_pad": "VALID"},
    ],
)
@pytest.mark.parametrize("group", [1, 3])
def test_transposed_convolutions(tmp_path: Path, attributes: dict[str, Any], group: int) -> None:
    b = OnnxBuilder(x=("N", 3, 6, 5))
    b("ConvTranspose", "x", b.random(3, 2, 3, 3), b.random(2 * group), group=group, **attributes)
    assert_agrees(b.model(), tmp_path)


RESIZES: list[dict[str, Any]] = [
    *[
        {"mode": mode, "coordinate_transformation_mode": coordinates}
        for mode in ("nearest", "linear", "cubic")
        for coordinates in ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
    ],
    *[
        {"mode": "nearest", "coordinate_transformation_mode": coordinates, "nearest_mode": rounding}
        for coordinates in ("half_pixel", "asymmetric")
        for rounding in ("floor", "ceil", "round_prefer_ceil")
    ],
]


@pytest.mark.parametrize("attributes", RESIZES)
@pytest.mark.parametrize("opset", [11, 13, 19])
@pytest.mark.parametrize("scales", [(2.0, 2.0), (1.5, 0.6), None])
def test_resizing(tmp_path: Path, attributes: dict[str, Any], opset: int, scales: tuple[float, float] | None) -> None:
    b = OnnxBuilder(opset, x=("N" if scales else 1, 3, 6, 7))
    roi = b.weight(np.zeros(0)) if opset < 13 else ""
    if scales is None:
        empty = b.weight(np.zeros(0)) if opset < 13 else ""
        b("Resize", "x", roi, empty, b.ints(1, 3, 9, 4), **attributes)
    else:
        b("Resize", "x", roi, b.weight([1, 1, *scales]), **attributes)
    assert_agrees(b.model(), tmp_path)


def test_resizing_before_version_11_and_with_channels_last(tmp_path: Path) -> None:
    b = OnnxBuilder(10, x=("N", 3, 6, 7))
    b("Resize", b("Resize", "x", b.weight([1, 1, 2, 2]), mode="nearest"), b.weight([1, 1, 1, 2]), mode="linear")
    assert_agrees(b.model(), tmp_path)
    b = OnnxBuilder(9, x=("N", 3, 6, 7))
    b("Upsample", "x", b.weight([1, 1, 3, 2]), mode="nearest")
    assert_agrees(b.model(), tmp_path)
    b = OnnxBuilder(13, x=LAST)
    x = b("Conv", b("Transpose", "x", perm=[0, 3, 1, 2]), b.random(4, 3, 1, 1))
    x = b("Transpose", x, perm=[0, 2, 3, 1])
    x = b("Resize", x, "", b.weight([1, 2, 2, 1]), coordinate_transformation_mode="asymmetric", nearest_mode="floor")
    assert "rearrange" not in ops(assert_agrees(b.model(), tmp_path).graph)


@pytest.mark.parametrize("opset", [11, 13, 18])
@pytest.mark.parametrize("op", ["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"])
@pytest.mark.parametrize(("axes", "keep"), [((1,), 1), ((2, 3), 0), ((-1,), 0), ((1, 2, 3), 1), ((3, 2), 1)])
def test_reductions(tmp_path: Path, opset: int, op: str, axes: tuple[int, ...], keep: int) -> None:
    b = OnnxBuilder(opset, x=IMAGE)
    by_input = opset >= (13 if op == "ReduceSum" else 18)
    b(op, "x", *([b.ints(*axes)] if by_input else []), keepdims=keep, **({} if by_input else {"axes": list(axes)}))
    assert_agrees(b.model(), tmp_path)


@pytest.mark.parametrize(("opset", "axis"), [(11, 1), (11, 3), (13, 1), (13, -1), (17, 2), (17, None)])
def test_softmax(tmp_path: Path, opset: int, axis: int | None) -> None:
    attributes = {} if axis is None else {"axis": axis}
    b = OnnxBuilder(opset, x=IMAGE)
    if (opset, axis) != (11, 3):
        b("Softmax", "x", **attributes)
    else:  # the last axis alone, in the older form
        b("Softmax", b("Conv", "x", b.random(4, 3, 11, 1)), **attributes)
    assert_agrees(b.model(), tmp_path)
    b = OnnxBuilder(opset, x=("N", 5))
    b("Softmax", "x", axis=1)
    assert ops(assert_agrees(b.model(), tmp_path).graph) == ["softmax"]


def test_local_response_norm(tmp_path: Path) -> None:
    for size in (1, 3, 5):
        b = OnnxBuilder(x=("N", 6, 5, 4))
        b("LRN", "x", size=size, alpha=0.5, beta=0.6, bias=1.5)
        assert_agrees(b.model(), tmp_path)


@pytest.mark.parametrize("mode", ["reflect", "edge", "wrap"])
@pytest.mark.parametrize("last", [False, True])
def test_borders_of_the_maps_own_pixels(tmp_path: Path, mode: str, last: bool) -> None:
    b = OnnxBuilder(19, x=("N", 5, 6, 3) if last else ("N", 3, 5, 6))
    pads = [0, 1, 2, 0, 0, 3, 0, 0] if last else [0, 0, 1, 2, 0, 0, 3, 0]
    x = b("Pad", "x", b.ints(*pads), mode=mode)
    x = b("Conv", b("Transpose", x, perm=[0, 3, 1, 2]) if last else x, b.random(4, 3, 1, 1))
    b("Transpose", x, perm=[0, 2, 3, 1]) if last else None
    assert ops(assert_agrees(b.model(), tmp_path).graph) == ["extend", "conv"]


@pytest.mark.parametrize(("op", "attributes"), [
    ("DepthToSpace", {}), ("DepthToSpace", {"mode": "DCR"}), ("DepthToSpace", {"mode": "CRD"}), ("SpaceToDepth", {}),
])  # fmt: skip
def test_pixels_and_channels(tmp_path: Path, op: str, attributes: dict[str, Any]) -> None:
    b = OnnxBuilder(x=("N", 8, 4, 6))
    b(op, "x", blocksize=2, **attributes)
    assert ops(assert_agrees(b.model(), tmp_path).graph) == ["rearrange"]


def test_layer_and_instance_norm_in_both_layouts(tmp_path: Path) -> None:
    b = OnnxBuilder(x=("N", 5, 6, 7))
    last = b("Transpose", b("InstanceNormalization", "x", b.random(5), b.random(5)), perm=[0, 2, 3, 1])
    x = b("LayerNormalization", last, b.random(7 - 2), b.random(5), axis=-1, epsilon=1e-3)
    b("LayerNormalization", b("Transpose", x, perm=[0, 3, 1, 2]), b.random(6, 7), axis=2)
    assert "rearrange" not in ops(assert_agrees(b.model(), tmp_path).graph)
    b = OnnxBuilder(x=("N", 6, 4, 5))  # a group norm, as torch writes it
    x = b("InstanceNormalization", b("Reshape", "x", b.ints(0, 2, -1)), b.weight([1, 1]), b.weight([0, 0]))
    b("Mul", b("Reshape", x, b.ints(-1, 6, 4, 5)), b.random(6, 1, 1))
    assert_agrees(b.model(), tmp_path)


@pytest.mark.parametrize("form", ["torch", "half first", "multiplied", "not quite"])
def test_gelu_written_out_is_one_node(tmp_path: Path, form: str) -> None:
    b = OnnxBuilder(x=IMAGE)
    x, one, half = b("Relu", "x"), b.weight(1.0), b.weight(0.5)
    root = b.weight(np.sqrt(2)), b.weight(np.sqrt(0.5))
    if form == "torch":
        y = b("Mul", b("Mul", x, b("Add", b("Erf", b("Div", x, root[0])), one)), half)
    elif form == "half first":
        y = b("Mul", b("Mul", half, x), b("Add", one, b("Erf", b("Mul", x, root[1]))))
    elif form == "multiplied":
        y = b("Mul", b("Mul", b("Add", b("Erf", b("Mul", root[1], x)), one), half), x)
    else:
        y = b("Mul", b("Mul", x, b("Add", b("Erf", b("Div", x, root[0])), half)), half)
    b("Neg", y)
    if form == "not quite":
        with pytest.raises(UnsupportedModelError, match=r"Erf_\w+ \(Erf\)"):
            load(b.model(), tmp_path)
    else:
        assert ops(run_passes(assert_agrees(b.model(), tmp_path).graph)) == ["activation", "unary", "unary"]


@pytest.mark.parametrize("form", ["in order", "in another order", "fewer", "used twice"])
def test_a_mean_that_torch_strides_anew_is_reshaped(tmp_path: Path, form: str) -> None:
    """As torch.onnx writes an adaptive pool of a map with channels last: through one vector of all frames."""
    b = OnnxBuilder(x=(1, 6, 4, 5))
    vector = b("Reshape", b("ReduceMean", "x", axes=[-1, -2], keepdims=1), b.ints(6), name="flat")
    order = {"in another order": [1, 0, 2, 3, 4, 5], "fewer": [0, 1, 2, 3, 4]}.get(form, range(6))
    x = b("Gather", vector, b.weight(np.array(order).reshape(1, -1, 1, 1), np.int64), axis=0)
    x = b("Flatten", b("Transpose", x, perm=[0, 2, 3, 1]))
    if form == "used twice":
        x = b("Add", x, b("Neg", vector))
    b("Gemm", x, b.random(5 if form == "fewer" else 6, 3))
    if form == "in order":
        assert ops(run_passes(assert_agrees(b.model(), tmp_path).graph)) == ["mean", "linear"]
    else:
        with pytest.raises(UnsupportedModelError, match=r"flat \(Reshape\)"):
            load(b.model(), tmp_path)


def test_a_channel_shuffle_is_one_node(tmp_path: Path) -> None:
    b = OnnxBuilder(x=("N", 6, 4, 5))
    x = b("Transpose", b("Reshape", "x", b.ints(0, 2, 3, 4, 5)), perm=[0, 2, 1, 3, 4])
    b("Reshape", x, b.ints(-1, 6, 4, 5))
    assert ops(run_passes(assert_agrees(b.model(), tmp_path).graph)) == ["rearrange"]


def test_a_head_of_a_detector_reshapes_and_transposes(tmp_path: Path) -> None:
    b = OnnxBuilder(x=("N", 8, 3, 4), y=("N", 8, 2, 2))
    parts = [b("Reshape", x, b.ints(0, 8, -1)) for x in ("x", "y")]
    boxes, scores = b("Split", b("Concat", *parts, axis=2), b.ints(4, 4), outputs=2, axis=1)
    corners = b("Reshape", boxes, b.ints(0, 2, 2, 16))
    weights = b("Softmax", b("Transpose", corners, perm=[0, 3, 2, 1]), axis=3)
    merged = b("Reshape", b("Transpose", weights, perm=[0, 3, 2, 1]), b.ints(0, 4, 16))
    moved = b("Sub", b.random(1, 4, 16), merged)
    b("Transpose", b("Concat", moved, b("Sigmoid", scores), axis=1), perm=[0, 2, 1])
    assert_agrees(b.model(), tmp_path)


@pytest.mark.parametrize("index", [2, -1, [2, 1, 0], [0, 1, 4, 5], [3]])
def test_picking_by_constant_indices(tmp_path: Path, index: int | list[int]) -> None:
    b = OnnxBuilder(x=("N", 6, 4, 5))
    b("Relu", b("Gather", "x", b.weight(index, np.int64), axis=1))
    assert_agrees(b.model(), tmp_path)


def test_slices_backwards(tmp_path: Path) -> None:
    b = OnnxBuilder(x=IMAGE)
    b("Slice", "x", b.ints(-1, 8), b.ints(-(2**31), 2), b.ints(1, 2), b.ints(-1, -2))
    assert_agrees(b.model(), tmp_path)


# --- shapes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opset", [9, 11, 13, 17])
def test_padding_and_slices_say_in_attributes_or_inputs_what_they_do(tmp_path: Path, opset: int) -> None:
    b = OnnxBuilder(opset, x=IMAGE)
    pads = [0, 1, 2, 0, 0, 2, 0, 1]
    x = b("Pad", "x", pads=pads, value=0.5) if opset < 11 else b("Pad", "x", b.ints(*pads), b.weight(0.5))
    if opset < 10:
        b("Slice", x, starts=[1, -9], ends=[2**31 - 1, -2], axes=[1, 3])
    else:
        b("Slice", x, b.ints(1, -9), b.ints(2**31 - 1, -2), b.ints(1, -1), b.ints(2, 3))
    assert ops(assert_agrees(b.model(), tmp_path).graph) == ["pad", "slice"]


@pytest.mark.parametrize("opset", [7, 11, 13, 18])
def test_parts_of_a_split_and_their_concatenation(tmp_path: Path, opset: int) -> None:
    b = OnnxBuilder(opset, x=("N", 6, 4, 5))
    if opset < 13:
        first, second, third = b("Split", "x", outputs=3, axis=1, split=[1, 3, 2])
    else:
        first, second, third = b("Split", "x", b.ints(1, 3, 2), outputs=3, axis=1)
    if opset == 18:
        left, right = b("Split", third, outputs=2, axis=-1, num_outputs=2)
        third = b("Concat", right, left, axis=3)
    b("Concat", third, second, first, axis=1)
    assert_agrees(b.model(), tmp_path)


@pytest.mark.parametrize("opset", [11, 13])
def test_squeezed_and_unsqueezed(tmp_path: Path, opset: int) -> None:
    b = OnnxBuilder(opset, x=("N", 6))
    b.inputs = OnnxBuilder(x=("N", 6, 4, 4)).inputs
    x = b("GlobalAveragePool", "x")
    x = b("Squeeze", x, axes=[2, 3]) if opset < 13 else b("Squeeze", x, b.ints(2, 3))
    x = b("Gemm", x, b.random(6, 6))
    b("Squeeze", b("Unsqueeze", x, axes=[2]), axes=[2]) if opset < 13 else b(
        "Squeeze", b("Unsqueeze", x, b.ints(2)), b.ints(2)
    )
    assert ops(assert_agrees(b.model(), tmp_path).graph) == ["mean", "mean", "linear"]


def test_identities_leave_nothing_behind(tmp_path: Path) -> None:
    b = OnnxBuilder(x=IMAGE)
    x = b("Identity", b("Dropout", "x", b.weight(0.5)))
    x = b("Cast", b("Reshape", x, b.ints(0, 3, -1, 13)), to=TensorProto.FLOAT)
    b("Relu", b("Expand", x, b.ints(1, 3, 1, 1)))
    assert ops(assert_agrees(b.model(), tmp_path).graph) == ["activation"]


def test_shapes_worked_out_in_the_model_are_folded(tmp_path: Path) -> None:
    """What exporters make of x.view(x.shape[0], -1) and of a map's size."""
    b = OnnxBuilder(x=IMAGE)
    x = b("Relu", "x")
    batch = b("Gather", b("Shape", x), b.weight(0, np.int64), axis=0)
    target = b("Concat", b("Unsqueeze", batch, b.ints(0)), b.ints(-1), axis=0)
    flat = b("Reshape", x, target)
    height = b("Cast", b("Gather", b("Shape", "x"), b.weight(2, np.int64)), to=TensorProto.FLOAT)
    b("Gemm", b("Div", flat, b("Sqrt", height)), b.random(3 * 11 * 13, 4, scale=0.1))
    assert ops(assert_agrees(b.model(), tmp_path).graph) == ["activation", "scale", "flatten", "linear"]


def test_a_constant_condition_takes_its_branch(tmp_path: Path) -> None:
    b = OnnxBuilder(x=("N", 4, 1, 1))
    branches = {}
    for name, node in (
        ("then_branch", helper.make_node("Squeeze", ["x", "axes"], ["out_then"])),
        ("else_branch", helper.make_node("Identity", ["x"], ["out_else"])),
    ):
        axes = [numpy_helper.from_array(np.array([2, 3]), "axes")] if name.startswith("then") else []
        out = helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, None)
        branches[name] = helper.make_graph([node], name, [], [out], axes)
    rank = b("Size", b("Shape", "x"))
    b("Gemm", b("If", b("Equal", rank, b.weight(4, np.int64)), **branches), b.random(4, 2))
    assert_agrees(b.model(), tmp_path)


def test_functions_of_the_model_are_written_out(tmp_path: Path) -> None:
    b = OnnxBuilder(x=IMAGE)
    b.nodes.append(helper.make_node("Block", ["x"], ["y"], name="block", domain="own"))
    model = b.model()
    opsets = [helper.make_opsetid("", 17)]
    nodes = [helper.make_node("Relu", ["a"], ["b"]), helper.make_node("Add", ["a", "b"], ["c"])]
    model.functions.append(helper.make_function("own", "Block", ["a"], ["c"], nodes, opsets))
    model.opset_import.append(helper.make_opsetid("own", 1))
    assert ops(assert_agrees(model, tmp_path).graph) == ["activation", "add"]


# --- layouts ---------------------------------------------------------------------------------------------------------


def channels_last_network(b: OnnxBuilder) -> str:
    """As TensorFlow's exporter writes it: transposes around every operator that needs channels first."""
    x = "x"
    for channels, filters in ((3, 4), (4, 6)):
        x = b("Transpose", x, perm=[0, 3, 1, 2])
        x = b("Conv", x, b.random(filters, channels, 3, 3), auto_pad="SAME_UPPER", strides=[2, 1])
        x = b("Transpose", x, perm=[0, 2, 3, 1])
        x = b("Relu", b("Add", b("Mul", x, b.random(filters)), b.random(1, 1, 1, filters)))
    x = b("Concat", x, b("Pad", b("Slice", x, b.ints(1), b.ints(9), b.ints(2)), b.ints(0, 0, 5, 0, 0, 0, 0, 0)), axis=3)
    return x


def test_transposes_around_operators_vanish(tmp_path: Path) -> None:
    b = OnnxBuilder(x=LAST)
    x = channels_last_network(b)
    b("MatMul", b("ReduceMean", x, axes=[1, 2], keepdims=0), b.random(12, 5))
    loaded = assert_agrees(b.model(), tmp_path)
    assert (loaded.layout, loaded.graph.inputs[0].shape) == ("NHWC", (3, 11, 13))
    found = ops(run_passes(loaded.graph))
    assert found == ["conv", "conv", "slice", "pad", "concat", "mean", "linear"]


def test_flattening_with_channels_last_keeps_the_files_order(tmp_path: Path) -> None:
    b = OnnxBuilder(x=LAST)
    x = channels_last_network(b)
    b("MatMul", b("Reshape", x, b.ints(-1, 3 * 13 * 12)), b.random(3 * 13 * 12, 5, scale=0.1))
    graph = run_passes(assert_agrees(b.model(), tmp_path).graph)
    assert [node.attributes["order"] for node in graph.nodes if node.op == "flatten"] == ["HWC"]


def test_maps_leave_in_the_layout_they_came_in(tmp_path: Path) -> None:
    b = OnnxBuilder(x=LAST)
    x = channels_last_network(b)
    assert "rearrange" not in ops(assert_agrees(b.model(x), tmp_path).graph)
    compile_model(str(tmp_path / "model.onnx"), tmp_path / "net.haste", levels=1)
    images = np.random.default_rng(0).standard_normal((2, 11, 13, 3)).astype(np.float32)
    with Session(tmp_path / "net.haste", "numpy") as session:
        assert session.bundle.preprocessing.layout == "NHWC"
        assert session.run(images).shape == (2, 3, 13, 12)
    compile_model(str(tmp_path / "model.onnx"), tmp_path / "first.haste", levels=1, layout="NCHW")
    with Session(tmp_path / "first.haste", "numpy") as session:
        assert session.run(images.transpose(0, 3, 1, 2)).shape == (2, 12, 3, 13)


# --- inputs and outputs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 2])
def test_a_fixed_batch_works_frame_by_frame(tmp_path: Path, batch: int) -> None:
    b = OnnxBuilder(x=(batch, 3, 8, 8))
    b("Gemm", b("Reshape", b("Relu", "x"), b.ints(batch, 192)), b.random(192, 4))
    for frames in (1, 2, 3):
        assert_agrees(b.model(), tmp_path, frames)


def test_an_open_size_is_asked_for_and_then_fixed(tmp_path: Path) -> None:
    b = OnnxBuilder(x=("N", 3, "H", "W"))
    b("Relu", "x")
    with pytest.raises(ModelError, match=r"any size \(1x3x\?x\?\).*--input"):
        load(b.model(), tmp_path)
    assert assert_agrees(b.model(), tmp_path, input_shape="1x3x5x6").input_shape == (1, 3, 5, 6)
    with pytest.raises(ModelError, match=r"is 1x3x\?x\?, not 1x4x5x6"):
        load(b.model(), tmp_path, "1x4x5x6")


def test_several_inputs_and_outputs_keep_their_names(tmp_path: Path) -> None:
    b = OnnxBuilder(image=IMAGE, state=("N", 4))
    x = b("Conv", "image", b.random(4, 3, 1, 1))
    scores = b("Add", b("Squeeze", b("GlobalAveragePool", x), b.ints(2, 3)), "state")
    relu = b("Relu", x, name=scores)  # a node called as another one's result
    loaded = assert_agrees(b.model(scores, relu, x), tmp_path)
    compile_model(str(tmp_path / "model.onnx"), tmp_path / "net.haste", levels=1)
    with Session(tmp_path / "net.haste", "numpy") as session:
        assert [v.name for v in session.bundle.graph.inputs] == ["image", "state"]
        assert session.bundle.graph.outputs == loaded.outputs == (scores, relu, x)


def test_names_are_those_of_the_weights_or_of_the_file(tmp_path: Path) -> None:
    b = OnnxBuilder(x=IMAGE)
    x = b("Conv", "x", b.weight(np.ones((4, 3, 1, 1)), name="stem.conv.weight"), name="/stem/Conv")
    b("Relu", b("Conv", x, b.weight(np.ones((4, 4, 1, 1)), name="onnx::Conv_12"), name="/body/Conv"))
    graph = load(b.model(), tmp_path).graph
    assert [node.name for node in graph.nodes][:2] == ["stem.conv", "/body/Conv"]
    assert set(graph.constants) == {"stem.conv.weight", "onnx::Conv_12"}


@pytest.mark.parametrize("folder", [".", "inner"])
def test_weights_in_other_files_of_the_folder(tmp_path: Path, folder: str) -> None:
    b = OnnxBuilder(x=("N", 64))
    b("Gemm", "x", b.random(64, 32))
    wanted = assert_agrees(b.model(), tmp_path).graph.constants
    (tmp_path / "inner").mkdir()
    onnx.save(
        b.model(),
        tmp_path / "model.onnx",
        save_as_external_data=True,
        location=f"{folder}/weights.bin",
        size_threshold=0,
    )
    assert (tmp_path / folder / "weights.bin").exists()
    (got,) = load_model(str(tmp_path / "model.onnx")).graph.constants.values()
    assert np.array_equal(got, *wanted.values())


def test_without_onnxruntime_onnx_itself_is_the_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any) -> Any:
        if name == "onnxruntime":
            raise ImportError
        return real(name, *args)

    b = OnnxBuilder(x=IMAGE)
    b("Relu", b("Conv", "x", b.random(4, 3, 3, 3)))
    monkeypatch.setattr(builtins, "__import__", without)
    loaded = load(b.model(), tmp_path)
    monkeypatch.undo()
    x = torch.randn(2, 3, 11, 13)
    assert torch.allclose(loaded.reference(x)[0], load(b.model(), tmp_path).reference(x)[0], atol=1e-5)
    b("LRN", b("Conv", "x", b.random(4, 3, 3, 3)), size=3)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModelError, match="can be proved by ONNX Runtime only"):
        load(b.model(), tmp_path)


# --- refusals --------------------------------------------------------------------------------------------------------


def convolved(b: OnnxBuilder) -> str:
    """So that there is no doubt which axis has the channels."""
    return str(b("Conv", "x", b.random(4, 3, 3, 3)))


def refusals(b: OnnxBuilder, folder: Path, *outputs: str) -> list[str]:
    with pytest.raises(UnsupportedModelError) as caught:
        load(b.model(*outputs), folder)
    return [str(refusal) for refusal in caught.value.refusals]


def test_all_refusals_of_a_model_are_listed_with_names_and_advice(tmp_path: Path) -> None:
    b = OnnxBuilder(x=IMAGE)
    x = b("Sin", "x", name="sine")
    x = b("Relu", b("Conv", x, b.random(4, 3, 3, 3)))
    dynamic = b("Conv", "x", "x", name="dynamic")
    mixing = b("Reshape", b("Relu", "x"), b.ints(3, -1), name="mixing")
    first, second, third = refusals(b, tmp_path, x, dynamic, mixing)
    assert first.startswith("sine (Sin): There is no kernel")
    assert second.startswith("dynamic (Conv): Its weight is computed from the input.")
    assert third.startswith("mixing (Reshape): ")
    assert "does not keep the batch" in third


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda b: b("Conv", "x", b("Relu", b.random(4, 3, 3, 3)), auto_pad="SOME"), "auto_pad SOME"),
        (lambda b: b("Transpose", "x", perm=[1, 0, 2, 3]), "does not keep the batch|moves the batch"),
        (lambda b: b("Softmax", "x", axis=0), "batch"),
        (lambda b: b("Pad", convolved(b), b.ints(0, 1, 1, 1, 0, 0, 0, 0), mode="reflect"), "pads channels by reflect"),
        (lambda b: b("Resize", convolved(b), "", b.weight([1, 2, 2, 2])), "resizes channels"),
        (lambda b: b("ReduceMax", "x", axes=[1, 2, 3], keepdims=0), "without an axis"),
        (lambda b: b("Gather", "x", b.weight([0, 2, 4] * 30, np.int64), axis=3), "from all over"),
        (lambda b: b("Mul", "x", b("Cast", b("Size", "x"), to=TensorProto.FLOAT)), "depends on the size of the batch"),
        (lambda b: b("ReduceMean", "x", axes=[0]), "batch"),
        (lambda b: b("Concat", "x", "x", axis=0), "batch"),
        (lambda b: b("Dropout", "x", b.weight(0.5), b.weight(True, np.bool_)), "at random"),
        (lambda b: b("MaxPool", "x", outputs=2, kernel_shape=[2, 2])[1] and b("Relu", "v1"), "further result"),
        (lambda b: b("QuantizeLinear", "x", b.weight(1.0), b.weight(0, np.uint8)), "--dtype int8"),
        (lambda b: b("Conv", "x", b.random(4, 5, 3, 3)), "groups|weight|channels"),
    ],
)
def test_what_cannot_be_compiled_says_why(tmp_path: Path, make: Callable[[OnnxBuilder], object], says: str) -> None:
    b = OnnxBuilder(x=IMAGE)
    make(b)
    with pytest.raises(UnsupportedModelError, match=says):
        load(b.model(), tmp_path)


def test_an_output_that_has_no_kernel_is_refused_not_left_out(tmp_path: Path) -> None:
    b = OnnxBuilder(x=IMAGE)
    largest, places = b("MaxPool", "x", outputs=2, kernel_shape=[2, 2])
    model = b.model(largest, places)
    model.graph.output[1].type.tensor_type.elem_type = TensorProto.INT64
    with pytest.raises(UnsupportedModelError, match="further result"):
        load(model, tmp_path)


def test_what_a_file_takes_must_be_float_maps_or_vectors(tmp_path: Path) -> None:
    b = OnnxBuilder(x=IMAGE)
    b("Relu", "x")
    model = b.model()
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    with pytest.raises(ModelError, match=r"'x' is uint8, not float32|not a valid"):
        load(model, tmp_path)
    b = OnnxBuilder(x=("N", 3, 8, 8, 2, 2))
    b("Relu", "x")
    with pytest.raises(ModelError, match="6 dimensions"):
        load(b.model(), tmp_path)
    with pytest.raises(ModelError, match="own weights"):
        load_model(str(tmp_path / "model.onnx"), weights="w.safetensors")


# --- networks as exporters write them --------------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)) + x)


class Net(nn.Module):
    """Residuals, an option-A shortcut, pools, sizes taken from the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 5, 2, 2), nn.BatchNorm2d(8), nn.ReLU6(), nn.MaxPool2d(3, 2, 1))
        self.blocks = nn.Sequential(Block(8), Block(8))
        self.pool = nn.AvgPool2d(3, 2, 1)
        self.drop = nn.Dropout()
        self.fc = nn.Linear(16 * 4 * 4, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = self.blocks(self.stem(image))
        x = torch.cat([self.pool(x), F.pad(x[:, :6, ::2, ::2], (0, 0, 0, 0, 1, 1))], 1)
        return self.fc(self.drop(x.view(image.shape[0], -1)))


@pytest.mark.filterwarnings("ignore")  # torch's exporters, about themselves
@pytest.mark.parametrize(("dynamo", "opset"), [(False, 13), (False, 18), (True, 18)])
def test_torch_networks(tmp_path: Path, dynamo: bool, opset: int) -> None:
    torch.manual_seed(0)
    net = Net().eval()
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.uniform_(-1, 1)
            layer.running_var.uniform_(0.5, 2)
    path, image = tmp_path / "net.onnx", torch.randn(2, 3, 32, 32)
    axes: dict[str, Any] = (
        {"dynamic_shapes": ({0: torch.export.Dim("batch")},)}
        if dynamo
        else {"dynamic_axes": {"image": {0: "batch"}, "scores": {0: "batch"}}}
    )
    torch.onnx.export(
        net,
        (image,),
        str(path),
        opset_version=opset,
        dynamo=dynamo,
        input_names=["image"],
        output_names=["scores"],
        **axes,
    )
    loaded = assert_agrees(onnx.load(path), tmp_path)
    (got,) = loaded.reference(image)
    assert torch.allclose(got, net(image), atol=1e-5)
    assert (loaded.layout, loaded.outputs, loaded.graph.inputs[0].name) == ("NCHW", ("scores",), "image")
    assert ops(run_passes(loaded.graph)).count("conv") == 3
    assert "add" not in ops(run_passes(loaded.graph))
