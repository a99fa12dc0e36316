"""Fit the cost model's rates to what the compiled kernels take on this computer, and tell how far off the model is.

    python tools/fit_cost_model.py measure --models FOLDER --out timings.jsonl
    python tools/fit_cost_model.py fit timings.jsonl

``measure`` runs every convolution of some networks alone, on the data of a frame: dense by every algorithm, and merged
by some policies, patches and budgets, all in turns. It takes a minute for each network and wants the processor for
itself; a line for each convolution is appended as soon as a network is through, and what is there is not measured
again. What the core computes and reads at best is measured meanwhile, and goes with its lines. ``fit`` finds the rates,
none of them negative, with the least relative error and prints them as `haste_edge.plan.cost_model` has them; then the
errors of the model as it is in the code.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from measure_method import NETWORKS, Run, load, uniform_plan
from numpy.typing import NDArray

from haste_edge.measured_target import measure_target
from haste_edge.plan.cost_model import (
    EFFICIENCY,
    FLOAT,
    MERGED_EFFICIENCY,
    MERGING,
    UNHIDDEN,
    CostModel,
    Prediction,
    merging_work,
    tiles_begun,
    transformed,
)
from haste_edge.synthetic import pictures
from haste_edge.targets import Target, load_target
from haste_runtime.bundle import Bundle
from haste_runtime.flops import LayerCounts, conv_geometries, nonzeros_of_rows
from haste_runtime.geometry import ConvGeometry
from haste_runtime.graph import Graph
from haste_runtime.operators import check_graph, why_not_winograd
from haste_runtime.plan import ALGORITHMS, LayerPlan, Level, Plan
from haste_runtime.preprocessing import Preprocessing
from haste_runtime.session import Session

SETTINGS = (  # policy, patch, algorithm where the layer may be computed by it
    ("affine", 8, "direct"), ("affine", 16, "direct"), ("drop", 8, "direct"), ("drop", 16, "direct"),
    ("mean", 8, "direct"), ("drop", 8, "winograd2"), ("drop", 8, "winograd4"),
)  # fmt: skip
FRAMES, ROUNDS, EVERY = 2, 60, 12  # how often a frame is run, and after how many the core is measured
TURNS = 20
EFFICIENCIES = ("dense", "merged", "wide merged")
OTHERS = ("transformed", "transformed, lanes", "tiles", *MERGING)
UNDISTURBED = 0.25  # quantile of the rounds: other programs on the core's other thread make some of them slower
LEVELS = (0, 2, 4, 6, 8)  # of those that `uniform_plan` makes


def measure(arguments: argparse.Namespace) -> None:
    sys.path.insert(0, str(arguments.models))
    path = Path(arguments.out)
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    there = {row["network"] for row in map(json.loads, lines)}
    for network in arguments.networks.split(","):
        if network in there:
            continue
        start = time.monotonic()
        rows = timings(network, load(network, arguments.models))
        with open(path, "a", encoding="utf-8") as out:
            out.write("".join(json.dumps(row) + "\n" for row in rows))
        print(f"{network} in {time.monotonic() - start:.0f} s", flush=True)


def figures(target: Target) -> dict[str, Any]:
    """Of a target what the model looks at."""
    return target.model_dump(include={"clock_mhz", "simd", "caches", "memory"}, exclude_none=True)


class Planned(NamedTuple):
    """What `timings` runs."""

    plan: Plan
    projections: dict[str, NDArray[np.int8]]
    importance: dict[str, NDArray[np.uint16]]


def dense_plan(graph: Graph, algorithm: str) -> Planned:
    """Level 0 alone, every layer that may by this algorithm."""
    layers = []
    for name, g in conv_geometries(graph, check_graph(graph)).items():
        may = not why_not_winograd(g.kernel, g.stride, g.dilation, g.groups)
        layers.append(LayerPlan(name, (), "measured", algorithm if may else "direct"))
    return Planned(Plan(tuple(layers), (Level({}, 0.0, 0.0),)), {}, {})


def merged_plan(graph: Graph, policy: str, patch: int, algorithm: str) -> Planned:
    """Every layer that may merge, at the levels `LEVELS`."""
    plan, projections, importance = uniform_plan(Run("", "uniform", policy, patch, 0, 0), graph)
    geometries, layers = conv_geometries(graph, check_graph(graph)), []
    for layer in plan.layers:
        how = CostModel.how(geometries[layer.node], algorithm)
        layers.append(replace(layer, variants=tuple(replace(v, algorithm=how) for v in layer.variants)))
    return Planned(Plan(tuple(layers), tuple(plan.levels[i] for i in LEVELS)), projections, importance)


def timings(network: str, graph: Graph) -> list[dict[str, Any]]:
    """A row for each convolution, setting and level. Times in microseconds, counts of a frame.

    All settings take turns, so that what else runs on the computer slows all of them alike.
    """
    preprocessing, shape = NETWORKS[network], graph.inputs[0].shape
    frames = pictures(FRAMES, shape, preprocessing.mean, preprocessing.std, 5, 255.0 / preprocessing.scale).numpy()
    plans = {algorithm: dense_plan(graph, algorithm) for algorithm in ALGORITHMS}
    plans |= {" ".join(map(str, setting)): merged_plan(graph, *setting) for setting in SETTINGS}
    settings = [Setting(name, graph, planned, preprocessing, frames) for name, planned in plans.items()]
    targets = []
    for turn in range(ROUNDS):
        if turn % EVERY == 0:
            targets.append(measure_target())
        for setting in settings:
            setting.take_turn(turn)
    target = sorted(targets, key=lambda t: t.clock_mhz)[len(targets) // 2]
    same = {"network": network, "target": figures(target), "network_bytes": FLOAT * graph.parameters()}
    return [same | row for setting in settings for row in setting.rows(graph)]


class Setting:
    """A session that runs operations one by one. counts: level -> convolution -> what merging did in all frames."""

    def __init__(
        self, name: str, graph: Graph, planned: Planned, preprocessing: Preprocessing, frames: NDArray[np.float32]
    ) -> None:
        self.name, self.planned, self.frames = name, planned, frames
        bundle = Bundle(
            graph=graph, plan=planned.plan, preprocessing=preprocessing, classes=(), target="host", dtype="fp32",
            arena_bytes=0, made_by="haste-edge", projections=planned.projections, importance=planned.importance,
        )  # fmt: skip
        self.session = Session(bundle, "numba")
        self.backend: Any = self.session._running()
        last = len(planned.plan.levels) - 1
        self.counts: dict[int, dict[str, LayerCounts]] = {level: {} for level in range(min(1, last), last + 1)}
        self.took: dict[int, list[list[NDArray[np.float64]]]] = {level: [[] for _ in frames] for level in self.counts}
        for level, counted in self.counts.items():
            self.session.level = level
            for frame in frames:
                self.session.run(frame[None])
                for node, counts in self.backend.counts().items():
                    counted[node] = counted.get(node, LayerCounts()) + counts

    def take_turn(self, turn: int) -> None:
        """Time one of the frames at every level; before that it is run once, since others had the caches."""
        number = turn % len(self.frames)
        self.session.run(self.frames[number][None])
        for level, took in self.took.items():
            took[number].append(operations(self.backend, level, self.frames[number]))

    def rows(self, graph: Graph) -> Iterator[dict[str, Any]]:
        geometries, nodes = conv_geometries(graph, check_graph(graph)), [node.name for node in graph.nodes]
        for level, counted in self.counts.items():
            times = np.mean([np.quantile(took, UNDISTURBED, axis=0) for took in self.took[level]], axis=0)
            seconds = dict(zip(nodes, np.maximum(times[:-1] - times[-1], 1e-8), strict=True))
            for node in counted or geometries:
                row: dict[str, Any] = {"setting": self.name, "node": node, "geometry": asdict(geometries[node])}
                row["microseconds"] = round(1e6 * seconds[node], 3)
                if node in counted:
                    variant = self.planned.plan.layer(node).variants[0]
                    nonzeros = int(nonzeros_of_rows(self.planned.projections[variant.projection])[variant.bits])
                    row |= {"policy": variant.policy, "patch": variant.patch, "bits": variant.bits}
                    row |= {
                        "algorithm": variant.algorithm,
                        "nonzeros": nonzeros,
                        "frames": FRAMES,
                        "counts": asdict(counted[node]),
                    }
                else:
                    row["algorithm"] = self.planned.plan.layer(node).algorithm
                yield row


def operations(backend: Any, level: int, frame: NDArray[np.float32]) -> NDArray[np.float64]:
    """Seconds of each operation on a frame, and of a call that does nothing."""
    count = len(backend.table.operations)
    (name,) = backend._inputs
    backend.fill({name: frame})  # operations overwrite it
    took = np.zeros(count + 1)
    for i in range(count + 1):
        started = time.perf_counter()
        backend.run_operations(level, min(i, count - 1), int(i < count))
        took[i] = time.perf_counter() - started
    return took


def fit(arguments: argparse.Namespace) -> None:
    table = Rows(arguments.timings)
    held = {name: float(value) for name, value in (each.split("=") for each in arguments.hold)}
    rates, errors = table.fit(UNHIDDEN, held)
    print("Rates that fit best (0: cannot be told apart from the others):")
    for name in EFFICIENCIES:
        print(f"  {name + ' efficiency':24} {1 / rates[name] if rates[name] else 0:.3f}")
    for name in OTHERS:
        print(f"  {name:24} {rates[name]:.3f} cycles")
    report("These rates", table, errors)
    report("The model as it is", table, np.array(table.predicted) / table.microseconds - 1)


class Rows:
    """Of every measured convolution what it is made of, what it took, and what the model predicts.

    arithmetic: microseconds at the core's peak, by the kind of kernel (`EFFICIENCIES`). reading: microseconds. others:
    amounts of the other kinds of work, times a cycle's microseconds.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self.kinds: list[str] = []
        self.arithmetic: list[float] = []
        self.reading: list[float] = []
        self.others: list[dict[str, float]] = []
        self.microseconds: list[float] = []
        self.predicted: list[float] = []
        self.labels: list[str] = []
        for path in paths:
            for line in Path(path).read_text("utf-8").splitlines():
                self._add(json.loads(line))

    def _add(self, row: dict[str, Any]) -> None:
        g, target = geometry_of(row), target_of(row)
        lanes, cycle = target.simd.lanes, 1 / target.clock_mhz
        model = CostModel(target, row["network_bytes"])
        predicted = predict(row, model)
        algorithm, others, patches = model.how(g, row.get("algorithm", "direct")), {}, 1.0
        kind, efficiency = "dense", EFFICIENCY
        if "counts" in row:
            counts, merging = LayerCounts(**row["counts"]), (row["patch"], row["nonzeros"], row["bits"])
            others = merging_work(g, *merging, counts, row["frames"], row["policy"])
            patches = max(counts.patches / row["frames"], 1.0)
            if algorithm == "direct":
                efficiency = model.merged_efficiency(g)
                kind = "merged" if efficiency == MERGED_EFFICIENCY else "wide merged"
        if algorithm == "direct":
            others["tiles"] = tiles_begun(g, patches, lanes)
        moved = transformed(g, algorithm, lanes)
        others |= {"transformed": moved, "transformed, lanes": moved / lanes}
        self.kinds.append(kind)
        self.arithmetic.append(1e6 * predicted.arithmetic * efficiency)
        self.reading.append(1e6 * predicted.weights)
        self.others.append({name: cycle * amount for name, amount in others.items()})
        self.microseconds.append(row["microseconds"])
        self.predicted.append(1e6 * predicted.seconds)
        self.labels.append(f"{lanes} lanes, {row['setting']}, {g.channels_in} channels on {g.out[0]}x{g.out[1]}")

    def fit(self, unhidden: float, held: Mapping[str, float]) -> tuple[dict[str, float], NDArray[np.float64]]:
        """(rates, relative errors), where of the shorter one of computing and reading the share ``unhidden`` counts.
        held: rates that are known, of `OTHERS`.

        Which is the shorter depends on the rates, and they on that: again until it settles.
        """
        wanted, reading = np.array(self.microseconds), np.array(self.reading)
        pairs = zip(self.arithmetic, self.kinds, strict=True)
        computing = np.array([[amount * (kind == own) for own in EFFICIENCIES] for amount, kind in pairs])
        amounts = np.array([[row.get(name, 0.0) for name in OTHERS] for row in self.others])
        _, label, times = np.unique(self.labels, return_inverse=True, return_counts=True)
        weight = 1 / wanted / np.sqrt(times[label])  # every label counts alike
        rates, known = np.ones(len(EFFICIENCIES)), np.array([held.get(name, 0.0) for name in OTHERS])
        free = np.array([True] * len(EFFICIENCIES) + [name not in held for name in OTHERS])
        for _ in range(TURNS):
            longer = computing @ rates[: len(EFFICIENCIES)] >= reading
            matrix = np.hstack([computing * np.where(longer, 1.0, unhidden)[:, None], amounts])
            rest = wanted - reading * np.where(longer, unhidden, 1.0) - amounts @ known
            rates = nonnegative(matrix * free * weight[:, None], rest * weight)
        errors = (matrix @ rates - rest) / wanted
        rates[len(EFFICIENCIES) :] += known
        return dict(zip([*EFFICIENCIES, *OTHERS], rates, strict=True)), errors


def target_of(row: dict[str, Any]) -> Target:
    """The computer as it was when the row was measured."""
    return Target.model_validate(load_target("host").model_dump(exclude_none=True) | row["target"])


def geometry_of(row: dict[str, Any]) -> ConvGeometry:
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in row["geometry"].items()}
    return ConvGeometry(**fields)


def predict(row: dict[str, Any], model: CostModel) -> Prediction:
    """What the model gives a measured convolution."""
    if "counts" not in row:
        return model.dense(geometry_of(row), row["algorithm"])
    counts = LayerCounts(**row["counts"])
    merging = row["patch"], row["nonzeros"], row["bits"], counts, row["frames"], row["policy"]
    return model.merged(geometry_of(row), *merging, row.get("algorithm", "direct"))


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
    parsers[measure].add_argument("--networks", default="resnet20,resnet56,resnet34,demo")
    parsers[fit].add_argument("timings", nargs="+", help="files that `measure` made; with other HASTE_LANES, too")
    parsers[fit].add_argument("--hold", nargs="*", default=[], metavar="NAME=CYCLES", help="rates that are known")
    arguments = parser.parse_args()
    arguments.command(arguments)


if __name__ == "__main__":
    main()
