"""Read an ``.onnx`` file as data, and check it before anything looks at its operators.

Nothing of the file is executed. Weights that lie outside it are read from its own folder only, through onnx's own
loader, which follows no link and no path that leads elsewhere; functions are written out where they are called, after
counting how many nodes that would make.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx import (
    FunctionProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    checker,
    external_data_helper,
    helper,
    inliner,
)

from haste_edge.errors import ModelError

OLDEST_OPSET = 7  # since then broadcasting is as in numpy
MOST_BYTES = 2**31 - 1  # of a protobuf message
MOST_WRITTEN_OUT = 2**26  # bytes of all nodes, unless the file itself is large
MOST_NODES = 20_000  # functions written out; the largest published networks have a few thousand

_EXPORT = "Export the model again, and check it with onnx.checker.check_model."


@dataclass(frozen=True)
class OnnxFile:
    """original: the model as it was saved, with all weights in it. model: the same without local functions. opsets:
    domain -> version; the standard operators' domain is ""."""

    original: ModelProto
    model: ModelProto
    opsets: Mapping[str, int]


def read_onnx(path: Path) -> OnnxFile:
    """Raises ModelError if the file is damaged, not valid ONNX, of a version that is not read, or larger than 2 GB."""
    model = _parse(path)
    _read_other_files(path, model)
    opsets = {"" if opset.domain == "ai.onnx" else opset.domain: opset.version for opset in model.opset_import}
    _check_versions(path, model, opsets)
    _check(path, model)
    return OnnxFile(model, _without_functions(path, model), opsets)


def _parse(path: Path) -> ModelProto:
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise ModelError(f"{path} is larger than 2 GB.", "Save its weights as external data beside it.")
        model = ModelProto.FromString(path.read_bytes())
    except FileNotFoundError as error:
        raise ModelError(f"There is no file {path}.", "Give the path of an .onnx file.") from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror}).") from error
    except DecodeError as error:
        raise ModelError(f"{path} is not an ONNX file, or is damaged: {_first_line(error)}.", _EXPORT) from error
    if not model.HasField("graph") or not model.graph.output:
        raise ModelError(f"{path} holds no network.", _EXPORT)
    if not all(isinstance(name, str) for name in _names(model)):  # protobuf leaves what is no UTF-8 as bytes
        raise ModelError(f"{path} is damaged: one of its names is no text.", _EXPORT)
    return model


def _names(model: ModelProto) -> Iterator[str | bytes]:
    yield from (opset.domain for opset in model.opset_import)
    for function in model.functions:
        yield from (function.domain, function.name, *function.input, *function.output, *function.attribute)
    for part in (model.graph, *model.functions):
        for graph in _graphs(part.node):
            yield from (value.name for value in (*graph.input, *graph.output, *graph.initializer))
            yield from _names_of_nodes(graph.node)
        yield from _names_of_nodes(part.node)
    yield from (value.name for value in (*model.graph.input, *model.graph.output, *model.graph.initializer))


def _names_of_nodes(nodes: Iterable[NodeProto]) -> Iterator[str | bytes]:
    for node in nodes:
        yield from (node.domain, node.op_type, node.name, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)


def _graphs(nodes: Iterable[NodeProto]) -> Iterator[GraphProto]:
    """Every branch and loop body, those inside others included."""
    for node in nodes:
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                if graph.node or graph.initializer or graph.output:
                    yield graph
                    yield from _graphs(graph.node)


