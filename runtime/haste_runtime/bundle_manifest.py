"""What a bundle holds, and its manifest: the JSON form of all but the tensors' bytes (docs/bundle-format.md)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from haste_runtime import bundle_errors as errors
from haste_runtime.errors import InputError
from haste_runtime.graph import Graph, Node, Value
from haste_runtime.plan import Choice, LayerPlan, Level, Plan, Variant
from haste_runtime.preprocessing import Preprocessing
from haste_runtime.record import record

FORMAT_VERSION = 5  # what is written
OLDEST_VERSION = 1  # what is still read
STORAGE = {"fp32": "F32", "fp16": "F16", "int8": "I8"}  # of weights; all other constants are F32
SINCE = {"int8": 3}  # the version that brought a dtype, where it was not the first
MAX_BITS = 31  # of a code, which is an int32
MAX_PATCH = 2**16 - 1
MAX_TEXT = 4096
MAX_SEED = 2**64 - 1
MAX_BUDGET = 1e6
MAX_ARENA = 2**40


@record(frozen=True, eq=False)
class Bundle:
    """A compiled network.

    dtype: how weights are stored, "fp32", "fp16" or "int8". arena_bytes: scratch memory that a frame needs.
    projections: by the key in `Variant.projection`, int8 (bits, n * n) of -1, 0, +1. importance: by the key in
    `Variant.importance`, uint16 (C,), how much an error of each channel weighs.
    """

    graph: Graph
    plan: Plan
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    target: str
    dtype: str
    arena_bytes: int
    made_by: str
    projections: Mapping[str, NDArray[np.int8]]
    format_version: int = FORMAT_VERSION
    importance: Mapping[str, NDArray[np.uint16]] = field(default_factory=dict)


class TensorRecord(NamedTuple):
    """What the manifest says about a tensor of the file."""

    dtype: str
    shape: tuple[int, ...]
    sha256: str


# --- to JSON ---------------------------------------------------------------------------------------------------------


def encode(bundle: Bundle, tensors: Mapping[str, TensorRecord]) -> dict[str, Any]:
    """The manifest as JSON-able data, in the current format version."""
    return {
        "format_version": FORMAT_VERSION,
        "made_by": bundle.made_by,
        "target": bundle.target,
        "dtype": bundle.dtype,
        "arena_bytes": bundle.arena_bytes,
        "classes": list(bundle.classes),
        "preprocessing": encode_preprocessing(bundle.preprocessing),
        "graph": {
            "inputs": [{"name": value.name, "shape": list(value.shape)} for value in bundle.graph.inputs],
            "outputs": list(bundle.graph.outputs),
            "nodes": [_encode_node(node) for node in bundle.graph.nodes],
        },
        "plan": {
            "objective": bundle.plan.objective,
            "layers": [
                {
                    "node": layer.node,
                    "reason": layer.reason,
                    "algorithm": layer.algorithm,
                    "variants": [asdict(variant) for variant in layer.variants],
                }
                for layer in bundle.plan.layers
            ],
        },
        "ladder": [
            {
                "flops_reduction": level.flops_reduction,
                "flops_reduction_network": level.flops_reduction_network,
                "agreement": level.agreement,
                "choices": {node: asdict(choice) for node, choice in level.choices.items()},
            }
            for level in bundle.plan.levels
        ],
        "tensors": {
            name: {"dtype": record.dtype, "shape": list(record.shape), "sha256": record.sha256}
            for name, record in tensors.items()
        },
    }


def encode_preprocessing(preprocessing: Preprocessing) -> dict[str, Any]:
    """As JSON-able data; `encode` puts it into the manifest."""
    return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(preprocessing).items()}


def _encode_node(node: Node) -> dict[str, Any]:
    return {
        "name": node.name,
        "op": node.op,
        "inputs": list(node.inputs),
        "attributes": {
            key: list(value) if isinstance(value, tuple) else value for key, value in node.attributes.items()
        },
        "constants": dict(node.constants),
    }


# --- from JSON -------------------------------------------------------------------------------------------------------


class Fields:
    """One object of the manifest, and where it is; every getter checks the type and raises ManifestError."""

    def __init__(self, value: object, where: str, path: str, keys: str = "") -> None:
        """keys: exactly those the object must have, separated by spaces; none given: any."""
        self.where, self.path = where, path
        if not isinstance(value, dict):
            raise self.error("", "is not an object")
        self.value: dict[str, Any] = value
        wanted = set(keys.split())
        if keys and set(value) != wanted:
            missing, unknown = set(keys.split()) - set(value), set(value) - set(keys.split())
            raise self.error(
                "", f"lacks {sorted(missing)[:3]}" if missing else f"has unknown keys {sorted(unknown)[:3]}"
            )

    def error(self, key: str, what: str) -> errors.ManifestError:
        place = ".".join(filter(None, ("manifest", self.where, key)))
        return errors.ManifestError(f"{self.path}: {place} {what}.")

    def at(self, key: str) -> str:
        return f"{self.where}.{key}" if self.where else key

    def text(self, key: str) -> str:
        value = self.value[key]
        if not isinstance(value, str) or len(value) > MAX_TEXT or not value.isprintable():
            raise self.error(key, f"is not a printable text of at most {MAX_TEXT} characters")
        return value

    def name(self, key: str) -> str:
        value = self.text(key)
        if not value:
            raise self.error(key, "is empty")
        return value

    def integer(self, key: str, least: int, most: int) -> int:
        value = self.value[key]
        if type(value) is not int or not least <= value <= most:
            raise self.error(key, f"is not an integer from {least} to {most}")
        return value

    def number(self, key: str) -> float:
        value = self.value[key]
        if type(value) not in (int, float) or not math.isfinite(value):
            raise self.error(key, "is not a finite number")
        return float(value)

    def array(self, key: str) -> list[Any]:
        value = self.value[key]
        if not isinstance(value, list):
            raise self.error(key, "is not an array")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        value = self.array(key)
        if not all(isinstance(item, str) and item and item.isprintable() for item in value):
            raise self.error(key, "is not an array of printable texts")
        return tuple(value)

    def numbers(self, key: str) -> tuple[float, ...]:
        value = self.array(key)
        if not all(type(item) in (int, float) and math.isfinite(item) for item in value):
            raise self.error(key, "is not an array of finite numbers")
        return tuple(map(float, value))

    def shape(self, key: str, least: int = 1) -> tuple[int, ...]:
        value = self.array(key)
        if not all(type(item) is int and least <= item < 2**31 for item in value):
            raise self.error(key, f"is not an array of integers from {least} to 2147483647")
        return tuple(value)

    def object(self, key: str, keys: str = "") -> Fields:
        return Fields(self.value[key], self.at(key), self.path, keys)

    def objects(self, key: str, keys: str) -> list[Fields]:
        return [Fields(v, f"{self.at(key)}[{i}]", self.path, keys) for i, v in enumerate(self.array(key))]

    def members(self, keys: str) -> dict[str, Fields]:
        """The object as a dictionary of named objects."""
        for name in self.value:
            if not name or not name.isprintable():
                raise self.error("", f"has the unprintable name {name!a}")
        return {name: self.object(name, keys) for name in self.value}


def decode(manifest: Mapping[str, Any], path: str) -> tuple[Bundle, dict[str, TensorRecord]]:
    """The bundle without its tensors (no constants, no projections), and what the manifest says about these.

    Checks types and keys, not whether the parts fit each other (`haste_runtime.bundle_checks` does).
    Raises NewerVersionError, OlderVersionError or ManifestError; ``path`` is for their messages.
    """
    version = manifest.get("format_version")
    if type(version) is not int:
        raise errors.ManifestError(f"{path}: manifest.format_version is missing or not an integer.")
    made_by = manifest.get("made_by")
    by = f" (made by {made_by})" if isinstance(made_by, str) and made_by.isprintable() else ""
    if version > FORMAT_VERSION:
        raise errors.NewerVersionError(f"{path} has format {version}{by}; this runtime reads up to {FORMAT_VERSION}.")
    if version < OLDEST_VERSION:
        raise errors.OlderVersionError(f"{path} has format {version}{by}; this runtime reads from {OLDEST_VERSION}.")
    top = Fields(
        manifest,
        "",
        path,
        "format_version made_by target dtype arena_bytes classes preprocessing graph plan ladder tensors",
    )
    dtype = top.text("dtype")
    known = [name for name in STORAGE if SINCE.get(name, OLDEST_VERSION) <= version]
    if dtype not in known:
        raise top.error("dtype", f"is not one of {', '.join(known)}")
    tensors = {
        name: TensorRecord(record.text("dtype"), record.shape("shape", 0), record.text("sha256"))
        for name, record in top.object("tensors").members("dtype shape sha256").items()
    }
    bundle = Bundle(
        graph=_decode_graph(top.object("graph", "inputs outputs nodes")),
        plan=_decode_plan(top, version),
        preprocessing=_decode_preprocessing(top, version),
        classes=top.texts("classes"),
        target=top.text("target"),
        dtype=dtype,
        arena_bytes=top.integer("arena_bytes", 0, MAX_ARENA),
        made_by=top.text("made_by"),
        projections={},
        format_version=version,
    )
    return bundle, tensors


def _decode_preprocessing(top: Fields, version: int) -> Preprocessing:
    """Versions up to 4 knew only pictures that cover the input whole."""
    sizes = version > 4
    fields = top.object("preprocessing", "mean std scale layout colour" + " fit crop fill" * sizes)
    try:
        return Preprocessing(
            mean=fields.numbers("mean"),
            std=fields.numbers("std"),
            scale=fields.number("scale"),
            layout=fields.text("layout"),
            colour=fields.text("colour"),
            fit=fields.text("fit") if sizes else "cover",
            crop=fields.number("crop") if sizes else 1.0,
            fill=fields.number("fill") if sizes else 0.0,
        )
    except InputError as error:
        raise errors.ManifestError(f"{fields.path}: manifest.preprocessing is wrong. {error.message}") from None


def _decode_graph(fields: Fields) -> Graph:
    return Graph(
        inputs=tuple(
            Value(value.name("name"), value.shape("shape")) for value in fields.objects("inputs", "name shape")
        ),
        outputs=fields.texts("outputs"),
        nodes=tuple(map(_decode_node, fields.objects("nodes", "name op inputs attributes constants"))),
        constants={},
    )


def _decode_node(fields: Fields) -> Node:
    attributes, constants = fields.object("attributes"), fields.object("constants")
    return Node(
        name=fields.name("name"),
        op=fields.name("op"),
        inputs=fields.texts("inputs"),
        attributes={key: _decode_attribute(attributes, key) for key in attributes.value},
        constants={role: constants.name(role) for role in constants.value},
    )


def _decode_attribute(fields: Fields, key: str) -> int | float | str | tuple[int, ...]:
    """JSON arrays are tuples in the graph. What an attribute may be is the operator table's business."""
    value = fields.value[key]
    if isinstance(value, list) and all(type(item) is int for item in value):
        return tuple(value)
    if isinstance(value, str):
        return fields.text(key)
    if type(value) is int:
        return value
    return fields.number(key)


