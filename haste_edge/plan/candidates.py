"""Which convolutions may merge at all, and on which patch sizes: decided from shapes, before anything is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from haste_runtime.flops import conv_geometries
from haste_runtime.geometry import ConvGeometry
from haste_runtime.graph import Graph, Shape
from haste_runtime.operators import may_merge

FEWEST_CHANNELS = 16  # below, hashing costs as much as merging could save, and channels are too few to be alike
LARGEST_PATCH = 16  # in output pixels; larger patches find fewer channels alike, smaller than 7 gain no time


@dataclass(frozen=True)
class Candidate:
    """A convolution. patches: sizes worth measuring, none if it stays dense; reason: why it stays dense, else empty."""

    node: str
    geometry: ConvGeometry
    patches: tuple[int, ...]
    reason: str


def find_candidates(graph: Graph, shapes: Mapping[str, Shape], patches: Sequence[int] = ()) -> tuple[Candidate, ...]:
    """Every convolution of the graph, in order. patches: tile sides to try instead of those of `patch_sizes`."""
    found = []
    for name, geometry in conv_geometries(graph, shapes).items():
        reason = may_merge(graph.node(name), graph) or _too_narrow(geometry)
        found.append(Candidate(name, geometry, () if reason else patch_sizes(geometry.out, patches), reason))
    return tuple(found)


def _too_narrow(geometry: ConvGeometry) -> str:
    channels = geometry.channels_in
    if channels <= 4:
        return f"reads {channels} channels, as first layers do: nothing to merge"
    if channels < FEWEST_CHANNELS:
        return f"reads {channels} channels: fewer than {FEWEST_CHANNELS} are not worth hashing"
    return ""


def patch_sizes(out: tuple[int, int], wanted: Sequence[int] = ()) -> tuple[int, ...]:
    """Tile sides to try on an output map: about 8 and 16, or the whole map where it is no larger than 16.

    Of 7 and 8, and of 14 and 16, the one whose tiles reach less beyond the map. wanted: other sides to try instead; one
    larger than the map stands for the whole map.
    """
    whole = max(out)
    if wanted:
        return tuple(sorted({min(m, whole) for m in wanted}))
    sizes = {min(pair, key=lambda m: (_overhang(out, m), -m)) for pair in ((7, 8), (14, 16))}
    sizes = {m for m in sizes if m < whole}
    if whole <= LARGEST_PATCH:
        sizes.add(whole)
    return tuple(sorted(sizes))


def _overhang(out: tuple[int, int], m: int) -> int:
    """Pixels that the tiles have beyond the map."""
    return (-(-out[0] // m) * m) * (-(-out[1] // m) * m) - out[0] * out[1]
