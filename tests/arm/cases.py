"""What the host expects of ARM code: bundles, inputs, and what this computer's compiled code and numpy make of them.

    python cases.py FOLDER

FOLDER gets NAME.haste and NAME.x.npz for each case, NAME.numba.npz and NAME.numpy.npz as `run_levels` writes them, and
cases.json. Set HASTE_LANES=4, so that the host's vectors are as long as ARM's.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # as conftest.py does for tests

from builders import (
    GraphBuilder,
    alike_channels,
    bundle_for,
    conv_graph,
    random_network,
    shuffling_network,
    sign_changing,
    with_algorithms,
)
from run_levels import run_levels

from haste_runtime.bundle import STORAGE, Bundle, stored, write_bundle
from haste_runtime.plan import POLICIES

FRAMES = 2
PATCHES = (4, 5, 6, 3, 9)[: len(POLICIES)]  # a variant and a level for each policy
# Channels, filters, kernel, stride, height and width: around the vector width, deep, of one pixel, larger than a tile.
LAYERS = [
    (1, 1, 3, 1, 7, 6), (3, 5, 3, 1, 8, 8), (4, 4, 1, 1, 9, 7), (5, 17, 5, 2, 11, 13), (9, 8, 3, 2, 8, 9),
    (16, 16, 3, 1, 14, 14), (17, 33, 3, 1, 7, 5), (33, 12, 1, 2, 6, 6), (64, 48, 3, 1, 8, 8), (128, 130, 3, 1, 4, 4),
    (131, 64, 3, 2, 4, 4), (7, 9, 7, 1, 9, 9), (40, 24, 1, 1, 1, 1),
]  # fmt: skip


class Case(NamedTuple):
    """same: every layer that merges reads the network's input, so that numpy, too, finds the same groups everywhere.
    direct: no layer is computed by Winograd's algorithms."""

    name: str
    bundle: Bundle
    same: bool
    direct: bool


def every_operator() -> Iterator[Case]:
    """Networks with every operator, all policies, all kinds of stored weights, both of Winograd's algorithms."""
    for seed in range(9):
        dtype = list(STORAGE)[seed % 3]
        bundle = bundle_for(
            random_network(seed), PATCHES, 10, [10] * len(PATCHES), policy=POLICIES, budget=0.3, dtype=dtype
        )
        yield Case(f"network-{seed}-{dtype}", stored(bundle), False, True)
    for seed in range(2):
        yield Case(f"shuffling-{seed}", stored(bundle_for(shuffling_network(seed), levels=[])), False, True)
    for seed, algorithm in ((1, "winograd2"), (1, "winograd4"), (4, "winograd4")):
        bundle = bundle_for(random_network(seed), [4, 5, 4, 5], 9, [9, 9, 9, 5], policy=POLICIES, budget=0.3)
        changed = with_algorithms(bundle, algorithm, algorithm, "winograd2")
        yield Case(f"network-{seed}-{algorithm}", changed, False, False)


def layers() -> Iterator[Case]:
    """One convolution, merged by every policy."""
    for number, (channels, filters, kernel, stride, height, width) in enumerate(LAYERS):
        dtype = list(STORAGE)[number % 3]
        graph = conv_graph(
            channels, filters, kernel, stride, height, width, seed=number, residual=bool(number % 2), activation="relu"
        )
        bundle = bundle_for(graph, PATCHES, 9, [9] * len(PATCHES), policy=POLICIES, budget=0.4, dtype=dtype)
        yield Case(f"layer-{number}-{dtype}", stored(bundle), True, True)
    for groups in (3, 8):
        graph = conv_graph(24, 24, 3, 1, 6, 7, groups=groups)
        yield Case(f"layer-{groups}-groups", bundle_for(graph), True, True)
    yield Case("layer-depthwise", bundle_for(conv_graph(17, 17, (3, 2), (2, 1), 9, 6, groups=17)), True, True)


def classifier() -> Iterator[Case]:
    """A network as deep as small ones are, for what it answers; its later layers merge what its first ones computed."""
    b = GraphBuilder(7, x=(3, 24, 24))
    x = b.conv("stem", "x", 3, 16, 3, activation="relu")
    for stage, width in enumerate((16, 32, 64)):
        before = 16 * 2 ** max(0, stage - 1)
        y = b.conv(f"down{stage}", x, before, width, 3, 1 if stage == 0 else 2, activation="relu")
        x = b.conv(f"keep{stage}", y, width, width, 3, residual=y, activation="relu")
    b.node("mean", "mean", x, keepdim=0)
    b.linear("logits", "mean", 64, 10)
    bundle = bundle_for(b.graph(), PATCHES, 14, [14] * len(PATCHES), policy=POLICIES, budget=0.1)
    yield Case("classifier", bundle, False, True)
    yield Case("classifier-winograd", with_algorithms(bundle, "winograd4", "winograd2", "direct"), False, False)


def inputs(bundle: Bundle, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    batches = {}
    for value in bundle.graph.inputs:
        make = alike_channels if len(value.shape) == 3 else sign_changing
        batches[value.name] = np.stack([make(rng, value.shape) for _ in range(FRAMES)])
    return batches


def main(folder: Path) -> None:
    about = {}
    for number, case in enumerate((*every_operator(), *layers(), *classifier())):
        bundle = replace(case.bundle, classes=()) if case.bundle.classes else case.bundle
        write_bundle(folder / f"{case.name}.haste", bundle)
        np.savez(folder / f"{case.name}.x.npz", **inputs(bundle, number))
        for backend in ("numba", "numpy"):
            out = folder / f"{case.name}.{backend}.npz"
            run_levels(folder / f"{case.name}.haste", folder / f"{case.name}.x.npz", out, backend)
        about[case.name] = {"same": case.same, "direct": case.direct}
    (folder / "cases.json").write_text(json.dumps(about, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
