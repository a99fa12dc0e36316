"""Measure how fast networks run, here and in other runtimes, and where the time goes.

    python tools/measure_performance.py --models FOLDER --data pictures.npz
    python tools/write_performance.py

FOLDER holds ``nets.py`` with factories and ``NAME.safetensors`` with their weights; the demo network is always there.
Every number comes from a command that anyone can give: `haste-edge targets --measure`, `compile`, `evaluate` and
`bench`, `haste-run bench --profile`. What takes long and need not be undisturbed is done first (compiling, accuracy,
setting up the other runtimes) and kept in --work; then come a few minutes of timing, each command behind --alone, which
may be something that keeps other programs off the processor. One JSON file for each network goes to --out.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import plain_layers

from haste_edge import demo
from haste_edge.demo.network import MEAN, STD
from haste_edge.evaluate import read_pictures
from haste_runtime.bundle import Bundle, read_bundle, write_bundle
from haste_runtime.plan import Choice, Level
from haste_runtime.preprocessing import Preprocessing, images_to_inputs

SHAPE = (3, 32, 32)
PLANNING = 1000  # pictures for `Subject.planned`
FRAMES = 8
LEAST = 1e-6  # an error budget that allows nothing but dropping what is zero
DROP = 1.25  # points of top-1 that a level may lose to be the one that is looked at
CIFAR = Preprocessing(MEAN, STD)
IMAGENET = Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
TARGET = "target.toml"  # this computer, for which the bundles are planned
KERNELS = "kernels"  # a name beside those of networks: single layers, see `measure_kernels`
PEERS = "onnxruntime,openvino,litert,tflite,ncnn,torch"


@dataclass(frozen=True)
class Subject:
    """A network as it is compiled. options: of `haste-edge compile`, beside the usual ones. planned: its levels are
    chosen on pictures of --data, without labels and behind those that tell the accuracy, instead of noise."""

    name: str
    network: str
    preprocessing: Preprocessing
    options: tuple[str, ...] = ()
    peers: str = PEERS
    planned: bool = False


SUBJECTS = (
    Subject("resnet20", "resnet20", IMAGENET),
    Subject("resnet56", "resnet56", IMAGENET),
    Subject("resnet34", "resnet34", CIFAR),
    Subject("resnet34-int8", "resnet34", CIFAR, ("--dtype", "int8"), "onnxruntime,openvino"),
    Subject("demo", "demo", CIFAR),
    Subject(
        "demo-images",
        "demo",
        CIFAR,
        ("--images", "planning.npz", "--levels", "16"),
        "onnxruntime,openvino",
        planned=True,
    ),
)


class CommandError(Exception):
    """A command that was given failed; the message has what it said."""


class Commands:
    """Gives commands in a folder, so that paths in what they print are short."""

    def __init__(self, folder: Path, models: Path, alone: Sequence[str]) -> None:
        self._folder, self._alone = folder, list(alone)
        path = [str(models.resolve()), *filter(None, sys.path), os.environ.get("PYTHONPATH", "")]
        self._variables = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, path))}

    def give(self, program: str, *arguments: str, alone: bool = False) -> Any:
        """What the command prints as JSON. program: "haste-edge" or "haste-run". Raises CommandError."""
        print(f"{program} {shlex.join(arguments)}", file=sys.stderr, flush=True)
        package = {"haste-edge": "haste_edge", "haste-run": "haste_runtime"}[program]
        start = f"import sys; from {package}.cli import main; sys.argv[0] = {program!r}; main()"
        command = [*(self._alone if alone else ()), sys.executable, "-c", start, *arguments, "--json"]
        done = subprocess.run(command, cwd=self._folder, env=self._variables, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise CommandError(f"{program} {arguments[0]} ended with {done.returncode}")
        return json.loads(done.stdout)


def model(subject: Subject, models: Path) -> tuple[str, str]:
    """Factory and weights."""
    if subject.network == "demo":
        return "haste_edge.demo.network:network", str(demo.weights_path().resolve())
    return f"nets:{subject.network}", str((models / f"{subject.network}.safetensors").resolve())


def get_ready(
    subject: Subject, commands: Commands, models: Path, data: Path, pictures: int, work: Path, target: str = TARGET
) -> None:
    """NAME.haste and NAME.evaluated.json in ``work``, unless they are there; NAME-unmerged.haste, NAME.npy (frames) and
    noise.npy; and the other runtimes. target: what bundles are planned for; this computer is measured if it is TARGET.
    """
    factory, weights = model(subject, models)
    bundle, evaluated = work / f"{subject.name}.haste", work / f"{subject.name}.evaluated.json"
    if subject.planned:
        with np.load(data) as arrays:
            np.savez(work / "planning.npz", x=arrays["x"][pictures : pictures + PLANNING])
    if target == TARGET and not (work / TARGET).exists():
        commands.give("haste-edge", "targets", "--measure", TARGET, alone=True)
    if not bundle.exists():
        numbers = {"--mean": subject.preprocessing.mean, "--std": subject.preprocessing.std}
        options = [part for name, values in numbers.items() for part in (name, ",".join(map(str, values)))]
        shape = "x".join(map(str, (1, *SHAPE)))
        commands.give(
            "haste-edge", "compile", factory, "--weights", weights, "--input", shape, *options, *subject.options,
            "--target", target, "-o", bundle.name,
        )  # fmt: skip
    if not is_evaluated(evaluated, bundle, pictures):
        limit = ("--limit", str(pictures))
        result = commands.give("haste-edge", "evaluate", bundle.name, "--data", str(data.resolve()), *limit)
        result.pop("data")
        evaluated.write_text(json.dumps(result))
    write_bundle(work / f"{subject.name}-unmerged.haste", without_budget(read_bundle(bundle)))
    frames = images_to_inputs(read_pictures(data)[0][:FRAMES], SHAPE, subject.preprocessing)
    np.save(work / f"{subject.name}.npy", frames)
    np.save(work / "noise.npy", np.random.default_rng(0).standard_normal(frames.shape, np.float32))
    source = ("--source", factory, "--weights", weights)
    if subject.peers:
        commands.give("haste-edge", "bench", bundle.name, *source, "--against", subject.peers, "--prepare")


def is_evaluated(evaluated: Path, bundle: Path, pictures: int) -> bool:
    """Whether that file tells the accuracy of this bundle on so many pictures."""
    if not evaluated.exists() or evaluated.stat().st_mtime < bundle.stat().st_mtime:
        return False
    return bool(json.loads(evaluated.read_text())["pictures"] == pictures)


def without_budget(bundle: Bundle) -> Bundle:
    """With one level beside the exact one: every layer that may merge looks for groups, and has no error to spend."""
    choices = {layer.node: Choice(0, layer.variants[0].bits, LEAST) for layer in bundle.plan.layers if layer.variants}
    levels = (bundle.plan.levels[0], Level(choices, 0.0, 0.0))
    return replace(bundle, plan=replace(bundle.plan, levels=levels))


def chosen_level(rows: Sequence[Mapping[str, Any]], drop: float = DROP) -> int:
    """The fastest of our levels that loses at most ``drop`` points of top-1; rows: of `haste-edge bench`.

    Fastest by the time relative to level 0's of the same round: medians of whole runs differ by what else the machine
    did meanwhile.
    """
    own = [row for row in rows if row["level"] is not None]
    exact = next(row["top1"] for row in own if row["level"] == 0)
    allowed = [row for row in own if exact - row["top1"] <= drop]
    return int(min(allowed, key=lambda row: row["relative"])["level"])


def measure(subject: Subject, commands: Commands, models: Path, data: Path, work: Path) -> dict[str, Any]:
    """The timing. Profiles are of level 0, of the level that `chosen_level` names and of the last."""
    factory, weights = model(subject, models)
    bundle, name = f"{subject.name}.haste", subject.name
    commands.give("haste-run", "bench", bundle, "--levels", "0", "--runs", "1", "--profile")  # kernels are compiled now
    bench = commands.give(
        "haste-edge", "bench", bundle, "--source", factory, "--weights", weights, "--against", subject.peers, "--data",
        str(data.resolve()), "--evaluated", f"{name}.evaluated.json", alone=True,
    )  # fmt: skip
    chosen, last = chosen_level(bench["rows"]), max(row["level"] or 0 for row in bench["rows"])
    levels = ",".join(str(level) for level in sorted({0, chosen, last}))
    profile = commands.give("haste-run", "bench", bundle, f"{name}.npy", "--levels", levels, "--profile", alone=True)
    noise = commands.give("haste-run", "bench", f"{name}-unmerged.haste", "noise.npy", "--profile", alone=True)
    evaluated = json.loads((work / f"{name}.evaluated.json").read_text())
    return {
        "name": name,
        "options": list(subject.options),
        "target": tomllib.loads((work / TARGET).read_text("utf-8")),
        "pictures": evaluated["pictures"],
        "chosen_level": chosen,
        "bench": bench,
        "profile": profile["profile"],
        "noise": noise["profile"]["levels"][1],
        "peak_memory_mb": profile["peak_memory_mb"],
        "bytes": commands.give("haste-edge", "inspect", bundle)["bytes"],
        "evaluated": evaluated["levels"],
    }


def measure_kernels(commands: Commands) -> dict[str, Any]:
    """One 3x3 convolution at a time, computed directly: its profile, and what the core could do in the same minute."""
    layers = []
    for channels, side in plain_layers.SIDES.items():
        name, factory = f"channels{channels}.haste", f"plain_layers:channels{channels}"
        plan = ("--levels", "0", "--no-winograd", "--input", f"1x{channels}x{side}x{side}")
        commands.give("haste-edge", "compile", factory, *plan, "-o", name)
        commands.give("haste-run", "bench", name, "--runs", "1", "--profile")  # kernels are compiled now
        found = commands.give("haste-run", "bench", name, "--profile", alone=True)
        (layer,) = found["profile"]["levels"][0]["layers"]
        layers.append({**layer, "peak": found["profile"]["roofline"]["gmacs_per_second"]})
    return {"cpu": found["cpu"]["model"], "date": time.strftime("%Y-%m-%d"), "layers": layers}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True, help="folder of nets.py and NAME.safetensors")
    parser.add_argument("--data", type=Path, required=True, help=".npz with x and y, for accuracy and as frames")
    parser.add_argument("--networks", default=",".join([*(subject.name for subject in SUBJECTS), KERNELS]),
                        help="names, with commas")  # fmt: skip
    parser.add_argument("--pictures", type=int, default=1000, help="for top-1 (default: 1000)")
    parser.add_argument("--alone", default="", help="command to put before those that take time, such as a chrt")
    parser.add_argument("--work", type=Path, default=Path("build/performance"), help="bundles and accuracy, kept")
    parser.add_argument("--out", type=Path, default=Path("docs/results/performance"))
    args = parser.parse_args()
    chosen = [subject for subject in SUBJECTS if subject.name in args.networks.split(",")]
    for folder in (args.work, args.out):
        folder.mkdir(parents=True, exist_ok=True)
    commands = Commands(args.work, args.models, shlex.split(args.alone))
    ready = []
    for subject in chosen:
        try:
            get_ready(subject, commands, args.models, args.data, args.pictures, args.work)
            ready.append(subject)
        except CommandError as error:
            print(f"{subject.name} is left out: {error}", file=sys.stderr)
    for subject in ready:
        try:
            result = measure(subject, commands, args.models, args.data, args.work)
        except CommandError as error:
            print(f"{subject.name} is left out: {error}", file=sys.stderr)
            continue
        (args.out / f"{subject.name}.json").write_text(json.dumps(result, indent=1) + "\n")
    if KERNELS in args.networks.split(","):
        (args.out / f"{KERNELS}.json").write_text(json.dumps(measure_kernels(commands), indent=1) + "\n")


if __name__ == "__main__":
    main()
