"""The reference backend: walks the graph node by node with the operators of `haste_runtime.reference_ops`.

Complete and readable, and needs only numpy. What it computes is what the others must compute. Every convolution is
computed directly, whatever algorithm the plan names: that is the same function.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from haste_runtime.backends import check_threads, not_finite
from haste_runtime.bundle import Bundle
from haste_runtime.flops import LayerCounts
from haste_runtime.geometry import ConvGeometry
from haste_runtime.graph import Node
from haste_runtime.merge import Rule, merged_conv
from haste_runtime.plan import Choice
from haste_runtime.reference_ops import FUNCTIONS, Array, add_residual, output_channels_last
from haste_runtime.weights import float_graph


class NumpyBackend:
    """See `haste_runtime.backends.Backend`. ``threads`` is not used: numpy's linear algebra library decides by itself
    (environment variable OPENBLAS_NUM_THREADS)."""

    name = "numpy"
    code = f"numpy {np.__version__}"
    workers = 1

    def __init__(self, bundle: Bundle, threads: int = 1, trace: bool = False) -> None:
        self._graph, self._plan = float_graph(bundle.graph), bundle.plan
        self._projections, self._importance = bundle.projections, bundle.importance
        self._trace = trace
        self._constants = {
            node.name: {role: self._prepare(node, role) for role in node.constants} for node in self._graph.nodes
        }
        self._variants = {layer.node: layer.variants for layer in self._plan.layers}
        self._last_use = {name: node.name for node in self._graph.nodes for name in node.inputs}
        self._counts: dict[str, LayerCounts] = {}
        self._codes: dict[str, NDArray[np.int32]] = {}
        self._groups: dict[str, NDArray[np.int32]] = {}

    def run(self, frames: Mapping[str, Array], level: int) -> dict[str, Array]:
        """One frame; ``level`` must be one of the plan's. Raises InputError for NaN and infinity."""
        for name, frame in frames.items():
            if not np.isfinite(frame).all():
                raise not_finite(name)
        choices = self._plan.levels[level].choices
        self._counts, self._codes, self._groups = {}, {}, {}
        values: dict[str, Array] = {name: np.ascontiguousarray(frame) for name, frame in frames.items()}
        for node in self._graph.nodes:
            inputs = [values[name] for name in node.inputs]
            if node.name in choices:
                values[node.name] = self._merged(node, choices[node.name], *inputs)
            else:
                values[node.name] = FUNCTIONS[node.op](*inputs, **self._constants[node.name], **node.attributes)
            for name in set(node.inputs):
                if self._last_use[name] == node.name and name not in self._graph.outputs:
                    del values[name]  # nobody reads it again
        return {name: np.array(values[name], np.float32, order="C") for name in self._graph.outputs}

    def run_only(self, x: Array, level: int) -> Array:
        (value,), (name,) = self._graph.inputs, self._graph.outputs
        return self.run({value.name: x[0]}, level)[name][np.newaxis]

    def counts(self) -> dict[str, LayerCounts]:
        return dict(self._counts)

    def codes(self) -> dict[str, NDArray[np.int32]]:
        return dict(self._codes)

    def groups(self) -> dict[str, NDArray[np.int32]]:
        return dict(self._groups)

    def use_threads(self, count: int) -> None:
        check_threads(count, self.workers)

    def close(self) -> None:
        self._constants = {}

    def _merged(self, node: Node, choice: Choice, x: Array, residual: Array | None = None) -> Array:
        weight, bias = self._constants[node.name]["weight"], self._constants[node.name].get("bias")
        variant = self._variants[node.name][choice.variant]
        rule = Rule(
            variant.patch,
            self._projections[variant.projection],
            choice.bits,
            variant.policy,
            self._importance.get(variant.importance),
            choice.budget,
            variant.dense_above,
        )
        merged = merged_conv(x, weight, bias, ConvGeometry.from_node(node, x.shape, weight.shape), rule)
        self._counts[node.name] = merged.counts
        if self._trace:
            self._codes[node.name], self._groups[node.name] = merged.codes, merged.leaders
        return add_residual(merged.output, residual, node.attributes["activation"])

    def _prepare(self, node: Node, role: str) -> Array:
        """Once, at the start: filters in the memory order that suits both dense and merged convolution."""
        constant = self._graph.constants[node.constants[role]]
        return output_channels_last(constant) if node.op == "conv" and role == "weight" else constant
