"""What the levels of a torch model mean: the schedule language of `haste_edge.apply`, or the plan of a bundle."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import nn

from haste_edge.conv2d import conv_geometry, conv_padding, pair
from haste_runtime.errors import HasteError
from haste_runtime.graph import Graph, Node
from haste_runtime.hashing import MAX_BITS
from haste_runtime.plan import Choice, Variant
from haste_runtime.projection import draw

if TYPE_CHECKING:
    from haste_runtime.bundle import Bundle

DEFAULT_BITS = tuple(range(14, 6, -1))  # the ladder if none is given: level 1 uses 14 bits, level 8 uses 7

Schedule = int | Mapping[str, int] | Sequence[int | Mapping[str, int]] | None
Ladder = tuple[Mapping[str, Choice], ...]


class ApplyError(HasteError, ValueError):
    """`apply` was asked for something that doesn't fit the model, or a model is not under `apply`."""

    exit_code = 2


def parse_levels(bits: Schedule, names: Sequence[str]) -> tuple[dict[str, int], ...]:
    """What each level means, from the schedule given to `apply`: per level a dict of layer name -> bits of its codes.

    Fewer bits put more channels into one group, so they compress more. A schedule is one of

    - ``None``: the default ladder, level 1 with 14 bits, level 2 with 13, ... level 8 with 7, in every layer;
    - an integer, ``12``: one level above 0, with that many bits in every layer;
    - a dict, ``{"layer1.*": 12, "layer4.?.conv2": 6, "*": 9}``: one level above 0, with bits by layer name. Keys are
      shell patterns (``*``, ``?``, ``[..]``); the first that matches counts. Layers that none matches stay dense;
    - a list of integers and dicts, ``[14, 12, {"layer4.*": 8, "*": 11}]``: level i means entry i - 1.

    Bits are 1 to 31; 0 leaves the layer dense. Level 0 is always the dense model, and always comes first in the result.
    The levels should fall in bits, but need not. Raises ApplyError for anything else, and for a pattern that matches
    none of ``names``.
    """
    if bits is None:
        entries: Sequence[int | Mapping[str, int]] = DEFAULT_BITS
    elif isinstance(bits, (int, Mapping)):
        entries = [bits]
    else:
        entries = bits
    if not isinstance(entries, (list, tuple)) or not entries:
        raise ApplyError(f"{bits!r} is not a schedule.", "Give bits as an integer, a dict, or a list of these.")
    return ({}, *(_parse_level(entry, names) for entry in entries))


def _parse_level(entry: int | Mapping[str, int], names: Sequence[str]) -> dict[str, int]:
    patterns = entry if isinstance(entry, Mapping) else {"*": entry}
    for pattern, bits in patterns.items():
        if not isinstance(bits, int) or isinstance(bits, bool) or not 0 <= bits <= MAX_BITS:
            raise ApplyError(f"{bits!r} is not a number of bits.", f"Use 1 to {MAX_BITS}, or 0 for a dense layer.")
        if isinstance(entry, Mapping) and not any(fnmatchcase(name, pattern) for name in names):
            raise ApplyError(f"The pattern {pattern!r} matches no layer.", f"Layers: {', '.join(names) or 'none'}.")
    chosen = {name: next((b for p, b in patterns.items() if fnmatchcase(name, p)), 0) for name in names}
    return {name: bits for name, bits in chosen.items() if bits}


@dataclass(frozen=True)
class Recipe:
    """By module name the levels and variants, and by `Variant.projection` the ternary matrices."""

    levels: Ladder
    variants: Mapping[str, tuple[Variant, ...]]
    projections: Mapping[str, NDArray[np.int8]]


def from_schedule(
    bits: Schedule,
    convs: Mapping[str, nn.Conv2d],
    skipped: dict[str, str],
    patch: int,
    sparsity: float,
    seed: int,
    policy: str,
) -> Recipe:
    """One variant per layer, with as many bits as its most exact level needs."""
    if patch < 1 or not 0 <= sparsity < 1:
        raise ApplyError(f"Patch {patch} and sparsity {sparsity} don't go.", "patch >= 1, and 0 <= sparsity < 1.")
    names = [name for name in convs if name not in skipped]
    levels = parse_levels(bits, names)
    variants: dict[str, tuple[Variant, ...]] = {}
    projections: dict[str, NDArray[np.int8]] = {}
    for name in names:
        most = max(level.get(name, 0) for level in levels)
        if not most:
            skipped[name] = "dense at every level (bits)"
            continue
        layer_seed = zlib.crc32(f"{seed}/{name}".encode())
        side = conv_geometry(convs[name], (1, 1)).patch_side(patch)
        projections[name] = draw(layer_seed, most, side, sparsity)
        variants[name] = (Variant(patch, most, sparsity, layer_seed, name, policy),)
    return Recipe(
        tuple({name: Choice(0, count) for name, count in level.items()} for level in levels), variants, projections
    )


def from_bundle(bundle: Bundle, convs: Mapping[str, nn.Conv2d], skipped: dict[str, str]) -> Recipe:
    """The bundle's plan as it is: the front ends name a convolution's node after its module."""
    variants: dict[str, tuple[Variant, ...]] = {}
    for layer in bundle.plan.layers:
        name = layer.node
        if layer.variants:
            why = skipped.get(name, "") or _differs(convs.get(name), bundle.graph.node(name), bundle.graph)
            if why:
                raise ApplyError(f"The bundle merges {name!r}, but {why}.", "Give the model it was compiled from.")
            variants[name] = layer.variants
        elif name in convs:
            skipped.setdefault(name, layer.reason)
    for name in convs:
        if name not in variants:
            skipped.setdefault(name, "not in the bundle")
    return Recipe(tuple(level.choices for level in bundle.plan.levels), variants, bundle.projections)


def _differs(conv: nn.Conv2d | None, node: Node, graph: Graph) -> str:
    """Why a module can't be what a node was made from; empty if it can."""
    if conv is None:
        return "the model has no convolution of that name"
    weight = graph.constants[node.constants["weight"]].shape
    attributes = {"stride": pair(conv.stride), "dilation": pair(conv.dilation)}
    differing = [key for key, value in attributes.items() if node.attributes[key] != value]
    # More padding than the module's is a zero pad before it that was folded in: the patches see the same zeros.
    if any(own > folded for own, folded in zip(conv_padding(conv), node.attributes["padding"], strict=True)):
        differing.append("padding")
    if tuple(conv.weight.shape) != weight:
        differing.append("weight's shape")
    return f"the model's has another {' and '.join(differing)}" if differing else ""
