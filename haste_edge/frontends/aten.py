"""From an exported program to a `Graph`: walk the ATen calls, name the nodes, collect everything that cannot go in.

What each ATen operator becomes is in `aten_rules`. A rule reads a `Call` (arguments by their schema names), asks the
`Converter` for maps and vectors, emits nodes, and raises `Refused` where it can't. Each emitted node's shape is checked
against what torch inferred, so a rule that misunderstood an operator refuses instead of compiling something else.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

from haste_edge.errors import Refusal
from haste_edge.frontends.refusals import Refused, checked_shape, location, no_rule, refusals_error
from haste_runtime.attributes import MAX_INPUT_RANK
from haste_runtime.graph import Constant, Graph, Node, Shape, Value


@dataclass(frozen=True)
class Known:
    """A value known now: a parameter, a buffer or what follows from them.

    key: its name in the state dict, empty if computed. transposed: the key of the parameter it is the transpose of.
    """

    tensor: Tensor
    key: str = ""
    transposed: str = ""


@dataclass(frozen=True)
class Computed:
    """A value of the graph, seen with a per-frame shape that may differ from the node's own (a reshape in between).

    The reshape becomes a node only where somebody reads the value who cares for its shape.
    """

    name: str
    shape: Shape


Argument = Any  # Known, Computed, SIZE, a number, a string, None, or a list of these
SIZE = object()  # a number that follows from the batch size


@dataclass(frozen=True)
class Call:
    """One ATen call: arguments by schema name with defaults filled in, and the per-frame shape of its first result."""

    node: fx.Node
    operation: str
    arguments: Mapping[str, Argument]
    shape: Shape

    def __getitem__(self, name: str) -> Argument:
        return self.arguments[name]

    def get(self, name: str, default: Argument = None) -> Argument:
        return self.arguments.get(name, default)


Rule = Callable[["Converter", Call], "Known | Computed | tuple[Computed | None, ...]"]


class Rules(dict[str, Rule]):
    """ATen operators' names without "aten." -> what makes nodes of their calls."""

    def __call__(self, *operations: str) -> Callable[[Rule], Rule]:
        """A decorator that adds a rule under these names."""

        def register(rule: Rule) -> Rule:
            self.update(dict.fromkeys(operations, rule))
            return rule

        return register


def convert(program: ExportedProgram, rules: Mapping[str, Rule]) -> Graph:
    """The graph of a functional program (after `ExportedProgram.run_decompositions`).

    rules: operator's name without "aten." (such as "conv2d.default") -> rule. Constants are called as in the state
    dict, nodes after the module that made them. Raises UnsupportedModelError with every refusal.
    """
    return Converter(program, rules).graph()


