"""``haste-edge bench`` where the others get our own exports: files as sources, and what those peers run that are
installed here."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from builders import GraphBuilder, bundle_for
from onnx_models import OnnxBuilder, assert_close, channels_last, on_graph, random_inputs
from tflite_models import with_litert

from haste_edge import cli
from haste_edge.bench import compare, own_exports
from haste_edge.bench.peers import OWN_ONNX, OWN_PNNX, OWN_TFLITE, Own
from haste_edge.bench.rounds import laid_out_like
from haste_edge.bench.source import OWN_NETWORK, read_source
from haste_edge.errors import ModelError
from haste_edge.exports.onnx_model import export_onnx
from haste_edge.exports.tflite_model import export_tflite
from haste_edge.frontends import load_model
from haste_edge.passes import run_passes
from haste_runtime.bundle import Bundle, read_bundle, write_bundle
from haste_runtime.preprocessing import Preprocessing

Run = Callable[..., tuple[int, str, str]]


def network(head: bool = True, dtype: str = "fp32", layout: str = "NHWC") -> Bundle:
    """With a shortcut that leaves out pixels and adds channels; maps leave it without a ``head``."""
    b = GraphBuilder(0, x=(3, 9, 9))
    b.conv("stem", "x", 3, 6, 3, activation="relu")
    b.node("fewer", "slice", "stem", starts=(0, 0, 0), stops=(6, 9, 9), steps=(1, 2, 2))
    b.node("wider", "pad", "fewer", pads=(1, 1, 0, 0, 0, 0), value=0.0)
    b.conv("down", "stem", 6, 8, 3, 2, residual="wider", activation="relu")
    if head:
        b.node("mean", "mean", "down", keepdim=0)
        b.linear("scores", "mean", 8, 4)
    bundle = bundle_for(b.graph(), dtype=dtype, layout=layout)
    return replace(bundle, preprocessing=Preprocessing(scale=255.0, layout=layout))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """haste-edge in a folder with net.haste and its exports: (exit code, stdout, stderr). Every runtime's environment
    is this one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(compare, "python_of", lambda *arguments: Path(sys.executable))
    monkeypatch.setattr(compare, "bench_folder", lambda: tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["haste-edge", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capfd.readouterr()
        return int(ended.value.code or 0), out, err

    return call


def bench(run: Run, *arguments: str) -> dict[str, Any]:
    options = ("--levels", "0", "--rounds", "1", "--burst", "1", "--json")
    code, out, err = run("bench", "net.haste", "--against", "onnxruntime,litert", *options, *arguments)
    assert code == 0, err
    result = json.loads(out)
    assert isinstance(result, dict)
    return result


# --- files as sources ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", [True, False])
@pytest.mark.parametrize("suffix", ["onnx", "tflite"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_a_file_is_a_source(layout: str, suffix: str, head: bool, tmp_path: Path) -> None:
    """What it gives is laid out as a torch network would, whatever the layouts of the file and the bundle are."""
    path, file = tmp_path / "net.haste", tmp_path / f"net.{suffix}"
    write_bundle(path, network(head, layout=layout))
    (export_onnx if suffix == "onnx" else export_tflite)(path, file)
    bundle = read_bundle(path)
    source = read_source(bundle, str(file), None, None)
    assert source.own is not None
    assert source.own.preprocessing.layout == "NCHW"
    assert source.name == f"net.{suffix}, by haste-edge's own exports"
    frames = np.random.default_rng(0).standard_normal((2, 3, 9, 9), np.float32)
    assert_close([source.outputs(frames)[:, 0]], on_graph(bundle.graph, [frames]), 1e-5)
    assert read_source(bundle, str(file), None, None).key == source.key != read_source(bundle, None, None, None).key


def test_a_file_of_any_size_is_read_at_the_size_of_the_bundle(tmp_path: Path) -> None:
    b = OnnxBuilder(x=("N", 3, "H", "W"))
    x = b("GlobalAveragePool", b("Conv", "x", b.random(4, 3, 3, 3), b.random(4)))
    onnx.save(b.model(b("Flatten", x)), tmp_path / "any.onnx")
    graph = run_passes(load_model(str(tmp_path / "any.onnx"), None, "1x3x7x8").graph)
    source = read_source(bundle_for(graph), str(tmp_path / "any.onnx"), None, None)
    assert source.shape == (1, 3, 7, 8)
    with pytest.raises(ModelError, match="takes"):
        read_source(bundle_for(graph), str(tmp_path / "any.onnx"), None, "1x3x9x9")


def test_our_own_exports_may_be_asked_for() -> None:
    plain, own = (read_source(network(), None, None, None, by_us) for by_us in (False, True))
    assert (plain.own is None, own.own is None) == (True, False)
    assert own.name == f"{OWN_NETWORK}, by haste-edge's own exports"
    assert plain.key != own.key


# --- what the others get ---------------------------------------------------------------------------------------------


def written(step: Own, bundle: Bundle, folder: Path) -> Path:
    said: list[str] = []
    for _ in range(2):
        own_exports.write_own(step, folder, bundle, said.append)
    assert said == [f"Writing the network as {step.file}"]
    return folder / step.file


@pytest.mark.parametrize("step", [OWN_ONNX, OWN_PNNX])
def test_an_onnx_file_takes_one_frame(step: Own, tmp_path: Path) -> None:
    bundle = network(layout="NCHW")
    path = written(step, bundle, tmp_path)
    onnx.checker.check_model(str(path), full_check=True)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == [1, 3, 9, 9]
    inputs = random_inputs(bundle.graph, 1, seed=0)
    assert_close(session.run(None, {"x": inputs[0]}), on_graph(bundle.graph, inputs))
    kinds = {node.op_type for node in onnx.load(path).graph.node}
    assert kinds & {"Slice", "Pad", "MaxPool", "Concat"} == (
        {"Slice", "Pad"} if step == OWN_ONNX else {"MaxPool", "Concat"}
    )


def test_a_tflite_file(tmp_path: Path) -> None:
    bundle = network()
    inputs = random_inputs(bundle.graph, 2, seed=0)
    path = written(OWN_TFLITE, bundle, tmp_path)
    assert_close(with_litert(path, channels_last(inputs)), on_graph(bundle.graph, inputs))


@pytest.mark.parametrize(
    ("starts", "stops", "steps", "ops"),
    [
        ((0, 0, 0), (3, 8, 9), (1, 2, 2), ["max_pool"]),
        ((0, 0, 0), (3, 7, 9), (1, 2, 3), ["max_pool"]),
        ((0, 1, 0), (3, 8, 9), (1, 2, 2), ["slice", "max_pool"]),
        ((1, 0, 0), (3, 8, 9), (1, 1, 2), ["slice", "max_pool"]),
        ((0, 0, 0), (3, 4, 9), (1, 2, 2), ["slice", "max_pool"]),
        ((0, 0, 0), (3, 8, 9), (2, 1, 1), ["slice"]),
    ],
)
def test_slices_with_a_step_become_pools_for_ncnn(
    starts: tuple[int, ...], stops: tuple[int, ...], steps: tuple[int, ...], ops: list[str]
) -> None:
    b = GraphBuilder(0, x=(3, 8, 9))
    b.node("y", "slice", "x", starts=starts, stops=stops, steps=steps)
    graph = own_exports.pool_instead_of_slice(b.graph())
    assert [node.op for node in graph.nodes] == ops
    inputs = random_inputs(graph, 1, seed=0)
    assert_close(on_graph(graph, inputs), on_graph(b.graph(), inputs), 0)


def test_maps_may_come_with_channels_last() -> None:
    expected = np.random.default_rng(0).standard_normal((2, 1, 3, 4, 5)).astype(np.float32)
    last = np.moveaxis(expected, 2, -1)
    assert laid_out_like(expected, last).shape == expected.shape
    assert np.array_equal(laid_out_like(expected, last), expected)
    assert laid_out_like(expected, expected) is expected
    cube = np.random.default_rng(0).standard_normal((2, 1, 3, 3, 3)).astype(np.float32)
    assert np.array_equal(laid_out_like(cube, np.moveaxis(cube, 2, -1)), cube)  # where shapes don't tell
    assert laid_out_like(cube, cube) is cube
    scores = np.zeros((2, 1, 4), np.float32)
    assert laid_out_like(scores, scores) is scores


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "dtype", "head"),
    [("tflite", "fp32", True), ("onnx", "fp32", False), ("tflite", "int8", False), ("", "fp16", True)],
)
def test_others_run_our_exports(source: str, dtype: str, head: bool, run: Run, tmp_path: Path) -> None:
    """The file is of the network before its weights were rounded; the others get the bundle's."""
    write_bundle(tmp_path / "net.haste", network(head))
    if source:
        (export_onnx if source == "onnx" else export_tflite)(tmp_path / "net.haste", tmp_path / f"net.{source}")
    write_bundle(tmp_path / "net.haste", network(head, dtype))
    result = bench(run, *(("--source", f"net.{source}") if source else ("--own-exports",)))
    assert result["own_exports"]
    assert result["missing"] == []
    assert [row["runtime"] for row in sorted(result["rows"], key=lambda row: row["runtime"])] == [
        "haste-edge", "litert", "onnxruntime",
    ]  # fmt: skip
    errors = [row["largest_error"] for row in result["rows"]]
    if dtype == "fp32" or not source:
        assert max(errors) < 1e-4
    else:  # all share what rounding changes
        assert max(errors) < 2 * min(errors) < 0.1


def test_an_export_that_is_not_what_level_0_is_takes_no_part(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bundle(tmp_path / "net.haste", network(dtype="int8"))
    of_another = own_exports.WRITERS["model.tflite"](network(dtype="fp32"))
    monkeypatch.setitem(own_exports.WRITERS, "model.tflite", lambda bundle: of_another)  # type: ignore[index]
    result = bench(run, "--own-exports")
    assert [missing["runtime"] for missing in result["missing"]] == ["litert"]
    assert "differs by" in result["missing"][0]["reason"]


def test_what_cannot_be_exported_is_named(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    b = GraphBuilder(0, x=(3, 6, 6))
    b.node("normal", "lrn", "x", size=2, alpha=0.1, beta=0.5, bias=1.0)
    b.conv("y", "normal", 3, 4, 3)
    write_bundle(tmp_path / "net.haste", bundle_for(b.graph()))
    result = bench(run, "--own-exports")
    assert [missing["runtime"] for missing in result["missing"]] == ["litert"]
    assert "normal (lrn): It normalises over 2 channels" in result["missing"][0]["reason"]
    assert "\n" not in result["missing"][0]["reason"]
    for name in [name for name in sys.modules if name.startswith("haste_edge.exports.onnx")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "onnx", None)
    (tmp_path / "networks").rename(tmp_path / "before")
    result = bench(run, "--own-exports")
    assert "Writing .onnx files needs the package onnx." in [missing["reason"] for missing in result["missing"]]


@pytest.mark.filterwarnings("ignore")  # TorchScript is deprecated, and tracing says what it makes constant
def test_torch_can_optimise_the_network_of_a_bundle() -> None:
    """Clamps with whole numbers made it fail."""
    b = GraphBuilder(0, x=(3, 9, 9))
    b.conv("first", "x", 3, 6, 3, activation="relu")
    b.conv("second", "first", 6, 6, 3, activation="relu6")
    source = read_source(bundle_for(b.graph()), None, None, None)
    x = torch.randn(1, 3, 9, 9)
    with torch.no_grad():
        script = torch.jit.trace(torch.export.export(source.module, (x,), strict=False).module(), x)
        frozen = torch.jit.optimize_for_inference(torch.jit.freeze(script.eval()))
        assert torch.allclose(frozen(x), source.module(x), atol=1e-5)
