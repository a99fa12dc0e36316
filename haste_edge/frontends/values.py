"""What the conversion of a file's graph passes around: values that are known, computed or lost, and calls on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from haste_runtime.graph import Shape

Array = NDArray[Any]


@dataclass(frozen=True)
class Known:
    """A value known now. key: its name among the file's weights, empty if computed. other: the same for the second
    batch size, None where that makes no difference."""

    array: Array
    key: str = ""
    other: Array | None = None


@dataclass(frozen=True)
class Computed:
    """A value of the graph as the file sees it: its axes in the ``order`` given, then reshaped to ``shape``, both per
    frame."""

    name: str
    order: tuple[int, ...]
    shape: Shape


@dataclass(frozen=True)
class Lost:
    """In place of what was refused or does not exist. reason: why it cannot be read, empty where that was said."""

    reason: str = ""


Argument = Known | Computed | Lost


class Named(Protocol):
    """What nodes are made from: an operation of the file. name: what its node is called. shapes: of its results, per
    frame; raises Refused if frames mix in them."""

    @property
    def name(self) -> str: ...

    @property
    def shapes(self) -> tuple[Shape, ...]: ...


def describe(value: Argument | None) -> str:
    if isinstance(value, Computed):
        return f"per-frame shape {value.shape}"
    return "a constant" if isinstance(value, Known) else "nothing"
