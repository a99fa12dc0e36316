"""``haste-edge export --to tflite``: what it writes computes what the bundle does, in LiteRT and by way of the front
end; and what TFLite has no operation for is refused."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tflite
from builders import GraphBuilder, bundle_for, random_network, shuffling_network
from exporting import command, metadata, written
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx_models import assert_close, channels_last, random_inputs
from random_graphs import RandomGraph, one, steps_of
from tflite_models import TfliteBuilder, load, on_graph, with_litert

from haste_edge import demo
from haste_edge.compile import TOLERANCE, VerificationError, compile_model
from haste_edge.errors import ModelError, UnsupportedModelError
from haste_edge.exports import tflite_model, tflite_nodes
from haste_edge.exports.tflite_builder import ALIGNMENT
from haste_edge.exports.tflite_model import export_tflite
from haste_edge.exports.tflite_nodes import RULES
from haste_edge.frontends import tflite_process
from haste_edge.frontends.export import load_module
from haste_edge.frontends.tflite_file import read_tflite
from haste_edge.passes import run_passes
from haste_runtime import Session
from haste_runtime.attributes import BINARY, MAX_FLOAT, UNARY
from haste_runtime.bundle import write_bundle
from haste_runtime.bundle_errors import BundleWriteError
from haste_runtime.graph import Graph
from haste_runtime.operators import OPERATORS
from haste_runtime.preprocessing import Preprocessing

SHARE = 5e-5  # of the largest output


def checked(graph: Graph, folder: Path, read_back: bool = True) -> list[str]:
    """The operations of a graph's file, after comparing it with the graph in LiteRT, and by way of the front end."""
    data, count = tflite_model.tflite_model(bundle_for(graph))
    path = folder / "net.tflite"
    path.write_bytes(data)
    inputs = random_inputs(graph, 2, seed=1)
    wanted = on_graph(graph, inputs)
    assert_close(with_litert(path, channels_last(inputs)), channels_last(wanted), SHARE)
    if read_back:
        loaded = load(data, folder)
        assert [value.name for value in loaded.graph.inputs] == [value.name for value in graph.inputs]
        assert loaded.outputs == graph.outputs
        assert_close(on_graph(loaded.graph, inputs), wanted, SHARE)
    file = read_tflite(path)
    assert len(file.operations) == count
    return [operation.kind for operation in file.operations]


def refused(graph: Graph) -> list[str]:
    """What is said of each operator that is refused."""
    with pytest.raises(UnsupportedModelError) as caught:
        tflite_model.tflite_model(bundle_for(graph))
    assert caught.value.hint == "Export it to ONNX instead: --to onnx."
    assert all(refusal.node in str(caught.value) for refusal in caught.value.refusals)
    return [refusal.reason for refusal in caught.value.refusals]


# --- operators -------------------------------------------------------------------------------------------------------


def test_every_operator_has_a_rule() -> None:
    assert set(RULES) == set(OPERATORS)
    assert set(tflite_nodes.UNARY_RULES) == set(UNARY)
    assert set(tflite_nodes.BINARY_OPERATIONS) == set(BINARY)


@pytest.mark.parametrize("seed", range(3))
def test_a_network_of_most_operators(seed: int, tmp_path: Path) -> None:
    checked(random_network(seed), tmp_path)


def without(graph: Graph, *functions: str) -> Graph:
    """`shuffling_network` resizes at random; here as TFLite can, and without functions that are not read back."""
    nodes = []
    for node in graph.nodes:
        attributes = dict(node.attributes)
        if node.op == "resize":
            attributes |= {"mode": "linear", "coordinates": "half_pixel"}
            shape = {n.name: n for n in graph.nodes}["bordered"].attributes["pads"]
            _, y, x = graph.nodes[[n.name for n in graph.nodes].index("pixels")].attributes["shape"]
            attributes["step_y"] = (y + shape[0] + shape[2]) / attributes["size"][0]
            attributes["step_x"] = (x + shape[1] + shape[3]) / attributes["size"][1]
        if attributes.get("function") in functions:
            attributes["function"] = "tanh"
        nodes.append(replace(node, attributes=attributes))
    return replace(graph, nodes=tuple(nodes))


