"""What merging does to one picture: each level's answer and kept channels, and one layer looked at closely.

Levels are run by torch (`haste_edge.method`), whose groups for one layer input are the runtime's. What is found here is
drawn by `haste_edge.visualize`. P is the patches of a layer, C its input channels.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from haste_edge import torch_graph
from haste_edge.method import Rule, group_layer, merged_conv, represent, represent_affine
from haste_edge.patches import extract_patches, inside_map, patch_steps
from haste_runtime.bundle import Bundle
from haste_runtime.errors import InputError, LevelError
from haste_runtime.flops import LayerCounts, NetworkFlops, Totals
from haste_runtime.geometry import ConvGeometry
from haste_runtime.graph import Node, Value
from haste_runtime.grouping import DROPPED
from haste_runtime.operators import check_graph
from haste_runtime.plan import Choice, Variant

FATES = ("merged", "dropped", "untouched")  # what may become of a channel on a patch

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Likely:
    """A class and its probability, 0 to 1."""

    index: int
    name: str
    probability: float


@dataclass(frozen=True)
class LevelSeen:
    """One level on the picture. kept: merged layer -> share of its channels left, 0 to 1, mean over patches. totals:
    FLOPs. outputs: by name, of the one frame."""

    number: int
    kept: Mapping[str, float]
    totals: Totals
    outputs: Mapping[str, Array]


@dataclass(frozen=True)
class LayerSeen:
    """One merged layer at one level. before: its input (C, H, W). after: what stands for that, every pixel as the tile
    above it sees it, NaN where no patch reaches. leaders: (P, C), -1 where dropped. fates: (P, C), indices of `FATES`.
    """

    node: str
    geometry: ConvGeometry
    variant: Variant
    choice: Choice
    before: Array
    after: Array
    leaders: NDArray[np.int64]
    fates: NDArray[np.int64]

    @property
    def patches_by_fate(self) -> NDArray[np.int64]:
        """(C, 3): on how many patches each channel met each of `FATES`."""
        return np.stack([(self.fates == fate).sum(0) for fate in range(len(FATES))], 1)

    @property
    def usual_fate(self) -> NDArray[np.int64]:
        """(C,): what a channel met most often; of equals the first of `FATES`."""
        return self.patches_by_fate.argmax(1)


@dataclass(frozen=True)
class Observation:
    """picture: what the network saw, (H, W, 3), 0 to 1. levels: all, in order. level: the one `layer` was seen at."""

    bundle: Bundle
    picture: Array
    levels: tuple[LevelSeen, ...]
    level: int
    layer: LayerSeen

    @property
    def exact(self) -> LevelSeen:
        return self.levels[0]

    @property
    def chosen(self) -> LevelSeen:
        return self.levels[self.level]

    def agrees(self, level: int) -> bool:
        """Whether a level gives level 0's answer: the same largest element in every output."""
        outputs = self.levels[level].outputs
        return all(int(outputs[name].argmax()) == int(y.argmax()) for name, y in self.exact.outputs.items())

    def change(self, level: int) -> float:
        """How far a level's outputs are from those of level 0: root of the relative squared error over all of them."""
        pairs = [(y, self.levels[level].outputs[name]) for name, y in self.exact.outputs.items()]
        wrong = sum(float(np.square(y - got, dtype=np.float64).sum()) for y, got in pairs)
        size = sum(float(np.square(y, dtype=np.float64).sum()) for y, _ in pairs)
        return float(np.sqrt(wrong / size)) if size else 0.0

    def likeliest(self, level: int, count: int = 3) -> list[Likely]:
        """The best classes at a level; empty where the network doesn't turn a picture into one vector of scores."""
        outputs = list(self.levels[level].outputs.values())
        if len(outputs) != 1 or outputs[0].ndim != 1:
            return []
        scores, names = outputs[0].astype(np.float64), self.bundle.classes
        if scores.min() < 0 or abs(scores.sum() - 1) > 1e-3:  # else they are probabilities already
            scores = np.exp(scores - scores.max())
            scores /= scores.sum()
        best = np.argsort(-scores, kind="stable")[:count]
        return [Likely(int(i), names[i] if i < len(names) else f"class {i}", float(scores[i])) for i in best]


