"""How long a convolution takes on a target, dense or merged: amounts of work, and what each kind costs.

Arithmetic runs at a fixed share of the core's peak; weights come over a bus whose width depends on the cache they fit
in; and every step of merging has a rate of its own, in proportion to vector width and clock. All of it is added up: a
core that waits for weights computes little meanwhile. The rates were fitted to the compiled kernels on an x86-64 core
with AVX2 (`tools/fit_cost_model.py`, which prints how far off they are; Winograd's: docs/winograd.md), and are carried
over to other cores. No ARM board has been measured: trust the order of the choices, not the milliseconds. The model
knows one core and float32; merged layers are computed directly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from haste_edge.targets import Target
from haste_runtime.flops import LayerCounts
from haste_runtime.geometry import ConvGeometry
from haste_runtime.kernels.layout import ROWS
from haste_runtime.operators import why_not_winograd
from haste_runtime.plan import ALGORITHMS
from haste_runtime.winograd import TILE_SIDES

EFFICIENCY = 0.91  # of the peak, dense
MERGED_EFFICIENCY = 1.0  # over the channels that are kept: on small maps, taps that see only the border are left out
FLOAT = 4  # bytes
FAR = ("l2", "outer", "memory")  # where weights wait
CACHED_BYTES = 4.0  # weight bytes per cycle and vector lane, from a cache the weights fit in twice
OUTER_BYTES = 1.4  # the same from the last cache; at least what memory gives
WORTH = 0.4  # of the time of keeping a channel that joining may take, if channels are to join at all
TRANSFORMED = 0.1  # elements of Winograd's transforms per cycle and lane: inputs, and outputs before their way back
# Kind of work -> cycles a unit, divided by the vector's lanes where the second number is True (see `merging_work`).
MERGING = {
    "quantised": (6.3, True),
    "projected": (1.7, True),
    "compared": (5.2, True),
    "verified": (12.0, True),
    "averaged": (0.4, True),
    "joined": (2.2, True),
    "spread": (0.2, True),
    "channels": (230.0, False),
}


@dataclass(frozen=True)
class Prediction:
    """Seconds per frame on one core. arithmetic: multiply-adds; weights: waiting for them; overhead: what merging and
    Winograd's transforms add."""

    arithmetic: float
    weights: float
    overhead: float

    @property
    def seconds(self) -> float:
        return self.arithmetic + self.weights + self.overhead


def merging_work(
    geometry: ConvGeometry, patch: int, nonzeros: int, bits: int, counts: LayerCounts, frames: int, policy: str
) -> dict[str, float]:
    """What merging adds to a frame, by the kinds of `MERGING`. Arguments as for `haste_runtime.flops.merged_flops`.

    quantised: input values. projected: of them, those that projections add up. compared: entries of codes or
    fingerprints. verified: values of channels that were multiplied. averaged: input values added to their group's mean.
    joined: filters' values added to a merged filter. spread: additions of constants. channels: times patches, what each
    takes whatever the vector.
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
    }
    return {kind: amount / frames for kind, amount in work.items()}


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
        self.first_touch = self._bytes_per_second(network_bytes)

    def dense(self, geometry: ConvGeometry, algorithm: str = "") -> Prediction:
        """The convolution as it stands; grouped ones too. algorithm: the quickest if it is not given."""
        tile = TILE_SIDES[algorithm or self.algorithm(geometry)]
        height, width = geometry.out
        weights = self._weights(geometry)
        if not tile:
            arithmetic = self._multiply_adds(weights * height * width, height * width)
            return Prediction(arithmetic, FLOAT * weights / self.first_touch, 0.0)
        taps, tiles = (tile + 2) ** 2, -(-height // tile) * -(-width // tile)
        filters = taps * geometry.channels_in * geometry.channels_out
        moved = tiles * taps * (geometry.channels_in + geometry.channels_out)
        overhead = moved / (TRANSFORMED * self.lanes) / self.hertz
        return Prediction(self._multiply_adds(filters * tiles, tiles), FLOAT * filters / self.first_touch, overhead)

    def algorithm(self, geometry: ConvGeometry) -> str:
        """How the layer takes the least time where it is not merged, one of `haste_runtime.plan.ALGORITHMS`."""
        g = geometry
        if not self.winograd or why_not_winograd(g.kernel, g.stride, g.dilation, g.groups):
            return "direct"
        return min(ALGORITHMS, key=lambda algorithm: self.dense(geometry, algorithm).seconds)  # of equals the first

    def merged(
        self,
        geometry: ConvGeometry,
        patch: int,
        nonzeros: int,
        bits: int,
        counts: LayerCounts,
        frames: int = 1,
        policy: str = "mean",
    ) -> Prediction:
        """The merged convolution, mean over ``frames``. Arguments as for `haste_runtime.flops.merged_flops`."""
        work = merging_work(geometry, patch, nonzeros, bits, counts, frames, policy)
        cycles = sum(amount * cost(kind, self.lanes) for kind, amount in work.items())
        first, again = touched_bytes(geometry, counts, frames)
        layer = FLOAT * geometry.channels_in * _filters(geometry)
        weights = first / self.first_touch + again / self._bytes_per_second(layer)
        pixels = math.prod(geometry.out) / max(counts.patches / frames, 1.0)  # of a tile
        kept = _filters(geometry) * counts.kept_pixels / frames
        arithmetic = self._multiply_adds(kept, pixels, MERGED_EFFICIENCY)
        return Prediction(arithmetic, weights, cycles / self.hertz)

    def worth_joining(self, geometry: ConvGeometry, patch: int) -> bool:
        """Whether a channel that joins another takes much less time than one that is kept. Its filters are read and
        added up, which on small maps is as much as multiplying by them."""
        filters, layer = _filters(geometry), FLOAT * geometry.channels_in * _filters(geometry)
        pixels = patch * patch
        reading = FLOAT * filters / (self.first_touch if patch >= max(geometry.out) else self._bytes_per_second(layer))
        joined = filters * cost("joined", self.lanes) / self.hertz + reading
        return joined < WORTH * (self._multiply_adds(filters * pixels, pixels, MERGED_EFFICIENCY) + reading)

    def _multiply_adds(self, count: float, pixels: float, efficiency: float = EFFICIENCY) -> float:
        """pixels: that are computed together; fewer than a register tile has rows leave arithmetic units idle."""
        efficiency *= min(1.0, pixels / ROWS)
        return count / (efficiency * self.target.peak_gmac_s * 1e9)

    def _bytes_per_second(self, resident: int) -> float:
        """How fast bytes come that share a cache with as many others: from the innermost cache with room for twice."""
        memory = self.target.memory.bandwidth_gb_s * 1e9
        rate = {"l2": CACHED_BYTES, "outer": OUTER_BYTES, "memory": 0.0}[self.far(resident)]
        return max(rate * self.lanes * self.hertz, memory)

    def far(self, resident: int) -> str:
        """From where they come, one of `FAR`."""
        caches = self.target.caches
        if 2 * resident <= (caches.l2 or caches.l1d).kib * 1024:
            return "l2"
        return "outer" if 2 * resident <= caches.last.kib * 1024 else "memory"

    @staticmethod
    def _weights(geometry: ConvGeometry) -> int:
        ky, kx = geometry.kernel
        return geometry.channels_out * (geometry.channels_in // geometry.groups) * ky * kx


def cost(kind: str, lanes: int) -> float:
    """Cycles of a unit of a kind of work."""
    cycles, in_lanes = MERGING[kind]
    return cycles / lanes if in_lanes else cycles
