"""A study as a whole: what a run measures, the sweep's file, the cluster, the curves, the plot and the command."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import torch
from builders import bundle_for
from torch import nn

from haste_edge import cli, evaluate, method, torch_graph
from haste_edge.frontends.export import load_module
from haste_edge.passes import run_passes
from haste_edge.plan.measure import layer_seed
from haste_edge.study import BASELINES, Configuration, Source, StudyError, Subject, backend, grid, load, sweep
from haste_edge.study import run as running
from haste_edge.study import sweep as sweeping_function
from haste_edge.study.configuration import ladder
from haste_edge.study.curves import Curve, Point, Spread, curves
from haste_edge.study.plot import save_study_plot
from haste_edge.study.run import run
from haste_edge.study.subject import bundle_name, choose_layers
from haste_runtime import Session
from haste_runtime.bundle import stored, write_bundle
from haste_runtime.errors import InputError
from haste_runtime.flops import merged_flops
from haste_runtime.preprocessing import Preprocessing
from haste_runtime.projection import draw

MODELS = """
import torch
from torch import nn


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(),
        nn.Conv2d(12, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 12, 1), nn.ReLU(),
        nn.Conv2d(12, 12, 3, stride=2, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5),
    )
"""
PREPROCESSING = Preprocessing(mean=(0.5,), std=(0.25,))
PICTURES = 6
SWEEP = sys.modules[sweeping_function.__module__]


def network() -> nn.Module:
    namespace: dict[str, Any] = {}
    exec(MODELS, namespace)
    model: nn.Module = namespace["network"]()
    return model


@pytest.fixture(scope="module")
def pictures() -> tuple[evaluate.Images, evaluate.Labels]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (PICTURES, 10, 10, 3), np.uint8), rng.integers(0, 5, PICTURES)


@pytest.fixture(scope="module")
def subject(pictures: tuple[evaluate.Images, evaluate.Labels]) -> Subject:
    graph = run_passes(load_module(network(), [(3, 10, 10)], "network").graph)
    return Subject(graph, *pictures, preprocessing=PREPROCESSING)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, pictures: tuple[evaluate.Images, evaluate.Labels]) -> Path:
    """models_for_study.py and pictures.npz."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "models_for_study.py").write_text(MODELS)
    np.savez(folder / "pictures.npz", x=pictures[0], y=pictures[1])
    return folder


@pytest.fixture
def source(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    monkeypatch.chdir(folder)
    return Source(
        "models_for_study:network",
        str(folder / "pictures.npz"),
        input_shape="1x3x10x10",
        preprocessing=PREPROCESSING,
    )


def mean(bits: int = 3, patch: int = 4, seed: int = 0) -> Configuration:
    return Configuration("mean", bits, 0.0, patch, 2 / 3, "integer", seed)


# --- configurations --------------------------------------------------------------------------------------------------


def test_the_grid_has_each_run_that_differs_once() -> None:
    found = grid(["mean", "budget", "dead", "random"], bits=[4, 8], budgets=[0.1, 0.2], patches=[4, 8], seeds=[0, 1])
    assert len(set(found)) == len(found)
    count = {policy: sum(c.policy == policy for c in found) for policy in ("mean", "budget", "dead", "random")}
    assert count == {"mean": 8, "budget": 16, "dead": 2, "random": 8}
    assert {c.budget for c in found if c.policy != "budget"} == {0.0}
    assert all(Configuration.from_json(json.loads(c.key())) == c for c in found)
    assert len({c.key() for c in found}) == len(found)


def test_the_reference_of_a_baseline_is_the_papers_run() -> None:
    (baseline,) = grid(["kmeans"], bits=[7], patches=[4], sparsities=[0.5], seeds=[2])
    assert baseline.reference == Configuration("mean", 7, 0.0, 4, 0.5, "integer", 2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"policy": "best"}, "no policy or baseline 'best'"),
        ({"bits": 0}, "0 bits"),
        ({"bits": 32}, "32 bits"),
        ({"patch": 0}, "side 0"),
        ({"sparsity": 1.0}, "sparsity of 1.0"),
        ({"hash": "md5"}, "no hash 'md5'"),
        ({"seed": -1}, "-1 is negative"),
        ({"policy": "budget"}, "error budget of 0"),
    ],
)
def test_a_configuration_out_of_range_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(StudyError, match=words):
        replace(mean(), **change)


