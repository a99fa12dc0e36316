"""Folders of pictures: which files, in which order, with which labels, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from builders import bundle_for, random_network
from PIL import Image

from haste_edge.cli import main
from haste_edge.evaluate import DataError
from haste_edge.picture_folder import PictureFiles, read_folder
from haste_runtime import Session
from haste_runtime.bundle import write_bundle
from haste_runtime.errors import InputError
from haste_runtime.preprocessing import image_to_input

CLASSES = ("ant", "bee", "crane", "crane", "elk")


def save(folder: Path, *names: str, seed: int = 0) -> list[np.ndarray]:
    """Pictures of different sizes."""
    rng = np.random.default_rng(seed)
    folder.mkdir(exist_ok=True)
    pictures = [rng.integers(0, 256, (*rng.integers(8, 30, 2), 3), np.uint8) for _ in names]
    for name, picture in zip(names, pictures, strict=True):
        Image.fromarray(picture).save(folder / name)
    return pictures


def test_files_alone_have_no_labels(tmp_path: Path) -> None:
    second, first = save(tmp_path, "b.png", "a.PNG")
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "empty").mkdir()
    pictures, labels = read_folder(tmp_path, CLASSES)
    assert labels is None
    assert [np.array_equal(a, b) for a, b in zip(pictures, (first, second), strict=True)] == [True, True]
    assert isinstance(pictures[:1], PictureFiles)
    assert len(pictures[:1]) == 1


def test_folders_are_labels(tmp_path: Path) -> None:
    save(tmp_path / "elk", "1.png", "2.png")
    save(tmp_path / "bee", "3.png")
    save(tmp_path / "3", "4.png")  # by its number, as two classes have that name
    pictures, labels = read_folder(tmp_path, CLASSES)
    assert labels is not None
    assert {file.name: label for file, label in zip(pictures.files, labels.tolist(), strict=True)} == {
        "1.png": 4,
        "2.png": 4,
        "3.png": 1,
        "4.png": 3,
    }
    some, labels = read_folder(tmp_path, CLASSES, limit=2)
    assert labels is not None
    assert (len(some), labels.tolist()) == (2, [3, 4])  # evenly
    assert read_folder(tmp_path, labelled=False)[1] is None


@pytest.mark.parametrize(
    ("folder", "message"),
    [("cat", "'cat' is not a class"), ("crane", "'crane' is the name of more than one class"), ("", "folders with")],
)
def test_folders_that_are_no_classes(tmp_path: Path, folder: str, message: str) -> None:
    save(tmp_path / "ant", "1.png")
    save(tmp_path / folder, "2.png")
    with pytest.raises(DataError, match=message):
        read_folder(tmp_path, CLASSES)
    assert len(read_folder(tmp_path, labelled=False)[0]) == (2 if folder else 1)


def test_no_pictures_and_broken_ones(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There are no pictures"):
        read_folder(tmp_path)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="can't be decoded"):
        read_folder(tmp_path)[0][0]


def test_evaluate_takes_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All pictures but one in the folder of their own answer."""
    bundle = replace(bundle_for(random_network(3)), classes=("ant", "bee", "cat", "dog", "elk"))
    write_bundle(tmp_path / "net.haste", bundle)
    names = [f"{i}.png" for i in range(5)]
    pictures = save(tmp_path / "all", *names)
    with Session(bundle, "numpy") as session:
        inputs = [image_to_input(p, bundle.graph.inputs[0].shape, bundle.preprocessing) for p in pictures]
        answers = [int(session.run(x[None]).argmax()) for x in inputs]
    answers[0] = (answers[0] + 1) % 5
    for name, answer in zip(names, answers, strict=True):
        folder = tmp_path / "labelled" / bundle.classes[answer]
        folder.mkdir(parents=True, exist_ok=True)
        (tmp_path / "all" / name).rename(folder / name)
    options = ("--data", str(tmp_path / "labelled"), "--levels", "0,1", "--backend", "numpy", "--json")
    monkeypatch.setattr("sys.argv", ["haste-edge", "evaluate", str(tmp_path / "net.haste"), *options])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    result = json.loads(capsys.readouterr().out)
    assert (result["pictures"], result["levels"][0]["top1"]) == (5, pytest.approx(80.0))
