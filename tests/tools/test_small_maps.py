"""Convolutions on small maps: the same results and gradients as torch's own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

import networks
from small_maps import SmallMapConv2d, in_place_of


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (2, 3), (4, 4), (5, 3), (6, 6), (9, 7), (12, 12), (13, 13)])
def test_results_and_gradients(shape: tuple[int, int], stride: int) -> None:
    rng = torch.Generator().manual_seed(3)
    plain = nn.Conv2d(5, 7, 3, stride, 1, bias=False).double()
    (small,) = in_place_of(nn.Sequential(plain))
    assert isinstance(small, SmallMapConv2d)
    assert small.weight is plain.weight
    x = torch.randn(3, 5, *shape, generator=rng, dtype=torch.float64)
    found = []
    for conv in (plain, small):
        conv.weight.grad = None
        leaf = x.clone().requires_grad_()
        y = conv(leaf)
        y.backward(torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y))
        assert leaf.grad is not None
        assert conv.weight.grad is not None
        found.append((y.detach(), leaf.grad, conv.weight.grad))
    for ours, theirs in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_a_network_keeps_its_parameters_and_results() -> None:
    torch.manual_seed(0)
    model = networks.bottleneck()
    model.train()
    names = [name for name, _ in model.named_parameters()]
    x = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        before = model(x)
        in_place_of(model)
        after = model(x)
    assert [name for name, _ in model.named_parameters()] == names
    assert sum(isinstance(module, SmallMapConv2d) for module in model.modules()) == 17  # stem and one a block
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)


def test_bfloat16_is_used_where_asked() -> None:
    (small,) = in_place_of(nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1, bias=False)))
    x = torch.randn(2, 8, 2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        y = small(x)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert small.weight.grad is not None
    assert small.weight.grad.dtype == torch.float32


def test_other_convolutions_stay() -> None:
    others = nn.Sequential(
        nn.Conv2d(4, 4, 3, 1, 1), nn.Conv2d(4, 4, 1, bias=False), nn.Conv2d(4, 4, 3, 1, 1, groups=2, bias=False)
    )
    assert [type(module) for module in in_place_of(others)] == [nn.Conv2d] * 3
