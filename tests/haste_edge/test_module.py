"""`apply` and `remove`: what they leave behind, the knob, the schedule language, and the contract with the runtime."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import haste_edge
from haste_edge import method
from haste_edge.conv2d import conv_geometry, conv_output, conv_padding
from haste_edge.importance import channel_importance
from haste_edge.knob import Stats
from haste_edge.method import Rule
from haste_edge.module import HasteConv2d
from haste_edge.schedule import BUDGET_BITS, DEFAULT_BITS, DEFAULT_BUDGETS, ApplyError, parse_budgets, parse_levels
from haste_runtime import merge
from haste_runtime.errors import InputError, LevelError
from haste_runtime.flops import LayerCounts, dense_flops, linear_flops, merged_flops
from haste_runtime.geometry import ConvGeometry
from haste_runtime.graph import Graph, Node, Value
from haste_runtime.plan import BUDGETED, POLICIES, UNHASHED, Choice, LayerPlan, Level, Plan, Variant
from haste_runtime.projection import draw


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


class Net(nn.Module):
    """Every kind of convolution: the first, two that merge, one by one with a stride, grouped, and odd ones."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.bn = nn.BatchNorm2d(16)
        self.wide = nn.Conv2d(16, 24, 3, 2, 1, bias=False)
        self.block = nn.Sequential(nn.Conv2d(24, 24, 3, padding="same", dilation=2), nn.ReLU(), nn.Conv2d(24, 16, 1, 2))
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.tall = nn.Conv2d(16, 16, (3, 1), padding=(1, 0))
        self.mirror = nn.Conv2d(16, 16, 3, padding=1, padding_mode="reflect")
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn(self.stem(x)))
        y = self.block(F.relu(self.wide(y)))
        y = self.mirror(self.tall(self.depthwise(y)))
        return self.fc(y.mean((2, 3)))


MERGING = ("wide", "block.0", "block.2")
TWO_LEVELS: dict[str, dict[str, Any]] = {  # for `apply`, by policy
    "mean": {"bits": [6, 3]},
    "scaled": {"bits": [6, 3], "policy": "scaled"},
    "budget": {"bits": 11, "budget": [0.1, 0.8], "policy": "budget"},
    "affine": {"budget": [0.1, 0.8], "policy": "affine"},
    "drop": {"budget": [0.1, 0.8], "policy": "drop"},
}


@pytest.fixture
def net() -> Net:
    return Net().eval()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 3, 17, 14)


def everything(model: nn.Module) -> dict[str, Any]:
    """What `remove` has to restore: each module's class, identity and whatever its dictionary holds."""
    flat: dict[str, Any] = {}
    for name, module in model.named_modules():
        flat[name] = (type(module), id(module))
        for key, value in vars(module).items():
            inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
            flat[f"{name}:{key}"] = [(k, id(v)) for k, v in inner] or repr(value)
    return flat


# --- apply and remove -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
def test_remove_restores_the_very_same_model(net: Net, x: Tensor, policy: str) -> None:
    before, y = everything(net), net(x)
    assert haste_edge.apply(net, **TWO_LEVELS[policy]) is net
    assert not torch.equal(net(x), y)
    assert everything(net) != before
    assert haste_edge.remove(net) is net
    assert everything(net) == before
    assert torch.equal(net(x), y)
    haste_edge.remove(net)  # nothing left to do
    assert everything(net) == before


def test_applying_again_starts_afresh(net: Net, x: Tensor) -> None:
    before = everything(net)
    haste_edge.apply(net, bits=4, seed=1)
    once = net(x)
    haste_edge.apply(net, bits=[9, 8], patch=4, layers=lambda name, conv: name == "wide")
    haste_edge.apply(net, bits=4, seed=1)
    assert torch.equal(net(x), once)
    assert len(net.stem._forward_hooks) == 1
    haste_edge.remove(net)
    assert everything(net) == before


def test_a_part_can_be_taken_back_or_lie_inside_another(net: Net, x: Tensor) -> None:
    before = everything(net)
    haste_edge.apply(net.block, skip_first=False, bits=5)
    haste_edge.apply(net, bits=5)
    assert not hasattr(net.block, "haste")
    haste_edge.remove(net.block)
    assert type(net.block[0]) is nn.Conv2d
    assert type(net.wide) is HasteConv2d
    net(x)
    haste_edge.remove(net)
    assert everything(net) == before


