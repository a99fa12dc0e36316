"""``model.haste``: the level of a model under `haste_edge.apply`, and what its layers did."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from haste_edge.conv2d import conv_geometry
from haste_edge.schedule import Ladder
from haste_runtime.errors import LevelError
from haste_runtime.flops import LayerCounts, Totals, dense_flops, linear_flops
from haste_runtime.plan import Choice, Variant

_DENSE = LayerCounts()


@dataclass(frozen=True)
class LayerStats:
    """One layer's work, over the frames counted. may_merge: whether any level merges it. channels: C."""

    may_merge: bool
    channels: int
    dense_flops: int
    executed_flops: int
    counts: LayerCounts = _DENSE

    @property
    def kept(self) -> float:
        """Groups per channel, the mean over patches: 1.0 where nothing merged or the layer ran dense."""
        return self.counts.kept / (self.counts.patches * self.channels) if self.counts.patches else 1.0

    def __add__(self, other: LayerStats) -> LayerStats:
        return LayerStats(
            self.may_merge,
            self.channels,
            self.dense_flops + other.dense_flops,
            self.executed_flops + other.executed_flops,
            self.counts + other.counts,
        )


@dataclass(frozen=True)
class Stats:
    """layers: name -> what it did, for every Conv2d and Linear that was called, in the order of the calls."""

    layers: Mapping[str, LayerStats]

    @property
    def totals(self) -> Totals:
        every = list(self.layers.values())
        mergeable = [layer for layer in every if layer.may_merge]
        return Totals(
            may_merge_executed=sum(layer.executed_flops for layer in mergeable),
            may_merge_dense=sum(layer.dense_flops for layer in mergeable),
            network_executed=sum(layer.executed_flops for layer in every),
            network_dense=sum(layer.dense_flops for layer in every),
        )

    @property
    def kept(self) -> dict[str, float]:
        """The kept ratio of each layer that may merge."""
        return {name: layer.kept for name, layer in self.layers.items() if layer.may_merge}

    @property
    def flops_reduction(self) -> float:
        """Percent saved over the layers that may merge."""
        return self.totals.flops_reduction

    @property
    def flops_reduction_network(self) -> float:
        """Percent saved over all Conv2d and Linear layers."""
        return self.totals.flops_reduction_network


class Haste:
    """``model.haste``: the knob and the counters of a model under `apply`.

    levels: per level, layer name -> what it uses; levels[0] is empty. variants: layer name -> the ways it can merge.
    skipped: name -> reason, for each convolution that always runs dense. hash: "integer" or "float".
    """

    def __init__(
        self, levels: Ladder, variants: Mapping[str, tuple[Variant, ...]], skipped: Mapping[str, str], hash: str
    ) -> None:
        self.levels = levels
        self.variants = variants
        self.skipped = skipped
        self.hash = hash
        self._level = 0
        self._last: dict[str, LayerStats] = {}
        self._all: dict[str, LayerStats] = {}
        self._hooks: list[RemovableHandle] = []

    @property
    def level(self) -> int:
        """0 is the untouched model; higher compresses more, as the schedule says. Read by each layer when it runs."""
        return self._level

    @level.setter
    def level(self, level: int) -> None:
        try:
            number = operator.index(level)
        except TypeError:
            number = -1
        if not 0 <= number < len(self.levels):
            raise LevelError(f"There is no level {level!r}.", f"This model has levels 0 to {len(self.levels) - 1}.")
        self._level = number

    @property
    def stats(self) -> Stats:
        """Of the last call of the model."""
        return Stats(dict(self._last))

    @property
    def totals(self) -> Stats:
        """Of all calls since `apply` or `reset`, whatever their levels: for the ratio of sums over a data set."""
        return Stats(dict(self._all))

    def reset(self) -> None:
        """Forgets everything counted."""
        self._last, self._all = {}, {}

    def choice(self, name: str) -> Choice | None:
        """What a layer uses at the current level; None is dense."""
        return self.levels[self._level].get(name)

    def record(self, name: str, stats: LayerStats) -> None:
        for record in (self._last, self._all):
            record[name] = record[name] + stats if name in record else stats

    def attach(self, model: nn.Module) -> None:
        """Hooks that notice when a frame begins, and count the layers that never merge."""
        self._hooks.append(model.register_forward_pre_hook(self._begin_frame))
        for name, module in model.named_modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)) and name not in self.variants:
                self._hooks.append(module.register_forward_hook(_DenseCounter(self, name)))

    def detach(self) -> None:
        """Takes the hooks of `attach` off."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _begin_frame(self, model: nn.Module, args: tuple[Any, ...]) -> None:
        self._last = {}


class _DenseCounter:
    """Forward hook of a layer that always runs dense."""

    def __init__(self, haste: Haste, name: str) -> None:
        self.haste = haste
        self.name = name

    def __call__(self, module: nn.Module, args: tuple[Any, ...], y: Tensor) -> None:
        if isinstance(module, nn.Linear):
            channels = module.in_features
            flops = linear_flops(channels, module.out_features) * (y.numel() // module.out_features)
        else:
            assert isinstance(module, nn.Conv2d)
            channels = module.in_channels
            frames = len(y) if y.dim() == 4 else 1
            flops = dense_flops(conv_geometry(module, (y.shape[-2], y.shape[-1]))) * frames
        self.haste.record(self.name, LayerStats(False, channels, flops, flops))
