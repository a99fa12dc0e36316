"""Where everything lies: every map and all scratch space of a frame in one arena, whose size host and device compute
with the same functions.

Maps lie as rows of pixels of channels (HWC), with a border of zeros as wide as the widest padding among the
convolutions that read them. A vector is a map of one pixel. Maps that are never alive together share memory.
Sizes and offsets count float32 elements.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from haste_runtime.affine import MOST_ORDER
from haste_runtime.geometry import ConvGeometry
from haste_runtime.graph import Graph, Node, Shape
from haste_runtime.kernels.lanes import blocks
from haste_runtime.kernels.layout import ENTRIES, ROWS, TOGETHER, UNROLLED
from haste_runtime.operators import check_graph
from haste_runtime.plan import LayerPlan, Plan, Variant
from haste_runtime.winograd import TILE_SIDES, algorithm_of

ALIGNMENT = 16  # floats: a cache line, and the widest vector
CROWDED = 8 * ALIGNMENT  # floats: pixels a multiple of them apart compete for few lines of a first-level cache
SLACK = 64  # floats behind the last map: vector loads may run past a map's end
STRIP_FLOATS = 48 * 1024  # of input that one pass of dense convolution keeps in the second-level cache
DEEP_FLOATS = 128 * 1024  # weights from here on are too many for a second-level cache
DEEP_PIXELS = 16  # an output so small that its sums stay in the first-level cache
DEEP_LANES = 4  # vectors so short are never kept waiting
DEEP_TAPS = 4  # a filter must be worth loading and storing the sums
PART_FLOATS = 32 * 1024  # filters of the input channels that `kernels.parted_conv` multiplies at a time
PART_PIXELS = 192  # in a strip of it: every one reads all weights from far away
FEW_PIXELS = 96  # in a strip where a row of pixels has many channels: weights come from far away too often
BLOCK_FLOATS = 192 * 1024  # filters of one block of outputs that a second-level cache does not hold beside all else
VALUE_FLOATS = 64 * 1024  # of transformed input that one pass of Winograd's algorithm keeps in that cache


def aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


class Map(NamedTuple):
    """One value's place: ``offset`` of its first real element; from a row to the next are ``row`` floats, from a pixel
    to the next ``pixel``, of which ``channels`` are the value's."""

    offset: int
    channels: int
    height: int
    width: int
    border: int
    pixel: int

    @property
    def row(self) -> int:
        return (self.width + 2 * self.border) * self.pixel

    @property
    def size(self) -> int:
        return (self.height + 2 * self.border) * self.row

    @property
    def corner(self) -> int:
        """Offset of the border's first element."""
        return self.offset - self.border * (self.row + self.pixel)


class DenseScratch(NamedTuple):
    """Scratch of any convolution: one tile for blocks with missing channels, four lists of pixel offsets, and sums: for
    deep ones of the whole output, for parted ones of a strip of one block."""

    strip: int  # pixels per pass
    room: int  # pixels each list has room for
    spill: int
    pixels: int
    totals: int
    part: int  # input channels at a time, see `part_channels`
    size: int


class MergeScratch(NamedTuple):
    """Scratch of a merged convolution, behind its `DenseScratch`; the names are the columns of `kernels.layout`."""

    plane: int  # floats
    span: int  # int16
    offsets: Mapping[str, int]
    size: int


class WinogradScratch(NamedTuple):
    """Scratch of Winograd's algorithm for some tiles at a time; offsets are relative to where it begins.

    values_step, from one position to the next, is no multiple of a page, or all positions of a tile would compete for
    the same few lines of the first-level cache.
    """

    tiles: int
    values_step: int
    sums: int
    lines: int
    lists: int
    size: int

    def columns(self, start: int) -> tuple[int, ...]:
        """The columns from ROOM_TILES on (`kernels.layout`) where this scratch begins at ``start``."""
        return self.tiles, start, self.values_step, start + self.sums, start + self.lines, start + self.lists


