"""Synthetic pictures have the statistics they are made for, and the same seed gives the same pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from haste_edge.synthetic import dead_leaves, pictures, pink_noise, white_noise

SHAPES = [(1, 1, 1), (1, 1, 7), (3, 5, 5), (3, 32, 32), (4, 9, 17), (13, 8, 6)]


def test_same_seed_same_pictures_and_other_seed_others() -> None:
    first = pictures(4, (3, 16, 16), seed=5)
    assert first.dtype == torch.float32
    assert first.shape == (4, 3, 16, 16)
    assert torch.equal(first, pictures(4, (3, 16, 16), seed=5))
    other = pictures(4, (3, 16, 16), seed=6)
    assert all(not torch.allclose(a, b) for a, b in zip(first, other, strict=True))


def test_half_noise_half_leaves() -> None:
    made = pictures(5, (3, 8, 8), seed=2).numpy()
    np.testing.assert_allclose(made[:2], pink_noise(2, (3, 8, 8), 2), rtol=1e-6)
    np.testing.assert_allclose(made[2:], dead_leaves(3, (3, 8, 8), 2), rtol=1e-6)
    leaves = pictures(5, (3, 8, 8), seed=2, noise=0.0).numpy()
    np.testing.assert_allclose(leaves, dead_leaves(5, (3, 8, 8), 2), rtol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", [pink_noise, dead_leaves])
def test_any_shape_is_finite_and_in_range(kind: type, shape: tuple[int, int, int]) -> None:
    made = kind(4, shape, seed=1)
    assert made.shape == (4, *shape)
    assert np.isfinite(made).all()
    assert made.min() >= 0
    assert made.max() <= 1


def test_normalised_as_the_network_expects() -> None:
    plain = pictures(2, (3, 8, 8), seed=2)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    expected = (plain - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(pictures(2, (3, 8, 8), mean, std, seed=2), expected)
    torch.testing.assert_close(pictures(2, (3, 8, 8), (0.5,), (0.25,), seed=2), (plain - 0.5) / 0.25)
    torch.testing.assert_close(pictures(2, (3, 8, 8), seed=2, scale=255.0), plain * 255)


@pytest.mark.parametrize("kind", [pink_noise, dead_leaves])
def test_amplitude_falls_as_one_over_the_frequency(kind: type) -> None:
    made = kind(48, (1, 64, 64), seed=3)[:, 0]
    power = (np.abs(np.fft.fft2(made - made.mean((1, 2), keepdims=True))) ** 2).mean(0)
    at = np.array([2, 3, 4, 6, 8, 12, 16])
    amplitude = np.sqrt((power[0, at] + power[at, 0]) / 2)
    slope = np.polyfit(np.log(at), np.log(amplitude), 1)[0]
    assert -1.6 < slope < -0.75


def test_leaves_have_edges_and_noise_has_none() -> None:
    """Differences of neighbours: mostly small and some large where there are edges, which raises their kurtosis."""

    def kurtosis(made: np.ndarray) -> float:
        step = np.diff(made, axis=3)
        step = step - step.mean()
        return float((step**4).mean() / (step**2).mean() ** 2)

    assert kurtosis(dead_leaves(16, (3, 32, 32), 4)) > 2 * kurtosis(pink_noise(16, (3, 32, 32), 4))


@pytest.mark.parametrize("kind", [pink_noise, dead_leaves])
def test_colours_move_together_and_pictures_differ_in_brightness_and_contrast(kind: type) -> None:
    made = kind(64, (3, 32, 32), seed=4)
    correlations = [np.corrcoef(p.reshape(3, -1))[0, 1] for p in made]
    assert np.median(correlations) > 0.7
    assert np.median(correlations) < 0.99
    assert made.mean((1, 2, 3)).std() > 0.05
    assert made.std((2, 3)).mean(1).std() > 0.03


def test_white_noise_is_seeded() -> None:
    noise = white_noise(200, 7, seed=1)
    assert noise.shape == (200, 7)
    assert torch.equal(noise, white_noise(200, 7, seed=1))
    assert abs(float(noise.std()) - 1) < 0.1
