"""Compare a bundle, level by level, with the file it was compiled from, in the file's own runtime on pictures.

    python tools/check_file.py model.onnx net.haste --pictures FOLDER --limit 60

For each level and output: the largest and the mean difference over all pictures, as a share of the largest number that
the file itself gives, and on how many pictures the largest score is the same one.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from haste_edge.frontends import LoadedModel, load_model
from haste_edge.unlabelled import load_unlabelled
from haste_runtime import Session

GROUP = 50  # pictures that the file is run on at once
Outputs = list[NDArray[np.float32]]  # (pictures, ...) each


def of_the_file(loaded: LoadedModel, x: NDArray[np.float32]) -> Outputs:
    """What the original itself computes. x: (N, C, H, W)."""
    groups = np.array_split(x, -(-len(x) // GROUP))
    answers = [loaded.reference(torch.from_numpy(group)) for group in track(groups, "the file itself")]
    parts = [[a] if isinstance(a, torch.Tensor) else list(a) for a in answers]
    return [torch.cat(column).numpy() for column in zip(*parts, strict=True)]


def of_the_bundle(session: Session, x: NDArray[np.float32]) -> Outputs:
    """Channels first, too."""
    last = session.bundle.preprocessing.layout == "NHWC"
    outputs: list[list[NDArray[np.float32]]] = []
    for frame in track(x, f"level {session.level}", disable=len(x) == 1):
        answer = session.run(frame[np.newaxis].transpose(0, 2, 3, 1) if last else frame[np.newaxis])
        values = list(answer.values()) if isinstance(answer, dict) else [answer]
        outputs.append([y.transpose(0, 3, 1, 2) if last and y.ndim == 4 else y for y in values])
    return [np.concatenate(column) for column in zip(*outputs, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="an .onnx or .tflite file")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--pictures", type=Path, required=True, help="folder or .npz, as for compile --images")
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--backend", default="auto")
    options = parser.parse_args()
    table = Table("level", "output", "largest difference %", "mean difference %", "same largest score %")
    with Session(options.bundle, options.backend) as session:
        shape, preprocessing = session.bundle.graph.inputs[0].shape, session.bundle.preprocessing
        x = load_unlabelled(options.pictures, shape, preprocessing)[: options.limit].numpy()
        loaded = load_model(str(options.model))
        if [value.shape for value in loaded.graph.inputs] != [shape]:
            raise SystemExit(f"{options.model} takes other inputs than the bundle.")
        wanted = of_the_file(loaded, x)
        for level in range(len(session.bundle.plan.levels)):
            session.level = level
            for name, file, ours in zip(session.bundle.graph.outputs, wanted, of_the_bundle(session, x), strict=True):
                error = np.abs(ours - file) / max(float(np.abs(file).max()), 1e-30)
                same = np.mean(ours.reshape(len(x), -1).argmax(1) == file.reshape(len(x), -1).argmax(1))
                figures = f"{100 * error.max():.2g}", f"{100 * error.mean():.2g}", f"{100 * same:.1f}"
                table.add_row(str(level), name, *figures)
    console = Console()
    console.print(f"{options.bundle}: {len(x)} pictures, the {session.backend} backend")
    console.print(table)


if __name__ == "__main__":
    main()
