"""``haste-run infer``: one picture or array through the network."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from haste_runtime.backends import NAMES
from haste_runtime.cli.common import positive_integer, print_json
from haste_runtime.errors import InputError

if TYPE_CHECKING:
    from haste_runtime.session import Session

TOP = 5


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", help="the .haste file")
    parser.add_argument(
        "input",
        help="a picture; in a .npy uint8 (H, W, 3) is one too, and floats are the network's own, normalised input",
    )
    parser.add_argument("--level", type=int, default=0, help="how strongly to compress; 0, the default, is exact")
    parser.add_argument("--backend", choices=NAMES, default="auto")
    parser.add_argument("--threads", type=positive_integer, default=1)


def run(options: argparse.Namespace) -> None:
    from haste_runtime.preprocessing import read_input
    from haste_runtime.session import Session

    with Session(options.bundle, options.backend, options.threads) as session:
        session.level = options.level
        inputs = session.bundle.graph.inputs
        if len(inputs) != 1:
            raise InputError(
                f"This network has {len(inputs)} inputs; infer feeds networks with one.",
                "Use haste_runtime.Session in a script, with a dict of arrays.",
            )
        x = read_input(options.input, inputs[0].shape, session.bundle.preprocessing)
        frames = [_frame(session, inputs[0].name, x[i : i + 1]) for i in range(len(x))]
        level = session.levels[options.level]
        result = {
            "bundle": options.bundle,
            "input": options.input,
            "backend": session.backend,
            "level": options.level,
            "agreement": level.agreement,
            "frames": frames,
        }
    if options.json:
        print_json(result)
        return
    for number, frame in enumerate(frames):
        if len(frames) > 1:
            print(f"frame {number}")
        for entry in frame["top"]:
            print(f"{100 * entry['probability']:6.2f} %  {entry['name']}")
        for name, output in frame["outputs"].items():
            if not frame["top"]:
                print(f"{name}: shape {output['shape']}, from {output['min']:g} to {output['max']:g}")
        print(f"level {options.level}, {frame['ms']:.2f} ms ({session.backend})")
    if options.level and level.agreement is not None:
        print(f"At this level {level.agreement:.1f} % of answers are expected to be those of level 0.")


def _frame(session: Session, name: str, x: NDArray[np.float32]) -> dict[str, Any]:
    outputs = {key: array[0] for key, array in session.run({name: x}).items()}
    scores = next(iter(outputs.values())) if len(outputs) == 1 else None
    top = [] if scores is None or scores.ndim != 1 else _top(scores, session.bundle.classes)
    described = {key: _describe(array) for key, array in outputs.items()}
    return {"ms": round(session.stats.ms, 4), "top": top, "outputs": described}


def _describe(output: NDArray[np.float32]) -> dict[str, Any]:
    """Shape and range of an output, and its numbers where it is a vector."""
    about: dict[str, Any] = {
        "shape": list(output.shape),
        "min": float(output.min()),
        "max": float(output.max()),
    }
    return about | ({"values": output.tolist()} if output.ndim == 1 else {})


def _top(scores: NDArray[np.float32], classes: tuple[str, ...]) -> list[dict[str, Any]]:
    """The best classes. Scores that are probabilities already are taken as such, others go through a softmax."""
    s = scores.astype(np.float64)
    if s.min() < 0 or abs(s.sum() - 1) > 1e-3:
        s = np.exp(s - s.max())
        s /= s.sum()
    best = np.argsort(-s, kind="stable")[:TOP]
    return [
        {"index": int(i), "name": classes[i] if i < len(classes) else f"class {i}", "probability": float(s[i])}
        for i in best
    ]
