"""From a bundle to what the compiled kernels walk: the execution table, packed weights, index lists and levels.

All of it is plain arrays of offsets (`haste_runtime.kernels.layout` names the columns); building it needs numpy only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haste_runtime.bundle import Bundle
from haste_runtime.geometry import ConvGeometry
from haste_runtime.graph import Node, Shape
from haste_runtime.kernels import layout as t
from haste_runtime.kernels.lanes import blocks
from haste_runtime.memory import (
    Map,
    aligned,
    conv_geometry,
    is_deep,
    layer_scratch,
    merge_scratch,
    operation_scratch,
    place_maps,
    winograd_scratch,
)
from haste_runtime.operators import check_graph
from haste_runtime.plan import POLICIES, LayerPlan
from haste_runtime.record import record
from haste_runtime.table_rows import ROWS
from haste_runtime.weights import float_weight
from haste_runtime.winograd import TILE_SIDES, algorithm_of, pack_filters, packed_filters_shape

ACTIVATIONS = {"none": t.NO_LIMIT, "relu": t.RELU, "relu6": t.RELU6}
STORED = {"float32": t.FLOATS, "float16": t.HALVES, "int8": t.BYTES}


@record(frozen=True)
class Table:
    """operations (n, COLUMNS) and levels (levels, slots, LEVEL_COLUMNS) int64; packed float32; index int32.

    inputs: (inputs, COLUMNS) int64, where each lies among the ``staged`` floats of a frame and where it belongs.

    shapes, maps: each value's shape and where it lies. slots: the layers that may merge, in order; readers: what
    each of them reads. scratch: offset of scratch in the arena, which has ``room`` floats for each thread.
    trace: int32 entries that recording every code and leader would take.
    """

    operations: NDArray[np.int64]
    inputs: NDArray[np.int64]
    staged: int
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


def lined_up(size: int, dtype: type[Any], cleared: bool = True) -> NDArray[Any]:
    """Zeros that begin at a cache line. Not cleared it holds anything, and comes in large pages where numpy can get
    them, which takes a fraction of the time to touch."""
    item = np.dtype(dtype).itemsize
    memory = np.zeros(size * item + 64, np.uint8) if cleared else np.empty(size * item + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size * item].view(dtype)


class Pool:
    """Arrays laid end to end; `add` tells where one begins. They are copied, in whatever order their views have, or
    made in place, only by `join`: touching memory for the first time is most of what a start takes."""

    def __init__(self, dtype: type[Any]) -> None:
        self._dtype = np.dtype(dtype)
        self._parts: list[tuple[int, int, Callable[[NDArray[np.uint8]], object]]] = []
        self._size = 0

    def add(self, values: NDArray[Any] | Iterable[int]) -> int:
        return self.add_stored(np.asarray(values, dtype=self._dtype))

    def add_stored(self, values: NDArray[Any]) -> int:
        """Numbers of another type, as they are; what begins where they do is counted in this pool's type."""

        def copy(place: NDArray[np.uint8]) -> None:
            place.view(values.dtype).reshape(values.shape)[...] = values

        return self._add(values.nbytes, copy)

    def add_made(self, shape: Shape, make: Callable[[NDArray[Any]], object]) -> int:
        """Numbers of this pool's type that ``make`` writes into an array of this shape."""
        size = math.prod(shape) * self._dtype.itemsize
        return self._add(size, lambda place: make(place.view(self._dtype).reshape(shape)))

    def _add(self, size: int, write: Callable[[NDArray[np.uint8]], object]) -> int:
        start = self._size
        self._parts.append((start * self._dtype.itemsize, size, write))
        self._size += -(-size // (16 * self._dtype.itemsize)) * 16
        return start

    def join(self) -> NDArray[Any]:
        """All of it from a cache line on, and room behind it, as vector loads may run past the end. The parts are let
        go of one by one, so that large ones are not in memory twice; the pool is empty afterwards."""
        joined = lined_up(self._size + 64, self._dtype.type, cleared=False)
        memory = joined.view(np.uint8)
        end = len(memory)
        while self._parts:
            start, size, write = self._parts.pop()
            write(memory[start : start + size])
            memory[start + size : end], end = 0, start
        memory[:end] = 0
        return joined


def pack_conv(weight: NDArray[Any], groups: int, lanes: int, deep: bool = False) -> NDArray[Any]:
    """(O, C/g, Kh, Kw) -> (g, block, C/g, tap, width): what one block of output channels reads lies in a row. Numbers
    stay as they are stored.

    For `kernels.deep_conv` (g, C/g, block, tap, width): all filters of one input channel lie in a row.
    """
    outputs, inputs = weight.shape[0] // groups, weight.shape[1]
    vectors, count = blocks(lanes, outputs)
    width, taps = vectors * lanes, weight.shape[2] * weight.shape[3]
    packed = weight.reshape(groups, outputs, inputs, taps)
    if outputs < count * width:
        packed = np.zeros((groups, count * width, inputs, taps), weight.dtype)
        packed[:, :outputs] = weight.reshape(groups, outputs, inputs, taps)
    return packed.reshape(groups, count, width, inputs, taps).transpose((0, 3, 1, 4, 2) if deep else (0, 1, 3, 4, 2))


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


class Builder:
    """Collects rows, weights and lists. Operators without weights are in `haste_runtime.table_rows`."""

    def __init__(self, bundle: Bundle, lanes: int) -> None:
        self.bundle, self.graph, self.lanes = bundle, bundle.graph, lanes
        self.shapes = check_graph(bundle.graph, numbers=False)  # the session has looked at them
        self.maps, self.scratch = place_maps(bundle.graph, self.shapes)
        self.scratch_size = 64
        self.packed, self.index = Pool(np.float32), Pool(np.int32)
        self.rows: list[NDArray[np.int64]] = []
        self.plans = {layer.node: layer for layer in bundle.plan.layers}
        self.slots: list[str] = []
        self.levels: list[list[NDArray[np.int64]]] = [[] for _ in bundle.plan.levels]
        self.trace = 0

    # ---- rows of operations

    def row(self, kind: int, x: str, y: str, activation: str = "none") -> NDArray[np.int64]:
        """A row with input, output and activation filled in."""
        row = _writing(self.maps[y])
        source = self.maps[x]
        row[[t.KIND, t.ACTIVATION, t.R, t.SLOT]] = kind, ACTIVATIONS[activation], -1, -1
        row[[t.X, t.XH, t.XW, t.XC, t.XROW, t.XPIXEL]] = (
            source.offset, source.height, source.width, source.channels, source.row, source.pixel,
        )  # fmt: skip
        self.rows.append(row)
        return row

    def inputs(self) -> tuple[NDArray[np.int64], int]:
        """A row for each of the network's inputs, staged one behind the other, and how many floats they are."""
        rows, staged = [], 0
        for value in self.graph.inputs:
            row = _writing(self.maps[value.name])
            row[t.X] = staged
            staged += aligned(math.prod(value.shape))
            rows.append(row)
        return np.array(rows, np.int64).reshape(-1, t.COLUMNS), staged

    def second(self, row: NDArray[np.int64], name: str) -> None:
        other = self.maps[name]
        row[[t.R, t.RROW, t.RPIXEL]] = other.offset, other.row, other.pixel

    def constant(self, node: Node, role: str) -> NDArray[np.float32] | None:
        value = self.graph.constant(node, role)
        return None if value is None else value.astype(np.float32)

    def convolution(self, node: Node) -> None:
        geometry = conv_geometry(self.graph, node, self.shapes)
        bias = self.constant(node, "bias")
        depthwise = is_depthwise(geometry.groups, geometry.channels_in, geometry.channels_out)
        row = self.row(t.DEPTHWISE if depthwise else t.CONV, node.inputs[0], node.name, node.attributes["activation"])
        if len(node.inputs) == 2:
            self.second(row, node.inputs[1])
        row[[t.KY, t.KX]], row[[t.SY, t.SX]] = geometry.kernel, geometry.stride
        row[[t.DY, t.DX]], row[[t.PTOP, t.PLEFT]] = geometry.dilation, geometry.padding[:2]
        plan = self.plans.get(node.name)
        dense, size = layer_scratch(geometry, int(row[t.XROW]), plan, self.lanes)
        self.scratch_size = max(self.scratch_size, aligned(size))
        row[[t.STRIP, t.ROOM, t.SPILL, t.PIXELS]] = dense.strip, dense.room, dense.spill, dense.pixels
        ky, kx = np.indices(geometry.kernel).reshape(2, -1)
        taps = ky * row[t.DY] * row[t.XROW] + kx * row[t.DX] * row[t.XPIXEL]
        if depthwise:
            padding = -geometry.channels_in % self.lanes
            weight = float_weight(self.graph, node).reshape(geometry.channels_out, -1)
            filters = np.pad(weight, ((0, padding), (0, 0))).reshape(-1, self.lanes, len(taps)).transpose(0, 2, 1)
            shift = np.zeros(geometry.channels_out, np.float32) if bias is None else bias
            row[[t.WEIGHT, t.BIAS]] = self.packed.add(filters), self.packed.add(np.pad(shift, (0, padding)))
            row[t.TAPS] = self.index.add(taps)
            return
        inputs, outputs = geometry.channels_in // geometry.groups, geometry.channels_out // geometry.groups
        vectors, count = blocks(self.lanes, outputs)
        channels, deep = np.arange(inputs), is_deep(geometry, self.lanes)
        block = len(taps) * vectors * self.lanes
        row[[t.DEEP, t.PART, t.TOTALS]] = deep, dense.part, dense.totals
        row[[t.CHANNEL_STEP, t.BLOCK_STEP]] = (count * block, block) if deep else (block, inputs * block)
        row[[t.GROUPS, t.GROUP_IN, t.GROUP_OUT, t.VECTORS, t.BLOCKS]] = geometry.groups, inputs, outputs, vectors, count
        used = {plan.algorithm, *(algorithm_of(v) for v in plan.variants)} if plan else {"direct"}
        self.weights(node, row, geometry, bias, "direct" in used)
        ways = self.winograd(node, geometry, bias, used - {"direct"})
        if plan and plan.algorithm != "direct":
            place = winograd_scratch(geometry, plan.algorithm, None, self.lanes)
            row[t.WINOGRAD : t.COLUMNS] = *ways[plan.algorithm], *place.columns(dense.size)
        row[t.TAPS] = self.index.add(channels[:, None] + taps)
        row[t.CHANNELS] = self.index.add(np.concatenate([channels, channels * row[t.CHANNEL_STEP]]))
        if plan and plan.variants:
            row[t.SLOT] = len(self.slots)
            self.slots.append(node.name)
            self.merging(node, plan, dense.size, ways)

    def weights(
        self, node: Node, row: NDArray[np.int64], geometry: ConvGeometry, bias: NDArray[np.float32] | None, direct: bool
    ) -> None:
        """Weights as they are stored, if they are used ``direct``ly, and what sums begin with: the biases, or for int8
        zeros, the biases then being added behind the scales."""
        stored, scale = self.graph.constants[node.constants["weight"]], self.graph.constant(node, "weight_scale")
        inputs = geometry.channels_in // geometry.groups
        stored = stored.reshape(geometry.channels_out, inputs, *geometry.kernel)
        row[t.STORED], row[t.SCALE] = STORED[stored.dtype.name], -1
        if direct:
            packed = pack_conv(stored, geometry.groups, self.lanes, is_deep(geometry, self.lanes))
            row[t.WEIGHT] = self.packed.add_stored(packed)
        biases = pack_bias(bias, geometry.channels_out, geometry.groups, self.lanes)
        if scale is not None:
            scales = pack_bias(scale, geometry.channels_out, geometry.groups, self.lanes)
            row[t.SCALE] = self.packed.add(np.concatenate([scales.reshape(-1), biases.reshape(-1)]))
            biases = np.zeros_like(biases)
        row[t.BIAS] = self.packed.add(biases)

    def winograd(
        self, node: Node, geometry: ConvGeometry, bias: NDArray[np.float32] | None, algorithms: set[str]
    ) -> dict[str, tuple[int, int, int]]:
        """Each algorithm's tile side, and where its filters, which are float32 however weights are stored, and biases
        begin."""
        if not algorithms:
            return {}
        weight = float_weight(self.graph, node)
        biases = self.packed.add(pack_bias(bias, geometry.channels_out, 1, self.lanes))
        return {name: (TILE_SIDES[name], self.filters(weight, TILE_SIDES[name]), biases) for name in sorted(algorithms)}

    def filters(self, weight: NDArray[np.float32], side: int) -> int:
        shape = packed_filters_shape(weight.shape, side, self.lanes)
        return self.packed.add_made(shape, lambda place: pack_filters(weight, side, self.lanes, place))

    def merging(self, node: Node, plan: LayerPlan, scratch: int, ways: Mapping[str, tuple[int, int, int]]) -> None:
        """This layer's row of every level; ``scratch``: where its merge scratch begins; ``ways``: see `winograd`."""
        geometry = conv_geometry(self.graph, node, self.shapes)
        listed = {}
        most = 0
        for variant in plan.variants:
            matrix = self.bundle.projections[variant.projection]
            halves = [np.empty(0, np.int64), *(np.flatnonzero(line == sign) for line in matrix for sign in (1, -1))]
            starts = np.cumsum([len(half) for half in halves])
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
                row[t.MOST_KEPT] = -1
                if variant.dense_above < 1:
                    row[t.MOST_KEPT] = int(variant.dense_above * geometry.channels_in)
                row[[t.PLANE, t.SPAN, t.TRACE]] = place.plane, place.span, self.trace
                for name, offset in place.offsets.items():
                    row[getattr(t, name)] = scratch + offset
                if algorithm_of(variant) != "direct":
                    tiles = winograd_scratch(geometry, algorithm_of(variant), variant.patch, self.lanes)
                    columns = *ways[algorithm_of(variant)], *tiles.columns(scratch + place.size)
                    row[t.MERGED_WINOGRAD : t.LEVEL_COLUMNS] = columns
            self.levels[number].append(row)
        self.trace += most

    def add(self, node: Node) -> None:
        if node.op in ("conv", "linear"):
            self.convolution(_as_conv(node) if node.op == "linear" else node)
        else:
            ROWS[node.op](self, node)
            self.scratch_size = max(self.scratch_size, operation_scratch(node, self.shapes, self.lanes))

    def build(self) -> Table:
        for node in self.graph.nodes:
            self.add(node)
        levels = np.array(self.levels, np.int64).reshape(len(self.levels), len(self.slots), t.LEVEL_COLUMNS)
        return Table(
            np.array(self.rows, np.int64).reshape(-1, t.COLUMNS), *self.inputs(), levels, self.packed.join(),
            self.index.join(),
            self.shapes, self.maps, tuple(self.slots), {n.name: n.inputs[0] for n in self.graph.nodes if n.inputs},
            self.scratch, self.scratch_size, self.trace,
        )  # fmt: skip


def _writing(target: Map) -> NDArray[np.int64]:
    """A row that says where its output belongs, and nothing else yet."""
    row = np.zeros(t.COLUMNS, np.int64)
    row[[t.Y, t.YH, t.YW, t.YC, t.YROW, t.YPIXEL, t.YBORDER]] = (
        target.offset, target.height, target.width, target.channels, target.row, target.pixel, target.border,
    )  # fmt: skip
    return row


def _as_conv(node: Node) -> Node:
    """A linear layer is a 1x1 convolution of one pixel."""
    return node.with_attributes(stride=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1), groups=1)


def build_table(bundle: Bundle, lanes: int) -> Table:
    """Everything the kernels need of a (validated) bundle, for vectors of ``lanes`` float32."""
    return Builder(bundle, lanes).build()
