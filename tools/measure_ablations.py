"""Measure what each choice in the paper's method is worth: without it, or with something else in its place.

    python tools/measure_ablations.py --models FOLDER --data cifar10_dev.npz --out docs/results/ablations

The runs are those of ``haste-edge study``, three seeds each: "mean" and "scaled", the baselines of
`haste_edge.study.baselines`, which keep on every patch as many channels as "mean" does, and "mean" with other shares of
zeros in its projections. Results are kept as JSON lines in OUT/NETWORK.jsonl; a run that is there already is not
repeated. ``tools/write_results.py`` makes tables of them.
"""

from __future__ import annotations

import sys
from pathlib import Path

from measure_method import CIFAR, NETWORKS, SEEDS, SPARSITY, options, origin
from rich.progress import Progress

from haste_edge.study import Source, sweep
from haste_edge.study.configuration import BASELINES, Configuration, grid

BITS = 12
PATCH = 8
SPARSITIES = (0.0, 0.5, 0.9)  # beside the paper's two thirds


def configurations() -> tuple[Configuration, ...]:
    """All runs of a network."""
    plain = grid(("mean", "scaled", *BASELINES), bits=(BITS,), patches=(PATCH,), sparsities=(SPARSITY,), seeds=SEEDS)
    return *plain, *grid(("mean",), bits=(BITS,), patches=(PATCH,), sparsities=SPARSITIES, seeds=SEEDS)


def run(source: Source, file: Path, jobs: int) -> None:
    """One network's runs, those that the file lacks."""
    with Progress() as progress:
        bar = progress.add_task(file.stem)
        sweep(
            source, configurations(), file, jobs=jobs,
            on_progress=lambda done, total: progress.update(bar, completed=done, total=total),
        )  # fmt: skip


def main() -> None:
    parser = options(__doc__, "build/ablations")
    parser.add_argument("--limit", type=int, default=500, help="take only the first so many pictures")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once, -1 for one a core")
    args = parser.parse_args()
    sys.path[:0] = [str(args.models), str(Path(__file__).parent)]
    for network in args.networks.split(","):
        factory, weights = origin(network, args.models)
        preprocessing = NETWORKS.get(network, CIFAR)
        source = Source(factory, str(args.data), weights, "1x3x32x32", preprocessing, args.limit)
        run(source, args.out / f"{network}.jsonl", args.jobs)


if __name__ == "__main__":
    main()
