"""Torch modules of many architectures become graphs that compute the same; everything else is refused by name."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from haste_edge.errors import ModelError, UnsupportedModelError
from haste_edge.frontends import LoadedModel, load_model, parse_shapes
from haste_edge.frontends.export import load_module
from haste_edge.frontends.torch_module import load_weights
from haste_edge.passes import run_passes
from haste_edge.torch_graph import run
from haste_runtime.errors import GraphError
from haste_runtime.graph import Graph


def settle(module: nn.Module, seed: int = 0) -> nn.Module:
    """Random statistics and affine parameters for batch norm, which would otherwise be the identity."""
    random = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor, low, high in (
                (layer.running_mean, -1, 1),
                (layer.running_var, 0.3, 2),
                (layer.weight, 0.5, 1.5),
                (layer.bias, -1, 1),
            ):
                if tensor is not None:
                    tensor.data.uniform_(low, high, generator=random)
    return module


def load(module: nn.Module, *shapes: tuple[int, ...]) -> LoadedModel:
    return load_module(settle(module), shapes or [(3, 16, 16)], "a test")


def leaves(result: Any) -> list[Tensor]:
    return [x for x in torch.utils._pytree.tree_leaves(result) if isinstance(x, Tensor)]


def assert_agrees(loaded: LoadedModel, frames: int = 5) -> Graph:
    """The graph before and after the passes against the module, on more frames than it was exported with."""
    random = torch.Generator().manual_seed(3)
    inputs = {v.name: 2 * torch.randn(frames, *v.shape, generator=random) for v in loaded.graph.inputs}
    with torch.no_grad():
        expected = leaves(loaded.reference(*(x.clone() for x in inputs.values())))
    compiled = run_passes(loaded.graph)
    for graph in (loaded.graph, compiled):
        got = list(run(graph, inputs).outputs.values())
        assert len(got) == len(expected)
        for y, z in zip(expected, got, strict=True):
            assert y.shape == z.shape
            assert (y - z).abs().max() <= 1e-5 * y.abs().max()
    return compiled


def ops(graph: Graph) -> list[str]:
    return [node.op for node in graph.nodes]


# --- architectures ---------------------------------------------------------------------------------------------------


class PadBlock(nn.Module):
    """Residual block whose shortcut is a strided slice and zero channels (ResNet's option A)."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.grow = channels - channels_in

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.grow:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.grow // 2, self.grow - self.grow // 2))
        return F.relu(x + y)


class OptionA(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.layer1 = nn.Sequential(PadBlock(4, 4, 1))
        self.layer2 = nn.Sequential(PadBlock(4, 10, 2), PadBlock(10, 10, 1))
        self.linear = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))).mean((2, 3)))


