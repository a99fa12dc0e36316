"""What a network's outputs say, in a form for people and for JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

TOP = 5


def best_classes(outputs: Mapping[str, NDArray[np.float32]], classes: tuple[str, ...]) -> list[dict[str, Any]]:
    """The best classes of one frame, best first; empty for a network that does not classify.

    outputs: by name, without a batch axis. Scores that are probabilities already are taken as such, others go through a
    softmax.
    """
    scores = next(iter(outputs.values())) if len(outputs) == 1 else None
    if scores is None or scores.ndim != 1:
        return []
    s = scores.astype(np.float64)
    if s.min() < 0 or abs(s.sum() - 1) > 1e-3:
        s = np.exp(s - s.max())
        s /= s.sum()
    best = np.argsort(-s, kind="stable")[:TOP]
    return [
        {"index": int(i), "name": classes[i] if i < len(classes) else f"class {i}", "probability": float(s[i])}
        for i in best
    ]


def described(output: NDArray[np.float32]) -> dict[str, Any]:
    """Shape and range of an output, and its numbers where it is a vector."""
    about: dict[str, Any] = {
        "shape": list(output.shape),
        "min": float(output.min()),
        "max": float(output.max()),
    }
    return about | ({"values": output.tolist()} if output.ndim == 1 else {})
