"""A `Graph` under construction, as rules for operators of a file see it: they read values from it, and add nodes.

A rule never moves numbers where it can say how they are to be seen: `Computed` is a value of the graph with its axes
permuted, then reshaped. Transposes so only change what follows, and most meet their inverse before an operator needs
the numbers in place. `plain` then puts them there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from haste_edge.frontends.refusals import Refused, checked_shape
from haste_edge.frontends.values import Argument, Computed, Known, Named, describe
from haste_runtime.graph import Constant, Graph, Node, Shape, Value

CallT = TypeVar("CallT", bound=Named)
Rule = Callable[["Builder", CallT], "Argument | tuple[Argument, ...]"]


class Rules(dict[str, Rule[CallT]]):
    """Operators' names, as the file has them -> what makes nodes of their calls."""

    def __call__(self, *operations: str) -> Callable[[Rule[CallT]], Rule[CallT]]:
        """A decorator that adds a rule under these names."""

        def register(rule: Rule[CallT]) -> Rule[CallT]:
            self.update(dict.fromkeys(operations, rule))
            return rule

        return register


class Builder:
    """Rules use `map`, `vector`, `plain`, `known`, ... to read and `emit` to write.

    shapes: per-frame shape of every value of the graph. made: its nodes by name, in order. moved: how many values had
    to be put in another order.
    """

    def __init__(self) -> None:
        self.shapes: dict[str, Shape] = {}
        self.made: dict[str, Node] = {}
        self.moved = 0
        self._inputs: list[Value] = []
        self._constants: dict[str, Constant] = {}
        self._names: dict[str, int] = {}  # name -> how many were called so
        self._placed: dict[Computed, str] = {}

    def graph(self, outputs: Sequence[str]) -> Graph:
        return Graph(tuple(self._inputs), tuple(outputs), tuple(self.made.values()), self._constants)

    def add_input(self, name: str, own: Shape) -> str:
        """The name it gets."""
        self._inputs.append(Value(self.stand_in(own, name), own))
        return self._inputs[-1].name

    def stand_in(self, own: Shape, name: str = "?") -> str:
        """The name of a value that nothing makes."""
        name = self.unique(name)
        self.shapes[name] = own
        return name

    # --- for rules: reading -----------------------------------------------------------------------------------------

    def map(self, value: Argument | None) -> str:
        """Name of a value as a map (C, H, W)."""
        if isinstance(value, Computed) and len(value.shape) == 3:
            return self.plain(value)
        raise Refused(f"It needs a map (N, C, H, W) computed from the input, not {describe(value)}.")

    def vector(self, value: Argument | None) -> str:
        """Name of a value as a vector (F,)."""
        if isinstance(value, Computed) and len(value.shape) == 1:
            return self.plain(value)
        raise Refused(
            f"It needs a vector (N, F) computed from the input, not {describe(value)}.",
            "Flatten or average the map before it.",
        )

    def known(self, value: Argument | None, what: str) -> Known:
        """A constant that is the same for every batch."""
        if not isinstance(value, Known):
            raise Refused(f"Its {what} is computed from the input.", "Only constant parameters can be compiled.")
        if value.other is not None:
            raise Refused(f"Its {what} depends on the size of the batch.", "Each frame must be computed on its own.")
        return value

    def computed(self, value: Argument | None) -> Computed:
        if not isinstance(value, Computed):
            raise Refused(f"It needs a value computed from the input, not {describe(value)}.")
        return value

    def seen(self, value: Computed) -> Shape:
        """The value's own shape with its axes in the order seen, before any reshape."""
        return tuple(self.shapes[value.name][axis] for axis in value.order)

    def unreshaped(self, value: Computed) -> Computed:
        """The same value, where ``order`` alone says how it is seen, so that axes can be told from each other."""
        if value.shape == self.seen(value):
            return value
        name = self.plain(value)
        return Computed(name, tuple(range(len(value.shape))), value.shape)

    def transposed(self, value: Computed, order: Sequence[int]) -> Computed:
        """The value with its axes as seen now in another order."""
        moving = [axis for axis in order if value.shape[axis] > 1]
        if value.shape != self.seen(value) and moving == sorted(moving):  # the numbers stay in their order
            return replace(value, shape=tuple(value.shape[axis] for axis in order))
        value = self.unreshaped(value)
        return Computed(value.name, tuple(value.order[i] for i in order), tuple(value.shape[i] for i in order))

    def led_by(self, value: Computed, axis: int) -> Computed:
        """The value, moved if need be, so that what is seen as ``axis`` is its own first one: that of channels."""
        value = self.unreshaped(value)
        if value.order[axis] == 0:
            return value
        order = [axis, *(other for other in range(len(value.shape)) if other != axis)]
        back = sorted(range(len(order)), key=order.__getitem__)
        return Computed(self.plain(self.transposed(value, order)), tuple(back), value.shape)

    def alike(self, values: Sequence[Computed]) -> list[Computed]:
        """The values, all of as many axes, seen in the same way: as the largest lies, if not all lie alike already."""
        first = values[0]
        if all((v.order, v.shape, self.seen(v)) == (first.order, first.shape, self.seen(first)) for v in values):
            return list(values)
        order = self.unreshaped(max(values, key=lambda v: math.prod(v.shape))).order
        back = sorted(range(len(order)), key=order.__getitem__)
        return [Computed(self.plain(self.transposed(v, back)), order, v.shape) for v in values]

    def plain(self, value: Computed) -> str:
        """Name of a value whose own shape is the one seen; where there is none yet, numbers are moved."""
        own = self.shapes[value.name]
        if not value.shape:
            raise Refused("It reads a single number for each frame, without an axis.", "Keep an axis: keepdims=1.")
        moving = [axis for axis in value.order if own[axis] > 1]
        if moving == sorted(moving):  # axes of length 1 move no numbers
            value = replace(value, order=tuple(range(len(own))))
            if value.shape == own:
                return value.name
        if value not in self._placed:
            self._placed[value] = self._place(value, own)
        return self._placed[value]

    def _place(self, value: Computed, own: Shape) -> str:
        maker = self.made.get(value.name)
        straight = value.order == tuple(range(len(own)))
        if straight and maker is not None and maker.op == "flatten" and maker.attributes["order"] == "CHW":
            if self.shapes[maker.inputs[0]] == value.shape:
                return maker.inputs[0]
        elif straight and maker is not None and maker.op == "mean" and value.shape in ((own[0],), (own[0], 1, 1)):
            keepdim = int(len(value.shape) == 3)
            return self._add(Node(self.unique(maker.name), "mean", maker.inputs, {"keepdim": keepdim}), {}).name
        if len(value.shape) == 1 and len(own) == 3 and (straight or value.order == (1, 2, 0)):
            order = "CHW" if straight else "HWC"
            node = Node(self.unique(f"{value.name}.flatten"), "flatten", (value.name,), {"order": order})
            return self._add(node, {}).name
        name = value.name
        if not straight:
            self.moved += 1
            seen = self.seen(value)
            name = self._move(name, "rearrange", {"split": own, "axes": value.order, "shape": seen})
        if self.shapes[name] != value.shape:
            name = self._move(name, "reshape", {"shape": value.shape})
        return name

    def _move(self, name: str, op: str, attributes: Mapping[str, Any]) -> str:
        return self._add(Node(self.unique(f"{name}.{op}"), op, (name,), dict(attributes)), {}).name

    # --- for rules: writing -----------------------------------------------------------------------------------------

    def emit(
        self,
        call: Named,
        op: str,
        inputs: Sequence[str],
        attributes: Mapping[str, Any] | None = None,
        constants: Mapping[str, Known | None] | None = None,
        *,
        like: Computed | None = None,
        label: str = "",
        result: int | None = 0,
    ) -> Computed:
        """Adds a node named after its weight, else as in the file.

        like: the node lies as this value does, and is seen in the same way. result: which of the call's results this
        is, to check its shape; None for a step on the way there. Constants that are None are left out.
        """
        present = {role: known for role, known in (constants or {}).items() if known is not None}
        name = self.unique(self._name(call, present, label))
        keys = {role: self._constant(known, f"{name}.{role}") for role, known in present.items()}
        node = self._add(Node(name, op, tuple(inputs), dict(attributes or {}), keys), self._constants)
        own = self.shapes[node.name]
        value = Computed(node.name, tuple(range(len(own))), own)
        if like is not None and len(like.order) == len(own):
            seen = tuple(own[axis] for axis in like.order)
            reshaped = like.shape != self.seen(like)  # only where all numbers stay
            value = Computed(node.name, like.order, like.shape if reshaped else seen)
        if result is not None and value.shape != call.shapes[result]:
            raise Refused(f"It gives shape {value.shape} where {call.shapes[result]} was expected.")
        return value

    def _add(self, node: Node, constants: Mapping[str, Constant]) -> Node:
        self.shapes[node.name] = checked_shape(node, self.shapes, constants)
        self.made[node.name] = node
        return node

    def _constant(self, known: Known, fallback: str) -> str:
        key = printable(known.key) or fallback
        array = np.ascontiguousarray(known.array, np.float32)
        while key in self._constants and not np.array_equal(self._constants[key], array, equal_nan=True):
            key = f"{key}_2"  # the same weight in two forms
        self._constants[key] = array
        return key

    # --- names -----------------------------------------------------------------------------------------------------

    def _name(self, call: Named, constants: Mapping[str, Known], label: str) -> str:
        weight = constants.get("weight")
        if weight is not None and weight.key.endswith(".weight"):
            return weight.key.removesuffix(".weight")
        return f"{call.name}.{label}" if label else call.name

    def unique(self, name: str) -> str:
        name = printable(name) or "value"
        unique = name
        while unique in self._names:
            self._names[name] += 1
            unique = f"{name}_{self._names[name]}"
        self._names[unique] = 1
        return unique


def printable(name: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in name)