class Projection(nn.Module):
    """ImageNet-style stem and a block with a convolution on the shortcut, relu a module that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 7, 2, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(inplace=True))
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.conv1 = nn.Conv2d(6, 8, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.down = nn.Sequential(nn.Conv2d(6, 8, 1, 2, bias=False), nn.BatchNorm2d(8))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.stem(x))
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += self.down(x)
        return self.fc(torch.flatten(self.avgpool(self.relu(y)), 1))


def mobile() -> nn.Module:
    """Inverted residual with a depthwise convolution, ReLU6 and a dropout before the classifier."""

    class Inverted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(
                *(nn.Conv2d(6, 12, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU6(inplace=True)),
                *(nn.Conv2d(12, 12, 3, 1, 1, groups=12, bias=False), nn.BatchNorm2d(12), nn.ReLU6(inplace=True)),
                *(nn.Conv2d(12, 6, 1, bias=False), nn.BatchNorm2d(6)),
            )

        def forward(self, x: Tensor) -> Tensor:
            return x + self.layers(x)

    return nn.Sequential(
        *(nn.Conv2d(3, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU6()),
        *(Inverted(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(6, 5)),
    )


class Dense(nn.Module):
    """Batch norm before the convolution, concatenation, average pooling: batch norm that cannot fold."""

    def __init__(self) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(3, 4, 3, 1, 1, bias=False)
        for index, channels in enumerate((4, 7)):
            layer = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, 3, 3, 1, 1, bias=False))
            setattr(self, f"dense{index}", layer)
        self.transition = nn.Sequential(nn.BatchNorm2d(10), nn.ReLU(), nn.Conv2d(10, 6, 1), nn.AvgPool2d(2))
        self.norm = nn.BatchNorm2d(6)
        self.classifier = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv0(x)
        for index in (0, 1):
            x = torch.cat([x, getattr(self, f"dense{index}")(x)], 1)
        x = F.relu(self.norm(self.transition(x)), inplace=True)
        return self.classifier(F.adaptive_avg_pool2d(x, (1, 1)).view(x.size(0), -1))


def test_option_a_shortcuts_and_readable_names() -> None:
    loaded = load(OptionA())
    names = [node.name for node in loaded.graph.nodes]
    assert names[:3] == ["conv1", "bn1", "relu"]
    assert {"layer2.0.conv1", "layer2.0.bn1", "layer2.0.relu", "layer2.0.relu_2", "layer2.0.pad"} <= set(names)
    assert {"layer1.0.conv2.weight", "linear.weight", "linear.bias"} <= set(loaded.graph.constants)
    assert loaded.input_shape == (1, 3, 16, 16)
    compiled = assert_agrees(loaded)
    assert ops(compiled).count("conv") == len(ops(compiled)) - 4  # slice, pad, mean and linear are all that is left
    last = compiled.node("layer2.1.conv2")
    assert (last.inputs[1], last.attributes["activation"]) == ("layer2.0.conv2", "relu")
    assert compiled.outputs == ("linear",)


def test_projection_shortcuts() -> None:
    loaded = load(Projection(), (3, 32, 32))
    names = [node.name for node in loaded.graph.nodes]
    assert {"stem.0", "stem.1", "stem.2", "pool", "relu", "relu_2", "down.0", "avgpool", "fc"} <= set(names)
    compiled = assert_agrees(loaded)
    assert sorted(ops(compiled)) == sorted(["conv"] * 4 + ["max_pool", "adaptive_avg_pool", "flatten", "linear"])


def test_depthwise_and_relu6() -> None:
    compiled = assert_agrees(load(mobile()))
    depthwise = compiled.node("3.layers.3")
    assert (depthwise.attributes["groups"], depthwise.attributes["activation"]) == (12, "relu6")
    assert sorted(set(ops(compiled))) == ["adaptive_avg_pool", "conv", "flatten", "linear"]
    assert compiled.node("3.layers.6").inputs == ("3.layers.3", "0")


def test_concatenation_keeps_batch_norm_that_cannot_fold() -> None:
    compiled = assert_agrees(load(Dense()))
    kept = [node.name for node in compiled.nodes if node.op == "scale"]
    assert kept == ["dense0.0", "dense1.0", "transition.0", "norm"]
    assert all(compiled.node(name).attributes["activation"] == "relu" for name in kept)


class Shared(nn.Module):
    """A convolution called twice, a batch norm read by two, and one convolution's result used bare and normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, 1, 1)
        self.bn = nn.BatchNorm2d(3)
        self.other = nn.BatchNorm2d(3, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(self.conv(x))
        z = self.other(self.conv(F.relu(y)))
        bare = self.conv(z)
        return torch.cat([self.bn(bare), bare, y], 1)


def test_weight_sharing() -> None:
    loaded = load(Shared())
    assert [node.name for node in loaded.graph.nodes if node.op == "conv"] == ["conv", "conv_2", "conv_3"]
    assert sum(key.startswith("conv.") for key in loaded.graph.constants) == 2  # weight and bias are there once
    compiled = assert_agrees(loaded)
    assert compiled.node("conv_3").constants == {"weight": "conv.weight", "bias": "conv.bias"}
    assert [node.name for node in compiled.nodes if node.op == "scale"] == ["bn_2"]


class Many(nn.Module):
    """One of everything that compiles and that the architectures above lack."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.5, -0.25, 0.1]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1))
        self.pad = nn.ZeroPad2d((1, 2, 0, 1))
        self.grouped = nn.Conv2d(3, 6, (3, 2), (1, 2), groups=3)
        self.same = nn.Conv2d(6, 6, 4, padding="same", dilation=2)
        self.ceil = nn.MaxPool2d(3, 2, 1, ceil_mode=True)
        self.ceil_mean = nn.AvgPool2d(2, ceil_mode=True)
        self.mean_pool = nn.AvgPool2d(3, 2, 1, count_include_pad=False)
        self.norm = nn.utils.parametrizations.weight_norm(nn.Conv2d(6, 6, 1))
        self.hidden = nn.Linear(6, 6, bias=False)
        self.bn = nn.BatchNorm1d(6)
        self.matrix = nn.Parameter(torch.randn(6, 4))

    def forward(self, x: Tensor) -> list[Tensor]:
        x = (x - self.mean) / self.std
        x = F.hardtanh(self.same(self.grouped(self.pad(x))), 0, 6)
        x = self.ceil(x).contiguous()
        x = self.norm(x).clamp(min=0) * 0.5 + 1
        x = 2 - torch.clamp_min(x, 0)
        a, b = self.ceil_mean(x), self.mean_pool(x)
        a = F.adaptive_max_pool2d(torch.cat([a, a + a], -2), (2, 3))
        v = b.mean([-1, -2], keepdim=True).squeeze(-1).squeeze(-1)
        w = a.flatten(2).mean(2)
        u = F.adaptive_avg_pool2d(b, 1)[:, :, 0:1].reshape(-1, 6)
        v = F.relu_(self.bn(self.hidden(v))) + w
        h = torch.cat([v, u[:, 1:6:2]], dim=1)
        back = b.mean((2, 3)).unsqueeze(-1)[..., None].clone()
        return [v @ self.matrix, h, F.relu6(back), b[:, 1:, -2:].flatten(1)]


def test_every_supported_operator() -> None:
    loaded = load(Many(), (3, 13, 15))
    assert set(ops(loaded.graph)) == {
        *("conv", "linear", "scale", "add", "activation", "max_pool", "avg_pool", "adaptive_avg_pool"),
        *("adaptive_max_pool", "mean", "flatten", "concat", "pad", "slice"),
    }
    compiled = assert_agrees(loaded)
    assert "pad" not in ops(compiled)
    assert compiled.node("same").attributes["padding"] == (3, 3, 3, 3)
    assert "hidden.weight" in compiled.constants  # where batch norm was folded


class Elementwise(nn.Module):
    """Every function of one number and of two, constants on either side, squeeze-and-excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.slopes, self.slope = nn.PReLU(5), nn.PReLU()
        self.slopes.weight.data = torch.linspace(-1, 1, 5)
        self.squeeze, self.excite = nn.Conv2d(5, 2, 1), nn.Conv2d(2, 5, 1)
        self.register_buffer("grid", torch.linspace(0.5, 2, 42).view(1, 1, 6, 7))
        self.register_buffer("row", torch.linspace(0.5, 2, 7))

    def forward(self, x: Tensor) -> list[Tensor]:
        positive = x.abs() + 0.1
        one = [
            *(self.slopes(x), self.slope(x), F.leaky_relu(x, 0.2), F.elu(x, 0.7), F.selu(x), F.celu(x), F.hardtanh(x)),
            *(x.clamp(max=0.5), x.clamp(-1), x.sigmoid(), F.hardsigmoid(x), F.hardswish(x), F.silu(x), x.tanh()),
            *(F.gelu(x), F.gelu(x, approximate="tanh"), F.softplus(x), F.mish(x), x.exp(), positive.sqrt(), -x),
            *(1 / positive, positive.rsqrt(), x**2, x**3, x.square(), positive**0.5, positive**-1, x**1),
            *(F.threshold(x, 0, 0), F.relu6(x)),
        ]
        gate = F.hardsigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(x, 1)))))
        two = [
            *(x * gate, x - gate, gate / positive, x + gate, torch.maximum(x, gate), torch.min(x, gate), x - x * x),
            *(x * self.grid, self.grid - x, x - self.grid, x / self.grid, self.grid / positive, x + self.row),
            *(torch.add(x, self.grid, alpha=2), torch.sub(x, self.grid, alpha=3), torch.rsub(x, 2, alpha=3)),
            *(torch.minimum(self.row, x), 2 / positive, gate + self.row, torch.add(self.grid, x, alpha=-2)),
            F.relu(x * gate),
        ]
        return one + two


