"""From a TFLite graph to a `Graph`: walk the operations, compute what is known, collect everything that cannot go in.

What each operator becomes is in `tflite_rules`. A rule reads a `Call`, asks the `Builder` for maps and vectors, emits
nodes, and raises `Refused` where it can't. Each result's shape is checked against the one that the file states.

The batch. A file states one size for it, nearly always 1, even where it takes any: frames are then converted, and run
in the original, so many at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from haste_edge.errors import ModelError, Refusal
from haste_edge.frontends.builder import Builder, Rule, printable
from haste_edge.frontends.refusals import Refused
from haste_edge.frontends.tflite_call import Call
from haste_edge.frontends.tflite_file import Operation, Tensor, TfliteFile
from haste_edge.frontends.tflite_fold import fold
from haste_edge.frontends.values import Argument, Computed, Known, Lost
from haste_runtime.graph import Graph, Shape


@dataclass(frozen=True)
class Converted:
    """graph: what came out, as no pass has seen it, maps with channels first. outputs: what the file calls the graph's
    outputs. refusals: in graph order; with any, the graph is None."""

    graph: Graph | None
    outputs: tuple[str, ...]
    refusals: tuple[Refusal, ...]


class Converter:
    """State of one conversion. shapes: of every tensor, batch and all. batch: how many frames they are for."""

    def __init__(self, file: TfliteFile, rules: Mapping[str, Rule[Call]], shapes: Sequence[Shape], batch: int) -> None:
        self._file, self._rules, self._shapes, self._batch = file, rules, shapes, batch
        self._builder = Builder()
        self._refusals: list[Refusal] = []
        self._values: dict[int, Argument] = {}
        self._left = 2**26 + 8 * file.size  # bytes of constants that all operations together may read
        self._made = {number for operation in file.operations for number in operation.outputs}
        for number, tensor in enumerate(file.tensors):
            if tensor.data is not None:
                self._values[number] = Known(tensor.data)
            elif 0 in tensor.shape and number not in self._made and tensor.kind in ("INT32", "INT64"):
                self._values[number] = Known(np.zeros(tensor.shape, tensor.kind.lower()))  # of a single number's shape
        for number in file.inputs:
            own = _channels_first(shapes[number][1:])
            name = self._builder.add_input(name_of(file.tensors[number]), own)
            self._values[number] = _as_the_file(name, own)

    def convert(self) -> Converted:
        """Raises ModelError if the graph is not one: an operation reads what nothing before it makes."""
        for operation in self._file.operations:
            values = self._convert(operation)
            for number, value in zip(operation.outputs, values, strict=True):
                if number in self._values:
                    name = printable(self._file.tensors[number].name)
                    raise ModelError(f"The value {name!r} is made twice.", "Convert the model again.")
                self._values[number] = value
        outputs, names = self._outputs()
        graph = None if self._refusals else self._builder.graph(outputs)
        return Converted(graph, names, tuple(self._refusals))

    def _convert(self, operation: Operation) -> Sequence[Argument]:
        call = self._call(operation)
        try:
            reasons = [value.reason for value in call.inputs if isinstance(value, Lost)]
            computed = any(isinstance(value, Computed) for value in call.inputs)
            if (computed or reasons) and call.operation not in self._rules and call.operation != "SHAPE":
                raise no_rule(call.operation)
            if reasons:
                if any(reasons):
                    raise Refused(next(filter(None, reasons)), "Convert the model again.")
                return [Lost()] * len(operation.outputs)  # what it reads was refused, and said so
            return self._apply(call) if computed else [Known(fold(call, self._known(call)))]
        except Refused as refused:
            self._refuse(call.name, call.operation, refused)
            return [self._stand_in(shape) for shape in call.whole_shapes]

    def _call(self, operation: Operation) -> Call:
        tensors = [self._file.tensors[number] for number in operation.outputs]
        if not tensors:
            raise ModelError(f"A {operation.kind} makes nothing.", "Convert the model again.")
        name = name_of(tensors[0])
        inputs: list[Argument | None] = []
        for number in operation.inputs:
            if number != -1 and number not in self._values:
                tensor = self._file.tensors[number]
                if number not in self._made:  # a variable, or a constant of a type that is not read
                    inputs.append(Lost(f"It reads {printable(tensor.name)!r} ({tensor.kind}), which has no numbers."))
                    continue
                raise ModelError(
                    f"{printable(name)!r} ({operation.kind}) reads {printable(tensor.name)!r}, which is made after it.",
                    "The file is damaged; convert the model again.",
                )
            inputs.append(None if number == -1 else self._values[number])
        first = self._file.tensors[operation.inputs[0]] if operation.inputs and operation.inputs[0] != -1 else None
        shapes = tuple(self._shapes[number] for number in operation.outputs)
        quantisation = None if first is None else first.quantisation
        return Call(
            operation.kind, name, tuple(inputs), operation.options, shapes, self._batch, tensors[0].kind, quantisation
        )

    def _known(self, call: Call) -> list[np.ndarray]:
        arrays = [value.array for value in call.inputs if isinstance(value, Known)]
        self._left -= sum(array.nbytes for array in arrays)
        if self._left < 0:
            raise ModelError("The model reads the same constants far too often.", "Convert the model again.")
        return arrays

    def _apply(self, call: Call) -> Sequence[Argument]:
        self._known(call)
        if call.operation == "SHAPE":
            value = call.input(0)
            assert isinstance(value, Computed)
            return [Known(np.array((self._batch, *value.shape), np.int32))]
        if call.result_kind != "FLOAT32":
            raise Refused(f"It makes numbers of {call.result_kind}.", "Only float32 can be compiled.")
        shapes = call.shapes
        made = self._rules[call.operation](self._builder, call)
        results = made if isinstance(made, tuple) else (made,)
        for result, shape in zip(results, shapes, strict=False):
            if not isinstance(result, Computed) or result.shape != shape:
                raise Refused(f"It does not give the shape {shape} that the file states.", "Convert the model again.")
        if len(results) != len(shapes):
            raise Refused(f"It has {len(shapes)} results.", "Convert the model again.")
        return results

    def _stand_in(self, shape: Shape) -> Argument:
        """A value in place of what was refused, so that the walk goes on and finds the other refusals too."""
        if shape[:1] != (self._batch,):
            return Lost()
        own = _channels_first(shape[1:])
        return _as_the_file(self._builder.stand_in(own), own)

    def _outputs(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The graph's outputs, and what the file calls them."""
        outputs, names = [], []
        for number in self._file.outputs:
            value, name = self._values.get(number), self._file.tensors[number].name
            try:
                if value is None:
                    raise ModelError(f"Nothing makes the output {printable(name)!r}.", "Convert the model again.")
                if isinstance(value, Lost):
                    continue
                if isinstance(value, Known):
                    raise Refused("An output does not depend on the input.", "Remove it from the model's outputs.")
                inside = self._leaves(value)
                if inside in outputs:
                    raise Refused("The same value is given twice.", "Remove it from the model's outputs.")
                outputs.append(inside)
                names.append(name)
            except Refused as refused:
                self._refuse(name, "output", refused)
        return tuple(outputs), tuple(names)

    def _leaves(self, value: Computed) -> str:
        """Maps leave with channels first, in the graph; the bundle puts them last again."""
        if len(value.shape) == 3:
            value = self._builder.transposed(value, (2, 0, 1))
        return self._builder.plain(value)

    def _refuse(self, name: str, operation: str, refused: Refused) -> None:
        self._refusals.append(Refusal(printable(name), operation, "", refused.reason, refused.hint))


