"""Pictures to plan with: from a folder or an .npz, as the network's input, and never their labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from haste_edge import unlabelled
from haste_edge.evaluate import DataError
from haste_edge.unlabelled import load_unlabelled
from haste_runtime.errors import InputError
from haste_runtime.preprocessing import Preprocessing, images_to_inputs

SHAPE = (3, 8, 8)
PREPROCESSING = Preprocessing((0.5, 0.4, 0.3), (0.2, 0.2, 0.2))


def some(count: int, side: int = 8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_a_folder_gives_what_an_npz_gives(tmp_path: Path, layout: str) -> None:
    x = some(5)
    preprocessing = Preprocessing(PREPROCESSING.mean, PREPROCESSING.std, layout=layout)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, picture in enumerate(x):
        Image.fromarray(picture).save(folder / f"{i}.png")
    (folder / "notes.txt").write_text("not a picture")
    np.savez(tmp_path / "x.npz", x=x, y=np.zeros(5, np.int64))
    wanted = images_to_inputs(x, SHAPE, PREPROCESSING)
    for path in (folder, tmp_path / "x.npz"):
        np.testing.assert_array_equal(load_unlabelled(path, SHAPE, preprocessing).numpy(), wanted)


def test_other_sizes_are_resized(tmp_path: Path) -> None:
    Image.fromarray(some(1, 20)[0]).save(tmp_path / "large.png")
    assert load_unlabelled(tmp_path, SHAPE, PREPROCESSING).shape == (1, *SHAPE)


def test_many_are_taken_evenly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unlabelled, "MOST", 3)
    x = some(10)
    np.savez(tmp_path / "x.npz", x=x)
    wanted = images_to_inputs(x[[0, 3, 6]], SHAPE, PREPROCESSING)
    np.testing.assert_array_equal(load_unlabelled(tmp_path / "x.npz", SHAPE, PREPROCESSING).numpy(), wanted)


def test_what_holds_no_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no pictures"):
        load_unlabelled(tmp_path, SHAPE, PREPROCESSING)
    with pytest.raises(DataError, match="no file"):
        load_unlabelled(tmp_path / "missing.npz", SHAPE, PREPROCESSING)
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    with pytest.raises(InputError, match="can't be decoded"):
        load_unlabelled(tmp_path, SHAPE, PREPROCESSING)
