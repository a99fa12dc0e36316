"""Random ONNX models of all operators agree with ONNX Runtime, in torch, in the numpy backend and compiled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from builders import bundle_for
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx_models import OnnxBuilder, assert_close, channels_first, channels_last, load, on_graph, random_inputs
from onnx_models import with_onnxruntime as in_onnxruntime

from haste_edge.passes import run_passes
from haste_runtime import Session
from haste_runtime.graph import Graph

SHARE = 1e-4  # of the largest output
Step = Callable[["Network"], None]
Map = tuple[str, tuple[int, int, int]]  # a value, and its shape (C, H, W) however it lies


class Network:
    """A model under construction: each method adds a random operator to the map that is the latest, where it fits."""

    def __init__(self, draw: Callable[..., int], opset: int, last: bool) -> None:
        self.draw, self.last = draw, last
        self.shape = (draw(1, 4), draw(4, 8), draw(4, 8))
        c, h, w = self.shape
        self.b = OnnxBuilder(opset, draw(0, 10**6), x=("N", *((h, w, c) if last else (c, h, w))))
        self.x = "x"
        self.earlier: list[Map] = []

    def now(self, name: str, shape: tuple[int, int, int]) -> None:
        self.earlier.append((self.x, self.shape))
        self.x, self.shape = name, shape

    def axis(self, axis: int) -> int:
        """Where C, H or W is in the model's layout, batch included."""
        return (3, 1, 2)[axis] if self.last else axis + 1

    def channels_in_front(self, op: Callable[[str], str]) -> str:
        """What exporters make of an operator that the standard has for channels in front only."""
        if not self.last:
            return op(self.x)
        return str(self.b("Transpose", op(self.b("Transpose", self.x, perm=[0, 3, 1, 2])), perm=[0, 2, 3, 1]))

    def ints(self, name: str, *numbers: int, before: int) -> tuple[list[str], dict[str, list[int]]]:
        """Numbers as an input or, in versions ``before`` that, as an attribute."""
        return ([], {name: list(numbers)}) if self.b.opset < before else ([self.b.ints(*numbers)], {})

    # --- operators --------------------------------------------------------------------------------------------------

    def conv(self) -> None:
        c, h, w = self.shape
        kernel, dilation = (self.draw(1, 3), self.draw(1, 3)), self.draw(1, 2)
        groups = self.draw(1, c) if c > 1 else 1
        groups = groups if c % groups == 0 else c
        filters = groups * self.draw(1, 3)
        stride = [self.draw(1, 2), self.draw(1, 2)]
        mode = self.draw(0, 3)
        pads = [self.draw(0, 2) for _ in range(4)]
        if mode in (1, 2):
            padding = {"auto_pad": ("SAME_UPPER", "SAME_LOWER")[mode - 1]}
            dilation = 1
            size = (-(-h // stride[0]), -(-w // stride[1]))
        else:
            room = (h + pads[0] + pads[2], w + pads[1] + pads[3])
            reach = [dilation * (k - 1) + 1 for k in kernel]
            if reach[0] > room[0] or reach[1] > room[1]:
                return
            padding = {"pads": pads}
            size = ((room[0] - reach[0]) // stride[0] + 1, (room[1] - reach[1]) // stride[1] + 1)
        weight = self.b.random(filters, c // groups, *kernel, scale=1 / np.sqrt(c // groups * kernel[0] * kernel[1]))
        bias = [self.b.random(filters)] if self.draw(0, 1) else []
        attributes = {"strides": stride, "dilations": [dilation] * 2, "group": groups, **padding}
        x = self.channels_in_front(lambda x: self.b("Conv", x, weight, *bias, **attributes))
        self.now(x, (filters, *size))

    def batch_norm(self) -> None:
        c = self.shape[0]
        variance = self.b.weight(self.b.rng.uniform(0.5, 2, c))
        parameters = [self.b.random(c), self.b.random(c), self.b.random(c), variance]
        self.now(self.channels_in_front(lambda x: self.b("BatchNormalization", x, *parameters)), self.shape)

    def activation(self) -> None:
        if self.draw(0, 1):
            self.now(self.b("Relu", self.x), self.shape)
        elif self.b.opset < 11:
            self.now(self.b("Clip", self.x, min=0.0, max=6.0), self.shape)
        else:
            self.now(self.b("Clip", self.x, self.b.weight(0.0), self.b.weight(6.0)), self.shape)

    def function(self) -> None:
        op = ("Sigmoid", "Tanh", "LeakyRelu", "HardSigmoid", "Elu", "Abs")[self.draw(0, 5)]
        y = self.b(op, self.x)
        self.now(self.b("Mul", self.x, y) if self.draw(0, 1) else y, self.shape)

    def gate(self) -> None:
        axes, attributes = self.ints("axes", self.axis(1), self.axis(2), before=18)
        mean = self.b("ReduceMean", self.x, *axes, keepdims=1, **attributes)
        op = ("Mul", "Add", "Sub", "Max", "Min")[self.draw(0, 4)]
        gate = self.b("Sigmoid", mean)
        self.now(self.b(op, *((gate, self.x) if self.draw(0, 1) else (self.x, gate))), self.shape)

    def at_places(self) -> None:
        _, h, w = self.shape
        shape = (self.draw(0, 1) * (h - 1) + 1, self.draw(0, 1) * (w - 1) + 1)
        constant = self.b.weight(self.b.rng.uniform(0.5, 2, (*shape, 1) if self.last else shape))
        self.now(self.b(("Add", "Sub", "Mul", "Div")[self.draw(0, 3)], self.x, constant), self.shape)

    def slopes(self) -> None:
        c = self.shape[0]
        self.now(self.b("PRelu", self.x, self.b.random(*((c,) if self.last else (c, 1, 1)))), self.shape)

    def reduce(self) -> None:
        op, axis = ("ReduceMean", "ReduceMax", "ReduceSum")[self.draw(0, 2)], self.draw(0, 2)
        before = 13 if op == "ReduceSum" else 18
        axes, attributes = self.ints("axes", self.axis(axis), before=before)
        y = self.b(op, self.x, *axes, keepdims=1, **attributes)
        self.now(self.b("Add", self.x, y), self.shape)

    def softmax(self) -> None:
        axis = self.axis(self.draw(0, 2)) if self.b.opset >= 13 else 1
        self.now(self.b("Softmax", self.x, axis=axis), self.shape)

    def resize(self) -> None:
        c, h, w = self.shape
        factors = (1.0, 1.0, float(self.draw(1, 2)), float(self.draw(1, 2)))
        scales = self.b.weight([factors[0], *factors[2:], 1.0] if self.last else factors)
        roi = self.b.weight(np.zeros(0)) if self.b.opset < 13 else ""
        mode = ("nearest", "linear")[self.draw(0, 1)]
        where = ("half_pixel", "asymmetric", "align_corners")[self.draw(0, 2)]
        mode = "nearest" if self.last else mode  # ONNX Runtime resizes linearly with channels in front only
        if h * factors[2] <= 40 and w * factors[3] <= 40:
            y = self.b("Resize", self.x, roi, scales, mode=mode, coordinate_transformation_mode=where)
            self.now(y, (c, int(h * factors[2]), int(w * factors[3])))

    def border(self) -> None:
        c, h, w = self.shape
        if min(h, w) < 2:
            return
        pads = [0] * 8
        pads[self.axis(1)], pads[4 + self.axis(2)] = 1, 1
        numbers, attributes = self.ints("pads", *pads, before=11)
        x = self.b("Pad", self.x, *numbers, mode=("reflect", "edge")[self.draw(0, 1)], **attributes)
        self.now(x, (c, h + 1, w + 1))

    def shuffle(self) -> None:
        c, h, w = self.shape
        split, order = ((h, w, 2, -1), (0, 1, 2, 4, 3)) if self.last else ((2, -1, h, w), (0, 2, 1, 3, 4))
        if c % 2 == 0:
            x = self.b("Transpose", self.b("Reshape", self.x, self.b.ints(0, *split)), perm=list(order))
            self.now(self.b("Reshape", x, self.b.ints(0, *((h, w, c) if self.last else (c, h, w)))), self.shape)

    def transpose(self) -> None:
        c, h, w = self.shape
        perm = [0, 2, 1, 3] if self.last else [0, 1, 3, 2]
        self.now(self.b("Transpose", self.x, perm=perm), (c, w, h))

    def upsample(self) -> None:
        c, h, w = self.shape
        if max(h, w) > 12:
            return
        weight, bias = self.b.random(c, 2, 3, 3, scale=0.3), self.b.random(2)
        attributes = {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [self.draw(0, 1)] * 2}
        extra = attributes["output_padding"][0]
        x = self.channels_in_front(lambda x: self.b("ConvTranspose", x, weight, bias, **attributes))
        self.now(x, (2, 2 * h - 1 + extra, 2 * w - 1 + extra))

    def per_channel(self) -> None:
        c = self.shape[0]
        shape = (1,) * self.draw(0, 2) if c == 1 or self.draw(0, 1) else ((c,) if self.last else (c, 1, 1))
        constant = self.b.weight(self.b.rng.uniform(0.5, 2, shape))
        op = ("Add", "Sub", "Mul", "Div")[self.draw(0, 3)]
        swapped = op != "Div" and self.draw(0, 1)
        self.now(self.b(op, *((constant, self.x) if swapped else (self.x, constant))), self.shape)

    def residual(self) -> None:
        alike = [name for name, shape in self.earlier if shape == self.shape and name != self.x]
        if alike:
            self.now(self.b("Add", self.x, alike[self.draw(0, len(alike) - 1)]), self.shape)

    def pool(self) -> None:
        c, h, w = self.shape
        kernel = [self.draw(1, min(3, h)), self.draw(1, min(3, w))]
        pads = [self.draw(0, k - 1) for k in kernel * 2]
        attributes = {
            "kernel_shape": kernel,
            "strides": [self.draw(1, 3), self.draw(1, 3)],
            "pads": pads,
            "ceil_mode": self.draw(0, 1),
        }
        op = ("MaxPool", "AveragePool")[self.draw(0, 1)]
        if op == "AveragePool":
            attributes["count_include_pad"] = self.draw(0, 1)
        size = []
        for i, extent in enumerate((h, w)):
            spare, step = extent + pads[i] + pads[2 + i] - kernel[i], attributes["strides"][i]
            size.append((-(-spare // step) if attributes["ceil_mode"] else spare // step) + 1)
            if (size[-1] - 1) * step >= extent + pads[
                i
            ]:  # ONNX Runtime's shapes of such windows contradict its results
                return
        self.now(self.channels_in_front(lambda x: self.b(op, x, **attributes)), (c, size[0], size[1]))

    def pad(self) -> None:
        axis, before, after = self.draw(0, 2), self.draw(0, 2), self.draw(0, 2)
        pads = [0] * 8
        pads[self.axis(axis)], pads[4 + self.axis(axis)] = before, after
        inputs, attributes = self.ints("pads", *pads, before=11)
        shape = list(self.shape)
        shape[axis] += before + after
        self.now(self.b("Pad", self.x, *inputs, **attributes), (shape[0], shape[1], shape[2]))

    def slice(self) -> None:
        axis = self.draw(0, 2)
        extent = self.shape[axis]
        start, step = self.draw(0, extent - 1), self.draw(1, 2)
        stop = self.draw(start + 1, extent)
        numbers = [self.b.ints(start), self.b.ints(stop - extent if self.draw(0, 1) and stop < extent else stop)]
        shape = list(self.shape)
        shape[axis] = -(-(stop - start) // step)
        x = self.b("Slice", self.x, *numbers, self.b.ints(self.axis(axis)), self.b.ints(step))
        self.now(x, (shape[0], shape[1], shape[2]))

    def split(self) -> None:
        axis = self.draw(0, 2)
        if self.shape[axis] < 2:
            return
        first = self.draw(1, self.shape[axis] - 1)
        inputs, attributes = self.ints("split", first, self.shape[axis] - first, before=13)
        a, b = self.b("Split", self.x, *inputs, outputs=2, axis=self.axis(axis), **attributes)
        self.now(self.b("Concat", b, a, axis=self.axis(axis)), self.shape)

    def concat(self) -> None:
        axis = self.draw(0, 2)
        others = [
            (n, s) for n, s in self.earlier if s[:axis] + s[axis + 1 :] == self.shape[:axis] + self.shape[axis + 1 :]
        ]
        if others:
            name, other = others[self.draw(0, len(others) - 1)]
            shape = list(self.shape)
            shape[axis] += other[axis]
            self.now(self.b("Concat", self.x, name, axis=self.axis(axis)), (shape[0], shape[1], shape[2]))

    def identity(self) -> None:
        batch = self.b("Slice", self.b("Shape", self.x), self.b.ints(0), self.b.ints(1))
        c, h, w = self.shape
        inside = (h, w, c) if self.last else (c, h, w)
        flat = self.b("Reshape", self.x, self.b("Concat", batch, self.b.ints(-1), axis=0))
        self.now(self.b("Reshape", flat, self.b.ints(-1, *inside)), self.shape)

    def head(self) -> None:
        c, h, w = self.shape
        if self.draw(0, 1):
            axes, attributes = self.ints("axes", self.axis(1), self.axis(2), before=18)
            flat, features = self.b("ReduceMean", self.x, *axes, keepdims=0, **attributes), c
        else:
            flat, features = self.b("Flatten", self.x), c * h * w
        matrix = self.b.random(features, 3, scale=1 / np.sqrt(features))
        x = self.b("MatMul", flat, matrix) if self.draw(0, 1) else self.b("Gemm", flat, matrix, self.b.random(3))
        self.x = self.b("Relu", x)


STEPS = (
    Network.conv,
    Network.conv,
    Network.batch_norm,
    Network.activation,
    Network.function,
    Network.gate,
    Network.at_places,
    Network.slopes,
    Network.reduce,
    Network.softmax,
    Network.resize,
    Network.border,
    Network.shuffle,
    Network.transpose,
    Network.upsample,
    Network.per_channel,
    Network.residual,
    Network.pool,
    Network.pad,
    Network.slice,
    Network.split,
    Network.concat,
    Network.identity,
)


def in_session(graph: Graph, inputs: list[np.ndarray], backend: str) -> list[np.ndarray]:
    with Session(bundle_for(graph), backend) as session:
        answer = session.run({value.name: x for value, x in zip(graph.inputs, inputs, strict=True)})
        return list(answer.values()) if isinstance(answer, dict) else [answer]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("onnx")


@settings(deadline=None, max_examples=600, suppress_health_check=[HealthCheck.too_slow])
@given(
    steps=st.lists(st.sampled_from(STEPS), min_size=1, max_size=8),
    opset=st.sampled_from([11, 13, 17, 21]),
    last=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_random_models_agree_with_onnxruntime(
    folder: Path, steps: list[Step], opset: int, last: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)

    def draw(low: int, high: int) -> int:
        return int(rng.integers(low, high, endpoint=True))

    network = Network(draw, opset, last)
    for step in steps:
        step(network)
    middle = network.x
    if draw(0, 1):
        network.head()
    model = network.b.model(*{middle, network.x} - {"x"} or ["x"])
    assume(network.b.nodes)
    loaded = load(model, folder)
    graph = run_passes(loaded.graph)
    inputs = random_inputs(graph, 2, seed=1)
    last = loaded.layout == "NHWC"
    wanted = in_onnxruntime(model, channels_last(inputs) if last else inputs)
    wanted = channels_first(wanted) if last else wanted
    assert_close(on_graph(graph, inputs), wanted, SHARE)
    if draw(0, 9) == 0:
        assert_close(in_session(graph, inputs, "numpy"), wanted, SHARE)
    if draw(0, 39) == 0:
        assert_close(in_session(graph, inputs, "numba"), wanted, SHARE)
