"""What the levels of a torch model mean: the schedule language of `haste_edge.apply`, or the plan of a bundle."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import nn

from haste_edge.conv2d import conv_geometry, conv_padding, pair
from haste_edge.importance import channel_importance
from haste_runtime.bundle_manifest import MAX_BUDGET
from haste_runtime.errors import HasteError
from haste_runtime.graph import Graph, Node
from haste_runtime.hashing import MAX_BITS
from haste_runtime.plan import BUDGETED, CODED, Choice, Variant
from haste_runtime.projection import projection_of

if TYPE_CHECKING:
    from haste_runtime.bundle import Bundle

DEFAULT_BITS = tuple(range(14, 6, -1))  # the ladder if none is given: level 1 uses 14 bits, level 8 uses 7
DEFAULT_BUDGETS = (0.05, 0.1, 0.2, 0.35, 0.6, 1.0)  # the same for the policy "budget", and the bits that go with it:
BUDGET_BITS = 16

Schedule = int | Mapping[str, int] | Sequence[int | Mapping[str, int]] | None
Budgets = float | Mapping[str, float] | Sequence[float | Mapping[str, float]] | None
Ladder = tuple[Mapping[str, Choice], ...]
Number = TypeVar("Number", int, float)


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
    return _parse(bits, names, DEFAULT_BITS, _bits, "bits")


def parse_budgets(budget: Budgets, names: Sequence[str]) -> tuple[dict[str, float], ...]:
    """The same language for the policy "budget": per level a dict of layer name -> error budget.

    A budget is the share of a patch's energy, each channel weighed by its filters, that merging may get wrong. The
    larger, the more is merged, so the levels should rise. It is handed out evenly, and channels don't use up their
    parts: budgets above 1 make sense. ``None`` is the ladder `DEFAULT_BUDGETS` in every layer, a number one level, a
    dict one level by shell pattern, a list a level for each entry:

        parse_budgets([0.1, {"layer4.*": 1.0, "*": 0.3}], names)

    Budgets are up to 1e6; 0 leaves the layer dense. (To merge only what changes nothing or next to it, give 1e-9.)
    Raises ApplyError as `parse_levels` does.
    """
    return _parse(budget, names, DEFAULT_BUDGETS, _budget, "budget")


def _parse(
    schedule: Budgets, names: Sequence[str], default: tuple[Number, ...], check: Callable[[object], Number], what: str
) -> tuple[dict[str, Number], ...]:
    if schedule is None:
        entries: Sequence[object] = default
    elif isinstance(schedule, (int, float, Mapping)):
        entries = [schedule]
    else:
        entries = schedule
    if not isinstance(entries, (list, tuple)) or not entries:
        raise ApplyError(f"{schedule!r} is not a schedule.", f"Give {what} as a number, a dict, or a list of these.")
    levels: list[dict[str, Number]] = [{}]
    levels.extend(_parse_level(entry, names, check) for entry in entries)
    return tuple(levels)


def _parse_level(entry: object, names: Sequence[str], check: Callable[[object], Number]) -> dict[str, Number]:
    if isinstance(entry, Mapping):
        patterns = {pattern: check(value) for pattern, value in entry.items()}
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise ApplyError(f"The pattern {pattern!r} matches no layer.", f"Layers: {', '.join(names) or 'none'}.")
    else:
        patterns = {"*": check(entry)}
    chosen = {name: next((value for p, value in patterns.items() if fnmatchcase(name, p)), 0) for name in names}
    return {name: value for name, value in chosen.items() if value}


def _bits(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_BITS:
        raise ApplyError(f"{value!r} is not a number of bits.", f"Use 1 to {MAX_BITS}, or 0 for a dense layer.")
    return value


def _budget(value: object) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= MAX_BUDGET:
        raise ApplyError(f"{value!r} is not an error budget.", "Use a number such as 0.2, or 0 for a dense layer.")
    return float(value)


@dataclass(frozen=True)
class Recipe:
    """By module name the levels and variants; by `Variant.projection` the ternary matrices, and by
    `Variant.importance` the weights of the channels."""

    levels: Ladder
    variants: Mapping[str, tuple[Variant, ...]]
    projections: Mapping[str, NDArray[np.int8]]
    importance: Mapping[str, NDArray[np.uint16]]


def from_schedule(
    bits: Schedule,
    budget: Budgets,
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
    levels = _choices(bits, budget, names, policy)
    variants: dict[str, tuple[Variant, ...]] = {}
    projections: dict[str, NDArray[np.int8]] = {}
    importance: dict[str, NDArray[np.uint16]] = {}
    for name in names:
        most = max((level[name].bits for level in levels if name in level), default=0)
        if not most:
            skipped[name] = f"dense at every level ({'budget' if policy in BUDGETED else 'bits'})"
            continue
        layer_seed = zlib.crc32(f"{seed}/{name}".encode())
        side = conv_geometry(convs[name], (1, 1)).patch_side(patch)
        projections[name] = projection_of(policy, layer_seed, most, side, sparsity)
        most = len(projections[name])
        weights = f"{name}.importance" if policy in BUDGETED else ""
        if weights:
            importance[weights] = channel_importance(convs[name].weight.detach().float().cpu().numpy())
        variants[name] = (Variant(patch, most, sparsity, layer_seed, name, policy, weights),)
    if policy in BUDGETED and policy not in CODED:  # which always uses all rows
        levels = tuple({n: replace(c, bits=variants[n][0].bits) for n, c in level.items()} for level in levels)
    return Recipe(levels, variants, projections, importance)


def _choices(bits: Schedule, budget: Budgets, names: Sequence[str], policy: str) -> Ladder:
    """What each layer does at each level, by the schedule of bits, or of budgets where the policy takes these."""
    if policy not in BUDGETED:
        if budget is not None:
            raise ApplyError(f"The policy {policy!r} takes no budget.", 'Give policy="budget", or bits instead.')
        return tuple({name: Choice(0, count) for name, count in level.items()} for level in parse_levels(bits, names))
    count = BUDGET_BITS if bits is None else bits
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= MAX_BITS:
        raise ApplyError(f"The policy {policy!r} takes one number of bits, not {bits!r}.", "Give the levels as budget.")
    return tuple({name: Choice(0, count, b) for name, b in level.items()} for level in parse_budgets(budget, names))


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
    levels = tuple(level.choices for level in bundle.plan.levels)
    return Recipe(levels, variants, bundle.projections, bundle.importance)


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
