"""Bundles that are as they should be: round trips, the same bytes every time, atomic writing, inspection."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import GraphBuilder, bundle_for, conv_graph, random_network
from safetensors import safe_open

from haste_runtime import bundle_errors
from haste_runtime.bundle import FORMAT_VERSION, STORAGE, Bundle, inspect_bundle, read_bundle, stored, write_bundle
from haste_runtime.errors import BundleError
from haste_runtime.graph import Graph
from haste_runtime.operators import OPERATORS
from haste_runtime.plan import ALGORITHMS, POLICIES, Choice, LayerPlan, Level, Plan, Variant
from haste_runtime.preprocessing import Preprocessing
from haste_runtime.projection import draw, pack
from haste_runtime.weights import float_graph, float_weight, quantise


def full_bundle(dtype: str = "fp32") -> Bundle:
    """Every field differs from its default, every policy has a variant and a level, and every algorithm a use."""
    policies = ("scaled", "budget", "mean")
    bundle = bundle_for(random_network(3), (2, 4, 3), 9, policy=policies, budget=(0.0, 1 / 3), dtype=dtype)
    levels = zip(bundle.plan.levels, (100.0, None, 98.76, 0.0), strict=True)
    return replace(
        bundle,
        plan=replace(
            bundle.plan,
            layers=tuple(map(by_winograd, bundle.plan.layers)),
            levels=tuple(replace(level, agreement=a) for level, a in levels),
            objective="time",
        ),
        preprocessing=Preprocessing((0.1, 0.2, 0.3), (0.4, 0.5, 1 / 3), 1.5, "NHWC", "BGR", "stretch", 0.9, 7.5),
        classes=("crème brûlée", "dog", "cat", "猫", "a b"),
        target="rpi4",
        arena_bytes=123456,
        made_by="haste-edge 0.1.0",
    )


def by_winograd(layer: LayerPlan) -> LayerPlan:
    """The same, but "residual" is computed by Winograd's algorithms."""
    if layer.node != "residual":
        return layer
    first, *others = layer.variants
    return replace(layer, algorithm="winograd4", variants=(replace(first, algorithm="winograd2"), *others))


def assert_same(a: Bundle, b: Bundle) -> None:
    """Equal, the arrays bit for bit."""
    pairs = (a.graph.constants, b.graph.constants), (a.projections, b.projections), (a.importance, b.importance)
    for ours, theirs in pairs:
        assert set(ours) == set(theirs)
        for key, array in ours.items():
            assert array.dtype == theirs[key].dtype
            assert array.shape == theirs[key].shape
            assert array.tobytes() == theirs[key].tobytes()
    assert replace(a.graph, constants={}) == replace(b.graph, constants={})
    rest = ("plan", "preprocessing", "classes", "target", "dtype", "arena_bytes", "made_by", "format_version")
    for name in rest:
        assert getattr(a, name) == getattr(b, name), name


# --- round trips -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", STORAGE)
def test_round_trip(tmp_path: Path, dtype: str) -> None:
    bundle = full_bundle(dtype)
    write_bundle(tmp_path / "net.haste", bundle)
    back = read_bundle(tmp_path / "net.haste")
    assert_same(back, stored(bundle))
    assert_same(stored(back), back)
    assert {array.dtype.str for array in back.importance.values()} == {"<u2"}
    assert len(back.importance) == 4
    assert back.plan.levels[2].choices["strided"] == Choice(1, 4, 1 / 3)
    assert [level.agreement for level in back.plan.levels] == [100.0, None, 98.76, 0.0]
    write_bundle(tmp_path / "again.haste", back)
    assert (tmp_path / "again.haste").read_bytes() == (tmp_path / "net.haste").read_bytes()


@pytest.mark.parametrize("seed", range(5))
def test_random_networks(tmp_path: Path, seed: int) -> None:
    bundle = bundle_for(random_network(seed), patch=3, bits=5, seed=seed)
    write_bundle(str(tmp_path / "net.haste"), bundle)
    assert_same(read_bundle(str(tmp_path / "net.haste")), bundle)