def test_functions_of_one_number_and_of_two() -> None:
    compiled = assert_agrees(load(Elementwise(), (5, 6, 7)))
    last = [node for node in compiled.nodes if node.op == "binary"][-1]
    assert (last.attributes["function"], last.attributes["activation"]) == ("multiply", "relu")
    assert {"grid", "row"} <= set(compiled.constants)


class Averaging(nn.Module):
    def forward(self, x: Tensor) -> list[Tensor]:
        settings = [(ceil, counted, divisor) for ceil in (0, 1) for counted in (0, 1) for divisor in (None, 3)]
        return [
            F.avg_pool2d(x, (3, 2), (2, 3), padding, bool(ceil), bool(counted), divisor)
            for ceil, counted, divisor in settings
            for padding in ((0, 0), (1, 1), (1, 0))
        ]


@pytest.mark.parametrize("size", [(7, 8), (8, 7), (6, 6)])
def test_every_way_to_count_an_average(size: tuple[int, int]) -> None:
    assert_agrees(load(Averaging(), (2, *size)))


def test_several_inputs_and_outputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 3, 3)
            self.fc = nn.Linear(7, 3)

        def forward(self, image: Tensor, state: Tensor) -> dict[str, Any]:
            y = self.conv(image).mean((2, 3))
            z = self.fc(state)
            return {"sum": y + z, "both": (z, torch.cat([y, z], 1))}

    loaded = load(Two(), (2, 5, 6), (7,))
    assert [(v.name, v.shape) for v in loaded.graph.inputs] == [("image", (2, 5, 6)), ("state", (7,))]
    assert loaded.graph.outputs == ("add", "fc", "concat")
    assert_agrees(loaded)


