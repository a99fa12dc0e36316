"""The way of inputs into the arena: every shape with every border, memory that was used before, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from builders import GraphBuilder, bundle_for
from layer_contract import AROUND_THE_VECTOR_WIDTH, INTERPRETED, check_against_numpy, frame_for

from haste_runtime.backends import Backend
from haste_runtime.backends.numba_backend import NumbaBackend
from haste_runtime.backends.numpy_backend import NumpyBackend
from haste_runtime.bundle import Bundle
from haste_runtime.errors import InputError

SIZE = 5
BAD = [np.nan, np.inf, -np.inf]


def network() -> Bundle:
    """Two maps and a vector, one map read by a convolution that needs a border."""
    b = GraphBuilder(0, a=(3, SIZE, SIZE), b=(4, 2, 3), c=(7,))
    b.conv("y", "a", 3, 4, 3)
    b.node("z", "activation", "b", activation="relu")
    b.linear("v", "c", 7, 2)
    return bundle_for(b.graph("y", "z", "v"), levels=[])


@pytest.mark.parametrize("kernel", [1, 3, 7])
@pytest.mark.parametrize("channels", AROUND_THE_VECTOR_WIDTH)
def test_any_channels_and_borders(channels: int, kernel: int) -> None:
    b = GraphBuilder(0, x=(channels, SIZE, SIZE + 2))
    b.conv("y", "x", channels, 3, kernel)
    graph = b.graph("y", "x")
    check_against_numpy(bundle_for(graph, levels=[]), frame_for(graph))


@pytest.mark.parametrize("threads", [1] if INTERPRETED else [1, 3])
def test_what_the_arena_held_before_does_not_matter(threads: int) -> None:
    bundle = network()
    backend, reference = NumbaBackend(bundle, threads=threads), NumpyBackend(bundle)
    for seed in range(3):
        backend._arena[:] = np.nan
        frames = frame_for(bundle.graph, seed)
        found, wanted = backend.run(frames, 0), reference.run(frames, 0)
        for name, value in wanted.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-5)
    backend.close()


def test_numbers_may_lie_in_any_order() -> None:
    bundle = network()
    frames = frame_for(bundle.graph, 0)
    turned = frames | {"a": np.ascontiguousarray(frames["a"].transpose(1, 2, 0)).transpose(2, 0, 1)}
    for backend in (NumbaBackend(bundle), NumpyBackend(bundle)):
        before, after = backend.run(frames, 0), backend.run(turned, 0)
        assert all(np.array_equal(before[name], after[name]) for name in before)
        backend.close()


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("threads", [1] if INTERPRETED else [1, 2])
def test_one_bad_number_anywhere_is_found_and_its_input_named(threads: int, bad: float) -> None:
    bundle = network()
    backends: list[Backend] = [NumbaBackend(bundle, threads=threads), NumpyBackend(bundle)]
    frames = frame_for(bundle.graph, 0)
    for backend in backends:
        good = backend.run(frames, 0)
        for name, frame in frames.items():
            for place in np.ndindex(frame.shape):
                changed = frame.copy()
                changed[place] = bad
                with pytest.raises(InputError, match=f"'{name}' holds NaN or infinity"):
                    backend.run(frames | {name: changed}, 0)
        again = backend.run(frames, 0)
        assert all(np.array_equal(good[name], again[name]) for name in good)
        backend.close()


def test_the_largest_and_smallest_numbers_are_taken() -> None:
    """Their squares are not finite any more, or nothing at all; they are themselves."""
    b = GraphBuilder(0, x=(3, SIZE, SIZE))
    b.node("y", "activation", "x", activation="none")
    backend = NumbaBackend(bundle_for(b.graph("y"), levels=[]))
    information = np.finfo(np.float32)
    extremes = [information.max, information.min, information.tiny, information.smallest_subnormal, 0.0, -0.0]
    x = np.resize(np.array(extremes, np.float32), (3, SIZE, SIZE))
    assert np.array_equal(backend.run({"x": x}, 0)["y"], x)
    backend.close()
