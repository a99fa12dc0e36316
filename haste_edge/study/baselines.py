"""The baselines: other ways to group a layer's channels, on every patch at the number of groups that "mean" has there.

Each is a function of a layer, its input and these numbers, and one entry in `GROUPERS`. N is the batch, P the patches
of a frame, M of them side by side; C the channels, d the pixels of a patch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from haste_edge import method
from haste_edge.method import Grouping
from haste_edge.patches import chunks, real_pixels
from haste_edge.plan.measure import layer_seed
from haste_edge.study import cost, hashes
from haste_edge.study.cost import Work
from haste_runtime.geometry import ConvGeometry
from haste_runtime.grouping import DROPPED
from haste_runtime.hashing import MAX_BITS

CHUNK_BYTES = 16 << 20  # patches held at a time
ITERATIONS = 10  # of k-means


@dataclass(frozen=True)
class Layer:
    """A convolution as a baseline sees it.

    patch: tile side m. sparsity, seed: of what is drawn. importance: (C,), how much an error of a channel weighs.
    share: of its channels that "mean" keeps, over all pictures, weighted by the tiles' real pixels.
    """

    node: str
    geometry: ConvGeometry
    patch: int
    sparsity: float
    seed: int
    importance: Tensor
    share: float

    @property
    def channels(self) -> int:
        return self.geometry.channels_in


Grouper = Callable[[Layer, Tensor, Tensor, int], tuple[Grouping, Work]]
"""(layer, x (N, C, H, W), kept (N * P,), number of the first picture) -> groups of the N * P patches, and all that is
executed but the convolution."""


def skip_dead(layer: Layer, x: Tensor, kept: Tensor, first: int) -> tuple[Grouping, Work]:
    """Channels whose quantised patch is all zero are left out, whatever ``kept`` says."""
    live = torch.cat([method.quantise(patches)[0].any(2) for patches, _ in _pieces(layer, x, kept)])
    return _alone(live), cost.quantising(layer.channels, _pixels(layer), len(kept))


def prune(layer: Layer, x: Tensor, kept: Tensor, first: int) -> tuple[Grouping, Work]:
    """The channels with the largest filters are kept on all patches, as large a share as "mean" keeps on average."""
    count = max(1, round(layer.share * layer.channels))
    strongest = layer.importance.argsort(descending=True, stable=True)[:count]
    chosen = torch.zeros(layer.channels, dtype=torch.bool).index_fill_(0, strongest, True)
    return _alone(chosen.expand(len(kept), -1)), Work()


def throw_together(layer: Layer, x: Tensor, kept: Tensor, first: int) -> tuple[Grouping, Work]:
    """Some channels at random begin the groups, the others join any of them. Finding them is not charged."""
    rng = _generator(layer, first)
    shape = (len(kept), layer.channels)
    order = torch.rand(shape, generator=rng).argsort(1)
    groups = kept.clamp(min=1)[:, None]
    place = torch.arange(layer.channels).expand(shape)
    joined = (torch.rand(shape, generator=rng) * groups).long().clamp_(max=groups - 1)
    labels = torch.empty(shape, dtype=torch.int64).scatter_(1, order, torch.where(place < groups, place, joined))
    return _merged(layer, _first_of(labels), kept)


def by_kmeans(layer: Layer, x: Tensor, kept: Tensor, first: int) -> tuple[Grouping, Work]:
    """Lloyd's k-means of each patch's channels, from random channels as centres; what its iterations cost is charged.

    A cluster that comes out empty gets the channel that is farthest from its centre.
    """
    rng, d = _generator(layer, first), _pixels(layer)
    size = CHUNK_BYTES * d // max(d, layer.channels)  # as many clusters as channels may have distances
    leaders = torch.cat([_first_of(_kmeans(patches, k, rng)) for patches, k in _pieces(layer, x, kept, size)])
    grouping, merging = _merged(layer, leaders, kept)
    clusters, patches = int(kept.sum()), len(kept)
    assigning = Work(2 * layer.channels * d * clusters, layer.channels * (d + 1) * clusters)
    updating = Work(d * clusters, layer.channels * d * patches)
    iterations = Work(ITERATIONS * (assigning.full + updating.full), ITERATIONS * (assigning.adds + updating.adds))
    return grouping, merging.plus(iterations)


def by_hash(family: str, layer: Layer, x: Tensor, kept: Tensor, first: int) -> tuple[Grouping, Work]:
    """Groups of equal codes of another hash, with just as many bits as give the number of groups (`hashes.cut`)."""
    matrix = _matrix(layer, family, layer.patch)
    found = []
    for patches, k in _pieces(layer, x, kept):
        q, live = method.quantise(patches)
        found.append(hashes.cut(hashes.codes(family, patches, q, live, matrix, MAX_BITS), MAX_BITS, k))
    leaders, used = torch.cat([leaders for leaders, _ in found]), torch.cat([bits for _, bits in found])
    grouping, merging = _merged(layer, leaders, kept)
    return grouping, merging.plus(_hash_work(layer, family, layer.patch, matrix, used))


def by_image(layer: Layer, x: Tensor, kept: Tensor, first: int) -> tuple[Grouping, Work]:
    """One grouping for all patches of an image, by the integer hash of whole channels.

    It has as many groups as the patches have on average, weighted by their real pixels. Filters are merged once.
    """
    whole = max(layer.geometry.out)
    matrix = _matrix(layer, "integer", whole)
    pixels = real_pixels(layer.geometry, layer.patch)
    per_patch = kept.view(len(x), -1)
    wanted = ((per_patch * pixels).sum(1) / pixels.sum()).round().long()
    wanted = torch.where(per_patch.any(1), wanted.clamp(min=1), 0)
    q, live = method.quantise(method.extract_patches(x, layer.geometry, whole)[:, 0])
    leaders, used = hashes.cut(hashes.codes("integer", q, q, live, matrix, MAX_BITS), MAX_BITS, wanted)
    once = _grouping(leaders, wanted)
    work = cost.merging(layer.geometry, whole, method.counts(once, layer.geometry, whole))
    leaders = once.leaders[:, None].expand(-1, len(pixels), -1).flatten(0, 1)
    grouping = _grouping(leaders, wanted.repeat_interleave(len(pixels)))
    return grouping, work.plus(_hash_work(layer, "integer", whole, matrix, used))


GROUPERS: Mapping[str, Grouper] = {
    "dead": skip_dead,
    "random": throw_together,
    "kmeans": by_kmeans,
    "gaussian": partial(by_hash, "gaussian"),
    "uncentred": partial(by_hash, "uncentred"),
    "float": partial(by_hash, "float"),
    "image": by_image,
    "pruned": prune,
}


# --- groups ----------------------------------------------------------------------------------------------------------


def _grouping(leaders: Tensor, kept: Tensor) -> Grouping:
    """Of leaders (M, C); patches that keep nothing drop all their channels."""
    leaders = leaders.masked_fill((kept == 0)[:, None], DROPPED)
    none = torch.zeros(len(leaders), dtype=torch.int64)
    return Grouping(leaders, torch.ones(leaders.shape), none, none)


def _alone(chosen: Tensor) -> Grouping:
    """Channels that are chosen, bool (M, C), stay as they are, the others are dropped."""
    own = torch.arange(chosen.shape[1]).expand_as(chosen)
    return _grouping(torch.where(chosen, own, DROPPED), torch.ones(len(chosen)))


def _merged(layer: Layer, leaders: Tensor, kept: Tensor) -> tuple[Grouping, Work]:
    grouping = _grouping(leaders, kept)
    counts = method.counts(grouping, layer.geometry, layer.patch)
    return grouping, cost.merging(layer.geometry, layer.patch, counts)


def _first_of(labels: Tensor) -> Tensor:
    """The first channel with each channel's label, (M, C)."""
    return method.group_by_mean(labels.int()).leaders