# --- one run ---------------------------------------------------------------------------------------------------------


def test_mean_is_the_torch_methods_network(subject: Subject) -> None:
    """Run by hand: outputs, FLOPs and kept channels."""
    executed: dict[str, float] = dict(subject.dense)
    kept: dict[str, float] = {}
    ((_, batch),) = subject.batches()

    def convolve(node: Any, x: torch.Tensor) -> torch.Tensor:
        geometry = subject.geometries[node.name]
        projection = draw(layer_seed(7, node.name, 4), 3, geometry.patch_side(4))
        rule = method.Rule(4, torch.from_numpy(projection), 3)
        merged = method.merged_conv(x, subject.weight(node.name), subject.bias(node.name), geometry, rule)
        nonzeros = int(np.count_nonzero(projection))
        executed[node.name] = merged_flops(geometry, 4, nonzeros, 3, merged.counts) / PICTURES
        kept[node.name] = merged.counts.kept_pixels / (PICTURES * geometry.channels_in * np.prod(geometry.out))
        return merged.output

    outputs = torch_graph.run(subject.prepared, batch, convolve=dict.fromkeys(subject.layers, convolve)).outputs
    answers = outputs[subject.graph.outputs[0]].argmax(1)
    result = run(subject, mean(seed=7))
    assert subject.labels is not None
    assert result.top1 == pytest.approx(100 * float((answers.numpy() == subject.labels).mean()))
    assert result.agreement == pytest.approx(100 * float((answers == subject.exact).double().mean()))
    dense = sum(subject.dense.values()) + subject.linear
    saving = 1 - (sum(executed.values()) + subject.linear) / dense
    assert result.flops_reduction_network == pytest.approx(100 * saving)
    studied = [(executed[node], subject.dense[node]) for node in subject.layers]
    assert result.flops_reduction == pytest.approx(100 * (1 - sum(e for e, _ in studied) / sum(d for _, d in studied)))
    assert result.kept == pytest.approx(kept)
    assert result.flops_reduction_network < result.flops_reduction_half_adds < result.flops_reduction_kept


@pytest.mark.parametrize("name", ["random", "kmeans", "gaussian", "uncentred", "float"])
def test_a_baseline_keeps_what_mean_keeps_in_every_layer(name: str, subject: Subject) -> None:
    reference, result = run(subject, mean()), run(subject, grid([name], bits=[3], patches=[4], seeds=[0])[0])
    assert result.kept == reference.kept
    assert result.flops_reduction_kept == reference.flops_reduction_kept


@pytest.mark.parametrize("name", ["image", "pruned"])
def test_baselines_with_one_number_for_many_patches_keep_it_up_to_rounding(name: str, subject: Subject) -> None:
    reference, result = run(subject, mean()), run(subject, grid([name], bits=[3], patches=[4], seeds=[0])[0])
    for node in subject.layers:
        assert result.kept[node] == pytest.approx(reference.kept[node], abs=0.5 / subject.geometries[node].channels_in)


def test_baselines_are_compared_with_mean_patch_by_patch(subject: Subject) -> None:
    seen = []

    def spy(layer: Any, x: torch.Tensor, kept: torch.Tensor, first: int) -> Any:
        seen.append((layer.node, kept))
        return running.GROUPERS["random"](layer, x, kept, first)

    reference = running._reference(subject, mean())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "GROUPERS", {**running.GROUPERS, "kmeans": spy})
        run(subject, replace(mean(), policy="kmeans", hash=""))
    for node, kept in seen:
        assert kept.tolist() == reference.kept[node].flatten().tolist()
    assert [node for node, _ in seen] == list(subject.layers)