def as_map(shape: Shape) -> tuple[int, int, int]:
    """(channels, height, width) of where a value of any rank lies.

    A vector's elements are the channels of one pixel; the last axis of all others is the width, the one before it, from
    three axes on, the height; all before them together are the channels. The order of the numbers stays.
    """
    if len(shape) < 3:
        return shape[0], 1, shape[1] if len(shape) == 2 else 1
    return math.prod(shape[:-2]), shape[-2], shape[-1]


def strides(shape: Shape, place: Map) -> tuple[int, ...]:
    """Floats from one element to the next along each axis of a value that lies there."""
    if len(shape) < 3:
        return (1, place.pixel)[: len(shape)]
    return (*(math.prod(shape[i:-2]) for i in range(1, len(shape) - 1)), place.row, place.pixel)


def operation_scratch(node: Node, shapes: Mapping[str, Shape], lanes: int) -> int:
    """Scratch of operators without weights: vectors that are not filled go by way of it. "lrn": a pixel's squares."""
    if node.op == "lrn":
        return lrn_room(shapes[node.inputs[0]], node.attributes["size"], lanes) + SLACK
    return SLACK


def lrn_room(shape: Shape, size: int, lanes: int) -> int:
    return aligned(shape[0] + size + 2 * lanes)


def borders(graph: Graph) -> dict[str, int]:
    """For each value the widest padding that a convolution reads from it."""
    widest = dict.fromkeys(graph.names(), 0)
    for node in graph.nodes:
        if node.op == "conv":
            widest[node.inputs[0]] = max(widest[node.inputs[0]], *node.attributes["padding"])
    return widest


def pixel_steps(graph: Graph, shapes: Mapping[str, Shape]) -> dict[str, int]:
    """For each value how far apart its pixels lie, in floats: its channels, and a cache line more where a convolution
    reads several pixels of many channels at once, so that they do not push each other out of the cache."""
    steps = {name: as_map(shape)[0] for name, shape in shapes.items()}
    for node in graph.nodes:
        if node.op == "conv" and math.prod(graph.constants[node.constants["weight"]].shape[2:]) > 1:
            name = node.inputs[0]
            channels = as_map(shapes[name])[0]
            steps[name] = channels + ALIGNMENT if channels % CROWDED == 0 else channels
    return steps


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
    border, spans, steps = borders(graph), lifetimes(graph), pixel_steps(graph, shapes)
    empty = {name: Map(0, *as_map(shape), border[name], steps[name]) for name, shape in shapes.items()}
    sizes = {name: place.size for name, place in empty.items()}
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
        maps[name] = empty[name]._replace(offset=start - empty[name].corner)
    return maps, max(end for _, end, _ in taken) + SLACK


def conv_geometry(graph: Graph, node: Node, shapes: Mapping[str, Shape]) -> ConvGeometry:
    """Geometry of a convolution, or of a linear layer as a convolution of one pixel."""
    weight = graph.constants[node.constants["weight"]]
    if node.op == "linear":
        outputs, inputs = weight.shape
        return ConvGeometry(inputs, outputs, (1, 1), (1, 1), (1, 1), (0, 0, 0, 0), 1, (1, 1))
    return ConvGeometry.from_node(node, shapes[node.inputs[0]], weight.shape)


def is_deep(geometry: ConvGeometry, lanes: int) -> bool:
    """Whether a convolution has a small map and so many weights that it waits for them: `kernels.deep_conv`. With
    short vectors it computes for so long that weights come meanwhile, and keeping the sums is a fifth more work."""
    taps, (height, width) = geometry.kernel[0] * geometry.kernel[1], geometry.out
    weights = geometry.channels_in * geometry.channels_out * taps
    small = 1 < height * width <= DEEP_PIXELS
    return lanes > DEEP_LANES and geometry.groups == 1 and small and taps >= DEEP_TAPS and weights >= DEEP_FLOATS


