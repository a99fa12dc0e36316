"""Where everything lies: every map and all scratch space of a frame in one arena, whose size host and device compute
with the same functions.

Maps lie as rows of pixels of channels (HWC), with a border of zeros as wide as the widest padding among the
convolutions that read them. A vector is a map of one pixel. Maps that are never alive together share memory.
Sizes and offsets count float32 elements.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from haste_runtime.geometry import ConvGeometry
from haste_runtime.graph import Graph, Node, Shape
from haste_runtime.kernels.lanes import blocks
from haste_runtime.kernels.layout import ROWS
from haste_runtime.operators import check_graph
from haste_runtime.plan import Plan, Variant

ALIGNMENT = 16  # floats: a cache line, and the widest vector
SLACK = 64  # floats behind the last map: vector loads may run past a map's end
STRIP_FLOATS = 48 * 1024  # of input that one pass of dense convolution keeps in the second-level cache


def aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True)
class Map:
    """One value's place: ``offset`` of its first real element; a row is ``row`` floats, a pixel ``channels``."""

    offset: int
    channels: int
    height: int
    width: int
    border: int

    @property
    def row(self) -> int:
        return (self.width + 2 * self.border) * self.channels

    @property
    def size(self) -> int:
        return (self.height + 2 * self.border) * self.row

    @property
    def corner(self) -> int:
        """Offset of the border's first element."""
        return self.offset - self.border * (self.row + self.channels)


@dataclass(frozen=True)
class DenseScratch:
    """Scratch of any convolution: one tile for blocks with missing channels, and three lists of pixel offsets."""

    strip: int  # pixels per pass
    room: int  # pixels each list has room for
    spill: int
    pixels: int
    size: int


@dataclass(frozen=True)
class MergeScratch:
    """Scratch of a merged convolution, behind its `DenseScratch`; the names are the columns of `kernels.layout`."""

    plane: int  # floats
    span: int  # int16
    offsets: Mapping[str, int]
    size: int


def as_map(shape: Shape) -> tuple[int, int, int]:
    """(channels, height, width) of a map or a vector."""
    return (shape[0], 1, 1) if len(shape) == 1 else (shape[0], shape[1], shape[2])


def borders(graph: Graph) -> dict[str, int]:
    """For each value the widest padding that a convolution reads from it."""
    widest = dict.fromkeys(graph.names(), 0)
    for node in graph.nodes:
        if node.op == "conv":
            widest[node.inputs[0]] = max(widest[node.inputs[0]], *node.attributes["padding"])
    return widest


def lifetimes(graph: Graph) -> dict[str, tuple[int, int]]:
    """First and last operation during which a value's memory is taken; outputs live to the end."""
    spans = {value.name: (-1, -1) for value in graph.inputs}
    for step, node in enumerate(graph.nodes):
        spans[node.name] = (step, step)
        for name in node.inputs:
            spans[name] = (spans[name][0], step)
    for name in graph.outputs:
        spans[name] = (spans[name][0], len(graph.nodes))
    return spans


def place_maps(graph: Graph, shapes: Mapping[str, Shape]) -> tuple[dict[str, Map], int]:
    """A place for every value, largest first at the lowest offset where no value alive at the same time lies.

    Returns the maps by name and the floats they take together.
    """
    border, spans = borders(graph), lifetimes(graph)
    sizes = {name: Map(0, *as_map(shape), border[name]).size for name, shape in shapes.items()}
    taken: list[tuple[int, int, tuple[int, int]]] = []  # start, end, lifetime
    maps: dict[str, Map] = {}
    for name in sorted(sizes, key=lambda n: (-sizes[n], spans[n])):
        first, last = spans[name]
        start = 0
        for begin, end, (other_first, other_last) in sorted(taken):
            if other_first <= last and first <= other_last and begin < start + sizes[name]:
                start = max(start, end)
        end = start + aligned(sizes[name])
        taken.append((start, end, (first, last)))
        empty = Map(0, *as_map(shapes[name]), border[name])
        maps[name] = Map(start - empty.corner, *as_map(shapes[name]), border[name])
    return maps, max(end for _, end, _ in taken) + SLACK


