"""``haste-edge export``: what it writes computes what the bundle does, in ONNX Runtime and by way of the front end."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from builders import GraphBuilder, bundle_for, random_network, shuffling_network
from exporting import command, metadata, written
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator
from onnx_models import assert_close, channels_first, channels_last, load, on_graph, random_inputs, with_onnxruntime
from random_graphs import RandomGraph, one, steps_of

from haste_edge.compile import VerificationError
from haste_edge.errors import UnsupportedModelError
from haste_edge.exports import export as exporting
from haste_edge.exports import onnx_model, onnx_nodes
from haste_edge.exports.onnx_model import export_onnx
from haste_edge.exports.onnx_nodes import RULES
from haste_runtime import Session
from haste_runtime.attributes import BINARY, MAX_FLOAT, UNARY
from haste_runtime.bundle import Bundle, read_bundle
from haste_runtime.bundle_errors import BundleWriteError
from haste_runtime.graph import Graph, Value
from haste_runtime.operators import OPERATORS
from haste_runtime.preprocessing import LAYOUTS

SHARE = 2e-5  # of the largest output


def checked(graph: Graph, folder: Path, layout: str = "NCHW", read_back: bool = True) -> onnx.ModelProto:
    """The model of a graph, after comparing it with the graph in ONNX Runtime, and by way of the front end."""
    model = onnx_model.onnx_model(bundle_for(graph, layout=layout))
    onnx.checker.check_model(model, full_check=True)
    inputs = random_inputs(graph, 3, seed=1)
    wanted = on_graph(graph, inputs)
    if layout == "NHWC":
        inputs, wanted = channels_last(inputs), channels_last(wanted)
    assert_close(with_onnxruntime(model, inputs), wanted, SHARE)
    assert [output.name for output in model.graph.output] == list(graph.outputs)
    if read_back:
        loaded = load(model, folder)
        assert [value.name for value in loaded.graph.inputs] == [value.name for value in graph.inputs]
        assert loaded.outputs == graph.outputs
        turned = loaded.layout == "NHWC"  # where layouts make no difference, it need not be ours
        again = on_graph(loaded.graph, channels_first(inputs) if turned else inputs)
        assert_close(channels_last(again) if turned else again, wanted, SHARE)
    return model


# --- operators -------------------------------------------------------------------------------------------------------


def test_every_operator_has_a_rule() -> None:
    assert set(RULES) == set(OPERATORS)
    assert set(onnx_nodes.UNARY_RULES) == set(UNARY)
    assert set(onnx_nodes.BINARY_OPERATORS) == set(BINARY)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("seed", range(3))
def test_networks_of_all_operators(seed: int, layout: str, tmp_path: Path) -> None:
    checked(random_network(seed), tmp_path, layout)
    checked(shuffling_network(seed), tmp_path, layout)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("size", [(1, 1), (3, 2), (4, 5), (12, 10), (13, 1)])
@pytest.mark.parametrize("op", ["adaptive_avg_pool", "adaptive_max_pool"])
def test_adaptive_pools(op: str, size: tuple[int, int], layout: str, tmp_path: Path) -> None:
    checked(one(op, (3, 12, 10), size=size), tmp_path, layout)


@pytest.mark.parametrize("rounding", ["floor", "ceil", "half_down", "half_up"])
@pytest.mark.parametrize("coordinates", ["half_pixel", "asymmetric"])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_resizing(mode: str, coordinates: str, rounding: str, tmp_path: Path) -> None:
    """By whole factors, by others, to what corners that stay make of it, and by steps that do not
    follow from sizes; in ONNX Runtime and in onnx's reference, which round their own ways."""
    rest = {"mode": mode, "coordinates": coordinates, "rounding": rounding}
    kinds = set()
    for size, steps in {
        (14, 18): (0.5, 0.5),
        (21, 27): (1 / 3, 1 / 3),
        (7, 3): (1.0, 3.0),
        (3, 4): (7 / 3, 9 / 4),
        (13, 17): (6 / 12, 8 / 16),
        (5, 5): (1.9, 0.7),
        (1, 1): (1.0, 1.0),
    }.items():
        graph = one("resize", (2, 7, 9), size=size, step_y=steps[0], step_x=steps[1], **rest)
        model = checked(graph, tmp_path)
        kinds.add(model.graph.node[-1].op_type)
        inputs = random_inputs(graph, 1, seed=1)
        assert_close(ReferenceEvaluator(model).run(None, {"x0": inputs[0]}), on_graph(graph, inputs), SHARE)
    assert kinds == {"Resize", "Gather" if mode == "nearest" else "Add"}


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("pads", [(1, 2, 3, 0), (0, 0, 0, 0), (0, 4, 0, 4)])
def test_borders(mode: str, pads: tuple[int, ...], tmp_path: Path) -> None:
    checked(one("extend", (2, 5, 6), pads=pads, mode=mode), tmp_path, "NHWC")


