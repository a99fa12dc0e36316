from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

import networks
import training
from train_demo import RECIPE as DEMO
from train_networks import RECIPES
from training import Cycle, Data, Recipe, TrainingError, augment, train

from haste_edge.demo.network import network as demo_network

PICTURES = 24


class Tiny(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.fc = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.bn(self.conv(x))).mean((2, 3)))


RECIPE = Recipe("tiny", Tiny, [Cycle([8, 32], 0.1, 0.2), Cycle([16] * 3, 0.05, 0.1)], batch=8, averaged_epochs=2)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """Trainings set torch's threads; other tests get theirs back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data() -> Data:
    """Two classes, which differ in colour."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(2 * PICTURES, 3, 32, 32, generator=rng)
    y = torch.arange(2 * PICTURES) % 2
    x[:, 0] += 2.0 * y[:, None, None]
    return Data(x[:PICTURES], y[:PICTURES], x[PICTURES:], y[PICTURES:])


def lines(folder: Path) -> list[dict[str, Any]]:
    """The log, without what differs from run to run."""
    found = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in found]


def test_the_demo_recipe() -> None:
    assert DEMO.sides == [20] * 4 + [24] * 4 + [28] * 3 + [32] * 10 + [28] * 2 + [32] * 7
    assert (DEMO.name, DEMO.network, DEMO.cutout) == ("demo", demo_network, 0)
    assert (DEMO.batch, DEMO.weight_decay, DEMO.smoothing) == (128, 5e-4, 0.1)
    assert (DEMO.averaged_epochs, DEMO.averaging) == (4, 0.998)
    first, second = DEMO.cycles
    assert [first.rate(done) for done in (0, 0.1, 0.2, 0.6, 1)] == pytest.approx([1e-4, 0.1, 0.2, 0.1, 1e-4])
    assert [second.rate(done) for done in (0.03, 0.06, 0.53)] == pytest.approx([0.05, 0.1, 0.05])
    assert DEMO.place(20) == (first, 20)
    assert DEMO.place(21) == (second, 0)
    assert DEMO.place(29) == (second, 8)
    with pytest.raises(ValueError, match="fewer epochs"):
        DEMO.place(30)


def test_learns_and_leaves_log_and_half_precision_weights(tmp_path: Path, data: Data) -> None:
    recipe = replace(RECIPE, cycles=[Cycle([16] * 10, 0.5, 0.2)])
    accuracy = train(recipe, data, tmp_path, threads=1)
    *epochs, result = lines(tmp_path)
    assert accuracy > 90
    assert epochs[-1]["loss"] < epochs[0]["loss"]
    assert [(line["epoch"], line["side"]) for line in epochs] == [(i, 16) for i in range(10)]
    assert result == {"test_top1": accuracy, "weights": "tiny.safetensors", "seed": 0, "epochs": 10, "bfloat16": False}
    weights = load_file(tmp_path / "tiny.safetensors")
    assert set(weights) == {key for key, value in Tiny().state_dict().items() if value.is_floating_point()}
    assert {value.dtype for value in weights.values()} == {torch.float16}
    model = Tiny()
    model.load_state_dict({key: value.float() for key, value in weights.items()}, strict=False)
    assert training.top1(model, data.test_x, data.test_y) == accuracy


def test_the_written_weights_are_the_average_of_the_last_cycle(tmp_path: Path, data: Data) -> None:
    train(RECIPE, data, tmp_path / "averaged", threads=1)
    state = torch.load(tmp_path / "averaged/checkpoint.pt", weights_only=True)
    assert sorted(state) == ["averaged", "epoch", "model", "optimiser"]
    weights = load_file(tmp_path / "averaged/tiny.safetensors")
    assert not torch.equal(weights["fc.weight"], state["model"]["fc.weight"].half())
    for key, value in weights.items():
        torch.testing.assert_close(value, state["averaged"][key].half(), rtol=0, atol=0)

    train(replace(RECIPE, averaging=0.0), data, tmp_path / "last", threads=1)
    state = torch.load(tmp_path / "last/checkpoint.pt", weights_only=True)
    for key, value in load_file(tmp_path / "last/tiny.safetensors").items():
        torch.testing.assert_close(value, state["model"][key].half(), rtol=0, atol=0)


def test_a_cycle_forgets_the_average_of_the_one_before(tmp_path: Path, data: Data) -> None:
    first_kept = replace(RECIPE, averaging=1.0)  # of each average, its first weights
    train(first_kept, data, tmp_path / "both", threads=1)
    train(replace(first_kept, cycles=RECIPE.cycles[:1]), data, tmp_path / "first", threads=1)
    both, first = (load_file(tmp_path / name / "tiny.safetensors") for name in ("both", "first"))
    assert not torch.equal(both["fc.weight"], first["fc.weight"])


