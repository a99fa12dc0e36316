"""What a torch `Conv2d` says of itself: its geometry in the runtime's terms, and whether its channels may merge."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor, nn

from haste_runtime.geometry import ConvGeometry, output_size
from haste_runtime.graph import Graph, Node
from haste_runtime.operators import may_merge


def why_dense(conv: nn.Conv2d) -> str:
    """Empty if a `HasteConv2d` can stand for this convolution, else the reason why not, in words."""
    if type(conv) is not nn.Conv2d:
        return f"{type(conv).__name__}: a class of its own may compute something else"
    if "forward" in vars(conv):
        return "its forward was replaced"
    if conv.padding_mode != "zeros":
        return f"padding mode {conv.padding_mode!r}: patches are zero-filled"
    stride, dilation = pair(conv.stride), pair(conv.dilation)
    attributes = {"stride": stride, "dilation": dilation, "groups": conv.groups}
    node = Node("conv", "conv", ("x",), attributes, {"weight": "weight"})
    only_shape = np.broadcast_to(np.float32(0), tuple(conv.weight.shape))
    return may_merge(node, Graph((), (), (node,), {"weight": only_shape}))


def pair(value: Any) -> tuple[int, int]:
    """(vertical, horizontal), of what torch keeps in a tuple of any length."""
    first, second = value
    return int(first), int(second)


def conv_padding(conv: nn.Conv2d) -> tuple[int, int, int, int]:
    """(top, left, bottom, right). torch's "valid" and "same" are resolved; an odd pixel goes to the bottom or right."""
    if isinstance(conv.padding, str):
        same = conv.padding == "same"
        y, x = ((k - 1) * d if same else 0 for k, d in zip(conv.kernel_size, conv.dilation, strict=True))
        return y // 2, x // 2, y - y // 2, x - x // 2
    top, left = pair(conv.padding)
    return top, left, top, left


def conv_geometry(conv: nn.Conv2d, out: tuple[int, int]) -> ConvGeometry:
    """For an output map (H', W')."""
    kernel, stride, dilation = pair(conv.kernel_size), pair(conv.stride), pair(conv.dilation)
    return ConvGeometry(
        conv.in_channels, conv.out_channels, kernel, stride, dilation, conv_padding(conv), conv.groups, out
    )


def conv_output(conv: nn.Conv2d, x: Tensor) -> tuple[int, int]:
    """(H', W') for an input (..., H, W); not positive where the map is too small for the kernel."""
    top, left, bottom, right = conv_padding(conv)
    (ky, kx), (sy, sx), (dy, dx) = pair(conv.kernel_size), pair(conv.stride), pair(conv.dilation)
    return output_size(x.shape[-2] + top + bottom, ky, sy, dy), output_size(x.shape[-1] + left + right, kx, sx, dx)