def test_level_0_is_exactly_the_model(net: Net, x: Tensor) -> None:
    y = net(x)
    haste_edge.apply(net, bits=3, level=0)
    assert torch.equal(net(x), y)
    assert net.haste.stats.flops_reduction == 0.0
    assert net.haste.stats.flops_reduction_network == 0.0


@pytest.mark.parametrize("arguments", [{"bits": [8, 2]}, *TWO_LEVELS.values()])
def test_one_knob_turns_all_layers(net: Net, x: Tensor, arguments: dict[str, Any]) -> None:
    haste_edge.apply(net, **arguments)
    kept = []
    for level in range(3):
        haste_edge.set_level(net, level)
        assert net.haste.level == level
        net(x)
        assert set(net.haste.stats.kept) == set(MERGING)
        kept.append(net.haste.stats.kept)
    for name in MERGING:
        assert 1.0 == kept[0][name] >= kept[1][name] > kept[2][name]
    for level in (3, -1, "2", None, 1.0):
        with pytest.raises(LevelError, match="levels 0 to 2"):
            net.haste.level = level
    assert net.haste.level == 2


def test_what_does_not_merge_is_listed_with_its_reason(net: Net, x: Tensor) -> None:
    class Mine(nn.Conv2d):
        pass

    net.block.append(Mine(16, 16, 3, padding=1))
    net.block.append(nn.Conv2d(16, 16, 3, padding=1))
    net.block[4].forward = lambda y: y
    haste_edge.apply(net, bits={"wide": 4, "block.0": 0}, layers=lambda name, conv: name != "block.2")
    assert net.haste.skipped == {
        "stem": "the first convolution (skip_first)",
        "depthwise": "depthwise: no sum over channels to merge",
        "tall": "kernel 3x1 is not square",
        "mirror": "padding mode 'reflect': patches are zero-filled",
        "block.0": "dense at every level (bits)",
        "block.2": "not chosen (layers)",
        "block.3": "Mine: a class of its own may compute something else",
        "block.4": "its forward was replaced",
    }
    assert [name for name, module in net.named_modules() if type(module) is HasteConv2d] == ["wide"]
    assert torch.isfinite(net(x)).all()


def test_layers_without_a_budget_are_dense(net: Net, x: Tensor) -> None:
    haste_edge.apply(net, policy="budget", budget={"wide": 0.4, "block.0": 0})
    assert net.haste.skipped["block.0"] == net.haste.skipped["block.2"] == "dense at every level (budget)"
    assert net.haste.levels == ({}, {"wide": Choice(0, BUDGET_BITS, 0.4)})
    assert torch.isfinite(net(x)).all()


def test_the_first_convolution_merges_if_asked(net: Net) -> None:
    haste_edge.apply(net, bits=4, skip_first=False)
    assert type(net.stem) is HasteConv2d


def test_the_model_itself_may_be_a_convolution(x: Tensor) -> None:
    conv = nn.Conv2d(3, 4, 3)
    haste_edge.apply(conv, bits=1, skip_first=False)
    y = conv(x)
    assert list(conv.haste.stats.kept) == [""]
    assert torch.equal(conv(x[0]), y[0])  # without a batch, as Conv2d allows
    assert conv(x[:0]).shape == (0, *y.shape[1:])
    with pytest.raises(RuntimeError, match="Kernel size"):
        conv(x[:, :, :2])
    haste_edge.remove(conv)
    assert type(conv) is nn.Conv2d


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"policy": "median"}, "policy 'median'"),
        ({"hash": "md5"}, "hash 'md5'"),
        ({"patch": 0}, "Patch 0"),
        ({"sparsity": 1.0}, "sparsity 1.0"),
        ({"bits": []}, "not a schedule"),
        ({"bits": 5, "level": 2}, "no level 2"),
        ({"budget": 0.1}, "'mean' takes no budget"),
        ({"policy": "budget", "bits": [4, 3]}, "one number of bits"),
        ({"policy": "budget", "bits": 0}, "one number of bits"),
        ({"policy": "budget", "budget": -1}, "not an error budget"),
    ],
)
def test_wrong_arguments_leave_a_plain_model(net: Net, arguments: dict[str, Any], message: str) -> None:
    before = everything(net)
    haste_edge.apply(net)
    with pytest.raises((ApplyError, LevelError), match=message):
        haste_edge.apply(net, **arguments)
    assert everything(net) == before