@pytest.mark.parametrize("seed", range(4))
def test_a_network_of_the_other_operators(seed: int, tmp_path: Path) -> None:
    kinds = checked(without(shuffling_network(seed)), tmp_path, read_back=False)
    assert {"GELU", "HARD_SIGMOID", "LOG", "RESIZE_BILINEAR", "MIRROR_PAD", "CONCATENATION"} - set(kinds) <= {
        "HARD_SIGMOID", "MIRROR_PAD",
    }  # fmt: skip
    checked(without(shuffling_network(seed), "softplus"), tmp_path)


@pytest.mark.parametrize("function", UNARY)
def test_functions_of_one_number(function: str, tmp_path: Path) -> None:
    for shape in ((3, 4, 5), (7,), (2, 3, 4, 2, 2)):
        b = GraphBuilder(0, x=shape if len(shape) < 4 else (48, 2))
        x = "x" if len(shape) < 4 else b.node("split", "reshape", "x", shape=shape)
        if function in ("sqrt", "reciprocal"):
            x = b.node("above", "unary", x, function="hard_sigmoid", alpha=0.1, beta=0.8)
        for alpha, beta in ((0.3, 0.6), (1 / 6, 0.5)):
            b.node(f"y{alpha}", "unary", x, function=function, alpha=alpha, beta=beta)
        checked(b.graph("y0.3", f"y{1 / 6}"), tmp_path, read_back=function != "softplus")


@pytest.mark.parametrize(
    ("low", "high", "kinds"),
    [
        (-MAX_FLOAT, 0.5, ["MINIMUM"]),
        (-0.25, MAX_FLOAT, ["MAXIMUM"]),
        (-0.5, 0.25, ["MAXIMUM", "MINIMUM"]),
        (0.0, 6.0, ["RELU6"]),
        (0.0, MAX_FLOAT, ["RELU"]),
        (-1.0, 1.0, ["RELU_N1_TO_1"]),
        (-MAX_FLOAT, MAX_FLOAT, ["MINIMUM"]),
    ],
)
def test_bounds(low: float, high: float, kinds: list[str], tmp_path: Path) -> None:
    assert checked(one("unary", (3, 4, 5), function="clip", alpha=low, beta=high), tmp_path) == kinds


@pytest.mark.parametrize("stride", [1, 2, (2, 1)])
@pytest.mark.parametrize("size", [(6, 7), (7, 8)])
@pytest.mark.parametrize("padding", [(0, 0, 0, 0), (1, 1, 1, 1), (0, 0, 1, 1), (0, 2, 3, 1), (2, 2, 2, 2)])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_convolutions_and_their_padding(
    groups: int, padding: tuple[int, ...], size: tuple[int, int], stride: Any, tmp_path: Path
) -> None:
    b = GraphBuilder(0, x=(4, *size))
    b.conv("y", "x", 4, 8, 3, stride, (padding[0], padding[1], padding[2], padding[3]), groups=groups, bias=False,
           activation="relu6")  # fmt: skip
    kinds = checked(b.graph(), tmp_path)
    assert kinds in ([kinds[-1]], ["PAD", kinds[-1]])
    assert kinds[-1] == ("DEPTHWISE_CONV_2D" if groups == 4 else "CONV_2D")
    if not any(padding) or (padding == (1, 1, 1, 1) and stride == 1):
        assert len(kinds) == 1


def test_dilated_convolutions(tmp_path: Path) -> None:
    for groups in (1, 4):
        b = GraphBuilder(0, x=(4, 11, 9))
        b.conv("first", "x", 4, 4, 3, dilation=(2, 3), groups=groups)
        b.conv("second", "first", 4, 4, 3, 2, (2, 2, 2, 2), dilation=2, groups=groups)
        checked(b.graph(), tmp_path)


def test_activations_are_fused_where_tflite_does(tmp_path: Path) -> None:
    b = GraphBuilder(0, x=(4, 6, 6))
    b.conv("first", "x", 4, 4, 3, activation="relu")
    b.conv("second", "first", 4, 4, 3, residual="x", activation="relu6")
    b.scale("third", "second", 4, "relu")
    b.node("flat", "mean", "third", keepdim=0)
    b.linear("last", "flat", 4, 3, activation="relu")
    assert checked(b.graph(), tmp_path) == ["CONV_2D", "CONV_2D", "ADD", "MUL", "ADD", "MEAN", "FULLY_CONNECTED"]


