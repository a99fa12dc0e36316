"""Compute an operation of a TFLite graph now, because all that it reads is known.

Converters fold nearly everything themselves. What they leave are weights stored in half precision or in 8 bits, which
are made float32 before use, and shape arithmetic where a file takes any batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from haste_edge.frontends.refusals import Refused
from haste_edge.frontends.tflite_call import Call
from haste_edge.frontends.tflite_file import Quantisation
from haste_edge.frontends.tflite_shapes import strided
from haste_edge.frontends.values import Array

MOST_NUMBERS = 2**16  # of a result that is not just its input in another form
MOST_STORED = 2**16  # of numbers of 8 or 16 bits

_Fold = Callable[[Call, Sequence[Array]], Array]


def fold(call: Call, arrays: Sequence[Array]) -> Array:
    """The result. Raises Refused where the operation is not one that is computed with constants, or does not fit."""
    function = _KEPT.get(call.operation)
    try:
        if function is None and _size(call, arrays) <= MOST_NUMBERS:
            function = _FOLDED.get(call.operation)
        if function is None:
            raise Refused("It computes with constants alone, which is not done for it.", "Simplify the model first.")
        result = np.asarray(function(call, arrays))
    except (ValueError, IndexError, TypeError, ZeroDivisionError, OverflowError) as error:  # numpy's, on odd arguments
        raise Refused(f"It cannot be computed: {error}.", "Convert the model again.") from error
    if result.shape != call.whole_shapes[0]:
        raise Refused(f"It gives shape {result.shape} where {call.whole_shapes[0]} is stated.", "Convert it again.")
    return result


def dequantised(array: Array, quantisation: Quantisation | None) -> Array:
    """Stored numbers as float32. Raises Refused if they are whole numbers without a scale."""
    if array.dtype.kind == "f":
        return array.astype(np.float32)
    if quantisation is None or np.abs(quantisation.zero_points).max() > MOST_STORED:
        raise Refused("It has whole numbers without a scale, or with a wild zero point.", "Convert the model again.")
    shape = [1] * array.ndim
    if quantisation.scales.size > 1:
        shape[quantisation.axis] = -1
    zero_points = quantisation.zero_points
    zero_points = zero_points.reshape(shape if zero_points.size > 1 else [1] * array.ndim)
    return ((array - zero_points) * quantisation.scales.reshape(shape)).astype(np.float32)


def _size(call: Call, arrays: Sequence[Array]) -> int:
    """How many numbers are read and, by operations that repeat them, made."""
    repeated = [array.shape for array in arrays] if call.operation in _ARITHMETIC else []
    return sum(array.size for array in arrays) + math.prod(np.broadcast_shapes(*repeated))


def _divided(call: Call, arrays: Sequence[Array]) -> Array:
    whole = arrays[0].dtype.kind in "iu"
    return np.asarray(arrays[0] // arrays[1] if whole else arrays[0] / arrays[1])


def _strided(call: Call, arrays: Sequence[Array]) -> Array:
    ranges, dropped = strided(call, arrays[0].shape, *(array.tolist() for array in arrays[1:4]))
    part: Array = arrays[0][tuple(slice(*r) for r in ranges)]
    return part.reshape([n for axis, n in enumerate(part.shape) if axis not in dropped])


def _gathered(call: Call, arrays: Sequence[Array]) -> Array:
    if arrays[0].ndim != 1 or arrays[1].ndim > 1:
        raise Refused("It picks parts of a constant.", "Simplify the model first.")
    return np.take(arrays[0], arrays[1], axis=0)


def _product(call: Call, arrays: Sequence[Array]) -> Array:
    axes = tuple(np.atleast_1d(arrays[1]).tolist())
    return np.asarray(np.prod(arrays[0], axis=axes, keepdims=bool(call.option("KeepDims")), dtype=arrays[0].dtype))


def _cast(call: Call, arrays: Sequence[Array]) -> Array:
    if call.result_kind not in ("FLOAT32", "INT32", "INT64"):
        raise Refused(f"It makes {call.result_kind} of a constant.", "Simplify the model first.")
    return arrays[0].astype(call.result_kind.lower())


def _reshaped(call: Call, arrays: Sequence[Array]) -> Array:
    return arrays[0].reshape(call.whole_shapes[0])


_KEPT: dict[str, _Fold] = {  # as many numbers as before
    "CAST": _cast,
    "DEQUANTIZE": lambda call, arrays: dequantised(arrays[0], call.quantisation),
    "EXPAND_DIMS": _reshaped,
    "RESHAPE": _reshaped,
    "SQUEEZE": _reshaped,
    "TRANSPOSE": lambda call, arrays: arrays[0].transpose(arrays[1].tolist()),
}

_ARITHMETIC: dict[str, _Fold] = {
    "ADD": lambda call, arrays: arrays[0] + arrays[1],
    "DIV": _divided,
    "FLOOR_DIV": lambda call, arrays: arrays[0] // arrays[1],
    "MUL": lambda call, arrays: arrays[0] * arrays[1],
    "SUB": lambda call, arrays: arrays[0] - arrays[1],
}

_FOLDED: dict[str, _Fold] = {
    **_ARITHMETIC,
    "CONCATENATION": lambda call, arrays: np.concatenate(arrays, call.option("Axis")),
    "GATHER": _gathered,
    "PACK": lambda call, arrays: np.stack(arrays, call.option("Axis")),
    "REDUCE_PROD": _product,
    "STRIDED_SLICE": _strided,
}
