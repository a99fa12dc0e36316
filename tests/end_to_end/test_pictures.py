"""A picture in, named classes out: what a bundle says of pictures is done alike by every command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from haste_edge.cli import main as haste_edge
from haste_edge.compile import compile_model
from haste_edge.unlabelled import load_unlabelled
from haste_runtime import Session
from haste_runtime.cli import run as haste_run
from haste_runtime.preprocessing import Preprocessing

SIZE, PICTURES = (12, 10), 12
CLASSES = tuple(f"class {word}" for word in ("a", "b", "c", "d", "e", "f", "g"))
WAYS = {
    "usual": Preprocessing((0.4, 0.5, 0.6), (0.2, 0.3, 0.25)),
    "cropped BGR": Preprocessing((104, 117, 123), (60,) * 3, 1, colour="BGR", crop=0.75),
    "channels last": Preprocessing((0.5,), (0.25,), layout="NHWC"),
    "stretched": Preprocessing((0.4, 0.5, 0.6), (0.2, 0.3, 0.25), fit="stretch", crop=0.875),
    "framed": Preprocessing((127,) * 3, (64,) * 3, 1, "NHWC", "BGR", fit="contain", fill=114.0),
}


@pytest.fixture(scope="module", params=WAYS, ids=lambda name: name.replace(" ", "-"))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """net.haste with class names; pictures/00.png and so on, and the same in pictures.npz, of another shape."""
    folder = tmp_path_factory.mktemp("pictures")
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(16 * SIZE[0] * SIZE[1], len(CLASSES)),
    )  # fmt: skip
    compile_model(
        network, folder / "net.haste", input_shape=(1, 3, *SIZE), preprocessing=WAYS[request.param], classes=CLASSES,
        levels=1, objective="flops",
    )  # fmt: skip
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (PICTURES, 5, 7, 3), np.uint8)
    pictures = coarse.repeat(4, 1).repeat(4, 2)
    (folder / "pictures").mkdir()
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / "pictures" / f"{number:02}.png")
    np.savez(folder / "pictures.npz", x=pictures)
    return folder


def prepared(picture: np.ndarray, how: Preprocessing) -> np.ndarray:
    """The input that `how` describes, made once more and in another way: with Pillow. (1, C, h, w) or (1, h, w, C)."""
    height, width = SIZE
    planes = [Image.fromarray(np.ascontiguousarray(picture[..., c], np.float32)) for c in range(3)]
    if how.fit == "stretch":
        tall, wide = (round(s / how.crop) for s in SIZE)
    else:
        choose = min if how.fit == "contain" else max
        factor = choose(round(s / how.crop) / length for s, length in zip(SIZE, picture.shape, strict=False))
        tall, wide = (round(length * factor) for length in picture.shape[:2])
    x = np.stack([np.asarray(p.resize((wide, tall), Image.Resampling.BILINEAR)) for p in planes], -1)
    if how.fit == "contain":
        framed = np.full((*SIZE, 3), how.fill, np.float32)
        top, left = (height - tall) // 2, (width - wide) // 2
        framed[top : top + tall, left : left + wide] = x
        x = framed
    else:
        top, left = (tall - height) // 2, (wide - width) // 2
        x = x[top : top + height, left : left + width]
    x = x[..., ::-1] if how.colour == "BGR" else x
    x = (x / how.scale - np.array(how.mean)) / np.array(how.std)
    return np.float32(x if how.layout == "NHWC" else x.transpose(2, 0, 1))[None]


@pytest.fixture
def scores(folder: Path) -> np.ndarray:
    """(PICTURES, classes): of pictures that were prepared here."""
    pictures = np.load(folder / "pictures.npz")["x"]
    with Session(folder / "net.haste", "numpy") as session:
        return np.concatenate([session.run(prepared(p, session.bundle.preprocessing)) for p in pictures])


def five_best(scores: np.ndarray) -> list[str]:
    return [CLASSES[i] for i in np.argsort(-scores)[:5]]


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    capsys.readouterr()
    assert haste_run(arguments) == 0
    return json.loads(capsys.readouterr().out)


def test_infer(folder: Path, scores: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    for number, wanted in enumerate(scores):
        picture = str(folder / "pictures" / f"{number:02}.png")
        answer = printed(capsys, "infer", str(folder / "net.haste"), picture, "--backend", "numpy", "--json")
        (frame,) = answer["frames"]
        (output,) = frame["outputs"].values()
        np.testing.assert_allclose(output["values"], wanted, atol=1e-4)
        assert [entry["name"] for entry in frame["top"]] == five_best(np.array(output["values"]))
        probabilities = [entry["probability"] for entry in frame["top"]]
        assert probabilities == sorted(probabilities, reverse=True)


@pytest.mark.parametrize("source", ["dir", "npy"])
def test_serve(folder: Path, scores: np.ndarray, tmp_path: Path, source: str) -> None:
    np.save(tmp_path / "pictures.npy", np.load(folder / "pictures.npz")["x"])
    given = {"dir": f"dir:{folder / 'pictures'}", "npy": f"npy:{tmp_path / 'pictures.npy'}"}[source]
    options = ("--source", given, "--values", "--output", str(tmp_path / "results.jsonl"), "--log", "none")
    where = ("--listen", f"unix:{tmp_path / 's'}", "--backend", "numpy", "--threads", "1")
    assert haste_run(("serve", str(folder / "net.haste"), *options, *where)) == 0
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    frames = [line for line in lines if line["event"] == "frame"]
    assert len(frames) == PICTURES
    for frame, wanted in zip(frames, scores, strict=True):
        (values,) = frame["outputs"].values()
        np.testing.assert_allclose(values, wanted, atol=1e-4)
        assert [entry["name"] for entry in frame["top"]] == five_best(np.array(values))


def test_evaluate(
    folder: Path,
    scores: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By labels that are right only if pictures are prepared so: not all answers are one class."""
    answers = scores.argmax(1)
    assert len(set(answers)) > 1
    np.savez(tmp_path / "labelled.npz", x=np.load(folder / "pictures.npz")["x"], y=answers)
    options = ("--data", str(tmp_path / "labelled.npz"), "--levels", "0", "--backend", "numpy", "--json")
    monkeypatch.setattr("sys.argv", ["haste-edge", "evaluate", str(folder / "net.haste"), *options])
    with pytest.raises(SystemExit) as ended:
        haste_edge()
    assert not ended.value.code
    (level,) = json.loads(capsys.readouterr().out)["levels"]
    assert (level["frames"], level["top1"]) == (PICTURES, 100.0)


def test_planning_sees_the_same(folder: Path) -> None:
    pictures = np.load(folder / "pictures.npz")["x"]
    with Session(folder / "net.haste", "numpy") as session:
        how, shape = session.bundle.preprocessing, session.bundle.graph.inputs[0].shape
    wanted = np.concatenate([prepared(p, how) for p in pictures])
    wanted = wanted.transpose(0, 3, 1, 2) if how.layout == "NHWC" else wanted
    for given in (folder / "pictures", folder / "pictures.npz"):
        np.testing.assert_allclose(load_unlabelled(given, shape, how).numpy(), wanted, atol=1e-4)


def test_the_ways_differ(tmp_path: Path) -> None:
    picture = np.random.default_rng(1).integers(0, 256, (20, 28, 3), np.uint8)
    inputs = [prepared(picture, how) for how in WAYS.values()]
    inputs = [x.transpose(0, 3, 1, 2) if x.shape[-1] == 3 else x for x in inputs]
    for i, a in enumerate(inputs):
        for b in inputs[:i]:
            assert np.abs(a - b).max() > 0.1