def _read_other_files(path: Path, model: ModelProto) -> None:
    """Weights that were saved beside the file become part of the model."""
    tensors = [tensor for tensor in _tensors(model) if external_data_helper.uses_external_data(tensor)]
    try:
        left = MOST_BYTES
        for tensor in tensors:
            size = math.prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
            left -= size
            if size < 0 or left < 0:
                raise ModelError(
                    f"The weights of {path} are more than 2 GB with {tensor.name!r} of shape {tuple(tensor.dims)}.",
                    "Larger models are not read: take a smaller one of its family.",
                )
            if all(entry.key != "length" for entry in tensor.external_data):
                tensor.external_data.add(key="length", value=str(size))  # else all that follows would be read
            external_data_helper.load_external_data_for_tensor(tensor, str(path.parent))
    except ModelError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, checker.ValidationError) as error:
        raise ModelError(
            f"The weights that {path} keeps in other files cannot be read: {_first_line(error)}.",
            "They must lie in the folder of the .onnx file, or below it, where they were saved.",
        ) from error


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Every tensor, those in the attributes of nodes and in their branches included."""
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    graphs = [model.graph, *_graphs(nodes)]
    for graph in graphs:
        yield from graph.initializer
    for node in (*nodes, *(node for graph in graphs[1:] for node in graph.node)):
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)


def _check_versions(path: Path, model: ModelProto, opsets: Mapping[str, int]) -> None:
    newest, version = onnx.defs.onnx_opset_version(), opsets.get("", 0)
    if not OLDEST_OPSET <= version <= newest:
        raise ModelError(
            f"{path} uses version {version} of ONNX's operators; {OLDEST_OPSET} to {newest} are read.",
            "Export it with another opset_version, convert it with onnx.version_converter, or update onnx.",
        )
    if model.graph.sparse_initializer:
        raise ModelError(f"{path} has sparse weights.", "Save them as ordinary tensors.")
    weight = next((weight for weight in model.graph.initializer if weight.data_type == TensorProto.STRING), None)
    if weight is not None:
        raise ModelError(f"{path} has a constant of strings, {weight.name!r}.", "Only numbers can be compiled.")


def _check(path: Path, model: ModelProto) -> None:
    """By onnx's checker, which alone wants outputs to have a shape: files without are common, and need none here."""
    shapeless = [
        output.type.tensor_type
        for output in model.graph.output
        if output.type.HasField("tensor_type") and not output.type.tensor_type.HasField("shape")
    ]
    try:
        for kind in shapeless:
            kind.shape.SetInParent()
        checker.check_model(model)
    except (checker.ValidationError, ValueError, EncodeError) as error:
        raise ModelError(f"{path} is not a valid ONNX model: {_first_line(error)}.", _EXPORT) from error
    finally:
        for kind in shapeless:
            kind.ClearField("shape")


def _without_functions(path: Path, model: ModelProto) -> ModelProto:
    """The model with local functions written out. Small files that would become huge ones are refused."""
    functions = {(function.domain, function.name): function for function in model.functions}
    try:
        nodes, size = _written_out(model.graph.node, _Calls(path, functions, {}), frozenset())
    except RecursionError as error:
        raise ModelError(f"In {path} functions call each other too deeply.", _EXPORT) from error
    if nodes > MOST_NODES or size > max(10 * model.ByteSize(), MOST_WRITTEN_OUT):
        raise ModelError(
            f"{path} has {nodes} nodes of {size} bytes with its functions written out.",
            f"At most {MOST_NODES} nodes are read; simplify the model.",
        )
    return inliner.inline_local_functions(model) if functions else model


@dataclass(frozen=True)
class _Calls:
    """functions: by domain and name. sizes: nodes and bytes of those that were counted already."""

    path: Path
    functions: Mapping[tuple[str, str], FunctionProto]
    sizes: dict[tuple[str, str], tuple[int, int]]


def _written_out(nodes: Iterable[NodeProto], calls: _Calls, inside: frozenset[tuple[str, str]]) -> tuple[int, int]:
    """How many nodes, of how many bytes, the nodes become. inside: functions that these are part of."""
    count, size = 0, 0
    for node in nodes:
        key = (node.domain, node.op_type)
        if key in inside:
            raise ModelError(f"In {calls.path} the function {node.op_type!r} calls itself.", _EXPORT)
        if key in calls.functions and key not in calls.sizes:
            calls.sizes[key] = _written_out(calls.functions[key].node, calls, inside | {key})
        parts = [(1, node.ByteSize()), calls.sizes.get(key, (0, 0))]
        for attribute in node.attribute:
            parts += [_written_out(graph.node, calls, inside) for graph in (attribute.g, *attribute.graphs)]
        count, size = count + sum(n for n, _ in parts), size + sum(n for _, n in parts)
    return count, size


def _first_line(error: Exception) -> str:
    """An error of onnx in one line: its texts go on with the whole node."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return (text if len(text) <= 200 else text[:200].rpartition(" ")[0] + " ...").rstrip(".")