def test_in_place_operators_change_what_others_read() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            x.mul_(2)
            y = self.conv(x)
            z = F.relu_(y)
            y.add_(x)  # also changes z
            return z + y

    assert_agrees(load(InPlace()))


def test_half_precision_module_compiles_in_single_precision() -> None:
    loaded = load(nn.Sequential(nn.Conv2d(3, 4, 1)).half())
    assert loaded.graph.constants["0.weight"].dtype.name == "float32"
    assert_agrees(loaded)


# --- refusals --------------------------------------------------------------------------------------------------------


class Refusing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.act = nn.SiLU()
        self.up = nn.ConvTranspose2d(4, 4, 2, 2)
        self.group = nn.GroupNorm(2, 4)
        self.batch = nn.BatchNorm2d(4, track_running_stats=False)
        self.squeeze = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = F.celu(self.act(x), 0.5)
        x = self.group(self.up(x))
        x = self.batch(x)
        x = x**2.5
        x = x.cumsum(3)
        x = F.threshold(x, 1, 0)
        x = F.avg_pool2d(x, 3, 2, 1)
        x = x + x.mean(1, keepdim=True)
        x = torch.add(x, x, alpha=2)
        x = x - x.mean(0)
        y, where = F.max_pool2d(x, 2, return_indices=True)
        y = F.dropout(y, 0.5, training=True)
        z = F.conv2d(y, y.mean((0, 2, 3)).view(1, 4, 1, 1))
        return [y, y, F.pad(z, (-1, 0)).log_softmax(1), where, torch.ones(3), F.linear(y, torch.ones(2, 3))]


def test_every_refusal_is_listed_with_its_place_and_its_reason() -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        load(Refusing(), (4, 6, 6))
    kernel, frames = "no kernel", "keep the batch"
    expected = [
        ("celu", "celu.default", "self.act(x)", "scales its input", "ELU"),
        ("group", "group_norm.default", "self.group", kernel, "batch norm"),
        ("batch", "_native_batch_norm_legit.no_stats", "self.batch(x)", "statistics of the batch", "eval mode"),
        ("pow", "pow.Tensor_Scalar", "x**2.5", "power 2.5", "1/2"),
        ("cumsum", "cumsum.default", "cumsum(3)", kernel, "Rewrite"),
        ("threshold", "threshold.default", "F.threshold", "jump", "ReLU"),
        ("add", "add.Tensor", "alpha=2", "multiplies the second operand by alpha", "its own"),
        ("mean", "mean.dim", "x.mean(0)", frames, "on its own"),
        ("sub", "sub.Tensor", "x.mean(0)", "per-frame shapes (4, 6, 6) and (6, 6)", "as many axes"),
        ("getitem", "getitem", "F.max_pool2d", "further result", "first"),
        ("native_dropout", "native_dropout.default", "F.dropout", "random", "eval mode"),
        ("mean", "mean.dim", "F.conv2d", frames, "on its own"),
        ("view", "view.default", "F.conv2d", frames, "on its own"),
        ("conv2d", "conv2d.default", "F.conv2d", "weight is computed from the input", "constant"),
        ("pad", "pad.default", "F.pad(z, (-1, 0))", "negative padding", "slice"),
        ("log_softmax", "log_softmax.int", "softmax(1)", kernel, "logits"),
        ("linear", "linear.default", "F.linear", "needs a vector (N, F)", "Flatten"),
        ("output", "output", "F.dropout", "returned twice", "once"),
        ("output", "output", "torch.ones(3)", "does not depend on the input", "Remove it"),
    ]
    refusals = caught.value.refusals
    assert [(r.node, r.operation.removeprefix("aten.")) for r in refusals] == [line[:2] for line in expected]
    for refusal, (_, _, code, reason, hint) in zip(refusals, expected, strict=True):
        assert "test_frontend_torch.py:" in refusal.location
        assert code in refusal.location
        assert reason in refusal.reason
        assert hint in refusal.hint
    lines = str(caught.value).splitlines()
    assert lines[0] == "The model has 19 operations that cannot be compiled:"
    assert lines[1:] == [f"  {refusal}" for refusal in refusals]
    assert caught.value.exit_code == 5


