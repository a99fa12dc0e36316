"""Compile one ONNX file, and compare and time what came out: the part of the zoo run that a process of its own does.

    python tools/zoo_measure.py compile resnet18.onnx resnet18.haste --ladder
    python tools/zoo_measure.py time resnet18.onnx resnet18.haste
    python tools/zoo_measure.py both resnet18.onnx resnet18.haste

Each prints a line of JSON. `tools/run_zoo.py` gives these commands, model after model.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from zoo_export import limit_memory

from haste_edge.compile import VerificationError, compile_model, difference, random_inputs
from haste_edge.errors import UnsupportedModelError
from haste_edge.plan.candidates import find_candidates
from haste_runtime import Session
from haste_runtime.bundle import Bundle, read_bundle
from haste_runtime.errors import HasteError
from haste_runtime.flops import NetworkFlops
from haste_runtime.operators import check_graph
from haste_runtime.preprocessing import Preprocessing, images_to_inputs

LEVELS = 4  # above level 0, where a ladder is planned
PLANNED_ON = 1  # pictures; a ladder of use takes more, but one of random weights has no accuracy to lose
PATCHES = (8,)
FRAMES = 2  # that level 0 is compared on
SEED = 7  # other inputs than the compiler's own check has
SECONDS, FEWEST, MOST = 5.0, 5, 40  # of timing one model, and rounds of it
ALLOWED = 1e-3  # error of level 0, of the largest output
AS_CALIBRATED = Preprocessing((0.45,), (0.225,))  # as `zoo_export.noise` normalises

Arrays = Mapping[str, NDArray[np.float32]]


def compile_file(model: Path, bundle: Path, ladder: bool, say: Callable[[str], None] = print) -> dict[str, Any]:
    """What became of a file, ready for JSON. Where it is refused: state, reason and refusals alone."""
    pictures, started = bundle.with_suffix(".npz"), time.perf_counter()
    options: dict[str, Any] = {"levels": 0}
    if ladder:
        np.savez(pictures, x=planning_pictures(PLANNED_ON, 256))
        # for time there would be no levels: random weights are spoilt by the first
        options = {"levels": LEVELS, "images": pictures, "patches": PATCHES, "objective": "flops"}
    try:
        report = compile_model(
            str(model), bundle, preprocessing=AS_CALIBRATED, tolerance=ALLOWED, on_step=say, **options
        )
    except UnsupportedModelError as error:
        found = [{"operation": r.operation, "reason": r.reason, "hint": r.hint} for r in error.refusals]
        return {"state": "refused", "reason": error.message.splitlines()[0], "refusals": found}
    except VerificationError as error:
        return {"state": "differs", "reason": str(error)}
    except HasteError as error:
        return {"state": "refused", "reason": str(error), "refusals": []}
    finally:
        pictures.unlink(missing_ok=True)
    seconds = time.perf_counter() - started
    content = read_bundle(bundle)
    return {
        "state": "compiled", "compile_seconds": round(seconds, 2), "planned_on": PLANNED_ON if ladder else 0,
        "operators": report.summary["operators"],
        "proof": report.largest_error, **error_of_level_0(model, content), **shares(content),
    }  # fmt: skip


def planning_pictures(count: int, size: int) -> NDArray[np.uint8]:
    """(count, size, size, 3): squares of one colour each, with some noise."""
    rng = np.random.default_rng(SEED)
    coarse = np.kron(rng.integers(0, 256, (count, 8, 8, 3)), np.ones((1, size // 8, size // 8, 1)))
    return np.clip(coarse + rng.normal(0, 16, coarse.shape), 0, 255).astype(np.uint8)


def inputs_of(bundle: Bundle, frames: int) -> Arrays:
    """By name, channels first. Pictures are of the same kind as those for planning, where a picture fits."""
    graph = bundle.graph
    shape = graph.inputs[0].shape
    if len(graph.inputs) == 1 and len(shape) == 3 and shape[0] in (1, 3):
        pictures = planning_pictures(frames, 256)
        return {graph.inputs[0].name: images_to_inputs(pictures, shape, bundle.preprocessing)}
    return random_inputs(graph, bundle.preprocessing, frames, SEED)


def onnx_session(model: Path) -> onnxruntime.InferenceSession:
    """One thread, as ours."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(model), options, ["CPUExecutionProvider"])


