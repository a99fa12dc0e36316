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


@pytest.mark.parametrize("activation", ["none", "relu", "relu6"])
def test_activations_by_hand(activation: str) -> None:
    x = np.array([-7, -0.5, 0, 0.5, 6, 7], np.float32)
    expected = {"none": x, "relu": [0, 0, 0, 0.5, 6, 7], "relu6": [0, 0, 0, 0.5, 6, 6]}[activation]
    assert FUNCTIONS["activation"](x, activation=activation).tolist() == list(expected)
