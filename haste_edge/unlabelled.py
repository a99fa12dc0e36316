"""Pictures of the user's own to plan with: a folder of files, or an .npz. Labels, where there are any, are not read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from haste_edge.evaluate import read_pictures
from haste_edge.picture_folder import evenly, read_folder
from haste_runtime.preprocessing import Preprocessing, image_to_input, images_to_inputs

MOST = 256  # pictures; taken evenly from those that are there


def load_unlabelled(path: str | Path, shape: Sequence[int], preprocessing: Preprocessing) -> Tensor:
    """Pictures from a folder or an .npz, as the network's input (C, H, W) expects them: (N, C, H, W), float32.

    Raises DataError where there are none, InputError or DataError where one can't be read.
    """
    path, channels_first = Path(path), replace(preprocessing, layout="NCHW")
    if not path.is_dir():
        x, _ = read_pictures(path)
        return torch.from_numpy(images_to_inputs(x[evenly(len(x), MOST)], shape, channels_first))
    pictures, _ = read_folder(path, limit=MOST, labelled=False)
    return torch.from_numpy(np.stack([image_to_input(picture, shape, channels_first) for picture in pictures]))