class Calls(nn.Module):
    """A module whose forward is a function; `size` channels of constants."""

    def __init__(self, function: Callable[..., Any], **buffers: Tensor) -> None:
        super().__init__()
        self.function = function
        for name, tensor in buffers.items():
            self.register_buffer(name, tensor)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda m, x: torch.cat([x, x]), "keep the batch"),
        (lambda m, x: torch.cat([x, torch.zeros_like(x)], 1), "zeros_like"),
        (lambda m, x: x[:1], "keep the batch"),
        (lambda m, x: x.view(-1, 3, 2, 2, 2, 2, 4, 4) + 1, "attribute 'shape' is \\(3, 2, 2"),
        (lambda m, x: x.transpose(0, 1), "keep the batch"),
        (lambda m, x: x.softmax(0), "along the batch"),
        (lambda m, x: x.roll(1, 0), "along the batch"),
        (lambda m, x: x.mean(), "aten.mean.default"),
        (lambda m, x: F.conv_transpose2d(x, torch.ones(3, 2, 1, 1), padding=3), "padding is wider"),
        (lambda m, x: x.half().float(), "converts to torch.float16"),
        (lambda m, x: F.max_pool2d(x, 2, padding=1, dilation=17), "sees no pixel"),
        (lambda m, x: x * float("nan"), "NaN"),
    ],
)
def test_refusals_of_unusual_uses(function: Callable[..., Any], message: str) -> None:
    with pytest.raises((UnsupportedModelError, GraphError, ModelError), match=message):
        load(Calls(function))


def by_value(module: Calls, x: Tensor) -> Tensor:
    return x if x.sum() > 0 else -x


def by_size(module: Calls, x: Tensor) -> Tensor:
    return x.reshape(2, -1)