def observe(
    bundle: Bundle,
    x: Array,
    level: int | None = None,
    layer: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Observation:
    """Runs one picture at every level, and looks closely at one merged layer.

    x: the network's own, normalised input of one frame, (C, H, W) or as the bundle's layout says. level: whose merging
    to look at, by default the last. layer: the convolution, by default the one that merges most in the first half of
    the network, where maps still show something. progress: called with levels done, and all.
    Raises LevelError for a level that merges nothing, and InputError for a layer that isn't merged there, a network
    with several inputs, or an input with NaN or infinity.
    """
    only_input(bundle)
    level = _level(bundle, level)
    choices = bundle.plan.levels[level].choices
    _check_layer(bundle, level, layer)
    if not np.isfinite(x).all():
        raise InputError("The input holds NaN or infinity.", "Give finite numbers.")
    channels_last = bundle.preprocessing.layout == "NHWC" and x.ndim == 3
    frame = torch.from_numpy(np.ascontiguousarray(x.transpose(2, 0, 1) if channels_last else x, np.float32))
    network = _Network(bundle)
    wanted = {network.prepared.graph.node(name).inputs[0] for name in choices}
    seen: list[LevelSeen] = []
    inputs: dict[str, Tensor] = {}
    for number in range(len(bundle.plan.levels)):
        found, values = network.run(number, frame, wanted if number == level else ())
        seen.append(found)
        inputs |= values
        progress(number + 1, len(bundle.plan.levels))
    layer = layer or _telling_layer(network.flops.geometries, seen[level].kept)
    close = network.look(layer, choices[layer], inputs[bundle.graph.node(layer).inputs[0]])
    return Observation(bundle, _picture(frame.numpy(), bundle), tuple(seen), level, close)


def only_input(bundle: Bundle) -> Value:
    """The network's input. Raises InputError where there are several."""
    if len(bundle.graph.inputs) != 1:
        raise InputError(
            f"This network has {len(bundle.graph.inputs)} inputs; only networks with one can be looked at.",
            "Measure it with haste_runtime.Session in a script of your own.",
        )
    return bundle.graph.inputs[0]


def telling_channels(layer: LayerSeen, count: int) -> list[int]:
    """Up to ``count`` channels that show all fates: half of them merged, members of a group side by side, the others
    dropped or untouched; within each fate the liveliest. Where a fate has too few channels, others take the places.
    """
    energy = np.square(layer.before, dtype=np.float64).sum((1, 2))
    usual = layer.usual_fate
    by_fate = [sorted(np.flatnonzero(usual == fate).tolist(), key=lambda c: -energy[c]) for fate in range(len(FATES))]
    by_fate[0] = _by_group(by_fate[0], layer.leaders[typical_patch(layer)], energy)
    places = [min(share, len(found)) for share, found in zip(_shares(count), by_fate, strict=True)]
    for fate, found in enumerate(by_fate):
        places[fate] += min(len(found) - places[fate], count - sum(places))
    return [c for found, place in zip(by_fate, places, strict=True) for c in found[:place]]


def typical_patch(layer: LayerSeen) -> int:
    """The patch on which most channels meet their usual fate; of equals the first."""
    return int((layer.fates == layer.usual_fate).sum(1).argmax())


def _shares(count: int) -> tuple[int, int, int]:
    """Places for each of `FATES`."""
    merged = -(-count // 2)
    dropped = -(-(count - merged) // 2)
    return merged, dropped, count - merged - dropped


def _by_group(
    channels: Sequence[int], leaders: NDArray[np.int64], energy: NDArray[np.float64], most: int = 3
) -> list[int]:
    """Channels by their group on one patch, the liveliest groups first, ``most`` of each; then all that remain."""
    groups: dict[int, list[int]] = {}
    for c in channels:
        groups.setdefault(int(leaders[c]), []).append(c)
    together = [members[:most] for leader, members in groups.items() if leader != DROPPED and len(members) > 1]
    together.sort(key=lambda members: -float(energy[members].sum()))
    first = [c for members in together for c in members]
    return first + [c for c in channels if c not in first]


def _level(bundle: Bundle, level: int | None) -> int:
    levels = bundle.plan.levels
    merging = [number for number, found in enumerate(levels) if found.choices]
    if not merging:
        raise LevelError("No level of this bundle merges anything.", "`haste-edge inspect` tells why.")
    if level is None:
        return merging[-1]
    if level not in merging:
        what = f"Level {level} merges nothing" if 0 <= level < len(levels) else f"There is no level {level}"
        raise LevelError(f"{what}.", f"Give one of {', '.join(map(str, merging))}.")
    return level


def _check_layer(bundle: Bundle, level: int, layer: str | None) -> None:
    merged = [planned.node for planned in bundle.plan.layers if planned.node in bundle.plan.levels[level].choices]
    if layer is not None and layer not in merged:
        known = any(planned.node == layer for planned in bundle.plan.layers)
        what = f"{layer!r} is not merged at level {level}" if known else f"There is no convolution {layer!r}"
        raise InputError(f"{what}.", f"Merged at level {level}: {', '.join(merged)}.")


def _telling_layer(geometries: Mapping[str, ConvGeometry], kept: Mapping[str, float]) -> str:
    """The layer that keeps least in the first half, if there is one that reads all of its input."""
    whole = [
        name for name, geometry in geometries.items() if name in kept and geometry.patch_side(1) >= max(geometry.stride)
    ]
    early = [name for name in list(geometries)[: -(-len(geometries) // 2)] if name in whole]
    return min(early or whole or kept, key=kept.__getitem__)


def _picture(x: Array, bundle: Bundle) -> Array:
    """The network's input (C, H, W) as a picture (H, W, 3), 0 to 1; grey where it doesn't have three channels."""
    preprocessing = bundle.preprocessing
    if len(preprocessing.mean) in (1, len(x)):
        mean, std = (np.array(v, np.float32).reshape(-1, 1, 1) for v in (preprocessing.mean, preprocessing.std))
        x = (x * std + mean) * np.float32(preprocessing.scale / 255)
    if len(x) != 3:
        x = np.repeat(x.mean(0, keepdims=True), 3, axis=0)
    elif preprocessing.colour == "BGR":
        x = x[::-1]
    return np.ascontiguousarray(x.transpose(1, 2, 0).clip(0, 1))


class _Network:
    """A bundle, ready to run with torch at any level."""

    def __init__(self, bundle: Bundle) -> None:
        shapes = check_graph(bundle.graph)
        self.bundle = bundle
        self.prepared = torch_graph.prepare(bundle.graph)
        self.flops = NetworkFlops(bundle.graph, shapes, bundle.plan, bundle.projections)
        self._variants = {layer.node: layer.variants for layer in bundle.plan.layers}

    def run(self, number: int, frame: Tensor, record: Collection[str]) -> tuple[LevelSeen, dict[str, Tensor]]:
        """A level on one frame, and the values (1, ...) to record."""
        choices = self.bundle.plan.levels[number].choices
        counts: dict[str, LayerCounts] = {}

        def convolve(node: Node, x: Tensor) -> Tensor:
            constants = {role: self.prepared.constants[key] for role, key in node.constants.items()}
            geometry, rule = self.flops.geometries[node.name], self._rule(node.name, choices[node.name])
            merged = merged_conv(x, constants["weight"], constants.get("bias"), geometry, rule)
            counts[node.name] = merged.counts
            return merged.output

        inputs = {self.bundle.graph.inputs[0].name: frame[None]}
        ran = torch_graph.run(self.prepared, inputs, dict.fromkeys(choices, convolve), record)
        kept = {
            name: count.kept / (count.patches * self.flops.geometries[name].channels_in)
            for name, count in counts.items()
        }
        outputs = {name: y[0].numpy() for name, y in ran.outputs.items()}
        return LevelSeen(number, kept, self.flops.totals(number, counts), outputs), ran.values

    def look(self, name: str, choice: Choice, x: Tensor) -> LayerSeen:
        """One merged layer on its input (1, C, H, W)."""
        geometry, rule = self.flops.geometries[name], self._rule(name, choice)
        _, grouping = group_layer(x, geometry, rule)
        side = geometry.patch_side(rule.patch)
        patches = extract_patches(x, geometry, rule.patch)[0]
        if grouping.offsets is None:
            replaced = represent(patches, grouping.leaders, grouping.scales, rule.weights)
        else:
            inside = inside_map(x, geometry, rule.patch, (side, side)).flatten(1)
            replaced = represent_affine(patches, grouping, patch_steps(x, geometry, rule.patch), inside)
        replaced = replaced.view(*patches.shape[:2], side, side)
        after = _reassembled(replaced.numpy(), geometry, rule.patch, x.shape[2:])
        leaders = grouping.leaders.numpy()
        before = x[0].numpy()
        variant = self._variants[name][choice.variant]
        return LayerSeen(name, geometry, variant, choice, before, after, leaders, _fates(leaders))

    def _rule(self, name: str, choice: Choice) -> Rule:
        variant = self._variants[name][choice.variant]
        projection = torch.from_numpy(self.bundle.projections[variant.projection])
        weights = self.bundle.importance[variant.importance].astype(np.int32) if variant.importance else None
        importance = None if weights is None else torch.from_numpy(weights)  # torch knows little of uint16
        return Rule(
            variant.patch, projection, choice.bits, variant.policy, importance, choice.budget, variant.dense_above
        )


def _fates(leaders: NDArray[np.int64]) -> NDArray[np.int64]:
    """Leaders (P, C) -> indices of `FATES` (P, C)."""
    fates = np.empty_like(leaders)
    for row, found in zip(fates, leaders, strict=True):
        sizes = np.bincount(found[found != DROPPED], minlength=len(found))
        row[:] = np.where(found == DROPPED, 1, np.where(sizes[found] > 1, 0, 2))
    return fates


def _reassembled(patches: Array, geometry: ConvGeometry, m: int, size: Sequence[Any]) -> Array:
    """Patches (P, C, n, n) -> the map (C, H, W) they were cut from; where they overlap, each pixel comes from the tile
    that is above it, and where none reaches it is NaN."""
    height, width = size
    n, step = geometry.patch_side(m), m * geometry.stride[0]
    rows, columns = geometry.grid(m)
    whole = np.full((patches.shape[1], height, width), np.nan, np.float32)
    vertical = [_own(i, rows, step, n, geometry.padding[0], height) for i in range(rows)]
    horizontal = [_own(i, columns, step, n, geometry.padding[1], width) for i in range(columns)]
    for patch, tile in zip(patches, geometry.tiles(m), strict=True):
        (top, bottom, y), (left, right, x) = vertical[tile.ty], horizontal[tile.tx]
        inside = patch[:, top - y : bottom - y, left - x : right - x]
        whole[:, top:bottom, left:right] = inside
    return whole


def _own(index: int, count: int, step: int, n: int, padding: int, size: int) -> tuple[int, int, int]:
    """Along one side: first and last + 1 pixel of a tile's own, and where its patch begins (it may be outside)."""
    begin = index * step - padding
    first = index * step
    last = size if index == count - 1 else first + step
    return min(first, size), max(min(first, size), min(last, begin + n, size)), begin
