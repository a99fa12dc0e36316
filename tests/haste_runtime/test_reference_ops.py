"""Every operator against torch's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from builders import sign_changing
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from haste_runtime import operators
from haste_runtime.attributes import BINARY, UNARY
from haste_runtime.reference_ops import FUNCTIONS, output_channels_last

SIDES = st.integers(1, 13)
SEEDS = st.integers(0, 9999)
ACTIVATIONS = st.sampled_from(["none", "relu", "relu6"])


def close(ours: np.ndarray, theirs: torch.Tensor, tolerance: float = 1e-5) -> None:
    expected = theirs.numpy()
    assert ours.dtype == np.float32
    assert ours.shape == expected.shape
    assert np.abs(ours - expected).max() <= tolerance * max(1.0, float(np.abs(expected).max()))


def activated(x: torch.Tensor, activation: str) -> torch.Tensor:
    return {"none": x, "relu": x.clamp(min=0), "relu6": x.clamp(0, 6)}[activation]


def numbers(seed: int, *shapes: tuple[int, ...]) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [3 * sign_changing(rng, shape) for shape in shapes]


def padded(x: np.ndarray, padding: tuple[int, ...], value: float = 0.0) -> torch.Tensor:
    top, left, bottom, right = padding
    return F.pad(torch.from_numpy(x), (left, right, top, bottom), value=value)


def test_every_operator_has_a_function() -> None:
    assert set(FUNCTIONS) == set(operators.OPERATORS)


@given(st.data(), SEEDS, SIDES, SIDES, ACTIVATIONS)
@settings(max_examples=150)
def test_conv(data: st.DataObject, seed: int, height: int, width: int, activation: str) -> None:
    kernel = tuple(data.draw(st.sampled_from([1, 2, 3, 5, 7])) for _ in range(2))
    stride, dilation = (tuple(data.draw(st.integers(1, 2)) for _ in range(2)) for _ in range(2))
    padding = tuple(data.draw(st.integers(0, 4)) for _ in range(4))
    for axis, side in enumerate((height, width)):
        assume(side + padding[axis] + padding[axis + 2] > (kernel[axis] - 1) * dilation[axis])
    groups = data.draw(st.sampled_from([1, 1, 2, 3]))
    channels, filters = groups * data.draw(st.integers(1, 5)), groups * data.draw(st.integers(1, 4))
    x, weight, bias = numbers(seed, (channels, height, width), (filters, channels // groups, *kernel), (filters,))
    plain = F.conv2d(padded(x, padding), torch.from_numpy(weight), torch.from_numpy(bias), stride, 0, dilation, groups)
    (residual,) = numbers(seed + 1, tuple(plain.shape))
    keywords: dict[str, Any] = {
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "groups": groups,
        "activation": activation,
    }
    conv = FUNCTIONS["conv"]
    before = x.copy()
    close(conv(x, weight=weight, bias=bias, **keywords), activated(plain, activation))
    expected = activated(plain - torch.from_numpy(bias)[:, None, None] + torch.from_numpy(residual), activation)
    close(conv(x, residual, weight=output_channels_last(weight), **keywords), expected)
    assert np.array_equal(x, before)


@given(SEEDS, st.integers(1, 20), st.sampled_from([1, 2]), st.sampled_from([1, 3]))
def test_depthwise(seed: int, channels: int, multiplier: int, stride: int) -> None:
    x, weight = numbers(seed, (channels, 9, 8), (channels * multiplier, 1, 3, 3))
    ours = FUNCTIONS["conv"](
        x,
        weight=weight,
        stride=(stride, stride),
        padding=(1, 1, 1, 1),
        dilation=(1, 1),
        groups=channels,
        activation="none",
    )
    close(ours, F.conv2d(torch.from_numpy(x), torch.from_numpy(weight), None, stride, 1, 1, channels))


def test_weights_are_laid_out_once() -> None:
    (weight,) = numbers(0, (4, 3, 2, 5))
    laid_out = output_channels_last(weight)
    assert np.array_equal(laid_out, weight)
    assert laid_out.strides[0] == 4
    assert np.shares_memory(output_channels_last(laid_out), laid_out)


@given(SEEDS, st.integers(1, 33), st.integers(1, 17), st.booleans(), ACTIVATIONS)
def test_linear(seed: int, features: int, filters: int, with_bias: bool, activation: str) -> None:
    x, weight, bias = numbers(seed, (features,), (filters, features), (filters,))
    constants = {"weight": weight} | ({"bias": bias} if with_bias else {})
    expected = F.linear(torch.from_numpy(x), torch.from_numpy(weight), torch.from_numpy(bias) if with_bias else None)
    close(FUNCTIONS["linear"](x, **constants, activation=activation), activated(expected, activation))


@given(SEEDS, ACTIVATIONS, st.sampled_from([(5,), (5, 3, 4)]))
def test_elementwise(seed: int, activation: str, shape: tuple[int, ...]) -> None:
    a, b, scale, shift = numbers(seed, shape, shape, (5,), (5,))
    ta, tb = torch.from_numpy(a), torch.from_numpy(b)
    close(FUNCTIONS["activation"](a, activation=activation), activated(ta, activation))
    close(FUNCTIONS["add"](a, b, activation=activation), activated(ta + tb, activation))
    per_channel = (5,) + (1,) * (len(shape) - 1)
    expected = ta * torch.from_numpy(scale).reshape(per_channel) + torch.from_numpy(shift).reshape(per_channel)
    close(FUNCTIONS["scale"](a, scale=scale, shift=shift, activation=activation), activated(expected, activation))


UNARY_OF_TORCH: dict[str, Any] = {
    "leaky_relu": lambda t: F.leaky_relu(t, 0.3), "elu": lambda t: F.elu(t, 0.3),
    "clip": lambda t: F.hardtanh(t, 0.3, 0.5), "hard_sigmoid": lambda t: (0.3 * t + 0.5).clamp(0, 1),
    "hard_swish": lambda t: t * (0.3 * t + 0.5).clamp(0, 1), "sigmoid": torch.sigmoid, "silu": F.silu,
    "tanh": torch.tanh, "gelu": F.gelu, "gelu_tanh": lambda t: F.gelu(t, approximate="tanh"), "softplus": F.softplus,
    "mish": F.mish, "exp": torch.exp, "sqrt": torch.sqrt, "absolute": torch.abs, "negative": torch.neg,
    "reciprocal": torch.reciprocal,
}  # fmt: skip
BINARY_OF_TORCH: dict[str, Any] = {
    "add": torch.add, "subtract": torch.sub, "multiply": torch.mul, "divide": torch.div, "minimum": torch.minimum,
    "maximum": torch.maximum,
}  # fmt: skip


@pytest.mark.parametrize("function", UNARY)
def test_functions_of_one_number(function: str) -> None:
    x = np.linspace(-30, 30, 4001, dtype=np.float32).reshape(-1, 1)
    x = np.abs(x) + np.float32(0.01) if function in ("sqrt", "reciprocal") else x
    close(FUNCTIONS["unary"](x, function=function, alpha=0.3, beta=0.5), UNARY_OF_TORCH[function](torch.from_numpy(x)))


def test_torchs_own_hard_functions() -> None:
    x = np.linspace(-8, 8, 1001, dtype=np.float32)
    for function, theirs in (("hard_sigmoid", F.hardsigmoid), ("hard_swish", F.hardswish)):
        close(FUNCTIONS["unary"](x, function=function, alpha=1 / 6, beta=0.5), theirs(torch.from_numpy(x)))


def test_functions_without_an_overflow_on_the_way() -> None:
    x = np.array([-1000, -100, 0, 100, 1000], np.float32)
    for function in ("sigmoid", "silu", "softplus", "mish", "tanh", "gelu", "gelu_tanh"):
        close(FUNCTIONS["unary"](x, function=function, alpha=0, beta=0), UNARY_OF_TORCH[function](torch.from_numpy(x)))


@pytest.mark.parametrize("function", BINARY)
@pytest.mark.parametrize("shapes", [((5, 3, 4), (5, 1, 1)), ((1, 3, 4), (5, 3, 1)), ((6,), (6,)), ((2, 3), (2, 1))])
def test_functions_of_two_numbers(function: str, shapes: tuple[tuple[int, ...], ...]) -> None:
    a, b = numbers(3, *shapes)
    expected = BINARY_OF_TORCH[function](torch.from_numpy(a), torch.from_numpy(b))
    close(FUNCTIONS["binary"](a, b, function=function, activation="none"), expected)
    close(FUNCTIONS["binary"](a, other=b, function=function, activation="relu6"), expected.clamp(0, 6))


@pytest.mark.parametrize("shape", [(5,), (5, 3), (5, 3, 4)])
def test_prelu(shape: tuple[int, ...]) -> None:
    x, slope = numbers(4, shape, (5,))
    close(FUNCTIONS["prelu"](x, slope=slope), F.prelu(torch.from_numpy(x)[None], torch.from_numpy(slope))[0])


@given(st.data(), SEEDS, SIDES, SIDES)
@settings(max_examples=100)
def test_pools(data: st.DataObject, seed: int, height: int, width: int) -> None:
    kernel, stride = (tuple(data.draw(st.integers(1, 4)) for _ in range(2)) for _ in range(2))
    assume(kernel[0] <= height and kernel[1] <= width)
    (x,) = numbers(seed, (3, height, width))
    padding = tuple(data.draw(st.integers(0, kernel[axis] // 2)) for axis in (0, 1, 0, 1))
    close(
        FUNCTIONS["max_pool"](x, kernel=kernel, stride=stride, padding=padding, dilation=(1, 1)),
        F.max_pool2d(padded(x, padding, -np.inf), kernel, stride),
    )
    close(
        FUNCTIONS["avg_pool"](x, kernel=kernel, stride=stride, padding=padding, count_include_pad=1),
        F.avg_pool2d(padded(x, padding), kernel, stride),
    )
    symmetric = padding[:2]
    for count_include_pad in (0, 1):
        close(
            FUNCTIONS["avg_pool"](
                x, kernel=kernel, stride=stride, padding=symmetric * 2, count_include_pad=count_include_pad
            ),
            F.avg_pool2d(torch.from_numpy(x), kernel, stride, symmetric, count_include_pad=bool(count_include_pad)),
        )


def test_max_pool_with_dilation() -> None:
    (x,) = numbers(0, (2, 11, 9))
    ours = FUNCTIONS["max_pool"](x, kernel=(3, 2), stride=(2, 1), padding=(1, 1, 1, 1), dilation=(2, 3))
    close(ours, F.max_pool2d(torch.from_numpy(x), (3, 2), (2, 1), 1, (2, 3)))


def test_average_in_ceil_mode_is_extra_padding_below_and_right() -> None:
    (x,) = numbers(0, (2, 8, 7))
    ours = FUNCTIONS["avg_pool"](x, kernel=(3, 3), stride=(2, 2), padding=(0, 0, 1, 0), count_include_pad=0)
    close(ours, F.avg_pool2d(torch.from_numpy(x), 3, 2, ceil_mode=True, count_include_pad=False))


@given(SEEDS, SIDES, SIDES, st.integers(1, 7), st.integers(1, 7))
def test_adaptive_pools(seed: int, height: int, width: int, rows: int, columns: int) -> None:
    (x,) = numbers(seed, (2, height, width))
    t, size = torch.from_numpy(x), (rows, columns)
    close(FUNCTIONS["adaptive_avg_pool"](x, size=size), F.adaptive_avg_pool2d(t, size))
    close(FUNCTIONS["adaptive_max_pool"](x, size=size), F.adaptive_max_pool2d(t, size))


@given(SEEDS, SIDES, SIDES)
def test_shapes(seed: int, height: int, width: int) -> None:
    x, y = numbers(seed, (3, height, width), (2, height, width))
    t, u = torch.from_numpy(x), torch.from_numpy(y)
    close(FUNCTIONS["mean"](x, keepdim=1), t.mean((1, 2), keepdim=True))
    close(FUNCTIONS["mean"](x, keepdim=0), t.mean((1, 2)))
    close(FUNCTIONS["flatten"](x, order="CHW"), t.flatten())
    close(FUNCTIONS["flatten"](x, order="HWC"), t.permute(1, 2, 0).flatten())
    close(FUNCTIONS["flatten"](x[:, 0, 0], order="HWC"), t[:, 0, 0])
    close(FUNCTIONS["concat"](x, y, x, axis=0), torch.cat([t, u, t]))
    close(FUNCTIONS["concat"](x, x, axis=1), torch.cat([t, t], 1))
    close(FUNCTIONS["concat"](x, x, axis=2), torch.cat([t, t], 2))
    close(FUNCTIONS["pad"](x, pads=(2, 0, 0, 1, 3, 1), value=-1.5), F.pad(t, (3, 1, 0, 1, 2, 0), value=-1.5))
    stops = (3, height, width)
    close(FUNCTIONS["slice"](x, starts=(1, 0, 0), stops=stops, steps=(2, 2, 3)), t[1:3:2, ::2, ::3])
    close(FUNCTIONS["slice"](x[:, 0, 0], starts=(1,), stops=(3,), steps=(1,)), t[1:3, 0, 0])


@given(SEEDS, SIDES, SIDES)
def test_moves(seed: int, height: int, width: int) -> None:
    (x,) = numbers(seed, (12, height, width))
    t = torch.from_numpy(x)
    close(FUNCTIONS["reshape"](x, shape=(3, 4, height * width)), t.reshape(3, 4, height * width))
    pixels = {"split": (3, 2, 2, height, width), "axes": (0, 3, 1, 4, 2), "shape": (3, 2 * height, 2 * width)}
    close(FUNCTIONS["rearrange"](x, **pixels), F.pixel_shuffle(t, 2))
    shuffle = {"split": (4, 3, height, width), "axes": (1, 0, 2, 3), "shape": x.shape}
    close(FUNCTIONS["rearrange"](x, **shuffle), F.channel_shuffle(t[None], 4)[0])
    transpose = {"split": x.shape, "axes": (2, 0, 1), "shape": (width, 12, height)}
    close(FUNCTIONS["rearrange"](x, **transpose), t.permute(2, 0, 1))


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_borders_of_own_pixels(mode: str) -> None:
    (x,) = numbers(5, (3, 5, 6))
    close(FUNCTIONS["extend"](x, pads=(1, 2, 4, 0), mode=mode), F.pad(torch.from_numpy(x)[None], (2, 0, 1, 4), mode)[0])


RESIZED: list[tuple[str, dict[str, Any], str, str]] = [  # torch's mode and more, our coordinates and rounding
    ("nearest", {}, "asymmetric", "floor"), ("nearest-exact", {}, "half_pixel", "half_up"),
    ("bilinear", {}, "half_pixel", "floor"), ("bicubic", {}, "half_pixel", "floor"),
    ("bilinear", {"align_corners": True}, "asymmetric", "floor"),
    ("bicubic", {"align_corners": True}, "asymmetric", "floor"),
]  # fmt: skip


@pytest.mark.parametrize(("theirs", "more", "coordinates", "rounding"), RESIZED)
@pytest.mark.parametrize("size", [(10, 14), (3, 4), (7, 11), (5, 7)])
def test_resize(theirs: str, more: dict[str, Any], coordinates: str, rounding: str, size: tuple[int, int]) -> None:
    (x,) = numbers(6, (3, 5, 7))
    steps = [(n - 1) / (m - 1) if more else n / m for n, m in zip(x.shape[1:], size, strict=True)]
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(theirs, "nearest")
    ours = FUNCTIONS["resize"](
        x, size=size, mode=mode, step_y=steps[0], step_x=steps[1], coordinates=coordinates, rounding=rounding
    )
    close(ours, F.interpolate(torch.from_numpy(x)[None], size, mode=theirs, **more)[0])


def test_nearest_rounds_halves_as_asked() -> None:
    x = np.arange(4, dtype=np.float32).reshape(1, 1, 4)
    found = {
        rounding: FUNCTIONS["resize"](
            x, size=(1, 8), mode="nearest", step_y=1, step_x=0.5, coordinates="asymmetric", rounding=rounding
        )[0, 0].tolist()
        for rounding in ("floor", "ceil", "half_down", "half_up")
    }
    assert found["floor"] == found["half_down"] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert found["ceil"] == found["half_up"] == [0, 1, 1, 2, 2, 3, 3, 3]


@pytest.mark.parametrize("axes", [(0,), (1,), (0, 2), (1, 2), (0, 1, 2)])
def test_reduce(axes: tuple[int, ...]) -> None:
    (x,) = numbers(7, (3, 5, 7))
    t = torch.from_numpy(x)
    close(FUNCTIONS["reduce"](x, function="mean", axes=axes), t.mean(axes, keepdim=True))
    close(FUNCTIONS["reduce"](x, function="sum", axes=axes), t.sum(axes, keepdim=True))
    close(FUNCTIONS["reduce"](x, function="maximum", axes=axes), t.amax(axes, keepdim=True))
    close(FUNCTIONS["reduce"](x, function="minimum", axes=axes), t.amin(axes, keepdim=True))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_softmax(axis: int) -> None:
    (x,) = numbers(8, (3, 5, 7))
    close(FUNCTIONS["softmax"](x * 100, axis=axis), torch.from_numpy(x * 100).softmax(axis))


@pytest.mark.parametrize("size", [1, 3, 5])
def test_lrn(size: int) -> None:
    (x,) = numbers(9, (6, 5, 7))
    expected = F.local_response_norm(torch.from_numpy(x)[None], size, 0.1, 0.6, 2)[0]
    close(FUNCTIONS["lrn"](x, size=size, alpha=0.1, beta=0.6, bias=2), expected)


@pytest.mark.parametrize("activation", ["none", "relu", "relu6"])
def test_activations_by_hand(activation: str) -> None:
    x = np.array([-7, -0.5, 0, 0.5, 6, 7], np.float32)
    expected = {"none": x, "relu": [0, 0, 0, 0.5, 6, 7], "relu6": [0, 0, 0, 0.5, 6, 6]}[activation]
    assert FUNCTIONS["activation"](x, activation=activation).tolist() == list(expected)
