"""The compiler as a whole: what it makes computes what the model does, and what goes wrong leaves no file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from haste_edge import compile as compiler
from haste_edge.compile import CompileReport, VerificationError, compare, compile_model, difference, random_inputs
from haste_edge.errors import ModelError, PlanError, TargetError
from haste_edge.plan.make import PlanMade
from haste_edge.targets import load_target
from haste_runtime import Session
from haste_runtime.bundle import read_bundle
from haste_runtime.bundle_errors import BundleWriteError
from haste_runtime.errors import HasteError, InputError
from haste_runtime.graph import Graph, Value
from haste_runtime.memory import arena_bytes
from haste_runtime.plan import LayerPlan, Level, Plan
from haste_runtime.preprocessing import Preprocessing

SHAPE = (1, 3, 16, 16)


def small_network(outputs: int = 5) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, outputs),
    )


class TwoInTwoOut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.linear = nn.Linear(4, 2)

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        y = self.conv(a) + b
        return y, self.linear(y.mean((2, 3)))


class Segmenting(nn.Module):
    """Squeeze-and-excitation, a channel shuffle, upsampling by a transposed convolution and by interpolation."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.stem = nn.Sequential(nn.Conv2d(3, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12), nn.Hardswish())
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(12, 3, 1), nn.ReLU(), nn.Conv2d(3, 12, 1))
        self.middle = nn.Sequential(nn.Conv2d(12, 12, 3, padding=1), nn.PReLU(12), nn.ChannelShuffle(3))
        self.up = nn.Sequential(nn.ConvTranspose2d(12, 8, 4, 2, 1), nn.SiLU())
        self.head = nn.Conv2d(20, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.middle(x * self.gate(x).sigmoid())
        wide = nn.functional.interpolate(x, scale_factor=2, mode="bilinear")
        return self.head(torch.cat([self.up(x), wide], 1)).softmax(1)


def dense_plan(graph: Graph, *_: Any, **__: Any) -> PlanMade:
    """In place of the planner, where the plan does not matter and time does."""
    convolutions = [node.name for node in graph.nodes if node.op == "conv"]
    layers = tuple(LayerPlan(name, (), "not planned") for name in convolutions)
    return PlanMade(Plan(layers, (Level({}, 0.0, 0.0),)), {}, {})


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "make_plan", dense_plan)


# --- what comes out -------------------------------------------------------------------------------------------------


def test_a_network_that_segments_runs_at_every_level(tmp_path: Path) -> None:
    model, out = Segmenting(), tmp_path / "net.haste"
    compile_model(model, out, input_shape=SHAPE, levels=2)
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        wanted = model.eval()(x).numpy()
    for backend in ("numpy", "numba"):
        with Session(out, backend=backend) as session:
            np.testing.assert_allclose(session.run(x.numpy()), wanted, atol=1e-4)
            session.level = 2
            shares = session.run(x.numpy())
            assert session.stats.layers
            np.testing.assert_allclose(shares.sum(1), 1, atol=1e-5)


def test_a_compiled_module_computes_what_the_module_does_and_can_compress(tmp_path: Path) -> None:
    model, out = small_network(), tmp_path / "net.haste"
    steps: list[str] = []
    report = compile_model(model, out, input_shape=SHAPE, levels=4, objective="flops", on_step=steps.append)
    assert [path.name for path in tmp_path.iterdir()] == ["net.haste"]
    assert 0 <= report.largest_error <= report.tolerance == 1e-4
    assert report.rounding_error is None
    assert list(report.seconds) == ["load", "passes", "check", "plan", "write", "verify"]
    assert len(steps) >= len(report.seconds)
    with Session(out, backend="numpy") as session:
        x = torch.randn(2, 3, 16, 16)
        with torch.no_grad():
            wanted = model.eval()(x).numpy()
        np.testing.assert_allclose(session.run(x.numpy()), wanted, atol=1e-4 * np.abs(wanted).max())
        assert len(session.levels) == 5
        session.level = 4
        session.run(x.numpy())
        assert session.stats.layers


def test_the_report_is_json_about_the_bundle(tmp_path: Path, quick: None) -> None:
    out = tmp_path / "net.haste"
    report = compile_model(small_network(), out, input_shape="1x3x16x16", target="rpi4")
    about = report.as_json()
    bundle = read_bundle(out)
    assert about["bundle"] == str(out)
    assert about["bytes"]["file"] == out.stat().st_size
    assert about["target"] == bundle.target == "rpi4"
    lanes = load_target("rpi4").simd.lanes
    assert about["bytes"]["arena"] == bundle.arena_bytes == arena_bytes(bundle.graph, bundle.plan, lanes)
    assert about["largest_error"] == report.largest_error
    assert about["tolerance"] == 1e-4
    assert set(about["seconds"]) == set(report.seconds)
    assert [level["level"] for level in about["levels"]] == [0]
    assert bundle.made_by.startswith("haste-edge ")


