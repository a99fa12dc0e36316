"""Pictures to measure networks on, and others to plan them with: those that scikit-image's wheel carries, crops of
them, and faces side by side. No labels; the same every time.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from wheels import member

from haste_runtime.preprocessing import cover, decode_image

Picture = NDArray[np.uint8]  # (H, W, 3) RGB

# By what is seen, so that no crop to plan with shows what is measured on.
MEASURED = (
    "astronaut.png", "camera.png", "cell.png", "chelsea.png", "clock_motion.png", "coffee.png", "coins.png",
    "grass.png", "page.png", "retina.jpg", "rocket.jpg",
)  # fmt: skip
PLANNED = (
    "brick.png", "color.png", "gravel.png", "horse.png", "hubble_deep_field.jpg", "ihc.png", "logo.png", "moon.png",
    "motorcycle_left.png", "motorcycle_right.png", "text.png",
)  # fmt: skip
PEOPLE = ("astronaut.png", "camera.png")  # what a detector of faces finds something in
SHARE = (0.4, 0.95)  # of the short side, that a crop takes
GREY = 128


def photographs(names: Sequence[str], folder: Path) -> list[Picture]:
    return [decode_image(io.BytesIO(member("scikit-image", f"skimage/data/{n}", folder)), n) for n in names]


def faces(folder: Path) -> Picture:
    """(100, 25, 25, 3): grey faces of Labeled Faces in the Wild."""
    data = member("scikit-image", "skimage/data/lfw_subset.npy", folder)
    subset = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    grey = (255 * subset[:100]).round().clip(0, 255).astype(np.uint8)  # what follows are no faces
    return np.repeat(grey[..., None], 3, axis=3)


def crops(picture: Picture, count: int, rng: np.random.Generator) -> list[Picture]:
    """Squares of random size from random places."""
    height, width = picture.shape[:2]
    found = []
    for _ in range(count):
        side = int(rng.uniform(*SHARE) * min(height, width))
        top, left = rng.integers(0, height - side + 1), rng.integers(0, width - side + 1)
        found.append(picture[top : top + side, left : left + side])
    return found


def squared(picture: Picture) -> Picture:
    """With black at the right or at the bottom, as detectors are given whole pictures."""
    height, width = picture.shape[:2]
    square = np.zeros((max(height, width),) * 2 + (3,), np.uint8)
    square[:height, :width] = picture
    return square


def side_by_side(some: Picture, side: int, rng: np.random.Generator) -> Picture:
    """side x side of the faces (N, h, w, 3), drawn at random, each in a grey margin of random width."""
    chosen = rng.choice(len(some), side * side, replace=len(some) < side * side)
    margin = int(rng.integers(2, 12))
    framed = np.pad(some[chosen], ((0, 0), (margin, margin), (margin, margin), (0, 0)), constant_values=GREY)
    rows = [np.concatenate(framed[i * side : (i + 1) * side], axis=1) for i in range(side)]
    return np.concatenate(rows)


def in_size(pictures: Iterable[Picture], size: int) -> Picture:
    """(N, size, size, 3): the middle of each, resized as the runtime does it."""
    return np.stack([np.rint(cover(picture, size, size)).clip(0, 255).astype(np.uint8) for picture in pictures])


def for_classifier(folder: Path, size: int) -> tuple[Picture, Picture]:
    """To plan with, and to measure on: every photograph, and eight crops of it."""

    def of(names: Sequence[str], seed: int) -> Picture:
        rng = np.random.default_rng(seed)
        return in_size([part for p in photographs(names, folder) for part in (p, *crops(p, 8, rng))], size)

    return of(PLANNED, 0), of(MEASURED, 1)


def for_detector(folder: Path, size: int) -> tuple[Picture, Picture]:
    """To plan with: photographs, and half of the faces in groups. To measure on: the other photographs, crops of those
    with people, and the other half of the faces."""
    every = faces(folder)
    rng = np.random.default_rng(0)
    groups = [[side_by_side(half, 2 + i % 3, rng) for i in range(24)] for half in (every[:50], every[50:])]
    people = [part for picture in photographs(PEOPLE, folder) for part in crops(picture, 24, rng)]
    plan = [*map(squared, photographs(PLANNED, folder)), *groups[0]]
    return in_size(plan, size), in_size([*map(squared, photographs(MEASURED, folder)), *people, *groups[1]], size)
