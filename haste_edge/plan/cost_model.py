"""How long a convolution takes on a target, dense or merged: a first, honest rule, predicted and not measured there.

A roofline with merging's overheads. The arithmetic runs at a fixed share of the core's peak; weights come over a bus
whose width depends on the cache they fit in; and every step of merging has a rate of its own. The rates below were
fitted to the kernels' prototype on an x86-64 core with AVX-512 (13 layer shapes, patches 2 to 28, design: kernels), and
are carried over to other cores in proportion to vector width and clock. No ARM board has been measured: trust the order
of the choices, not the milliseconds. The model knows one core, float32, direct convolution (no Winograd).
"""

from __future__ import annotations

from dataclasses import dataclass

from haste_edge.targets import Target
from haste_runtime.flops import LayerCounts
from haste_runtime.geometry import ConvGeometry

EFFICIENCY = 0.8  # of the peak, dense; 0.76 to 0.84 measured from 64 channels up
MERGED_EFFICIENCY = 0.72  # of the peak, over the channels that are kept
FLOAT = 4  # bytes
# Work per cycle and vector lane:
QUANTISED = 0.25  # input values scaled and rounded to int8
HASHED = 1.5  # ternary additions: int16, twice the lanes
MERGED = 0.42  # input values added to their group's mean
CACHED_BYTES = 1.5  # weight bytes from a cache the weights fit in twice
OUTER_BYTES = 0.9  # the same from the last cache; at least what memory gives
COMPARING_CYCLES = 2.0  # a pair of codes: exclusive or, population count, the two smallest kept
GROUPING_CYCLES = 25.0  # per channel and patch, whatever the vector: centring, code, finding its group


@dataclass(frozen=True)
class Prediction:
    """Seconds per frame on one core. arithmetic: multiply-adds; weights: waiting for them; merging: all overheads."""

    arithmetic: float
    weights: float
    merging: float

    @property
    def seconds(self) -> float:
        """Arithmetic hides behind memory or memory behind arithmetic; what merging adds hides behind nothing."""
        return max(self.arithmetic, self.weights) + self.merging


class CostModel:
    """Predictions for one target. network_bytes: all weights of the network: where do they wait for the next frame?"""

    def __init__(self, target: Target, network_bytes: int) -> None:
        self.target = target
        self.hertz = target.clock_mhz * 1e6
        self.lanes = target.simd.lanes
        self.first_touch = self._bytes_per_second(network_bytes)

    def dense(self, geometry: ConvGeometry) -> Prediction:
        """The convolution as it stands; grouped ones too."""
        height, width = geometry.out
        weights = self._weights(geometry)
        return Prediction(self._multiply_adds(weights * height * width), FLOAT * weights / self.first_touch, 0.0)

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
        """The merged convolution, mean over ``frames``. Arguments as for `haste_runtime.flops.merged_flops`.

        Each patch adds up the filters of its groups anew. All weights are read once in any case, so merging saves
        arithmetic and never memory.
        """
        d = geometry.patch_side(patch) ** 2
        filters = geometry.channels_out * geometry.kernel[0] * geometry.kernel[1]
        weight_bytes = FLOAT * geometry.channels_in * filters
        patches, merged = counts.patches / frames, counts.merged / frames
        channel_patches = patches * geometry.channels_in
        cycles = (
            channel_patches * d / (QUANTISED * self.lanes)
            + channel_patches * (nonzeros + bits) / (HASHED * self.lanes)
            + channel_patches * GROUPING_CYCLES
            + merged * d / (MERGED * self.lanes)
            + self._deciding(geometry.channels_in, d, counts, policy) / frames
        )
        merged_bytes = FLOAT * merged * filters
        first = min(merged_bytes, merged_bytes / max(patches, 1.0))
        again = merged_bytes - first
        merging = cycles / self.hertz + first / self.first_touch + again / self._bytes_per_second(weight_bytes)
        arithmetic = self._multiply_adds(filters * counts.kept_pixels / frames, MERGED_EFFICIENCY)
        return Prediction(arithmetic, (weight_bytes - min(first, weight_bytes)) / self.first_touch, merging)

    def _deciding(self, channels: int, d: int, counts: LayerCounts, policy: str) -> float:
        """Cycles of a policy's own decisions: products of quantised channels, two to a lane, and codes compared."""
        if policy == "mean":
            return 0.0
        products = counts.patches * channels + (2 * counts.merged if policy == "scaled" else counts.verified)
        return products * d / (HASHED * self.lanes) + counts.compared * COMPARING_CYCLES

    def _multiply_adds(self, count: float, efficiency: float = EFFICIENCY) -> float:
        return count / (efficiency * self.target.peak_gmac_s * 1e9)

    def _bytes_per_second(self, resident: int) -> float:
        """How fast bytes come that share a cache with as many others: from the innermost cache with room for twice."""
        caches, memory = self.target.caches, self.target.memory.bandwidth_gb_s * 1e9
        if 2 * resident <= (caches.l2 or caches.l1d).kib * 1024:
            return max(CACHED_BYTES * self.lanes * self.hertz, memory)
        if 2 * resident <= caches.last.kib * 1024:
            return max(OUTER_BYTES * self.lanes * self.hertz, memory)
        return memory

    @staticmethod
    def _weights(geometry: ConvGeometry) -> int:
        ky, kx = geometry.kernel
        return geometry.channels_out * (geometry.channels_in // geometry.groups) * ky * kx