def _hash_work(layer: Layer, family: str, m: int, matrix: Tensor, used: Tensor) -> Work:
    """Of one patch for each number of bits in ``used``; "float" does without quantising."""
    d = layer.geometry.patch_side(m) ** 2
    entries = torch.cat([torch.zeros(1, dtype=torch.int64), matrix.count_nonzero(1).cumsum(0)])
    total = Work() if family == "float" else cost.quantising(layer.channels, d, len(used))
    for bits, patches in enumerate(torch.bincount(used).tolist()):
        total = total.plus(cost.hashing(family, layer.channels, d, int(entries[bits]), bits, patches))
    return total


def _matrix(layer: Layer, family: str, m: int) -> Tensor:
    return hashes.projection(family, layer.seed, layer.node, layer.geometry, m, MAX_BITS, layer.sparsity)


def _pixels(layer: Layer) -> int:
    return layer.geometry.patch_side(layer.patch) ** 2


def _pieces(layer: Layer, x: Tensor, kept: Tensor, chunk_bytes: int = CHUNK_BYTES) -> Iterator[tuple[Tensor, Tensor]]:
    """Patches (M, C, d) and their part of ``kept``, in pieces of bounded size."""
    n, done = layer.geometry.patch_side(layer.patch), 0
    for _, _, block in chunks(x, layer.geometry, layer.patch, (n, n), chunk_bytes):
        yield block.flatten(2), kept[done : done + len(block)]
        done += len(block)


