"""How long a convolution takes on a target, dense or merged: amounts of work, and what each kind costs.

Arithmetic runs at a fixed share of the core's peak; weights come over a bus whose width depends on the cache they fit
in, most of them while others are computed with, since kernels fetch ahead; and every step of merging takes cycles of
its own, which is added up. The rates were fitted to the compiled kernels on an x86-64 core with vectors of 4, 8 and 16
lanes (`tools/fit_cost_model.py`, which prints how far off they are), and are carried over to other cores. No ARM board
has been measured: trust the order of the choices, not the milliseconds. The model knows one core and float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from haste_edge.targets import Target
from haste_runtime.flops import LayerCounts
from haste_runtime.geometry import ConvGeometry
from haste_runtime.kernels.lanes import blocks
from haste_runtime.kernels.layout import ROWS
from haste_runtime.memory import is_deep
from haste_runtime.operators import why_not_winograd
from haste_runtime.plan import ALGORITHMS
from haste_runtime.winograd import TILE_SIDES

EFFICIENCY = 0.885  # of the peak, dense
MERGED_EFFICIENCY = 1.0  # over the channels that are kept: on small maps, taps that see only the border are left out
WIDE, WIDE_EFFICIENCY = 16, 0.9  # the same where lanes are so many that filters come no faster than they are used
CHAINS = 8  # multiply-adds under way that keep the arithmetic units busy
FLOAT = 4  # bytes
FAR = ("l2", "outer", "memory")  # where weights wait
ROOM = 1.5  # times the weights, that a cache must hold for them to stay in it
CACHED_BYTES = 4.0  # weight bytes per cycle and vector lane, from the inner cache
OUTER_BYTES = 1.4  # the same from the last cache; at least what memory gives
UNHIDDEN = 0.15  # of the shorter one of computing and reading weights, what the longer one does not hide
WORTH = 0.7  # of the time of keeping a channel that joining may take, if channels are to join at all
# What finding out takes, where about half of the channels join (measured on four networks): codes that are compared for
# each channel, as a share of all channels, entries of a code, and channels that are multiplied.
COMPARED, ENTRIES, VERIFIED = 0.3, 16, 1.7
TRANSFORMING = (0.5, 2.8)  # cycles of an element of Winograd's transforms: whatever the lanes, and over the lanes
FEWEST = 8  # input channels that are worth transforming: outputs are transformed for however few
TILE = 75.0  # cycles that a tile takes beside its multiply-adds: offsets, biases, activation, storing
DOUBT = 0.08  # of the dense layer's time, by which a prediction may be too good: merging must save more than that
# Kind of work (see `merging_work`) -> cycles a unit.
MERGING = {
    "quantised": 0.6,
    "projected": 0.08,
    "compared": 0.53,
    "verified": 1.27,
    "averaged": 2.3,
    "joined": 0.176,
    "spread": 1.64,
    "channels": 235.0,
    "strided": 0.28,
}


@dataclass(frozen=True)
class Prediction:
    """Seconds per frame on one core. arithmetic: multiply-adds; weights: reading them, which happens meanwhile;
    overhead: what merging and Winograd's transforms add."""

    arithmetic: float
    weights: float
    overhead: float

    @property
    def seconds(self) -> float:
        longer, shorter = max(self.arithmetic, self.weights), min(self.arithmetic, self.weights)
        return longer + UNHIDDEN * shorter + self.overhead


def merging_work(
    geometry: ConvGeometry, patch: int, nonzeros: int, bits: int, counts: LayerCounts, frames: int, policy: str
) -> dict[str, float]:
    """What merging adds to a frame, by the kinds of `MERGING`. Arguments as for `haste_runtime.flops.merged_flops`.

    quantised: input values. projected: of them, those that projections add up. compared: entries of codes or
    fingerprints. verified: values of channels that were multiplied. averaged: input values added to their group's mean.
    joined: filters' values added to a merged filter. spread: additions of constants. channels: times patches. strided:
    input values of layers with a stride, whose taps lie apart.
    """
    d, filters = geometry.patch_side(patch) ** 2, _filters(geometry)
    channels = counts.patches * geometry.channels_in
    work = {
        "quantised": channels * d,
        "projected": channels * nonzeros,
        "compared": counts.compared * (bits if policy == "affine" else 1),
        "verified": (2 * counts.merged if policy == "scaled" else counts.verified) * d,
        "averaged": 0 if policy == "affine" else counts.merged * d,
        "joined": (counts.merged + counts.levelled) * filters,
        "spread": counts.constant_adds * geometry.channels_out,
        "channels": channels,
        "strided": channels * d if max(geometry.stride) > 1 else 0,
    }
    return {kind: amount / frames for kind, amount in work.items()}


