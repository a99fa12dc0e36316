"""The zoo run: what is left to do, resuming, processes that fail, the measuring of a file, and the page. Without
torchvision: exporting is tested on the networks that the exporting script has itself."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx_models import OnnxBuilder

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

import run_zoo
import write_zoo
import zoo_export
import zoo_measure
from run_zoo import Limits, Records, choose
from zoo_members import BY_NAME, MEMBERS, Member

LIMITS = Limits(minutes=2, memory=8)
SMALL = Member("small", "Small", source="own", size=32)


def compiled(name: str, error: float = 1e-6, **changed: Any) -> dict[str, Any]:
    member = BY_NAME[name]
    return {
        "name": name, "size": member.size, "channels": member.channels, "ladder": member.ladder,
        "parameters": 5_000_000, "state": "compiled", "error": error, "proof": 1e-7,
        "flops": 2_000_000_000, "convolutions": 20, "may_merge": 15,
        "may_merge_flops": 1_000_000_000,
        "levels": [{"level": 0, "flops_saved": 0.0}, {"level": 1, "flops_saved": 30.0}],
        "cpu_ms": [20.0, 15.0], "onnxruntime_cpu_ms": 21.0, "compile_seconds": 9.0, "planned_on": 1, "alone": False,
    } | changed  # fmt: skip


def refused(name: str) -> dict[str, Any]:
    member, refusal = BY_NAME[name], {"operation": "Erf", "reason": "No kernel.", "hint": "Rewrite it."}
    record = {"name": name, "size": member.size, "channels": 3, "ladder": False, "parameters": 1}
    return record | {"state": "refused", "reason": "The model has 1 operation ...", "refusals": [refusal]}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Two convolutions, of which the second may merge, and scores."""
    b = OnnxBuilder(pixels=(1, 3, 32, 32))
    x = b("Conv", "pixels", b.random(16, 3, 3, 3, scale=0.2), pads=[1, 1, 1, 1])
    x = b("Conv", b("Relu", x), b.random(16, 16, 3, 3, scale=0.1), pads=[1, 1, 1, 1])
    x = b("Flatten", b("GlobalAveragePool", b("Relu", x)))
    b("Gemm", x, b.random(16, 5), b.random(5))
    path = tmp_path / "small.onnx"
    onnx.save(b.model(), path)
    return path


# --- measuring -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ladder", [False, True])
def test_a_file_is_compiled_compared_and_timed(
    model: Path, ladder: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zoo_measure, "LEVELS", 1)
    zoo_measure.main(["both", str(model), str(model.with_suffix(".haste")), *(["--ladder"] if ladder else [])])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["state"] == "compiled"
    assert result["error"] < 1e-5
    assert (result["convolutions"], result["may_merge"]) == (2, 1)
    assert result["flops"] == 2 * (32 * 32 * 9 * 16 * (3 + 16) + 16 * 5)
    assert result["may_merge_flops"] == 2 * 32 * 32 * 9 * 16 * 16
    assert len(result["cpu_ms"]) == len(result["levels"]) == (2 if ladder else 1)
    assert result["cpu_ms"][0] > 0
    assert result["onnxruntime_cpu_ms"] > 0
    assert not list(model.parent.glob("*.npz"))


def test_the_error_is_of_the_file(model: Path, tmp_path: Path) -> None:
    """A bundle of other weights is told from the file."""
    bundle = tmp_path / "small.haste"
    zoo_measure.compile_file(model, bundle, False, lambda step: None)
    content = onnx.load(model)
    weights = content.graph.initializer[0]
    array = onnx.numpy_helper.to_array(weights).copy()
    weights.CopyFrom(onnx.numpy_helper.from_array(1.01 * array, weights.name))
    onnx.save(content, model)
    error = zoo_measure.error_of_level_0(model, zoo_measure.read_bundle(bundle))["error"]
    assert 1e-4 < error < 0.1


def test_a_refusal_is_a_result_in_the_compilers_words(tmp_path: Path) -> None:
    b = OnnxBuilder(x=(1, 3, 8, 8))
    b("Det", b("MatMul", "x", b.random(8, 8)))
    path = tmp_path / "refused.onnx"
    onnx.save(b.model(), path)
    result = zoo_measure.compile_file(path, tmp_path / "out.haste", False, lambda step: None)
    assert result["state"] == "refused"
    assert "Det" in {refusal["operation"] for refusal in result["refusals"]}
    (tmp_path / "damaged.onnx").write_bytes(b"damaged")
    result = zoo_measure.compile_file(tmp_path / "damaged.onnx", tmp_path / "out.haste", False, lambda step: None)
    assert (result["state"], result["refusals"]) == ("refused", [])
    assert "damaged" in result["reason"]


# --- exporting -------------------------------------------------------------------------------------------------------


def test_networks_of_our_own_have_their_published_shapes() -> None:
    with torch.no_grad():
        assert zoo_export.ESPCN()(torch.zeros(1, 1, 10, 12)).shape == (1, 1, 30, 36)
        assert zoo_export.UNet(width=2)(torch.zeros(1, 3, 572, 572)).shape == (1, 2, 388, 388)
    assert sum(p.numel() for p in zoo_export.ESPCN().parameters()) == 22_729
    with torch.device("meta"):  # the paper's network, which has one input channel, is known to have 31.03 million
        count = sum(p.numel() for p in zoo_export.UNet().parameters())
    assert count - 2 * 64 * 9 == pytest.approx(31.03e6, rel=1e-3)


