"""Every operator of the graph in plain numpy: the definition the compiled kernels are tested against.

Each function takes the node's inputs as positional arguments and its attributes and constants by name, so a node runs
as ``FUNCTIONS[node.op](*inputs, **constants, **node.attributes)``. Arrays are float32 without a batch: maps (C, H, W),
vectors (F,). Results may be views of the inputs; no input is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import product

import numpy as np
from numpy.typing import NDArray

from haste_runtime.geometry import output_size
from haste_runtime.reference_elementwise import activate, binary, prelu, unary
from haste_runtime.reference_moving import concat, extend, lrn, pad, rearrange, reduce, reshape, resize, slice_, softmax

Array = NDArray[np.float32]
Pair = tuple[int, int]
Padding = tuple[int, int, int, int]  # top, left, bottom, right


def output_channels_last(weight: Array) -> Array:
    """The same (O, C / groups, Kh, Kw) array, laid out in memory with the output channels side by side: then both the
    matrix of a tap and the filters of one channel are easy to pick. A copy, unless it is so already."""
    return np.ascontiguousarray(weight.transpose(1, 2, 3, 0)).transpose(3, 0, 1, 2)


def convolve(x: Array, weight: Array, *, stride: Pair, dilation: Pair, groups: int, out: Pair) -> Array:
    """The sums of a convolution, (O, *out), of a map (C, H, W) that is padded already.

    A sum over kernel taps of matrix products (O, C / groups) x (C / groups, pixels), group by group.
    """
    filters, channels, ky, kx = weight.shape
    (sy, sx), (dy, dx), (height, width) = stride, dilation, out
    taps = output_channels_last(weight).reshape(groups, filters // groups, channels, ky, kx)
    y = np.zeros((groups, filters // groups, height * width), np.float32)
    for i, j in product(range(ky), range(kx)):
        top, left = i * dy, j * dx
        seen = x[:, top : top + (height - 1) * sy + 1 : sy, left : left + (width - 1) * sx + 1 : sx]
        y += taps[:, :, :, i, j] @ seen.reshape(groups, channels, height * width)
    return y.reshape(filters, height, width)


def add_bias(y: Array, bias: Array | None) -> Array:
    return y if bias is None else y + bias[:, None, None]


def add_residual(y: Array, residual: Array | None, activation: str) -> Array:
    """The end of a convolution: activation(y + residual)."""
    return activate(y if residual is None else y + residual, activation=activation)


def conv(
    x: Array,
    residual: Array | None = None,
    *,
    weight: Array,
    bias: Array | None = None,
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
    activation: str,
) -> Array:
    """activation(convolution + bias + residual); grouped and depthwise included."""
    x = _border(x, padding, 0.0)
    (_, height, width), (_, _, ky, kx) = x.shape, weight.shape
    out = (output_size(height, ky, stride[0], dilation[0]), output_size(width, kx, stride[1], dilation[1]))
    y = convolve(x, weight, stride=stride, dilation=dilation, groups=groups, out=out)
    return add_residual(add_bias(y, bias), residual, activation)


def linear(x: Array, *, weight: Array, bias: Array | None = None, activation: str) -> Array:
    y = weight @ x
    return activate(y if bias is None else y + bias, activation=activation)


def scale(x: Array, *, scale: Array, shift: Array, activation: str) -> Array:
    """activation(x * scale + shift), one factor and summand per channel or feature."""
    shape = (-1,) + (1,) * (x.ndim - 1)
    return activate(x * scale.reshape(shape) + shift.reshape(shape), activation=activation)


def add(a: Array, b: Array, *, activation: str) -> Array:
    return activate(a + b, activation=activation)


def max_pool(x: Array, *, kernel: Pair, stride: Pair, padding: Padding, dilation: Pair) -> Array:
    """The largest value under each window; padding counts as minus infinity."""
    taps = list(_taps(_border(x, padding, -np.inf), kernel, stride, dilation))
    y = taps[0].copy()
    for tap in taps[1:]:
        np.maximum(y, tap, out=y)
    return y


def avg_pool(x: Array, *, kernel: Pair, stride: Pair, padding: Padding, count_include_pad: int) -> Array:
    """The mean under each window; zeros of the padding are counted or not, as in torch."""
    total = _window_sum(_border(x, padding, 0.0), kernel, stride)
    if count_include_pad:
        return total / np.float32(kernel[0] * kernel[1])
    ones = _border(np.ones((1, *x.shape[1:]), np.float32), padding, 0.0)
    return total / _window_sum(ones, kernel, stride)


def adaptive_avg_pool(x: Array, *, size: Pair) -> Array:
    return _adaptive(x, size, lambda window: window.mean(axis=(1, 2)))


def adaptive_max_pool(x: Array, *, size: Pair) -> Array:
    return _adaptive(x, size, lambda window: window.max(axis=(1, 2)))


def mean(x: Array, *, keepdim: int) -> Array:
    """Over height and width: (C, 1, 1) or (C,)."""
    return x.mean(axis=(1, 2), keepdims=bool(keepdim))


def flatten(x: Array, *, order: str) -> Array:
    """A vector, in the order "CHW" or (of networks that came with channels last) "HWC"."""
    return (x.transpose(1, 2, 0) if order == "HWC" and x.ndim == 3 else x).reshape(-1)


FUNCTIONS: Mapping[str, Callable[..., Array]] = {
    "conv": conv,
    "linear": linear,
    "scale": scale,
    "add": add,
    "activation": activate,
    "unary": unary,
    "prelu": prelu,
    "binary": binary,
    "max_pool": max_pool,
    "avg_pool": avg_pool,
    "adaptive_avg_pool": adaptive_avg_pool,
    "adaptive_max_pool": adaptive_max_pool,
    "mean": mean,
    "flatten": flatten,
    "reshape": reshape,
    "rearrange": rearrange,
    "concat": concat,
    "pad": pad,
    "slice": slice_,
    "extend": extend,
    "resize": resize,
    "reduce": reduce,
    "softmax": softmax,
    "lrn": lrn,
}


def _border(x: Array, padding: Padding, value: float) -> Array:
    top, left, bottom, right = padding
    if not any(padding):
        return x
    return np.pad(x, ((0, 0), (top, bottom), (left, right)), constant_values=np.float32(value))


def _taps(x: Array, kernel: Pair, stride: Pair, dilation: Pair = (1, 1)) -> Iterator[Array]:
    """For each place of a pooling window, the map of the values that all windows have there."""
    _, height, width = x.shape
    rows = output_size(height, kernel[0], stride[0], dilation[0])
    columns = output_size(width, kernel[1], stride[1], dilation[1])
    for i, j in product(range(kernel[0]), range(kernel[1])):
        top, left = i * dilation[0], j * dilation[1]
        yield x[
            :,
            top : top + (rows - 1) * stride[0] + 1 : stride[0],
            left : left + (columns - 1) * stride[1] + 1 : stride[1],
        ]


def _window_sum(x: Array, kernel: Pair, stride: Pair) -> Array:
    total, *others = _taps(x, kernel, stride)
    total = total.copy()
    for tap in others:
        total += tap
    return total


def _adaptive(x: Array, size: Pair, reduce: Callable[[Array], Array]) -> Array:
    """Window i of n over a side of length s is [floor(i * s / n), ceil((i + 1) * s / n)): torch's rule."""
    channels, height, width = x.shape
    y = np.empty((channels, *size), np.float32)
    for i, j in product(range(size[0]), range(size[1])):
        rows = slice(i * height // size[0], -(-(i + 1) * height // size[0]))
        columns = slice(j * width // size[1], -(-(j + 1) * width // size[1]))
        y[:, i, j] = reduce(x[:, rows, columns])
    return y
