"""Corrupted pictures, to see how a network does away from the data it was trained on.

The three kinds and their strengths are those of CIFAR-10-C (Hendrycks and Dietterich 2019, arXiv 1903.12261) at its
severities 1, 3 and 5; the code is our own, so the pixels differ. What becomes of a picture depends on its pixels and
the seed, and not on the pictures beside it; the noise of the severities differs in strength only.
"""

from __future__ import annotations

import hashlib
import io

import numpy as np
from PIL import Image

from haste_runtime.errors import HasteError

STRENGTHS: dict[str, tuple[float, float, float]] = {
    "noise": (0.04, 0.08, 0.10),  # standard deviation, of pixels from 0 to 1
    "blur": (0.4, 0.7, 1.0),  # standard deviation of the Gaussian, pixels
    "jpeg": (80, 58, 40),  # Pillow's quality
}
KINDS = tuple(STRENGTHS)
SEVERITIES = (1, 2, 3)


class CorruptionError(HasteError, ValueError):
    """The kind or the severity is not known, or the pictures are not uint8 ``(N, H, W, 3)``."""


def corrupt(images: np.ndarray, kind: str, severity: int, seed: int = 0) -> np.ndarray:
    """Corrupted copies of uint8 pictures ``(N, H, W, 3)``: of a kind in `KINDS`, with a severity in `SEVERITIES`.

    Only "noise" draws random numbers; the other kinds ignore ``seed``, which is at least 0. "jpeg" may differ between
    versions of libjpeg. Raises CorruptionError.
    """
    if kind not in STRENGTHS:
        raise CorruptionError(f"There is no corruption {kind!r}.", f"Known are {', '.join(KINDS)}.")
    if severity not in SEVERITIES:
        raise CorruptionError(f"There is no severity {severity}.", "It is 1, 2 or 3.")
    if seed < 0:
        raise CorruptionError(f"The seed {seed} is negative.", "Give 0 or more.")
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        found = f"{images.dtype} {images.shape}"
        raise CorruptionError(f"The pictures are {found} instead of uint8 (N, H, W, 3).", "Give RGB pictures of bytes.")
    strength = STRENGTHS[kind][severity - 1]
    if kind == "blur":
        return blurred(images, strength)
    result = np.empty_like(images)
    for i, image in enumerate(images):
        result[i] = noisy(image, strength, seed) if kind == "noise" else recompressed(image, int(strength))
    return result


def noisy(image: np.ndarray, deviation: float, seed: int) -> np.ndarray:
    """One picture with Gaussian noise, whose generator is seeded by the pixels too."""
    pixels = hashlib.blake2b(image.tobytes(), digest_size=16).digest()
    rng = np.random.default_rng([seed, int.from_bytes(pixels, "little")])
    return rounded(image + 255 * deviation * rng.standard_normal(image.shape))


def blurred(images: np.ndarray, deviation: float) -> np.ndarray:
    """Pictures convolved with a Gaussian as wide as 4 deviations each side; the border's pixels go on outside."""
    reach = int(4 * deviation + 0.5)
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation) ** 2)
    taps /= taps.sum()
    x = images.astype(np.float64)
    for axis in (1, 2):
        width = [(reach, reach) if a == axis else (0, 0) for a in range(4)]
        padded = np.moveaxis(np.pad(x, width, mode="edge"), axis, 0)
        length = images.shape[axis]
        total = np.zeros_like(padded[:length])
        for i, tap in enumerate(taps):
            total += tap * padded[i : i + length]
        x = np.moveaxis(total, 0, axis)
    return rounded(x)


def recompressed(image: np.ndarray, quality: int) -> np.ndarray:
    """One picture after a way through JPEG."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))


def rounded(x: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(x), 0, 255).astype(np.uint8)
