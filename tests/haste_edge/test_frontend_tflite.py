"""TFLite files: every rule against LiteRT, through the compiler, what is refused and how, and damaged files."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tflite
import torch
from tflite_models import (
    NONE,
    RELU,
    RELU6,
    RELU_N1_TO_1,
    SAME,
    SIGN_BIT,
    VALID,
    TfliteBuilder,
    assert_agrees,
    load,
    on_graph,
    ops,
    with_litert,
)

from haste_edge.compile import compile_model
from haste_edge.errors import ModelError, UnsupportedModelError
from haste_edge.frontends import load_model, tflite_process
from haste_edge.passes import run_passes
from haste_runtime import Session
from haste_runtime.attributes import MAX_FLOAT
from haste_runtime.preprocessing import Preprocessing

IMAGE = (1, 11, 13, 3)
CONV = {"options": "Conv2DOptions", "StrideH": 1, "StrideW": 1, "DilationHFactor": 1, "DilationWFactor": 1}
POOL = {"options": "Pool2DOptions", "StrideH": 1, "StrideW": 1}


def window(size: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int], padding: int) -> list[int]:
    """Height and width of what comes out, as TensorFlow defines it."""
    return [
        -(-(extent if padding == SAME else extent - taps + 1) // step)
        for extent, taps, step in zip(size, kernel, stride, strict=True)
    ]


# --- layers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", [SAME, VALID])
@pytest.mark.parametrize(("kernel", "stride"), [((3, 3), (1, 1)), ((3, 3), (2, 2)), ((2, 5), (3, 1)), ((4, 2), (2, 3))])
@pytest.mark.parametrize("groups", [1, 3, None])
def test_convolutions(
    tmp_path: Path, padding: int, kernel: tuple[int, int], stride: tuple[int, int], groups: int | None
) -> None:
    """groups: None for a depthwise one with a multiplier of 2."""
    b = TfliteBuilder(IMAGE)
    shape = (1, *window(IMAGE[1:3], kernel, stride, padding), 6)
    steps = {"StrideH": stride[0], "StrideW": stride[1], "Padding": padding, "FusedActivationFunction": RELU}
    if groups is None:
        options = {**steps, "options": "DepthwiseConv2DOptions", "DepthMultiplier": 2}
        dilation = {"DilationHFactor": 1, "DilationWFactor": 1}
        b("DEPTHWISE_CONV_2D", [*b.inputs, b.random(1, *kernel, 6), b.random(6)], shape, **options, **dilation)
    else:
        weight = b.random(6, *kernel, 3 // groups)
        b("CONV_2D", [*b.inputs, weight, b.random(6)], shape, **{**CONV, **steps})
    loaded = assert_agrees(b.model(), tmp_path)
    assert loaded.layout == "NHWC"
    assert ops(run_passes(loaded.graph)) == ["conv"]


@pytest.mark.parametrize("padding", [SAME, VALID])
def test_dilated_convolutions(tmp_path: Path, padding: int) -> None:
    b = TfliteBuilder(IMAGE)
    shape = (1, *window(IMAGE[1:3], (5, 7), (1, 1), padding), 4)
    options = {**CONV, "DilationHFactor": 2, "DilationWFactor": 3, "Padding": padding}
    b("CONV_2D", [*b.inputs, b.random(4, 3, 3, 3), b.random(4)], shape, **options)
    assert_agrees(b.model(), tmp_path)


@pytest.mark.parametrize("activation", [NONE, RELU, RELU_N1_TO_1, RELU6])
@pytest.mark.parametrize("op", ["CONV_2D", "ADD", "MAX_POOL_2D", "FULLY_CONNECTED"])
def test_activations_that_layers_end_with(tmp_path: Path, activation: int, op: str) -> None:
    b = TfliteBuilder((1, 4, 5, 3))
    (x,) = b.inputs
    fused = {"FusedActivationFunction": activation}
    if op == "CONV_2D":
        b(op, [x, b.random(3, 1, 1, 3), b.random(3)], (1, 4, 5, 3), **CONV, **fused)
    elif op == "MAX_POOL_2D":
        b(op, [x], (1, 3, 4, 3), **POOL, FilterHeight=2, FilterWidth=2, Padding=VALID, **fused)
    elif op == "FULLY_CONNECTED":
        b(op, [x, b.random(7, 60), -1], (1, 7), options="FullyConnectedOptions", **fused)
    else:
        b(op, [x, x], (1, 4, 5, 3), options="AddOptions", **fused)
    assert_agrees(b.model(), tmp_path)


@pytest.mark.parametrize("padding", [SAME, VALID])
@pytest.mark.parametrize(("kernel", "stride"), [((3, 3), (2, 2)), ((2, 2), (2, 2)), ((4, 3), (2, 1)), ((2, 3), (3, 3))])
@pytest.mark.parametrize("bias", [False, True])
def test_transposed_convolutions(
    tmp_path: Path, padding: int, kernel: tuple[int, int], stride: tuple[int, int], bias: bool
) -> None:
    b = TfliteBuilder((1, 5, 6, 3))
    size = [
        extent * step if padding == SAME else extent * step + max(taps - step, 0)
        for extent, taps, step in zip((5, 6), kernel, stride, strict=True)
    ]
    inputs = [b.ints(1, *size, 4), b.random(4, *kernel, 3), *b.inputs, *([b.random(4)] if bias else [])]
    options = {"StrideH": stride[0], "StrideW": stride[1], "Padding": padding}
    b("TRANSPOSE_CONV", inputs, (1, *size, 4), options="TransposeConvOptions", **options)
    assert_agrees(b.model(), tmp_path)


def test_matrix_products_of_a_vector_a_flattened_map_and_every_place(tmp_path: Path) -> None:
    b = TfliteBuilder((1, 4, 5, 3), (1, 7), (1, 6, 7))
    first, second, third = b.inputs
    options = {"options": "FullyConnectedOptions"}
    flat = b("FULLY_CONNECTED", [first, b.random(5, 60), b.random(5)], (1, 5), **options)
    vector = b("FULLY_CONNECTED", [second, b.random(5, 7), -1], (1, 5), **options)
    places = b("FULLY_CONNECTED", [first, b.random(2, 3), b.random(2)], (1, 4, 5, 2), **options, KeepNumDims=True)
    rows = b("FULLY_CONNECTED", [third, b.random(3, 7), b.random(3)], (1, 6, 3), **options, KeepNumDims=True)
    assert_agrees(b.model(flat, vector, places, rows), tmp_path)


# --- pools and reductions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", ["MAX_POOL_2D", "AVERAGE_POOL_2D"])
@pytest.mark.parametrize("padding", [SAME, VALID])
@pytest.mark.parametrize(
    ("kernel", "stride"), [((2, 2), (2, 2)), ((3, 3), (2, 2)), ((3, 2), (2, 3)), ((11, 13), (1, 1))]
)
def test_pools(tmp_path: Path, op: str, padding: int, kernel: tuple[int, int], stride: tuple[int, int]) -> None:
    """An average counts the pixels of the map alone."""
    b = TfliteBuilder(IMAGE)
    shape = (1, *window(IMAGE[1:3], kernel, stride, padding), 3)
    options = {**POOL, "FilterHeight": kernel[0], "FilterWidth": kernel[1], "StrideH": stride[0], "StrideW": stride[1]}
    b(op, b.inputs, shape, **options, Padding=padding)
    assert_agrees(b.model(), tmp_path)


@pytest.mark.parametrize("op", ["MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN"])
@pytest.mark.parametrize("axes", [(1, 2), (2, 1), (-1,), (1,), (-3, -2, -1)])
@pytest.mark.parametrize("keep", [False, True])
def test_reductions(tmp_path: Path, op: str, axes: tuple[int, ...], keep: bool) -> None:
    b = TfliteBuilder(IMAGE)
    shape = [
        1 if i - 4 in axes or i in axes else n
        for i, n in enumerate(IMAGE)
        if keep or (i - 4 not in axes and i not in axes)
    ]
    y = b(op, [*b.inputs, b.ints(*axes)], shape, options="ReducerOptions", KeepDims=keep)
    if shape == [1]:
        b("RESHAPE", [y, b.ints(1, 1)], (1, 1))
    assert_agrees(b.model(), tmp_path)


# --- elementwise -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "op", ["RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1", "TANH", "LOGISTIC", "HARD_SWISH", "ELU", "ABS", "NEG", "EXP"]
)
@pytest.mark.parametrize("shape", [IMAGE, (1, 7), (1, 6, 5)])
def test_functions_of_one_number(tmp_path: Path, op: str, shape: tuple[int, ...]) -> None:
    b = TfliteBuilder(shape)
    b(op, b.inputs, shape)
    assert_agrees(b.model(), tmp_path)


def test_functions_of_one_number_with_parameters_or_bounds(tmp_path: Path) -> None:
    b = TfliteBuilder(IMAGE)
    (x,) = b.inputs
    positive = b("ADD", [b("SQUARE", [x], IMAGE), b.constant(0.5)], IMAGE, options="AddOptions")
    results = [
        b("SQRT", [positive], IMAGE),
        b("RSQRT", [positive], IMAGE),
        b("LEAKY_RELU", [x], IMAGE, options="LeakyReluOptions", Alpha=0.3),
        b("GELU", [x], IMAGE, options="GeluOptions", Approximate=True),
        b("PRELU", [x, b.random(1, 1, 3)], IMAGE),
        b("PRELU", [x, b.random(1, 1, 1)], IMAGE),
    ]
    assert_agrees(b.model(*results), tmp_path)


@pytest.mark.parametrize("op", ["ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE"])
@pytest.mark.parametrize(
    ("other", "constant"),
    [
        *[(shape, False) for shape in (IMAGE, (1, 1, 1, 3), (1, 3), (1, 1, 13, 1), (1, 11, 13, 1))],
        *[(shape, True) for shape in (IMAGE, (1, 1, 1, 3), (1, 3), (3,), (1,), (), (1, 1, 13, 1), (13, 3))],
    ],
)
def test_functions_of_two_numbers(tmp_path: Path, op: str, other: tuple[int, ...], constant: bool) -> None:
    """Either operand first."""
    options = {} if op in ("MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE") else {"options": f"{op.title()}Options"}
    if constant:
        b = TfliteBuilder(IMAGE)
        second = b.constant(b.rng.uniform(0.5, 2, other))
    else:
        b = TfliteBuilder(IMAGE, other)
        second = b("EXP", [b.inputs[1]], other)
    first = b("EXP", [b.inputs[0]], IMAGE)
    results = [b(op, [first, second], IMAGE, **options), b(op, [second, first], IMAGE, **options)]
    assert_agrees(b.model(*results), tmp_path)


def test_one_number_for_all_is_a_bound(tmp_path: Path) -> None:
    b = TfliteBuilder(IMAGE)
    x = b("MINIMUM", [b("MAXIMUM", [b.constant(-0.5), *b.inputs], IMAGE), b.constant([0.75])], IMAGE)
    loaded = assert_agrees(b.model(x), tmp_path)
    made = [node.attributes for node in loaded.graph.nodes]
    assert [(a["function"], a["alpha"], a["beta"]) for a in made] == [
        ("clip", -0.5, MAX_FLOAT), ("clip", -MAX_FLOAT, 0.75),
    ]  # fmt: skip


def test_sums_of_several(tmp_path: Path) -> None:
    b = TfliteBuilder(IMAGE, IMAGE)
    x, y = b.inputs
    b("ADD_N", [x, y, x], IMAGE, options="AddNOptions")
    assert ops(assert_agrees(b.model(), tmp_path).graph) == ["add"] * 2


def test_squeeze_and_excitation(tmp_path: Path) -> None:
    b = TfliteBuilder((1, 8, 8, 6))
    (x,) = b.inputs
    mean = b("MEAN", [x, b.ints(1, 2)], (1, 1, 1, 6), options="ReducerOptions", KeepDims=True)
    less = b("CONV_2D", [mean, b.random(2, 1, 1, 6), b.random(2)], (1, 1, 1, 2), **CONV, FusedActivationFunction=RELU)
    more = b("CONV_2D", [less, b.random(6, 1, 1, 2), b.random(6)], (1, 1, 1, 6), **CONV)
    b("MUL", [x, b("LOGISTIC", [more], (1, 1, 1, 6))], (1, 8, 8, 6), options="MulOptions")
    graph = run_passes(assert_agrees(b.model(), tmp_path).graph)
    assert ops(graph) == ["mean", "conv", "conv", "unary", "binary"]


@pytest.mark.parametrize("shape", [IMAGE, (1, 7), (1, 6, 5)])
@pytest.mark.parametrize("beta", [1.0, 0.5])
def test_softmax(tmp_path: Path, shape: tuple[int, ...], beta: float) -> None:
    b = TfliteBuilder(shape)
    b("SOFTMAX", b.inputs, shape, options="SoftmaxOptions", Beta=beta)
    assert_agrees(b.model(), tmp_path)


@pytest.mark.parametrize("shape", [IMAGE, (1, 7), (1, 6, 5)])
def test_vectors_of_length_one(tmp_path: Path, shape: tuple[int, ...]) -> None:
    b = TfliteBuilder(shape)
    b("L2_NORMALIZATION", b.inputs, shape, options="L2NormOptions")
    assert_agrees(b.model(), tmp_path)


def test_local_response_normalisation(tmp_path: Path) -> None:
    b = TfliteBuilder((1, 3, 4, 9))
    options = {"options": "LocalResponseNormalizationOptions", "Radius": 2, "Bias": 1.5, "Alpha": 0.3, "Beta": 0.75}
    b("LOCAL_RESPONSE_NORMALIZATION", b.inputs, (1, 3, 4, 9), **options)
    assert_agrees(b.model(), tmp_path)


# --- shapes ----------------------------------------------------------------------------------------------------------


def test_a_map_is_flattened_as_it_lies_with_channels_last(tmp_path: Path) -> None:
    b = TfliteBuilder((1, 4, 5, 3))
    flat = b("RESHAPE", [*b.inputs, b.ints(-1, 60)], (1, 60), options="ReshapeOptions", NewShape=[-1, 60])
    b("FULLY_CONNECTED", [flat, b.random(5, 60), b.random(5)], (1, 5), options="FullyConnectedOptions")
    graph = assert_agrees(b.model(), tmp_path).graph
    assert ops(graph) == ["flatten", "linear"]
    assert graph.nodes[0].attributes["order"] == "HWC"


def test_axes_of_length_one_come_and_go(tmp_path: Path) -> None:
    b = TfliteBuilder((1, 4, 5, 3))
    mean = b("MEAN", [*b.inputs, b.ints(1, 2)], (1, 1, 1, 3), options="ReducerOptions", KeepDims=True)
    vector = b("SQUEEZE", [mean], (1, 3), options="SqueezeOptions", SqueezeDims=[1, 2])
    longer = b("EXPAND_DIMS", [vector, b.ints(1)], (1, 1, 3))
    assert_agrees(b.model(vector, longer), tmp_path)


def test_transposes_reshapes_and_shuffles(tmp_path: Path) -> None:
    b = TfliteBuilder((1, 4, 6, 8))
    (x,) = b.inputs
    turned = b("TRANSPOSE", [x, b.ints(0, 2, 1, 3)], (1, 6, 4, 8))
    first = b("TRANSPOSE", [x, b.ints(0, 3, 1, 2)], (1, 8, 4, 6))
    split = b("RESHAPE", [x, b.ints(1, 4, 6, 2, 4)], (1, 4, 6, 2, 4))
    swapped = b("TRANSPOSE", [split, b.ints(0, 1, 2, 4, 3)], (1, 4, 6, 4, 2))
    shuffled = b("RESHAPE", [swapped, b.ints(1, 4, 6, 8)], (1, 4, 6, 8))
    rows = b("RESHAPE", [x, b.ints(1, 24, 8)], (1, 24, 8))
    wide = b("DEPTH_TO_SPACE", [x], (1, 8, 12, 2), options="DepthToSpaceOptions", BlockSize=2)
    deep = b("SPACE_TO_DEPTH", [x], (1, 2, 3, 32), options="SpaceToDepthOptions", BlockSize=2)
    assert_agrees(b.model(turned, first, shuffled, rows, wide, deep), tmp_path)


@pytest.mark.parametrize("axis", [1, 2, 3, -1])
def test_joining(tmp_path: Path, axis: int) -> None:
    other = list(IMAGE)
    other[axis] = 2
    whole = list(IMAGE)
    whole[axis] += 2
    b = TfliteBuilder(IMAGE, other)
    b("CONCATENATION", b.inputs, whole, options="ConcatenationOptions", Axis=axis)
    assert ops(assert_agrees(b.model(), tmp_path).graph) == ["concat"]


def test_taking_apart_and_packing(tmp_path: Path) -> None:
    b = TfliteBuilder((1, 4, 6, 8))
    (x,) = b.inputs
    channels = b("SPLIT", [b.ints(3), x], *[(1, 4, 6, 4)] * 2, options="SplitOptions", NumSplits=2)
    rows = b("SPLIT_V", [x, b.ints(1, 3), b.ints(1)], (1, 1, 6, 8), (1, 3, 6, 8), options="SplitVOptions", NumSplits=2)
    packed = b("PACK", channels, (1, 2, 4, 6, 4), options="PackOptions", Axis=1, ValuesCount=2)
    apart = b("UNPACK", [x], *[(1, 6, 8)] * 4, options="UnpackOptions", Axis=1, Num=4)
    assert_agrees(b.model(*channels, *rows, packed, *apart), tmp_path)


@pytest.mark.parametrize(
    ("begin", "end", "strides", "masks", "shape"),
    [
        ((0, 1, 2, 0), (1, 9, 12, 2), (1, 2, 3, 1), {}, (1, 4, 4, 2)),
        ((0, 0, -3, 0), (0, 0, -1, 0), (1, 1, 1, 2), {"BeginMask": 11, "EndMask": 11}, (1, 11, 2, 2)),
        ((0, 5, 0, 0), (1, 6, 13, 3), (1, 1, 1, 1), {"ShrinkAxisMask": 2}, (1, 13, 3)),
        ((0, 0, 0, -1), (1, 11, 13, 0), (1, 1, 1, 1), {"ShrinkAxisMask": 8}, (1, 11, 13)),
        ((0, 1), (1, 3), (1, 1), {}, (1, 2, 13, 3)),
    ],
)
def test_strided_slices(tmp_path: Path, begin: Any, end: Any, strides: Any, masks: dict[str, int], shape: Any) -> None:
    b = TfliteBuilder(IMAGE)
    b(
        "STRIDED_SLICE",
        [*b.inputs, b.ints(*begin), b.ints(*end), b.ints(*strides)],
        shape,
        options="StridedSliceOptions",
        **masks,
    )
    assert_agrees(b.model(), tmp_path)


def test_slices(tmp_path: Path) -> None:
    b = TfliteBuilder(IMAGE)
    b("SLICE", [*b.inputs, b.ints(0, 2, 3, 1), b.ints(1, 5, -1, 2)], (1, 5, 10, 2))
    assert ops(assert_agrees(b.model(), tmp_path).graph) == ["slice"]


def test_borders(tmp_path: Path) -> None:
    b = TfliteBuilder(IMAGE)
    (x,) = b.inputs
    around = b.constant([[0, 0], [1, 2], [0, 3], [2, 0]], "int32")
    zeros = b("PAD", [x, around], (1, 14, 16, 5))
    ones = b("PADV2", [x, around, b.constant(1.5)], (1, 14, 16, 5))
    mirrored = b.constant([[0, 0], [2, 1], [0, 2], [0, 0]], "int32")
    reflected = b("MIRROR_PAD", [x, mirrored], (1, 14, 15, 3), options="MirrorPadOptions", Mode=0)
    edge = b.constant([[0, 0], [1, 1], [1, 0], [0, 0]], "int32")
    symmetric = b("MIRROR_PAD", [x, edge], (1, 13, 14, 3), options="MirrorPadOptions", Mode=1)
    assert_agrees(b.model(zeros, ones, reflected, symmetric), tmp_path)


def test_a_border_becomes_part_of_the_convolution_after_it(tmp_path: Path) -> None:
    b = TfliteBuilder(IMAGE)
    padded = b("PAD", [*b.inputs, b.constant([[0, 0], [0, 1], [0, 1], [0, 0]], "int32")], (1, 12, 14, 3))
    options = {**CONV, "StrideH": 2, "StrideW": 2, "Padding": VALID}
    b("CONV_2D", [padded, b.random(4, 3, 3, 3), b.random(4)], (1, 5, 6, 4), **options)
    assert ops(run_passes(assert_agrees(b.model(), tmp_path).graph)) == ["conv"]


@pytest.mark.parametrize("op", ["RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"])
@pytest.mark.parametrize("size", [(22, 26), (5, 7), (17, 13), (1, 1)])
@pytest.mark.parametrize("mode", [{}, {"AlignCorners": True}, {"HalfPixelCenters": True}])
def test_resizing(tmp_path: Path, op: str, size: tuple[int, int], mode: dict[str, bool]) -> None:
    b = TfliteBuilder(IMAGE)
    kind = "ResizeBilinearOptions" if op == "RESIZE_BILINEAR" else "ResizeNearestNeighborOptions"
    b(op, [*b.inputs, b.ints(*size)], (1, *size, 3), options=kind, **mode)
    assert_agrees(b.model(), tmp_path)


# --- constants -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_weights_stored_small_are_made_float_once(tmp_path: Path, dtype: str) -> None:
    b = TfliteBuilder(IMAGE)
    stored = b.rng.uniform(-100, 100, (4, 3, 3, 3))
    scale = {} if dtype == "float16" else {"scales": [0.1, 0.2, 0.3, 0.4], "zero_points": [0] * 4, "axis": 0}
    weight = b("DEQUANTIZE", [b.constant(stored, dtype, **scale)], (4, 3, 3, 3))
    b("CONV_2D", [*b.inputs, weight, b.random(4)], (1, 11, 13, 4), **CONV, Padding=SAME)
    assert ops(assert_agrees(b.model(), tmp_path).graph) == ["conv"]


def test_shape_arithmetic_of_models_for_any_batch(tmp_path: Path) -> None:
    """What Keras leaves for Flatten."""
    b = TfliteBuilder((-1, 4, 5, 3))
    shape = b("SHAPE", b.inputs, (4,), dtype="int32", options="ShapeOptions", OutType=tflite.TensorType.INT32)
    limits = [b.ints(0), b.ints(1), b.ints(1)]
    batch = b("STRIDED_SLICE", [shape, *limits], (), options="StridedSliceOptions", ShrinkAxisMask=1, dtype="int32")
    wanted = b("PACK", [batch, b.constant(60, "int32")], (2,), options="PackOptions", ValuesCount=2, dtype="int32")
    b("RESHAPE", [*b.inputs, wanted], (-1, 60))
    assert ops(assert_agrees(b.model(), tmp_path, frames=3).graph) == ["flatten"]


# --- whole models ----------------------------------------------------------------------------------------------------


def small(*, seed: int = 0, batch: int = 1, height: int = 12) -> TfliteBuilder:
    """Two convolutions, a residual, an average and a classifier."""
    b = TfliteBuilder((batch, height, 12, 3), seed=seed)
    shape = (batch, height, 12, 8)
    x = b("CONV_2D", [*b.inputs, b.random(8, 3, 3, 3), b.random(8)], shape, **CONV, FusedActivationFunction=RELU)
    y = b("CONV_2D", [x, b.random(8, 3, 3, 8), b.random(8)], shape, **CONV)
    z = b("ADD", [x, y], shape, options="AddOptions", FusedActivationFunction=RELU)
    mean = b("MEAN", [z, b.ints(1, 2)], (batch, 8), options="ReducerOptions")
    logits = b("FULLY_CONNECTED", [mean, b.random(5, 8), b.random(5)], (batch, 5), options="FullyConnectedOptions")
    b("SOFTMAX", [logits], (batch, 5), options="SoftmaxOptions", Beta=1.0)
    return b


def test_a_model_compiles_and_takes_what_it_took_before(tmp_path: Path) -> None:
    model = tmp_path / "model.tflite"
    model.write_bytes(small().model())
    report = compile_model(str(model), tmp_path / "net.haste", levels=2, preprocessing=Preprocessing(), layout="model")
    assert report.largest_error < 1e-5
    x = np.random.default_rng(0).standard_normal((3, 12, 12, 3), np.float32)
    with Session(tmp_path / "net.haste", backend="numpy") as session:
        assert session.bundle.preprocessing.layout == "NHWC"
        (ours,) = session.run({session.bundle.graph.inputs[0].name: x}).values()
    (wanted,) = with_litert(model, [x])
    assert np.abs(ours - wanted).max() < 1e-5


def test_a_fixed_batch_and_the_process_that_runs_the_original(tmp_path: Path) -> None:
    loaded = assert_agrees(small(batch=4).model(), tmp_path, frames=6, batch=4)
    x = np.random.default_rng(0).standard_normal((6, 3, 12, 12), np.float32)
    (wanted,) = with_litert(tmp_path / "model.tflite", [x.transpose(0, 2, 3, 1)], 4)
    (got,) = loaded.reference(torch.from_numpy(x))
    assert np.array_equal(got.numpy(), wanted)
    assert len(loaded.outputs) == 1
    assert loaded.outputs[0].startswith("SOFTMAX")


def test_open_sizes_are_given_and_worked_out_by_the_original(tmp_path: Path) -> None:
    model = small(height=-1).model()
    with pytest.raises(ModelError, match=r"may have any size \(1x\?x12x3\)"):
        load(model, tmp_path)
    with pytest.raises(ModelError, match="is 1x\\?x12x3, not 1x9x9x3"):
        load(model, tmp_path, "1x9x9x3")
    loaded = load(model, tmp_path, "1x9x12x3")
    x = np.random.default_rng(0).standard_normal((2, 3, 9, 12), np.float32)
    (wanted,) = loaded.reference(torch.from_numpy(x))
    (got,) = on_graph(loaded.graph, [x])
    assert np.abs(got - wanted.numpy()).max() < 1e-5


# --- what is refused -------------------------------------------------------------------------------------------------


def test_all_refusals_are_listed_with_reason_and_advice(tmp_path: Path) -> None:
    b = TfliteBuilder(IMAGE)
    (x,) = b.inputs
    bad = b("CUMSUM", [x, b.ints(1)], IMAGE)
    y = b("CONV_2D", [bad, b.random(4, 1, 1, 3), b.random(4)], (1, 11, 13, 4), **CONV, FusedActivationFunction=SIGN_BIT)
    moved = b("TRANSPOSE", [y, b.ints(1, 0, 2, 3)], (11, 1, 13, 4))
    best = b("ARG_MAX", [y, b.ints(3)], (1, 11, 13), dtype="int64")
    odd = b("TFLite_Detection_PostProcess", [y], (1, 5))
    fused = {"options": "ConcatenationOptions", "Axis": 2, "FusedActivationFunction": RELU}
    joined = b("CONCATENATION", [x, x], (1, 11, 26, 3), **fused)
    with pytest.raises(UnsupportedModelError) as caught:
        load(b.model(moved, best, odd, joined), tmp_path)
    refusals = caught.value.refusals
    assert [refusal.operation for refusal in refusals] == [
        "CUMSUM", "CONV_2D", "TRANSPOSE", "ARG_MAX", "TFLite_Detection_PostProcess", "CONCATENATION"
    ]  # fmt: skip
    assert all(refusal.reason.endswith(".") and refusal.hint.endswith(".") for refusal in refusals)
    assert "take the largest outside" in refusals[3].hint
    assert "post-processing" in refusals[4].hint


@pytest.mark.parametrize("whole", [True, False])
def test_quantised_models_are_refused_once_with_advice(tmp_path: Path, whole: bool) -> None:
    """All numbers whole, or only the weights."""
    dtype = "int8" if whole else "float32"
    b = TfliteBuilder(IMAGE, dtype=dtype)
    for _ in range(2):
        weight = b.constant(np.ones((3, 1, 1, 3)), "int8", scales=[0.1], zero_points=[0])
        b("CONV_2D", [b.inputs[0], weight, -1], IMAGE, **CONV, dtype=dtype)
    with pytest.raises(UnsupportedModelError, match=r"quantised: 2 of its 2 .* INT8.*float model.*--dtype int8"):
        load(b.model(), tmp_path)


def test_inputs_of_whole_numbers_are_refused(tmp_path: Path) -> None:
    b = TfliteBuilder(IMAGE, dtype="uint8")
    b("CAST", b.inputs, IMAGE)
    with pytest.raises(ModelError, match="is UINT8, not float32"):
        load(b.model(), tmp_path)


def test_a_file_has_its_own_weights(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds its own weights"):
        load_model(str(tmp_path / "model.tflite"), weights="w.safetensors")


def test_what_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small().model()
    monkeypatch.setattr(tflite_process, "PACKAGES", ("no_such_runtime",))
    with pytest.raises(ModelError, match="runtime is not installed") as caught:
        load(model, tmp_path)
    assert "haste-edge[tflite]" in caught.value.hint
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "haste_edge.frontends.tflite_model":
            raise ModuleNotFoundError("No module named 'tflite'", name="tflite")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModelError, match="needs the package tflite"):
        load(model, tmp_path)


def test_a_runtime_that_fails_is_an_error_of_the_model(tmp_path: Path) -> None:
    loaded = load(small().model(), tmp_path)
    (tmp_path / "model.tflite").write_bytes(b"\0" * 100)
    with pytest.raises(ModelError, match="own runtime fails"):
        loaded.reference(torch.zeros(1, 3, 12, 12))


BOMB = {"options": "TransposeConvOptions", "StrideH": 2**30, "StrideW": 2**30, "Padding": SAME}
Breaking = Callable[[TfliteBuilder], None]


def _reads_later(b: TfliteBuilder) -> None:
    b.operations.reverse()


def _makes_twice(b: TfliteBuilder) -> None:
    b.operations.append(b.operations[-1])


def _no_data(b: TfliteBuilder) -> None:
    del b.tensors[b.operations[0][1][1]]["data"]


def _too_few_bytes(b: TfliteBuilder) -> None:
    tensor = b.tensors[b.operations[0][1][1]]
    tensor["data"] = tensor["data"][:-4]


def _huge(b: TfliteBuilder) -> None:
    b.tensors[b.operations[0][2][0]]["shape"] = [1, 2**30, 2**30, 2**30]


def _other_type(b: TfliteBuilder) -> None:
    tensor = b.tensors[b.operations[0][1][1]]
    tensor["dtype"] = np.dtype("float16")
    tensor["data"] = tensor["data"][::2]


def _other_shape(b: TfliteBuilder) -> None:
    b.tensors[b.operations[0][2][0]]["shape"] = [1, 12, 12, 9]


def _nowhere(b: TfliteBuilder) -> None:
    b.operations[0][1][0] = 1000


def _stride(b: TfliteBuilder) -> None:
    b.operations[0][4]["StrideH"] = 0


def _twice(b: TfliteBuilder) -> None:
    b.inputs *= 2


def _steps(b: TfliteBuilder) -> None:
    b("TRANSPOSE_CONV", [b.ints(1, 12, 12, 1), b.random(1, 3, 3, 3), *b.inputs], (1, 12, 12, 1), **BOMB)


def _nan(b: TfliteBuilder) -> None:
    tensor = b.tensors[b.operations[0][1][1]]
    tensor["data"] = np.full(len(tensor["data"]) // 4, np.nan, np.float32).tobytes()


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (_reads_later, "made after it"),
        (_makes_twice, "made twice"),
        (_no_data, "has no numbers"),
        (_too_few_bytes, "has 860 bytes"),
        (_huge, "has shape"),
        (_other_type, "float16"),
        (_other_shape, r"shape \(12, 12, 8\) where \(12, 12, 9\)"),
        (_nowhere, "not there"),
        (_stride, "StrideH"),
        (_twice, "one of them twice"),
        (_steps, "far larger than its kernel"),
        (_nan, "NaN"),
    ],
)
def test_models_that_make_no_sense(tmp_path: Path, broken: Breaking, message: str) -> None:
    b = small()
    broken(b)
    with pytest.raises(Exception, match=message) as caught:
        load(b.model(), tmp_path)
    assert isinstance(caught.value, ModelError | UnsupportedModelError) or broken is _nan
