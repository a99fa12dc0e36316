"""``haste-run infer``: one picture or array through the network."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from haste_runtime.answers import best_classes, described
from haste_runtime.backends import NAMES
from haste_runtime.cli.common import latency, level_that_meets, print_json, thread_count
from haste_runtime.errors import InputError

if TYPE_CHECKING:
    from haste_runtime.session import Session


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", help="the .haste file")
    parser.add_argument(
        "input",
        help="a picture; in a .npy uint8 (H, W, 3) is one too, and floats are the network's own, normalised input",
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--level", type=int, default=0, help="how strongly to compress; 0, the default, is exact")
    latency_help = "instead of a level: the most exact one that takes no longer (needs haste-run calibrate, once)"
    how.add_argument("--latency-ms", type=latency, metavar="MS", help=latency_help)
    parser.add_argument("--backend", choices=NAMES, default="auto")
    threads_help = "a number, or auto: the best one by haste-run calibrate (1)"
    parser.add_argument("--threads", type=thread_count, default=1, help=threads_help)


def run(options: argparse.Namespace) -> None:
    from haste_runtime.preprocessing import read_input
    from haste_runtime.session import Session

    with Session(options.bundle, options.backend, options.threads) as session:
        chosen = options.level if options.latency_ms is None else level_that_meets(session, options.latency_ms)
        session.level = chosen
        inputs = session.bundle.graph.inputs
        if len(inputs) != 1:
            raise InputError(
                f"This network has {len(inputs)} inputs; infer feeds networks with one.",
                "Use haste_runtime.Session in a script, with a dict of arrays.",
            )
        x = read_input(options.input, inputs[0].shape, session.bundle.preprocessing)
        frames = [_frame(session, inputs[0].name, x[i : i + 1]) for i in range(len(x))]
        level = session.levels[chosen]
        result = {
            "bundle": options.bundle,
            "input": options.input,
            "backend": session.backend,
            "dtype": session.dtype,
            "level": chosen,
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
        print(f"level {chosen}, {frame['ms']:.2f} ms ({session.backend})")
    if chosen and level.agreement is not None:
        print(f"At this level {level.agreement:.1f} % of answers are expected to be those of level 0.")


def _frame(session: Session, name: str, x: NDArray[np.float32]) -> dict[str, Any]:
    outputs = {key: array[0] for key, array in session.run({name: x}).items()}
    top = best_classes(outputs, session.bundle.classes)
    about = {key: described(array) for key, array in outputs.items()}
    return {"ms": round(session.stats.ms, 4), "top": top, "outputs": about}