@pytest.mark.parametrize("padding", [(0, 0, 0, 0), (1, 1, 1, 1), (0, 0, 1, 1), (2, 1, 0, 2)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (3, 2)])
def test_pools(padding: tuple[int, ...], stride: tuple[int, int], tmp_path: Path) -> None:
    window = {"kernel": (3, 3), "stride": stride, "padding": padding}
    checked(one("max_pool", (3, 8, 9), dilation=(1, 1), **window), tmp_path)
    for counted in (0, 1):
        checked(one("avg_pool", (3, 8, 9), count_include_pad=counted, **window), tmp_path)


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (4, 5), (12, 10), (13, 1)])
@pytest.mark.parametrize("op", ["adaptive_avg_pool", "adaptive_max_pool"])
def test_adaptive_pools(op: str, size: tuple[int, int], tmp_path: Path) -> None:
    checked(one(op, (3, 12, 10), size=size), tmp_path)


def test_operands_that_are_repeated(tmp_path: Path) -> None:
    for function in (*BINARY[:3], "maximum"):
        rest = {"function": function, "activation": "relu"}
        checked(one("binary", (3, 4, 5), (3, 1, 1), **rest), tmp_path)
        checked(one("binary", (1, 4, 5), (3, 4, 1), **rest), tmp_path)
        constant = np.arange(12).reshape(3, 4, 1)
        checked(one("binary", (3, 4, 5), constants={"other": constant}, **rest), tmp_path)
        checked(one("binary", (2, 3, 4, 5), constants={"other": np.stack([constant] * 2)}, **rest), tmp_path)
        checked(one("binary", (7,), (7,), **rest), tmp_path)