def test_a_model_with_an_attribute_of_that_name_is_refused(net: Net) -> None:
    net.haste = "mine"
    with pytest.raises(ApplyError, match="attribute 'haste'"):
        haste_edge.apply(net)
    assert haste_edge.remove(net).haste == "mine"


def test_set_level_needs_apply(net: Net) -> None:
    with pytest.raises(ApplyError, match="Call haste_edge"):
        haste_edge.set_level(net, 1)


# --- it stays an ordinary model ---------------------------------------------------------------------------------------


def test_state_dict_is_the_models_own(net: Net, x: Tensor) -> None:
    keys = list(net.state_dict())
    haste_edge.apply(net, bits=4)
    y = net(x)
    assert list(net.state_dict()) == keys
    fresh = Net().eval()
    haste_edge.apply(fresh, bits=4)
    fresh.load_state_dict(net.state_dict(), strict=True)
    assert torch.equal(fresh(x), y)
    haste_edge.remove(fresh).load_state_dict(net.state_dict(), strict=True, assign=True)


def test_copies_are_independent(net: Net, x: Tensor) -> None:
    plain = net(x)
    haste_edge.apply(net, bits=[6, 3])
    y = net(x)
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(twin(x), y)
        twin.haste.level = 2
        twin(x[:1])
        assert net.haste.level == 1
        assert net.haste.stats.layers["wide"].counts.patches == 2 * twin.haste.stats.layers["wide"].counts.patches
        haste_edge.remove(twin)
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in twin.modules())
        assert torch.equal(twin(x), plain)
    assert torch.equal(net(x), y)


def test_hooks_survive_both_ways(net: Net, x: Tensor) -> None:
    seen: list[str] = []
    net.wide.register_forward_hook(lambda module, args, y: seen.append("before"))
    haste_edge.apply(net, bits=4)
    handle = net.wide.register_forward_hook(lambda module, args, y: seen.append("during"))
    net(x)
    haste_edge.remove(net)
    net(x)
    handle.remove()
    net(x)
    assert seen == ["before", "during"] * 2 + ["before"]


def test_training_goes_on(net: Net, x: Tensor) -> None:
    haste_edge.apply(net.train(), bits=4)
    weight = net.wide.weight
    optimiser = torch.optim.SGD(net.parameters(), 0.1)
    net(x).square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
    old = weight.detach().clone()
    optimiser.step()
    haste_edge.remove(net)
    assert net.wide.weight is weight
    assert not torch.equal(weight, old)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions(net: Net, x: Tensor, dtype: torch.dtype, policy: str) -> None:
    haste_edge.apply(net, **TWO_LEVELS[policy])
    y = net(x)
    net.to(dtype)
    assert net.wide.haste_projection_0.dtype == torch.int8
    narrow = net(x.to(dtype))
    assert narrow.dtype == dtype
    assert torch.isfinite(narrow).all()
    if dtype == torch.float64:
        torch.testing.assert_close(narrow.float(), y, atol=1e-3, rtol=1e-3)


def test_autocast(net: Net, x: Tensor) -> None:
    haste_edge.apply(net, bits=4)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        y = net.wide(torch.rand(1, 16, 9, 9))
    assert y.dtype == torch.bfloat16


def test_what_is_not_finite_is_refused(net: Net, x: Tensor) -> None:
    haste_edge.apply(net, bits=4)
    x[0, 0, 0, 0] = torch.nan
    with pytest.raises(InputError):
        net(x)


def test_projections_move_with_the_model_and_leave_with_remove(net: Net) -> None:
    haste_edge.apply(net, bits=4)
    assert net.wide.haste_projection_0.shape == (4, 17 * 17)
    assert {name for name, _ in net.to("meta").named_buffers() if "haste" in name} == {
        f"{name}.haste_projection_0" for name in MERGING
    }
    assert net.wide.haste_projection_0.device.type == "meta"


def test_importance_moves_with_the_model_too(net: Net) -> None:
    haste_edge.apply(net, policy="budget")
    expected = channel_importance(net.wide.weight.detach().numpy())
    assert np.array_equal(net.wide.haste_importance_0.numpy(), expected)
    names = {name for name, _ in net.to("meta").named_buffers() if "haste" in name}
    assert names == {f"{name}.haste_{kind}_0" for name in MERGING for kind in ("projection", "importance")}
    assert net.wide.haste_importance_0.device.type == "meta"