class Converter:
    """State of one conversion; rules use `map`, `vector`, `value`, `known` to read and `emit` to write."""

    def __init__(self, program: ExportedProgram, rules: Mapping[str, Rule]) -> None:
        self.program = program
        self.rules = rules
        self.values: dict[fx.Node, Argument] = {}
        self.shapes: dict[str, Shape] = {}  # per-frame shape of every graph value
        self.made: dict[str, Node] = {}
        self.inputs: list[Value] = []
        self.constants: dict[str, Constant] = {}
        self.refusals: list[Refusal] = []
        self.names: set[str] = set()
        self._reshaped: dict[Computed, str] = {}
        self.batch = ""  # the batch size as torch writes it: a symbol, or a number if it is fixed

    # --- the walk ---------------------------------------------------------------------------------------------------

    def graph(self) -> Graph:
        self._read_inputs()
        for node in self.program.graph.nodes:
            if node.op == "call_function":
                self.values[node] = self._convert(node)
        outputs = self._outputs()
        if self.refusals:
            raise refusals_error(self.refusals)
        return Graph(tuple(self.inputs), outputs, tuple(self.made.values()), self.constants)

    def _read_inputs(self) -> None:
        signature, state = self.program.graph_signature, self.program.state_dict
        placeholders = {node.name: node for node in self.program.graph.nodes if node.op == "placeholder"}
        for spec in signature.input_specs:
            node = placeholders[spec.arg.name]
            if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
                key = str(spec.target)
                tensor = state[key] if key in state else self.program.constants[key]
                self.values[node] = Known(tensor.detach(), key)
            elif spec.kind == InputKind.USER_INPUT and isinstance(node.meta.get("val"), Tensor):
                self._read_input(node)

    def _read_input(self, node: fx.Node) -> None:
        value = node.meta["val"]
        self.batch = self.batch or str(value.shape[0])
        try:
            shape = self._frame_shape(value)
            if value.dtype != torch.float32 or not 1 <= len(shape) <= MAX_INPUT_RANK:
                raise Refused(
                    f"An input is {value.dtype} of per-frame shape {shape}.",
                    f"float32 with 1 to {MAX_INPUT_RANK} axes beside the batch is needed, such as (N, C, H, W).",
                )
        except Refused as refused:
            self._refuse(node, "input", refused)
            shape = (1,)
        name = self._unique(node.name)
        self.inputs.append(Value(name, shape))
        self.shapes[name] = shape
        self.values[node] = Computed(name, shape)

    def _convert(self, node: fx.Node) -> Argument:
        if node.target is operator.getitem:
            source, index = node.args
            assert isinstance(source, fx.Node)
            assert isinstance(index, int)
            items = self.values[source]
            item = items[index] if isinstance(items, tuple) else None
            if item is None:
                why = Refused("It is a further result of the operation before it.", "Use only the first one.")
                self._refuse(node, "getitem", why)
                return self._stand_in(node.meta.get("val"))
            return item
        result = node.meta.get("val")
        first = next((v for v in result if isinstance(v, Tensor)), None) if isinstance(result, tuple | list) else result
        if not isinstance(first, Tensor):
            return SIZE  # or an assertion; rules read shapes from what torch inferred
        operation = re.sub("^aten[.]", "", str(node.target))
        try:
            arguments = self._bind(node)
            if not any(v is SIZE or isinstance(v, Computed) for v in _flat(arguments.values())):
                return self._fold(node, arguments)
            rule = self.rules.get(operation)
            if rule is None:
                raise no_rule(operation)
            return rule(self, Call(node, operation, arguments, self._frame_shape(first)))
        except Refused as refused:
            self._refuse(node, operation, refused)
            return self._stand_in(result)

    def _bind(self, node: fx.Node) -> dict[str, Argument]:
        if not isinstance(node.target, torch._ops.OpOverload):
            raise Refused("It is not an ATen operator.")
        arguments: dict[str, Argument] = {}
        for index, parameter in enumerate(node.target._schema.arguments):
            if index < len(node.args):
                value: Any = node.args[index]
            else:
                value = node.kwargs.get(parameter.name, parameter.default_value)
            arguments[parameter.name] = fx.map_arg(value, lambda n: self.values.get(n, SIZE))
        return arguments

    def _fold(self, node: fx.Node, arguments: Mapping[str, Argument]) -> Known | tuple[Known, ...]:
        """Calls the operator now: all its tensors are constants."""
        target = node.target
        assert isinstance(target, torch._ops.OpOverload)
        if torch.Tag.nondeterministic_seeded in target.tags:
            raise Refused("It draws random numbers.", "Export the model in eval mode.")
        call = {name: _tensors(value) for name, value in arguments.items()}
        positional = [call.pop(p.name) for p in target._schema.arguments if not p.kwarg_only]
        with torch.no_grad():
            result = target(*positional, **call)
        if isinstance(result, tuple | list):
            return tuple(Known(item) for item in result)
        source = next((v for v in _flat(arguments.values()) if isinstance(v, Known)), Known(torch.empty(0)))
        if torch.equal(result, source.tensor):  # also compares shapes
            return Known(result, source.key, source.transposed)
        if source.tensor.dim() == 2 and torch.equal(result, source.tensor.T):
            return Known(result, source.transposed, source.key)
        return Known(result)

    def _stand_in(self, result: Any) -> Argument:
        """A value in place of what was refused, so that the walk goes on and finds the other refusals too."""
        if isinstance(result, tuple | list):
            return tuple(self._stand_in(item) for item in result)
        if not isinstance(result, Tensor):
            return None
        try:
            shape = self._frame_shape(result)
        except Refused:
            shape = tuple(int(extent) if isinstance(extent, int) else 1 for extent in result.shape[1:])
        name = self._unique("?")
        self.shapes[name] = shape
        return Computed(name, shape)

    def _outputs(self) -> tuple[str, ...]:
        specs = self.program.graph_signature.output_specs
        outputs: list[str] = []
        node = next(node for node in self.program.graph.nodes if node.op == "output")
        for spec, item in zip(specs, node.args[0], strict=True):
            try:
                if spec.kind == OutputKind.BUFFER_MUTATION:
                    raise Refused(f"The model changes its buffer {spec.target!r}.", "Export the model in eval mode.")
                if spec.kind != OutputKind.USER_OUTPUT:
                    continue  # a change of the caller's own tensor, which the runtime copies anyway
                value = self.values.get(item) if isinstance(item, fx.Node) else None
                if not isinstance(value, Computed):
                    raise Refused("An output does not depend on the input.", "Remove it from what forward returns.")
                name = self.value(value)
                if name in outputs:
                    raise Refused("The same value is returned twice.", "Return it once.")
                outputs.append(name)
            except Refused as refused:
                self._refuse(item if isinstance(item, fx.Node) else node, "output", refused)
        return tuple(outputs)

    # --- for rules: reading -----------------------------------------------------------------------------------------

    def map(self, value: Argument) -> str:
        """Name of a value as a map (C, H, W)."""
        if isinstance(value, Computed) and len(value.shape) == 3:
            return self.value(value)
        raise Refused(f"It needs a map (N, C, H, W) computed from the input, not {_describe(value)}.")

    def vector(self, value: Argument) -> str:
        """Name of a value as a vector (F,)."""
        if isinstance(value, Computed) and len(value.shape) == 1:
            return self.value(value)
        raise Refused(
            f"It needs a vector (N, F) computed from the input, not {_describe(value)}.",
            "Flatten or average the map before it.",
        )

    def value(self, value: Argument) -> str:
        """Name of a value with the shape it is seen with; undoes a reshape that a node before it did."""
        if not isinstance(value, Computed):
            raise Refused(f"It needs a value computed from the input, not {_describe(value)}.")
        own = self.shapes[value.name]
        if value.shape == own:
            return value.name
        maker = self.made.get(value.name)
        if maker is not None and len(value.shape) == 3 and maker.op == "flatten":
            source = maker.inputs[0]
            if self.shapes[source] == value.shape:
                return source
        if maker is not None and value.shape == (*own, 1, 1) and maker.op == "mean":
            again = Node(self._unique(maker.name), "mean", maker.inputs, {"keepdim": 1})
            return self._add(again, {}).name
        if value not in self._reshaped:
            node = Node(self._unique(f"{value.name}.reshape"), "reshape", (value.name,), {"shape": value.shape})
            self._reshaped[value] = self._add(node, {}).name
        return self._reshaped[value]

    def known(self, value: Argument, what: str) -> Known:
        if isinstance(value, Known):
            return value
        raise Refused(f"Its {what} is computed from the input.", "Only constant parameters can be compiled.")

    # --- for rules: writing -----------------------------------------------------------------------------------------

    def emit(
        self,
        call: Call,
        op: str,
        inputs: Sequence[str],
        attributes: Mapping[str, Any] | None = None,
        constants: Mapping[str, Known | None] | None = None,
        label: str = "",
    ) -> Computed:
        """Adds the node that gives a call's result; refuses it if torch says that this has another shape."""
        made = self.make(call, op, inputs, attributes, constants, label)
        if made.shape != call.shape:
            raise Refused(f"It gives shape {call.shape} where {made.shape} was expected.")
        return made

    def make(
        self,
        call: Call,
        op: str,
        inputs: Sequence[str],
        attributes: Mapping[str, Any] | None = None,
        constants: Mapping[str, Known | None] | None = None,
        label: str = "",
    ) -> Computed:
        """Adds a node named after its weight or module (else after ``label`` or its op); absent constants are None."""
        present = {role: known for role, known in (constants or {}).items() if known is not None}
        name = self._unique(self._name(call.node, label or op, present))
        keys = {role: self._constant(known, f"{name}.{role}") for role, known in present.items()}
        node = self._add(Node(name, op, tuple(inputs), dict(attributes or {}), keys), self.constants)
        return Computed(name, self.shapes[node.name])

    def _add(self, node: Node, constants: Mapping[str, Constant]) -> Node:
        self.shapes[node.name] = checked_shape(node, self.shapes, constants)
        self.made[node.name] = node
        return node

    def _constant(self, known: Known, fallback: str) -> str:
        key = known.key or fallback
        array = np.ascontiguousarray(known.tensor.detach().to("cpu", torch.float32).numpy())
        while key in self.constants and not np.array_equal(self.constants[key], array, equal_nan=True):
            key = f"{key}_2"  # computed, and called as something that the state dict has
        self.constants[key] = array
        return key

    # --- names and places -------------------------------------------------------------------------------------------

    def _name(self, node: fx.Node, op: str, constants: Mapping[str, Known]) -> str:
        weight = constants.get("weight")
        if weight is not None and weight.key.endswith(".weight"):
            return weight.key.removesuffix(".weight")
        stack = node.meta.get("nn_module_stack") or {}
        path, kind = list(stack.values())[-1] if stack else ("", "")
        kind = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
        if path and kind.startswith("torch.nn.modules."):
            return str(path)
        return f"{path}.{op}" if path else op

    def _unique(self, name: str) -> str:
        unique, count = name, 1
        while unique in self.names:
            count += 1
            unique = f"{name}_{count}"
        self.names.add(unique)
        return unique

    def _refuse(self, node: fx.Node, operation: str, refused: Refused) -> None:
        name = node.name if node.op == "placeholder" else self._name(node, operation.split(".")[0], {})
        operation = operation if operation in ("input", "output", "getitem") else f"aten.{operation}"
        where = location(node.meta.get("stack_trace") or "")
        self.refusals.append(Refusal(name, operation, where, refused.reason, refused.hint))

    def _frame_shape(self, value: Tensor) -> Shape:
        shape = value.shape
        if len(shape) == 0 or str(shape[0]) != self.batch:
            raise Refused(
                f"Its result of shape ({', '.join(map(str, shape))}) does not keep the batch as first dimension.",
                "Each frame must be computed on its own.",
            )
        if not all(isinstance(extent, int) for extent in shape[1:]):
            raise Refused("Its size depends on the batch or on data.", "Every size but the batch must be fixed.")
        return tuple(int(extent) for extent in shape[1:])


def _flat(values: Any) -> list[Any]:
    flat: list[Any] = []
    for value in values:
        flat.extend(_flat(value) if isinstance(value, tuple | list) else [value])
    return flat


def _tensors(value: Argument) -> Any:
    if isinstance(value, tuple | list):
        return [_tensors(item) for item in value]
    return value.tensor if isinstance(value, Known) else value


def _describe(value: Argument) -> str:
    if isinstance(value, Computed):
        return f"per-frame shape {value.shape}"
    return "a constant" if isinstance(value, Known) else repr(value)
