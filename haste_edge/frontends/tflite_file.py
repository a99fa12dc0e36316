"""Read a ``.tflite`` file as data, and check all of it that the conversion looks at.

Nothing of the file is executed. It is a flatbuffer: tables that point at each other by offsets, which the reader from
PyPI's ``tflite`` follows unchecked wherever they lead. A wild one ends in an exception, as Python looks at every index;
many that lead to the same bytes are caught by counting what was read. Constants are not copied. So a file costs no
more than a few times its size.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tflite

from haste_edge.errors import ModelError
from haste_edge.frontends.values import Array
from haste_runtime.graph import Shape

MOST_BYTES = 2**31 - 1  # of a flatbuffer
MOST_OPERATIONS = 20_000  # the largest published networks have a few hundred
MOST_VALUES = 100_000
MOST_ENDS = 1000  # inputs, and outputs
MOST_ENTRIES = 2**25  # bytes of all but constants
MOST_AXES = 8
MOST_ELEMENTS = 2**27  # of one value: half a gigabyte
OUT_OF_BOUNDS = (struct.error, TypeError, ValueError, IndexError, OverflowError)  # what the reader raises there

_EXPORT = "Convert the model again."
_TYPES: dict[int, str] = {number: name for name, number in vars(tflite.TensorType).items() if not name.startswith("_")}
_OPTIONS: dict[int, str] = {number: name for name, number in vars(tflite.BuiltinOptions).items() if name[0] != "_"}
_OPTIONS_2: dict[int, str] = {number: name for name, number in vars(tflite.BuiltinOptions2).items() if name[0] != "_"}
_NUMBERS = ("FLOAT32", "FLOAT16", "FLOAT64", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "BOOL")


@dataclass(frozen=True)
class Quantisation:
    """number = scale * (stored - zero point), with one of both, or one for each place along ``axis``."""

    scales: Array
    zero_points: Array
    axis: int


@dataclass(frozen=True)
class Tensor:
    """A value of the file. shape: batch and all, as stated. open: which of its axes may have any size. kind: of its
    numbers, as the file calls it. data: those of a constant, read-only, None of a computed value."""

    name: str
    shape: Shape
    open: tuple[bool, ...]
    kind: str
    data: Array | None
    quantisation: Quantisation | None


@dataclass(frozen=True)
class Operation:
    """inputs, outputs: numbers of tensors, -1 for an input that is left out. options: as the schema calls them, only
    those of its kind that this version of the schema has."""

    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TfliteFile:
    """The first, and main, graph of the file. size: in bytes."""

    tensors: tuple[Tensor, ...]
    operations: tuple[Operation, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    size: int


def read_tflite(path: Path) -> TfliteFile:
    """Raises ModelError if the file is damaged, of another kind, or larger than 2 GB."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ModelError(f"{path} is larger than 2 GB.", "Convert a smaller model.")
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise ModelError(f"There is no file {path}.", "Give the path of a .tflite file.") from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror}).") from error
    if data[4:8] != b"TFL3":
        raise ModelError(f"{path} is not a TFLite file.", _EXPORT)
    try:
        return _Reader(data).file()
    except OUT_OF_BOUNDS as error:
        raise ModelError(f"{path} is damaged: it points to places outside of it.", _EXPORT) from error
    except _Damaged as error:
        raise ModelError(f"{path} is damaged: {error}.", _EXPORT) from error


class _Damaged(Exception):
    """What is wrong with the file, in words."""