# --- what is counted --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
def test_stats_are_the_runtimes_counts(net: Net, x: Tensor, policy: str) -> None:
    haste_edge.apply(net, level=2, patch=4, **TWO_LEVELS[policy])
    inputs: dict[str, Tensor] = {}
    for name in MERGING:
        net.get_submodule(name).register_forward_hook(lambda module, args, y, name=name: inputs.update({name: args[0]}))
    net(x)
    stats = net.haste.stats
    assert list(stats.layers) == ["stem", "wide", "block.0", "block.2", "depthwise", "tall", "mirror", "fc"]
    executed = dense = 0
    for name in MERGING:
        conv, choice = net.get_submodule(name), net.haste.levels[2][name]
        geometry = conv_geometry(conv, conv_output(conv, inputs[name]))
        projection = conv.haste_projection_0
        importance = conv.haste_importance_0 if policy in BUDGETED else None
        rule = Rule(4, projection, choice.bits, policy, importance, choice.budget)
        counts = method.merged_conv(inputs[name], conv.weight, conv.bias, geometry, rule).counts
        assert (counts.compared > 0) == (policy in BUDGETED and policy not in UNHASHED)
        layer = stats.layers[name]
        assert layer.counts == counts
        assert layer.dense_flops == 2 * dense_flops(geometry)
        nonzeros = int(projection[: choice.bits].count_nonzero())
        assert layer.executed_flops == merged_flops(geometry, 4, nonzeros, choice.bits, counts, policy)
        assert stats.kept[name] == counts.kept / (counts.patches * conv.in_channels)
        executed += layer.executed_flops
        dense += layer.dense_flops
    assert stats.flops_reduction == 100 * (1 - executed / dense)
    for name, per_image in (
        ("stem", 2 * 16 * 3 * 9 * 17 * 14),
        ("depthwise", 2 * 16 * 9 * 5 * 4),
        ("tall", 2 * 16 * 16 * 3 * 5 * 4),
        ("mirror", 2 * 16 * 16 * 9 * 5 * 4),
        ("fc", linear_flops(16, 5)),
    ):
        assert stats.layers[name].dense_flops == stats.layers[name].executed_flops == 2 * per_image
        executed += 2 * per_image
        dense += 2 * per_image
    assert stats.flops_reduction_network == 100 * (1 - executed / dense)


def test_stats_are_of_the_last_call_and_totals_since_reset(net: Net, x: Tensor) -> None:
    haste_edge.apply(net, bits=4)
    net(x[:1])
    first: Stats = net.haste.stats
    net(x[1:])
    second: Stats = net.haste.stats
    total: Stats = net.haste.totals
    for name, layer in total.layers.items():
        assert layer == first.layers[name] + second.layers[name]
    net.haste.reset()
    assert not net.haste.totals.layers
    assert not net.haste.stats.layers
    net(x)
    assert net.haste.totals.layers == total.layers


# --- the schedule language --------------------------------------------------------------------------------------------

NAMES = ("a.0", "a.1", "b.0", "b.1")


def test_schedules() -> None:
    everywhere = dict.fromkeys
    assert parse_levels(None, NAMES) == ({}, *(everywhere(NAMES, bits) for bits in DEFAULT_BITS))
    assert DEFAULT_BITS == (14, 13, 12, 11, 10, 9, 8, 7)
    assert parse_levels(12, NAMES) == ({}, everywhere(NAMES, 12))
    assert parse_levels([5, 3], NAMES) == ({}, everywhere(NAMES, 5), everywhere(NAMES, 3))
    assert parse_levels({"a.*": 9, "?.1": 4}, NAMES) == ({}, {"a.0": 9, "a.1": 9, "b.1": 4})
    assert parse_levels({"a.0": 0, "*": 7}, NAMES) == ({}, {"a.1": 7, "b.0": 7, "b.1": 7})
    assert parse_levels((31, 0, {"b.[01]": 2}), NAMES) == ({}, everywhere(NAMES, 31), {}, {"b.0": 2, "b.1": 2})
    assert parse_levels(8, ()) == ({}, {})


@pytest.mark.parametrize("bits", [-1, 32, 2.0, "12", True, [], "", {"a.*": "12"}, [4, None], [[4]], {"c.*": 4}, b"ab"])
def test_wrong_schedules(bits: Any) -> None:
    with pytest.raises(ApplyError) as error:
        parse_levels(bits, NAMES)
    assert error.value.hint


