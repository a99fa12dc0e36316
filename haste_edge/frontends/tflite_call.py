"""One operation of a TFLite graph, as its rule sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from haste_edge.frontends.refusals import Refused
from haste_edge.frontends.tflite_file import Quantisation
from haste_edge.frontends.values import Argument, Known
from haste_runtime.graph import Shape


@dataclass(frozen=True)
class Call:
    """name: of its first result. inputs: None where left out. options: as the schema calls them. whole_shapes: of its
    results, batch and all. result_kind: of their numbers. quantisation: of its first input."""

    operation: str
    name: str
    inputs: tuple[Argument | None, ...]
    options: Mapping[str, Any]
    whole_shapes: tuple[Shape, ...]
    batch: int
    result_kind: str
    quantisation: Quantisation | None

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """Per frame. Raises Refused if frames mix."""
        for shape in self.whole_shapes:
            if not shape or shape[0] != self.batch:
                raise Refused(
                    f"Its result of shape {shape} does not keep the batch of {self.batch} as first dimension.",
                    "Each frame must be computed on its own.",
                )
        return tuple(shape[1:] for shape in self.whole_shapes)

    @property
    def shape(self) -> Shape:
        """Of the first result."""
        return self.shapes[0]

    def input(self, index: int) -> Argument | None:
        return self.inputs[index] if index < len(self.inputs) else None

    def option(self, name: str, default: Any = 0) -> Any:
        """A number, or several; the schema's own default is 0 nearly everywhere."""
        return self.options.get(name, default)

    def positive(self, *names: str) -> tuple[int, ...]:
        """Options that must be numbers from 1 on. Raises Refused."""
        numbers = tuple(int(self.option(name, 1)) for name in names)
        if min(numbers) < 1:
            raise Refused(f"Its {' and '.join(names)} are {numbers}.", "Convert the model again.")
        return numbers

    def numbers(self, index: int, what: str) -> list[int]:
        """Whole numbers from the constant at ``index``. Raises Refused."""
        given = self.input(index)
        if not isinstance(given, Known) or given.array.dtype.kind not in "iu":
            raise Refused(f"Its {what} is computed from the input.", "Only constant parameters can be compiled.")
        return [int(number) for number in given.array.reshape(-1)]

    def step(self, label: str) -> Call:
        """The same call, for a node on the way to its result."""
        return replace(self, name=f"{self.name}.{label}")
