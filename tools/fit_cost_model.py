"""Fit the cost model's rates to what the compiled kernels take on this computer, and tell how far off the model is.

    python tools/fit_cost_model.py measure --models FOLDER --out timings.jsonl
    python tools/fit_cost_model.py fit timings.jsonl

``measure`` runs every convolution of some networks alone, on the data of a frame, at level 0 and merged by some
policies, patches and budgets. It takes a few minutes, wants the processor for itself, and appends a line for each
convolution. ``fit`` finds the rates, none of them negative, with the least relative error and prints them as
`haste_edge.plan.cost_model` has them; then the errors of the model as it is in the code.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from measure_method import NETWORKS, Run, load, uniform_plan
from numpy.typing import NDArray

from haste_edge.plan.cost_model import FAR, FLOAT, MERGING, CostModel, merging_work, touched_bytes
from haste_edge.synthetic import pictures
from haste_edge.targets import Target, load_target
from haste_runtime.bundle import Bundle
from haste_runtime.flops import LayerCounts, conv_geometries, dense_flops, nonzeros_of_rows
from haste_runtime.geometry import ConvGeometry
from haste_runtime.operators import check_graph
from haste_runtime.plan import Plan
from haste_runtime.session import Session

SETTINGS = (("affine", 8), ("affine", 16), ("drop", 8), ("drop", 16), ("mean", 8))
FRAMES, ROUNDS = 2, 15
LEVELS = (0, 2, 4, 6, 8)  # of those that `uniform_plan` makes


def measure(arguments: argparse.Namespace) -> None:
    with open(arguments.out, "a", encoding="utf-8") as out:
        for network in arguments.networks.split(","):
            for policy, patch in SETTINGS:
                for row in timings(network, policy, patch, arguments.models):
                    out.write(json.dumps(row) + "\n")
                out.flush()
                print(f"{network}: {policy}, patches of {patch}")


def timings(network: str, policy: str, patch: int, models: Path) -> Iterator[dict[str, Any]]:
    """A row for each convolution and level: medians in microseconds, counts of a frame."""
    graph, preprocessing = load(network, models), NETWORKS[network]
    plan, projections, importance = uniform_plan(Run(network, "uniform", policy, patch, 0, 0), graph)
    plan = Plan(plan.layers, tuple(plan.levels[i] for i in LEVELS))
    bundle = Bundle(
        graph=graph, plan=plan, preprocessing=preprocessing, classes=(), target="host", dtype="fp32", arena_bytes=0,
        made_by="haste-edge", projections=projections, importance=importance,
    )  # fmt: skip
    shape = graph.inputs[0].shape
    frames = pictures(FRAMES, shape, preprocessing.mean, preprocessing.std, 5, 255.0 / preprocessing.scale).numpy()
    with Session(bundle, "numba") as session:
        backend: Any = session._running()
        for level in range(len(LEVELS)):
            session.level = level
            took, counted = [], dict[str, LayerCounts]()
            for frame in frames:
                session.run(frame[None])
                for node, counts in backend.counts().items():
                    counted[node] = counted.get(node, LayerCounts()) + counts
                took.append(operations(backend, level))
            nodes = [node.name for node in graph.nodes]
            seconds = dict(zip(nodes, np.mean(took, axis=0), strict=True))
            for node, geometry in conv_geometries(graph, check_graph(graph)).items():
                row = {"network": network, "node": node, "network_bytes": FLOAT * graph.parameters()}
                row |= {"geometry": asdict(geometry), "microseconds": round(1e6 * seconds[node], 3)}
                if node in counted:
                    variant = plan.layer(node).variants[0]
                    nonzeros = int(nonzeros_of_rows(projections[variant.projection])[variant.bits])
                    row |= {"policy": policy, "patch": variant.patch, "bits": variant.bits, "nonzeros": nonzeros}
                    row |= {"frames": FRAMES, "counts": asdict(counted[node])}
                yield row


def operations(backend: Any, level: int) -> NDArray[np.float64]:
    """Seconds of each operation, less what calling takes."""
    count = len(backend.table.operations)
    took = np.zeros((ROUNDS, count + 1))
    for row in took:
        for i in range(count + 1):  # the last is none: the call alone
            started = time.perf_counter()
            backend.run_operations(level, min(i, count - 1), int(i < count))
            row[i] = time.perf_counter() - started
    medians = np.median(took, axis=0)
    return np.maximum(medians[:-1] - medians[-1], 1e-8)


def fit(arguments: argparse.Namespace) -> None:
    target = load_target(arguments.target)
    cycle, peak = 1e6 / (target.clock_mhz * 1e6), target.peak_gmac_s * 1e3  # microseconds; multiply-adds in one
    table = Rows(arguments.timings, target)
    names = ["dense", "merged", *FAR, *MERGING, "operation"]
    matrix = np.array([[row.get(name, 0.0) for name in names] for row in table.features])
    wanted = np.array(table.microseconds)
    rates = nonnegative(matrix / wanted[:, None], np.ones(len(wanted)))
    print("Rates that fit best (0: cannot be told apart from the others):")
    for name, rate in zip(names, rates, strict=True):
        if name in ("dense", "merged"):
            print(f"  {name + ' efficiency':24} {1 / (rate * peak) if rate else 0:.3f}")
        elif name in FAR:
            per_lane = 1 / rate * cycle / target.simd.lanes if rate else 0
            print(f"  {'bytes from ' + name:24} {per_lane:.3f} a cycle and lane, {1e-3 / rate if rate else 0:.1f} GB/s")
        elif name == "operation":
            print(f"  {'an operation':24} {rate:.2f} us")
        else:
            lanes = target.simd.lanes if MERGING[name][1] else 1
            print(f"  {name:24} {rate / cycle * lanes:.3f} cycles{' a lane' if MERGING[name][1] else ''}")
    report("These rates", table, matrix @ rates / wanted - 1)
    report("The model as it is", table, np.array(table.predicted) / wanted - 1)


class Rows:
    """Of every measured convolution what it is made of, what it took, and what the model predicts."""

    def __init__(self, path: str, target: Target) -> None:
        self.features: list[dict[str, float]] = []
        self.microseconds: list[float] = []
        self.predicted: list[float] = []
        self.labels: list[str] = []
        for line in Path(path).read_text("utf-8").splitlines():
            self._add(json.loads(line), target)

    def _add(self, row: dict[str, Any], target: Target) -> None:
        g, network = geometry_of(row), row["network_bytes"]
        model, layer = CostModel(target, network, winograd=False), FLOAT * dense_flops(g) // (2 * g.out[0] * g.out[1])
        if "counts" in row:
            counts, merging = LayerCounts(**row["counts"]), (row["patch"], row["nonzeros"], row["bits"])
            features = merging_work(g, *merging, counts, row["frames"], row["policy"])
            first, again = touched_bytes(g, counts, row["frames"])
            features["merged"] = g.channels_out * g.kernel[0] * g.kernel[1] * counts.kept_pixels / row["frames"]
            for place, amount in ((model.far(network), first), (model.far(layer), again)):
                features[place] = features.get(place, 0.0) + amount
        else:
            features = {"dense": dense_flops(g) / 2, model.far(network): float(layer)}
        self.features.append({**features, "operation": 1.0})
        self.microseconds.append(row["microseconds"])
        self.predicted.append(1e6 * predict(row, model))
        self.labels.append(f"{row.get('policy', 'dense')}, {g.channels_in} channels on {g.out[0]}x{g.out[1]}")


def geometry_of(row: dict[str, Any]) -> ConvGeometry:
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in row["geometry"].items()}
    return ConvGeometry(**fields)


def predict(row: dict[str, Any], model: CostModel) -> float:
    """Seconds that the model gives a measured convolution."""
    if "counts" not in row:
        return model.dense(geometry_of(row), "direct").seconds
    counts = LayerCounts(**row["counts"])
    return model.merged(
        geometry_of(row), row["patch"], row["nonzeros"], row["bits"], counts, row["frames"], row["policy"]
    ).seconds


def nonnegative(matrix: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    """The least squares solution without what would be negative, left out one by one."""
    kept = [i for i in range(matrix.shape[1]) if matrix[:, i].any()]
    while True:
        scale = np.abs(matrix[:, kept]).max(axis=0)
        found = np.linalg.lstsq(matrix[:, kept] / scale, wanted, rcond=None)[0] / scale
        if (found >= 0).all():
            rates = np.zeros(matrix.shape[1])
            rates[kept] = found
            return rates
        del kept[int(np.argmin(found * scale))]


def report(title: str, table: Rows, errors: NDArray[np.float64]) -> None:
    sizes = np.abs(errors)
    print(f"\n{title}: median error {100 * np.median(sizes):.0f} %, 90 % within {100 * np.quantile(sizes, 0.9):.0f} %")
    labels = np.array(table.labels)
    for label in dict.fromkeys(sorted(table.labels)):
        own = errors[labels == label]
        print(f"  {label:36} {len(own):4} times, {100 * own.mean():+5.0f} % on average, +-{100 * own.std():.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    parsers = {command: commands.add_parser(command.__name__) for command in (measure, fit)}
    for command, own in parsers.items():
        own.set_defaults(command=command)
    parsers[measure].add_argument(
        "--models", type=Path, required=True, help="folder with nets.py and the networks' weights"
    )
    parsers[measure].add_argument("--out", required=True, help="timings are appended to this file")
    parsers[measure].add_argument("--networks", default="resnet20,resnet34,demo")
    parsers[fit].add_argument("timings")
    parsers[fit].add_argument("--target", default="host", help="whose caches, clock and vectors this computer has")
    arguments = parser.parse_args()
    arguments.command(arguments)


if __name__ == "__main__":
    main()