def conv_geometry(graph: Graph, node: Node, shapes: Mapping[str, Shape]) -> ConvGeometry:
    """Geometry of a convolution, or of a linear layer as a convolution of one pixel."""
    weight = graph.constants[node.constants["weight"]]
    if node.op == "linear":
        outputs, inputs = weight.shape
        return ConvGeometry(inputs, outputs, (1, 1), (1, 1), (1, 1), (0, 0, 0, 0), 1, (1, 1))
    return ConvGeometry.from_node(node, shapes[node.inputs[0]], weight.shape)


def dense_scratch(geometry: ConvGeometry, row: int, patches: tuple[int, ...], lanes: int) -> DenseScratch:
    """row: floats per input row. patches: the patch sides that the layer may merge with."""
    height, width = geometry.out
    rows = max(1, STRIP_FLOATS // (row * geometry.stride[0]))
    strip = min(rows, height) * width
    room = aligned(max([strip, *(m * m for m in patches)]) + ROWS)
    vectors, _ = blocks(lanes, geometry.channels_out // geometry.groups)
    spill = aligned(ROWS * vectors * lanes + ROWS)
    return DenseScratch(strip, room, 0, spill, spill + 3 * room)


def merge_scratch(geometry: ConvGeometry, variant: Variant, lanes: int) -> MergeScratch:
    """Offsets are relative to the layer's scratch, where its `DenseScratch` comes first."""
    channels, taps = geometry.channels_in, geometry.kernel[0] * geometry.kernel[1]
    vectors, _ = blocks(lanes, geometry.channels_out)
    side = geometry.patch_side(variant.patch)
    area, lane_block = side * side, 2 * lanes
    padded, span = (-(-n // lane_block) * lane_block for n in (channels, area))
    plane = -(-area // lanes) * lanes
    table = 1
    while table < 2 * channels:
        table *= 2
    sizes = {
        "PLANES": (channels + channels // 2) * plane,
        "FILTERS": channels // 2 * taps * vectors * lanes,
        "QUANTISED": padded * span // 2,  # int16
        "SUMS": variant.bits * padded,  # from here on int32
        "CODES": channels,
        "TABLE": table,
        "LEADERS": channels,
        "MEMBERS_OF": channels,
        "START": channels // 2 + 2,
        "MEMBERS": channels,
        "INPUTS": channels,
        "WEIGHTS": channels,
        "MERGED_TAPS": taps,
        "SCALES": channels,
    }
    if variant.policy != "mean":
        sizes["SPREAD"] = padded * span // 2  # int16
    if variant.policy == "scaled":
        sizes |= {"TOTAL": span // 2, "PRODUCTS": 2 * channels}  # int16, int64
    if variant.policy == "budget":
        sizes |= {"ENERGIES": 2 * channels, "FOUND": channels, "FOUND_CODES": padded}  # float64, int32, int32
        sizes["SHARES"] = channels
    offsets, end = {}, 0
    for name, size in sizes.items():
        offsets[name] = end
        end += aligned(size)
    return MergeScratch(plane, span, offsets, end + SLACK)


def layer_scratch(
    geometry: ConvGeometry, row: int, variants: tuple[Variant, ...], lanes: int
) -> tuple[DenseScratch, int]:
    """A layer's dense scratch, and the size of all its scratch at any level."""
    dense = dense_scratch(geometry, row, tuple(v.patch for v in variants), lanes)
    merged = max((merge_scratch(geometry, v, lanes).size for v in variants), default=0)
    return dense, dense.size + merged


def arena_floats(graph: Graph, plan: Plan, lanes: int) -> tuple[int, int]:
    """(floats of all maps, floats of scratch)."""
    shapes = check_graph(graph)
    maps, map_floats = place_maps(graph, shapes)
    variants = {layer.node: layer.variants for layer in plan.layers}
    scratch = SLACK
    for node in graph.nodes:
        if node.op in ("conv", "linear"):
            geometry = conv_geometry(graph, node, shapes)
            row = maps[node.inputs[0]].row
            scratch = max(scratch, layer_scratch(geometry, row, variants.get(node.name, ()), lanes)[1])
    return map_floats, scratch


def arena_bytes(graph: Graph, plan: Plan, lanes: int) -> int:
    """Bytes of the arena for one thread and vectors of ``lanes`` float32."""
    return 4 * sum(arena_floats(graph, plan, lanes))