def test_nothing_but_weights_is_rounded_to_half_precision() -> None:
    bundle = full_bundle("fp16")
    back = stored(bundle)
    for node in bundle.graph.nodes:
        for role, key in node.constants.items():
            expected = bundle.graph.constants[key].astype(np.float16 if role == "weight" else np.float32)
            assert back.graph.constants[key].dtype == expected.dtype
            assert np.array_equal(back.graph.constants[key], expected)


def test_int8_weights_are_within_half_a_step_of_the_originals() -> None:
    bundle = full_bundle("int8")
    back = stored(bundle)
    for node in bundle.graph.nodes:
        if "weight" not in node.constants:
            continue
        weight, steps = (b.graph.constants[node.constants["weight"]] for b in (bundle, back))
        scale = back.graph.constants[back.graph.node(node.name).constants["weight_scale"]]
        assert (steps.dtype, scale.dtype, scale.shape) == (np.int8, np.float32, weight.shape[:1])
        largest = np.abs(weight).reshape(len(weight), -1).max(1)
        assert np.array_equal(scale, largest / np.float32(127))
        assert np.array_equal(np.abs(steps.astype(int)).reshape(len(weight), -1).max(1), np.full(len(weight), 127))
        column = scale.reshape(-1, *(1,) * (weight.ndim - 1))
        assert (np.abs(steps * column - weight) <= 0.5001 * column).all()
        assert np.array_equal(float_weight(back.graph, back.graph.node(node.name)), steps * column)
    assert back.graph.parameters() == bundle.graph.parameters()
    decoded = float_graph(back.graph)
    assert decoded.nodes == bundle.graph.nodes
    assert set(decoded.constants) == set(bundle.graph.constants)
    assert {array.dtype.name for array in decoded.constants.values()} == {"float32"}


def test_int8_channels_of_zeros_and_of_tiny_numbers() -> None:
    weight = np.zeros((4, 2, 1, 1), np.float32)
    weight[1], weight[2, 0], weight[3, 1] = 1e-45, 3e38, -127
    steps, scale = quantise(weight)
    assert scale[[0, 1, 3]].tolist() == [1, 1, 1]  # 1e-45 / 127 is 0 in single precision
    assert steps[:, :, 0, 0].tolist() == [[0, 0], [0, 0], [127, 0], [0, -127]]


def test_a_weight_that_two_nodes_use_is_stored_once(tmp_path: Path) -> None:
    b = GraphBuilder(0, x=(3, 8, 8))
    b.conv("first", "x", 3, 3, 3)
    b.conv("second", "first", 3, 3, 3)
    graph = b.graph()
    shared = replace(graph.node("second"), constants={"weight": "first.weight", "bias": "first.weight.scale"})
    constants = {k: graph.constants[k] for k in ("first.weight", "first.bias")}
    constants["first.weight.scale"] = graph.constants["second.bias"]  # a name that the scale might have got
    bundle = bundle_for(replace(graph, nodes=(graph.nodes[0], shared), constants=constants), dtype="int8")
    write_bundle(tmp_path / "net.haste", bundle)
    back = read_bundle(tmp_path / "net.haste").graph
    assert sorted(back.constants) == ["first.bias", "first.weight", "first.weight.scale", "first.weight.scale_"]
    assert {node.constants["weight_scale"] for node in back.nodes} == {"first.weight.scale_"}
    assert float_graph(back).nodes == bundle.graph.nodes


def test_a_network_without_weights(tmp_path: Path) -> None:
    b = GraphBuilder(0, x=(3, 4, 4))
    b.node("mean", "mean", "x", keepdim=0)
    write_bundle(tmp_path / "net.haste", bundle_for(b.graph()))
    assert read_bundle(tmp_path / "net.haste").graph.nodes == b.graph().nodes


def test_arrays_outlive_the_file(tmp_path: Path) -> None:
    bundle, path = full_bundle(), tmp_path / "net.haste"
    write_bundle(path, bundle)
    back = read_bundle(path)
    path.write_bytes(bytes(path.stat().st_size))
    path.unlink()
    assert_same(back, bundle)
    arrays = [*back.graph.constants.values(), *back.importance.values()]
    owners = [array if array.base is None else array.base for array in arrays]  # small weights share memory
    assert all(isinstance(owner, np.ndarray) and owner.flags.owndata for owner in owners)
    assert all(array.flags.writeable for array in arrays)