def test_a_factory_with_weights_a_module_and_a_pt2_are_the_same(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = small_network().eval()
    with torch.no_grad():
        model[3].weight *= 2  # unlike what the factory makes
    save_file(model.state_dict(), "weights.safetensors")
    Path("factory_for_compile.py").write_text(
        f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_compile import small_network as network\nsys.path.pop(0)\n"
    )
    batch = torch.export.Dim("batch")
    program = torch.export.export(model, (torch.randn(2, *SHAPE[1:]),), dynamic_shapes=({0: batch},))
    torch.export.save(program, "net.pt2")
    compile_model(model, "module.haste", input_shape=SHAPE)
    compile_model("factory_for_compile:network", "factory.haste", weights="weights.safetensors", input_shape=SHAPE)
    compile_model("net.pt2", "pt2.haste")
    x = np.random.default_rng(0).standard_normal((1, 3, 16, 16), np.float32)
    answers = [Session(name, backend="numpy").run(x) for name in ("module.haste", "factory.haste", "pt2.haste")]
    np.testing.assert_array_equal(answers[0], answers[1])
    np.testing.assert_allclose(answers[0], answers[2], rtol=1e-5)


def test_rounded_weights_say_what_rounding_costs(tmp_path: Path, quick: None) -> None:
    def compiled(dtype: str) -> CompileReport:
        return compile_model(small_network(), tmp_path / dtype, input_shape=SHAPE, dtype=dtype)

    full, half, eighth = compiled("fp32"), compiled("fp16"), compiled("int8")
    assert full.rounding_error is None
    assert half.rounding_error is not None
    assert eighth.rounding_error is not None
    assert full.tolerance < half.rounding_error < 1e-2
    assert half.rounding_error < eighth.rounding_error < 1e-1
    assert max(half.largest_error, eighth.largest_error) <= full.tolerance  # of the rounded network
    sizes = [(tmp_path / dtype).stat().st_size for dtype in ("fp32", "fp16", "int8")]
    assert sizes == sorted(sizes, reverse=True)


def test_channels_last_is_what_the_session_then_takes(tmp_path: Path, quick: None) -> None:
    arrays = {}
    for layout in ("NCHW", "NHWC"):
        path = tmp_path / f"{layout}.haste"
        compile_model(small_network(), path, input_shape=SHAPE, preprocessing=Preprocessing(layout=layout))
        with Session(path, backend="numpy") as session:
            x = np.random.default_rng(0).standard_normal((1, 3, 16, 16), np.float32)
            arrays[layout] = session.run(x if layout == "NCHW" else x.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(arrays["NCHW"], arrays["NHWC"])


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_several_inputs_and_outputs(tmp_path: Path, quick: None, layout: str) -> None:
    report = compile_model(
        TwoInTwoOut(), tmp_path / "net.haste", input_shape="1x3x8x8,1x4x8x8", preprocessing=Preprocessing(layout=layout)
    )
    assert report.largest_error <= 1e-4
    assert len(report.summary["outputs"]) == 2


def test_the_same_model_and_seed_give_the_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        compile_model(small_network(), tmp_path / name, input_shape=SHAPE, levels=4, seed=seed)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_what_the_bundle_carries(tmp_path: Path, quick: None) -> None:
    preprocessing, classes = Preprocessing((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 255.0, "NCHW", "BGR"), tuple("abcde")
    compile_model(small_network(), tmp_path / "net", input_shape=SHAPE, preprocessing=preprocessing, classes=classes)
    bundle = read_bundle(tmp_path / "net")
    assert (bundle.preprocessing, bundle.classes) == (preprocessing, classes)


# --- the proof ------------------------------------------------------------------------------------------------------


def spoil(graph: Graph) -> Graph:
    """Changes one weight a little, as a wrong pass would."""
    constants = dict(graph.constants)
    key = next(key for key, constant in constants.items() if constant.ndim == 4)
    constants[key] = constants[key].copy()
    constants[key][0, 0, 0, 0] += 0.1
    return replace(graph, constants=constants)


def test_a_wrong_pass_is_caught(tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    right = compiler.run_passes
    monkeypatch.setattr(compiler, "run_passes", lambda graph: spoil(right(graph)))
    with pytest.raises(VerificationError, match="after the compiler's passes differs"):
        compile_model(small_network(), tmp_path / "net.haste", input_shape=SHAPE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "int8"])
def test_a_wrong_file_is_caught_and_the_old_one_stays(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    write = compiler.write_bundle
    (tmp_path / "net.haste").write_text("the old one")
    monkeypatch.setattr(compiler, "write_bundle", lambda path, b: write(path, replace(b, graph=spoil(b.graph))))
    with pytest.raises(VerificationError, match="read back and run") as caught:
        compile_model(small_network(), tmp_path / "net.haste", input_shape=SHAPE, dtype=dtype)
    assert caught.value.exit_code == 6
    assert [path.name for path in tmp_path.iterdir()] == ["net.haste"]
    assert (tmp_path / "net.haste").read_text() == "the old one"


@pytest.mark.parametrize("where", ["make_plan", "write_bundle", "run_bundle", "writing.os.replace"])
@pytest.mark.parametrize("what", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_compile_leaves_the_folder_as_it_was(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch, where: str, what: type[BaseException]
) -> None:
    def interrupted(*arguments: Any, **keywords: Any) -> None:
        raise what

    module = "haste_edge." if where.startswith("writing.") else "haste_edge.compile."
    monkeypatch.setattr(f"{module}{where}", interrupted)
    with pytest.raises(what):
        compile_model(small_network(), tmp_path / "net.haste", input_shape=SHAPE)
    assert list(tmp_path.iterdir()) == []


class Infinite(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(x * 3e38)
        return torch.flatten(y + y, 1)


def test_an_original_without_finite_outputs_proves_nothing(tmp_path: Path, quick: None) -> None:
    with pytest.raises(VerificationError, match="NaN or infinity"):
        compile_model(Infinite(), tmp_path / "net.haste", input_shape=SHAPE)
    assert list(tmp_path.iterdir()) == []


def test_the_difference_is_a_share_of_the_largest_output() -> None:
    wanted = {"y": np.float32([100, -200, 0]), "z": np.float32([1e-6])}
    assert difference(wanted, wanted) == 0
    assert difference(wanted, {"y": np.float32([101, -200, 0]), "z": wanted["z"]}) == pytest.approx(1 / 200)
    assert difference(wanted, {"y": wanted["y"], "z": np.float32([2e-6])}) == pytest.approx(1)
    assert difference(wanted, {"y": np.float32([np.nan, 0, 0]), "z": wanted["z"]}) == np.inf
    assert difference({"y": np.zeros(3, np.float32)}, {"y": np.float32([0, 0.5, 0])}) == 0.5
    assert compare(wanted, wanted, 1e-4, "It") == 0
    with pytest.raises(VerificationError, match="It differs"):
        compare(wanted, {"y": wanted["y"], "z": np.float32([2e-6])}, 1e-4, "It")


def test_random_inputs_have_the_range_of_pictures_where_pictures_go() -> None:
    pixels = Preprocessing((0.0,), (1.0,), 1.0)
    graph = Graph((Value("x", (3, 8, 8)),), ("x",), (), {})
    x = random_inputs(graph, pixels, 4, seed=0)["x"]
    assert x.shape == (4, 3, 8, 8)
    assert 200 < x.max() <= 255
    assert x.min() == 0
    np.testing.assert_array_equal(x, random_inputs(graph, pixels, 4, seed=0)["x"])
    graph = Graph((Value("x", (3, 8, 8)), Value("v", (7,))), ("x",), (), {})
    inputs = random_inputs(graph, pixels, 2, seed=0)
    assert {name: array.shape for name, array in inputs.items()} == {"x": (2, 3, 8, 8), "v": (2, 7)}
    assert np.abs(inputs["x"]).max() < 10


# --- what was asked for ---------------------------------------------------------------------------------------------

Wrong = tuple[dict[str, Any], type[HasteError], str]
WRONG: dict[str, Wrong] = {
    "no shape": ({"input_shape": None}, ModelError, "input's shape"),
    "wrong shape": ({"input_shape": "1x4x16x16"}, ModelError, "does not run"),
    "weights for a module": ({"weights": "w.safetensors"}, ModelError, "has its own"),
    "unknown target": ({"target": "abacus"}, TargetError, "abacus"),
    "classes": ({"classes": ["cat", "dog"]}, InputError, "2 class names"),
    "mean": ({"preprocessing": Preprocessing((0.0, 0.0), (1.0, 1.0))}, InputError, "2 numbers"),
    "dtype": ({"dtype": "int4"}, InputError, "int4"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_makes_no_sense_is_refused_before_planning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    keywords, error, words = WRONG[case]
    monkeypatch.setattr(compiler, "make_plan", None)  # would be a TypeError
    with pytest.raises(error, match=words) as refused:
        compile_model(small_network(), tmp_path / "net", **{"input_shape": SHAPE, **keywords})
    assert refused.value.hint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("keywords", [{"levels": -1}, {"objective": "beauty"}])
def test_what_the_planner_refuses_leaves_no_file(tmp_path: Path, keywords: dict[str, Any]) -> None:
    with pytest.raises(PlanError):
        compile_model(small_network(), tmp_path / "net", input_shape=SHAPE, **keywords)
    assert list(tmp_path.iterdir()) == []


PLACES: dict[str, Callable[[Path], Path]] = {
    "nowhere does not exist": lambda folder: folder / "nowhere" / "net.haste",
    "is a folder": lambda folder: folder,
}


@pytest.mark.parametrize("place", PLACES)
def test_a_place_that_cannot_be_written_is_refused_first(tmp_path: Path, place: str) -> None:
    with pytest.raises(BundleWriteError, match=place):
        compile_model("nonsense", PLACES[place](tmp_path))