@given(st.lists(st.one_of(st.integers(0, 31), st.dictionaries(st.sampled_from(NAMES), st.integers(0, 31))), min_size=1))
def test_every_level_names_known_layers_and_real_bits(bits: list[Any]) -> None:
    levels = parse_levels(bits, NAMES)
    assert len(levels) == len(bits) + 1
    for entry, level in zip(bits, levels[1:], strict=True):
        expected = entry if isinstance(entry, dict) else dict.fromkeys(NAMES, entry)
        assert level == {name: count for name, count in expected.items() if count}


def test_schedules_of_budgets() -> None:
    assert parse_budgets(None, NAMES) == ({}, *(dict.fromkeys(NAMES, budget) for budget in DEFAULT_BUDGETS))
    assert DEFAULT_BUDGETS == (0.05, 0.1, 0.2, 0.35, 0.6, 1.0)
    assert parse_budgets(1, NAMES) == ({}, dict.fromkeys(NAMES, 1.0))
    assert parse_budgets({"a.*": 0.5, "?.1": 1e6}, NAMES) == ({}, {"a.0": 0.5, "a.1": 0.5, "b.1": 1e6})
    assert parse_budgets([0.1, {"a.0": 0, "*": 0.7}, 0.0], NAMES) == (
        {},
        dict.fromkeys(NAMES, 0.1),
        {"a.1": 0.7, "b.0": 0.7, "b.1": 0.7},
        {},
    )
    assert all(isinstance(budget, float) for level in parse_budgets([1, {"*": 2}], NAMES) for budget in level.values())


@pytest.mark.parametrize(
    "budget", [-0.1, 2e6, float("nan"), float("inf"), "0.1", True, [], {"a.*": "1"}, [1, None], [[1.0]], {"c.*": 0.1}]
)
def test_wrong_schedules_of_budgets(budget: Any) -> None:
    with pytest.raises(ApplyError) as error:
        parse_budgets(budget, NAMES)
    assert error.value.hint


def test_levels_of_a_budget_share_their_bits(net: Net) -> None:
    haste_edge.apply(net, policy="budget", budget=[0.1, {"block.*": 0.5}], bits=9)
    assert [level.get("wide") for level in net.haste.levels] == [None, Choice(0, 9, 0.1), None]
    assert [level.get("block.0") for level in net.haste.levels] == [None, Choice(0, 9, 0.1), Choice(0, 9, 0.5)]
    assert net.haste.variants["wide"][0].bits == len(net.wide.haste_projection_0) == 9
    haste_edge.apply(net, policy="budget")
    assert [level["wide"] for level in net.haste.levels[1:]] == [Choice(0, BUDGET_BITS, b) for b in DEFAULT_BUDGETS]


def test_levels_of_a_model_use_prefixes_of_one_matrix(net: Net) -> None:
    haste_edge.apply(net, bits=[11, {"block.*": 6}], seed=5)
    assert net.haste.variants["wide"][0].bits == 11
    wide = net.wide.haste_projection_0
    block = net.block[0].haste_projection_0
    assert [level.get("wide") for level in net.haste.levels] == [None, Choice(0, 11), None]
    assert [level.get("block.0") for level in net.haste.levels] == [None, Choice(0, 11), Choice(0, 6)]
    variant = net.haste.variants["block.0"][0]
    side = 8 - 1 + 2 * 2 + 1
    np.testing.assert_array_equal(block.numpy(), draw(variant.seed, 11, side, variant.sparsity))
    haste_edge.apply(net, bits=4, seed=5, layers=lambda name, conv: name == "wide")  # the others don't matter
    assert torch.equal(net.wide.haste_projection_0, wide[:4])
    haste_edge.apply(net, bits=4, seed=6)
    assert not torch.equal(net.wide.haste_projection_0, wide[:4])


# --- the contract with the runtime ------------------------------------------------------------------------------------


