"""Pictures of the user's own to plan with: a folder of files, or an .npz. Labels, where there are any, are not read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from haste_edge.evaluate import DataError, read_pictures
from haste_runtime.preprocessing import Preprocessing, image_to_input, images_to_inputs, read_image

SUFFIXES = (".png", ".jpg", ".jpeg", ".ppm", ".bmp", ".webp", ".npy")
MOST = 256  # pictures; taken evenly from those that are there


def load_unlabelled(path: str | Path, shape: Sequence[int], preprocessing: Preprocessing) -> Tensor:
    """Pictures from a folder or an .npz, as the network's input (C, H, W) expects them: (N, C, H, W), float32.

    Raises DataError where there are none, InputError or DataError where one can't be read.
    """
    path, channels_first = Path(path), replace(preprocessing, layout="NCHW")
    if not path.is_dir():
        x, _ = read_pictures(path)
        return torch.from_numpy(images_to_inputs(x[_evenly(len(x))], shape, channels_first))
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
    if not files:
        raise DataError(f"There are no pictures in {path}.", f"Put files there that end in {', '.join(SUFFIXES)}.")
    pictures = [image_to_input(read_image(files[i]), shape, channels_first) for i in _evenly(len(files))]
    return torch.from_numpy(np.stack(pictures))


def _evenly(count: int) -> list[int]:
    taken = min(count, MOST)
    return [i * count // taken for i in range(taken)]
