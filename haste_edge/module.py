"""The paper's method as a patch for any torch model: `apply` makes its convolutions merge, `remove` puts them back.

    import haste_edge
    haste_edge.apply(model, bits=[14, 12, 10], patch=8)
    model.haste.level = 2           # every layer now hashes with 12 bits; 0 is the untouched model
    y = model(x)
    print(model.haste.stats.flops_reduction_network)
    haste_edge.remove(model)

Eager and for studies of accuracy: the operations saved are counted, not saved (`haste_edge.method`). Compile the model
to save time. A convolution is never replaced, only its class is changed and changed back, so parameters, state dict,
hooks, optimisers, devices and precision are the model's own affair as before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from haste_edge.conv2d import conv_geometry, conv_output, why_dense
from haste_edge.knob import Haste, LayerStats
from haste_edge.method import HASHES, Rule, merged_conv
from haste_edge.schedule import ApplyError, Budgets, Recipe, Schedule, from_bundle, from_schedule
from haste_runtime.flops import dense_flops, merged_flops, nonzeros_of_rows
from haste_runtime.plan import POLICIES, Variant

if TYPE_CHECKING:
    from haste_runtime.bundle import Bundle

_PROJECTION, _IMPORTANCE = "haste_projection_", "haste_importance_"  # buffers: and the number of the variant


@dataclass(frozen=True)
class _Layer:
    """What a `HasteConv2d` has beyond a Conv2d. nonzeros[v][b - 1]: entries in the first b rows of variant v."""

    name: str
    variants: tuple[Variant, ...]
    nonzeros: tuple[tuple[int, ...], ...]
    haste: Haste


class HasteConv2d(nn.Conv2d):
    """A `Conv2d` that merges the input channels that look alike, patch by patch (paper, section 3).

    Modifications:
     - made by `apply` from an existing `Conv2d`, whose class is changed; there is no constructor of its own
     - forward merges, unless ``model.haste.level`` leaves this layer dense: then it is Conv2d's own
     - buffers per variant, which move with the model and are not in its state dict: ``haste_projection_<i>``, int8
       (L, n * n), and for policies with a budget ``haste_importance_<i>``, int32 (C,)
    """

    _haste: _Layer | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self._haste is None:
            return super().forward(x)
        layer = self._haste
        batch = len(x) if x.dim() == 4 else 1
        out = conv_output(self, x)
        geometry = conv_geometry(self, out)
        choice = layer.haste.choice(layer.name)
        dense = dense_flops(geometry) * batch
        if choice is None or batch == 0 or min(out) < 1:
            y = super().forward(x)  # which says what is wrong with a map too small
            layer.haste.record(layer.name, LayerStats(True, self.in_channels, dense, dense))
            return y
        variant = layer.variants[choice.variant]
        rule = Rule(
            variant.patch,
            self.get_buffer(f"{_PROJECTION}{choice.variant}"),
            choice.bits,
            variant.policy,
            self.get_buffer(f"{_IMPORTANCE}{choice.variant}") if variant.importance else None,
            choice.budget,
            variant.dense_above,
        )
        image = x if x.dim() == 4 else x[None]
        y, counts, _, _ = merged_conv(image, self.weight, self.bias, geometry, rule, layer.haste.hash)
        nonzeros = layer.nonzeros[choice.variant][choice.bits]
        executed = merged_flops(geometry, variant.patch, nonzeros, choice.bits, counts, variant.policy)
        layer.haste.record(layer.name, LayerStats(True, self.in_channels, dense, executed, counts))
        return y if x.dim() == 4 else y[0]


def apply(
    model: nn.Module,
    *,
    level: int = 1,
    patch: int = 8,
    bits: Schedule = None,
    plan: Bundle | None = None,
    layers: Callable[[str, nn.Conv2d], bool] | None = None,
    skip_first: bool = True,
    sparsity: float = 2 / 3,
    seed: int = 0,
    policy: str = "mean",
    budget: Budgets = None,
    hash: str = "integer",
) -> nn.Module:
    """Makes the convolutions of a model merge their input channels. Returns the model, which is changed in place.

    Nothing is trained and no weight is changed. Undo it with `remove`; applying again starts afresh.

    Important args:
     - level: where the knob ``model.haste.level`` stands at first; turn it at any time. 0 is the untouched model.
     - policy: who forms a group, and what stands for it (`haste_runtime.grouping`). "mean" is the paper's: channels of
       equal code, by their mean. "scaled": each has a scale of its own besides, and dead channels are dropped.
       "budget": a channel joins a group whose code is nearly its own, or is dropped, only if what is lost thereby is
       within its share of an error budget. "affine" likewise, but a channel becomes a multiple of another plus a
       constant, which loses least. "drop": none joins another, small ones are dropped.
     - bits: what the levels above 0 mean, in the little language of `parse_levels`. A number for all layers is the
       paper's way: 14 is careful, 12 a fair start in wide networks; below that accuracy goes quickly. For the policy
       "budget" it is a single number for all layers and levels, 16 unless given: more bits cost more, and tell better
       which groups are near. "affine" and "drop" have no bits.
     - budget: what the levels above 0 mean for the policies with one, in the same language (`parse_budgets`):
       ``policy="budget", budget=[0.1, 0.3, {"layer4.*": 2.0, "*": 0.6}]``. The larger, the more is merged.
     - patch: side m of the output tiles that share one grouping. 8 is a fair start; larger tiles spread the cost of
       merging filters, smaller ones find more channels alike.
     - plan: a bundle, as `haste_runtime.bundle.read_bundle` gives it. Its ladder, policies, patch sizes and projections
       are used, so that the same layer input gives the runtime's groups; of the other args only ``level`` and ``hash``
       count.

    Args to tinker with if you want:
     - layers: function of (name, convolution) that says which may merge. Default: all that can. Leaving out 1x1 kernels
       is a good first try: hashing weighs nine times more there than for 3x3.
     - skip_first: leave the first convolution, in the model's order, dense. Keep it: few channels, and all differ.
     - sparsity: share of zeros in the projections. Keep the paper's 2/3; more zeros hash for less.
     - seed: of the projections; each layer draws its own from the seed and its name. Vary it to see the spread.
     - hash: "integer" decides as the runtime does, bit for bit. "float" is the textbook's, to compare with.

    Raises ApplyError for what doesn't fit the model, LevelError for a level that isn't there.
    """
    remove(model)
    if hasattr(model, "haste"):
        raise ApplyError("The model has an attribute 'haste' of its own.", "Rename it, or wrap the model in another.")
    if policy not in POLICIES:
        raise ApplyError(f"There is no policy {policy!r}.", f"Known: {', '.join(POLICIES)}.")
    if hash not in HASHES:
        raise ApplyError(f"There is no hash {hash!r}.", f"Known: {', '.join(HASHES)}.")
    convs = {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    skipped = {name: why for name, conv in convs.items() if (why := why_dense(conv))}
    if plan is not None:
        recipe = from_bundle(plan, convs, skipped)
    else:
        for index, (name, conv) in enumerate(convs.items()):
            if index == 0 and skip_first:
                skipped.setdefault(name, "the first convolution (skip_first)")
            if layers is not None and not layers(name, conv):
                skipped.setdefault(name, "not chosen (layers)")
        recipe = from_schedule(bits, budget, convs, skipped, patch, sparsity, seed, policy)
    haste = Haste(recipe.levels, recipe.variants, skipped, hash)
    haste.level = level
    for name, variants in recipe.variants.items():
        _swap(convs[name], name, variants, recipe, haste)
    haste.attach(model)
    model.haste = haste  # type: ignore[assignment]
    return model


def remove(model: nn.Module) -> nn.Module:
    """Undoes `apply`, on the model or any part of it; returns the model. Without effect where nothing was applied."""
    for module in list(model.modules()):
        if isinstance(module, HasteConv2d):
            for name, _ in list(module.named_buffers()):
                if name.startswith((_PROJECTION, _IMPORTANCE)):
                    delattr(module, name)
            vars(module).pop("_haste", None)
            module.__class__ = nn.Conv2d  # type: ignore[assignment]
        haste = vars(module).get("haste")
        if isinstance(haste, Haste):
            haste.detach()
            del module.haste
    return model


def set_level(model: nn.Module, level: int) -> None:
    """``model.haste.level = level``, with a proper error where the model isn't under `apply`."""
    haste = vars(model).get("haste")
    if not isinstance(haste, Haste):
        raise ApplyError("This model has no levels.", "Call haste_edge.apply(model) first.")
    haste.level = level


def _swap(conv: nn.Conv2d, name: str, variants: tuple[Variant, ...], recipe: Recipe, haste: Haste) -> None:
    conv.__class__ = HasteConv2d
    nonzeros, device = [], conv.weight.device
    for index, variant in enumerate(variants):
        matrix = recipe.projections[variant.projection]
        nonzeros.append(tuple(nonzeros_of_rows(matrix).tolist()))
        conv.register_buffer(f"{_PROJECTION}{index}", torch.tensor(matrix, device=device), persistent=False)
        if variant.importance:
            weights = recipe.importance[variant.importance].astype(np.int32)  # torch knows little of uint16
            conv.register_buffer(f"{_IMPORTANCE}{index}", torch.tensor(weights, device=device), persistent=False)
    conv._haste = _Layer(name, variants, tuple(nonzeros), haste)  # type: ignore[assignment]