def tiles_begun(geometry: ConvGeometry, patches: float, lanes: int) -> float:
    """Tiles of pixels, each of one block of output channels, that a convolution begins and ends in a frame where it is
    computed directly, patch by patch."""
    pixels, channels = math.prod(geometry.out) / patches, geometry.channels_out // geometry.groups
    together = 1 if channels == 1 else geometry.groups  # depthwise ones share blocks
    count = blocks(lanes, geometry.channels_out // together)[1] * together
    return patches * math.ceil(pixels / ROWS) * count


def transformed(geometry: ConvGeometry, algorithm: str, lanes: int) -> int:
    """Elements that Winograd's transforms move in a frame, to the tiles of the input and from those of the output;
    vectors that channels do not fill are moved whole."""
    tile = TILE_SIDES[algorithm]
    if not tile:
        return 0
    tiles = -(-geometry.out[0] // tile) * -(-geometry.out[1] // tile)
    channels = sum(-(-count // lanes) * lanes for count in (geometry.channels_in, geometry.channels_out))
    return tiles * (tile + 2) ** 2 * channels


def touched_bytes(geometry: ConvGeometry, counts: LayerCounts, frames: int) -> tuple[float, float]:
    """Bytes of weights that merging reads in a frame for the first time, and again for further patches: those of the
    channels that are kept or join. What is dropped is not read."""
    patches = max(counts.patches / frames, 1.0)
    each = min(geometry.channels_in, (counts.kept + max(counts.merged, counts.levelled)) / frames / patches)
    unlike = min(geometry.channels_in, each * (1 + (patches - 1) * (1 - each / geometry.channels_in)))
    filters = FLOAT * _filters(geometry)
    return unlike * filters, (each * patches - unlike) * filters


def _filters(geometry: ConvGeometry) -> int:
    """Values of one channel's filters."""
    return geometry.channels_out * geometry.kernel[0] * geometry.kernel[1]


class CostModel:
    """Predictions for one target.

    network_bytes: all weights of the network: where do they wait for the next frame? winograd: whether layers may be
    computed by Winograd's algorithms where these are predicted to be quicker.
    """

    def __init__(self, target: Target, network_bytes: int, winograd: bool = True) -> None:
        self.target, self.winograd = target, winograd
        self.hertz = target.clock_mhz * 1e6
        self.lanes = target.simd.lanes
        self._network_bytes = network_bytes

    def dense(self, geometry: ConvGeometry, algorithm: str = "") -> Prediction:
        """The convolution as it stands; grouped ones too. algorithm: the quickest if it is not given."""
        algorithm = self.how(geometry, algorithm) if algorithm else self.algorithm(geometry)
        tile = TILE_SIDES[algorithm]
        height, width = geometry.out
        weights = self._weights(geometry)
        if not tile:
            arithmetic = self._multiply_adds(geometry, weights * height * width, height * width, EFFICIENCY)
            return Prediction(arithmetic, FLOAT * weights / self._first_touch(), self._begin(geometry, 1.0))
        tiles = -(-height // tile) * -(-width // tile)
        filters = (tile + 2) ** 2 * geometry.channels_in * geometry.channels_out
        overhead = self._transforming(geometry, algorithm) / self.hertz
        arithmetic = self._multiply_adds(geometry, filters * tiles, tiles, EFFICIENCY, winograd=True)
        return Prediction(arithmetic, FLOAT * filters / self._first_touch(filters / weights), overhead)

    def _first_touch(self, growth: float = 1.0) -> float:
        """Bytes a second of weights that were last read a frame ago. growth: how much more bytes they are than the
        filters, and likely those of other layers, too."""
        return self._bytes_per_second(growth * self._network_bytes)

    @staticmethod
    def how(geometry: ConvGeometry, algorithm: str) -> str:
        """The algorithm, or "direct" where the layer may not be computed so."""
        g = geometry
        return "direct" if why_not_winograd(g.kernel, g.stride, g.dilation, g.groups) else algorithm

    def algorithm(self, geometry: ConvGeometry) -> str:
        """How the layer takes the least time where it is not merged, one of `haste_runtime.plan.ALGORITHMS`."""
        ways = self._ways(geometry)
        return min(ways, key=lambda algorithm: self.dense(geometry, algorithm).seconds)  # of equals the first

    def merged(
        self,
        geometry: ConvGeometry,
        patch: int,
        nonzeros: int,
        bits: int,
        counts: LayerCounts,
        frames: int = 1,
        policy: str = "mean",
        algorithm: str = "direct",
    ) -> Prediction:
        """The merged convolution, mean over ``frames``. Arguments as for `haste_runtime.flops.merged_flops`.

        By Winograd's algorithms a patch is transformed whole, whatever is kept of it; what is multiplied, and the
        filters that are read for it, are the kept channels'.
        """
        work = merging_work(geometry, patch, nonzeros, bits, counts, frames, policy)
        cycles = sum(amount * MERGING[kind] for kind, amount in work.items())
        first, again = touched_bytes(geometry, counts, frames)
        layer = FLOAT * geometry.channels_in * _filters(geometry)
        patches = max(counts.patches / frames, 1.0)
        edge = TILE_SIDES[algorithm]
        if not edge:
            pixels = math.prod(geometry.out) / patches  # of a tile
            kept = _filters(geometry) * counts.kept_pixels / frames
            arithmetic = self._multiply_adds(geometry, kept, pixels, self.merged_efficiency(geometry))
            weights = first / self._first_touch() + again / self._bytes_per_second(layer)
            return Prediction(arithmetic, weights, cycles / self.hertz + self._begin(geometry, patches))
        positions, growth = (edge + 2) ** 2, (edge + 2) ** 2 * geometry.channels_out / _filters(geometry)
        tiles = math.prod(-(-min(patch, side) // edge) for side in geometry.out)  # of a patch
        kept = counts.kept / frames * tiles * positions * geometry.channels_out
        arithmetic = self._multiply_adds(geometry, kept, tiles, EFFICIENCY, winograd=True)
        weights = growth * (first / self._first_touch(growth) + again / self._bytes_per_second(growth * layer))
        return Prediction(arithmetic, weights, (cycles + self._transforming(geometry, algorithm)) / self.hertz)

    def _begin(self, geometry: ConvGeometry, patches: float) -> float:
        """Seconds that tiles take beside their multiply-adds."""
        return tiles_begun(geometry, patches, self.lanes) * TILE / self.hertz

    def _transforming(self, geometry: ConvGeometry, algorithm: str) -> float:
        """Cycles that Winograd's transforms take in a frame."""
        return transformed(geometry, algorithm, self.lanes) * (TRANSFORMING[0] + TRANSFORMING[1] / self.lanes)

    def merged_efficiency(self, geometry: ConvGeometry) -> float:
        """Of the arithmetic of a layer that is merged and computed directly."""
        slow = self.lanes >= WIDE and not is_deep(geometry, self.lanes)
        return WIDE_EFFICIENCY if slow else MERGED_EFFICIENCY

    def algorithms(self, geometry: ConvGeometry, policy: str) -> tuple[str, ...]:
        """Those that a merged layer may be computed by. "affine" has a constant and whole planes of its own, which only
        the direct kernels know."""
        return ("direct",) if policy == "affine" else self._ways(geometry)

    def _ways(self, geometry: ConvGeometry) -> tuple[str, ...]:
        """All that the layer, and this model, may be asked for."""
        worth = self.winograd and geometry.channels_in >= FEWEST
        return tuple(a for a in ALGORITHMS if a == "direct" or (worth and self.how(geometry, a) == a))

    def worth_joining(self, geometry: ConvGeometry, patch: int) -> bool:
        """Whether a channel that joins another takes less time than one that is kept. Its filters are read and added
        up, and every channel, joining or not, is compared with others: on small maps as much as multiplying by them."""
        filters, layer = _filters(geometry), FLOAT * geometry.channels_in * _filters(geometry)
        pixels = patch * patch
        speed = self._first_touch() if patch >= max(geometry.out) else self._bytes_per_second(layer)
        reading = FLOAT * filters / speed
        compared = COMPARED * geometry.channels_in * ENTRIES * MERGING["compared"]
        finding = compared + VERIFIED * geometry.patch_side(patch) ** 2 * MERGING["verified"]
        joined = (filters * MERGING["joined"] + 2 * finding) / self.hertz + reading
        efficiency = self.merged_efficiency(geometry)
        kept = Prediction(self._multiply_adds(geometry, filters * pixels, pixels, efficiency), reading, 0.0)
        return joined < WORTH * kept.seconds

    def _multiply_adds(
        self, geometry: ConvGeometry, count: float, pixels: float, efficiency: float, winograd: bool = False
    ) -> float:
        """pixels: that are computed together; fewer than a register tile has rows leave arithmetic units idle, and so
        do fewer vectors of output channels than it takes to start one while others are under way, but where the
        positions of ``winograd``'s tiles are more of them."""
        vectors = -(-geometry.channels_out // self.lanes)
        efficiency *= min(1.0, pixels / ROWS) * (1.0 if winograd else min(1.0, ROWS * vectors / CHAINS))
        return count / (efficiency * self.target.peak_gmac_s * 1e9)

    def _bytes_per_second(self, resident: float) -> float:
        """How fast bytes come that share a cache with as many others: from the innermost cache with room for twice."""
        memory, caches, far = self.target.memory.bandwidth_gb_s * 1e9, self.target.caches, self.far(resident)
        known = {"l2": caches.l2 or caches.l1d, "outer": caches.last, "memory": None}[far]
        if known and known.gb_s:
            return max(known.gb_s * 1e9, memory)
        rate = {"l2": CACHED_BYTES, "outer": OUTER_BYTES, "memory": 0.0}[far]
        return max(rate * self.lanes * self.hertz, memory)

    def far(self, resident: float) -> str:
        """From where they come, one of `FAR`."""
        caches = self.target.caches
        if ROOM * resident <= (caches.l2 or caches.l1d).kib * 1024:
            return "l2"
        return "outer" if ROOM * resident <= caches.last.kib * 1024 else "memory"

    @staticmethod
    def _weights(geometry: ConvGeometry) -> int:
        ky, kx = geometry.kernel
        return geometry.channels_out * (geometry.channels_in // geometry.groups) * ky * kx
