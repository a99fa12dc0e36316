"""How much an error in each input channel of a convolution weighs: for the policy "budget"."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST = 4095  # with 12 bits, importance times energy stays far below 2^53, and all of it is exact in doubles


def channel_importance(weight: NDArray[np.floating[Any]]) -> NDArray[np.uint16]:
    """Weights (O, C, K, K), finite -> uint16 (C,): the squared norm of each input channel's filters, the largest 4095.

    An error in a channel that is as likely in any direction adds to the layer's output in proportion to it. Sums are
    doubles, rounded half to even; a channel that has any effect weighs at least 1, one that has none 0.
    """
    squares = np.square(weight.astype(np.float64))
    norms = np.ascontiguousarray(squares.transpose(1, 0, 2, 3)).reshape(weight.shape[1], -1).sum(1)
    largest = norms.max(initial=0.0)
    if not largest:
        return np.zeros(len(norms), np.uint16)
    return np.where(norms > 0, np.maximum(np.rint(norms * (LARGEST / largest)), 1), 0).astype(np.uint16)