def name_of(tensor: Tensor) -> str:
    """Converters join the names of all layers that became one; the first is what people know it by."""
    return tensor.name.partition(";")[0]


def _channels_first(shape: Shape) -> Shape:
    return (shape[2], *shape[:2]) if len(shape) == 3 else shape


def _as_the_file(name: str, own: Shape) -> Computed:
    """A value as the file sees it: maps with channels last."""
    order = (1, 2, 0) if len(own) == 3 else tuple(range(len(own)))
    return Computed(name, order, tuple(own[axis] for axis in order))


_FLOAT = "Give the float model; --dtype int8 makes its weights small."
_CUT = "Cut the model before its post-processing, and do that on the outputs."

_ADVICE = {
    "ARG_MAX": "Return the scores, and take the largest outside.",
    "TOPK_V2": _CUT,
    "NON_MAX_SUPPRESSION_V4": _CUT,
    "NON_MAX_SUPPRESSION_V5": _CUT,
    "TFLite_Detection_PostProcess": _CUT,
    "LOG_SOFTMAX": "Return the logits: the largest is the same.",
    "QUANTIZE": _FLOAT,
    "FAKE_QUANT": _FLOAT,
    "BATCH_TO_SPACE_ND": "Convert the model with a newer TensorFlow, which makes a dilated convolution of it.",
    "SPACE_TO_BATCH_ND": "Convert the model with a newer TensorFlow, which makes a dilated convolution of it.",
}


def no_rule(operation: str) -> Refused:
    return Refused("There is no kernel for this operation.", _ADVICE.get(operation, "Rewrite or remove it."))
