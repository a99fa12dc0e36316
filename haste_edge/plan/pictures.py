"""What planning looks at: some of the user's pictures, or noise that looks like pictures."""

from __future__ import annotations

import torch
from torch import Tensor

from haste_edge.synthetic import pictures as synthetic_pictures
from haste_edge.synthetic import white_noise
from haste_runtime.graph import Graph
from haste_runtime.preprocessing import Preprocessing

LAYERS_SEED = 20230  # of synthetic pictures: not the plan's, so that other projections see the same pictures
LEVELS_SEED = 30230  # levels are judged on others than their budgets were chosen on


def own(graph: Graph, pictures: Tensor, count: int) -> dict[str, Tensor]:
    """Input name -> ``count`` of the pictures (N, C, H, W), taken evenly; all if there are fewer."""
    count = min(count, len(pictures))
    evenly = torch.arange(count) * len(pictures) // count
    return {graph.inputs[0].name: pictures.detach()[evenly].to(torch.float32).contiguous()}


def synthetic(
    graph: Graph, preprocessing: Preprocessing, count: int, seed: int, noise: float = 0.5
) -> dict[str, Tensor]:
    """Input name -> ``count`` synthetic pictures, or vectors of noise for inputs that are no maps. noise: the share of
    pictures without edges."""
    found = {}
    for index, value in enumerate(graph.inputs):
        if len(value.shape) == 3:
            per_channel = len(preprocessing.mean) in (1, value.shape[0])
            mean, std = (preprocessing.mean, preprocessing.std) if per_channel else ((), ())
            scale = 255.0 / preprocessing.scale
            found[value.name] = synthetic_pictures(count, value.shape, mean, std, seed + index, scale, noise)
        else:
            found[value.name] = white_noise(count, value.shape[0], seed + index)
    return found