@pytest.mark.parametrize("shape", [(3, 4, 5), (6,), (3, 4), (2, 3, 4, 5)])
def test_what_works_along_axes(shape: tuple[int, ...], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    checked(one("prelu", shape, constants={"slope": rng.standard_normal(shape[0])}), tmp_path)
    factors = {"scale": rng.standard_normal(shape[0]), "shift": rng.standard_normal(shape[0])}
    checked(one("scale", shape, constants=factors, activation="relu6"), tmp_path)
    for axis in range(len(shape)):
        checked(one("softmax", shape, axis=axis), tmp_path)
        checked(one("concat", shape, shape, axis=axis), tmp_path)
        for function in ("mean", "sum", "maximum", "minimum"):
            checked(one("reduce", shape, function=function, axes=(axis,)), tmp_path)
    checked(one("reduce", shape, function="mean", axes=tuple(range(len(shape)))), tmp_path)
    starts, stops = (0,) * len(shape), tuple(extent - 1 for extent in shape)
    checked(one("slice", shape, starts=starts, stops=stops, steps=(2,) * len(shape)), tmp_path)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("pads", [(1, 2, 3, 0), (0, 0, 0, 0), (0, 4, 0, 4)])
def test_borders(mode: str, pads: tuple[int, ...], tmp_path: Path) -> None:
    checked(one("extend", (2, 5, 6), pads=pads, mode=mode), tmp_path, read_back=any(pads))


def test_padding_with_numbers(tmp_path: Path) -> None:
    assert checked(one("pad", (2, 3, 4), pads=(1, 0, 2, 3, 0, 1), value=0.0), tmp_path) == ["PAD"]
    assert checked(one("pad", (2, 3, 4), pads=(1, 0, 2, 3, 0, 1), value=0.5), tmp_path) == ["PADV2"]


RESIZES: dict[str, tuple[str, dict[str, Any]]] = {
    "torch, nearest": ("RESIZE_NEAREST_NEIGHBOR", {"coordinates": "asymmetric", "rounding": "floor"}),
    "torch, nearest-exact": ("RESIZE_NEAREST_NEIGHBOR", {"coordinates": "half_pixel", "rounding": "half_up"}),
    "corners": ("RESIZE_NEAREST_NEIGHBOR", {"coordinates": "asymmetric", "rounding": "half_up", "aligned": True}),
    "linear": ("RESIZE_BILINEAR", {"coordinates": "asymmetric", "mode": "linear"}),
    "linear, centres": ("RESIZE_BILINEAR", {"coordinates": "half_pixel", "mode": "linear"}),
    "linear, corners": ("RESIZE_BILINEAR", {"coordinates": "asymmetric", "mode": "linear", "aligned": True}),
}


@pytest.mark.parametrize("kind", RESIZES)
@pytest.mark.parametrize("size", [(14, 18), (21, 27), (7, 3), (3, 4), (13, 17), (5, 5), (1, 1)])
def test_resizing(kind: str, size: tuple[int, int], tmp_path: Path) -> None:
    operation, given_ = RESIZES[kind]
    attributes = {"mode": "nearest", "rounding": "floor", **given_}
    aligned = attributes.pop("aligned", False)
    steps = [(old - 1) / (new - 1) if aligned and new > 1 else old / new for old, new in zip((7, 9), size, strict=True)]
    graph = one("resize", (2, 7, 9), size=size, step_y=steps[0], step_x=steps[1], **attributes)
    assert checked(graph, tmp_path) == [operation]


def test_what_moves_numbers(tmp_path: Path) -> None:
    """Transposes of maps that lie as they should, and of as few axes as will do."""
    assert checked(one("flatten", (3, 4, 5), order="HWC"), tmp_path) == ["RESHAPE"]
    assert checked(one("flatten", (3, 4, 5), order="CHW"), tmp_path) == ["RESHAPE", "TRANSPOSE", "RESHAPE"]
    assert checked(one("flatten", (3, 1, 1), order="CHW"), tmp_path) == ["RESHAPE"]
    assert checked(one("reshape", (3, 4, 5), shape=(5, 12)), tmp_path)
    assert checked(one("reshape", (12,), shape=(3, 2, 2)), tmp_path)
    assert checked(one("reshape", (4, 6, 5), shape=(6, 4, 5)), tmp_path)
    assert checked(one("rearrange", (3, 4, 5), split=(3, 4, 5), axes=(0, 2, 1), shape=(3, 5, 4)), tmp_path)
    shuffle = one("rearrange", (6, 4, 5), split=(2, 3, 4, 5), axes=(1, 0, 2, 3), shape=(6, 4, 5))
    assert checked(shuffle, tmp_path) == ["RESHAPE", "TRANSPOSE", "RESHAPE"]
    pixels = one("rearrange", (8, 3, 5), split=(2, 2, 2, 3, 5), axes=(0, 3, 1, 4, 2), shape=(2, 6, 10))
    assert checked(pixels, tmp_path) == ["RESHAPE", "TRANSPOSE", "RESHAPE"]
    to_last = one("rearrange", (3, 4, 5), split=(3, 4, 5), axes=(1, 2, 0), shape=(20, 3))
    assert checked(to_last, tmp_path) == ["RESHAPE"]


# --- what is refused -------------------------------------------------------------------------------------------------


def test_what_tflite_has_nothing_for_is_refused_all_at_once() -> None:
    b = GraphBuilder(0, x=(4, 8, 8))
    cubic = {"size": (16, 16), "mode": "cubic", "step_y": 0.5, "step_x": 0.5, "coordinates": "half_pixel"}
    b.node("larger", "resize", "x", rounding="floor", **cubic)
    b.node("normal", "lrn", "larger", size=2, alpha=0.1, beta=0.5, bias=1.0)
    b.conv("conv", "normal", 4, 4, 3)
    window = {"kernel": (2, 2), "stride": (1, 1), "padding": (0, 0, 0, 0), "dilation": (2, 2)}
    b.node("pooled", "max_pool", "conv", **window)
    said = refused(b.graph())
    assert [word in line for word, line in zip(("cubic", "2 channels", "dilation"), said, strict=True)] == [True] * 3


def test_ways_to_resize_that_tflite_has_no_name_for() -> None:
    rest = {"size": (5, 5), "step_y": 1.9, "step_x": 0.7, "coordinates": "half_pixel", "rounding": "floor"}
    for mode in ("nearest", "linear"):
        assert "no name" in refused(one("resize", (2, 7, 9), mode=mode, **rest))[0]


def test_values_of_many_axes_are_only_moved(tmp_path: Path) -> None:
    b = GraphBuilder(0, x=(64,))
    b.node("cube", "reshape", "x", shape=(2,) * 6)
    b.node("back", "reshape", "cube", shape=(64,))
    checked(b.graph(), tmp_path)
    b.node("turned", "unary", "cube", function="tanh", alpha=0.0, beta=0.0)
    assert "7 axes" in refused(b.graph())[0]
    mixed = one("rearrange", (64,), split=(2,) * 6, axes=(5, 4, 3, 2, 1, 0), shape=(64,))
    assert "6 axes" in refused(mixed)[0]
    assert "17 pixels" in refused(one("extend", (1, 4, 4), pads=(17, 0, 0, 0), mode="replicate"))[0]


# --- random graphs ---------------------------------------------------------------------------------------------------


class ForTflite(RandomGraph):
    """Of what TFLite has operations for."""

    def resize(self) -> None:
        (_, h, w), size = self.shape(), (self.upto(12), self.upto(12))
        mode, centres = self.some("nearest", "linear"), self.some(True, False)
        self.node(
            "resize", size=size, mode=mode, step_y=h / size[0], step_x=w / size[1],
            coordinates="half_pixel" if centres else "asymmetric", rounding="half_up" if centres else "floor",
        )  # fmt: skip

    def turn(self) -> None:
        shape = self.shape()
        axes = tuple(int(axis) for axis in self.draw.permutation(3))
        self.node("rearrange", split=shape, axes=axes, shape=tuple(shape[axis] for axis in axes))

    def norm(self) -> None:
        self.node("lrn", size=self.some(1, min(3, 2 * self.shape()[0] - 1)), alpha=0.5, beta=0.5, bias=1.0)


@settings(
    max_examples=100, deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(
    steps=st.lists(st.sampled_from(steps_of(ForTflite)), min_size=1, max_size=8),
    seed=st.integers(0, 2**32 - 1),
)
def test_random_graphs(tmp_path: Path, steps: list[Callable[[RandomGraph], None]], seed: int) -> None:
    network = ForTflite(seed)
    for step in steps:
        if max(network.shape()) < 40:
            step(network)
    assume(network.x != "x")
    logarithm = any(node.attributes.get("function") == "softplus" for node in network.b.nodes)  # which isn't read
    checked(network.b.graph(), tmp_path, read_back=not logarithm)


# --- files -----------------------------------------------------------------------------------------------------------


def level_0(bundle: Path, last: np.ndarray) -> np.ndarray:
    """What a session gives for frames with channels last."""
    with Session(bundle, backend="numpy") as session:
        first = session.bundle.preprocessing.layout == "NCHW"
        return session.run(np.ascontiguousarray(last.transpose(0, 3, 1, 2)) if first else last)


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_a_file_has_channels_last_and_float_weights(dtype: str, layout: str, tmp_path: Path) -> None:
    path, out = written(tmp_path, dtype=dtype, layout=layout), tmp_path / "net.tflite"
    report = export_tflite(path, out)
    assert report.runtime == "ai_edge_litert"
    assert report.largest_error <= SHARE < report.tolerance
    assert report.bytes == out.stat().st_size
    file = read_tflite(out)
    assert report.nodes == len(file.operations)
    shape = file.tensors[file.inputs[0]].shape
    assert (len(shape), shape[0], shape[3]) == (4, 1, 3)
    x = np.random.default_rng(2).standard_normal((5, *shape[1:]), np.float32)
    assert_close(with_litert(out, [x]), [level_0(path, x)], SHARE)
    assert {tensor.kind for tensor in file.tensors} == {"FLOAT32", "INT32"}
    said = about(out)
    assert {key: json.loads(value) for key, value in said.items()} == metadata(layout)


def about(path: Path) -> dict[str, str]:
    """What the file's metadata says. Its constants begin where the schema wants them to."""
    data = path.read_bytes()
    model = tflite.Model.GetRootAs(data, 0)
    assert model.Description().startswith(b"Level 0")
    for number in range(model.BuffersLength()):
        buffer = model.Buffers(number)
        if buffer.DataLength():
            start = buffer._tab.Vector(buffer._tab.Offset(4))
            assert start % ALIGNMENT == 0
    entry = model.Metadata(0)
    assert (model.MetadataLength(), entry.Name()) == (1, b"haste_edge")
    said = json.loads(model.Buffers(entry.Buffer()).DataAsNumpy().tobytes())
    assert isinstance(said, dict)
    return said


def test_inputs_and_outputs_of_many_kinds(tmp_path: Path) -> None:
    """A value that leaves and is read again; the input as an output; vectors as they are; names of all."""
    b = GraphBuilder(0, x=(3, 6, 6), v=(4,))
    b.conv("first", "x", 3, 5, 3, activation="relu")
    b.node("copy", "activation", "first", activation="none")
    b.conv("second", "first", 5, 2, 3)
    b.linear("scores", "v", 4, 3)
    checked(b.graph("first", "second", "copy", "scores", "x"), tmp_path, read_back=False)
    file = read_tflite(tmp_path / "net.tflite")
    names = [[file.tensors[number].name for number in numbers] for numbers in (file.inputs, file.outputs)]
    assert names == [["x", "v"], ["first", "second", "copy", "scores", "x"]]
    shapes = [file.tensors[number].shape for number in file.outputs]
    assert shapes == [(1, 6, 6, 5), (1, 6, 6, 2), (1, 6, 6, 5), (1, 3), (1, 6, 6, 3)]


def test_the_demo_network(tmp_path: Path) -> None:
    path, out = tmp_path / "demo.haste", tmp_path / "demo.tflite"
    write_bundle(path, bundle_for(run_passes(load_module(demo.load(), ((3, 32, 32),), "demo").graph)))
    assert export_tflite(path, out).largest_error <= TOLERANCE
    x = np.random.default_rng(3).standard_normal((4, 32, 32, 3), np.float32)
    wanted = level_0(path, x)
    assert_close(with_litert(out, [x]), [wanted], TOLERANCE)
    again = load(out.read_bytes(), tmp_path)
    assert_close(on_graph(run_passes(again.graph), [x.transpose(0, 3, 1, 2)]), [wanted], TOLERANCE)


def residual_network() -> bytes:
    """As MLPerf Tiny's ResNet-8 is: two stages with a shortcut, the second of them halving the map, and a softmax."""
    b = TfliteBuilder((1, 16, 16, 3), seed=4)
    fields = {"StrideH": 1, "StrideW": 1, "DilationHFactor": 1, "DilationWFactor": 1, "FusedActivationFunction": 1}
    conv: dict[str, Any] = {"options": "Conv2DOptions", **fields}

    def weights(*shape: int) -> int:
        return b.constant(b.rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:])))

    x = b("CONV_2D", [*b.inputs, weights(8, 3, 3, 3), weights(8)], (1, 16, 16, 8), **conv)
    y = b("CONV_2D", [x, weights(8, 3, 3, 8), weights(8)], (1, 16, 16, 8), **conv)
    x = b("ADD", [x, y], (1, 16, 16, 8), options="AddOptions", FusedActivationFunction=1)
    half = {**conv, "StrideH": 2, "StrideW": 2}
    y = b("CONV_2D", [x, weights(12, 3, 3, 8), weights(12)], (1, 8, 8, 12), **half)
    x = b("CONV_2D", [x, weights(12, 1, 1, 8), weights(12)], (1, 8, 8, 12), **{**half, "FusedActivationFunction": 0})
    x = b("ADD", [x, y], (1, 8, 8, 12), options="AddOptions", FusedActivationFunction=1)
    window = {"FilterHeight": 8, "FilterWidth": 8, "StrideH": 8, "StrideW": 8, "Padding": 1}
    x = b("AVERAGE_POOL_2D", [x], (1, 1, 1, 12), options="Pool2DOptions", **window)
    x = b("RESHAPE", [x, b.ints(1, 12)], (1, 12))
    x = b("FULLY_CONNECTED", [x, weights(10, 12), weights(10)], (1, 10), options="FullyConnectedOptions")
    b("SOFTMAX", [x], (1, 10), options="SoftmaxOptions", Beta=1.0)
    return b.model()