def _decode_plan(top: Fields, version: int) -> Plan:
    """What an older version lacks has the default: 1 knew neither budgets nor agreement, 2 no algorithms, 3
    no share of channels above which a layer stays dense."""
    plan = top.object("plan", "objective layers")
    budgets, algorithms, tests = version > 1, version > 2, version > 3
    layer_keys = "node reason variants" + " algorithm" * algorithms
    variant_keys = "patch bits sparsity seed projection policy" + " importance" * budgets + " algorithm" * algorithms
    variant_keys += " dense_above" * tests
    level_keys = "choices flops_reduction flops_reduction_network" + " agreement" * budgets
    layers = [
        LayerPlan(
            node=layer.name("node"),
            variants=tuple(_decode_variant(variant) for variant in layer.objects("variants", variant_keys)),
            reason=layer.text("reason"),
            algorithm=_decode_algorithm(layer),
        )
        for layer in plan.objects("layers", layer_keys)
    ]
    levels = [
        Level(
            choices=_decode_choices(level.object("choices"), budgets),
            flops_reduction=level.number("flops_reduction"),
            flops_reduction_network=level.number("flops_reduction_network"),
            agreement=level.number("agreement") if budgets and level.value["agreement"] is not None else None,
        )
        for level in top.objects("ladder", level_keys)
    ]
    return Plan(tuple(layers), tuple(levels), plan.text("objective"))


def _decode_variant(fields: Fields) -> Variant:
    return Variant(
        patch=fields.integer("patch", 1, MAX_PATCH),
        bits=fields.integer("bits", 0, MAX_BITS),
        sparsity=fields.number("sparsity"),
        seed=fields.integer("seed", 0, MAX_SEED),
        projection=fields.name("projection"),
        policy=fields.name("policy"),
        importance=fields.text("importance") if "importance" in fields.value else "",
        algorithm=_decode_algorithm(fields),
        dense_above=fields.number("dense_above") if "dense_above" in fields.value else 1.0,
    )


def _decode_algorithm(fields: Fields) -> str:
    return fields.name("algorithm") if "algorithm" in fields.value else "direct"


def _decode_choices(fields: Fields, budgets: bool) -> dict[str, Choice]:
    return {
        node: Choice(
            variant=choice.integer("variant", 0, 2**16 - 1),
            bits=choice.integer("bits", 0, MAX_BITS),
            budget=choice.number("budget") if budgets else 0.0,
        )
        for node, choice in fields.members("variant bits" + " budget" * budgets).items()
    }
