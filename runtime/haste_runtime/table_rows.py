"""The execution table's rows of all operators but convolutions and linear layers: one function for each kind.

Operators that move, resample or reduce are in `haste_runtime.table_moves`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from haste_runtime.graph import Node
from haste_runtime.kernels import layout as t
from haste_runtime.memory import as_map, lrn_room
from haste_runtime.table_moves import MOVING

if TYPE_CHECKING:
    from haste_runtime.table import Builder

POOLS = {
    "max_pool": t.MAX_POOL, "avg_pool": t.AVERAGE_POOL,
    "adaptive_avg_pool": t.ADAPTIVE_AVERAGE, "adaptive_max_pool": t.ADAPTIVE_MAX,
}  # fmt: skip
BINARY = {
    "add": t.PLUS, "subtract": t.MINUS, "multiply": t.TIMES, "divide": t.OVER, "minimum": t.LEAST, "maximum": t.MOST,
}  # fmt: skip


def _pool(builder: Builder, node: Node) -> None:
    row = builder.row(POOLS[node.op], node.inputs[0], node.name)
    if node.op in ("max_pool", "avg_pool"):
        row[[t.KY, t.KX]], row[[t.SY, t.SX]] = node.attributes["kernel"], node.attributes["stride"]
        row[[t.PTOP, t.PLEFT]] = node.attributes["padding"][:2]
        row[[t.DY, t.DX]] = node.attributes.get("dilation", (1, 1))
        row[t.OPTION] = node.attributes.get("count_include_pad", 0)


def _mean(builder: Builder, node: Node) -> None:
    builder.row(t.MEAN, node.inputs[0], node.name)


# ---- elementwise


def _per_channel(builder: Builder, node: Node, role: str) -> int:
    """Where a constant of one number for each element of the first axis lies, with a number for each channel: axes
    before the last two lie together in channels."""
    shape, value = builder.shapes[node.inputs[0]], builder.constant(node, role)
    assert value is not None
    return builder.packed.add(np.repeat(value, as_map(shape)[0] // shape[0]))


def _scale(builder: Builder, node: Node) -> None:
    row = builder.row(t.SCALE, node.inputs[0], node.name, node.attributes["activation"])
    row[t.WEIGHT], row[t.BIAS] = _per_channel(builder, node, "scale"), _per_channel(builder, node, "shift")


def _add(builder: Builder, node: Node) -> None:
    builder.second(builder.row(t.ADD, node.inputs[0], node.name, node.attributes["activation"]), node.inputs[1])


def _activation(builder: Builder, node: Node) -> None:
    builder.row(t.ACTIVATE, node.inputs[0], node.name, node.attributes["activation"])


def _unary(builder: Builder, node: Node) -> None:
    row = builder.row(t.UNARY, node.inputs[0], node.name)
    row[t.OPTION] = getattr(t, node.attributes["function"].upper())
    row[t.WEIGHT] = builder.packed.add([node.attributes["alpha"], node.attributes["beta"]])


def _prelu(builder: Builder, node: Node) -> None:
    builder.row(t.PRELU, node.inputs[0], node.name)[t.WEIGHT] = _per_channel(builder, node, "slope")


def _binary(builder: Builder, node: Node) -> None:
    row = builder.row(t.BINARY, node.inputs[0], node.name, node.attributes["activation"])
    row[t.OPTION] = BINARY[node.attributes["function"]]
    row[[t.XSTEP, t.RSTEP]] = 1
    row[[t.XSTEP, t.XROW, t.XPIXEL]] *= np.not_equal(as_map(builder.shapes[node.inputs[0]]), 1)
    constant = builder.constant(node, "other")
    if constant is None:
        second = as_map(builder.shapes[node.inputs[1]])
        builder.second(row, node.inputs[1])
    else:
        second = channels, _, width = as_map(constant.shape)
        row[t.WEIGHT] = builder.packed.add(constant.reshape(second).transpose(1, 2, 0))
        row[[t.RROW, t.RPIXEL]] = width * channels, channels
    row[[t.RSTEP, t.RROW, t.RPIXEL]] *= np.not_equal(second, 1)


def _lrn(builder: Builder, node: Node) -> None:
    a, row = node.attributes, builder.row(t.LRN, node.inputs[0], node.name)
    row[t.OPTION], row[t.ROOM] = a["size"], lrn_room(builder.shapes[node.name], a["size"], builder.lanes)
    row[t.WEIGHT] = builder.packed.add([a["alpha"] / a["size"], a["beta"], a["bias"]])


ROWS: Mapping[str, Callable[[Builder, Node], None]] = {
    "scale": _scale,
    "add": _add,
    "activation": _activation,
    "unary": _unary,
    "prelu": _prelu,
    "binary": _binary,
    **dict.fromkeys(POOLS, _pool),
    "mean": _mean,
    "lrn": _lrn,
    **MOVING,
}
