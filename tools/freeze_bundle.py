"""Write a sample bundle of the current format version with the outputs it must give for ever.

    python tools/freeze_bundle.py

Makes tests/fixtures/bundle_vN/ and refuses where it exists: a frozen sample is never written again. A change of the
format gets a new version, and its own sample beside the old ones (docs/bundle-format.md).
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests")]

from builders import alike_channels, bundle_for, random_network  # noqa: E402 - the path is set above

from haste_runtime import Session  # noqa: E402
from haste_runtime.bundle import FORMAT_VERSION, stored, write_bundle  # noqa: E402
from haste_runtime.memory import arena_bytes  # noqa: E402
from haste_runtime.plan import POLICIES, LayerPlan  # noqa: E402
from haste_runtime.preprocessing import Preprocessing  # noqa: E402

FIXTURES = ROOT / "tests" / "fixtures"


def _by_winograd(layer: LayerPlan) -> LayerPlan:
    if layer.node != "residual":
        return layer
    *others, last = layer.variants
    return replace(layer, algorithm="winograd4", variants=(*others, replace(last, algorithm="winograd2")))


def _dense_above(layer: LayerPlan) -> LayerPlan:
    variants = (replace(v, dense_above=0.25 * (1 + i % 3)) for i, v in enumerate(layer.variants))
    return replace(layer, variants=tuple(variants))


def freeze(folder: Path) -> None:
    """net.haste: a network with every operator, int8 weights, every policy, both of Winograd's algorithms,
    layers that stay dense above some shares of channels, pictures that lie in a grey frame; samples.npz: x, and at each
    level outputs, codes and groups.
    """
    graph = random_network(11)
    draft = bundle_for(
        graph,
        (3, 8, 4, 6, 5),
        12,
        (12, 6, 10, 3, 9, 12, 8, 5),
        policy=POLICIES,
        budget=(0, 0, 0.1, 0.3, 1, 0, 0, 0.75),
        dtype="int8",
    )
    agreements = (100.0, None, 99.5, 98.0, 95.0, 90.0, 80.5, 70.0, 60.0)  # made up, as are the savings
    levels = tuple(
        replace(level, agreement=agreement) for level, agreement in zip(draft.plan.levels, agreements, strict=True)
    )
    layers = tuple(_dense_above(_by_winograd(layer)) for layer in draft.plan.layers)
    plan, classes = replace(draft.plan, layers=layers, levels=levels), tuple(f"class {i}" for i in range(5))
    draft = replace(draft, plan=plan, classes=classes, arena_bytes=arena_bytes(graph, plan, 4))
    bundle = stored(replace(draft, preprocessing=Preprocessing((0.5,), (0.25,), fit="contain", fill=114.0)))
    x = alike_channels(np.random.default_rng(0), (3, *graph.inputs[0].shape))
    arrays: dict[str, Any] = {"x": x}
    with Session(bundle, "numpy", trace=True) as session:
        for level in session.levels:
            session.level = level.number
            arrays[f"level {level.number}"] = session.run(x)
            arrays |= {f"level {level.number} codes {name}": codes for name, codes in session.codes.items()}
            arrays |= {f"level {level.number} groups {name}": leaders for name, leaders in session.groups.items()}
    folder.mkdir(parents=True)
    write_bundle(folder / "net.haste", bundle)
    np.savez_compressed(folder / "samples.npz", **arrays)


def main() -> None:
    folder = FIXTURES / f"bundle_v{FORMAT_VERSION}"
    if folder.exists():
        sys.exit(f"{folder.relative_to(ROOT)} exists, and a frozen sample stays as it is.")
    freeze(folder)
    print(f"Wrote {folder.relative_to(ROOT)}: {', '.join(sorted(p.name for p in folder.iterdir()))}.")


if __name__ == "__main__":
    main()
