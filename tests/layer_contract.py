"""What any backend must share with the reference, layer by layer: codes, groups, counts, and outputs nearly."""

from __future__ import annotations

import os

import numpy as np
from builders import alike_channels, sign_changing

from haste_runtime.backends.numba_backend import NumbaBackend
from haste_runtime.backends.numpy_backend import NumpyBackend
from haste_runtime.bundle import Bundle
from haste_runtime.graph import Graph

INTERPRETED = os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")  # the kernels then run as plain Python
AROUND_THE_VECTOR_WIDTH = (1, 2, 3, 4, 7, 8, 9, 12, 15, 16, 17, 24, 31, 32, 33, 40)


def frame_for(graph: Graph, seed: int = 0) -> dict[str, np.ndarray]:
    """Every input of the graph: maps of channels that are alike, random vectors."""
    rng = np.random.default_rng(seed)
    return {
        v.name: alike_channels(rng, v.shape) if len(v.shape) == 3 else sign_changing(rng, v.shape) for v in graph.inputs
    }


def check_against_numpy(
    bundle: Bundle, frame: dict[str, np.ndarray], threads: int = 1, tolerance: float = 1e-4, least: float = 0.0
) -> None:
    """At every level the same codes, the same groups and counts, and outputs within ``tolerance`` of the largest, or of
    ``least``, if that is more: what cancels out has no digits to compare."""
    compiled, reference = NumbaBackend(bundle, threads, trace=True), NumpyBackend(bundle, trace=True)
    for level in range(len(bundle.plan.levels)):
        outputs, expected = compiled.run(frame, level), reference.run(frame, level)
        assert compiled.counts() == reference.counts()
        for found, wanted in ((compiled.codes(), reference.codes()), (compiled.groups(), reference.groups())):
            assert found.keys() == wanted.keys()
            for name in wanted:
                np.testing.assert_array_equal(found[name], wanted[name])
        for name in expected:
            assert outputs[name].shape == expected[name].shape
            largest = max(float(np.abs(expected[name]).max()), least)
            np.testing.assert_allclose(outputs[name], expected[name], rtol=0, atol=tolerance * largest)
    compiled.close()
