"""Tiles cover the output once, and a patch is what its tile sees."""

from __future__ import annotations

import numpy as np
import pytest
from builders import conv_graph, geometry_of
from hypothesis import given
from hypothesis import strategies as st

from haste_runtime.geometry import Tile, output_size


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "m", "side"),
    [
        (3, 1, 1, 8, 10),
        (3, 2, 1, 8, 17),
        (1, 1, 1, 4, 4),
        (1, 2, 1, 4, 7),
        (7, 2, 1, 16, 37),
        (3, 1, 2, 4, 8),
        (5, 1, 1, 1, 5),
    ],
)
def test_patch_side(kernel: int, stride: int, dilation: int, m: int, side: int) -> None:
    geometry = geometry_of(conv_graph(2, 3, kernel, stride, 20, 20, dilation=dilation))
    assert geometry.patch_side(m) == side


@pytest.mark.parametrize("uneven", [{"k": (3, 1)}, {"k": 3, "stride": (1, 2)}, {"k": 3, "dilation": (2, 1)}])
def test_no_patches_for_what_is_not_square(uneven: dict[str, object]) -> None:
    geometry = geometry_of(conv_graph(2, 3, **uneven))
    assert not geometry.square
    with pytest.raises(ValueError, match="both directions"):
        geometry.patch_side(4)


def test_tiles_are_listed_row_by_row_with_their_real_size() -> None:
    geometry = geometry_of(conv_graph(2, 3, 3, h=5, w=7))
    assert geometry.output_shape == (3, 5, 7)
    assert geometry.tiles(4) == [Tile(0, 0, 4, 4), Tile(0, 1, 4, 3), Tile(1, 0, 1, 4), Tile(1, 1, 1, 3)]


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 9))
def test_tiles_cover_every_output_pixel_once(height: int, width: int, m: int) -> None:
    geometry = geometry_of(conv_graph(2, 3, 1, h=height, w=width))
    covered = np.zeros(geometry.out, int)
    for ty, tx, rows, columns in geometry.tiles(m):
        assert 1 <= rows <= m
        assert 1 <= columns <= m
        covered[ty * m : ty * m + rows, tx * m : tx * m + columns] += 1
    assert (covered == 1).all()


@given(st.integers(1, 12), st.integers(1, 5), st.integers(1, 3), st.integers(1, 3))
def test_output_size_is_the_number_of_places_that_fit(padded: int, kernel: int, stride: int, dilation: int) -> None:
    places = [start for start in range(0, padded, stride) if start + dilation * (kernel - 1) < padded]
    assert max(0, output_size(padded, kernel, stride, dilation)) == len(places)
