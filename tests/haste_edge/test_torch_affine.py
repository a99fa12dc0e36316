"""The policy "affine" in torch against the numpy definition: the same to the last bit, whatever the patches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from haste_edge import affine, grouping
from haste_edge.grouping import Grouping, Rule, group_within_affine_budget
from haste_edge.method import represent_affine
from haste_runtime.affine import block_projection, within_affine_budget

BUDGETS = (0.0, 1e-9, 0.01, 0.1, 0.3, 1.0, 7.0, 1e3)


class Layer:
    """M patches of channels that are multiples of few patterns plus constants, more or less, at the edge of a map."""

    def __init__(self, seed: int, channels: int, side: int, count: int = 3) -> None:
        rng = np.random.default_rng(seed)
        shape = (count, channels, side * side)
        patterns = rng.integers(-30, 31, (4, side * side))
        q = patterns[rng.integers(0, 4, channels)] * rng.choice([-1, 0.5, 1, 2, 0], (count, channels, 1))
        q = q + rng.choice([-40, 0, 0, 30], shape[:2])[..., None]
        q = q + rng.integers(-9, 10, shape) * rng.choice([0, 0, 1, 9], shape[:2])[..., None]
        inside = np.ones((count, side, side), np.bool_)
        inside[0, 0], inside[-1, :, side // 2 + 1 :] = side == 1, False
        self.inside = inside.reshape(count, -1)
        self.q = (np.clip(np.rint(q), -127, 127) * self.inside[:, None]).astype(np.int8)
        self.importance = rng.choice(np.uint16([0, 1, 9, 4095]), channels)
        self.projection = block_projection(side)
        self.dead = np.arange(count) == 1 if count > 1 else np.zeros(count, np.bool_)
        self.q[self.dead] = 0

    def group(self, budget: float | torch.Tensor, m: int = 4) -> Grouping:
        codes = torch.from_numpy(np.where(self.dead, -1, 0).astype(np.int32))[:, None].repeat(1, self.q.shape[1])
        importance = torch.from_numpy(self.importance.astype(np.int32))
        rule = Rule(m, torch.from_numpy(self.projection), len(self.projection), "affine", importance)
        inside = torch.from_numpy(self.inside).float()
        return group_within_affine_budget(torch.from_numpy(self.q).float(), codes, rule, budget, inside)

    def check(self, found: Grouping, budgets: list[float], m: int = 4) -> None:
        assert found.offsets is not None
        for p in range(len(self.q)):
            if self.dead[p]:
                assert (found.leaders[p] == -1).all()
                assert int(found.compared[p]) == int(found.verified[p]) == int(found.offsets[p].count_nonzero()) == 0
                continue
            expected = within_affine_budget(
                self.q[p], self.inside[p], self.projection, self.importance, budgets[p], m * m
            )
            np.testing.assert_array_equal(found.leaders[p].numpy(), expected.leaders)
            np.testing.assert_array_equal(found.scales[p].numpy(), expected.scales)
            np.testing.assert_array_equal(found.offsets[p].numpy(), expected.offsets)
            assert (int(found.compared[p]), int(found.verified[p])) == (expected.compared, expected.verified)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10**6), channels=st.integers(1, 12), side=st.integers(1, 9), m=st.sampled_from([1, 2, 4, 8]),
    budget=st.sampled_from(BUDGETS) | st.floats(0, 10),
)  # fmt: skip
def test_the_definitions(seed: int, channels: int, side: int, m: int, budget: float) -> None:
    layer = Layer(seed, channels, side)
    layer.check(layer.group(budget, m), [budget] * 3, m)


def test_more_channels_than_are_compared_at_once_and_other_chunks() -> None:
    layer = Layer(0, 2 * affine._BLOCK + 7, 6, 5)
    several = torch.tensor([0.0, 0.05, 0.2, 0.5, 2.0], dtype=torch.float64)
    found = layer.group(several)
    layer.check(found, several.tolist())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grouping, "_CHUNK_BYTES", 700)
        patch.setattr(affine, "_BLOCK", 3)
        again = layer.group(several)
    together = layer.group(torch.tensor(BUDGETS, dtype=torch.float64)[:, None])
    with torch.autocast("cpu", torch.bfloat16):
        autocast = layer.group(several)
    for a, b, c in zip(found[:-1], again[:-1], autocast[:-1], strict=True):  # the last is None
        assert torch.equal(a, b)
        assert torch.equal(a, c)
    for number, budget in enumerate(BUDGETS):
        layer.check(together.part(slice(5 * number, 5 * number + 5)), [budget] * 5)


def test_products_beyond_what_single_precision_holds_are_exact() -> None:
    """127 * 127 * d > 2^24; channels differ in the last of 17 million only."""
    layer = Layer(0, 6, 33, 1)
    layer.inside[:] = True
    layer.q[:] = 127
    layer.q[0, 1, 0] = layer.q[0, 2, 1] = 126
    layer.q[0, 3, ::2], layer.q[0, 4, ::2], layer.q[0, 5, 5] = -127, -126, 125
    layer.importance = np.array([4095, 3, 2, 4000, 1, 7], np.uint16)
    for budget in (0.0, 1e-12, 1e-8, 1e-4, 0.5):
        layer.check(layer.group(budget, 1), [budget], 1)


def test_what_stands_for_each_channel_and_its_gradient() -> None:
    x = torch.tensor([[[1.0, 2.0, 0.0], [3.0, 6.0, 0.0], [5.0, 7.0, 0.0], [9.0, 9.0, 0.0]]], requires_grad=True)
    none = torch.zeros(1, dtype=torch.int64)
    leaders, scales = torch.tensor([[0, -1, 0, -1]]), torch.tensor([[1.0, 1.0, 2.0, 1.0]])
    found = Grouping(leaders, scales, none, none, torch.tensor([[0.0, 4.0, -2.0, 0.0]]))
    y = represent_affine(x, found, torch.tensor([0.5]), torch.tensor([[1.0, 1.0, 0.0]]))
    assert y.tolist() == [[[1.0, 2.0, 0.0], [2.0, 2.0, 0.0], [1.0, 3.0, 0.0], [0.0, 0.0, 0.0]]]
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[[3.0] * 3, [0.0] * 3, [0.0] * 3, [0.0] * 3]]