def replay(conv: HasteConv2d, x: Tensor, y: Tensor, choice: Choice, variant: Variant) -> LayerCounts:
    """The numpy definition on a recorded layer input: equal groups, and outputs within 1e-4 of the largest."""
    geometry = conv_geometry(conv, conv_output(conv, x))
    projection = conv.get_buffer(f"haste_projection_{choice.variant}")
    importance = conv.get_buffer(f"haste_importance_{choice.variant}") if variant.importance else None
    bias = None if conv.bias is None else conv.bias.detach().numpy()
    weight = conv.weight.detach().numpy()
    rule = Rule(variant.patch, projection, choice.bits, variant.policy, importance, choice.budget)
    codes, grouping = method.group_layer(x, geometry, rule)
    numbers = None if importance is None else importance.numpy().astype(np.uint16)
    runtime_rule = merge.Rule(*rule._replace(projection=projection.numpy(), importance=numbers))
    counts = LayerCounts()
    for i in range(len(x)):
        expected = merge.merged_conv(x[i].numpy(), weight, bias, geometry, runtime_rule)
        np.testing.assert_array_equal(codes[i].numpy(), expected.codes)
        np.testing.assert_array_equal(grouping.leaders.view(codes.shape)[i].numpy(), expected.leaders)
        np.testing.assert_allclose(y[i].numpy(), expected.output, rtol=0, atol=1e-4 * np.abs(expected.output).max())
        counts += expected.counts
    return counts


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("padding", ["same", "valid", 2])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_layer_contract(kernel: int, padding: str | int, policy: str) -> None:
    conv = nn.Conv2d(12, 7, kernel, padding=padding)
    x = torch.randn(2, 12, 13, 10).relu()
    haste_edge.apply(conv, patch=4, skip_first=False, level=2, **TWO_LEVELS[policy])
    with torch.no_grad():
        y = conv(x)
    counts = replay(conv, x, y, conv.haste.levels[2][""], conv.haste.variants[""][0])
    assert conv.haste.stats.layers[""].counts == counts


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
def test_same_padding_of_even_kernels_is_torchs() -> None:
    conv = nn.Conv2d(6, 3, 4, padding="same")
    assert conv_padding(conv) == (1, 1, 2, 2)
    x = torch.randn(1, 6, 9, 8)
    y = conv(x)
    haste_edge.apply(conv, bits=31, patch=4, skip_first=False)
    torch.testing.assert_close(conv(x), y, atol=1e-5, rtol=1e-5)


def bundle_of(net: Net, patches: tuple[int, ...] = (4, 8)) -> SimpleNamespace:
    """Graph, plan, projections and importance as a compiled `Net` would have them (its weights changed, as folding
    does). Variants take the policies in turn."""
    nodes, constants, layers, projections, importance = [], {}, [], {}, {}
    for name, conv in net.named_modules():
        if not isinstance(conv, nn.Conv2d):
            continue
        constants[f"{name}.weight"] = conv.weight.detach().numpy() * 2
        attributes = {
            "stride": conv.stride,
            "padding": conv_padding(conv),
            "dilation": conv.dilation,
            "groups": conv.groups,
            "activation": "relu",
        }
        nodes.append(Node(name, "conv", ("x",), attributes, {"weight": f"{name}.weight"}))
        variants = []
        for policy in POLICIES if name in MERGING else ():
            for patch in patches:
                key, weights = f"{name}/{patch}", f"{name}/weights" if policy in BUDGETED else ""
                projections[key] = draw(patch, 12, conv_geometry(conv, (1, 1)).patch_side(patch))
                variants.append(Variant(patch, 12, 2 / 3, patch, key, policy, weights))
                if weights:
                    importance[weights] = np.arange(1, conv.in_channels + 1, dtype=np.uint16)
        layers.append(LayerPlan(name, tuple(variants), "merges" if variants else f"{name} stays dense"))
    levels = (
        Level({}, 0.0, 0.0),
        Level({"wide": Choice(0, 12)}, 1.0, 1.0),
        Level({"wide": Choice(1, 5), "block.0": Choice(2, 3), "block.2": Choice(5, 12, 0.5)}, 2.0, 2.0),
        Level({"wide": Choice(4, 12, 0.4), "block.0": Choice(5, 9, 0.2), "block.2": Choice(3, 4)}, 3.0, 3.0),
    )
    graph = Graph((Value("x", (3, 17, 14)),), (), tuple(nodes), constants)
    plan = Plan(tuple(layers), levels)
    return SimpleNamespace(graph=graph, plan=plan, projections=projections, importance=importance)