def part_channels(geometry: ConvGeometry, strip: int, lanes: int) -> int:
    """How many input channels a convolution multiplies at a time where weights would come from beyond the second-level
    cache again and again: for each tile of pixels, if one block's filters outgrow the cache, or for each ``strip``, if
    that has few pixels. 0: all (`kernels.dense_conv`)."""
    (height, width), taps = geometry.out, geometry.kernel[0] * geometry.kernel[1]
    vectors, count = blocks(lanes, geometry.channels_out)
    filters = taps * vectors * lanes  # of a channel, in one block
    block = geometry.channels_in * filters
    often = strip < min(FEW_PIXELS, height * width) and block * count >= DEEP_FLOATS
    once = height * width <= ROWS or is_deep(geometry, lanes)
    if geometry.groups > 1 or once or not (often or block >= BLOCK_FLOATS):
        return 0
    return max(1, PART_FLOATS // filters // UNROLLED) * UNROLLED


def dense_scratch(geometry: ConvGeometry, row: int, patches: tuple[int, ...], lanes: int) -> DenseScratch:
    """row: floats per input row. patches: the patch sides that the layer may merge with."""
    height, width = geometry.out
    strip = min(max(1, STRIP_FLOATS // (row * geometry.stride[0])), height) * width
    part = part_channels(geometry, strip, lanes)
    if part:
        strip = min(-(-PART_PIXELS // width), height) * width
    room = aligned(max([strip, *(m * m for m in patches)]) + ROWS)
    vectors, count = blocks(lanes, geometry.channels_out // geometry.groups)
    spill = aligned(ROWS * vectors * lanes + ROWS)
    totals = spill + 4 * room
    kept = 0  # sums, and ranges of taps
    if part:
        kept = strip * vectors * lanes + 2 * (-(-strip // ROWS))
    elif is_deep(geometry, lanes):
        kept = height * width * (count * vectors * lanes + 2)
    return DenseScratch(strip, room, 0, spill, totals, part, totals + aligned(kept))


def winograd_scratch(geometry: ConvGeometry, algorithm: str, patch: int | None, lanes: int) -> WinogradScratch:
    """patch: tile side m of a merged layer, which transforms a patch at a time; None for a dense one, which transforms
    as many tiles as stay in the cache, or so many that reading their inputs takes longer than reading the filters."""
    side, channels = TILE_SIDES[algorithm], geometry.channels_in
    positions, padded = (side + 2) ** 2, -(-channels // lanes) * lanes
    vectors, _ = blocks(lanes, geometry.channels_out)
    height, width = geometry.out if patch is None else (min(patch, n) for n in geometry.out)
    tiles = -(-height // side) * -(-width // side)
    if patch is None:
        tiles = min(tiles, max(3, VALUE_FLOATS // (positions * padded * ROWS)) * ROWS)
        step, spare, listed = tiles * padded, 2, channels
    else:  # planes of groups, too; tiles lie side by side, for which W of them are transposed at a time
        step, spare, listed = (padded + channels // 2) * -(-tiles // lanes) * lanes, 2 + lanes, 0
    step = aligned(step) + ALIGNMENT
    sums = positions * step
    lines = sums + aligned(positions * tiles * vectors * lanes)
    lists = lines + aligned((positions * spare + vectors) * lanes)
    return WinogradScratch(tiles, step, sums, lines, lists, lists + aligned(2 * tiles + listed) + SLACK)


def merge_scratch(geometry: ConvGeometry, variant: Variant, lanes: int) -> MergeScratch:
    """Offsets are relative to the layer's scratch, where its `DenseScratch` comes first."""
    channels, taps = geometry.channels_in, geometry.kernel[0] * geometry.kernel[1]
    vectors, count = blocks(lanes, geometry.channels_out)
    side = geometry.patch_side(variant.patch)
    area, lane_block = side * side, 2 * lanes
    plane = -(-area // lanes) * lanes
    padded, span = (-(-n // lane_block) * lane_block for n in (channels, area))
    if algorithm_of(variant) != "direct":  # `winograd_scratch` has the planes
        planes, filters = 0, channels // 2 * TOGETHER
    else:
        planes, filters = channels // 2 * plane, (ENTRIES * count if is_deep(geometry, lanes) else channels // 2) * taps
    table = 1
    while table < 2 * channels:
        table *= 2
    sizes = {
        "PLANES": planes,
        "FILTERS": filters * vectors * lanes,
        "QUANTISED": padded * span // 2,  # int16
        "SUMS": max(variant.bits, 1) * padded,  # from here on int32
        "CODES": channels,
        "TABLE": table,
        "LEADERS": channels,
        "MEMBERS_OF": channels,
        "START": channels // 2 + 2,
        "MEMBERS": channels,
        "INPUTS": channels,
        "WEIGHTS": channels + ENTRIES,  # asked for ahead
        "MERGED_TAPS": taps,
        "SCALES": channels,
    }
    block = vectors * lanes
    if variant.policy not in ("mean", "drop"):
        sizes["SPREAD"] = padded * span // 2  # int16
    if variant.policy == "scaled":
        sizes |= {"TOTAL": span // 2, "PRODUCTS": 2 * channels}  # int16, int64
    if variant.policy == "budget":
        sizes |= {"ENERGIES": 2 * channels, "FOUND": channels, "FOUND_CODES": padded}  # float64, int32, int32
    if variant.policy == "budget" or algorithm_of(variant) != "direct":
        sizes["SHARES"] = channels
    if variant.policy == "drop":
        sizes["ENERGIES"] = 2 * channels
    if variant.policy == "affine":
        doubles = {"ENERGIES": channels, "MASSES": channels, "INSIDE": variant.bits + 1}
        sizes |= {name: 2 * count for name, count in doubles.items()}
        sizes |= {"PRINTS": variant.bits * channels, "FOUND_PRINTS": variant.bits * padded}
        sizes |= dict.fromkeys(("FOUND", "ORDER"), channels) | {"COUNTS": MOST_ORDER + 2}
        sizes |= {"LEVELLED": channels + 2, "OFFSETS": padded, "STEP": 1}
        sizes |= {"CONSTANT": (count if is_deep(geometry, lanes) else 1) * taps * block, "EVERY": block}
        sizes["ADDENDS"] = variant.patch**2 * block
        sizes["ADDEND_PLACES"] = variant.patch**2 + ROWS
    offsets, end = {}, 0
    for name, size in sizes.items():
        offsets[name] = end
        end += aligned(size)
    return MergeScratch(plane, span, offsets, end + SLACK)


def layer_scratch(geometry: ConvGeometry, row: int, plan: LayerPlan | None, lanes: int) -> tuple[DenseScratch, int]:
    """A layer's dense scratch, and the size of all its scratch at any level. row: floats per input row."""
    variants, algorithm = (plan.variants, plan.algorithm) if plan else ((), "direct")
    dense = dense_scratch(geometry, row, tuple(v.patch for v in variants), lanes)
    sizes = [0]
    if algorithm != "direct":
        sizes.append(winograd_scratch(geometry, algorithm, None, lanes).size)
    for variant in variants:
        sizes.append(merge_scratch(geometry, variant, lanes).size)
        if algorithm_of(variant) != "direct":
            sizes[-1] += winograd_scratch(geometry, algorithm_of(variant), variant.patch, lanes).size
    return dense, dense.size + max(sizes)


def arena_floats(graph: Graph, plan: Plan, lanes: int) -> tuple[int, int]:
    """(floats of all maps, floats of scratch)."""
    shapes = check_graph(graph)
    maps, map_floats = place_maps(graph, shapes)
    plans = {layer.node: layer for layer in plan.layers}
    scratch = SLACK
    for node in graph.nodes:
        if node.op in ("conv", "linear"):
            geometry = conv_geometry(graph, node, shapes)
            row = maps[node.inputs[0]].row
            scratch = max(scratch, layer_scratch(geometry, row, plans.get(node.name), lanes)[1])
        else:
            scratch = max(scratch, operation_scratch(node, shapes, lanes))
    return map_floats, scratch


def arena_bytes(graph: Graph, plan: Plan, lanes: int) -> int:
    """Bytes of the arena for one thread and vectors of ``lanes`` float32."""
    return 4 * sum(arena_floats(graph, plan, lanes))