def error_of_level_0(model: Path, bundle: Bundle) -> dict[str, Any]:
    """In the runtime's fastest backend, frame by frame, against ONNX Runtime; a share of the largest output."""
    frames = inputs_of(bundle, FRAMES)
    own, other = [], []
    theirs = onnx_session(model)
    with Session(bundle) as session:
        for index in range(FRAMES):
            frame = {name: x[index : index + 1] for name, x in frames.items()}
            names = list(bundle.graph.outputs)
            other.append(dict(zip(names, theirs.run(None, dict(frame)), strict=True)))
            answer = session.run(frame)
            own.append(answer if isinstance(answer, dict) else {names[0]: answer})
        backend = session.backend
    wanted = {name: np.concatenate([f[name] for f in other]) for name in bundle.graph.outputs}
    got = {name: np.concatenate([f[name] for f in own]) for name in bundle.graph.outputs}
    return {"error": difference(wanted, got), "backend": backend, "outputs": {k: list(y.shape[1:]) for k, y in
            got.items()}}  # fmt: skip


def shares(bundle: Bundle) -> dict[str, Any]:
    """FLOPs, and how much of the network may merge, by what the compiler takes for a candidate; the planned levels."""
    shapes = check_graph(bundle.graph)
    counted = NetworkFlops(bundle.graph, shapes, bundle.plan, bundle.projections)
    candidates = find_candidates(bundle.graph, shapes)
    merging = [c for c in candidates if c.patches]
    total = sum(counted.dense.values())
    return {
        "input": list(bundle.graph.inputs[0].shape),
        "flops": total,
        "convolutions": len(candidates),
        "may_merge": len(merging),
        "may_merge_flops": sum(counted.dense[c.node] for c in merging),
        "levels": [
            {"level": number, "flops_saved": round(level.flops_reduction_network, 2), "layers": len(level.choices)}
            for number, level in enumerate(bundle.plan.levels)
        ],
    }


def time_file(model: Path, bundle: Path, seconds: float = SECONDS) -> dict[str, Any]:
    """Milliseconds of processor time a frame: medians over rounds in which the levels and ONNX Runtime take turns, in
    another order every time. All run in the thread that is measured."""
    content = read_bundle(bundle)
    frame = {name: np.ascontiguousarray(x) for name, x in inputs_of(content, 1).items()}
    theirs = onnx_session(model)
    rng = np.random.default_rng(SEED)
    with Session(content) as session:
        contestants = [*range(len(content.plan.levels)), None]

        def run(level: int | None) -> None:
            if level is None:
                theirs.run(None, frame)
            else:
                session.run(frame)

        def once(level: int | None) -> tuple[float, float]:
            if level is not None:
                session.level = level
            run(level)  # the one before it left another's weights in the caches
            cpu, wall = time.thread_time(), time.perf_counter()
            run(level)
            return 1e3 * (time.thread_time() - cpu), 1e3 * (time.perf_counter() - wall)

        times: dict[int | None, list[tuple[float, float]]] = {c: [once(c)] for c in contestants}
        one_round = 2e-3 * sum(first[0][1] for first in times.values())
        rounds = int(np.clip(seconds / max(one_round, 1e-6), FEWEST, MOST))
        for _ in range(rounds):
            for index in rng.permutation(len(contestants)):
                times[contestants[index]].append(once(contestants[index]))
    cpu = {c: round(median(t[0] for t in found[1:]), 3) for c, found in times.items()}
    wall = {c: round(median(t[1] for t in found[1:]), 3) for c, found in times.items()}
    numbers = range(len(content.plan.levels))
    return {
        "rounds": rounds,
        "cpu_ms": [cpu[n] for n in numbers], "wall_ms": [wall[n] for n in numbers],
        "onnxruntime_cpu_ms": cpu[None], "onnxruntime_wall_ms": wall[None],
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["compile", "time", "both"])
    parser.add_argument("model", type=Path, help="the .onnx file")
    parser.add_argument("bundle", type=Path, help="written by compile, read by time")
    parser.add_argument("--ladder", action="store_true", help=f"plan {LEVELS} levels, rather than level 0 alone")
    parser.add_argument("--memory", type=float, default=0, help="GB that may be used (Linux; default: any)")
    args = parser.parse_args(arguments)
    limit_memory(args.memory)
    result: dict[str, Any] = {"state": "compiled"}
    if args.what != "time":
        result = compile_file(args.model, args.bundle, args.ladder)
    if args.what != "compile" and result["state"] == "compiled":
        result |= time_file(args.model, args.bundle)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