# --- bytes -----------------------------------------------------------------------------------------------------------

WRITE = """
import sys
sys.path[:0] = sys.argv[2:]
from builders import bundle_for, random_network
from haste_runtime.bundle import write_bundle
write_bundle(sys.argv[1], bundle_for(random_network(3), policy="budget", dtype="fp16"))
"""


def test_the_same_bundle_gives_the_same_bytes_in_every_process(tmp_path: Path) -> None:
    digests = set()
    for seed in ("1", "2"):
        path = tmp_path / f"{seed}.haste"
        command = [sys.executable, "-c", WRITE, str(path), *filter(None, sys.path)]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": seed})
        digests.add(hashlib.sha256(path.read_bytes()).hexdigest())
    write_bundle(tmp_path / "here.haste", bundle_for(random_network(3), policy="budget", dtype="fp16"))
    digests.add(hashlib.sha256((tmp_path / "here.haste").read_bytes()).hexdigest())
    assert len(digests) == 1


@pytest.mark.parametrize("dtype", STORAGE)
def test_any_safetensors_tool_reads_it(tmp_path: Path, dtype: str) -> None:
    bundle = stored(full_bundle(dtype))
    write_bundle(tmp_path / "net.haste", bundle)
    with safe_open(tmp_path / "net.haste", framework="np") as file:
        (metadata,) = file.metadata().values()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dictionary)
    digest, text = metadata.split(" ", 1)
    assert hashlib.sha256(text.encode()).hexdigest() == digest
    manifest = json.loads(text)
    assert manifest["format_version"] == FORMAT_VERSION == 5
    expected = {**bundle.graph.constants, **bundle.importance}
    expected |= {name: pack(projection) for name, projection in bundle.projections.items()}
    assert set(tensors) == set(expected) == set(manifest["tensors"])
    for name, tensor in tensors.items():
        assert hashlib.sha256(tensor.tobytes()).hexdigest() == manifest["tensors"][name]["sha256"]
        assert tensor.dtype == expected[name].dtype
        assert np.array_equal(tensor, expected[name])


# --- writing ---------------------------------------------------------------------------------------------------------


def test_writing_replaces_at_once_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.haste"
    write_bundle(path, bundle_for(random_network(1)))
    before = path.read_bytes()

    def full_disk(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(bundle_errors.BundleWriteError, match="No space left"):
        write_bundle(path, bundle_for(random_network(2)))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["net.haste"]
    monkeypatch.undo()
    write_bundle(path, bundle_for(random_network(2)))
    assert path.read_bytes() != before
    assert os.listdir(tmp_path) == ["net.haste"]


def test_writing_syncs_the_file_before_its_name_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = []
    fsync, rename = os.fsync, os.replace

    def spy_fsync(descriptor: int) -> None:
        events.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        fsync(descriptor)

    def spy_rename(source: Path, target: Path) -> None:
        assert source.parent == target.parent == tmp_path
        events.append("rename")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "replace", spy_rename)
    write_bundle(tmp_path / "net.haste", bundle_for(random_network(1)))
    assert events == ["file", "rename", "folder"]


def test_the_file_has_ordinary_permissions(tmp_path: Path) -> None:
    write_bundle(tmp_path / "net.haste", bundle_for(random_network(1)))
    (tmp_path / "other").touch()
    assert (tmp_path / "net.haste").stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize("name", ["no/such/folder.haste", "folder", "zero\0byte"])
