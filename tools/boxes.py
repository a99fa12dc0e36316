"""Boxes out of a detector's numbers: what YOLOv8 leaves to its caller, and how two sets of boxes are compared.

A detector of that family gives, for each of its anchors, the middle and the size of a box in pixels of the network's
input, and a score for every class (Ultralytics, YOLOv8: https://docs.ultralytics.com/models/yolov8/).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Corners = NDArray[np.float64]  # (n, 4): left, top, right, bottom

SCORE, OVERLAP = 0.25, 0.45  # Ultralytics' own: the least score, and the most that two boxes of a class may overlap
SAME = 0.5  # the least overlap of boxes that show the same thing, as in PASCAL VOC


@dataclass(frozen=True)
class Boxes:
    """Of one picture, best first. corners: (n, 4) in pixels. scores: (n,). classes: (n,), whole numbers."""

    corners: Corners
    scores: NDArray[np.float64]
    classes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, index: NDArray[np.int64]) -> Boxes:
        return Boxes(self.corners[index], self.scores[index], self.classes[index])


@dataclass(frozen=True)
class Match:
    """Boxes of a picture beside others. pairs: (box, other) of those that show the same. overlaps: of each pair, 0..1.
    lost: how many others have no box; gained: how many boxes are beside none."""

    pairs: tuple[tuple[int, int], ...]
    overlaps: tuple[float, ...]
    lost: int
    gained: int


def detect(output: NDArray[np.float32], score: float = SCORE, overlap: float = OVERLAP) -> Boxes:
    """output: (4 + classes, anchors) of one picture, as the network gives it. Raises ValueError for other shapes."""
    return suppress(decode(output, score), overlap)


def decode(output: NDArray[np.float32], score: float = SCORE) -> Boxes:
    """Every anchor whose best class has at least this score, best first, with that class. Raises ValueError."""
    if output.ndim != 2 or output.shape[0] < 5:
        raise ValueError(f"An output of shape {output.shape} is not (4 + classes, anchors).")
    numbers = output.astype(np.float64).T
    middle, size, classes = numbers[:, :2], numbers[:, 2:4], numbers[:, 4:]
    best = classes.max(1)
    order = np.argsort(-best, kind="stable")
    order = order[best[order] >= score]
    corners = np.concatenate([middle - size / 2, middle + size / 2], 1)
    return Boxes(corners[order], best[order], classes.argmax(1)[order])


def suppress(boxes: Boxes, overlap: float = OVERLAP) -> Boxes:
    """Non-maximum suppression: without those that overlap a better one of their class by more than ``overlap``."""
    kept: list[int] = []
    shared = overlaps(boxes.corners, boxes.corners)
    for i in range(len(boxes)):  # best first
        if not any(boxes.classes[i] == boxes.classes[j] and shared[i, j] > overlap for j in kept):
            kept.append(i)
    return boxes.take(np.array(kept, np.int64))


def overlaps(a: Corners, b: Corners) -> NDArray[np.float64]:
    """Intersection over union of every two, (len(a), len(b)), 0..1. Boxes without area overlap nothing."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(2)
    union = _area(a)[:, None] + _area(b)[None] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def _area(corners: Corners) -> NDArray[np.float64]:
    return np.clip(corners[:, 2:] - corners[:, :2], 0, None).prod(1)


def match(boxes: Boxes, others: Boxes, least: float = SAME) -> Match:
    """Which boxes show the same: pairs of one class, those that overlap most first, each box once."""
    shared = np.where(boxes.classes[:, None] == others.classes[None], overlaps(boxes.corners, others.corners), 0.0)
    pairs: list[tuple[int, int]] = []
    for flat in np.argsort(-shared, axis=None, kind="stable"):
        i, j = divmod(int(flat), len(others))
        if shared[i, j] < least:
            break
        if all(i != a and j != b for a, b in pairs):
            pairs.append((i, j))
    found = tuple(float(shared[pair]) for pair in pairs)
    return Match(tuple(pairs), found, len(others) - len(pairs), len(boxes) - len(pairs))
