"""Whether the parts of a bundle fit each other: the same rules when it is written and when it is read."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from haste_runtime import bundle_errors as errors
from haste_runtime.bundle_container import DTYPES
from haste_runtime.bundle_manifest import MAX_BITS, MAX_BUDGET, STORAGE, Bundle
from haste_runtime.errors import GraphError
from haste_runtime.geometry import ConvGeometry
from haste_runtime.graph import Shape
from haste_runtime.operators import OPERATORS, check_graph, may_merge, may_use_winograd
from haste_runtime.plan import ALGORITHMS, BUDGETED, POLICIES, UNHASHED, LayerPlan, Variant
from haste_runtime.weights import LARGEST

OBJECTIVES = ("flops", "time")


def check_bundle(bundle: Bundle, path: str) -> None:
    """All checks below; ``path`` is for the messages. Raises what they raise."""
    shapes = check_network(bundle, path)
    check_weights(bundle, path)
    check_projections(bundle, check_plan(bundle, shapes, path), path)
    check_importance(bundle, shapes, path)


def storage(bundle: Bundle, path: str) -> dict[str, str]:
    """How each tensor is stored: name -> "F32", "F16", "I8", "U8" or "U16". Weights as `Bundle.dtype` says,
    projections packed as U8, importance as U16.

    Raises PlanError where tensors of different kinds have the same name.
    """
    weights = {node.constants["weight"] for node in bundle.graph.nodes if "weight" in node.constants}
    constants = {key for node in bundle.graph.nodes for key in node.constants.values()}
    projections = {variant.projection for layer in bundle.plan.layers for variant in layer.variants}
    importance = {v.importance for layer in bundle.plan.layers for v in layer.variants if v.importance}
    for name in sorted((constants & projections) | (constants & importance) | (projections & importance)):
        raise errors.PlanError(f"{path}: {name!r} names two of a constant, a projection and an importance.")
    kinds = {key: STORAGE[bundle.dtype] if key in weights else "F32" for key in constants}
    return kinds | dict.fromkeys(projections, "U8") | dict.fromkeys(importance, "U16")


def is_constant(kind: str) -> bool:
    """Whether a tensor stored as ``kind`` is a constant of the graph."""
    return kind not in ("U8", "U16")


def check_network(bundle: Bundle, path: str) -> dict[str, Shape]:
    """Check constants, graph and class names, and return the shapes of all values by name.

    Raises UnsupportedError, MissingTensorError, ExtraTensorError, TensorTypeError, NonFiniteError, BundleGraphError or
    ManifestError.
    """
    for node in bundle.graph.nodes:
        if node.op not in OPERATORS:
            raise errors.UnsupportedError(f"{path}: node {node.name!r} needs the operator {node.op!r}, unknown here.")
    kinds = storage(bundle, path)
    for key, constant in bundle.graph.constants.items():
        if not is_constant(kinds.get(key, "U8")):
            raise errors.ExtraTensorError(f"{path}: no node uses the constant {key!r}.")
        if constant.dtype != DTYPES[kinds[key]]:
            raise errors.TensorTypeError(f"{path}: constant {key!r} is {constant.dtype}, not {kinds[key]}.")
        if not np.isfinite(constant).all():
            raise errors.NonFiniteError(f"{path}: constant {key!r} holds NaN or infinity.")
    for key in sorted(kinds):
        if is_constant(kinds[key]) and key not in bundle.graph.constants:
            raise errors.MissingTensorError(f"{path}: constant {key!r}, which a node uses, is missing.")
    try:
        shapes = check_graph(bundle.graph)
    except GraphError as error:
        raise errors.BundleGraphError(f"{path}: {error.message}") from None
    _check_classes(bundle, shapes, path)
    return shapes


def check_weights(bundle: Bundle, path: str) -> None:
    """Check that int8 weights are symmetric, and their scales positive and small enough for finite weights.

    Raises WeightRangeError.
    """
    for node in bundle.graph.nodes:
        scale = bundle.graph.constant(node, "weight_scale")
        if scale is None:
            continue
        if bundle.graph.constants[node.constants["weight"]].min() < -LARGEST:
            raise errors.WeightRangeError(f"{path}: the weight of {node.name!r} holds -128; the least is -127.")
        with np.errstate(over="ignore"):
            if not (scale > 0).all() or not np.isfinite(scale * np.float32(LARGEST)).all():
                raise errors.WeightRangeError(f"{path}: a scale of {node.name!r} is not positive, or too large.")


def _check_classes(bundle: Bundle, shapes: dict[str, Shape], path: str) -> None:
    """Class names, where there are any, count as many as the only output vector has elements."""
    if not bundle.classes or len(bundle.graph.outputs) != 1:
        return
    shape = shapes[bundle.graph.outputs[0]]
    if len(shape) == 1 and shape[0] != len(bundle.classes):
        raise errors.ManifestError(f"{path}: there are {len(bundle.classes)} class names for an output of {shape[0]}.")


def check_plan(bundle: Bundle, shapes: Mapping[str, Shape], path: str) -> dict[str, tuple[int, int]]:
    """Check plan and ladder, and return the shape that each projection must have, (bits, n * n), by name.

    Every convolution is planned, in the graph's order; variants are only where merging is possible.
    Raises PlanError or UnsupportedError.
    """
    graph, plan = bundle.graph, bundle.plan
    if plan.objective not in OBJECTIVES:
        raise errors.PlanError(
            f"{path}: the plan's objective {plan.objective!r} is not one of {', '.join(OBJECTIVES)}."
        )
    convolutions = [node for node in graph.nodes if node.op == "conv"]
    planned, existing = [layer.node for layer in plan.layers], [node.name for node in convolutions]
    if planned != existing:
        differing = [n for n in planned if n not in existing] or [n for n in existing if n not in planned]
        about = f"differ in {differing[0]!r}" if differing else "are not in the same order"
        raise errors.PlanError(f"{path}: the plan's layers and the graph's convolutions {about}.")
    needed: dict[str, tuple[int, int]] = {}
    for layer, node in zip(plan.layers, convolutions, strict=True):
        why_not = may_merge(node, graph)
        if layer.variants and why_not:
            raise errors.PlanError(f"{path}: the plan merges {node.name!r}, which is impossible: {why_not}.")
        for algorithm in (layer.algorithm, *(variant.algorithm for variant in layer.variants)):
            _check_algorithm(layer.node, algorithm, may_use_winograd(node, graph), path)
        weight = graph.constants[node.constants["weight"]]
        geometry = ConvGeometry.from_node(node, shapes[node.inputs[0]], weight.shape)
        for variant in layer.variants:
            _check_variant(layer, variant, path)
            shape = (variant.bits, geometry.patch_side(variant.patch) ** 2)
            if needed.setdefault(variant.projection, shape) != shape:
                raise errors.PlanError(f"{path}: projection {variant.projection!r} is used for patches that differ.")
    _check_ladder(bundle, path)
    return needed


def _check_variant(layer: LayerPlan, variant: Variant, path: str) -> None:
    if variant.policy not in POLICIES:
        raise errors.UnsupportedError(f"{path}: {layer.node!r} merges by the policy {variant.policy!r}, unknown here.")
    least, most = (0, 0) if variant.policy in UNHASHED else (1, MAX_BITS)
    if variant.patch < 1 or not least <= variant.bits <= most:
        raise errors.PlanError(f"{path}: {layer.node!r} has tiles of {variant.patch} pixels and {variant.bits} bits.")
    if not 0 <= variant.sparsity < 1:
        raise errors.PlanError(f"{path}: {layer.node!r} has a sparsity of {variant.sparsity}, not in [0, 1).")
    if not 0 <= variant.dense_above <= 1:
        raise errors.PlanError(
            f"{path}: {layer.node!r} stays dense above a share of {variant.dense_above} of its channels, not in [0, 1]."
        )
    if (variant.policy in BUDGETED) != bool(variant.importance):
        raise errors.PlanError(
            f"{path}: {layer.node!r} merges by the policy {variant.policy!r}, with importance {variant.importance!r}."
        )


def _check_algorithm(node: str, algorithm: str, why_not_winograd: str, path: str) -> None:
    if algorithm not in ALGORITHMS:
        raise errors.UnsupportedError(f"{path}: {node!r} is computed by the algorithm {algorithm!r}, unknown here.")
    if algorithm != "direct" and why_not_winograd:
        raise errors.PlanError(f"{path}: the plan computes {node!r} by {algorithm!r}: {why_not_winograd}.")


def check_projections(bundle: Bundle, needed: Mapping[str, tuple[int, int]], path: str) -> None:
    """Check that exactly the ``needed`` projections are there, ternary, without rows of zeros, and of the right shape.

    Raises MissingTensorError, ExtraTensorError or ProjectionError.
    """
    for name in sorted(set(bundle.projections) - set(needed)):
        raise errors.ExtraTensorError(f"{path}: no layer uses the projection {name!r}.")
    for name, shape in needed.items():
        matrix = bundle.projections.get(name)
        if matrix is None:
            raise errors.MissingTensorError(f"{path}: projection {name!r}, which a layer uses, is missing.")
        if matrix.shape != shape:
            raise errors.ProjectionError(f"{path}: projection {name!r} has shape {matrix.shape}; {shape} is needed.")
        if matrix.dtype != np.int8 or not np.isin(matrix, (-1, 0, 1)).all() or not matrix.any(1).all():
            raise errors.ProjectionError(f"{path}: projection {name!r} is not ternary, or has a row of zeros.")


def check_importance(bundle: Bundle, shapes: Mapping[str, Shape], path: str) -> None:
    """Check that exactly the needed importance is there, uint16, one number for each channel that the layer reads.

    Raises MissingTensorError, ExtraTensorError or TensorShapeError.
    """
    used = {(v.importance, layer.node) for layer in bundle.plan.layers for v in layer.variants if v.importance}
    for name in sorted(set(bundle.importance) - {name for name, _ in used}):
        raise errors.ExtraTensorError(f"{path}: no layer uses the importance {name!r}.")
    for name, node in sorted(used):  # layers may share one
        array = bundle.importance.get(name)
        if array is None:
            raise errors.MissingTensorError(f"{path}: importance {name!r}, which a layer uses, is missing.")
        channels = shapes[bundle.graph.node(node).inputs[0]][0]
        if array.dtype != np.uint16 or array.shape != (channels,):
            raise errors.TensorShapeError(
                f"{path}: importance {name!r} is {array.dtype} {list(array.shape)}; {channels} uint16 are needed."
            )


def _check_ladder(bundle: Bundle, path: str) -> None:
    layers = {layer.node: layer for layer in bundle.plan.layers}
    levels = bundle.plan.levels
    if not levels:
        raise errors.PlanError(f"{path}: the ladder has no levels; level 0, the dense network, is always there.")
    if levels[0].choices or levels[0].flops_reduction or levels[0].flops_reduction_network:
        raise errors.PlanError(
            f"{path}: level 0 is not the dense network: it merges layers or claims to save something."
        )
    for number, level in enumerate(levels):
        for saving in (level.flops_reduction, level.flops_reduction_network):
            if not math.isfinite(saving) or saving > 100:
                raise errors.PlanError(f"{path}: level {number} claims to save {saving} %.")
        for node, choice in level.choices.items():
            variants = layers[node].variants if node in layers else ()
            if not 0 <= choice.variant < len(variants):
                raise errors.PlanError(
                    f"{path}: level {number} picks variant {choice.variant} of {node!r}; there is none."
                )
            most = variants[choice.variant].bits
            if not min(1, most) <= choice.bits <= most:
                raise errors.PlanError(
                    f"{path}: level {number} uses {choice.bits} bits of {node!r}, which has 1 to {most}."
                )
            if not 0 <= choice.budget <= MAX_BUDGET:
                raise errors.PlanError(f"{path}: level {number} gives {node!r} an error budget of {choice.budget}.")
        if level.agreement is not None and not 0 <= level.agreement <= 100:
            raise errors.PlanError(f"{path}: level {number} claims to agree with level 0 in {level.agreement} %.")