def test_only_matrices_and_kernels_decay(tmp_path: Path, data: Data) -> None:
    train(RECIPE, data, tmp_path, threads=1)
    decaying, plain = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["optimiser"]["param_groups"]
    assert (decaying["weight_decay"], len(decaying["params"])) == (5e-4, 2)
    assert (plain["weight_decay"], len(plain["params"])) == (0.0, 3)


@pytest.mark.parametrize("step", [4, 13])  # in epoch 1, and in epoch 4, when an average is under way
def test_goes_on_as_if_it_had_not_been_interrupted(
    tmp_path: Path, data: Data, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    recipe = replace(RECIPE, cutout=8)
    train(recipe, data, tmp_path / "whole", seed=7, threads=1)
    calls = 0

    def interrupted(*arguments: Any) -> Tensor:
        nonlocal calls
        calls += 1
        if calls > step:
            raise KeyboardInterrupt
        return augment(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(training, "augment", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, data, tmp_path / "parts", seed=7, threads=1)
    assert len(lines(tmp_path / "parts")) == step // 3
    with (tmp_path / "parts/log.jsonl").open("a") as log:
        log.write('{"epoch": 9, "si')  # as if the power had failed before the checkpoint
    for _ in range(2):  # the second time, all epochs are done
        train(recipe, data, tmp_path / "parts", seed=7, threads=1)
        assert lines(tmp_path / "parts") == lines(tmp_path / "whole")
        whole, parts = ((tmp_path / name / "tiny.safetensors").read_bytes() for name in ("whole", "parts"))
        assert whole == parts


def test_each_epoch_takes_each_picture_once_in_a_new_order_and_mirrors_the_others(
    tmp_path: Path, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders: list[list[float]] = []
    mirrored: list[dict[float, bool]] = []

    def watched(x: Tensor, flip: Tensor, *rest: Any) -> Tensor:
        if not orders or len(orders[-1]) == PICTURES:
            orders.append([])
            mirrored.append({})
        corners = x[:, 0, 0, 0].tolist()  # tell the pictures apart
        orders[-1] += corners
        mirrored[-1] |= zip(corners, flip.tolist(), strict=True)
        return augment(x, flip, *rest)

    monkeypatch.setattr(training, "augment", watched)
    train(RECIPE, data, tmp_path, threads=1)
    assert len(orders) == len({tuple(order) for order in orders}) == 5
    for order in orders:
        assert sorted(order) == sorted(data.x[:, 0, 0, 0].tolist())
    assert 0 < sum(mirrored[0].values()) < PICTURES
    for before, after in itertools.pairwise(mirrored):
        assert after == {picture: not flip for picture, flip in before.items()}


def test_another_seed_is_another_training(tmp_path: Path, data: Data) -> None:
    for seed in (0, 1):
        train(RECIPE, data, tmp_path / str(seed), seed=seed, threads=1)
    first, second = (lines(tmp_path / str(seed)) for seed in (0, 1))
    assert [line["loss"] for line in first[:-1]] != [line["loss"] for line in second[:-1]]


def test_pictures_are_shifted_and_mirrored() -> None:
    positions = torch.arange(32.0 * 32).view(1, 1, 32, 32).expand(20, 3, 32, 32)
    plain = torch.zeros(20, dtype=torch.bool)
    still, mirrored = (augment(positions, flip, 32, torch.Generator().manual_seed(1)) for flip in (plain, ~plain))
    torch.testing.assert_close(still.flip(3), mirrored)
    shifts = still[:, 0, 16, 16] - (16 * 32 + 16)
    dy = torch.round(shifts / 32)
    dx = shifts - 32 * dy
    assert dy.abs().max() == dx.abs().max() == 4
    torch.testing.assert_close(still[:, 0, 10:20, 10:20], positions[:, 0, 10:20, 10:20] + shifts[:, None, None])


def test_cutout_clears_one_square_and_changes_nothing_else() -> None:
    x = torch.ones(20, 3, 32, 32)
    flip = torch.zeros(20, dtype=torch.bool)
    cut = augment(x, flip, 32, torch.Generator().manual_seed(0), 8)
    assert (cut == 0).sum((2, 3)).eq(64).all()
    assert (cut == 0).any(3).sum(2).eq(8).all()
    assert (cut == 0).any(2).sum(2).eq(8).all()
    assert len(torch.unique(cut[:, 0].argmin(2).argmax(1))) > 1
    assert augment(x, flip, 20, torch.Generator().manual_seed(0), 8).shape == (20, 3, 20, 20)


def test_says_how_far_it_is(
    tmp_path: Path, data: Data, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0

    def clock() -> float:  # each call is 61 seconds after the one before: one call at the start, one each step
        nonlocal now
        now += 61.0
        return now

    monkeypatch.setattr(training.time, "monotonic", clock)
    train(replace(RECIPE, cycles=[Cycle([16, 32], 0.1, 0.2)]), data, tmp_path, threads=1)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 6
    # A step at 32 pixels has four times the multiply-adds of one at 16, but for the linear layer.
    assert said[0].startswith("epoch 0: 1 of 3 steps, loss ")
    assert said[0].endswith(" 2 min to its end, 14 min to the end of the training")
    assert said[-1].endswith(" 0 min to its end, 0 min to the end of the training")


def test_what_is_refused(tmp_path: Path, data: Data) -> None:
    few = data._replace(x=data.x[:7])
    with pytest.raises(TrainingError, match="7 pictures do not fill a batch"):
        train(RECIPE, few, tmp_path, threads=1)
    with pytest.raises(TrainingError, match="not finite in epoch 0"):
        train(replace(RECIPE, cycles=[Cycle([8] * 2, 1e30, 0.2)]), data, tmp_path, threads=1)
    train(RECIPE, data, tmp_path, threads=1)
    with pytest.raises(TrainingError, match="not of wide"):
        train(replace(RECIPE, name="wide", network=lambda: Tiny(5)), data, tmp_path, threads=1)
    (tmp_path / "checkpoint.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(TrainingError, match="Give another --out"):
        train(RECIPE, data, tmp_path, threads=1)


def test_reads_the_package_and_says_where_it_is_not(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="holds no CIFAR-10 train pictures"):
        training.read(tmp_path)
    rng = np.random.default_rng(0)
    for split, sheets in (("train", 5), ("test", 1)):
        pixels = rng.integers(0, 256, (sheets, 2, 32, 32, 3), np.uint8)
        for i, sheet in enumerate(pixels):
            name = f"data_batch_{i + 1}.png" if split == "train" else "test_batch.png"
            Image.fromarray(sheet.reshape(2, 1024, 3)).save(tmp_path / name)
        (tmp_path / f"{split}_lables.json").write_text(json.dumps(list(range(2 * sheets))))
    data = training.read(tmp_path)
    assert (len(data.x), len(data.test_x)) == (10, 2)
    assert data.y.tolist() == list(range(10))
    expected = (pixels[0, 1, 5, 6, 2] / 255 - 0.4465) / 0.2616
    assert float(data.test_x[1, 2, 5, 6]) == pytest.approx(expected, abs=1e-5)
    limited = training.read(tmp_path, 1)
    assert (limited.x.shape, limited.test_y.tolist()) == ((1, 3, 32, 32), [0])


def expected_resnet34() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the state dict, counters aside, as the networks of the study have them."""
    shapes: dict[str, tuple[int, ...]] = {"conv1.weight": (64, 3, 3, 3), "fc.weight": (10, 512), "fc.bias": (10,)}
    norms = {"bn1": 64}
    channels = 64
    for stage, (count, width) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512)), start=1):
        for i in range(count):
            block = f"layer{stage}.{i}"
            shapes[f"{block}.conv1.weight"] = (width, channels, 3, 3)
            shapes[f"{block}.conv2.weight"] = (width, width, 3, 3)
            norms |= {f"{block}.bn1": width, f"{block}.bn2": width}
            if channels != width:
                shapes[f"{block}.down.0.weight"] = (width, channels, 1, 1)
                norms[f"{block}.down.1"] = width
            channels = width
    for norm, width in norms.items():
        shapes |= {f"{norm}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")}
    return shapes


def test_resnet34_has_the_names_and_shapes_of_the_networks_studied() -> None:
    state = networks.resnet34().state_dict()
    found = {name: tuple(value.shape) for name, value in state.items() if not name.endswith("num_batches_tracked")}
    assert found == expected_resnet34()


def test_the_other_networks_are_what_they_are_called() -> None:
    convolutions = [m for m in networks.vgg16bn().modules() if isinstance(m, nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6
    assert networks.vgg16bn().features(torch.zeros(1, 3, 32, 32)).shape == (1, 512, 1, 1)
    convolutions = [m for m in networks.bottleneck().modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 1 + 3 * (3 + 4 + 6 + 3) + 4  # a stem, ResNet-50's blocks, a projection each stage
    assert sum(c.kernel_size == (1, 1) for c in convolutions) == 36


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_fits_its_network(name: str) -> None:
    recipe = RECIPES[name]
    assert recipe.name == name
    model = recipe.network().train()
    for side in set(recipe.sides):
        assert model(torch.randn(2, 3, side, side)).shape == (2, 10)
    cost = sum(training.multiply_adds(model, side) for side in recipe.sides)
    epochs = cost / training.multiply_adds(demo_network(), 32)
    assert epochs == pytest.approx({"resnet34": 101, "vgg16bn": 26, "bottleneck": 7}[name], abs=0.5)  # as documented


@pytest.mark.parametrize(("factory", "channels"), [(networks.resnet34, 128), (networks.bottleneck, 256)])
def test_blocks_can_start_as_their_shortcuts(factory: Any, channels: int) -> None:
    model = networks.with_identity_blocks(factory()).eval()
    x = torch.rand(1, channels, 4, 4)  # positive, as after a ReLU
    torch.testing.assert_close(model.layer2[1](x), x, rtol=0, atol=0)
    assert not torch.equal(factory().eval().layer2[1](x), x)