def counting(module: Calls, x: Tensor) -> Tensor:
    module.count.add_(1)
    return x * 2


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (by_value, "torch.export cannot capture the model: .*forward must not decide by the values"),
        (by_size, r"does not take a batch of any size: .*x\.flatten\(1\)"),
        (counting, "changes its buffer 'count'"),
    ],
)
def test_models_that_torch_export_cannot_describe(
    function: Callable[..., Any], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        load(Calls(function, count=torch.zeros(())))
    assert capfd.readouterr() == ("", "")  # torch prints its graphs when it gives up


def test_an_input_the_model_does_not_take() -> None:
    with pytest.raises(ModelError, match=r"does not run on an input of 1x4x16x16: .*--input 1x3x32x32"):
        load(nn.Conv2d(3, 4, 3), (4, 16, 16))


# --- names, weights, shapes ------------------------------------------------------------------------------------------

SOURCE = """
import torch
from torch import nn
import helper_next_to_it

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, helper_next_to_it.CHANNELS, 3)
        self.bn = nn.BatchNorm2d(helper_next_to_it.CHANNELS)
    def forward(self, x):
        return self.bn(self.conv(x)).relu().mean((2, 3))

class Factories:
    small = Net

ready = Net()
def fails(): raise KeyError("no such file")
def number(): return 3
def needs(width): return Net()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a module that defines networks."""
    (tmp_path / "nets_of_a_user.py").write_text(SOURCE)
    (tmp_path / "helper_next_to_it.py").write_text("CHANNELS = 4")
    (tmp_path / "needs_more.py").write_text("import a_package_nobody_has")
    (tmp_path / "broken.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for name in ("nets_of_a_user", "helper_next_to_it", "needs_more", "broken"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def test_a_factory_in_the_current_folder_with_half_precision_weights(folder: Path) -> None:
    path = list(sys.path)
    weights = {
        "conv.weight": torch.randn(4, 3, 3, 3).half(),
        "conv.bias": torch.randn(4).half(),
        "bn.weight": torch.rand(4).half() + 0.5,
        "bn.bias": torch.randn(4).half(),
        "bn.running_mean": torch.randn(4).half(),
        "bn.running_var": torch.rand(4).half() + 0.5,
    }
    save_file(weights, folder / "weights.safetensors")
    loaded = load_model("nets_of_a_user:Factories.small", "weights.safetensors", "8x3x9x9")
    assert sys.path == path
    assert loaded.source == "nets_of_a_user:Factories.small with weights.safetensors"
    assert loaded.input_shape == (1, 3, 9, 9)
    assert torch.equal(torch.from_numpy(loaded.graph.constants["conv.weight"]), weights["conv.weight"].float())
    assert_agrees(loaded)
    assert load_model("nets_of_a_user:ready", input_shape=(1, 3, 9, 9)).source == "nets_of_a_user:ready"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("net.pth", "pickle, which may run any code.*safetensors.torch.save_file"),
        ("weights.safetensors", "without a network"),
        ("net.h5", r"'net\.h5' is not a model that can be read.*package\.module:factory"),
        ("missing_module:net", "no Python module 'missing_module' in .*PYTHONPATH"),
        ("nets_of_a_user.inner:net", "no Python module"),
        ("needs_more:net", "needs 'a_package_nobody_has'.*Install"),
        ("broken:net", "Importing 'broken' failed: division by zero"),
        ("nets_of_a_user:nothing", "has no 'nothing'.*It has: Factories, Net, fails, needs, number"),
        ("nets_of_a_user:number", "gives a int, not a torch.nn.Module"),
        ("nets_of_a_user:fails", "cannot make the model: 'no such file'"),
        ("nets_of_a_user:needs", "cannot make the model: .*width.*without arguments"),
    ],
)
def test_a_model_that_cannot_be_found_says_why(folder: Path, spec: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        load_model(spec, input_shape="1x3x9x9")
    assert caught.value.exit_code == 2


def test_a_factory_needs_an_input_shape(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"input shape of nets_of_a_user:Net is not known.*--input"):
        load_model("nets_of_a_user:Net")


def test_input_shapes() -> None:
    assert parse_shapes("1x3x32x32") == parse_shapes((7, 3, 32, 32)) == ((3, 32, 32),)
    assert parse_shapes("1X3x8x9, 1x16") == ((3, 8, 9), (16,))
    for wrong in ("3x32x32", "1x3x0x4", "1x3x-1x4", "", "1x3x32x32,", "axbxcxd", (1, 3, 2.5, 4)):
        with pytest.raises(ModelError, match="is not an input shape"):
            parse_shapes(wrong)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="too many numbers"):
        parse_shapes("1x3x100000x100000")


def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("0.bias"), r"do not fit the model \(missing: 0\.bias\)"),
        (lambda w: w.update(extra=torch.zeros(1)), r"\(unexpected: extra\)"),
        (
            lambda w: w.update({"0.weight": torch.zeros(4, 3, 1, 1)}),
            r"0\.weight is \(4, 3, 1, 1\) where the model has \(4, 3, 3, 3\)",
        ),
        (lambda w: [w.update({f"module.{key}": w.pop(key)}) for key in list(w)], "begin with 'module.'"),
        (lambda w: w.update({f"more.{n}": torch.zeros(1) for n in range(20)}), "more.15 and 12 more"),
    ],
)
def test_weights_load_strictly(tmp_path: Path, change: Callable[[dict[str, Tensor]], object], message: str) -> None:
    weights = dict(small().state_dict())
    change(weights)
    save_file(weights, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=message):
        load_weights(small(), tmp_path / "w.safetensors")


def test_weights_without_counters_and_under_one_of_two_names(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 4)
            self.second = nn.Linear(4, 4)
            self.second.weight = self.first.weight
            self.bn = nn.BatchNorm1d(4)

    source, target = Tied(), Tied().half()
    weights = {k: v for k, v in source.state_dict().items() if "num_batches" not in k and k != "second.weight"}
    save_file(weights, tmp_path / "w.safetensors")
    load_weights(target, tmp_path / "w.safetensors")
    assert torch.equal(target.second.weight, source.first.weight)


def test_files_that_are_not_weights(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="There is no file"):
        load_weights(small(), tmp_path / "none.safetensors")
    (tmp_path / "w.safetensors").write_bytes(b"PK not safetensors at all")
    with pytest.raises(ModelError, match=r"cannot be read as safetensors.*save_file"):
        load_weights(small(), tmp_path / "w.safetensors")
