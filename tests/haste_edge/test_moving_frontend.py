"""Reshapes, transposes, shuffles, resizing, transposed convolutions: what torch computes, and what little is left."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from haste_edge.frontends.export import load_module
from haste_edge.frontends.transposed_conv import as_convolution
from haste_edge.passes import run_passes
from haste_edge.passes.hoist import channels_after
from haste_edge.passes.join_moves import Move, join
from haste_edge.torch_graph import run
from haste_runtime.graph import Graph, Node
from haste_runtime.reference_ops import FUNCTIONS


class Calls(nn.Module):
    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def compiled(module: nn.Module, *shape: int) -> Graph:
    """The graph that runs, which computes what the module does."""
    graph = load_module(module, [shape], "a test").graph
    x = 2 * torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = [y for y in torch.utils._pytree.tree_leaves(module(x)) if isinstance(y, Tensor)]
    after = run_passes(graph)
    for version in (graph, after):
        for y, z in zip(expected, run(version, {graph.inputs[0].name: x}).outputs.values(), strict=True):
            assert y.shape == z.shape
            assert (y - z).abs().max() <= 2e-5 * y.abs().max()
    return after


def ops(function: Callable[[Tensor], Any], *shape: int) -> list[str]:
    return [node.op for node in compiled(Calls(function), *shape).nodes]


def shuffled(x: Tensor, groups: int) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).contiguous().view(n, c, h, w)


def to_pixels(x: Tensor, r: int) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, c // r**2, r, r, h, w).permute(0, 1, 4, 2, 5, 3).reshape(n, c // r**2, h * r, w * r)


def windows(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(n, 4 * c, h // 2, w // 2)


@pytest.mark.parametrize(
    ("function", "left"),
    [
        (lambda x: shuffled(x, 3), ["rearrange"]),
        (lambda x: F.channel_shuffle(x, 3), ["rearrange"]),
        (lambda x: F.pixel_shuffle(x, 2), ["rearrange"]),
        (lambda x: to_pixels(x, 2), ["rearrange"]),
        (lambda x: F.pixel_unshuffle(x, 2), ["rearrange"]),
        (windows, ["rearrange"]),
        (lambda x: F.pixel_unshuffle(F.pixel_shuffle(x, 2), 2).relu(), ["activation"]),
        (lambda x: x.permute(0, 2, 3, 1).permute(0, 3, 1, 2).relu(), ["activation"]),
        (lambda x: x.permute(0, 2, 3, 1).flatten(1), ["rearrange"]),
        (lambda x: x.flatten(2).transpose(1, 2), ["rearrange"]),
        (lambda x: x.flatten(2).view(-1, 12, 4, 6).relu(), ["activation"]),
        (lambda x: x.reshape(-1, 6, 8, 6), ["reshape"]),
        (lambda x: x.unsqueeze(1).flatten(2)[:, 0].relu(), ["flatten", "reshape", "slice", "reshape", "activation"]),
    ],
)
def test_what_only_moves_becomes_one_node_or_none(function: Callable[[Tensor], Tensor], left: list[str]) -> None:
    found = ops(function, 12, 4, 6)
    assert found == left or len(found) < len(left)


class Heads(nn.Module):
    """What detectors and mixers do with shapes, and every rule for moving that nothing else here uses."""

    def forward(self, x: Tensor) -> list[Tensor]:
        a, b = x.chunk(2, 1)
        c, d = torch.split(x, [5, 7], dim=1)
        anchors = x.view(-1, 3, 4, 4, 6).permute(0, 1, 3, 4, 2).contiguous()
        boxes = x.flatten(2)
        spread = boxes.view(-1, 3, 4, 24).transpose(1, 2).softmax(1)
        return [
            *(torch.stack([a, b], 2), torch.stack([a, b], 1).flatten(1, 2), torch.cat([d, c], 1), anchors),
            *(anchors[..., 2:4] * 2, anchors.view(-1, 72, 4), torch.cat([boxes, boxes * 2], 2), spread),
            *(x.unbind(1)[3], x[:, -1], x[:, 1:9:2, ::3], x.select(2, -2), x.roll(1, 2), x.roll((1, -2), (1, 3))),
            *(x.repeat(1, 2, 1, 3), x.mean(1, keepdim=True).expand(-1, 4, -1, -1) * 2, boxes.split(10, 2)[2] * 1.5),
            *(x.movedim(1, 3), x.swapaxes(2, 3), x.flatten(1).unflatten(1, (24, 12)) * 2),
        ]


class Axes(nn.Module):
    def forward(self, x: Tensor) -> list[Tensor]:
        return [
            *(x.mean(1, keepdim=True), x.mean(1), x.amax(1, keepdim=True), x.amin((1, 2)), x.sum((2, 3)), x.sum(1)),
            *(
                x.mean(2),
                x.mean((1, 2, 3), keepdim=True),
                x.max(1, keepdim=True)[0],
                x.min(3).values,
                x.flatten(2).mean(1),
            ),
            *(x.softmax(1), x.softmax(-1), F.softmax(x.flatten(2), 2), x.mean((2, 3)).softmax(1), x.flatten(2).mean(2)),
        ]


class Resized(nn.Module):
    def forward(self, x: Tensor) -> list[Tensor]:
        return [
            *(F.interpolate(x, scale_factor=2), F.interpolate(x, size=(7, 5)), F.interpolate(x, scale_factor=1.7)),
            *(F.interpolate(x, size=(9, 11), mode=mode) for mode in ("nearest-exact", "bilinear", "bicubic")),
            *(F.interpolate(x, size=(3, 4), mode=mode) for mode in ("nearest-exact", "bilinear", "bicubic")),
            *(F.interpolate(x, size=(9, 11), mode=mode, align_corners=True) for mode in ("bilinear", "bicubic")),
            *(F.interpolate(x, scale_factor=(1.5, 2), mode=mode) for mode in ("bilinear", "bicubic")),
            F.interpolate(x, size=(1, 5), mode="bilinear", align_corners=True),
            *(F.pad(x, (1, 2, 3, 0), mode=mode) for mode in ("reflect", "replicate", "circular")),
        ]


@pytest.mark.parametrize("module", [Heads(), Axes(), Resized()], ids=["heads", "axes", "resized"])
def test_all_rules(module: nn.Module) -> None:
    compiled(module, 12, 4, 6)


def test_an_upsampling_network() -> None:
    """U-Net's stages: the convolutions that are transposed may merge like all others."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.LeakyReLU(0.1), nn.ConvTranspose2d(8, 6, 2, 2), nn.BatchNorm2d(6), nn.ReLU(),
        nn.ConvTranspose2d(6, 4, 4, 2, 1, groups=2), nn.SiLU(), nn.ConvTranspose2d(4, 3, 3, (2, 3), (1, 0), (1, 2)),
    )  # fmt: skip
    for tensor in (net[3].running_mean, net[3].running_var):
        tensor.data.uniform_(0.5, 2)
    graph = compiled(net, 3, 5, 6)
    assert [node.op for node in graph.nodes] == [
        *("conv", "unary", "conv", "rearrange", "conv", "rearrange", "slice", "unary", "conv", "rearrange", "slice"),
    ]
    assert [node.attributes["activation"] for node in graph.nodes if node.op == "conv"] == [
        *("none", "relu", "none", "none"),
    ]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_transposed_convolutions(data: st.DataObject) -> None:
    """Against torch, by the definitions in numpy of the nodes that they become."""
    draw = data.draw
    size, kernel = (tuple(draw(st.integers(1, 5)) for _ in range(2)) for _ in range(2))
    stride, dilation = (tuple(draw(st.integers(1, 3)) for _ in range(2)) for _ in range(2))
    groups, channels, filters = draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    extra = tuple(draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True))
    most = [(k - 1) * d // 2 for k, d in zip(kernel, dilation, strict=True)]
    padding = tuple(draw(st.integers(0, m)) for m in most)
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    x, weight = (
        rng.standard_normal((groups * channels, *size)),
        rng.standard_normal((groups * channels, filters, *kernel)),
    )
    made = as_convolution(weight, size, stride, padding * 2, extra, dilation, groups)
    smallest = [
        (n - 1) * s - 2 * p + (k - 1) * d + e
        for n, s, p, k, d, e in zip(size, stride, padding, kernel, dilation, extra, strict=True)
    ]
    if min(smallest) < 0:
        assert made is None
        return
    assert made is not None
    y = FUNCTIONS["conv"](x.astype(np.float32), weight=made.weight.astype(np.float32), **made.convolution)
    y = FUNCTIONS["slice"](FUNCTIONS["rearrange"](y, **made.shuffle), **made.crop)
    expected = F.conv_transpose2d(
        torch.from_numpy(x)[None], torch.from_numpy(weight), None, stride, padding, extra, groups, dilation
    )
    assert y.shape == tuple(expected.shape[1:])
    np.testing.assert_allclose(y, expected[0].numpy(), atol=1e-4)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_two_moves_joined_are_one_after_the_other(data: st.DataObject) -> None:
    draw, numbers = data.draw, np.arange(math.prod((2, 3, 4, 5)))
    first = Move((2, 3, 4, 5), tuple(draw(st.permutations(range(4)))))
    second_split = draw(st.sampled_from([first.permuted, (math.prod(first.permuted[:2]), *first.permuted[2:])]))
    second = Move(second_split, tuple(draw(st.permutations(range(len(second_split))))))
    both = join(first, second)
    assert both is not None
    for move in (first, second):
        numbers = numbers.reshape(move.split).transpose(move.axes).ravel()
    assert np.array_equal(np.arange(120).reshape(both.split).transpose(both.axes).ravel(), numbers)


def test_which_channel_numbers_come_to_lie_in() -> None:
    pixels = {"split": (2, 2, 2, 3, 3), "axes": (0, 3, 1, 4, 2), "shape": (2, 6, 6)}
    shuffle = Node("a", "rearrange", ("x",), pixels)
    cut = Node("b", "slice", ("a",), {"starts": (1, 0, 0), "stops": (2, 6, 6), "steps": (1, 2, 2)})
    turn = Node("c", "rearrange", ("x",), {"split": (8, 3, 3), "axes": (1, 0, 2), "shape": (3, 8, 3)})
    phases = channels_after([shuffle], (8, 3, 3), (2, 6, 6))
    assert phases is not None
    assert phases.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    left = channels_after([shuffle, cut], (8, 3, 3), (1, 3, 3))
    assert left is not None
    assert left.tolist() == [-1, -1, -1, -1, 0, -1, -1, -1]
    assert channels_after([turn], (8, 3, 3), (3, 8, 3)) is None
