"""Exported programs: they load as data, compute the same, and no file can make the loader run its code."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from haste_edge.errors import ModelError, UnsupportedModelError
from haste_edge.frontends import LoadedModel, exported_program, load_model
from haste_edge.passes import run_passes
from haste_edge.torch_graph import run

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:copyreg")  # torch.export, about its own tree specs


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(4, 4, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y += x
        return self.relu(y)


class Net(nn.Module):
    """Strided shortcut, in-place operators, a constant, a size taken from the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding="same")
        self.layer1 = nn.Sequential(Block(), Block())
        self.pool = nn.MaxPool2d(2, ceil_mode=True)
        self.drop = nn.Dropout()
        self.fc = nn.Linear(8 * 9, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = self.layer1(self.stem(image * torch.tensor(0.5)))
        x = torch.cat([self.pool(x), F.pad(x[:, :2, ::2, ::2], (0, 0, 0, 0, 1, 1))], 1)
        x = F.hardtanh(x, 0, float("inf")).clamp(max=6, min=0)
        x = F.adaptive_avg_pool2d(x, 3)
        return self.fc(self.drop(x.view(image.shape[0], -1)))


def network() -> nn.Module:
    torch.manual_seed(0)
    net = Net().eval()
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.uniform_(-1, 1)
            layer.running_var.uniform_(0.5, 2)
    return net


def save(path: Path, module: nn.Module, batch: int | None, shape: tuple[int, ...] = (3, 11, 13), **kwargs: Any) -> Path:
    shapes = ({0: torch.export.Dim("batch")},) if batch is None else None
    program = torch.export.export(module, (torch.randn(batch or 2, *shape),), **{"dynamic_shapes": shapes, **kwargs})
    torch.export.save(program, path)
    return path


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network, saved with a dynamic batch."""
    return save(tmp_path_factory.mktemp("pt2") / "net.pt2", network(), None)


def assert_agrees(loaded: LoadedModel, original: nn.Module, frames: int = 5) -> None:
    x = 2 * torch.randn(frames, *loaded.graph.inputs[0].shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = original(x.clone())
        assert torch.allclose(loaded.reference(x.clone()), expected, atol=1e-5)
    for graph in (loaded.graph, run_passes(loaded.graph)):
        (got,) = run(graph, {loaded.graph.inputs[0].name: x}).outputs.values()
        assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_a_dynamic_batch_and_the_models_own_names(archive: Path) -> None:
    loaded = load_model(str(archive))
    assert_agrees(loaded, network())
    names = [node.name for node in loaded.graph.nodes]
    assert {"stem", "layer1.0.conv1", "layer1.0.bn1", "layer1.1.relu", "layer1.1.relu_2", "pool", "fc"} <= set(names)
    assert {"layer1.0.conv1.weight", "layer1.1.bn1.scale", "fc.bias"} <= set(loaded.graph.constants)
    assert (loaded.source, loaded.graph.inputs[0].name, loaded.input_shape) == ("net.pt2", "image", (1, 3, 11, 13))
    assert load_model(str(archive), input_shape="9x3x11x13").graph.inputs == loaded.graph.inputs


@pytest.mark.parametrize("batch", [1, 3])
def test_a_fixed_batch_works_frame_by_frame(tmp_path: Path, batch: int) -> None:
    loaded = load_model(str(save(tmp_path / "net.pt2", network(), batch)))
    for frames in (1, 5, 6):
        assert_agrees(loaded, network(), frames)


def test_a_program_decomposed_to_core_operators(tmp_path: Path) -> None:
    program = torch.export.export(network(), (torch.randn(1, 3, 11, 13),)).run_decompositions()
    targets = {str(node.target) for node in program.graph.nodes}
    assert {"aten.convolution.default", "aten.addmm.default", "aten.permute.default"} <= targets
    torch.export.save(program, tmp_path / "core.pt2")
    loaded = load_model(str(tmp_path / "core.pt2"))
    assert_agrees(loaded, network())
    assert {"fc.weight", "stem.weight"} <= set(loaded.graph.constants)


def test_several_inputs_and_outputs_in_order(tmp_path: Path) -> None:
    class Two(nn.Module):
        def forward(self, image: Tensor, state: Tensor) -> dict[str, Tensor]:
            return {"mean": image.mean((2, 3)) + state, "relu": image.relu()}

    image, state = torch.randn(3, 4, 5, 6), torch.randn(3, 4)
    for frames in (1, 3):
        program = torch.export.export(Two(), (image[:frames], state[:frames]))
        torch.export.save(program, tmp_path / "two.pt2")
        loaded = load_model(str(tmp_path / "two.pt2"))
        assert [(v.name, v.shape) for v in loaded.graph.inputs] == [("image", (4, 5, 6)), ("state", (4,))]
        assert loaded.graph.outputs == ("add", "relu")
        for mean, relu in (
            loaded.reference(image, state),
            run(loaded.graph, {"image": image, "state": state}).outputs.values(),
        ):
            assert torch.allclose(mean, image.mean((2, 3)) + state, atol=1e-6)
            assert torch.equal(relu, image.relu())


def test_sizes_left_open_must_be_given(tmp_path: Path) -> None:
    dim = torch.export.Dim
    pool = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1))
    shapes = ({0: dim("batch"), 2: dim("height", min=8, max=64)},)
    path = str(save(tmp_path / "open.pt2", pool, None, dynamic_shapes=shapes))
    with pytest.raises(ModelError, match=r"maps of any size \(1x3x\?x13\).*--input"):
        load_model(path)
    with pytest.raises(ModelError, match=r"exported for an input of 1x3x\?x13, not 1x3x20x14"):
        load_model(path, input_shape="1x3x20x14")
    assert load_model(path, input_shape="1x3x20x13").graph.inputs[0].shape == (3, 20, 13)


def test_wrong_arguments(archive: Path, tmp_path: Path) -> None:
    for arguments, message in (
        ({"weights": "w.safetensors"}, "holds its own weights"),
        ({"input_shape": "1x3x32x32"}, "exported for an input of 1x3x11x13, not 1x3x32x32"),
        ({"input_shape": "1x3x11x13,1x4"}, "has 1 inputs, not 2"),
    ):
        with pytest.raises(ModelError, match=message):
            load_model(str(archive), **arguments)
    with pytest.raises(ModelError, match="There is no file"):
        load_model(str(tmp_path / "none.pt2"))


def test_every_unknown_operator_is_refused_with_its_place(tmp_path: Path) -> None:
    class Modern(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.GroupNorm(1, 3)

        def forward(self, x: Tensor) -> Tensor:
            return torch.sin(self.act(x)) * x.erf()

    with pytest.raises(UnsupportedModelError) as caught:
        load_model(str(save(tmp_path / "modern.pt2", Modern(), 1)))
    said = [(r.node, r.operation) for r in caught.value.refusals]
    assert said == [("act", "aten.group_norm.default"), ("sin", "aten.sin.default"), ("erf", "aten.erf.default")]
    assert all(
        "test_frontend_pt2.py" in r.location and "torch.sin(self.act(x))" in r.location for r in caught.value.refusals
    )


def test_a_known_operator_used_in_an_unknown_way_is_refused_too(tmp_path: Path) -> None:
    class Mixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.threshold(x, 1, 2) + torch.add(x, x**2.5, alpha=3)

    with pytest.raises(UnsupportedModelError) as caught:
        load_model(str(save(tmp_path / "mixed.pt2", Mixed(), None)))
    assert [r.operation for r in caught.value.refusals] == [
        "aten.threshold.default",
        "aten.pow.Tensor_Scalar",
        "aten.add.Tensor",
    ]
    assert all("test_frontend_pt2.py" in r.location for r in caught.value.refusals)


# --- hostile and damaged files ----------------------------------------------------------------------------------------


def rewritten(archive: Path, path: Path, change: Change, compress: bool = False) -> Path:
    """A copy of an archive whose records (name without the root folder -> bytes) were changed."""
    with zipfile.ZipFile(archive) as file:
        records = {name.split("/", 1)[1]: file.read(name) for name in file.namelist()}
    change(records)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED) as file:
        for name, data in records.items():
            file.writestr(f"net/{name}", data)
    return path


Change = Callable[[dict[str, bytes]], object]
Attack = Callable[[str], Change]  # from a shell command to the change of an archive that would run it

MODEL = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"


def edit(name: str, change: Callable[[Any], object]) -> Change:
    """Changes the JSON of a record in place."""

    def apply(records: dict[str, bytes]) -> None:
        content = json.loads(records[name])
        change(content)
        records[name] = json.dumps(content).encode()

    return apply


def nodes(program: dict[str, Any]) -> list[dict[str, Any]]:
    return program["graph_module"]["graph"]["nodes"]


class Payload:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


def pickled(command: str) -> bytes:
    buffer = io.BytesIO()
    torch.save(Payload(command), buffer)
    return buffer.getvalue()


def pickle_weight(command: str) -> Change:
    def change(records: dict[str, bytes]) -> None:
        edit(WEIGHTS, lambda c: c["config"]["stem.weight"].update(use_pickle=True))(records)
        records["data/weights/weight_0"] = pickled(command)

    return change


def pickle_constant(prefix: str) -> Attack:
    def attack(command: str) -> Change:
        def change(records: dict[str, bytes]) -> None:
            entry = {"path_name": f"{prefix}0", "is_param": False, "use_pickle": True, "tensor_meta": None}
            edit(CONSTANTS, lambda c: c["config"].update(evil=entry))(records)
            data = pickled(command) if prefix == "tensor_" else pickle.dumps(Payload(command))
            records[f"data/constants/{prefix}0"] = data

        return change

    return attack


def everywhere(put: Callable[[Any, str], bool]) -> Attack:
    """Changes every JSON object of the program for which ``put(object, code)`` finds something to change."""

    def attack(command: str) -> Change:
        code = f"__import__('os').system({command!r})"

        def walk(item: Any) -> int:
            hits = int(put(item, code)) if isinstance(item, dict) else 0
            children = item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
            return hits + sum(walk(child) for child in children)

        def change(program: Any) -> None:
            assert walk(program) > 0

        return edit(MODEL, change)

    return attack


def put_expression(item: dict[str, Any], code: str) -> bool:
    if "expr_str" in item:
        item["expr_str"] = code
    return "expr_str" in item


def put_guard(item: dict[str, Any], code: str) -> bool:
    if "guards_code" in item:
        item["guards_code"] = [code]
    return "guards_code" in item


def put_metadata(item: dict[str, Any], code: str) -> bool:
    if "metadata" in item and "target" in item:
        trace = f'File "x", line 1, in forward\n    y = 1\n{code}\n  File "{code}", line 2, in f\n    {code}'
        stack = f"L__self__,,{code};{code},{code},{code}"
        extra = {"source_fn_stack": f"x,{code}", "custom": json.dumps({"a": code}), "from_node": code}
        item["metadata"] = {"stack_trace": trace, "nn_module_stack": stack, "torch_fn": f"{code};{code}", **extra}
    return "metadata" in item and "target" in item


def put_name(item: dict[str, Any], code: str) -> bool:
    if item.get("name") == "image" and len(item) == 1:
        item["name"] = f"image = {code}, b"
        return True
    if "image" in item:  # among tensor_values
        item[f"image = {code}, b"] = item.pop("image")
    return False


def put_spec(item: dict[str, Any], code: str) -> bool:
    if "in_spec" in item:
        enum = json.dumps({"__enum__": True, "fqn": "os:system", "name": code})
        leaf: list[Any] = []
        spec = {"type": "collections.namedtuple", "context": enum, "children_spec": leaf}
        item["in_spec"] = item["out_spec"] = json.dumps([1, spec])
    return "in_spec" in item


def target(name: str) -> Attack:
    def attack(command: str) -> Change:
        def change(program: Any) -> None:
            node = nodes(program)[0]
            node["target"] = name
            node["inputs"] = [{"name": "a", "arg": {"as_string": command}, "kind": 1}]

        return edit(MODEL, change)

    return attack


def rename_weight(command: str) -> Change:
    evil = f"x.__init__.{command}"

    def change(records: dict[str, bytes]) -> None:
        records[MODEL] = records[MODEL].replace(b'"stem.weight"', json.dumps(evil).encode())
        records[WEIGHTS] = records[WEIGHTS].replace(b'"stem.weight"', json.dumps(evil).encode())

    return change


def sample_inputs(command: str) -> Change:
    return lambda records: records.update({"data/sample_inputs/model.pt": pickled(command)})


def machine_code(command: str) -> Change:
    return lambda records: records.update({"data/aotinductor/model/a.so": command.encode()})


@pytest.mark.parametrize(
    "attack",
    [
        pickle_weight,
        pickle_constant("tensor_"),
        pickle_constant("custom_obj_"),
        pickle_constant("opaque_obj_"),
        machine_code,
        rename_weight,
        *(
            target(name)
            for name in (
                "torch.hub.load",
                "torch.load",
                "torch.os.system",
                "torch.ops.load_library",
                "torch.ops.aten.from_file.default",
                "torch.ops.aten.relu.__class__",
                "torch.ops.aten.__class__.default",
                "torch.ops.higher_order.cond",
                "_operator.call",
                "_operator.methodcaller",
                "math.sqrt",
                "#evil:os.system",
                "os.system",
            )
        ),
    ],
)
def test_a_hostile_file_is_refused_and_runs_no_code(archive: Path, tmp_path: Path, attack: Attack) -> None:
    """Each attack would create a file."""
    canary = tmp_path / "canary"
    path = rewritten(archive, tmp_path / "evil.pt2", attack(f"touch {canary}"))
    with pytest.raises((ModelError, UnsupportedModelError)):
        load_model(str(path))
    assert not canary.exists()


def test_hostile_code_in_places_that_are_not_read_does_nothing(archive: Path, tmp_path: Path) -> None:
    """All at once: the program still loads, and computes as before."""
    canary = tmp_path / "canary"
    puts = (put_expression, put_guard, put_metadata, put_name, put_spec)
    attacks = [attack(f"touch {canary}") for attack in (sample_inputs, *map(everywhere, puts))]
    path = rewritten(archive, tmp_path / "evil.pt2", lambda records: [attack(records) for attack in attacks])
    loaded = load_model(str(path))
    assert_agrees(loaded, network())
    assert loaded.graph.inputs[0].name == "input_1_of_the_file"  # a name of our own
    assert not canary.exists()


def test_what_a_hostile_file_says_is_printable(archive: Path, tmp_path: Path) -> None:
    def change(program: Any) -> None:
        nodes(program)[1]["target"] = "torch.ops.aten.\x1b[2Jevil\nline.default"

    with pytest.raises(UnsupportedModelError) as caught:
        load_model(str(rewritten(archive, tmp_path / "evil.pt2", edit(MODEL, change))))
    assert str(caught.value).count("\n") == 1
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (edit(WEIGHTS, lambda c: c["config"]["stem.weight"]["tensor_meta"].update(dtype=34)), "element type"),
        (
            edit(WEIGHTS, lambda c: c["config"]["stem.weight"]["tensor_meta"]["sizes"][0].update(as_int=5)),
            "does not fit 432 bytes",
        ),
        (
            edit(WEIGHTS, lambda c: c["config"]["stem.weight"]["tensor_meta"]["strides"][0].update(as_int=10**6)),
            "damaged",
        ),
        (
            edit(WEIGHTS, lambda c: c["config"]["stem.weight"]["tensor_meta"]["storage_offset"].update(as_int=-1)),
            "is not a size",
        ),
        (edit(WEIGHTS, lambda c: c["config"].pop("stem.weight")), "damaged"),
        (edit(MODEL, lambda p: p["schema_version"].update(major=9)), "schema version 9; 8 is read"),
        (edit(MODEL, lambda p: nodes(p).pop(1)), "damaged"),
        (lambda records: records.pop("archive_format"), "one of an older PyTorch.*Export it again"),
        (lambda records: records.update(archive_version=b"1"), "archive version 1; 0 is read"),
        (lambda records: records.update(byteorder=b"big"), "big-endian"),
        (lambda records: records.update({"models/other.json": b"{}"}), "holds 2 models"),
        (lambda records: records.pop(MODEL), "holds 0 models"),
        (lambda records: records.update({MODEL: b"[" * 100_000}), "damaged"),
        (lambda records: records.update({MODEL: b"\xff"}), "damaged"),
        (lambda records: records.pop("data/weights/weight_1"), "damaged"),
        (lambda records: records.clear(), "not a .pt2 archive"),
    ],
)
def test_a_damaged_file_is_told(archive: Path, tmp_path: Path, change: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        load_model(str(rewritten(archive, tmp_path / "net.pt2", change)))
    assert caught.value.hint


def test_compressed_truncated_and_foreign_files(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is compressed"):
        load_model(str(rewritten(archive, tmp_path / "net.pt2", lambda records: None, compress=True)))
    data = archive.read_bytes()
    for length in (0, 10, len(data) // 2, len(data) - 1):
        (tmp_path / "short.pt2").write_bytes(data[:length])
        with pytest.raises(ModelError, match=r"not a \.pt2 archive"):
            load_model(str(tmp_path / "short.pt2"))
    longer = bytearray(data)
    entry = longer.rfind(b"PK\x01\x02", 0, longer.rfind(MODEL.encode()))  # of the table of contents
    longer[entry + 20 : entry + 28] = struct.pack("<II", len(data), len(data))  # sizes, stored and unpacked
    (tmp_path / "longer.pt2").write_bytes(longer)
    with pytest.raises(ModelError, match=r"not a \.pt2 archive: it ends too early"):
        load_model(str(tmp_path / "longer.pt2"))
    with pytest.raises(ModelError, match=r"not a \.pt2 archive"):
        load_model(str(save_state(tmp_path / "state.pt2")))


def save_state(path: Path) -> Path:
    torch.save(network().state_dict(), path)
    return path


def test_flipped_bytes_never_crash_the_reader(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anywhere in the program or the configuration: an error of ours, or a program that is exported again."""
    monkeypatch.setattr(exported_program, "load_module", lambda *arguments: None)
    rng = random.Random(0)
    refused = 0
    for _ in range(300):

        def change(records: dict[str, bytes]) -> None:
            name = rng.choice([MODEL, MODEL, WEIGHTS, CONSTANTS])
            data = bytearray(records[name])
            for _ in range(rng.choice([1, 1, 3])):
                data[rng.randrange(len(data))] = rng.choice(b'0123456789-"{}[],:aesn_.\x00\xff')
            records[name] = bytes(data)

        try:
            load_model(str(rewritten(archive, tmp_path / "net.pt2", change)))
        except (ModelError, UnsupportedModelError):
            refused += 1
    assert refused > 100