def test_names_that_cannot_be_written(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(bundle_errors.BundleWriteError):
        write_bundle(f"{tmp_path}/{name}", bundle_for(random_network(1)))
    assert os.listdir(tmp_path) == ["folder"]
    assert os.listdir(tmp_path / "folder") == []


def one_conv(**changes: object) -> Bundle:
    """A convolution "conv", 2 variants, a dense and two merged levels; ``changes`` replace fields of the bundle."""
    return replace(bundle_for(conv_graph(4, 4, 3), patch=(2, 4), bits=6, levels=(6, 3)), **changes)


def replan(layer: LayerPlan | None = None, levels: tuple[Level, ...] | None = None, **variant: object) -> Plan:
    plan = one_conv().plan
    first, *others = plan.layers[0].variants
    changed = replace(plan.layers[0], variants=(replace(first, **variant), *others))
    return replace(plan, layers=(layer or changed,), levels=plan.levels if levels is None else levels)


def level(
    variant: int = 0,
    bits: int = 3,
    node: str = "conv",
    saved: float = 10.0,
    budget: float = 0.0,
    agreement: float | None = None,
) -> tuple[Level, Level]:
    return Level({}, 0.0, 0.0), Level({node: Choice(variant, bits, budget)}, saved, saved, agreement)


WEIGHTS = np.array([0, 1, 4096, 2**16 - 1], np.uint16)


def weighted(importance: dict[str, np.ndarray] | None = None, named: str = "w", **changes: Any) -> Bundle:
    """As `one_conv`, its first variant by the policy "budget"; ``changes`` are those of `replan`."""
    plan = replan(**{"policy": "budget", "importance": named, "levels": level(budget=0.5, agreement=99.0), **changes})
    return one_conv(plan=plan, importance={"w": WEIGHTS} if importance is None else importance)


def with_constants(**constants: np.ndarray) -> Graph:
    graph = one_conv().graph
    return replace(graph, constants={**graph.constants, **{k.replace("_", "."): v for k, v in constants.items()}})


PROJECTIONS = one_conv().projections
E = bundle_errors


def test_the_bundle_that_is_broken_below_is_good(tmp_path: Path) -> None:
    write_bundle(tmp_path / "net.haste", one_conv(plan=replan(levels=level())))
    assert_same(read_bundle(tmp_path / "net.haste"), one_conv(plan=replan(levels=level())))
    write_bundle(tmp_path / "weighted.haste", weighted())
    assert_same(read_bundle(tmp_path / "weighted.haste"), weighted())
    for most in (level(budget=1e6, agreement=100.0), level(budget=0.0, agreement=0.0)):
        write_bundle(tmp_path / "net.haste", weighted(levels=most))


@pytest.mark.parametrize(
    ("bundle", "error", "message"),
    [
        (one_conv(plan=replan(LayerPlan("cone", (), ""))), E.PlanError, "differ in 'cone'"),
        (one_conv(plan=replace(replan(), layers=())), E.PlanError, "differ in 'conv'"),
        (one_conv(plan=replan(levels=())), E.PlanError, "no levels"),
        (one_conv(plan=replan(levels=level()[1:])), E.PlanError, "level 0 is not the dense network"),
        (one_conv(plan=replan(levels=(Level({}, 1.0, 0.0),))), E.PlanError, "level 0 is not the dense network"),
        (one_conv(plan=replan(levels=level(variant=2))), E.PlanError, "level 1 picks variant 2 of 'conv'"),
        (one_conv(plan=replan(levels=level(variant=-1))), E.PlanError, "level 1 picks variant -1"),
        (one_conv(plan=replan(levels=level(bits=7))), E.PlanError, "level 1 uses 7 bits of 'conv', which has 1 to 6"),
        (one_conv(plan=replan(levels=level(bits=0))), E.PlanError, "level 1 uses 0 bits"),
        (one_conv(plan=replan(levels=level(node="cone"))), E.PlanError, "level 1 picks variant 0 of 'cone'"),
        (one_conv(plan=replan(levels=level(saved=101.0))), E.PlanError, "claims to save 101"),
        (one_conv(plan=replan(levels=level(saved=float("nan")))), E.PlanError, "claims to save nan"),
        (one_conv(plan=replan(patch=0)), E.PlanError, "tiles of 0 pixels"),
        (one_conv(plan=replan(bits=0)), E.PlanError, "0 bits"),
        (one_conv(plan=replan(bits=32)), E.PlanError, "32 bits"),
        (one_conv(plan=replan(sparsity=1.0)), E.PlanError, "sparsity of 1.0"),
        (one_conv(plan=replan(policy="median")), E.UnsupportedError, "policy 'median'"),
        (one_conv(plan=replan(algorithm="fft")), E.UnsupportedError, "algorithm 'fft'"),
        (one_conv(plan=replan(LayerPlan("conv", (), "", "fft"))), E.UnsupportedError, "algorithm 'fft'"),
        (one_conv(plan=replace(replan(), objective="joules")), E.PlanError, "objective 'joules'"),
        (one_conv(plan=replan(projection="conv.projection4")), E.PlanError, "patches that differ"),
        (one_conv(plan=replan(projection="conv.weight")), E.PlanError, "names two of a constant, a projection"),
        (
            one_conv(plan=replan(policy="budget")),
            E.PlanError,
            "'conv' merges by the policy 'budget', with importance ''",
        ),
        (weighted(policy="mean"), E.PlanError, "'conv' merges by the policy 'mean', with importance 'w'"),
        (weighted(policy="scaled"), E.PlanError, "'conv' merges by the policy 'scaled', with importance 'w'"),
        (weighted(policy="median"), E.UnsupportedError, "policy 'median'"),
        (weighted(importance={}), E.MissingTensorError, "importance 'w', which a layer uses, is missing"),
        (weighted({"w": WEIGHTS, "more": WEIGHTS}), E.ExtraTensorError, "no layer uses the importance 'more'"),
        (one_conv(importance={"w": WEIGHTS}), E.ExtraTensorError, "no layer uses the importance 'w'"),
        (weighted({"w": WEIGHTS[:3]}), E.TensorShapeError, r"'w' is uint16 \[3\]; 4 uint16 are needed"),
        (weighted({"w": WEIGHTS[None]}), E.TensorShapeError, r"'w' is uint16 \[1, 4\]"),
        (weighted({"w": WEIGHTS.astype(np.int32)}), E.TensorShapeError, r"'w' is int32 \[4\]"),
        (weighted({"conv.bias": WEIGHTS}, named="conv.bias"), E.PlanError, "'conv.bias' names two of"),
        (weighted(levels=level(budget=-1e-9)), E.PlanError, "level 1 gives 'conv' an error budget of -1e-09"),
        (weighted(levels=level(budget=1.1e6)), E.PlanError, "an error budget of 1100000.0"),
        (weighted(levels=level(budget=float("nan"))), E.PlanError, "an error budget of nan"),
        (weighted(levels=level(budget=float("inf"))), E.PlanError, "an error budget of inf"),
        (weighted(levels=level(agreement=100.1)), E.PlanError, "level 1 claims to agree with level 0 in 100.1 %"),
        (weighted(levels=level(agreement=-0.1)), E.PlanError, "to agree with level 0 in -0.1 %"),
        (weighted(levels=level(agreement=float("nan"))), E.PlanError, "to agree with level 0 in nan %"),
        (one_conv(plan=replan(bits=5, levels=level())), E.ProjectionError, r"has shape \(6, 16\); \(5, 16\) is needed"),
        (one_conv(plan=replan(patch=3)), E.ProjectionError, r"\(6, 25\) is needed"),
        (one_conv(plan=replan(projection="lost")), E.ExtraTensorError, "no layer uses the projection"),
        (one_conv(projections={}), E.MissingTensorError, "projection 'conv.projection2'"),
        (one_conv(projections={**PROJECTIONS, "more": draw(1, 2, 3)}), E.ExtraTensorError, "'more'"),
        (
            one_conv(projections={k: p.astype(np.int16) for k, p in PROJECTIONS.items()}),
            E.ProjectionError,
            "not ternary",
        ),
        (one_conv(projections={k: p * 2 for k, p in PROJECTIONS.items()}), E.ProjectionError, "not ternary"),
        (one_conv(projections={k: p * 0 for k, p in PROJECTIONS.items()}), E.ProjectionError, "row of zeros"),
        (one_conv(graph=with_constants(more=np.zeros(3, np.float32))), E.ExtraTensorError, "constant 'more'"),
        (one_conv(graph=replace(one_conv().graph, constants={})), E.MissingTensorError, "'conv.bias', which a node"),
        (one_conv(graph=with_constants(conv_bias=np.full(4, np.nan, np.float32))), E.NonFiniteError, "conv.bias"),
        (
            one_conv(dtype="fp16", graph=with_constants(conv_weight=np.full((4, 4, 3, 3), 1e5, np.float32))),
            E.NonFiniteError,
            "conv.weight",
        ),
        (one_conv(graph=with_constants(conv_bias=np.zeros(5, np.float32))), E.BundleGraphError, "its bias has shape"),
        (one_conv(graph=replace(one_conv().graph, outputs=("y",))), E.BundleGraphError, "Output 'y'"),
        (one_conv(dtype="int4"), E.ManifestError, "dtype 'int4' is not one of fp32, fp16, int8"),
        (one_conv(graph=stored(one_conv(dtype="int8")).graph), E.BundleGraphError, "weight_scale belongs to int8"),
        (
            one_conv(dtype="int8", graph=with_constants(conv_weight=np.full((4, 4, 3, 3), np.inf, np.float32))),
            E.NonFiniteError,
            "conv.weight.scale",
        ),
        (one_conv(arena_bytes=-1), E.ManifestError, "manifest.arena_bytes is not an integer from 0"),
        (one_conv(made_by="two\nlines"), E.ManifestError, "manifest.made_by is not a printable text"),
        (one_conv(classes=("cat", "")), E.ManifestError, "manifest.classes is not an array of printable texts"),
        (one_conv(graph=conv_graph(4, 4, 3, groups=2)), E.PlanError, "merges 'conv', which is impossible: grouped"),
    ],
)
def test_what_could_not_be_read_is_not_written(
    tmp_path: Path, bundle: Bundle, error: type[BundleError], message: str
) -> None:
    path = tmp_path / "net.haste"
    with pytest.raises(error, match=message) as caught:
        write_bundle(path, bundle)
    assert caught.value.hint
    assert os.listdir(tmp_path) == []


def test_class_names_are_as_many_as_outputs(tmp_path: Path) -> None:
    bundle = replace(bundle_for(random_network(1)), classes=("cat", "dog"))
    with pytest.raises(bundle_errors.ManifestError, match="2 class names for an output of 5"):
        write_bundle(tmp_path / "net.haste", bundle)


# --- inspecting ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verify", [False, True])
def test_inspect_int8(tmp_path: Path, verify: bool) -> None:
    """Scales are looked at only where the tensors are."""
    write_bundle(tmp_path / "net.haste", full_bundle("int8"))
    write_bundle(tmp_path / "single.haste", full_bundle())
    summary, single = (inspect_bundle(tmp_path / name, verify) for name in ("net.haste", "single.haste"))
    assert (summary["dtype"], single["dtype"]) == ("int8", "fp32")
    assert summary["parameters"] == single["parameters"]
    assert summary["bytes"]["constants"] < single["bytes"]["constants"] / 2


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"k": 5}, "kernel 5x5 is not 3x3"),
        ({"k": (1, 3)}, "kernel 1x3 is not 3x3"),
        ({"k": 3, "stride": (1, 2)}, "stride 1x2 is not 1x1"),
        ({"k": 3, "dilation": 2}, "dilation 2x2 is not 1x1"),
        ({"k": 3, "groups": 2}, "2 groups"),
        ({"k": 3}, ""),
    ],
)
@pytest.mark.parametrize("algorithm", ["winograd2", "winograd4"])
def test_winograd_is_for_kernels_of_3x3_that_move_by_one(
    tmp_path: Path, options: dict[str, Any], why: str, algorithm: str
) -> None:
    bundle = bundle_for(conv_graph(4, 4, **options))
    layer = bundle.plan.layers[0]
    bundles = [replace(layer, algorithm=algorithm)]
    if layer.variants:
        bundles.append(replace(layer, variants=(replace(layer.variants[0], algorithm=algorithm),)))
    for planned in bundles:
        changed = replace(bundle, plan=replace(bundle.plan, layers=(planned,)))
        if why:
            with pytest.raises(bundle_errors.PlanError, match=f"computes 'conv' by '{algorithm}': {why}"):
                write_bundle(tmp_path / "net.haste", changed)
        else:
            write_bundle(tmp_path / "net.haste", changed)
            assert read_bundle(tmp_path / "net.haste").plan == changed.plan


