"""Put the project's reference networks through the whole path and compare with what is known of them.

    python tools/check_networks.py --models FOLDER --data cifar10_dev.npz --out build/networks

FOLDER holds ``nets.py`` with factories and ``NAME.safetensors`` with their weights. For each network: compile, top-1 of
level 0 in both backends on all pictures beside the stated figure, the ladder on the first pictures, and the time of
level 0 beside torch eager, one thread, batch 1, taking turns. Results are kept as JSON, one file a network; networks
whose file is there already are not measured again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from haste_edge.compile import compile_model
from haste_edge.evaluate import Evaluation, read_pictures
from haste_edge.frontends import load_model
from haste_runtime import Session
from haste_runtime.preprocessing import Preprocessing, images_to_inputs

IMAGENET = Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CIFAR = Preprocessing((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616))
NETWORKS = {  # preprocessing, and top-1 in percent on the 5,000 pictures as stated beside the weights
    "resnet20": (IMAGENET, 91.48),
    "resnet56": (IMAGENET, 92.96),
    "resnet34": (CIFAR, 89.64),
}
ROUNDS, CALLS = 15, 4  # of the comparison with torch


def take_turns(contenders: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Median milliseconds per call of each, in rounds of a few calls, the order reversed every other round."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(ROUNDS + 1):
        for name in list(contenders)[:: 1 if turn % 2 else -1]:
            start = time.perf_counter()
            for _ in range(CALLS):
                contenders[name]()
            if turn:  # the first round warms up
                seconds[name].append((time.perf_counter() - start) / CALLS)
    return {name: 1e3 * median(times) for name, times in seconds.items()}


def against_torch(
    reference: Callable[[torch.Tensor], torch.Tensor], session: Session, x: np.ndarray
) -> dict[str, float]:
    """Milliseconds of level 0 and of the original model, which torch runs with one thread."""
    torch.set_num_threads(1)
    picture = torch.from_numpy(x)
    session.level = 0
    with torch.inference_mode():
        return take_turns({"haste": lambda: session.run(x), "torch": lambda: reference(picture)})


def top1(session: Session, images: np.ndarray, labels: np.ndarray, what: str) -> float:
    """Percent right at level 0."""
    evaluation = Evaluation(session, images, labels, [0])
    for _ in track(evaluation.run(), what, total=evaluation.steps, console=Console(stderr=True)):
        pass
    (result,) = evaluation.results()
    assert result.top1 is not None
    return result.top1


def check(name: str, models: Path, images: np.ndarray, labels: np.ndarray, limit: int, out: Path) -> dict[str, Any]:
    preprocessing, stated = NETWORKS[name]
    weights = models / f"{name}.safetensors"
    bundle = out / f"{name}.haste"
    report = compile_model(
        f"nets:{name}", bundle, weights=weights, input_shape=(1, 3, 32, 32), preprocessing=preprocessing
    )
    found: dict[str, Any] = {"network": name, "stated": stated, "largest_error": report.largest_error}
    found["compile_seconds"] = round(sum(report.seconds.values()), 1)
    with Session(bundle, "numpy") as session:
        found["numpy"] = top1(session, images, labels, f"{name}, level 0, numpy")
    with Session(bundle, "numba") as session:
        loaded = load_model(f"nets:{name}", weights, (1, 3, 32, 32))
        x = images_to_inputs(images[:1], (3, 32, 32), preprocessing)
        found["ms"] = against_torch(loaded.reference, session, x)
        found["numba"] = top1(session, images, labels, f"{name}, level 0, numba")
        evaluation = Evaluation(session, images[:limit], labels[:limit], range(len(session.levels)))
        for _ in track(evaluation.run(), f"{name}, ladder", total=evaluation.steps, console=Console(stderr=True)):
            pass
        found["levels"] = [result.as_json() for result in evaluation.results()]
    return found


def show(found: list[dict[str, Any]]) -> None:
    console = Console()
    table = Table(
        "network", "stated", "numpy", "numba", "error", "torch ms", "haste ms", "torch/haste", "compiled in s"
    )
    for row in found:
        ms = row["ms"]
        table.add_row(
            row["network"], *(f"{row[key]:.2f}" for key in ("stated", "numpy", "numba")), f"{row['largest_error']:.0e}",
            f"{ms['torch']:.2f}", f"{ms['haste']:.2f}", f"{ms['torch'] / ms['haste']:.2f}", str(row["compile_seconds"]),
        )  # fmt: skip
    console.print(table)
    for row in found:
        ladder = Table(
            "level", "top-1 %", "agreement %", "FLOPs saved %", "ms p50",
            title=f"{row['network']}, {row['levels'][0]['frames']} pictures",
        )  # fmt: skip
        for level in row["levels"]:
            ladder.add_row(
                str(level["level"]), f"{level['top1']:.1f}", f"{level['agreement']:.1f}",
                f"{level['flops_reduction_network']:.1f}", f"{level['ms_p50']:.2f}",
            )  # fmt: skip
        console.print(ladder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True, help="folder of nets.py and the weights")
    parser.add_argument("--data", type=Path, required=True, help="npz of pictures x and labels y")
    parser.add_argument("--networks", default=",".join(NETWORKS), help="names, separated by commas")
    parser.add_argument("--limit", type=int, default=1000, help="pictures for the ladder")
    parser.add_argument("--out", type=Path, default=Path("build/networks"))
    args = parser.parse_args()
    sys.path.insert(0, str(args.models))
    images, labels = read_pictures(args.data)
    if labels is None:
        parser.error(f"{args.data} has no labels")
    args.out.mkdir(parents=True, exist_ok=True)
    found = []
    for name in args.networks.split(","):
        kept = args.out / f"{name}.json"
        if not kept.exists():
            kept.write_text(json.dumps(check(name, args.models, images, labels, args.limit, args.out), indent=1))
        found.append(json.loads(kept.read_text()))
    show(found)


if __name__ == "__main__":
    main()