def test_a_bundles_plan_gives_the_runtimes_groups(net: Net, x: Tensor) -> None:
    bundle = bundle_of(net)
    for array in (*bundle.projections.values(), *bundle.importance.values()):
        array.flags.writeable = False  # as they come from a file
    recorded: dict[str, tuple[Tensor, Tensor]] = {}
    for name in MERGING:
        net.get_submodule(name).register_forward_hook(
            lambda module, args, y, name=name: recorded.update({name: (args[0], y)})
        )
    haste_edge.apply(net, plan=bundle, level=2)
    assert net.haste.levels == tuple(level.choices for level in bundle.plan.levels)
    for level in (2, 3):
        net.haste.level = level
        with torch.no_grad():
            net(x)
        for name in MERGING:
            choice, variants = bundle.plan.levels[level].choices[name], bundle.plan.layer(name).variants
            counts = replay(net.get_submodule(name), *recorded[name], choice, variants[choice.variant])
            assert net.haste.stats.layers[name].counts == counts
            assert net.haste.stats.kept[name] < 1
    assert net.block[2].haste_importance_5.tolist() == list(range(1, 25))
    assert net.haste.skipped["stem"] == "stem stays dense"
    assert net.haste.skipped["tall"] == "kernel 3x1 is not square"
    net.haste.level = 1
    net(x)
    assert [name for name in MERGING if net.haste.stats.layers[name].counts.patches] == ["wide"]
    haste_edge.remove(net)
    assert not any("haste" in name for name, _ in net.named_buffers())


def test_a_pad_that_the_compiler_folded_changes_no_group() -> None:
    padded = nn.Sequential(nn.ZeroPad2d((1, 0, 1, 2)), nn.Conv2d(6, 4, 3, 2, bias=False))
    x = torch.randn(1, 6, 8, 9).relu()
    weight = padded[1].weight.detach().numpy()
    attributes = {"stride": (2, 2), "padding": (1, 1, 2, 0), "dilation": (1, 1), "groups": 1, "activation": "none"}
    node = Node("1", "conv", ("x",), attributes, {"weight": "w"})
    graph = Graph((Value("x", (6, 8, 9)),), ("1",), (node,), {"w": weight})
    matrix = draw(1, 6, 5)
    plan = Plan(
        (LayerPlan("1", (Variant(2, 6, 2 / 3, 1, "p"),), ""),), (Level({}, 0, 0), Level({"1": Choice(0, 3)}, 1, 1))
    )
    bundle = SimpleNamespace(graph=graph, plan=plan, projections={"p": matrix}, importance={})
    haste_edge.apply(padded, plan=bundle)
    with torch.no_grad():
        y = padded(x)
    geometry = ConvGeometry.from_node(node, (6, 8, 9), weight.shape)
    expected = merge.merged_conv(x[0].numpy(), weight, None, geometry, merge.Rule(2, matrix, 3))
    assert padded.haste.stats.layers["1"].counts == expected.counts
    np.testing.assert_allclose(y[0].numpy(), expected.output, atol=1e-5)


def test_a_bundle_of_another_model_is_refused(net: Net) -> None:
    bundle = bundle_of(net)
    net.extra = nn.Conv2d(16, 16, 3)
    haste_edge.apply(net, plan=bundle)
    assert net.haste.skipped["extra"] == "not in the bundle"
    net.wide.stride = (1, 1)
    with pytest.raises(ApplyError, match="'wide', but the model's has another stride"):
        haste_edge.apply(net, plan=bundle)
    net.wide = nn.Conv2d(16, 8, 3, 2, 2)
    with pytest.raises(ApplyError, match="another padding and weight's shape"):
        haste_edge.apply(net, plan=bundle)
    net.wide = nn.Conv2d(16, 24, 3, 2, 1, padding_mode="circular")
    with pytest.raises(ApplyError, match="'wide', but padding mode 'circular'"):
        haste_edge.apply(net, plan=bundle)
    del net.wide
    with pytest.raises(ApplyError, match="no convolution of that name"):
        haste_edge.apply(net, plan=bundle)


# --- the package ------------------------------------------------------------------------------------------------------


def test_importing_the_package_does_not_import_torch() -> None:
    code = (
        "import sys, haste_edge; assert 'torch' not in sys.modules; print(haste_edge.__version__); "
        "assert {'apply', 'remove', 'set_level'} <= set(dir(haste_edge)); assert 'torch' not in sys.modules; "
        "haste_edge.apply; assert 'torch' in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == haste_edge.__version__ == "0.1.0"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = haste_edge.nothing
