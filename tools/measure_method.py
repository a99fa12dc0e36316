"""Measure the method on whole networks: the automatic ladder, and settings that are the same for all layers.

    python tools/measure_method.py --models FOLDER --data cifar10_dev.npz --out build/results

FOLDER holds ``nets.py`` with factories and ``NAME.safetensors`` with their weights; the demo network is always there.
Everything runs in the compiled runtime. Results are kept as JSON lines, one a run, as they come; a run that is there
already is not repeated. ``tools/write_results.py`` makes docs/results.md of them. Labels serve to report accuracy and
choose nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from corruptions import corrupt
from measured import grid, read
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from haste_edge import demo
from haste_edge.demo.network import MEAN, STD
from haste_edge.evaluate import read_pictures
from haste_edge.frontends import load_model
from haste_edge.importance import channel_importance
from haste_edge.passes import run_passes
from haste_edge.plan import make_plan
from haste_edge.plan.candidates import find_candidates
from haste_edge.plan.measure import layer_seed
from haste_edge.study.cost import Work, convolution, deciding, hashing
from haste_edge.targets import load_target
from haste_runtime.backends import choose_backend
from haste_runtime.bundle import Bundle
from haste_runtime.flops import LayerCounts, NetworkFlops
from haste_runtime.graph import Graph
from haste_runtime.operators import check_graph
from haste_runtime.plan import BUDGETED, CODED, POLICIES, Choice, LayerPlan, Level, Plan, Variant
from haste_runtime.preprocessing import Preprocessing, images_to_inputs
from haste_runtime.projection import projection_of

CIFAR = Preprocessing(MEAN, STD)
IMAGENET = Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
NETWORKS = {"resnet20": IMAGENET, "resnet56": IMAGENET, "resnet34": CIFAR, "demo": CIFAR}
TRAINED = ("resnet34-own", "vgg16bn", "bottleneck")  # by tools/train_networks.py, if their weights are in the folder
SPARSITY = 2 / 3
SEEDS = (0, 1, 2)
PAPER_BITS = (16, 14, 13, 12, 11, 10, 9, 8)
BUDGETS = (0.03, 0.06, 0.12, 0.2, 0.3, 0.45, 0.7)
FEWER = 1000  # pictures, for all but the ladder
FINALISTS = 2  # of the grid: the order of the best is chance on so few pictures
SEVERITIES = (1, 2, 3)


@dataclass(frozen=True)
class Run:
    """One bundle on some pictures. kind: "ladder" (the compiler's), "uniform" (one setting for all layers), or "hand"
    (the best of those again, on as many pictures as the ladder).

    patch: tile side, 0 for the compiler's choice. corruption, severity: of the pictures; "" for none. limit: pictures.
    """

    network: str
    kind: str
    policy: str
    patch: int
    seed: int
    limit: int
    bits: int = 8
    corruption: str = ""
    severity: int = 0


def runs(network: str, limit: int) -> Iterator[Run]:
    """All runs of a network, the most important first. limit: pictures for the ladder; the others take fewer."""
    fewer = min(limit, FEWER)
    yield Run(network, "ladder", "affine", 0, 0, limit)  # nothing in it is random
    yield Run(network, "ladder", "affine", 4, 0, limit)  # cheaper by FLOPs, too small to pay in time
    yield from grid_of(network, fewer)
    for seed in SEEDS[1:]:
        yield Run(network, "uniform", "mean", 8, seed, fewer)
        yield Run(network, "uniform", "mean", 4, seed, fewer)
        yield Run(network, "uniform", "budget", 8, seed, fewer)
        yield Run(network, "uniform", "scaled", 8, seed, fewer)
    for seed in SEEDS:
        yield Run(network, "ladder", "budget", 0, seed, limit)
    yield Run(network, "ladder", "mean", 0, 0, fewer)
    yield Run(network, "ladder", "scaled", 0, 0, fewer)
    for bits in (4, 16, 31):
        yield Run(network, "uniform", "budget", 8, 0, fewer, bits)
    for corruption in ("noise", "blur", "jpeg"):
        for severity in SEVERITIES:
            yield Run(network, "ladder", "affine", 0, 0, min(limit, 500), 8, corruption, severity)


def grid_of(network: str, limit: int) -> Iterator[Run]:
    """All combinations of a policy and a patch size: what a user could try who has labels and patience."""
    for policy in ("affine", *(p for p in POLICIES if p != "affine")):
        for patch in (8, 4, 16):
            yield Run(network, "uniform", policy, patch, 0, limit)


def finalists(file: Path, network: str, limit: int) -> list[Run]:
    """The best of the grid by their labels, once all of it is measured."""
    if not set(grid_of(network, min(limit, FEWER))) <= _done(file):
        return []
    return [replace(Run(**series.key), kind="hand", seed=0, limit=limit) for series in grid(read(file))[:FINALISTS]]


def origin(network: str, models: Path) -> tuple[str, str]:
    """A network's factory, and the file of its weights."""
    if network == "demo":
        return "haste_edge.demo.network:network", str(demo.weights_path())
    weights = str(models / f"{network}.safetensors")
    if network in TRAINED:
        return f"networks:{network.removesuffix('-own')}", weights
    return f"nets:{network}", weights


def load(network: str, models: Path) -> Graph:
    """The network's graph after the compiler's passes."""
    return run_passes(load_model(*origin(network, models), "1x3x32x32").graph)


def make_bundle(run: Run, graph: Graph, preprocessing: Preprocessing) -> Bundle:
    """In memory: the compiler's ladder, or one level for each setting."""
    if run.kind == "ladder":
        patches = (run.patch,) if run.patch else ()
        made = make_plan(
            graph, preprocessing, load_target("host"), seed=run.seed, policy=run.policy, patches=patches
        )  # fmt: skip
        plan, projections, importance = made
    else:
        plan, projections, importance = uniform_plan(run, graph)
    return Bundle(
        graph=graph, plan=plan, preprocessing=preprocessing, classes=(), target="host", dtype="fp32", arena_bytes=0,
        made_by="haste-edge", projections=projections, importance=importance,
    )  # fmt: skip


def uniform_plan(run: Run, graph: Graph) -> tuple[Plan, dict[str, NDArray[np.int8]], dict[str, NDArray[np.uint16]]]:
    """Every convolution that may merge, with the same patch and policy; a level for each number of bits or budget.

    The last level of a policy with a budget has none: only dead channels are dropped.
    """
    if run.policy in BUDGETED:
        settings = [(run.bits, budget) for budget in (*BUDGETS, 0.0)]
    else:
        settings = [(bits, 0.0) for bits in PAPER_BITS]
    most = max(bits for bits, _ in settings)
    layers, projections, importance = [], {}, {}
    for candidate in find_candidates(graph, check_graph(graph), (run.patch,)):
        variants: tuple[Variant, ...] = ()
        if candidate.patches:
            (patch,) = candidate.patches
            node, seed = candidate.node, layer_seed(run.seed, candidate.node, patch)
            side = candidate.geometry.patch_side(patch)
            matrix = projection_of(run.policy, seed, most, side, SPARSITY)
            keys = f"{node}.projection", f"{node}.importance" if run.policy in BUDGETED else ""
            variants = (Variant(patch, len(matrix), SPARSITY, seed, keys[0], run.policy, keys[1]),)
            projections[keys[0]] = matrix
            if keys[1]:
                importance[keys[1]] = channel_importance(graph.constants[graph.node(node).constants["weight"]])
        layers.append(LayerPlan(candidate.node, variants, candidate.reason or "merged at every level"))
    merging = [layer.node for layer in layers if layer.variants]
    rows = {node: len(projections[f"{node}.projection"]) for node in merging}
    levels = [
        Level({node: Choice(0, min(bits, rows[node]) if run.policy in CODED else rows[node], budget)
               for node in merging}, 0.0, 0.0)
        for bits, budget in settings
    ]  # fmt: skip
    return Plan(tuple(layers), (Level({}, 0.0, 0.0), *levels)), projections, importance


class Tally:
    """What a level did so far."""

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.counts: dict[str, LayerCounts] = {}
        self.seconds: list[float] = []


def measure(bundle: Bundle, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> list[dict[str, Any]]:
    """A row for each level."""
    graph = bundle.graph
    flops = NetworkFlops(graph, check_graph(graph), bundle.plan, bundle.projections)
    inputs = images_to_inputs(images, graph.inputs[0].shape, bundle.preprocessing)
    tallies = [Tally() for _ in bundle.plan.levels]
    (name,), (output,) = (value.name for value in graph.inputs), graph.outputs
    backend, _ = choose_backend("auto", bundle)
    for x in inputs:
        for number, tally in enumerate(tallies):
            started = time.perf_counter()
            tally.answers.append(int(backend.run({name: x}, number)[output].argmax()))
            tally.seconds.append(time.perf_counter() - started)
            for node, counts in backend.counts().items():
                tally.counts[node] = tally.counts.get(node, LayerCounts()) + counts
    backend.close()
    exact = np.array(tallies[0].answers)
    return [
        {"level": number, **_row(flops, bundle, number, tally, exact, labels)} for number, tally in enumerate(tallies)
    ]


def _row(
    flops: NetworkFlops, bundle: Bundle, number: int, tally: Tally, exact: NDArray[Any], labels: NDArray[Any]
) -> dict[str, Any]:
    answers, frames = np.array(tally.answers), len(tally.answers)
    work, dead_only = _work(flops, bundle, number, tally.counts, frames)
    dense = sum(flops.dense.values()) * frames
    level = bundle.plan.levels[number]
    choice = next(iter(level.choices.values()), None)
    return {
        "bits": choice.bits if choice else 0,
        "budget": choice.budget if choice else 0.0,
        "top1": 100.0 * float((answers == labels).mean()),
        "agreement": 100.0 * float((answers == exact).mean()),
        "saved": 100 * (1 - work.executed / dense),
        "saved_half_adds": 100 * (1 - work.half_adds / (dense * 0.75)),  # of a multiply-add's 2, the addition is 1
        "saved_kept_only": 100 * (1 - dead_only / dense),
        "expected_saving": level.flops_reduction_network,
        "expected_agreement": level.agreement,
        "ms": 1000 * float(np.median(tally.seconds)),
        "kept": {
            node: counts.kept / (counts.patches * flops.geometries[node].channels_in)
            for node, counts in tally.counts.items()
        },
    }


def _work(
    flops: NetworkFlops, bundle: Bundle, number: int, counts: Mapping[str, LayerCounts], frames: int
) -> tuple[Work, int]:
    """What was executed, and what would have been if finding the groups and merging them had cost nothing."""
    total, kept_only = Work(), 0
    for node, dense in flops.dense.items():
        if node not in counts:
            adds = dense * frames // 2
            total = total.plus(Work(dense * frames - adds, adds))
            kept_only += dense * frames
            continue
        geometry, count = flops.geometries[node], counts[node]
        choice = bundle.plan.levels[number].choices[node]
        variant = bundle.plan.layer(node).variants[choice.variant]
        nonzeros = int(np.count_nonzero(bundle.projections[variant.projection][: choice.bits]))
        d, channels = geometry.patch_side(variant.patch) ** 2, geometry.channels_in
        multiplied = convolution(geometry, count).executed
        for part in (
            Work(multiplied // 2, multiplied // 2),
            hashing("integer", channels, d, nonzeros, choice.bits, count.patches),
            deciding(geometry, variant.patch, count, variant.policy, bits=choice.bits),
        ):
            total = total.plus(part)
        kept_only += multiplied
    return total, kept_only


class Measuring:
    """One network's runs, and the file that keeps them."""

    def __init__(
        self, network: str, models: Path, file: Path, images: NDArray[np.uint8], labels: NDArray[np.int64]
    ) -> None:
        self.network, self.models, self.file = network, models, file
        self.images, self.labels = images, labels
        self.bundles: dict[Run, Bundle] = {}  # corrupted pictures run on the same ladder

    def run(self, wanted: Iterable[Run]) -> None:
        """Those that the file lacks."""
        done = _done(self.file)
        missing = [run for run in wanted if run not in done]
        if not missing:
            return
        graph, preprocessing = load(self.network, self.models), NETWORKS.get(self.network, CIFAR)
        for run in track(missing, self.network, console=Console(stderr=True)):
            started = time.perf_counter()
            key = replace(run, limit=0, corruption="", severity=0)
            if key not in self.bundles:
                self.bundles[key] = make_bundle(run, graph, preprocessing)
            planned = time.perf_counter() - started
            levels = measure(self.bundles[key], *_pictures(run, self.images, self.labels))
            line = {"run": asdict(run), "plan_seconds": round(planned, 1), "levels": levels}
            with self.file.open("a") as lines:
                lines.write(json.dumps(line) + "\n")


def options(description: str | None, out: str) -> argparse.ArgumentParser:
    """What every tool is told that measures these networks. out: the folder for results unless another is given."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True, help="folder with nets.py and the weights")
    parser.add_argument("--data", type=Path, required=True, help="npz of x uint8 [N,H,W,3] and y int64 [N]")
    parser.add_argument("--out", type=Path, default=Path(out), help="where NETWORK.jsonl are kept")
    parser.add_argument("--networks", default="resnet20,resnet56,demo,resnet34", help="names, with commas")
    return parser


def main() -> None:
    parser = options(__doc__, "build/results")
    parser.add_argument("--limit", type=int, default=5000, help="pictures for the ladder")
    parser.add_argument("--kinds", default="", help="only runs whose kind/policy contains this, as in ladder/budget")
    args = parser.parse_args()
    sys.path[:0] = [str(args.models), str(Path(__file__).parent)]
    args.out.mkdir(parents=True, exist_ok=True)
    images, labels = read_pictures(args.data)
    assert labels is not None
    for network in args.networks.split(","):
        measuring = Measuring(network, args.models, args.out / f"{network}.jsonl", images, labels)
        measuring.run(r for r in runs(network, args.limit) if args.kinds in f"{r.kind}/{r.policy}")
        if args.kinds in "hand":
            measuring.run(finalists(measuring.file, network, args.limit))


def _pictures(
    run: Run, images: NDArray[np.uint8], labels: NDArray[np.int64]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """``run.limit`` of them, taken evenly."""
    count = min(run.limit, len(images))
    chosen = np.arange(count) * len(images) // count
    x = images[chosen]
    return (corrupt(x, run.corruption, run.severity, 0) if run.corruption else x), labels[chosen]


def _done(file: Path) -> set[Run]:
    """Runs that are in the file; a line that an interruption cut off is taken out of it."""
    if not file.exists():
        return set()
    lines = file.read_text().splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        file.write_text("".join(lines[:-1]))
        lines.pop()
    return {Run(**json.loads(line)["run"]) for line in lines}


if __name__ == "__main__":
    main()
