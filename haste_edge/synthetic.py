"""Pictures made of noise, for planning without any data.

Natural pictures have an amplitude spectrum of about one over the frequency, edges where one thing hides another, colour
channels that mostly move together, and a brightness and contrast of their own each. Pink noise has all of these but the
edges; discs that lie on each other like dead leaves (Matheron 1968) have the edges too. Pictures of both kinds excite a
network much as photographs do: the sensitivity of its layers measured on them is as good as on photographs (design: the
method, section 4), and with edges the share of channels that look alike is, too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

COMMON = 0.9  # share of each colour channel's variance that all channels have in common
MEAN = (0.45, 0.12)  # brightness of a picture in 0..1: its mean over pictures and its standard deviation
CONTRAST = (0.12, 0.32)  # standard deviation of a picture's pixels in 0..1, drawn evenly between these
LEAVES = 150  # discs on one picture
LEAF_RADIUS = (1 / 20, 6 / 5)  # smallest and largest, as a share of the picture's larger side; density one over r^3
LEAF_GREY = (0.45, 0.25)  # brightness of a disc in 0..1, mean and standard deviation
LEAF_TINT = 0.08  # standard deviation of each colour channel about the disc's grey
TEXTURE = 0.25  # share of pink noise on top of the leaves

Pixels = NDArray[np.float64]


def pictures(
    count: int,
    shape: Sequence[int],
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    seed: int = 0,
    scale: float = 1.0,
    noise: float = 0.5,
) -> Tensor:
    """``count`` pictures (count, C, H, W), float32, as the network's input expects them: half noise, half leaves.

    noise: another share of pink noise than a half; the rest are leaves. Pixels are made in 0..1, multiplied by
    ``scale`` (255 for a network that takes bytes), then (x - mean) / std where given, one number per channel or one for
    all. The same arguments give the same pictures, between machines up to the rounding of an FFT.
    """
    pink = int(count * noise)
    made = np.concatenate([pink_noise(pink, shape, seed), dead_leaves(count - pink, shape, seed)]) * scale
    per_channel = (1, -1, 1, 1)
    if len(mean):
        made = made - np.reshape(mean, per_channel)
    if len(std):
        made = made / np.reshape(std, per_channel)
    return torch.from_numpy(np.ascontiguousarray(made, np.float32))


def white_noise(count: int, features: int, seed: int = 0) -> Tensor:
    """``count`` vectors (count, F) of standard normal numbers, for networks whose input is not a map."""
    rng = np.random.Generator(np.random.PCG64(seed))
    return torch.from_numpy(rng.standard_normal((count, features), np.float32))


def pink_noise(count: int, shape: Sequence[int], seed: int = 0) -> Pixels:
    """Pictures (count, C, H, W) of noise in 0..1 whose amplitude falls as one over the frequency."""
    channels, height, width = shape
    rng = np.random.Generator(np.random.PCG64([seed, 0]))
    common = _spectrum_noise(rng, count, 1, height, width)
    own = _spectrum_noise(rng, count, channels, height, width)
    noise = np.sqrt(COMMON) * common + np.sqrt(1 - COMMON) * own
    brightness = rng.normal(*MEAN, (count, 1, 1, 1))
    tint = rng.normal(0.0, MEAN[1] / 3, (count, channels, 1, 1))
    contrast = rng.uniform(*CONTRAST, (count, 1, 1, 1))
    return np.clip(brightness + tint + contrast * noise, 0.0, 1.0)


def dead_leaves(count: int, shape: Sequence[int], seed: int = 0) -> Pixels:
    """Pictures (count, C, H, W) in 0..1 of discs of all sizes lying on each other, with a texture of pink noise."""
    channels, height, width = shape
    rng = np.random.Generator(np.random.PCG64([seed, 1]))
    texture = pink_noise(count, shape, seed + 1)
    made = np.empty((count, channels, height, width))
    smallest, largest = (share * max(height, width) for share in LEAF_RADIUS)
    for picture in made:
        picture[:] = rng.uniform(0.0, 1.0)
        for _ in range(LEAVES):
            u = rng.uniform()
            radius = (u / largest**2 + (1 - u) / smallest**2) ** -0.5  # its density falls as 1 / r^3
            colour = np.clip(rng.normal(*LEAF_GREY) + rng.normal(0.0, LEAF_TINT, channels), 0.0, 1.0)
            _disc(picture, rng.uniform(0, height), rng.uniform(0, width), radius, colour)
    texture -= texture.mean((2, 3), keepdims=True)
    return np.clip(made + TEXTURE * texture, 0.0, 1.0)


def _disc(picture: Pixels, y: float, x: float, radius: float, colour: Pixels) -> None:
    """Draws a disc over a picture (C, H, W); its edge is smooth over one pixel."""
    _, height, width = picture.shape
    rows = slice(max(0, int(y - radius) - 1), min(height, int(y + radius) + 2))
    columns = slice(max(0, int(x - radius) - 1), min(width, int(x + radius) + 2))
    yy, xx = np.ogrid[rows, columns]
    cover = np.clip(radius + 0.5 - np.hypot(yy + 0.5 - y, xx + 0.5 - x), 0.0, 1.0)
    patch = picture[:, rows, columns]
    patch += cover * (colour[:, None, None] - patch)


def _spectrum_noise(rng: np.random.Generator, count: int, channels: int, height: int, width: int) -> Pixels:
    """Noise (count, C, H, W) of zero mean and unit variance in each channel, amplitude one over the frequency."""
    white = np.fft.rfft2(rng.standard_normal((count, channels, height, width)))
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    frequency = np.hypot(fy, fx)
    frequency[0, 0] = 1.0  # the mean is taken out below
    noise: Pixels = np.fft.irfft2(white / frequency, s=(height, width))
    noise -= noise.mean((2, 3), keepdims=True)
    return noise / np.maximum(noise.std((2, 3), keepdims=True), 1e-12)
