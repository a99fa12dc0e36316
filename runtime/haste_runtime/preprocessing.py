"""From a picture to the network's input, with numpy alone; Pillow is used to decode image files, where it is installed.

A picture is a uint8 array ``(H, W, 3)``, RGB. One of another size than the network's is brought to it as
`Preprocessing` says (`fitted`); one of the right size is not touched, because it was cut out by whoever made it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from haste_runtime.errors import InputError
from haste_runtime.record import record

if TYPE_CHECKING:
    from pathlib import Path  # imported for reading files alone, so that sessions start sooner

LAYOUTS = ("NCHW", "NHWC")
COLOURS = ("RGB", "BGR")
FITS = ("cover", "stretch", "contain")
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, for networks with one input channel


@record(frozen=True)
class Preprocessing:
    """How the source model wants its pictures: brought to its size, then ``(x / scale - mean) / std``, per channel.

    mean, std: one number per channel or one for all, in the order of the network's channels (that is, after `colour`).
    scale: what pixel values are divided by first. layout: of the source model's input. colour: order of its channels.
    fit: "cover" (resized, aspect ratio kept, until it just covers the input, and the middle cut out), "stretch" (to the
    input's height and width, whatever that does to its shape) or "contain" (the whole picture, aspect ratio kept, in
    the middle of an input whose other pixels have the value ``fill``, 0 to 255). crop: of a picture that covers or is
    stretched, the share of height and width that is kept: 0.875 resizes to 256 and keeps 224.
    Raises InputError for numbers that are not finite, divide by zero or are out of range.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    scale: float = 255.0
    layout: str = "NCHW"
    colour: str = "RGB"
    fit: str = "cover"
    crop: float = 1.0
    fill: float = 0.0

    def __post_init__(self) -> None:
        if not self.mean or len(self.mean) != len(self.std):
            raise InputError(f"Mean has {len(self.mean)} numbers, std {len(self.std)}; both need one per channel.")
        if not np.isfinite([*self.mean, *self.std, self.scale]).all() or min(*self.std, self.scale) <= 0:
            raise InputError("Mean, std and scale must be finite, std and scale greater than zero.")
        if self.layout not in LAYOUTS:
            raise InputError(f"Layout {self.layout!r} is not one of {', '.join(LAYOUTS)}.")
        if self.colour not in COLOURS:
            raise InputError(f"Colour order {self.colour!r} is not one of {', '.join(COLOURS)}.")
        if self.fit not in FITS:
            raise InputError(f"Fit {self.fit!r} is not one of {', '.join(FITS)}.")
        if not 0 < self.crop <= 1 or (self.fit == "contain" and self.crop != 1):
            raise InputError(
                f"A crop of {self.crop:g} makes no sense with the fit {self.fit!r}.",
                'It is the share that is kept, above 0 and at most 1; with "contain" the whole picture is.',
            )
        if not 0 <= self.fill <= 255:
            raise InputError(f"A fill of {self.fill:g} is no pixel's value.", "Pixels go from 0 to 255.")


def image_to_input(image: NDArray[Any], shape: Sequence[int], preprocessing: Preprocessing) -> NDArray[np.float32]:
    """One picture, uint8 (H, W, 3) RGB, as a network of per-frame input shape (C, h, w) wants it.

    Returns float32 (C, h, w), or (h, w, C) where the layout is NHWC: a frame without its batch axis.
    Raises InputError for a picture or a network input of another kind.
    """
    return images_to_inputs(image[None], shape, preprocessing)[0]


def images_to_inputs(images: NDArray[Any], shape: Sequence[int], preprocessing: Preprocessing) -> NDArray[np.float32]:
    """A batch of pictures of one size, uint8 (N, H, W, 3) RGB, for a network of per-frame input shape (C, h, w).

    Returns float32 (N, C, h, w) or (N, h, w, C). Raises InputError for pictures or a network input of another kind.
    """
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8 or 0 in images.shape[1:]:
        raise InputError(
            f"Pictures have shape {images.shape} and type {images.dtype}.",
            "They must be uint8 RGB, height x width x 3.",
        )
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise InputError(
            f"The network's input has shape {tuple(shape)}, which no picture can fill.",
            "Pictures need an input of 3 channels, or of 1; give others as a .npy file of the input itself.",
        )
    channels, height, width = shape
    if len(preprocessing.mean) not in (1, channels):
        raise InputError(
            f"Mean and std have {len(preprocessing.mean)} numbers, the network's input {channels} channels."
        )
    x: NDArray[np.float32]
    if images.shape[1:3] == (height, width):
        x = images.astype(np.float32)
    else:
        x = np.zeros((len(images), height, width, 3), np.float32)
        for frame, image in zip(x, images, strict=True):
            frame[:] = fitted(image, height, width, preprocessing)
    if channels == 1:
        x = (x * np.array(LUMA, np.float32)).sum(-1, keepdims=True)
    elif preprocessing.colour == "BGR":
        x = x[..., ::-1]
    x = x / preprocessing.scale
    x -= np.array(preprocessing.mean, np.float32)
    x /= np.array(preprocessing.std, np.float32)
    return np.ascontiguousarray(x if preprocessing.layout == "NHWC" else x.transpose(0, 3, 1, 2))