@pytest.mark.parametrize("verify", [False, True])
def test_inspect(tmp_path: Path, verify: bool) -> None:
    bundle, path = full_bundle("fp16"), tmp_path / "net.haste"
    write_bundle(path, bundle)
    summary = inspect_bundle(path, verify)
    assert json.loads(json.dumps(summary)) == summary
    assert summary["checksums"] == {"manifest": "ok", "tensors": "ok" if verify else "not checked"}
    sizes = summary["bytes"]
    assert sizes["file"] == path.stat().st_size
    assert sizes["file"] == sum(sizes[part] for part in ("header", "constants", "projections", "importance"))
    assert sizes["importance"] == sum(array.nbytes for array in bundle.importance.values()) > 0
    assert sizes["arena"] == 123456
    assert summary["parameters"] == bundle.graph.parameters()
    assert summary["classes"] == list(bundle.classes)
    assert summary["preprocessing"]["layout"] == "NHWC"
    assert (summary["target"], summary["dtype"], summary["objective"]) == ("rpi4", "fp16", "time")
    assert summary["outputs"] == [{"name": "logits", "shape": [5]}]
    layers = {layer["name"]: layer for layer in summary["layers"]}
    assert list(layers) == [layer.node for layer in bundle.plan.layers]
    assert layers["depthwise"]["may_merge"] is False
    assert layers["depthwise"]["why_not"].startswith("depthwise")
    assert layers["strided"]["may_merge"] is True
    assert layers["strided"]["choice"] == "merged"
    assert layers["strided"]["reason"] == "merged in tests"
    assert layers["strided"]["stride"] == [2, 2]
    assert [variant["patch"] for variant in layers["strided"]["variants"]] == [2, 4, 3]
    assert [variant["policy"] for variant in layers["strided"]["variants"]] == ["scaled", "budget", "mean"]
    assert [variant["importance"] for variant in layers["strided"]["variants"]] == ["", "strided.importance", ""]
    assert [entry["flops_reduction"] for entry in summary["levels"]] == [0.0, 20.0, 30.0, 40.0]
    assert [entry["agreement"] for entry in summary["levels"]] == [100.0, None, 98.76, 0.0]
    assert [layers[name]["algorithm"] for name in ("residual", "strided")] == ["winograd4", "direct"]
    assert [v["algorithm"] for v in layers["residual"]["variants"]] == ["winograd2", "direct", "direct"]
    assert summary["levels"][2]["choices"]["strided"] == {"variant": 1, "bits": 4, "budget": 1 / 3}


