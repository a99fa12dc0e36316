"""ONNX files that are damaged or made to harm end in an error that says what is wrong, in little time and memory."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx_models import OnnxBuilder, load, small_network

from haste_edge.errors import ModelError, UnsupportedModelError
from haste_edge.frontends import load_model, onnx_file
from haste_runtime.errors import HasteError

ANY_ERROR = (ModelError, UnsupportedModelError)


def expect(path: Path, says: str | None) -> None:
    with pytest.raises(ANY_ERROR, match=says) as caught:
        load_model(str(path))
    assert caught.value.hint or isinstance(caught.value, UnsupportedModelError)


def refuse(model: ModelProto, folder: Path, says: str | None = None) -> None:
    path = folder / "hostile.onnx"
    path.write_bytes(model.SerializeToString())
    expect(path, says)


# --- damage ----------------------------------------------------------------------------------------------------------


def test_truncated_files(tmp_path: Path) -> None:
    data, path = small_network().SerializeToString(), tmp_path / "net.onnx"
    for length in {*range(0, len(data), 41), *range(len(data) - 60, len(data))}:
        path.write_bytes(data[:length])
        with pytest.raises(HasteError):
            load_model(str(path))


@settings(max_examples=150, deadline=None)
@given(
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4), cut=st.booleans()
)
def test_changed_bytes_are_an_error_or_another_network(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]], cut: bool
) -> None:
    data = bytearray(DAMAGED)
    for place, value in changes:
        if cut:
            del data[place % len(data)]
        else:
            data[place % len(data)] = value
    path = tmp_path_factory.getbasetemp() / "changed.onnx"
    path.write_bytes(data)
    with suppress(HasteError):
        load_model(str(path))


DAMAGED = small_network().SerializeToString()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "holds no network"),
        (b"PK\x03\x04" * 9, "not an ONNX file"),
        (b"\x0a" * 2000, "not an ONNX file|no network"),
    ],
)
def test_files_of_another_kind(tmp_path: Path, data: bytes, says: str) -> None:
    (tmp_path / "hostile.onnx").write_bytes(data)
    expect(tmp_path / "hostile.onnx", says)


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    expect(tmp_path / "none.onnx", "There is no file")
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(ModelError, match="cannot be read"):
        load_model(str(tmp_path / "folder.onnx"))


# --- graphs that are none --------------------------------------------------------------------------------------------


def test_cycles_and_values_that_nothing_makes(tmp_path: Path) -> None:
    b = OnnxBuilder(x=("N", 4))
    b.nodes += [helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])]
    refuse(b.model("b"), tmp_path, "not a valid ONNX model.*sorted")
    b = OnnxBuilder(x=("N", 3, 8, 8))
    b("Conv", "x", "missing")
    refuse(b.model(), tmp_path, "missing")
    b = OnnxBuilder(x=("N", 4))
    b("Relu", "x")
    refuse(b.model("nobody"), tmp_path, "nobody")


def test_a_node_that_reads_itself_through_a_function(tmp_path: Path) -> None:
    model = with_functions(lambda level: ["F0"], levels=1)
    refuse(model, tmp_path, "calls itself|recursive")


def with_functions(calls: Callable[[int], list[str]], levels: int) -> ModelProto:
    """A model that calls F0. calls: the functions that each function calls, one after the other."""
    b = OnnxBuilder(x=("N", 4))
    b.nodes.append(helper.make_node("F0", ["x"], ["y"], domain="own"))
    model = b.model("y")
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    model.opset_import.append(opsets[1])
    for level in range(levels):
        names = calls(level)
        nodes = [
            helper.make_node(name, [f"v{i}"], [f"v{i + 1}"], domain="" if name == "Relu" else "own")
            for i, name in enumerate(names)
        ]
        model.functions.append(helper.make_function("own", f"F{level}", ["v0"], [f"v{len(names)}"], nodes, opsets))
    return model


def test_functions_that_would_become_huge(tmp_path: Path) -> None:
    doubling = with_functions(lambda level: ["Relu"] if level == 59 else [f"F{level + 1}"] * 2, levels=60)
    refuse(doubling, tmp_path, f"nodes of .* functions written out.*{onnx_file.MOST_NODES}")
    deep = with_functions(lambda level: ["Relu"] if level == 4999 else [f"F{level + 1}"], levels=5000)
    refuse(deep, tmp_path, "too deeply|not a valid ONNX model|written out")


@pytest.mark.parametrize(("twice", "deeper"), [(5, 0), (8, 0), (0, 20)])
def test_branches_in_branches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, twice: int, deeper: int) -> None:
    """twice: levels whose two branches both go on. deeper: levels of which one does."""
    monkeypatch.setattr(onnx_file, "MOST_NODES", 200)
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [], [value("y")])
    end = helper.make_graph([helper.make_node("Relu", ["x"], ["z"])], "e", [], [value("z")])
    for level in range(twice + deeper):
        other = graph if level < twice else end
        node = helper.make_node("If", ["c"], [f"y{level}"], then_branch=graph, else_branch=other)
        graph = helper.make_graph([node], "g", [], [value(f"y{level}")])
    b = OnnxBuilder(x=("N", 4))
    b.weight(True, np.bool_, "c")
    b.nodes += list(graph.node)
    with pytest.raises(ANY_ERROR, match="nodes") if twice > 5 else nullcontext():
        load(b.model(f"y{twice + deeper - 1}"), tmp_path)


def value(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)


def test_more_nodes_than_any_network_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "MOST_NODES", 200)
    b = OnnxBuilder(x=("N", 4))
    x = "x"
    for _ in range(201):
        x = b("Relu", x)
    refuse(b.model(), tmp_path, "nodes")


# --- sizes -----------------------------------------------------------------------------------------------------------

BOMBS: dict[str, Callable[[OnnxBuilder], str]] = {
    "ConstantOfShape": lambda b: b("ConstantOfShape", b.ints(1, 10**6, 10**6)),
    "Expand": lambda b: b("Expand", b.weight(1.0), b.ints(1, 10**5, 10**6)),
    "Tile": lambda b: b("Tile", b.random(1, 4, 4), b.ints(1, 10**5, 10**5)),
    "Range": lambda b: b("Range", b.weight(0, np.int64), b.weight(10**12, np.int64), b.weight(1, np.int64)),
    "Pad": lambda b: b("Pad", b.random(1, 4), b.ints(0, 0, 10**6, 10**6)),
    "Add": lambda b: b("Add", b.random(40_000, 1), b.random(1, 40_000)),
    "Gather": lambda b: b("Gather", b.random(2, 40_000), b.weight(np.zeros(40_000), np.int64)),
    "many": lambda b: b("Sum", *(b("ConstantOfShape", b.ints(4, 10**6)) for _ in range(20))),
    "negative": lambda b: b("ConstantOfShape", b.ints(-4)),
    "overflowing": lambda b: b("ConstantOfShape", b.ints(2**62, 2**62)),
}


@pytest.mark.parametrize("name", BOMBS)
def test_constants_far_larger_than_the_file(tmp_path: Path, name: str) -> None:
    b = OnnxBuilder(x=("N", 4))
    constant = BOMBS[name](b)
    b("Add", "x", b("ReduceMax", b("Cast", constant, to=TensorProto.FLOAT), keepdims=0))
    model = b.model()
    tracemalloc.start()
    started = time.process_time()
    try:
        refuse(model, tmp_path, "larger than the file|cannot be told|does not fit|cannot be computed|not done for it")
        assert tracemalloc.get_traced_memory()[1] < 2**28
    finally:
        tracemalloc.stop()
    assert time.process_time() - started < 30


@pytest.mark.parametrize("shape", [("N", 3, 10**5, 10**5), ("N", 2**31, 2**31, 2**31), (1, 2**62)])
def test_inputs_of_huge_sizes(tmp_path: Path, shape: tuple[int | str, ...]) -> None:
    b = OnnxBuilder(x=shape)
    b("Relu", "x")
    refuse(b.model(), tmp_path, "has more than")


def test_maps_that_grow_without_end(tmp_path: Path) -> None:
    b = OnnxBuilder(x=("N", 1, 64, 64))
    b("Pad", "x", b.ints(0, 0, 0, 0, 0, 0, 60_000, 60_000))
    refuse(b.model(), tmp_path, "numbers for each frame")
    b = OnnxBuilder(x=("N", 1, 64, 64))
    x = "x"
    for _ in range(60):
        x = b("Concat", x, x, axis=1)
    refuse(b.model(), tmp_path, "numbers for each frame")


def test_strides_that_would_make_huge_weights(tmp_path: Path) -> None:
    b = OnnxBuilder(x=("N", 512, 1, 1))
    b("ConvTranspose", "x", b.random(512, 1, 1, 1), strides=[400, 400])
    refuse(b.model(), tmp_path, "too large a kernel")


def test_a_weight_whose_shape_is_not_its_datas(tmp_path: Path) -> None:
    for dims in ([10**6, 10**6], [2, 2], [-1, 4], [0, 4]):
        b = OnnxBuilder(x=("N", 4))
        b("MatMul", "x", b.random(4, 4, scale=1.0))
        del b.weights[0].dims[:]
        b.weights[0].dims.extend(dims)
        refuse(b.model(), tmp_path)


# --- types -----------------------------------------------------------------------------------------------------------


def test_types_that_are_no_numbers_or_not_float32(tmp_path: Path) -> None:
    for dtype in (TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.STRING, TensorProto.COMPLEX64):
        b = OnnxBuilder(x=("N", 4))
        b("Relu", "x")
        model = b.model()
        model.graph.input[0].type.tensor_type.elem_type = dtype
        refuse(model, tmp_path, "not float32|not a valid")
    b = OnnxBuilder(x=("N", 4))
    b.weights.append(helper.make_tensor("s", TensorProto.STRING, [1], [b"text"]))
    b("Identity", "x")
    refuse(b.model(), tmp_path, "strings")
    b = OnnxBuilder(x=("N", 3, 8, 8))
    b("Conv", "x", b.weight(np.zeros((4, 3, 3, 3)), np.float64))
    refuse(b.model(), tmp_path)


def test_weights_that_are_not_finite(tmp_path: Path) -> None:
    b = OnnxBuilder(x=("N", 3, 8, 8))
    b("Conv", "x", b.weight(np.full((4, 3, 3, 3), np.nan)))
    with pytest.raises(HasteError, match="NaN or infinity"):
        load(b.model(), tmp_path)


@pytest.mark.parametrize(("opset", "says"), [(6, "version 6"), (999, "version 999")])
def test_operators_of_versions_that_are_not_read(tmp_path: Path, opset: int, says: str) -> None:
    b = OnnxBuilder(opset, x=("N", 4))
    b("Relu", "x")
    refuse(b.model(), tmp_path, says)


# --- other files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ({"location": "../secret.bin"}, "other files cannot be read"),
        ({"location": "inner/../../secret.bin"}, "other files cannot be read"),
        ({"location": "link.bin"}, "other files cannot be read"),
        ({"location": "linked/secret.bin"}, "other files cannot be read"),
        ({"location": "absent.bin"}, "other files cannot be read"),
        ({"location": "."}, "other files cannot be read"),
        ({"location": ""}, "other files cannot be read"),
        ({"location": "own.bin", "offset": "-4"}, "non-negative"),
        ({"location": "own.bin", "offset": "1000"}, "exceeds"),
        ({"location": "own.bin", "length": "1000000000000"}, "exceeds"),
        ({"location": "own.bin", "length": "many"}, "invalid literal"),
        ({"location": "own.bin", "length": "8"}, None),
    ],
)
def test_weights_outside_the_folder_are_not_read(tmp_path: Path, entries: dict[str, str], says: str | None) -> None:
    inside = tmp_path / "model"
    (inside / "inner").mkdir(parents=True)
    secret = tmp_path / "secret.bin"
    secret.write_bytes(bytes(64))
    (inside / "own.bin").write_bytes(bytes(64))
    (inside / "link.bin").symlink_to(secret)
    (inside / "linked").symlink_to(tmp_path)
    refuse(with_external(entries | {"location": entries["location"]}), inside, says)
    refuse(with_external({**entries, "location": str(secret)}), inside, "other files cannot be read")


def with_external(entries: dict[str, str], dims: tuple[int, ...] = (4, 4)) -> ModelProto:
    b = OnnxBuilder(x=("N", 4))
    b("MatMul", "x", b.random(4, 4))
    weight = b.weights[0]
    weight.ClearField("raw_data")
    del weight.dims[:]
    weight.dims.extend(dims)
    weight.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        weight.external_data.add(key=key, value=value)
    return b.model()


def test_a_weight_in_another_file_may_not_be_larger_than_it(tmp_path: Path) -> None:
    (tmp_path / "own.bin").write_bytes(bytes(64))
    refuse(with_external({"location": "own.bin"}, (10**6, 10**6)), tmp_path, r"^The weights of .* are more than 2 GB")
    refuse(with_external({"location": "own.bin"}, (10**4, 10**4)), tmp_path, "exceeds")


def test_a_branch_may_not_bring_weights_from_elsewhere_either(tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(64))
    (tmp_path / "model").mkdir()
    weight = numpy_helper.from_array(np.zeros((4, 4), np.float32), "w")
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../secret.bin")
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    branch = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["out"])], "b", [], [out], [weight])
    b = OnnxBuilder(x=("N", 4))
    b("If", b.weight(True, np.bool_), then_branch=branch, else_branch=branch)
    refuse(b.model(), tmp_path / "model", "other files cannot be read")


def test_the_files_own_names_are_shown_safely(tmp_path: Path) -> None:
    b = OnnxBuilder(x=("N", 3, 8, 8))
    b("Sin", "x", name="a\x1b[31m\nb")
    path = tmp_path / "hostile.onnx"
    onnx.save(b.model(), path)
    with pytest.raises(UnsupportedModelError) as caught:
        load_model(str(path))
    assert "\x1b" not in str(caught.value)
    assert caught.value.refusals[0].node == "a?[31m?b"
