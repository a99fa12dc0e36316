"""Random TFLite models of many operators agree with LiteRT, whatever follows what."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tflite_models import NONE, RELU, RELU6, SAME, VALID, TfliteBuilder, assert_agrees

Shape = tuple[int, ...]  # of a map, batch and all
Step = Callable[[TfliteBuilder, random.Random, int, Shape], tuple[int, Shape]]


def _slid(extent: int, taps: int, step: int, padding: int) -> int:
    return -(-(extent if padding == SAME else extent - taps + 1) // step)


def _window(r: random.Random, shape: Shape) -> tuple[list[int], list[int], int, list[int]]:
    """Kernel, stride, padding, and the size that comes out."""
    kernel = [r.randint(1, min(3, extent)) for extent in shape[1:3]]
    stride, padding = [r.randint(1, 2), r.randint(1, 2)], r.choice((SAME, VALID))
    return kernel, stride, padding, [_slid(*axis, padding) for axis in zip(shape[1:3], kernel, stride, strict=True)]


def conv(b: TfliteBuilder, r: random.Random, x: int, shape: Shape) -> tuple[int, Shape]:
    kernel, stride, padding, size = _window(r, shape)
    options = {"StrideH": stride[0], "StrideW": stride[1], "DilationHFactor": 1, "DilationWFactor": 1}
    after = {"Padding": padding, "FusedActivationFunction": r.choice((NONE, RELU, RELU6))}
    if r.random() < 0.5:
        filters = r.randint(1, 5)
        inputs = [x, b.random(filters, *kernel, shape[3]), b.random(filters)]
        made = (1, *size, filters)
        return b("CONV_2D", inputs, made, options="Conv2DOptions", **options, **after), made
    multiplier = r.randint(1, 2)
    made = (1, *size, multiplier * shape[3])
    inputs = [x, b.random(1, *kernel, made[3]), b.random(made[3])]
    options["DepthMultiplier"] = multiplier
    return b("DEPTHWISE_CONV_2D", inputs, made, options="DepthwiseConv2DOptions", **options, **after), made


def pool(b: TfliteBuilder, r: random.Random, x: int, shape: Shape) -> tuple[int, Shape]:
    kernel, stride, padding, size = _window(r, shape)
    options = {"FilterHeight": kernel[0], "FilterWidth": kernel[1], "StrideH": stride[0], "StrideW": stride[1]}
    made = (1, *size, shape[3])
    op = r.choice(("MAX_POOL_2D", "AVERAGE_POOL_2D"))
    return b(op, [x], made, options="Pool2DOptions", Padding=padding, **options), made


def bend(b: TfliteBuilder, r: random.Random, x: int, shape: Shape) -> tuple[int, Shape]:
    return b(r.choice(("RELU", "LOGISTIC", "TANH", "HARD_SWISH", "ABS", "SOFTMAX")), [x], shape), shape


def combine(b: TfliteBuilder, r: random.Random, x: int, shape: Shape) -> tuple[int, Shape]:
    op = r.choice(("ADD", "SUB", "MUL"))
    other = b.random(*(extent if r.random() < 0.5 else 1 for extent in shape)) if r.random() < 0.5 else x
    inputs = [x, other] if r.random() < 0.5 else [other, x]
    return b(op, inputs, shape, options=f"{op.title()}Options", FusedActivationFunction=r.choice((NONE, RELU))), shape


def gate(b: TfliteBuilder, r: random.Random, x: int, shape: Shape) -> tuple[int, Shape]:
    axes, keep = r.choice(([1, 2], [3], [1], [2], [1, 3])), r.random() < 0.5
    kept = tuple(1 if axis in axes else extent for axis, extent in enumerate(shape))
    made = kept if keep else tuple(extent for axis, extent in enumerate(shape) if axis not in axes)
    y = b(r.choice(("MEAN", "REDUCE_MAX")), [x, b.ints(*axes)], made, options="ReducerOptions", KeepDims=keep)
    y = y if keep else b("RESHAPE", [y, b.ints(*kept)], kept)
    return b("MUL", [x, y], shape, options="MulOptions"), shape


def move(b: TfliteBuilder, r: random.Random, x: int, shape: Shape) -> tuple[int, Shape]:
    order = [0, *r.sample((1, 2, 3), 3)]
    made = tuple(shape[axis] for axis in order)
    return b("TRANSPOSE", [x, b.ints(*order)], made), made


def join(b: TfliteBuilder, r: random.Random, x: int, shape: Shape) -> tuple[int, Shape]:
    axis = r.randint(1, 3)
    other, _ = bend(b, r, x, shape)
    made = tuple(2 * extent if i == axis else extent for i, extent in enumerate(shape))
    return b("CONCATENATION", [x, other], made, options="ConcatenationOptions", Axis=axis), made


def part(b: TfliteBuilder, r: random.Random, x: int, shape: Shape) -> tuple[int, Shape]:
    starts = [0, *(r.randint(0, extent - 1) for extent in shape[1:])]
    made = (1, *(r.randint(1, extent - start) for extent, start in zip(shape[1:], starts[1:], strict=True)))
    return b("SLICE", [x, b.ints(*starts), b.ints(*made)], made), made


def border(b: TfliteBuilder, r: random.Random, x: int, shape: Shape) -> tuple[int, Shape]:
    pads = [[0, 0], *([r.randint(0, 2), r.randint(0, 2)] for _ in range(3))]
    made = tuple(extent + sum(both) for extent, both in zip(shape, pads, strict=True))
    return b("PAD", [x, b.constant(pads, "int32")], made), made


def fold(b: TfliteBuilder, r: random.Random, x: int, shape: Shape) -> tuple[int, Shape]:
    made = (1, shape[2], shape[1] * shape[3], 1) if r.random() < 0.5 else (1, 1, shape[1] * shape[2], shape[3])
    return b("RESHAPE", [x, b.ints(*made)], made), made


STEPS: tuple[Step, ...] = (conv, conv, pool, bend, combine, gate, move, join, part, border, fold)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1), length=st.integers(1, 6))
def test_random_models_agree_with_litert(tmp_path: Path, seed: int, length: int) -> None:
    r = random.Random(seed)
    shape: Shape = (1, r.randint(1, 7), r.randint(1, 7), r.randint(1, 4))
    b = TfliteBuilder(shape, seed=seed)
    x = b.inputs[0]
    for _ in range(length):
        if shape[1] * shape[2] * shape[3] > 2000:
            break
        x, shape = r.choice(STEPS)(b, r, x, shape)
    if r.random() < 0.5:
        features = shape[1] * shape[2] * shape[3]
        x = b("RESHAPE", [x, b.ints(1, features)], (1, features))
        x = b("FULLY_CONNECTED", [x, b.random(3, features), b.random(3)], (1, 3), options="FullyConnectedOptions")
    assert_agrees(b.model(x), tmp_path, share=1e-4)
