"""Single 3x3 convolutions, as plain torch modules: what the kernel of dense convolution reaches by itself.

Their maps are those of a ResNet on pictures of 224 pixels a side (He et al. 2015, table 1): large enough that weights,
once read, serve for many pixels. `tools/measure_performance.py` times them without Winograd's algorithms.
"""

from __future__ import annotations

from torch import nn

SIDES = {64: 56, 128: 28, 256: 14}  # of the map, by channels


def channels64() -> nn.Module:
    return nn.Conv2d(64, 64, 3, padding=1)


def channels128() -> nn.Module:
    return nn.Conv2d(128, 128, 3, padding=1)


def channels256() -> nn.Module:
    return nn.Conv2d(256, 256, 3, padding=1)
