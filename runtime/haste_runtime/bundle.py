"""Reading, writing and inspecting ``.haste`` bundles (docs/bundle-format.md is the specification).

Everything in a file is checked before anything is returned; each cause has its own error in
`haste_runtime.bundle_errors`. Arrays that come out own their memory: the file is closed, and may be replaced or
deleted, when `read_bundle` returns, and what the caller drops is free again.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haste_runtime import bundle_errors as errors
from haste_runtime import projection
from haste_runtime.bundle_checks import (
    check_bundle,
    check_importance,
    check_network,
    check_plan,
    check_weights,
    is_constant,
    storage,
)
from haste_runtime.bundle_container import (
    DTYPES,
    Container,
    open_container,
    seal,
    sha256,
    unseal,
    write_container,
)
from haste_runtime.bundle_manifest import (
    FORMAT_VERSION,
    STORAGE,
    Bundle,
    TensorRecord,
    decode,
    encode,
    encode_preprocessing,
)
from haste_runtime.graph import Constant, Shape
from haste_runtime.operators import may_merge
from haste_runtime.plan import LayerPlan
from haste_runtime.weights import int8_graph

__all__ = ["FORMAT_VERSION", "STORAGE", "Bundle", "inspect_bundle", "read_bundle", "stored", "write_bundle"]


def read_bundle(path: str | os.PathLike[str]) -> Bundle:
    """The bundle in a file, all of it checked: structure, checksums, shapes, finite weights, plan and ladder.

    Raises a subclass of BundleFileError (which is a BundleError) that names the cause.
    """
    with open_container(path) as container:
        bundle, records = _read_manifest(container)
        return _read_tensors(container, bundle, records)


def write_bundle(path: str | os.PathLike[str], bundle: Bundle) -> None:
    """Write a bundle, at once or not at all; the same bundle always gives the same bytes.

    Weights are stored as `Bundle.dtype` says (`stored` tells what reading the file will give), always in the current
    format version. Raises a subclass of BundleFileError where the bundle would not pass the reader's checks; then
    nothing is written. Raises BundleWriteError where the disk would not take it.
    """
    name = os.fspath(path)
    bundle = stored(bundle)
    check_bundle(bundle, name)
    tensors: dict[str, NDArray[Any]] = {key: bundle.graph.constants[key] for key in sorted(bundle.graph.constants)}
    tensors |= {key: projection.pack(bundle.projections[key]) for key in sorted(bundle.projections)}
    tensors |= {key: bundle.importance[key] for key in sorted(bundle.importance)}
    kinds = storage(bundle, name)
    records = {key: TensorRecord(kinds[key], array.shape, sha256(array)) for key, array in tensors.items()}
    metadata = seal(encode(bundle, records))
    decode(unseal(metadata, name), name)  # what can't be read must not be written
    write_container(path, tensors, metadata)


def stored(bundle: Bundle) -> Bundle:
    """The bundle as reading it back from a file would give it: constants rounded to how they are stored."""
    if bundle.dtype not in STORAGE:
        raise errors.ManifestError(f"The bundle: dtype {bundle.dtype!r} is not one of {', '.join(STORAGE)}.")
    if bundle.dtype == "int8":
        bundle = replace(bundle, graph=int8_graph(bundle.graph, {*bundle.projections, *bundle.importance}))
    kinds = storage(bundle, "The bundle")
    constants: dict[str, Constant] = {}
    for key, constant in bundle.graph.constants.items():
        with np.errstate(over="ignore"):  # too large for half precision: infinity, which the checks refuse
            constants[key] = np.ascontiguousarray(constant, DTYPES[kinds.get(key, "F32")])
    return replace(bundle, graph=replace(bundle.graph, constants=constants), format_version=FORMAT_VERSION)


# --- reading ---------------------------------------------------------------------------------------------------------


def _read_manifest(container: Container) -> tuple[Bundle, dict[str, TensorRecord]]:
    """The bundle without tensors, and the records of these, after checking that the file holds exactly them."""
    path = container.path
    bundle, records = decode(unseal(container.manifest, path), path)
    needed = storage(bundle, path)
    for name in sorted(set(needed) - (set(records) & set(container.tensors))):
        raise errors.MissingTensorError(f"{path}: tensor {name!r}, which the network needs, is missing.")
    for name in sorted((set(records) | set(container.tensors)) - set(needed)):
        raise errors.ExtraTensorError(f"{path}: nothing in the network uses the tensor {name!r}.")
    for name, kind in needed.items():
        entry, record = container.tensors[name], records[name]
        if not entry.dtype == record.dtype == kind:
            found = entry.dtype if entry.dtype != kind else record.dtype
            raise errors.TensorTypeError(f"{path}: tensor {name!r} is {found} where {kind} is needed.")
        if entry.shape != record.shape:
            raise errors.TensorShapeError(
                f"{path}: tensor {name!r} has shape {list(entry.shape)}; the manifest says {list(record.shape)}."
            )
    return bundle, records


def _read_tensors(container: Container, bundle: Bundle, records: Mapping[str, TensorRecord]) -> Bundle:
    path = container.path
    tensors: dict[str, NDArray[Any]] = {}
    kinds = storage(bundle, path)
    room = container.room(name for name in records if is_constant(kinds.get(name, "")))
    for name, record in records.items():
        tensors[name] = container.read(name, room.get(name))
        if sha256(tensors[name]) != record.sha256:
            raise errors.TensorChecksumError(f"{path} is damaged: tensor {name!r} does not match its checksum.")
    constants = {name: array for name, array in tensors.items() if is_constant(kinds[name])}
    importance = {name: array for name, array in tensors.items() if kinds[name] == "U16"}
    bundle = replace(bundle, graph=replace(bundle.graph, constants=constants), importance=importance)
    shapes = check_network(bundle, path)
    check_weights(bundle, path)
    needed = check_plan(bundle, shapes, path)
    check_importance(bundle, shapes, path)
    return replace(bundle, projections={name: _unpack(path, name, tensors[name], needed[name]) for name in needed})


def _unpack(path: str, name: str, packed: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.int8]:
    bits, d = shape
    if packed.shape != (bits, -(-d // 4)):
        raise errors.ProjectionError(
            f"{path}: projection {name!r} has shape {list(packed.shape)}; {bits} rows of {d} entries are needed."
        )
    try:
        return projection.unpack(packed, d)
    except ValueError as error:
        raise errors.ProjectionError(f"{path}: projection {name!r} is {error}.") from None


# --- inspecting ------------------------------------------------------------------------------------------------------


def inspect_bundle(path: str | os.PathLike[str], verify: bool = False) -> dict[str, Any]:
    """A summary that `json.dumps` takes.

    Without ``verify`` the tensors' bytes are not looked at, only the header and manifest, which are checked as ever, so
    a large or partly damaged file can be inspected at once. With it the whole file is checked, as `read_bundle` does.
    Raises a subclass of BundleFileError.
    """
    with open_container(path) as container:
        bundle, records = _read_manifest(container)
        if verify:
            bundle = _read_tensors(container, bundle, records)
        else:  # zeros of the right shape, which take no memory until they are written to
            zeros = {key: np.zeros(r.shape, DTYPES[r.dtype]) for key, r in records.items()}
            constants = {key: array for key, array in zeros.items() if is_constant(records[key].dtype)}
            importance = {key: array for key, array in zeros.items() if records[key].dtype == "U16"}
            bundle = replace(bundle, graph=replace(bundle.graph, constants=constants), importance=importance)
        shapes = check_network(bundle, container.path)
        check_plan(bundle, shapes, container.path)
        check_importance(bundle, shapes, container.path)
    graph, plan = bundle.graph, bundle.plan
    return {
        "path": os.fspath(path),
        "format_version": bundle.format_version,
        "made_by": bundle.made_by,
        "target": bundle.target,
        "dtype": bundle.dtype,
        "checksums": {"manifest": "ok", "tensors": "ok" if verify else "not checked"},
        "bytes": {
            "file": container.size,
            "header": 8 + container.header_bytes,
            "constants": sum(constant.nbytes for constant in graph.constants.values()),
            "projections": sum(math.prod(record.shape) for record in records.values() if record.dtype == "U8"),
            "importance": sum(array.nbytes for array in bundle.importance.values()),
            "arena": bundle.arena_bytes,
        },
        "parameters": graph.parameters(),
        "classes": list(bundle.classes),
        "preprocessing": encode_preprocessing(bundle.preprocessing),
        "inputs": [{"name": value.name, "shape": list(value.shape)} for value in graph.inputs],
        "outputs": [{"name": name, "shape": list(shapes[name])} for name in graph.outputs],
        "operators": dict(Counter(node.op for node in graph.nodes)),
        "objective": plan.objective,
        "layers": [_inspect_layer(bundle, layer, shapes) for layer in plan.layers],
        "levels": [
            {
                "level": number,
                "flops_reduction": level.flops_reduction,
                "flops_reduction_network": level.flops_reduction_network,
                "agreement": level.agreement,
                "merged_layers": len(level.choices),
                "choices": {node: asdict(choice) for node, choice in level.choices.items()},
            }
            for number, level in enumerate(plan.levels)
        ],
    }


def _inspect_layer(bundle: Bundle, layer: LayerPlan, shapes: Mapping[str, Shape]) -> dict[str, Any]:
    node = bundle.graph.node(layer.node)
    weight = bundle.graph.constants[node.constants["weight"]]
    why_not = may_merge(node, bundle.graph)
    return {
        "name": layer.node,
        "input": list(shapes[node.inputs[0]]),
        "output": list(shapes[node.name]),
        "kernel": list(weight.shape[2:]),
        "stride": list(node.attributes["stride"]),
        "groups": node.attributes["groups"],
        "may_merge": not why_not,
        "why_not": why_not,
        "choice": "merged" if layer.variants else "dense",
        "algorithm": layer.algorithm,
        "reason": layer.reason,
        "variants": [asdict(variant) for variant in layer.variants],
    }