def test_windows_whose_padding_is_as_wide_as_they(tmp_path: Path) -> None:
    graph = one("max_pool", (2, 7, 9), kernel=(2, 2), stride=(1, 2), padding=(2, 1, 0, 2), dilation=(3, 3))
    checked(graph, tmp_path)


@pytest.mark.parametrize("size", range(1, 6))
def test_normalising_over_even_and_odd_windows(size: int, tmp_path: Path) -> None:
    """Even ones are written out, with a power that the front end does not read back."""
    checked(one("lrn", (4, 3, 5), size=size, alpha=0.3, beta=0.6, bias=1.5), tmp_path, read_back=size % 2 == 1)


@pytest.mark.parametrize(("low", "high"), [(-MAX_FLOAT, 0.5), (-0.25, MAX_FLOAT), (0.0, 6.0)])
def test_bounds(low: float, high: float, tmp_path: Path) -> None:
    checked(one("unary", (3, 4, 5), function="clip", alpha=low, beta=high), tmp_path)


def test_operands_that_are_repeated(tmp_path: Path) -> None:
    for function in BINARY[:3]:
        rest = {"function": function, "activation": "relu"}
        checked(one("binary", (3, 4, 5), (3, 1, 1), **rest), tmp_path, "NHWC")
        checked(one("binary", (1, 4, 5), (3, 4, 1), **rest), tmp_path)
        constant = np.arange(12).reshape(3, 4, 1)
        checked(one("binary", (3, 4, 5), constants={"other": constant}, **rest), tmp_path)
        checked(one("binary", (2, 3, 4, 5), constants={"other": np.stack([constant] * 2)}, **rest), tmp_path)
        checked(one("binary", (7,), (7,), **rest), tmp_path)


@pytest.mark.parametrize("function", ["mean", "sum", "maximum", "minimum"])
def test_reductions(function: str, tmp_path: Path) -> None:
    for axes in ((0,), (1, 2), (0, 1, 2)):
        checked(one("reduce", (3, 4, 5), function=function, axes=axes), tmp_path)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from(steps_of(RandomGraph)), min_size=1, max_size=8),
    st.sampled_from(LAYOUTS),
    st.integers(0, 2**32 - 1),
)
def test_random_graphs(tmp_path: Path, steps: list[Callable[[RandomGraph], None]], layout: str, seed: int) -> None:
    network = RandomGraph(seed)
    for step in steps:
        if max(network.shape()) < 40:
            step(network)
    assume(network.x != "x")
    checked(network.b.graph(), tmp_path, layout)


# --- names and edges -------------------------------------------------------------------------------------------------