def _generator(layer: Layer, first: int) -> torch.Generator:
    """Random numbers that depend on the seed, the layer and the picture."""
    return torch.Generator().manual_seed(layer_seed(layer.seed, f"{layer.node}/{first}", layer.patch))


# --- k-means ---------------------------------------------------------------------------------------------------------


def _kmeans(points: Tensor, kept: Tensor, rng: torch.Generator) -> Tensor:
    """Labels (M, C) of points (M, C, d) in ``kept`` (M,) clusters, at least one; none of them is empty."""
    patches, channels, d = points.shape
    clusters = kept.clamp(min=1)
    most = int(clusters.max())
    missing = torch.arange(most) >= clusters[:, None]
    start = torch.rand((patches, channels), generator=rng).argsort(1)[:, :most]
    centres = points.gather(1, start[:, :, None].expand(-1, -1, d))
    rows, offsets = points.reshape(-1, d), most * torch.arange(patches)[:, None]
    for _ in range(ITERATIONS):
        labels = _distances(points, centres, missing).argmin(2)
        own = (labels + offsets).flatten()
        sums = torch.zeros(patches * most, d).index_add_(0, own, rows)
        sizes = torch.bincount(own, minlength=patches * most)[:, None]
        centres = torch.where(sizes > 0, sums / sizes.clamp(min=1), centres.reshape(-1, d)).view(patches, most, d)
    distance, labels = _distances(points, centres, missing).min(2)
    return _fill_empty(labels, distance + points.square().sum(2), missing)


def _distances(points: Tensor, centres: Tensor, missing: Tensor) -> Tensor:
    """Squared distances (M, C, K), up to a term of each point's own; infinite to clusters that are not there."""
    products = points @ centres.transpose(1, 2)
    return (centres.square().sum(2)[:, None] - 2 * products).masked_fill_(missing[:, None], torch.inf)


def _fill_empty(labels: Tensor, distance: Tensor, missing: Tensor) -> Tensor:
    """Gives every empty cluster that is not missing the farthest channel of those that don't lie alone."""
    labels = labels.clone()
    while True:
        sizes = torch.zeros(missing.shape, dtype=torch.int64).scatter_add_(1, labels, torch.ones_like(labels))
        empty = (sizes == 0) & ~missing
        needy = empty.any(1)
        if not bool(needy.any()):
            return labels
        farthest = distance.masked_fill(sizes.gather(1, labels) < 2, -torch.inf).argmax(1)
        cluster = empty.int().argmax(1)
        labels[needy, farthest[needy]] = cluster[needy]