def test_only_verifying_looks_at_the_tensors(tmp_path: Path) -> None:
    path = tmp_path / "net.haste"
    write_bundle(path, full_bundle())
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert inspect_bundle(path)["levels"]
    for read in (read_bundle, lambda p: inspect_bundle(p, verify=True)):
        with pytest.raises(bundle_errors.TensorChecksumError):
            read(path)


# --- the errors ------------------------------------------------------------------------------------------------------

CLASSES = [
    c for c in vars(bundle_errors).values() if isinstance(c, type) and issubclass(c, bundle_errors.BundleFileError)
]


@pytest.mark.parametrize("cause", CLASSES, ids=[c.__name__ for c in CLASSES])
def test_each_cause_has_words_and_advice(cause: type[bundle_errors.BundleFileError]) -> None:
    error = cause("net.haste is broken.")
    assert isinstance(error, BundleError)
    assert isinstance(error, ValueError)
    assert error.exit_code == 3
    assert cause.__doc__
    assert len(cause.__doc__.splitlines()) == 1
    assert error.hint.endswith(".")
    assert cause("net.haste is broken.", "Mend it.").hint == "Mend it."
    back = pickle.loads(pickle.dumps(error))  # worker processes send errors home
    assert (type(back), back.message, back.hint) == (cause, error.message, error.hint)