def test_names_stay_and_steps_between_are_named_after_them(tmp_path: Path) -> None:
    b = GraphBuilder(0, x=(3, 6, 6))
    b.conv("first", "x", 3, 3, 3, residual="x", activation="relu")
    b.node("first.conv", "activation", "first", activation="none")  # a name that the first node's step would have
    b.conv("last", "first.conv", 3, 4, 1)
    graph = b.graph("last", "first", "x")
    graph = replace(graph, constants={**graph.constants})
    model = checked(graph, tmp_path, read_back=False)
    assert [(node.op_type, node.name) for node in model.graph.node] == [
        ("Conv", "first.conv_1"),
        ("Add", "first.add"),
        ("Relu", "first"),
        ("Identity", "first.conv"),
        ("Conv", "last"),
    ]
    assert all(node.name == node.output[0] for node in model.graph.node)
    assert {w.name for w in model.graph.initializer} == set(graph.constants)
    assert all(value.type.tensor_type.shape.dim[0].dim_param == "N" for value in model.graph.input)


def test_channels_last_inside_and_out(tmp_path: Path) -> None:
    """A value that leaves and is read again; the input as an output; vectors as they are."""
    b = GraphBuilder(0, x=(3, 6, 6), v=(4,))
    b.conv("first", "x", 3, 5, 3, activation="relu")
    b.node("copy", "activation", "first", activation="none")
    b.conv("second", "first", 5, 2, 3)
    b.linear("scores", "v", 4, 3)
    model = checked(b.graph("first", "second", "copy", "scores", "x"), tmp_path, "NHWC", read_back=False)
    shapes = [[d.dim_value or d.dim_param for d in v.type.tensor_type.shape.dim] for v in model.graph.output]
    assert shapes == [["N", 6, 6, 5], ["N", 6, 6, 2], ["N", 6, 6, 5], ["N", 3], ["N", 6, 6, 3]]


def test_constants_named_like_values(tmp_path: Path) -> None:
    graph = one("scale", (3, 4, 4), constants={"scale": np.ones(3), "shift": np.arange(3)}, activation="none")
    node = replace(graph.nodes[0], constants={"scale": "x0", "shift": "y"})
    constants = {"x0": graph.constants["y.scale"], "y": graph.constants["y.shift"]}
    checked(Graph((Value("x0", (3, 4, 4)),), ("y",), (node,), constants), tmp_path)


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_a_file_takes_and_gives_what_a_session_does(dtype: str, layout: str, tmp_path: Path) -> None:
    path = written(tmp_path, dtype=dtype, layout=layout)
    report = export_onnx(path, tmp_path / "net.onnx")
    assert report.runtime == "onnxruntime"
    assert report.largest_error < SHARE
    assert report.bytes == (tmp_path / "net.onnx").stat().st_size
    with Session(path, backend="numpy") as session:
        shape = [5, *session.inputs[0].shape[1:]]
        x = np.random.default_rng(2).standard_normal(shape, np.float32)
        wanted = session.run(x)
    running = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    assert_close(running.run(None, {"x": x}), [wanted], SHARE)
    model = onnx.load(tmp_path / "net.onnx")
    assert all(w.data_type == onnx.TensorProto.FLOAT for w in model.graph.initializer if w.name in bundle_keys(path))
    said = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert said == metadata(layout)


def bundle_keys(path: Path) -> set[str]:
    return set(read_bundle(path).graph.constants)


def test_the_same_bundle_gives_the_same_bytes(tmp_path: Path) -> None:
    path = written(tmp_path)
    for name in ("one.onnx", "two.onnx"):
        export_onnx(path, tmp_path / name)
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()


def test_without_onnxruntime_the_proof_is_run_in_onnx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    path = written(tmp_path)
    report = export_onnx(path, tmp_path / "net.onnx")
    assert report.runtime == "onnx"
    assert report.largest_error < SHARE
    monkeypatch.setattr(onnx_model, "RULES", {**RULES, "linear": lambda c: c.step("Neg", RULES["linear"](c))})
    with pytest.raises(VerificationError, match="Install onnxruntime"):
        export_onnx(path, tmp_path / "other.onnx")


