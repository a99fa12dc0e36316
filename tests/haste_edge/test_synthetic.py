"""Synthetic pictures have the statistics they are made for, and the same seed gives the same pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from haste_edge.synthetic import pink_noise, white_noise


def test_same_seed_same_pictures_and_other_seed_others() -> None:
    first = pink_noise(3, (3, 16, 16), seed=5)
    assert first.dtype == torch.float32
    assert first.shape == (3, 3, 16, 16)
    assert torch.equal(first, pink_noise(3, (3, 16, 16), seed=5))
    assert not torch.allclose(first, pink_noise(3, (3, 16, 16), seed=6))


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 7), (3, 5, 5), (3, 32, 32), (4, 9, 17), (13, 8, 6)])
def test_any_shape_is_finite_and_in_range(shape: tuple[int, int, int]) -> None:
    pictures = pink_noise(4, shape, seed=1)
    assert pictures.shape == (4, *shape)
    assert torch.isfinite(pictures).all()
    assert pictures.min() >= 0
    assert pictures.max() <= 1


def test_normalised_as_the_network_expects() -> None:
    plain = pink_noise(2, (3, 8, 8), seed=2)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    expected = (plain - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(pink_noise(2, (3, 8, 8), mean, std, seed=2), expected)
    torch.testing.assert_close(pink_noise(2, (3, 8, 8), seed=2, scale=255.0), plain * 255)


def test_amplitude_falls_as_one_over_the_frequency() -> None:
    pictures = pink_noise(64, (1, 64, 64), seed=3).numpy()[:, 0]
    power = (np.abs(np.fft.fft2(pictures - pictures.mean((1, 2), keepdims=True))) ** 2).mean(0)
    at = np.array([2, 3, 4, 6, 8, 12, 16])
    amplitude = np.sqrt((power[0, at] + power[at, 0]) / 2)
    slope = np.polyfit(np.log(at), np.log(amplitude), 1)[0]
    assert -1.25 < slope < -0.75


def test_colours_move_together_and_pictures_differ_in_brightness_and_contrast() -> None:
    pictures = pink_noise(64, (3, 32, 32), seed=4).numpy()
    correlations = [np.corrcoef(p.reshape(3, -1))[0, 1] for p in pictures]
    assert np.median(correlations) > 0.7
    assert np.median(correlations) < 0.99
    assert pictures.mean((1, 2, 3)).std() > 0.05
    assert pictures.std((2, 3)).mean(1).std() > 0.03


def test_white_noise_is_seeded() -> None:
    noise = white_noise(200, 7, seed=1)
    assert noise.shape == (200, 7)
    assert torch.equal(noise, white_noise(200, 7, seed=1))
    assert abs(float(noise.std()) - 1) < 0.1
