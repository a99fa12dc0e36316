from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

from corruptions import KINDS, SEVERITIES, CorruptionError, corrupt


@pytest.fixture
def images() -> np.ndarray:
    """Pictures with edges and slopes, which every kind changes, in the middle of the range."""
    rows, cols = np.mgrid[:32, :24]
    planes: list[np.ndarray] = [
        60 + 3 * rows + 40 * (cols > 9),
        180 - 4 * cols + 0 * rows,
        90 + 60 * ((rows // 4 + cols // 4) % 2),
    ]
    return np.stack([np.stack(planes[i:] + planes[:i], axis=-1) for i in range(3)]).astype(np.uint8)


@pytest.mark.parametrize("kind", KINDS)
def test_keeps_shape_and_type_and_the_originals(images: np.ndarray, kind: str) -> None:
    before = images.copy()
    result = corrupt(images, kind, 1)
    assert result.shape == images.shape
    assert result.dtype == np.uint8
    assert not np.array_equal(result, images)
    np.testing.assert_array_equal(images, before)
    assert corrupt(images[:0], kind, 1).shape == (0, 32, 24, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_does_not_depend_on_its_batch(images: np.ndarray, kind: str) -> None:
    together = corrupt(images, kind, 2, seed=5)
    alone = np.concatenate([corrupt(images[i : i + 1], kind, 2, seed=5) for i in (2, 0, 1)])
    np.testing.assert_array_equal(together[[2, 0, 1]], alone)


@pytest.mark.parametrize("kind", KINDS)
def test_a_higher_severity_is_further_from_the_original(images: np.ndarray, kind: str) -> None:
    distances = [
        np.abs(corrupt(images, kind, severity).astype(int) - images).mean(axis=(1, 2, 3)) for severity in SEVERITIES
    ]
    assert (np.diff(distances, axis=0) > 0).all()


def test_noise_has_its_deviation_and_differs_by_seed_and_picture(images: np.ndarray) -> None:
    grey = np.full((2, 64, 64, 3), 128, np.uint8)
    grey[1, 0, 0, 0] = 129  # another picture, if only just
    noise = corrupt(grey, "noise", 2, seed=1).astype(int) - grey
    assert noise.std() == pytest.approx(0.08 * 255, rel=0.03)
    assert noise.mean() == pytest.approx(0, abs=0.5)
    assert not np.array_equal(noise[0], noise[1])
    assert not np.array_equal(corrupt(images, "noise", 2, seed=1), corrupt(images, "noise", 2, seed=2))


def test_noise_of_bright_pixels_is_clipped() -> None:
    white = np.full((1, 16, 16, 3), 255, np.uint8)
    result = corrupt(white, "noise", 3)
    assert (result == 255).mean() == pytest.approx(0.5, abs=0.1)
    assert result.min() > 100  # nothing wrapped around


def test_blur_spreads_a_point_as_a_gaussian_and_keeps_a_flat_picture() -> None:
    point = np.zeros((1, 15, 15, 3), np.uint8)
    point[0, 7, 7] = 255
    result = corrupt(point, "blur", 3)[0, :, :, 0].astype(float)
    np.testing.assert_array_equal(result, result.T)
    np.testing.assert_array_equal(result, result[::-1])
    assert result[7, 7] == pytest.approx(255 / (2 * np.pi), abs=1)  # the density of deviation 1 at its middle
    assert result[7, 8] / result[7, 7] == pytest.approx(np.exp(-0.5), abs=0.02)
    flat = np.full((1, 8, 9, 3), 77, np.uint8)
    np.testing.assert_array_equal(corrupt(flat, "blur", 3), flat)


def test_what_is_refused(images: np.ndarray) -> None:
    with pytest.raises(CorruptionError, match="Known are noise, blur, jpeg"):
        corrupt(images, "fog", 1)
    for severity in (0, 4):
        with pytest.raises(CorruptionError, match="1, 2 or 3"):
            corrupt(images, "blur", severity)
    with pytest.raises(CorruptionError, match="negative"):
        corrupt(images, "noise", 1, seed=-1)
    for wrong in (images.astype(np.float32), images[0], images[..., :1]):
        with pytest.raises(CorruptionError, match="instead of uint8"):
            corrupt(wrong, "jpeg", 1)