def round_trip(original: Path, folder: Path) -> tuple[list[str], list[str]]:
    """The operations of a file, and of what becomes of it by way of a bundle; both compute the same."""
    bundle, out = folder / "net.haste", folder / "back.tflite"
    compile_model(str(original), bundle, levels=1, preprocessing=Preprocessing(scale=1.0, layout="NHWC"))
    assert export_tflite(bundle, out).largest_error <= TOLERANCE
    files = [read_tflite(path) for path in (original, out)]
    shape = files[0].tensors[files[0].inputs[0]].shape
    x = np.random.default_rng(5).uniform(0, 255, (3, *shape[1:])).astype(np.float32)
    assert_close(with_litert(out, [x]), with_litert(original, [x]), TOLERANCE)
    return tuple([operation.kind for operation in file.operations] for file in files)  # type: ignore[return-value]


def test_there_and_back(tmp_path: Path) -> None:
    (tmp_path / "there.tflite").write_bytes(residual_network())
    there, back = round_trip(tmp_path / "there.tflite", tmp_path)
    assert sorted(back) == sorted(there)


def test_the_same_bundle_gives_the_same_bytes(tmp_path: Path) -> None:
    path = written(tmp_path)
    for name in ("one.tflite", "two.tflite"):
        export_tflite(path, tmp_path / name)
    assert (tmp_path / "one.tflite").read_bytes() == (tmp_path / "two.tflite").read_bytes()


