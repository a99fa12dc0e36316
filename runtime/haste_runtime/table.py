"""From a bundle to what the compiled kernels walk: the execution table, packed weights, index lists and levels.

All of it is plain arrays of offsets (`haste_runtime.kernels.layout` names the columns); building it needs numpy only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haste_runtime.bundle import Bundle
from haste_runtime.graph import Node, Shape
from haste_runtime.kernels import layout as t
from haste_runtime.kernels.lanes import blocks
from haste_runtime.memory import Map, aligned, as_map, conv_geometry, layer_scratch, merge_scratch, place_maps
from haste_runtime.operators import check_graph
from haste_runtime.plan import POLICIES, LayerPlan

ACTIVATIONS = {"none": t.NO_LIMIT, "relu": t.RELU, "relu6": t.RELU6}
POOLS = {
    "max_pool": t.MAX_POOL, "avg_pool": t.AVERAGE_POOL,
    "adaptive_avg_pool": t.ADAPTIVE_AVERAGE, "adaptive_max_pool": t.ADAPTIVE_MAX,
}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """operations (n, COLUMNS) and levels (levels, slots, LEVEL_COLUMNS) int64; packed float32; index int32.

    shapes, maps: each value's shape and where it lies. slots: the layers that may merge, in order; readers: what
    each of them reads. scratch: offset of scratch in the arena, which has ``room`` floats for each thread.
    trace: int32 entries that recording every code and leader would take.
    """

    operations: NDArray[np.int64]
    levels: NDArray[np.int64]
    packed: NDArray[np.float32]
    index: NDArray[np.int32]
    shapes: Mapping[str, Shape]
    maps: Mapping[str, Map]
    slots: tuple[str, ...]
    readers: Mapping[str, str]
    scratch: int
    room: int
    trace: int


class Pool:
    """Arrays laid end to end; `add` tells where one begins."""

    def __init__(self, dtype: type) -> None:
        self._dtype = dtype
        self._parts: list[NDArray[Any]] = []
        self._size = 0

    def add(self, values: NDArray[Any] | Iterable[int]) -> int:
        part: NDArray[Any] = np.ascontiguousarray(np.asarray(values, dtype=self._dtype).reshape(-1))
        start, padding = self._size, -part.size % 16
        self._parts += [part, np.zeros(padding, self._dtype)]
        self._size += part.size + padding
        return start

    def join(self) -> NDArray[Any]:
        return np.concatenate([*self._parts, np.zeros(64, self._dtype)])  # vector loads may run past the end


def pack_conv(weight: NDArray[np.float32], groups: int, lanes: int) -> NDArray[np.float32]:
    """(O, C/g, Kh, Kw) -> (g, block, C/g, tap, width): what one block of output channels reads lies in a row."""
    outputs, inputs = weight.shape[0] // groups, weight.shape[1]
    vectors, count = blocks(lanes, outputs)
    width, taps = vectors * lanes, weight.shape[2] * weight.shape[3]
    packed = np.zeros((groups, count * width, inputs, taps), np.float32)
    packed[:, :outputs] = weight.reshape(groups, outputs, inputs, taps)
    return packed.reshape(groups, count, width, inputs, taps).transpose(0, 1, 3, 4, 2)


def pack_bias(bias: NDArray[np.float32] | None, outputs: int, groups: int, lanes: int) -> NDArray[np.float32]:
    """Each group's biases, padded with zeros to whole blocks."""
    vectors, count = blocks(lanes, outputs // groups)
    packed = np.zeros((groups, count * vectors * lanes), np.float32)
    if bias is not None:
        packed[:, : outputs // groups] = bias.reshape(groups, -1)
    return packed


def is_depthwise(groups: int, channels_in: int, channels_out: int) -> bool:
    """One filter per channel: channels lie in lanes instead of being summed over."""
    return groups > 1 and groups == channels_in == channels_out


class _Builder:
    def __init__(self, bundle: Bundle, lanes: int) -> None:
        self.bundle, self.graph, self.lanes = bundle, bundle.graph, lanes
        self.shapes = check_graph(bundle.graph)
        self.maps, self.scratch = place_maps(bundle.graph, self.shapes)
        self.scratch_size = 64
        self.packed, self.index = Pool(np.float32), Pool(np.int32)
        self.rows: list[NDArray[np.int64]] = []
        self.plans = {layer.node: layer for layer in bundle.plan.layers if layer.variants}
        self.slots: list[str] = []
        self.levels: list[list[NDArray[np.int64]]] = [[] for _ in bundle.plan.levels]
        self.trace = 0

    # ---- rows of operations

    def row(self, kind: int, x: str, y: str, activation: str = "none") -> NDArray[np.int64]:
        """A row with input, output and activation filled in."""
        row = np.zeros(t.COLUMNS, np.int64)
        source, target = self.maps[x], self.maps[y]
        row[[t.KIND, t.ACTIVATION, t.R, t.SLOT]] = kind, ACTIVATIONS[activation], -1, -1
        row[[t.X, t.XH, t.XW, t.XC, t.XROW, t.XPIXEL]] = (
            source.offset, source.height, source.width, source.channels, source.row, source.channels,
        )  # fmt: skip
        row[[t.Y, t.YH, t.YW, t.YC, t.YROW, t.YPIXEL, t.YBORDER]] = (
            target.offset, target.height, target.width, target.channels, target.row, target.channels, target.border,
        )  # fmt: skip
        self.rows.append(row)
        return row

    def second(self, row: NDArray[np.int64], name: str) -> None:
        other = self.maps[name]
        row[[t.R, t.RROW, t.RPIXEL]] = other.offset, other.row, other.channels

    def constant(self, node: Node, role: str) -> NDArray[np.float32] | None:
        value = self.graph.constant(node, role)
        return None if value is None else value.astype(np.float32)

    def convolution(self, node: Node) -> None:
        geometry = conv_geometry(self.graph, node, self.shapes)
        weight = self.constant(node, "weight")
        assert weight is not None  # check_graph has seen to it
        bias = self.constant(node, "bias")
        depthwise = is_depthwise(geometry.groups, geometry.channels_in, geometry.channels_out)
        row = self.row(t.DEPTHWISE if depthwise else t.CONV, node.inputs[0], node.name, node.attributes["activation"])
        if len(node.inputs) == 2:
            self.second(row, node.inputs[1])
        row[[t.KY, t.KX]], row[[t.SY, t.SX]] = geometry.kernel, geometry.stride
        row[[t.DY, t.DX]], row[[t.PTOP, t.PLEFT]] = geometry.dilation, geometry.padding[:2]
        plan = self.plans.get(node.name)
        dense, size = layer_scratch(geometry, int(row[t.XROW]), plan.variants if plan else (), self.lanes)
        self.scratch_size = max(self.scratch_size, aligned(size))
        row[[t.STRIP, t.ROOM, t.SPILL, t.PIXELS]] = dense.strip, dense.room, dense.spill, dense.pixels
        if depthwise:
            padding = -geometry.channels_in % self.lanes
            taps = np.pad(weight.reshape(geometry.channels_out, -1).T, ((0, 0), (0, padding)))
            shift = np.zeros(geometry.channels_out, np.float32) if bias is None else bias
            row[[t.WEIGHT, t.BIAS]] = self.packed.add(taps), self.packed.add(np.pad(shift, (0, padding)))
            return
        inputs, outputs = geometry.channels_in // geometry.groups, geometry.channels_out // geometry.groups
        vectors, count = blocks(self.lanes, outputs)
        ky, kx = np.indices(geometry.kernel).reshape(2, -1)
        taps = ky * row[t.DY] * row[t.XROW] + kx * row[t.DX] * row[t.XPIXEL]
        channels = np.arange(inputs)
        row[[t.GROUPS, t.GROUP_IN, t.GROUP_OUT, t.VECTORS, t.BLOCKS]] = geometry.groups, inputs, outputs, vectors, count
        weight = weight.reshape(geometry.channels_out, inputs, *geometry.kernel)
        row[t.WEIGHT] = self.packed.add(pack_conv(weight, geometry.groups, self.lanes))
        row[t.BIAS] = self.packed.add(pack_bias(bias, geometry.channels_out, geometry.groups, self.lanes))
        row[t.TAPS] = self.index.add(taps)
        row[t.CHANNELS] = self.index.add(np.concatenate([channels, channels * len(taps) * vectors * self.lanes]))
        if plan:
            row[t.SLOT] = len(self.slots)
            self.slots.append(node.name)
            self.merging(node, plan, dense.size)

    def merging(self, node: Node, plan: LayerPlan, scratch: int) -> None:
        """This layer's row of every level; ``scratch``: where its merge scratch begins."""
        geometry = conv_geometry(self.graph, node, self.shapes)
        listed = {}
        most = 0
        for variant in plan.variants:
            matrix = self.bundle.projections[variant.projection]
            halves = [np.flatnonzero(line == sign) for line in matrix for sign in (1, -1)]
            starts = np.cumsum([0, *map(len, halves)])
            weights = self.bundle.importance[variant.importance] if variant.importance else ()
            listed[variant] = self.index.add(np.concatenate(halves)), self.index.add(starts), self.index.add(weights)
            ty, tx = geometry.grid(variant.patch)
            most = max(most, 2 * ty * tx * geometry.channels_in)  # codes and leaders
        for number, level in enumerate(self.bundle.plan.levels):
            row = np.zeros(t.LEVEL_COLUMNS, np.int64)
            choice = level.choices.get(node.name)
            if choice is not None:
                variant = plan.variants[choice.variant]
                place = merge_scratch(geometry, variant, self.lanes)
                row[[t.PATCH, t.BITS, t.SIDE]] = variant.patch, choice.bits, geometry.patch_side(variant.patch)
                row[[t.TILES_Y, t.TILES_X]] = geometry.grid(variant.patch)
                row[[t.SIGNS, t.STARTS, t.IMPORTANCE]] = listed[variant]
                row[[t.POLICY, t.BUDGET]] = POLICIES.index(variant.policy), np.float64(choice.budget).view(np.int64)
                row[[t.PLANE, t.SPAN, t.TRACE]] = place.plane, place.span, self.trace
                for name, offset in place.offsets.items():
                    row[getattr(t, name)] = scratch + offset
            self.levels[number].append(row)
        self.trace += most

    def window(self, node: Node) -> None:
        row = self.row(POOLS[node.op], node.inputs[0], node.name)
        if node.op in ("max_pool", "avg_pool"):
            row[[t.KY, t.KX]], row[[t.SY, t.SX]] = node.attributes["kernel"], node.attributes["stride"]
            row[[t.PTOP, t.PLEFT]] = node.attributes["padding"][:2]
            row[[t.DY, t.DX]] = node.attributes.get("dilation", (1, 1))
            row[t.OPTION] = node.attributes.get("count_include_pad", 0)

    def box(
        self, x: str, y: str, size: tuple[int, int, int], *, first: Shape = (0, 0, 0), step: Shape = (1, 1, 1),
        place: Shape = (0, 0, 0), fill: float | None = None,
    ) -> None:  # fmt: skip
        """Copy a strided box; all triples are (channels, rows, columns)."""
        row = self.row(t.COPY, x, y)
        row[[t.BC, t.BY, t.BX]], row[[t.CC, t.CY, t.CX]] = size, first
        row[[t.TC, t.TY, t.TX]], row[[t.OC, t.OY, t.OX]] = step, place
        if fill is not None:
            row[[t.CLEAR, t.FILL]] = 1, np.float32(fill).view(np.int32)

    def concat(self, node: Node) -> None:
        place = [0, 0, 0]
        for name in node.inputs:
            size = as_map(self.shapes[name])
            self.box(name, node.name, size, place=tuple(place))
            place[node.attributes["axis"]] += size[node.attributes["axis"]]

    def add(self, node: Node) -> None:
        x, y = node.inputs[0], node.name
        attributes = node.attributes
        if node.op in ("conv", "linear"):
            self.convolution(_as_conv(node) if node.op == "linear" else node)
        elif node.op in POOLS:
            self.window(node)
        elif node.op == "scale":
            row = self.row(t.SCALE, x, y, attributes["activation"])
            for column, role in ((t.WEIGHT, "scale"), (t.BIAS, "shift")):
                value = self.constant(node, role)
                assert value is not None
                row[column] = self.packed.add(value)
        elif node.op == "add":
            self.second(self.row(t.ADD, x, y, attributes["activation"]), node.inputs[1])
        elif node.op == "activation":
            self.row(t.ACTIVATE, x, y, attributes["activation"])
        elif node.op == "mean":
            self.row(t.MEAN, x, y)
        elif node.op == "flatten":
            self.row(t.FLATTEN, x, y)[t.OPTION] = attributes["order"] == "HWC"
        elif node.op == "concat":
            self.concat(node)
        elif node.op == "pad":
            pads = attributes["pads"]
            self.box(x, y, as_map(self.shapes[x]), place=pads[::2], fill=attributes["value"])
        elif node.op == "slice":
            first, step = attributes["starts"], attributes["steps"]
            ones = (1,) * (3 - len(step))
            self.box(x, y, as_map(self.shapes[y]), first=(*first, 0, 0)[:3], step=(*step, *ones))
        else:
            raise KeyError(f"{node.op} is in the operator table but not here")

    def build(self) -> Table:
        for node in self.graph.nodes:
            self.add(node)
        levels = np.array(self.levels, np.int64).reshape(len(self.levels), len(self.slots), t.LEVEL_COLUMNS)
        return Table(
            np.array(self.rows, np.int64).reshape(-1, t.COLUMNS), levels, self.packed.join(), self.index.join(),
            self.shapes, self.maps, tuple(self.slots), {n.name: n.inputs[0] for n in self.graph.nodes if n.inputs},
            self.scratch, self.scratch_size, self.trace,
        )  # fmt: skip


def _as_conv(node: Node) -> Node:
    """A linear layer is a 1x1 convolution of one pixel."""
    return node.with_attributes(stride=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1), groups=1)


def build_table(bundle: Bundle, lanes: int) -> Table:
    """Everything the kernels need of a (validated) bundle, for vectors of ``lanes`` float32."""
    return _Builder(bundle, lanes).build()
