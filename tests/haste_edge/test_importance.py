"""What weighs how much: squared norms of filters, as 12-bit integers."""

from __future__ import annotations

import numpy as np
import pytest

from haste_edge.importance import LARGEST, channel_importance


def test_squared_norms_by_hand() -> None:
    weight = np.zeros((2, 5, 1, 2), np.float32)
    weight[:, 0] = [[[3.0, 0.0]], [[0.0, -4.0]]]  # 25
    weight[0, 1] = [[1.0, 2.0]]  # 5
    weight[1, 2] = [[-1e-30, 0.0]]  # next to nothing, but not nothing
    weight[1, 4] = [[0.5, 0.5]]  # 0.5, which is 81.9 of 4095
    found = channel_importance(weight)
    assert found.dtype == np.uint16
    assert found.tolist() == [4095, 819, 1, 0, 82]


def test_halves_go_to_the_even_number() -> None:
    weight = np.zeros((7, 4, 1, 1))
    weight[:3, 0, 0, 0] = [90.0, 9.0, 3.0]  # whose squares make 8190, twice the largest weight
    for c, square in ((1, 3), (2, 5), (3, 7)):  # halved: 1.5, 2.5 and 3.5
        weight[:square, c] = 1.0
    assert channel_importance(weight).tolist() == [LARGEST, 2, 2, 4]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_neither_scale_nor_memory_order_nor_precision_matters(dtype: type) -> None:
    weight = np.random.default_rng(0).integers(-8, 9, (6, 9, 3, 3)).astype(np.float64)
    expected = channel_importance(weight)
    assert expected.max() == LARGEST
    assert np.array_equal(channel_importance(weight.astype(dtype)), expected)
    assert np.array_equal(channel_importance((weight / 4).astype(dtype)), expected)
    assert np.array_equal(channel_importance(np.asfortranarray(weight).astype(dtype)), expected)


def test_filters_of_nothing_weigh_nothing() -> None:
    assert channel_importance(np.zeros((3, 4, 3, 3), np.float32)).tolist() == [0, 0, 0, 0]