@pytest.mark.parametrize("narrower", ["first", "second"])
def test_layers_that_share_an_importance_have_as_many_channels(tmp_path: Path, narrower: str) -> None:
    """Each of them is checked: a layer with more channels would read past the end of it."""
    channels = {"first": 6, "second": 6, narrower: 4}
    b = GraphBuilder(0, x=(channels["first"], 8, 8), y=(channels["second"], 8, 8))
    b.conv("first", "x", channels["first"], 3, 3)
    b.conv("second", "y", channels["second"], 3, 3)
    bundle = bundle_for(b.graph("first", "second"), policy="budget")
    layers = tuple(
        replace(layer, variants=tuple(replace(v, importance="shared") for v in layer.variants))
        for layer in bundle.plan.layers
    )
    shared = {"shared": np.ones(4, np.uint16)}
    bundle = replace(bundle, plan=replace(bundle.plan, layers=layers), importance=shared)
    with pytest.raises(bundle_errors.TensorShapeError, match="6 uint16 are needed"):
        write_bundle(tmp_path / "net.haste", bundle)


def test_variants_may_share_a_projection(tmp_path: Path) -> None:
    """Two variants of the same patch size differ in nothing that the matrix depends on."""
    matrix = draw(1, 4, 6)
    variants = (Variant(4, 4, 2 / 3, 1, "shared"), Variant(4, 4, 2 / 3, 1, "shared"))
    plan = Plan((LayerPlan("conv", variants, "twice"),), (Level({}, 0.0, 0.0), Level({"conv": Choice(1, 2)}, 1.0, 1.0)))
    write_bundle(tmp_path / "net.haste", one_conv(plan=plan, projections={"shared": matrix}))
    assert np.array_equal(read_bundle(tmp_path / "net.haste").projections["shared"], matrix)


