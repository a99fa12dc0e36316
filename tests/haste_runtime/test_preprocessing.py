"""Preprocessing: against the formula one pixel at a time, against Pillow's resize, and files of every kind."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from haste_runtime.errors import InputError
from haste_runtime.preprocessing import (
    Preprocessing,
    cover,
    fitted,
    image_to_input,
    images_to_inputs,
    read_image,
    read_input,
)

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)
CIFAR = Preprocessing(MEAN, STD)


def picture(height: int = 6, width: int = 5, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# --- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("colour", ["RGB", "BGR"])
@pytest.mark.parametrize("scale", [255.0, 1.0])
def test_every_pixel_follows_the_formula(layout: str, colour: str, scale: float) -> None:
    image = picture()
    x = image_to_input(image, (3, 6, 5), Preprocessing(MEAN, STD, scale, layout, colour))
    assert x.dtype == np.float32
    assert x.flags.c_contiguous
    for (y, column, channel), pixel in np.ndenumerate(image):
        c = channel if colour == "RGB" else 2 - channel
        got = x[c, y, column] if layout == "NCHW" else x[y, column, c]
        assert got == pytest.approx((int(pixel) / scale - MEAN[c]) / STD[c], rel=1e-5, abs=1e-6)


def test_one_number_for_all_channels() -> None:
    image = picture()
    one = image_to_input(image, (3, 6, 5), Preprocessing((0.5,), (0.25,)))
    assert np.array_equal(one, image_to_input(image, (3, 6, 5), Preprocessing((0.5,) * 3, (0.25,) * 3)))


def test_a_network_with_one_channel_sees_luma() -> None:
    image = picture()
    x = image_to_input(image, (1, 6, 5), Preprocessing((0.0,), (1.0,), 1.0))
    assert x.shape == (1, 6, 5)
    assert np.allclose(x[0], image @ np.array([0.299, 0.587, 0.114]), atol=1e-3)


@pytest.mark.parametrize("size", [(6, 5), (9, 11)])
def test_a_batch_is_its_pictures(size: tuple[int, int]) -> None:
    images = np.stack([picture(*size, seed=seed) for seed in range(3)])
    batch = images_to_inputs(images, (3, 6, 5), CIFAR)
    assert batch.shape == (3, 3, 6, 5)
    assert np.array_equal(batch, np.stack([image_to_input(image, (3, 6, 5), CIFAR) for image in images]))
    assert images_to_inputs(images[:0], (3, 6, 5), CIFAR).shape == (0, 3, 6, 5)


def test_the_picture_is_left_alone() -> None:
    image = picture()
    before = image.copy()
    image_to_input(image, (3, 6, 5), CIFAR)
    image_to_input(image, (3, 4, 4), CIFAR)
    assert np.array_equal(image, before)


# --- sizes -----------------------------------------------------------------------------------------------------------


@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    wanted=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    seed=st.integers(0, 99),
)
def test_resizing_is_pillows_bilinear_on_the_short_side_then_the_middle(
    size: tuple[int, int], wanted: tuple[int, int], seed: int
) -> None:
    image = picture(*size, seed)
    factor = max(wanted[0] / size[0], wanted[1] / size[1])
    height, width = (max(w, round(s * factor)) for w, s in zip(wanted, size, strict=True))
    top, left = (height - wanted[0]) // 2, (width - wanted[1]) // 2
    got = cover(image, *wanted)
    assert got.shape == (*wanted, 3)
    assert np.allclose(got, resized(image, height, width)[top : top + wanted[0], left : left + wanted[1]], atol=0.01)


SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40))


def resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """By Pillow, (height, width, 3)."""
    planes = [Image.fromarray(np.ascontiguousarray(image[..., c], np.float32)) for c in range(3)]
    return np.stack([np.asarray(p.resize((width, height), Image.Resampling.BILINEAR)) for p in planes], -1)


@given(size=SIZES, wanted=SIZES, crop=st.sampled_from([1.0, 0.875, 0.5]), seed=st.integers(0, 99))
def test_a_crop_is_the_middle_of_a_larger_picture(
    size: tuple[int, int], wanted: tuple[int, int], crop: float, seed: int
) -> None:
    image = picture(*size, seed)
    larger = [round(w / crop) for w in wanted]
    top, left = ((a - b) // 2 for a, b in zip(larger, wanted, strict=True))
    stretched = fitted(image, *wanted, Preprocessing(fit="stretch", crop=crop))
    expected = resized(image, *larger)[top : top + wanted[0], left : left + wanted[1]]
    assert np.allclose(stretched, expected, atol=0.01)
    covered = fitted(image, *wanted, Preprocessing(crop=crop))
    whole = cover(image, *larger)  # of the resized picture the middle twice, up to one pixel where that is a half
    near = [whole[top + y :, left + x :][: wanted[0], : wanted[1]] for y in (0, 1) for x in (0, 1)]
    assert covered.shape == (*wanted, 3)
    assert any(n.shape == covered.shape and np.allclose(covered, n, atol=0.01) for n in near)


def test_the_usual_crop_of_imagenet_networks() -> None:
    """Short side to 256, the middle 224 x 224."""
    image = picture(300, 512)
    expected = resized(image, 256, 437)[16:240, 106:330]
    assert np.allclose(fitted(image, 224, 224, Preprocessing(crop=0.875)), expected, atol=0.01)


@given(size=SIZES, wanted=SIZES, fill=st.sampled_from([0.0, 114.0]), seed=st.integers(0, 99))
def test_a_contained_picture_is_whole_and_framed(
    size: tuple[int, int], wanted: tuple[int, int], fill: float, seed: int
) -> None:
    image = picture(*size, seed)
    got = fitted(image, *wanted, Preprocessing(fit="contain", fill=fill))
    factor = min(w / s for w, s in zip(wanted, size, strict=True))
    height, width = (max(1, round(s * factor)) for s in size)
    assert height == wanted[0] or width == wanted[1]
    top, left = (wanted[0] - height) // 2, (wanted[1] - width) // 2
    expected = np.full((*wanted, 3), fill, np.float32)
    expected[top : top + height, left : left + width] = resized(image, height, width)
    assert np.allclose(got, expected, atol=0.01)


@pytest.mark.parametrize("how", [{}, {"crop": 0.5}, {"fit": "stretch", "crop": 0.5}, {"fit": "contain", "fill": 9.0}])
def test_the_right_size_is_not_touched(how: dict[str, Any]) -> None:
    image = picture()
    x = image_to_input(image, (3, 6, 5), Preprocessing(scale=1.0, **how))
    assert np.array_equal(x, image.transpose(2, 0, 1))
    assert np.array_equal(cover(image, 6, 5), image)


def test_the_frame_is_normalised_like_the_picture() -> None:
    x = image_to_input(picture(4, 8), (3, 6, 6), Preprocessing((0.5,), (0.25,), fit="contain", fill=255.0))
    assert np.allclose(x[:, [0, -1]], 2.0)


def test_the_middle_is_kept() -> None:
    image = np.zeros((4, 12, 3), np.uint8)
    image[:, 4:8] = 200
    x = image_to_input(image, (3, 4, 4), Preprocessing((0.0,), (1.0,), 1.0))
    assert np.array_equal(x, np.full((3, 4, 4), 200, np.float32))


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"mean": ()},
        {"mean": (0.5,), "std": (1.0, 1.0)},
        {"std": (0.0, 1.0, 1.0)},
        {"std": (-1.0, 1.0, 1.0)},
        {"mean": (float("nan"), 0.0, 0.0)},
        {"scale": 0.0},
        {"scale": float("inf")},
        {"layout": "CHWN"},
        {"colour": "YUV"},
        {"fit": "squeeze"},
        {"crop": 0.0},
        {"crop": 1.5},
        {"crop": float("nan")},
        {"crop": 0.5, "fit": "contain"},
        {"fill": -1.0},
        {"fill": 256.0},
    ],
)
def test_numbers_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Preprocessing(**{"mean": MEAN, "std": STD, **wrong})


@pytest.mark.parametrize(
    ("image", "shape", "message"),
    [
        (picture().astype(np.float32), (3, 6, 5), "type float32"),
        (picture()[:, :, 0], (3, 6, 5), "Pictures have shape"),
        (picture()[:, :, :2], (3, 6, 5), "Pictures have shape"),
        (picture()[:0], (3, 6, 5), "Pictures have shape"),
        (picture(), (7,), "no picture can fill"),
        (picture(), (4, 6, 5), "no picture can fill"),
        (picture(), (1, 6, 5), "Mean and std have 3 numbers"),
    ],
)
def test_pictures_that_do_not_fit(image: np.ndarray, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        image_to_input(image, shape, CIFAR)


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".npy", ".png", ".ppm", ".bmp"])
def test_pictures_from_files(tmp_path: Path, suffix: str) -> None:
    image, path = picture(), tmp_path / f"picture{suffix}"
    if suffix == ".npy":
        np.save(path, image)
    else:
        Image.fromarray(image).save(path)
    assert np.array_equal(read_image(path), image)
    assert np.array_equal(read_input(str(path), (3, 6, 5), CIFAR), images_to_inputs(image[None], (3, 6, 5), CIFAR))


def test_jpeg_is_about_the_same(tmp_path: Path) -> None:
    image = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    Image.fromarray(image).save(tmp_path / "picture.jpg", quality=95)
    assert np.abs(read_image(tmp_path / "picture.jpg").astype(int) - image).max() <= 4


def test_grey_pictures_become_rgb(tmp_path: Path) -> None:
    grey = picture()[:, :, 0]
    np.save(tmp_path / "grey.npy", grey)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    for name in ("grey.npy", "grey.png"):
        assert np.array_equal(read_image(tmp_path / name), np.repeat(grey[:, :, None], 3, axis=2))


def test_a_phone_held_upright(tmp_path: Path) -> None:
    """EXIF says the picture lies on its side; it is turned before use."""
    image = np.zeros((8, 16, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: rotate by 90 degrees
    Image.fromarray(image).save(tmp_path / "phone.png", exif=exif)
    assert read_image(tmp_path / "phone.png").shape == (16, 8, 3)


@pytest.mark.parametrize(("layout", "frame"), [("NCHW", (3, 6, 5)), ("NHWC", (6, 5, 3))])
def test_floats_are_the_networks_own_input(tmp_path: Path, layout: str, frame: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).standard_normal((2, *frame))
    np.save(tmp_path / "batch.npy", x)
    np.save(tmp_path / "frame.npy", x[0].astype(np.float32))
    np.save(tmp_path / "vector.npy", np.zeros(7, np.float16))
    preprocessing = Preprocessing(MEAN, STD, layout=layout)
    batch = read_input(tmp_path / "batch.npy", (3, 6, 5), preprocessing)
    assert batch.dtype == np.float32
    assert np.array_equal(batch, x.astype(np.float32))
    assert np.array_equal(read_input(tmp_path / "frame.npy", (3, 6, 5), preprocessing), batch[:1])
    assert read_input(tmp_path / "vector.npy", (7,), preprocessing).shape == (1, 7)
    with pytest.raises(InputError, match="the network's input is"):
        read_input(tmp_path / "frame.npy", (3, 6, 4), preprocessing)


def test_files_that_are_no_pictures(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "text.npy").write_text("not an array")
    (tmp_path / "empty.npy").touch()
    np.save(tmp_path / "wide.npy", np.zeros((6, 5, 4), np.uint8))
    np.save(tmp_path / "floats.npy", np.zeros((6, 5, 3)))
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object))
    whole = tmp_path / "cut.npy"
    np.save(whole, picture())
    whole.write_bytes(whole.read_bytes()[:-1])
    names = [
        "text.png",
        "text.npy",
        "empty.npy",
        "wide.npy",
        "floats.npy",
        "objects.npy",
        "cut.npy",
        "no.png",
        "no.npy",
    ]
    for name in names:
        with pytest.raises(InputError, match=name):
            read_image(tmp_path / name)


def test_without_pillow_arrays_still_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = picture()
    np.save(tmp_path / "picture.npy", image)
    Image.fromarray(image).save(tmp_path / "picture.png")
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert np.array_equal(read_image(tmp_path / "picture.npy"), image)
    with pytest.raises(InputError, match="Pillow is not installed") as caught:
        read_image(tmp_path / "picture.png")
    assert "pip install pillow" in caught.value.hint
