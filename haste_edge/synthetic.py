"""Pictures made of noise, for planning without any data.

Natural pictures have an amplitude spectrum of about one over the frequency, colour channels that mostly move together,
and a brightness and contrast of their own each. Noise with these three properties excites a network much as pictures
do: the sensitivity of its layers measured on it is as good as on photographs (design: the method, section 4).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

COMMON = 0.9  # share of each colour channel's variance that all channels have in common
MEAN = (0.45, 0.12)  # brightness of a picture in 0..1: its mean over pictures and its standard deviation
CONTRAST = (0.12, 0.32)  # standard deviation of a picture's pixels in 0..1, drawn evenly between these


def pink_noise(
    count: int,
    shape: Sequence[int],
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    seed: int = 0,
    scale: float = 1.0,
) -> Tensor:
    """``count`` pictures (count, C, H, W), float32, as the network's input expects them.

    Pixels are made in 0..1, multiplied by ``scale`` (255 for a network that takes bytes), then (x - mean) / std where
    given, one number per channel or one for all. The same arguments give the same pictures, between machines up to the
    rounding of an FFT.
    """
    channels, height, width = shape
    rng = np.random.Generator(np.random.PCG64(seed))
    common = _spectrum_noise(rng, count, 1, height, width)
    own = _spectrum_noise(rng, count, channels, height, width)
    pictures = np.sqrt(COMMON) * common + np.sqrt(1 - COMMON) * own
    brightness = rng.normal(*MEAN, (count, 1, 1, 1))
    tint = rng.normal(0.0, MEAN[1] / 3, (count, channels, 1, 1))
    contrast = rng.uniform(*CONTRAST, (count, 1, 1, 1))
    pictures = np.clip(brightness + tint + contrast * pictures, 0.0, 1.0) * scale
    per_channel = (1, -1, 1, 1)
    if len(mean):
        pictures = pictures - np.reshape(mean, per_channel)
    if len(std):
        pictures = pictures / np.reshape(std, per_channel)
    return torch.from_numpy(np.ascontiguousarray(pictures, np.float32))


def white_noise(count: int, features: int, seed: int = 0) -> Tensor:
    """``count`` vectors (count, F) of standard normal numbers, for networks whose input is not a map."""
    rng = np.random.Generator(np.random.PCG64(seed))
    return torch.from_numpy(rng.standard_normal((count, features), np.float32))


def _spectrum_noise(rng: np.random.Generator, count: int, channels: int, height: int, width: int) -> np.ndarray:
    """Noise (count, C, H, W) of zero mean and unit variance in each channel, amplitude one over the frequency."""
    white = np.fft.rfft2(rng.standard_normal((count, channels, height, width)))
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    frequency = np.hypot(fy, fx)
    frequency[0, 0] = 1.0  # the mean is taken out below
    noise = np.fft.irfft2(white / frequency, s=(height, width))
    noise -= noise.mean((2, 3), keepdims=True)
    return noise / np.maximum(noise.std((2, 3), keepdims=True), 1e-12)