def test_calibration_keeps_numbers_in_range_and_norms_different() -> None:
    torch.manual_seed(0)
    blocks = [torch.nn.Sequential(torch.nn.Conv2d(8, 8, 3, padding=1), torch.nn.BatchNorm2d(8)) for _ in range(20)]
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 1), *blocks, torch.nn.Conv2d(8, 8, 3), torch.nn.Dropout(0.9))
    with torch.no_grad():
        network[0].weight *= 1e-4
    generator = torch.Generator().manual_seed(0)
    zoo_export.randomise(network, generator)
    zoo_export.calibrate(network, zoo_export.noise(4, 3, 16, generator))
    x = zoo_export.noise(4, 3, 16, generator)
    with torch.no_grad():
        assert 0.5 < float(network(x).std()) < 2
        assert torch.equal(network(x), network(x)), "in evaluation mode again"
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert all(float(p.detach().std()) > 0.01 for norm in norms for p in norm.parameters())
    assert all(float((norm.running_var - 1).abs().max()) > 1e-3 for norm in norms)


def test_a_network_is_exported_compiled_and_recorded(tmp_path: Path) -> None:
    """All three processes, as they are for torchvision's."""
    member = Member("espcn", "ESPCN", source="own", size=16, channels=1)
    record = run_zoo.do(member, Path(sys.executable), tmp_path, LIMITS)
    assert record["state"] == "compiled", record
    assert record["parameters"] == 22_729
    assert record["outputs"] == {"pixel_shuffle": [1, 48, 48]} or len(record["outputs"]) == 1
    assert record["error"] < 1e-5
    assert record["alone"] is False
    assert "error" in run_zoo.told(record)


# --- what is left, and what fails ------------------------------------------------------------------------------------


def test_members_have_names_of_their_own() -> None:
    assert len(BY_NAME) == len(MEMBERS)
    families = [{member.family for member in members} for members in (MEMBERS, [m for m in MEMBERS if m.ladder])]
    assert families[0] - families[1] == {"FCN"}, "whose ladder would take an hour"
    assert "regnet_x_400mf" in BY_NAME
    assert "regnet_y_128gf" in BY_NAME


def test_what_is_recorded_is_not_done_again(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "zoo.jsonl"
    records = Records(file)
    records.put(refused("unet"))
    records.put(compiled("resnet18"))
    records.put({"name": run_zoo.ENVIRONMENT, "versions": {}})
    known = Records(file).found
    assert list(known) == [run_zoo.ENVIRONMENT, "resnet18", "unet"], "in the order of the members"
    assert {m.name for m in choose(MEMBERS, known, "", False, False)} == {*BY_NAME} - {"unet", "resnet18"}
    assert [m.name for m in choose(MEMBERS, known, "unet,resnet18", False, False)] == []
    assert [m.name for m in choose(MEMBERS, known, "unet, resnet18", False, True)] == ["unet"]
    assert [m.name for m in choose(MEMBERS, known, "vgg11,resnet18,alexnet", True, False)] == [
        "vgg11",
        "resnet18",
        "alexnet",
    ]
    with pytest.raises(SystemExit, match="resnet17"):
        choose(MEMBERS, known, "resnet17", False, False)
    records.put(compiled("unet"))
    assert len(file.read_text().splitlines()) == 3, "another run of the same model replaces the first"


def test_a_process_that_fails_harms_its_own_model_only(tmp_path: Path) -> None:
    record = run_zoo.do(SMALL, Path(sys.executable), tmp_path, LIMITS)
    assert record["state"] == "failed"
    assert "KeyError" in record["reason"] or "small" in record["reason"]
    assert run_zoo.told(record).startswith("failed: exporting it")


def test_an_export_that_is_there_is_used(model: Path) -> None:
    model.with_suffix(".export.json").write_text('{"parameters": 3, "opset": 17}')
    record = run_zoo.do(SMALL, Path("/no/python"), model.parent, LIMITS)
    assert (record["state"], record["parameters"]) == ("compiled", 3)


def test_a_time_limit_ends_a_process(tmp_path: Path) -> None:
    with pytest.raises(run_zoo.ProcessError, match="did not end"):
        run_zoo.run_json([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path / "log", 0.5 / 60)


# --- the page --------------------------------------------------------------------------------------------------------


def test_the_page_counts_and_names_what_is_missing() -> None:
    environment = {"name": "environment", "versions": {"torch": "9.9"}, "ours": {"onnx": "8.8"}}
    environment["classifiers"] = ["resnet18", "resnet34", "vgg11", "convnext_tiny", "vit_b_16"]
    records = {r["name"]: r for r in (compiled("resnet18"), compiled("vgg11", 0.5), refused("convnext_tiny"))}
    text = write_zoo.page({"environment": environment, **records})
    assert "4 convolutional classifiers 1 (25.0 %)" in text
    assert "not reached" in text
    assert "1 of them have not been run yet: `resnet34`" in text
    assert "transformers: `vit_b_16`" in text
    assert "The largest error is 5.0e-01, of `vgg11`" in text
    assert "| `resnet18` | 3x224x224 | 5.0 | 2.00 | 1.0e-06 | 15 of 20 | 50 | 20.0 | 21.0 |" in text
    assert "| `convnext_tiny` | 3x224x224 | 0.0 |  | refused |" in text
    assert "| refused | `convnext_tiny` | Erf | No kernel. Rewrite it. |" in text
    assert "| `resnet18` | 20.0 | 15.0 (30 %) | 9 |" in text, "a ladder"
    assert "torch 9.9" in text


def test_a_page_of_everything() -> None:
    text = write_zoo.page({member.name: compiled(member.name) for member in MEMBERS})
    assert "(100.0 %)" in text
    assert ": reached" in text
    assert "not been run yet" not in text
    assert "Nothing of what was run." in text


def test_no_records_no_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["write_zoo.py", "--results", str(tmp_path / "none.jsonl")])
    with pytest.raises(SystemExit, match=r"run_zoo\.py"):
        write_zoo.main()