def test_a_rule_that_is_wrong_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path)
    wrong = {**RULES, "linear": lambda c: c.step("NEG", RULES["linear"](c))}
    monkeypatch.setattr(tflite_model, "RULES", wrong)
    with pytest.raises(VerificationError, match="differs from the bundle by"):
        export_tflite(path, tmp_path / "net.tflite")
    wrong = {**RULES, "linear": lambda c: c.step("CONV_2D", *c.inputs)}
    monkeypatch.setattr(tflite_model, "RULES", wrong)
    with pytest.raises(ModelError, match="runtime fails"):
        export_tflite(path, tmp_path / "net.tflite")
    assert os.listdir(tmp_path) == ["net.haste"]


def test_without_a_runtime_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tflite_process, "installed", lambda: "")
    with pytest.raises(ModelError, match="not installed") as caught:
        export_tflite(written(tmp_path), tmp_path / "net.tflite")
    assert caught.value.hint == 'Install it: pip install "haste-edge[tflite]"'
    assert os.listdir(tmp_path) == ["net.haste"]


@pytest.mark.parametrize("out", ["", "missing/net.tflite", "net.haste"])
def test_places_that_cannot_be_written(out: str, tmp_path: Path) -> None:
    path = written(tmp_path)
    with pytest.raises(BundleWriteError):
        export_tflite(path, tmp_path / out)
    assert os.listdir(tmp_path) == ["net.haste"]


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path)
    assert command(monkeypatch, str(path), "--to", "tflite") == 0
    assert "largest error in ai_edge_litert" in capfd.readouterr().out
    out = tmp_path / "net.level0.tflite"
    assert command(monkeypatch, str(path), "--to", "tflite", "-o", str(tmp_path / "b.tflite"), "--json") == 0
    said = json.loads(capfd.readouterr().out)
    assert said["path"] == str(tmp_path / "b.tflite")
    assert said["largest_error"] <= said["tolerance"]
    assert out.read_bytes() == (tmp_path / "b.tflite").read_bytes()


def test_the_command_says_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    graph = one("lrn", (4, 3, 3), size=2, alpha=0.1, beta=0.5, bias=1.0)
    write_bundle(tmp_path / "net.haste", bundle_for(graph))
    path = str(tmp_path / "net.haste")
    assert command(monkeypatch, path, "--to", "tflite") == 5
    said = capfd.readouterr().err
    assert "y (lrn): It normalises over 2 channels" in said
    assert "--to onnx" in said
    for name in [name for name in sys.modules if name.startswith("haste_edge.exports.tflite")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    assert command(monkeypatch, path, "--to", "tflite") == 2
    assert 'pip install "haste-edge[tflite]"' in capfd.readouterr().err
    assert os.listdir(tmp_path) == ["net.haste"]