# --- the specification -----------------------------------------------------------------------------------------------

SPECIFICATION = Path(__file__).parents[2] / "docs" / "bundle-format.md"


def read_by_the_specification(path: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Manifest and tensors, by the reader that the specification shows."""
    (code,) = re.findall(r"```python\n(.*?)```", SPECIFICATION.read_text("utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    manifest, tensors = names["manifest_and_tensors"](path)
    return manifest, tensors


def test_the_specifications_reader_reads(tmp_path: Path) -> None:
    bundle = stored(full_bundle("fp16"))
    write_bundle(tmp_path / "net.haste", bundle)
    manifest, tensors = read_by_the_specification(tmp_path / "net.haste")
    assert manifest["classes"] == list(bundle.classes)
    assert set(tensors) == {*bundle.graph.constants, *bundle.projections, *bundle.importance}


def test_the_specification_names_every_policy_and_algorithm_and_no_other() -> None:
    (row,) = re.findall(r"^\| `\.\.\.variants` \|.*$", SPECIFICATION.read_text("utf-8"), re.MULTILINE)
    assert set(re.findall(r'`"(\w+)"`', row)) == set(POLICIES)
    (layers,) = re.findall(r"^\| `plan.layers` \|.*$", SPECIFICATION.read_text("utf-8"), re.MULTILINE)
    assert re.findall(r'`"(\w+)"`', layers) == list(ALGORITHMS)
    (section,) = re.findall(r"^## Policies\n(.*?)^## ", SPECIFICATION.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert re.findall(r"^- `(\w+)`", section, re.MULTILINE) == list(POLICIES)


def test_the_specification_lists_every_key(tmp_path: Path) -> None:
    """Of the manifest itself, and of the objects that a version may change: variants, levels, choices."""
    write_bundle(tmp_path / "net.haste", full_bundle())
    manifest, _ = read_by_the_specification(tmp_path / "net.haste")
    table = SPECIFICATION.read_text("utf-8").split("| key |", 1)[1].split("\n\n", 1)[0]
    keys = re.findall(r"`([\w.]+)`", "".join(re.findall(r"^\| ([^|]+) \|", table, re.MULTILINE)))
    assert {key.split(".")[0] for key in keys if not key.startswith(".")} == set(manifest)
    shapes = [set(shape.split(", ")) for shape in re.findall(r"`\{([\w, ]+)\}`", table)]
    level, layer = manifest["ladder"][2], manifest["plan"]["layers"][0]
    for value in (layer, layer["variants"][0], level, level["choices"]["strided"]):
        assert set(value) in shapes


def test_the_specification_lists_every_operator_with_its_attributes_and_constants() -> None:
    listed: dict[str, tuple[set[str], set[str]]] = {}
    for line in SPECIFICATION.read_text("utf-8").split("| op |", 1)[1].splitlines()[2:]:
        if not line.startswith("|"):
            break
        operators, attributes, roles = (re.findall(r"`(\w+)`", cell) for cell in line.split("|")[1:4])
        listed |= dict.fromkeys(operators, (set(attributes), set(roles)))
    assert listed == {name: (set(op.attributes), set(op.roles)) for name, op in OPERATORS.items()}
