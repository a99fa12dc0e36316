"""From an ONNX graph to a `Graph`: walk the nodes, compute what is known, collect everything that cannot go in.

What each ONNX operator becomes is in `onnx_rules`. A rule reads a `Call`, asks the `Builder` for maps and vectors,
emits nodes, and raises `Refused` where it can't. Each result's shape is checked against what onnx infers, so a rule
that misunderstood an operator refuses instead of compiling something else.

The batch. A model that takes any batch is walked with a size that is a large prime: whatever first dimension has that
size is the batch. Constants that follow from it are computed for a second prime too, and where the two differ they may
say how to reshape, but not what the network computes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from onnx import AttributeProto, GraphProto, NodeProto, numpy_helper

from haste_edge.errors import ModelError, Refusal
from haste_edge.frontends.builder import Builder, Rule, printable
from haste_edge.frontends.elementwise import unary
from haste_edge.frontends.onnx_fold import FOLDED, Dimensions, Folder
from haste_edge.frontends.onnx_gelu import find_gelus
from haste_edge.frontends.onnx_strided import find_strided
from haste_edge.frontends.onnx_values import Call, array_of, known_as, operation_of, shape_of, type_of
from haste_edge.frontends.refusals import Refused
from haste_edge.frontends.values import Argument, Array, Computed, Known, Lost
from haste_runtime.graph import Graph, Shape

PRIMES = (61, 67)  # batch sizes that no other size of a network is likely to have
MOST_ELEMENTS = 2**27  # of one value: half a gigabyte for each frame


@dataclass(frozen=True)
class Converted:
    """graph: what came out, as no pass has seen it. outputs: what the file calls the graph's outputs. moved: values
    whose numbers had to be put in another order. refusals: in graph order; with any, the graph is None."""

    graph: Graph | None
    outputs: tuple[str, ...]
    moved: int
    refusals: tuple[Refusal, ...]


class Converter:
    """State of one conversion.

    inputs: name -> per-frame shape as the file has it. layout: "NCHW", or "NHWC" where maps that enter and leave have
    their channels last. batch: the only size the file takes, or None. rules: operator -> rule. constants: name ->
    array, the file's weights.
    """

    def __init__(
        self,
        graph: GraphProto,
        opsets: Mapping[str, int],
        rules: Mapping[str, Rule[Call]],
        constants: Mapping[str, Array],
        inputs: Mapping[str, Shape],
        batch: int | None,
        layout: str,
    ) -> None:
        self._source, self._opsets, self._rules, self._layout = graph, opsets, rules, layout
        self._batch = PRIMES[0] if batch is None else batch
        self._sizes = PRIMES if batch is None else (batch,)
        weighs = sum(array.nbytes for array in constants.values())
        self._folder = Folder(opsets, budget=2**26 + 8 * weighs)
        self._values: dict[str, Argument] = {name: Known(array, name) for name, array in constants.items()}
        self._builder = Builder()
        self._refusals: list[Refusal] = []
        self._gelus = find_gelus(graph, constants)
        self._strided = find_strided(graph, constants)
        for name, shape in inputs.items():
            self._add_input(name, shape)

    # --- the walk ---------------------------------------------------------------------------------------------------

    def convert(self) -> Converted:
        """Raises ModelError if the graph is not one: a node reads what nothing before it makes."""
        self._walk(self._source)
        outputs, names = self._outputs()
        graph = None if self._refusals else self._builder.graph(outputs)
        return Converted(graph, names, self._builder.moved, tuple(self._refusals))

    def _add_input(self, name: str, shape: Shape) -> None:
        own = (shape[2], *shape[:2]) if len(shape) == 3 and self._layout == "NHWC" else shape
        self._values[name] = Computed(self._builder.add_input(name, own), self._order(own), shape)

    def _order(self, own: Shape) -> tuple[int, ...]:
        """How the file sees the axes of a map that enters or leaves."""
        return (1, 2, 0) if len(own) == 3 and self._layout == "NHWC" else tuple(range(len(own)))

    def _walk(self, graph: GraphProto) -> None:
        for node in graph.node:
            results = self._convert(node)
            self._values.update(zip(filter(None, node.output), results, strict=False))

    def _convert(self, node: NodeProto) -> Sequence[Argument]:
        """One value for each result that has a name."""
        names = [name for name in node.output if name]
        if not names:
            return []
        for name in filter(None, node.input):
            if name not in self._values:
                raise ModelError(
                    f"Node {node.name or names[0]!r} ({node.op_type}) reads {name!r}, which is neither an input nor a "
                    "weight nor made by a node before it.",
                    "The file is damaged, or its weights were saved elsewhere; export the model again.",
                )
        if isinstance(self._values.get(self._gelus.inner.get(names[0], "")), Computed):
            return [Lost()]  # the last node of the GELU stands for all
        strided = self._strided.get(names[0])
        source = None if strided is None else self._values.get(strided.source)
        if strided is not None and isinstance(source, Computed) and strided.fits(source.shape, self._batch):
            return [Lost() if names[0] == strided.vector else replace(source, shape=strided.shape[1:])]
        inputs = [self._values[name] if name else None for name in node.input]
        gelu = self._values.get(self._gelus.ends.get(names[0], ""))
        shapes: tuple[Dimensions, ...] = (None,) * len(node.output)
        try:
            if node.op_type == "If" and not node.domain:
                return self._branch(node, inputs[0])
            if isinstance(gelu, Computed):
                whole = (self._batch, *gelu.shape)
                call = Call(node, self._opsets[""], (gelu,), (whole,), self._batch)
                return [unary(self._builder, call, gelu, "gelu")]
            shapes = self._folder.result_shapes(
                node, [self._whole(v) for v in inputs], [type_of(v) for v in inputs], [array_of(v) for v in inputs]
            )
            reasons = [value.reason for value in inputs if isinstance(value, Lost)]
            if self._rules.get(operation_of(node)) is None and not (node.op_type in FOLDED and not node.domain):
                raise _no_rule(node)
            if reasons:
                if any(reasons):
                    raise Refused(next(filter(None, reasons)), "Use only the first result.")
                return [Lost()] * len(names)  # what it reads was refused, and said so
            if not any(isinstance(value, Computed) for value in inputs):
                return self._fold(node, inputs, shapes)
            if node.op_type in ("Shape", "Size") and not node.domain:
                return self._fold_shape(node, inputs[0])
            return self._apply(node, inputs, shapes)
        except Refused as refused:
            self._refuse(node.name or names[0], operation_of(node), refused)
            return [self._stand_in(shape) for shape, name in zip(shapes, node.output, strict=True) if name]

    def _apply(
        self, node: NodeProto, inputs: Sequence[Argument | None], shapes: Sequence[Dimensions]
    ) -> Sequence[Argument]:
        rule = self._rules.get(operation_of(node))
        if rule is None:
            raise _no_rule(node)
        whole = [shape for shape, name in zip(shapes, node.output, strict=True) if name]
        if any(shape is None or None in shape for shape in whole[:1]):
            raise Refused("Its size depends on what it computes.", "Every size but the batch must be fixed.")
        known = tuple(tuple(e for e in shape or () if e is not None) for shape in whole)
        if max(math.prod(shape) // self._batch for shape in known) > MOST_ELEMENTS:
            raise Refused(f"Its result has more than {MOST_ELEMENTS} numbers for each frame.", "Use smaller inputs.")
        version = self._opsets.get(node.domain, 1)
        result = rule(self._builder, Call(node, version, tuple(inputs), known, self._batch))
        if isinstance(result, tuple):
            return result
        return [result, *[Lost("It reads a further result of an operation that gives only one here.")] * len(whole[1:])]

    def _branch(self, node: NodeProto, condition: Argument | None) -> Sequence[Argument]:
        """An If whose condition is known is the branch that it takes."""
        if not isinstance(condition, Known) or condition.other is not None or condition.array.size != 1:
            raise Refused("It decides while the network runs.", "Remove the condition from the model.")
        wanted = "then_branch" if condition.array.item() else "else_branch"
        branch = next(attribute.g for attribute in node.attribute if attribute.name == wanted)
        if branch.sparse_initializer:
            raise Refused("It has sparse weights.", "Save them as ordinary tensors.")
        self._values.update({w.name: Known(numpy_helper.to_array(w), w.name) for w in branch.initializer})
        self._walk(branch)
        return [self._values.get(output.name, Lost("Its branch does not make it.")) for output in branch.output]

    def _fold(
        self, node: NodeProto, inputs: Sequence[Argument | None], shapes: Sequence[Dimensions]
    ) -> Sequence[Known]:
        if any(attribute.type == AttributeProto.SPARSE_TENSOR for attribute in node.attribute):
            raise Refused("It is a sparse constant.", "Save it as an ordinary tensor.")
        known = [value for value in inputs if isinstance(value, Known)]
        results = self._folder.compute(node, [array_of(value) for value in inputs], shapes)
        if all(value.other is None for value in known):
            key = known[0].key if len(known) == 1 and node.op_type == "Identity" else ""
            return [Known(result, key) for result in results]
        others = [v.other if isinstance(v, Known) and v.other is not None else array_of(v) for v in inputs]
        other_shapes = self._folder.result_shapes(
            node, [shape_of(a) for a in others], [type_of(v) for v in inputs], others
        )
        computed = self._folder.compute(node, others, other_shapes)
        return [known_as(result, other) for result, other in zip(results, computed, strict=True)]

    def _fold_shape(self, node: NodeProto, value: Argument | None) -> Sequence[Known]:
        """Shape or Size of a computed value, which depends on the batch but on no number in it."""
        assert isinstance(value, Computed)
        call = Call(node, self._opsets[""], (), (), self._batch)
        start, stop = call.attribute("start", 0), call.attribute("end")
        wholes = [np.array((batch, *value.shape), np.int64) for batch in self._sizes]
        if node.op_type == "Size":
            arrays = [np.array(math.prod(map(int, whole)), np.int64) for whole in wholes]
        else:
            arrays = [whole[slice(start, stop)] for whole in wholes]
        return [known_as(arrays[0], arrays[-1])]

    def _whole(self, value: Argument | None) -> Dimensions:
        """Shape, batch and all."""
        if isinstance(value, Computed):
            return (self._batch, *value.shape)
        return None if isinstance(value, Lost) else shape_of(array_of(value))

    def _stand_in(self, shape: Dimensions) -> Argument:
        """A value in place of what was refused, so that the walk goes on and finds the other refusals too."""
        if not shape or shape[0] != self._batch or None in shape:
            return Lost()
        own = tuple(extent for extent in shape[1:] if extent is not None)
        return Computed(self._builder.stand_in(own), tuple(range(len(own))), own)

    def _outputs(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The graph's outputs, and what the file calls them."""
        outputs, names = [], []
        for output in self._source.output:
            value = self._values.get(output.name)
            try:
                if value is None:
                    raise ModelError(f"Nothing makes the output {output.name!r}.", "Export the model again.")
                if isinstance(value, Lost) and value.reason:
                    raise Refused("An output is the further result of an operation.", "Remove it from the outputs.")
                if isinstance(value, Lost):
                    continue  # it was refused, and said so
                if isinstance(value, Known):
                    raise Refused("An output does not depend on the input.", "Remove it from the model's outputs.")
                name = self._leaves(value)
                if name in outputs:
                    raise Refused("The same value is given twice.", "Remove it from the model's outputs.")
                outputs.append(name)
                names.append(output.name)
            except Refused as refused:
                self._refuse(output.name, "output", refused)
        return tuple(outputs), tuple(names)

    def _leaves(self, value: Computed) -> str:
        own = self._builder.shapes[value.name]
        if value.order == self._order(own) and value.shape == tuple(own[axis] for axis in value.order):
            return value.name
        if self._layout == "NHWC" and len(value.shape) == 3:  # as the bundle hands it out: channels in front
            return self._builder.plain(self._builder.transposed(value, (2, 0, 1)))
        return self._builder.plain(value)

    def _refuse(self, name: str, operation: str, refused: Refused) -> None:
        self._refusals.append(Refusal(printable(name), operation, "", refused.reason, refused.hint))


_ADVICE = {
    "ArgMax": "Return the scores, and take the largest outside.",
    "NonMaxSuppression": "Cut the model before its post-processing, and do that on the outputs.",
    "TopK": "Cut the model before its post-processing, and do that on the outputs.",
    "GroupNormalization": "Export it with opset_version 17, which writes it out.",
    "Loop": "Export the model without loops.",
    "Scan": "Export the model without loops.",
    **dict.fromkeys(
        ("QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"),
        "Give the model in float32; --dtype int8 makes its weights small.",
    ),
}


def _no_rule(node: NodeProto) -> Refused:
    return Refused("There is no kernel for this operation.", _ADVICE.get(node.op_type, "Rewrite or remove it."))