def fitted(image: NDArray[Any], height: int, width: int, preprocessing: Preprocessing) -> NDArray[np.float32]:
    """(H, W, C) as the fit, crop and fill of ``preprocessing`` say. Returns float32 (height, width, C).

    Bilinear with pixel centres aligned; when shrinking, the filter is widened by the factor, so that every source pixel
    counts (as Pillow's BILINEAR does it).
    """
    if preprocessing.fit == "cover":
        return cover(image, height, width, preprocessing.crop)
    sizes = (height, width)
    if preprocessing.fit == "stretch":
        x = image
        for axis, size in enumerate(sizes):
            resized = round(size / preprocessing.crop)
            x = _resample(x, axis, resized, (resized - size) // 2, size)
        return x.astype(np.float32)
    factor = min(size / length for size, length in zip(sizes, image.shape[:2], strict=True))
    x = image
    places = []
    for axis, size in enumerate(sizes):
        resized = max(1, min(size, round(image.shape[axis] * factor)))
        x = _resample(x, axis, resized, 0, resized)
        places.append(slice((size - resized) // 2, (size - resized) // 2 + resized))
    whole = np.full((height, width, image.shape[2]), preprocessing.fill, np.float32)
    whole[tuple(places)] = x
    return whole


def cover(image: NDArray[Any], height: int, width: int, crop: float = 1.0) -> NDArray[np.float32]:
    """Resize (H, W, C), aspect ratio kept, until ``crop`` of it just covers ``height`` x ``width``; cut out the middle.

    Returns float32 (height, width, C), resampled as `fitted` says.
    """
    factor = max(round(height / crop) / image.shape[0], round(width / crop) / image.shape[1])
    x = image
    for axis, size in ((0, height), (1, width)):
        resized = max(size, round(image.shape[axis] * factor))
        x = _resample(x, axis, resized, (resized - size) // 2, size)
    return x.astype(np.float32)


def _resample(x: NDArray[Any], axis: int, resized: int, first: int, count: int) -> NDArray[np.float32]:
    """Entries ``first .. first + count`` of ``x`` resampled along ``axis`` (0 or 1) to length ``resized``."""
    length = x.shape[axis]
    step = length / resized
    support = max(step, 1.0)
    centre = (np.arange(first, first + count) + 0.5) * step
    lowest = np.floor(centre - support).astype(np.int64)
    taps = lowest[:, None] + np.arange(int(np.ceil(2 * support)) + 1)
    weights = np.maximum(0.0, 1.0 - np.abs(taps + 0.5 - centre[:, None]) / support)
    weights[(taps < 0) | (taps >= length)] = 0.0
    weights = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    taps = taps.clip(0, length - 1)
    along = (slice(None), None, None) if axis == 0 else (None, slice(None), None)
    total = np.zeros((count, *x.shape[1:]) if axis == 0 else (x.shape[0], count, *x.shape[2:]), np.float32)
    for tap in range(taps.shape[1]):
        total += x.take(taps[:, tap], axis) * weights[:, tap][along]
    return total


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """A picture from a file, uint8 (H, W, 3) RGB: ``.npy`` always, PNG, JPEG, PPM and so on where Pillow is installed.

    A ``.npy`` may also be grey, (H, W). Raises InputError where there is no such file or it is no picture.
    """
    from pathlib import Path

    path = Path(path)
    if path.suffix.lower() != ".npy":
        return _decode(path)
    image = _load_array(path)
    if image.ndim == 2:
        image = np.repeat(image[:, :, None], 3, axis=2)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise InputError(
            f"{path} holds {image.dtype} of shape {image.shape}, which is not a picture.",
            "A picture is uint8 RGB, height x width x 3.",
        )
    return image


def read_input(path: str | Path, shape: Sequence[int], preprocessing: Preprocessing) -> NDArray[np.float32]:
    """A network input from a file, with a batch axis: a picture is preprocessed, an array of floats is taken as it is.

    shape: the network's per-frame input, (C, h, w) or (F,). Returns float32: one frame or, where a ``.npy`` of floats
    has a batch axis, all its frames. Raises InputError where there is no such file or it does not fit.
    """
    from pathlib import Path

    path = Path(path)
    if path.suffix.lower() == ".npy":
        array = _load_array(path)
        if array.dtype.kind == "f":
            frame = _source_shape(shape, preprocessing)
            x = array[None] if array.ndim == len(frame) else array
            if x.shape[1:] != frame:
                raise InputError(
                    f"{path} has shape {array.shape}; the network's input is {frame}.",
                    "Give one frame, or several with a batch axis in front.",
                )
            with np.errstate(over="ignore"):  # the session refuses infinity, and names the input
                return np.ascontiguousarray(x, np.float32)
    return image_to_input(read_image(path), shape, preprocessing)[None]


def _source_shape(shape: Sequence[int], preprocessing: Preprocessing) -> tuple[int, ...]:
    if len(shape) == 3 and preprocessing.layout == "NHWC":
        return (shape[1], shape[2], shape[0])
    return tuple(shape)


def _load_array(path: Path) -> NDArray[Any]:
    try:
        return np.array(np.lib.format.open_memmap(path, mode="r"))  # never unpickles, and checks the size first
    except FileNotFoundError:
        raise InputError(f"There is no file {path}.") from None
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} can't be read as a .npy array: {error}.") from error


def _decode(path: Path) -> NDArray[np.uint8]:
    if not path.is_file():
        raise InputError(f"There is no file {path}.")
    return decode_image(path, str(path))


def decode_image(file: Path | BinaryIO, name: str) -> NDArray[np.uint8]:
    """A picture in any form that Pillow reads, uint8 (H, W, 3) RGB. name: for people. Raises InputError."""
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise InputError(
            f"{name} can't be decoded, because Pillow is not installed.",
            "Install it (pip install pillow), or give the picture as a .npy file of uint8, height x width x 3.",
        ) from None
    try:
        with Image.open(file) as picture:
            return np.array(ImageOps.exif_transpose(picture).convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{name} can't be decoded as a picture: {error}.") from error