def test_a_run_in_small_batches_is_the_same(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    configurations = [
        Configuration("budget", 8, 0.2, 4, 2 / 3, "integer", 0),
        *grid(["gaussian", "pruned", "image", "dead"], bits=[3], patches=[4], seeds=[5]),
    ]
    whole = [replace(run(subject, c), seconds=0.0) for c in configurations]
    other = Subject(subject.graph, subject.images, subject.labels, preprocessing=PREPROCESSING)
    monkeypatch.setattr(sys.modules[Subject.__module__], "MOST_PICTURES", 4)
    for configuration, expected in zip(configurations, whole, strict=True):
        result = replace(run(other, configuration), seconds=0.0)
        assert result.kept == pytest.approx(expected.kept)
        assert result.flops_reduction_network == pytest.approx(expected.flops_reduction_network)
        assert result.top1 == expected.top1


@pytest.mark.parametrize("policy", ["scaled", "budget"])
def test_policies_and_hashes_all_run(policy: str, subject: Subject) -> None:
    found = {
        hash: run(subject, Configuration(policy, 6, 0.3 if policy == "budget" else 0.0, 4, 0.5, hash, 0))
        for hash in ("integer", "float", "gaussian", "uncentred")
    }
    assert all(0 < share <= 1 for result in found.values() for share in result.kept.values())
    assert found["integer"].flops_reduction_network > found["gaussian"].flops_reduction_network


def test_a_budget_is_all_the_network_may_lose(subject: Subject) -> None:
    kept = [
        sum(run(subject, Configuration("budget", 8, budget, 4, 0.5, "integer", 0)).kept.values())
        for budget in (0.01, 0.3, 3.0)
    ]
    assert kept == sorted(kept, reverse=True)
    assert kept[0] > kept[2]


def test_dead_channels_cost_no_accuracy(subject: Subject) -> None:
    (dead,) = grid(["dead"], patches=[4])
    result = run(subject, dead)
    assert result.drop == 0
    assert result.agreement == 100
    assert result.flops_reduction_kept > 0
    assert result.flops_reduction_network < result.flops_reduction_half_adds < result.flops_reduction_kept


def test_a_patch_is_no_larger_than_the_map(subject: Subject) -> None:
    large, whole = (run(subject, mean(patch=patch)) for patch in (64, 10))
    assert replace(large, seconds=0.0) == replace(whole, seconds=0.0)


def test_without_labels_there_is_agreement_alone(subject: Subject) -> None:
    blind = Subject(subject.graph, subject.images, preprocessing=PREPROCESSING)
    result = run(blind, mean())
    assert (result.top1, result.dense_top1, result.drop) == (None, None, None)
    assert result.agreement == run(subject, mean()).agreement


def test_a_ladder_is_the_bundles(subject: Subject, pictures: tuple[evaluate.Images, evaluate.Labels]) -> None:
    bundle = bundle_for(subject.graph, policy=["mean", "budget", "scaled"], patch=[4, 5, 3], bits=8, budget=0.3)
    own = Subject(subject.graph, *pictures, preprocessing=PREPROCESSING, bundles={"net": bundle})
    with Session(bundle, backend="numpy") as session:
        evaluation = evaluate.Evaluation(session, *pictures, [1, 2, 3])
        for _ in evaluation.run():
            pass
    for configuration, expected in zip(ladder("net", 4), evaluation.results(), strict=True):
        result = run(own, configuration)
        assert result.flops_reduction_network == pytest.approx(expected.flops_reduction_network, abs=0.1)
        assert result.flops_reduction == pytest.approx(expected.flops_reduction, abs=0.1)
        assert result.top1 == pytest.approx(expected.top1)
        assert set(result.kept) == set(bundle.plan.levels[configuration.level].choices)
    with pytest.raises(StudyError, match="no level 4"):
        run(own, Configuration("ladder", bundle="net", level=4))


# --- subjects --------------------------------------------------------------------------------------------------------


def test_layers_are_chosen_by_kind_or_by_name(subject: Subject) -> None:
    convs = [node.name for node in subject.graph.nodes if node.op == "conv"]
    assert subject.layers == (convs[1], convs[3])
    assert choose_layers(subject.graph, "all") == (convs[1], convs[2], convs[3])
    assert choose_layers(subject.graph, f"{convs[0]}, {convs[2]}") == (convs[0], convs[2])
    with pytest.raises(StudyError, match="none_such"):
        choose_layers(subject.graph, "none_such*")


def test_another_network_or_other_pictures_are_another_subject(subject: Subject) -> None:
    def again(**changes: Any) -> str:
        arguments = {"images": subject.images, "labels": subject.labels, "preprocessing": PREPROCESSING} | changes
        return Subject(arguments.pop("graph", subject.graph), **arguments).digest

    key = subject.graph.node(subject.layers[0]).constants["weight"]
    constants = {**subject.graph.constants, key: subject.graph.constants[key] * np.float32(2)}
    assert again() == subject.digest
    others = [
        again(graph=replace(subject.graph, constants=constants)),
        again(images=subject.images[::-1]),
        again(labels=None),
        again(preprocessing=Preprocessing()),
        again(layers="all"),
    ]
    assert len({subject.digest, *others}) == 6


def test_bundles_and_labels_of_something_else_are_refused(subject: Subject) -> None:
    def with_bundle(bundle: Any, **changes: Any) -> Subject:
        arguments = {"preprocessing": PREPROCESSING} | changes
        return Subject(subject.graph, subject.images, bundles={"net": bundle}, **arguments)

    bundle = bundle_for(subject.graph)
    with_bundle(replace(bundle, preprocessing=replace(PREPROCESSING, layout="NHWC")))
    with pytest.raises(StudyError, match=r"mean \(0\.5,\)"):
        with_bundle(bundle, preprocessing=Preprocessing())
    key = subject.graph.node(subject.layers[0]).constants["weight"]
    halves = {k: v.astype(np.float16).astype(np.float32) for k, v in subject.graph.constants.items()}
    with_bundle(replace(bundle, graph=replace(bundle.graph, constants=halves)))
    for dtype in ("fp16", "int8"):
        with_bundle(stored(replace(bundle, dtype=dtype)))
    twice = {**subject.graph.constants, key: subject.graph.constants[key] * np.float32(2)}
    with pytest.raises(StudyError, match="other weights"):
        with_bundle(replace(bundle, graph=replace(bundle.graph, constants=twice)))
    renamed = tuple(replace(n, name="new") if n.name == subject.layers[0] else n for n in bundle.graph.nodes)
    with pytest.raises(StudyError, match="another network"):
        with_bundle(replace(bundle, graph=replace(bundle.graph, nodes=renamed)))
    with pytest.raises(evaluate.DataError, match="5 classes"):
        Subject(subject.graph, subject.images, np.full(PICTURES, 5))
    with pytest.raises(evaluate.DataError, match="no pictures"):
        Subject(subject.graph, subject.images[:0])
    with pytest.raises(InputError, match="vector of class scores"):
        Subject(replace(subject.graph, outputs=(subject.layers[0],)), subject.images)


# --- sweeps ----------------------------------------------------------------------------------------------------------


def without_seconds(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[Configuration]:
    """The configurations that were really run."""
    done: list[Configuration] = []

    def counted(subject: Subject, configuration: Configuration) -> running.Result:
        done.append(configuration)
        return run(subject, configuration)

    monkeypatch.setattr(SWEEP, "run", counted)
    return done


def test_a_sweep_writes_a_line_for_each_run_and_does_not_repeat_it(
    source: Source, tmp_path: Path, ran: list[Configuration]
) -> None:
    path, wanted = tmp_path / "deep" / "results.jsonl", grid(["mean", "dead"], bits=[2, 4], patches=[4], seeds=[0, 1])
    progress: list[tuple[int, int]] = []
    first = sweep(source, wanted[:2], path, on_progress=lambda *at: progress.append(at))
    assert progress == [(0, 2), (1, 2), (2, 2)]
    assert ran == list(wanted[:2])
    lines = sweep(source, wanted, path, on_progress=lambda *at: progress.append(at))
    assert sorted(map(repr, ran)) == sorted(map(repr, wanted))
    assert progress[3:] == [(2, 5), (3, 5), (4, 5), (5, 5)]
    assert [Configuration.from_json(line["configuration"]) for line in lines] == list(wanted)
    assert lines[:2] == first
    assert [json.loads(line) for line in path.read_text().splitlines()] == SWEEP.read_lines(path)
    assert len(SWEEP.read_lines(path)) == 5
    assert sweep(source, wanted, path) == lines
    assert len(ran) == 5


def test_lines_of_other_pictures_are_left_alone(source: Source, tmp_path: Path, ran: list[Configuration]) -> None:
    path = tmp_path / "results.jsonl"
    (few,) = sweep(replace(source, limit=3), [mean()], path)
    (many,) = sweep(source, [mean()], path)
    assert (few["pictures"], many["pictures"], len(ran)) == (3, PICTURES, 2)
    assert SWEEP.read_lines(path) == [few, many]
    assert sweep(replace(source, limit=3), [mean()], path) == [few]
    assert len(ran) == 2


@pytest.mark.parametrize("cut", [1, 20])
def test_a_line_that_was_cut_off_is_dropped(source: Source, tmp_path: Path, ran: list[Configuration], cut: int) -> None:
    path, wanted = tmp_path / "results.jsonl", [mean(bits) for bits in (2, 3, 4)]
    lines = sweep(source, wanted, path)
    path.write_bytes(path.read_bytes()[:-cut])
    assert len(SWEEP.read_lines(path)) == 2
    assert without_seconds(sweep(source, wanted, path)) == without_seconds(lines)
    assert ran == [*wanted, wanted[2]]
    assert without_seconds(SWEEP.read_lines(path)) == without_seconds(lines)


@pytest.mark.parametrize(
    "line", ["nonsense", "{}", '{"subject": "a", "configuration": {"policy": "mean"}, "kept": {}}']
)
def test_a_line_that_is_no_result_is_an_error(source: Source, tmp_path: Path, line: str) -> None:
    path = tmp_path / "results.jsonl"
    sweep(source, [mean()], path)
    whole = path.read_text()
    path.write_text(f"{whole}{line}\n{whole}")
    with pytest.raises(StudyError, match="line 2, is not the result of a run"):
        sweep(source, [mean()], path)
    assert path.read_text() == f"{whole}{line}\n{whole}"


def test_an_interruption_keeps_what_is_finished(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, wanted = tmp_path / "results.jsonl", [mean(bits) for bits in (2, 3, 4)]

    def third_is_interrupted(subject: Subject, configuration: Configuration) -> running.Result:
        if configuration == wanted[2]:
            raise KeyboardInterrupt
        return run(subject, configuration)

    monkeypatch.setattr(SWEEP, "run", third_is_interrupted)
    with pytest.raises(KeyboardInterrupt):
        sweep(source, wanted, path)
    assert [Configuration.from_json(line["configuration"]) for line in SWEEP.read_lines(path)] == wanted[:2]


def test_a_worker_with_other_files_is_found_out(source: Source, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SWEEP, "one", lambda source, c: {"subject": "other", "configuration": {}, "kept": {}})
        with pytest.raises(StudyError, match="another network"):
            sweep(source, [mean()], tmp_path / "results.jsonl")
    assert SWEEP.read_lines(tmp_path / "results.jsonl") == []


def test_threads_and_a_dask_cluster_give_the_same_results(source: Source, tmp_path: Path) -> None:
    """A cluster is one line around the sweep; this one is threads of this process."""
    from distributed import Client, LocalCluster

    wanted = grid(["mean", "budget", "random", "kmeans"], bits=[3], budgets=[0.2], patches=[4], seeds=[0, 1])
    alone = sweep(source, wanted, tmp_path / "alone.jsonl")
    with backend("threading", jobs=2):
        threaded = sweep(source, wanted, tmp_path / "threads.jsonl", jobs=2)
    cluster = LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None)
    with cluster, Client(cluster), joblib.parallel_config(backend="dask"):
        clustered = sweep(source, wanted, tmp_path / "dask.jsonl")
    assert without_seconds(threaded) == without_seconds(alone)
    assert without_seconds(clustered) == without_seconds(alone)
    assert len(SWEEP.read_lines(tmp_path / "dask.jsonl")) == len(wanted)


@pytest.mark.slow
def test_processes_give_the_same_results(source: Source, tmp_path: Path) -> None:
    wanted = [mean(2), mean(3)]
    with backend("loky", jobs=2):
        lines = sweep(source, wanted, tmp_path / "processes.jsonl", jobs=2)
    assert without_seconds(lines) == without_seconds(sweep(source, wanted, tmp_path / "alone.jsonl"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("grid", 1, None), "no backend 'grid'"),
        (("loky", 1, "tcp://10.0.0.1:8786"), "scheduler is for the backend dask"),
        (("loky", 0, None), "0 runs at once"),
        (("dask", 1, "nonsense://there"), "no Dask scheduler at nonsense"),
    ],
)
def test_a_backend_that_cannot_be_is_refused(arguments: tuple[str, int, str | None], words: str) -> None:
    with pytest.raises(StudyError, match=words), backend(*arguments):
        pass


# --- curves and plot -------------------------------------------------------------------------------------------------


def line(configuration: Configuration, drop: float | None, saved: float) -> dict[str, Any]:
    columns = {
        "flops_reduction_network": saved,
        "flops_reduction_half_adds": saved + 1,
        "flops_reduction_kept": saved + 5,
    }
    return {"configuration": json.loads(configuration.key()), "drop": drop, "agreement": 97.0, **columns}


def test_a_point_is_the_mean_over_seeds_and_a_curve_goes_through_its_knob() -> None:
    lines = [line(mean(bits, seed=seed), bits + seed, 10 * bits) for bits in (8, 4) for seed in (0, 1, 2)]
    lines += [line(c, 1.0, 50.0) for c in grid(["budget"], budgets=[0.1, 0.4], bits=[16], seeds=[0])]
    lines += [line(c, 0.0, 5.0) for c in (*grid(["dead"]), *ladder("net-1", 3))]
    paper, budget, dead, levels = curves(lines)
    assert [(p.knob, p.seeds, p.drop) for p in paper.points] == [(4, 3, Spread(5, 1)), (8, 3, Spread(9, 1))]
    assert paper.points[1].half_adds == Spread(81, 0)
    assert paper.points[1].kept == Spread(85, 0)
    assert [p.knob for p in budget.points] == [0.1, 0.4]
    assert [p.drop.deviation for p in budget.points] == [0, 0]
    assert [len(c.points) for c in (dead, levels)] == [1, 2]
    assert [c.name for c in (paper, budget, dead, levels)] == ["mean", "budget", "dead", "ladder"]


def test_curves_are_told_apart_by_what_differs() -> None:
    found = grid(["mean", "random"], bits=[4, 8], patches=[4, 8], hashes=["integer", "float"], seeds=[0])
    names = {curve.name for curve in curves(line(c, 0.0, 1.0) for c in found)}
    assert names == {
        "mean, m = 4, integer hash",
        "mean, m = 8, integer hash",
        "mean, m = 4, float hash",
        "mean, m = 8, float hash",
        "random, m = 4",
        "random, m = 8",
    }


def test_without_labels_curves_are_of_agreement() -> None:
    (curve,) = curves([line(mean(), None, 10.0)])
    assert curve.points[0].drop == Spread(3.0, 0.0)


def test_the_plot_is_written_whole(tmp_path: Path) -> None:
    def curve(policy: str, saved: float) -> Curve:
        points = [
            Point(k, 3, Spread(k * k, 0.5), Spread(saved + k, 1), Spread(saved + k, 1), Spread(20 + k, 1))
            for k in range(4)
        ]
        return Curve(policy, policy, tuple(points))

    path = tmp_path / "plot.png"
    save_study_plot([curve("mean", 20), curve("kmeans", -300)], path, "Title", "subtitle")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in tmp_path.iterdir()] == ["plot.png"]