class _Reader:
    """Reads one file's tables, until more was read than a file of its size has."""

    def __init__(self, data: bytes) -> None:
        self._size = len(data)
        self._left = min(2**16 + 8 * len(data), MOST_ENTRIES)
        self._data = data
        self._model = tflite.Model.GetRootAs(data, 0)

    def file(self) -> TfliteFile:
        if self._model.SubgraphsLength() < 1:
            raise _Damaged("it holds no network")
        graph = self._model.Subgraphs(0)
        codes = self._count(self._model.OperatorCodesLength(), MOST_OPERATIONS, "kinds of operation")
        kinds = [self._kind(self._model.OperatorCodes(i)) for i in range(codes)]
        values = self._count(graph.TensorsLength(), MOST_VALUES, "values")
        tensors = tuple(self._tensor(graph.Tensors(i)) for i in range(values))
        count = self._count(graph.OperatorsLength(), MOST_OPERATIONS, "operations")
        operations = tuple(self._operation(graph.Operators(i), kinds) for i in range(count))
        inputs, outputs = self._numbers(graph, "Inputs"), self._numbers(graph, "Outputs")
        for numbers, what in ((inputs, "inputs"), (outputs, "outputs")):
            self._count(len(numbers), MOST_ENDS, what)
            if len(set(numbers)) != len(numbers) or not numbers:
                raise _Damaged(f"its network has no {what}, or one of them twice")
        read = [*inputs, *outputs, *(number for o in operations for number in (*o.inputs, *o.outputs) if number != -1)]
        if any(not 0 <= number < len(tensors) for number in read):
            raise _Damaged("an operation reads or makes a value that is not there")
        return TfliteFile(tensors, operations, inputs, outputs, self._size)

    def _count(self, number: int, most: int = MOST_BYTES, what: str = "") -> int:
        """The length of a vector of numbers or offsets, of ``most`` at most, which is about to be read."""
        if number > most:
            raise _Damaged(f"it has {number} {what}, more than {most}")
        self._left -= 4 * number
        if self._left < 0:
            raise _Damaged("its parts overlap, or it has far too many")
        return number

    def _numbers(self, table: Any, name: str) -> tuple[int, ...]:
        """A vector of whole numbers. Raises ValueError if it leaves the file."""
        if getattr(table, f"{name}IsNone")():
            return ()
        self._count(getattr(table, f"{name}Length")())
        return tuple(map(int, getattr(table, f"{name}AsNumpy")()))

    def _text(self, raw: bytes | None) -> str:
        self._count(len(raw or b"") // 4)
        return (raw or b"").decode("utf-8", "replace")

    # --- values ------------------------------------------------------------------------------------------------------

    def _tensor(self, table: Any) -> Tensor:
        name, shape = self._text(table.Name()), self._numbers(table, "Shape")
        signature = self._numbers(table, "ShapeSignature") or shape
        kind = _TYPES.get(table.Type(), f"type {table.Type()}")
        if len(shape) > MOST_AXES or len(signature) != len(shape):
            raise _Damaged(f"the value {name!r} has {len(shape)} axes")
        if any(extent < 0 for extent in shape) or math.prod(shape) > MOST_ELEMENTS:
            raise _Damaged(f"the value {name!r} has shape {shape}")
        if table.Sparsity() is not None:
            kind = f"sparse {kind}"
        raw = self._bytes(table.Buffer())
        data = None if raw is None or kind not in _NUMBERS else _as_array(raw, kind, shape, name)
        open_ = tuple(extent < 0 for extent in signature)
        return Tensor(name, shape, open_, kind, data, self._quantisation(table.Quantization()))

    def _bytes(self, number: int) -> Array | None:
        """What the buffer holds; None if nothing. Large files have it after the flatbuffer."""
        if number >= self._model.BuffersLength():
            raise _Damaged(f"there is no buffer {number}")
        buffer = self._model.Buffers(number)
        if buffer.Offset() > 1:
            return np.frombuffer(self._data, np.uint8, buffer.Size(), buffer.Offset())
        return buffer.DataAsNumpy() if buffer.DataLength() else None

    def _quantisation(self, table: Any) -> Quantisation | None:
        if table is None or not table.ScaleLength():
            return None
        self._count(table.ScaleLength())
        scales = np.array(table.ScaleAsNumpy(), np.float64)
        zero_points = np.array(self._numbers(table, "ZeroPoint") or [0], np.int64)
        return Quantisation(scales, zero_points, int(table.QuantizedDimension()))

    # --- operations --------------------------------------------------------------------------------------------------

    def _kind(self, code: Any) -> str:
        number = code.BuiltinCode()
        if number == tflite.BuiltinOperator.CUSTOM:
            return self._text(code.CustomCode()) or "CUSTOM"
        return str(tflite.utils.BUILTIN_OPCODE2NAME.get(number, f"operator {number}"))

    def _operation(self, table: Any, kinds: Sequence[str]) -> Operation:
        self._count(1)
        options: dict[str, Any] = {}
        for raw, kind in (
            (table.BuiltinOptions(), _OPTIONS.get(table.BuiltinOptionsType(), "NONE")),
            (table.BuiltinOptions2(), _OPTIONS_2.get(table.BuiltinOptions2Type(), "NONE")),
        ):
            if raw is not None and kind != "NONE":
                own = getattr(tflite, kind)()
                own.Init(raw.Bytes, raw.Pos)
                options.update(self._fields(own))
        kind = kinds[table.OpcodeIndex()]
        return Operation(kind, self._numbers(table, "Inputs"), self._numbers(table, "Outputs"), options)

    def _fields(self, options: Any) -> Iterator[tuple[str, Any]]:
        """What the table holds: numbers, and vectors of them. Of each vector the class has four methods."""
        names = [name for name, method in vars(type(options)).items() if name[0].isupper() and callable(method)]
        vectors = [name.removesuffix("AsNumpy") for name in names if name.endswith("AsNumpy")]
        about = {name + end for name in vectors for end in ("", "AsNumpy", "Length", "IsNone")}
        yield from ((name, self._numbers(options, name)) for name in vectors)
        yield from ((name, getattr(options, name)()) for name in names if name not in {"Init", *about})


def _as_array(raw: Array, kind: str, shape: Shape, name: str) -> Array:
    dtype = np.dtype(kind.lower()).newbyteorder("<")
    if raw.nbytes != math.prod(shape) * dtype.itemsize:
        raise _Damaged(f"the constant {name!r} of shape {shape} has {raw.nbytes} bytes")
    return raw.view(dtype).reshape(shape)