def test_operators_without_a_rule_are_refused_all_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_model, "RULES", {k: v for k, v in RULES.items() if k not in ("scale", "mean")})
    with pytest.raises(UnsupportedModelError) as caught:
        export_onnx(written(tmp_path), tmp_path / "net.onnx")
    assert [refusal.node for refusal in caught.value.refusals] == ["scaled", "mean", "mean_map", "rescaled"]
    assert all(f"{name} (" in str(caught.value) for name in ("scaled", "mean", "mean_map", "rescaled"))
    assert os.listdir(tmp_path) == ["net.haste"]


def test_a_rule_that_is_wrong_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path)
    monkeypatch.setattr(onnx_model, "RULES", {**RULES, "mean": lambda c: c.step("ReduceMax", *c.inputs, axes=[2, 3])})
    with pytest.raises(VerificationError, match="does not run"):  # the shape of one of the two differs
        export_onnx(path, tmp_path / "net.onnx")
    monkeypatch.setattr(onnx_model, "RULES", {**RULES, "linear": lambda c: c.step("Neg", RULES["linear"](c))})
    with pytest.raises(VerificationError, match="differs from the bundle by"):
        export_onnx(path, tmp_path / "net.onnx")
    assert os.listdir(tmp_path) == ["net.haste"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
@pytest.mark.parametrize("where", ["exports.export.prove", "writing.os.replace"])
def test_an_export_that_ends_early_leaves_the_folder_as_it_was(
    where: str, error: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path)
    (tmp_path / "net.onnx").write_text("of before")

    def stop(*arguments: object) -> None:
        assert len(os.listdir(tmp_path)) == 3  # the partial file is there
        raise error

    monkeypatch.setattr(f"haste_edge.{where}", stop)
    with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else BundleWriteError):
        export_onnx(path, tmp_path / "net.onnx")
    assert sorted(os.listdir(tmp_path)) == ["net.haste", "net.onnx"]
    assert (tmp_path / "net.onnx").read_text() == "of before"


@pytest.mark.parametrize("out", ["", "missing/net.onnx", "net.haste"])
def test_places_that_cannot_be_written(out: str, tmp_path: Path) -> None:
    path = written(tmp_path)
    before = path.read_bytes()
    with pytest.raises(BundleWriteError):
        export_onnx(path, tmp_path / out)
    assert os.listdir(tmp_path) == ["net.haste"]
    assert path.read_bytes() == before


def test_weights_that_no_file_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle: Bundle = bundle_for(random_network(1), dtype="fp16")
    monkeypatch.setattr(exporting, "MOST_BYTES", exporting.ROOM + 1000)
    with pytest.raises(UnsupportedModelError, match="2 GB"):
        onnx_model.onnx_model(bundle)


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path)
    assert command(monkeypatch, str(path)) == 0
    assert "largest error in onnxruntime" in capfd.readouterr().out
    out = tmp_path / "net.level0.onnx"
    out.unlink()
    assert command(monkeypatch, str(path), "--to", "onnx", "-o", str(tmp_path / "b.onnx"), "--json") == 0
    said = json.loads(capfd.readouterr().out)
    assert said["path"] == str(tmp_path / "b.onnx")
    assert said["largest_error"] <= said["tolerance"]
    assert said["bytes"] == (tmp_path / "b.onnx").stat().st_size
    assert said["nodes"] == len(onnx.load(tmp_path / "b.onnx").graph.node)


def test_the_command_says_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = str(written(tmp_path))
    assert command(monkeypatch, path, "--to", "gguf") == 2
    assert "Choose one of: onnx, tflite." in capfd.readouterr().err
    assert command(monkeypatch, str(tmp_path / "none.haste")) == 3
    for name in [name for name in sys.modules if name.startswith("haste_edge.exports")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert command(monkeypatch, path) == 2
    assert 'pip install "haste-edge[onnx]"' in capfd.readouterr().err
    assert os.listdir(tmp_path) == ["net.haste"]


def test_its_help_teaches(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    assert command(monkeypatch, "--help") == 0
    said = capfd.readouterr().out
    assert "haste-edge export net.haste --to onnx" in said
    assert "haste-edge export net.haste --to tflite" in said