# --- the command -----------------------------------------------------------------------------------------------------

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """``haste-edge study`` of the network in the folder: exit code, stdout, stderr."""
    monkeypatch.chdir(folder)
    common = ("models_for_study:network", "--input", "1x3x10x10", "--data", "pictures.npz")

    def command(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["haste-edge", "study", *common, "--mean", "0.5", "--std", "0.25", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        captured = capfd.readouterr()
        return int(end.value.code or 0), captured.out, captured.err

    return command


def test_the_command_studies_baselines_and_a_bundle(command: Run, subject: Subject, tmp_path: Path) -> None:
    write_bundle(tmp_path / "net.haste", bundle_for(subject.graph, levels=[8, 4]))
    options = ("--policies", "mean,baselines", "--bits", "3", "--patches", "4", "--seeds", "0", "--out", str(tmp_path))
    code, printed, _ = command(*options, "--bundle", str(tmp_path / "net.haste"), "--limit", "4", "--json")
    assert code == 0
    about = json.loads(printed)
    policies = [run["configuration"]["policy"] for run in about["runs"]]
    assert sorted(policies) == sorted(["mean", *BASELINES, "ladder", "ladder"])
    assert {run["configuration"]["bundle"] for run in about["runs"]} == {"", bundle_name(str(tmp_path / "net.haste"))}
    assert {run["pictures"] for run in about["runs"]} == {4}
    assert Path(about["plot"]).read_bytes().startswith(b"\x89PNG")
    assert len(Path(about["results"]).read_text().splitlines()) == len(policies)


def test_the_command_prints_curves(command: Run, tmp_path: Path) -> None:
    options = ("--policies", "mean,budget", "--bits", "2,3", "--budgets", "1/5", "--patches", "4", "--seeds", "0,1")
    code, printed, said = command(*options, "--out", str(tmp_path))
    assert code == 0
    assert "6 runs on 6 pictures, 2 layers" in said
    rows = [row.split()[:2] for row in printed.splitlines() if "±" in row]
    assert sorted(rows) == [["budget", "0.2"], ["mean", "2"], ["mean", "3"]]
    assert f"{tmp_path / 'plot.png'}" in printed


def test_the_command_can_be_interrupted(command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(subject: Subject, configuration: Configuration) -> running.Result:
        if configuration.bits == 3:
            raise KeyboardInterrupt
        return run(subject, configuration)

    monkeypatch.setattr(SWEEP, "run", interrupted)
    options = ("--policies", "mean", "--bits", "2,3", "--patches", "4", "--seeds", "0", "--out", str(tmp_path))
    code, _, said = command(*options)
    assert code == 130
    assert "1 of 2 runs are in" in said
    assert len(SWEEP.read_lines(tmp_path / "results.jsonl")) == 1
    monkeypatch.setattr(SWEEP, "run", run)
    assert command(*options)[0] == 0
    assert len(SWEEP.read_lines(tmp_path / "results.jsonl")) == 2


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--policies", "best"), 2, "Known: mean"),
        (("--policies", "none"), 2, "nothing to study"),
        (("--bits", "a"), 2, "--bits cannot be 'a'"),
        (("--bits", ""), 2, "--bits is empty"),
        (("--sparsities", "1/0"), 2, "--sparsities cannot be"),
        (("--colour", "grey"), 2, "RGB, BGR"),
        (("--backend", "abacus"), 2, "loky, threading, dask"),
        (("--bundle", "none.haste"), 2, "none.haste"),
        (("--layers", "stem*"), 2, "stem*"),
        (("--data", "none.npz"), 3, "none.npz"),
    ],
)
def test_the_command_refuses_with_a_sentence(
    command: Run, tmp_path: Path, options: tuple[str, ...], code: int, words: str
) -> None:
    found, printed, said = command(*options, "--out", str(tmp_path))
    assert (found, printed) == (code, "")
    assert words in said
    assert not (tmp_path / "results.jsonl").exists()


def test_the_help_teaches(command: Run) -> None:
    code, printed, _ = command("--help")
    assert code == 0
    for words in ("Examples:", *BASELINES, "--backend dask --scheduler tcp://", "Ctrl-C keeps every finished run"):
        assert words in printed


def test_a_subject_is_loaded_once(source: Source) -> None:
    assert load(source) is load(replace(source))
