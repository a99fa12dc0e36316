"""Pictures of pink noise, for a benchmark without pictures.

How many channels merge depends on what is in the picture. White noise has nothing in common with one; noise whose
amplitude falls with the frequency, as it does in photographs, comes close enough to time a network with.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from haste_runtime.graph import Shape
from haste_runtime.preprocessing import Preprocessing, images_to_inputs

SEED = 0


def synthetic_inputs(count: int, shape: Shape, preprocessing: Preprocessing) -> NDArray[np.float32]:
    """``count`` frames in the source model's layout: pictures where the input can take them, else normal numbers.

    shape: the network's per-frame input, (C, H, W) or (F,).
    """
    rng = np.random.default_rng(SEED)
    if len(shape) != 3 or shape[0] not in (1, 3):
        frames = rng.standard_normal((count, *shape), np.float32)
        return frames.transpose(0, 2, 3, 1) if len(shape) == 3 and preprocessing.layout == "NHWC" else frames
    _, height, width = shape
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf  # no mean
    spectrum = np.fft.rfft2(rng.standard_normal((count, 3, height, width))) / frequency
    noise = np.fft.irfft2(spectrum, s=(height, width))
    noise /= noise.std((1, 2, 3), keepdims=True) + 1e-12
    pictures = (115 + 55 * noise).clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
    return images_to_inputs(pictures, shape, preprocessing)
