"""``haste-edge bench``: a bundle beside other runtimes on the same network."""

from __future__ import annotations

import json as json_
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from haste_edge.cli.common import Debug, Json, Reporter, print_table
from haste_runtime.cli.common import INTERRUPTED, note, parse_levels, print_json

if TYPE_CHECKING:
    from haste_edge.bench.compare import Comparison
    from haste_edge.bench.source import Source
    from haste_runtime.bundle import Bundle

FRAMES = 8  # taken in turn, so that no frame is measured on the data of the one before


def bench(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The .haste file.")],
    source: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="The model it was compiled from: package.module:factory, or a .pt2, .onnx or .tflite file. All "
            "outputs are compared with it. Without it the bundle's own dense network is taken.",
        ),
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="The factory's weights: a safetensors state dict.")] = None,
    input: Annotated[str | None, typer.Option(help="Input shape; by default the bundle's.")] = None,
    own_exports: Annotated[
        bool,
        typer.Option(
            "--own-exports",
            help="Give the others what `haste-edge export` writes, instead of PyTorch's exports of the model. "
            "They get that anyway where MODEL is a file of another kind.",
        ),
    ] = False,
    against: Annotated[
        str, typer.Option(help='"all", or some of onnxruntime,openvino,litert,tflite,ncnn,torch.')
    ] = "onnxruntime,openvino,litert,tflite,ncnn,torch",
    levels: Annotated[str, typer.Option(help='"all", or levels and ranges such as 0,2,4..6.')] = "all",
    threads: Annotated[int, typer.Option(min=1, help="For one inference, the same for all.")] = 1,
    data: Annotated[
        Path | None, typer.Option(help="An .npz with x uint8 [N, H, W, 3] and y int64 [N]: frames, and top-1 by level.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Take only the first N pictures for top-1.")] = None,
    evaluated: Annotated[
        Path | None, typer.Option(help="Take top-1 from what `haste-edge evaluate --json` wrote, instead of measuring.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="In each, every contestant runs one burst of frames.")] = 15,
    burst: Annotated[int, typer.Option(min=1, help="Milliseconds of a burst, about.")] = 50,
    plot: Annotated[Path | None, typer.Option(help="Also draw latency against top-1 into this .png.")] = None,
    prepare: Annotated[
        bool, typer.Option("--prepare", help="Only set up the others and export the network, and end.")
    ] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Time a bundle and other runtimes on the same network, taking turns, each in a process of its own.

    The others are installed on demand into environments in the user's cache folder. A torch network they get through
    torch.onnx, litert-torch or pnnx; one that came as an .onnx or .tflite file as haste-edge's own exports of the
    bundle, but for torch itself, which reads neither and gets the bundle's network as a program.

    Outputs are compared first, with the model and with ours. Whoever cannot take part is named. All compute in float32
    on the same number of threads. Nothing is left running when this ends, however it ends.
    """
    from haste_edge import processes
    from haste_edge.bench import compare, peers
    from haste_edge.bench.source import read_source
    from haste_runtime.bundle import read_bundle

    chosen = peers.choose(against)
    with processes.terminated_like_interrupted(), Reporter() as reporter:
        content = read_bundle(bundle)
        numbers = parse_levels(levels, len(content.plan.levels))
        accuracy: Mapping[int, Mapping[str, Any]] = {} if evaluated is None else read_evaluation(evaluated)
        frames, frames_name = _frames(content, data)
        network = read_source(content, source, weights, input, own_exports)
        comparison = compare.Comparison()
        ready = compare.prepare(chosen, network, comparison, reporter.step)
        if prepare:
            names = ", ".join(one.peer.name for one in ready) or "none"
            note(f"Ready: {names}. Without --prepare the comparison begins at once.")
            if json:
                print_json({"ready": [o.peer.name for o in ready], "missing": [vars(m) for m in comparison.missing]})
            return
        with tempfile.TemporaryDirectory(prefix="haste-bench-") as scratch:
            logs = Path(scratch)
            with compare.started(ready, bundle, threads, logs, comparison, reporter.step) as workers:
                expected = network.outputs(frames)
                compare.check_outputs(
                    workers, numbers, frames, expected, content, logs, comparison, reporter.step,
                    own_exports=network.own is not None,
                )  # fmt: skip
                complete = _measure(comparison, rounds, burst / 1000, reporter)
        if complete and data is not None and evaluated is None:
            accuracy = _accuracy(bundle, data, numbers, limit, reporter)
    if not comparison.contestants[0].wall:
        note("Interrupted before anything was measured.")
        raise typer.Exit(INTERRUPTED)
    about = {
        "bundle": str(bundle), "source": network.name,
        "own_exports": network.own is not None, "dtype": content.dtype, "frames": frames_name,
        "threads": threads, "rounds": rounds, "burst_ms": burst, "complete": complete, "machine": compare.machine(),
    }  # fmt: skip
    result = {**about, **compare.as_json(comparison, accuracy)}
    _show(result, numbers, json, plot, network)
    if not complete:
        note("Interrupted: the numbers are of the rounds measured so far.")
        raise typer.Exit(INTERRUPTED)


def _measure(comparison: Comparison, rounds: int, seconds: float, reporter: Reporter) -> bool:
    """Runs the rounds with a progress bar; False where Ctrl-C ended them early."""
    from haste_edge.bench.rounds import run_rounds, steps

    total = steps(comparison.contestants, rounds)
    try:
        for done in run_rounds(
            comparison.contestants, rounds, seconds,
            on_failure=lambda one: reporter.step(f"{one.runtime} stopped: {one.failure}"),
        ):  # fmt: skip
            reporter.progress("Measuring", done, total)
    except KeyboardInterrupt:
        return False
    return True


def _show(result: dict[str, Any], levels: list[int], json: bool, plot: Path | None, network: Source) -> None:
    from haste_edge.bench.plot import save_comparison_plot
    from haste_edge.bench.report import COLUMNS, cells, ordered

    result["rows"] = ordered([row for row in result["rows"] if row["level"] is None or row["level"] in (0, *levels)])
    if plot is not None:
        subtitle = f"{result['machine']['cpu']['model']}, {result['threads']} thread(s), {result['machine']['date']}"
        save_comparison_plot(result["rows"], plot, f"{Path(result['bundle']).stem} beside dense runtimes", subtitle)
    if json:
        print_json(result)
        return
    print_table(COLUMNS, [cells(row) for row in result["rows"]])
    print(
        f"{network.name}; {result['frames']}; {result['threads']} thread(s), {result['rounds']} rounds; "
        f"{result['machine']['cpu']['model']}"
    )
    print('"of level 0": of the time that level 0 took in the same round, median over rounds')
    print("memory: resident, over Python and numpy; error: of the largest output, against the source")
    for missing in result["missing"]:
        print(f"{missing['runtime']}: left out, {missing['reason']}")
    if plot is not None:
        print(f"Plot: {plot}")


def _frames(bundle: Bundle, data: Path | None) -> tuple[NDArray[np.float32], str]:
    """Frames (N, C, H, W) or (N, F) as the torch model takes them, and what they are, in words."""
    from haste_edge.evaluate import read_pictures
    from haste_runtime.cli.synthetic import synthetic_inputs
    from haste_runtime.preprocessing import images_to_inputs

    shape = bundle.graph.inputs[0].shape
    if data is None:
        frames, name = synthetic_inputs(FRAMES, shape, bundle.preprocessing), "pink noise"
    else:
        frames = images_to_inputs(read_pictures(data)[0][:FRAMES], shape, bundle.preprocessing)
        name = f"pictures of {data.name}"
    last = bundle.preprocessing.layout == "NHWC" and frames.ndim == 4
    return np.ascontiguousarray(frames.transpose(0, 3, 1, 2) if last else frames), name


def _accuracy(
    bundle: Path, data: Path, levels: list[int], limit: int | None, reporter: Reporter
) -> dict[int, dict[str, float | None]]:
    """Top-1 and agreement of each level on the pictures."""
    from haste_edge.evaluate import Evaluation, read_pictures
    from haste_runtime import Session

    x, y = read_pictures(data)
    with Session(bundle) as session:
        evaluation = Evaluation(session, x[:limit], None if y is None else y[:limit], sorted({0, *levels}))
        for done, _ in enumerate(evaluation.run(), start=1):
            reporter.progress("Measuring top-1", done, evaluation.steps)
    return {r.level: {"top1": r.top1, "agreement": r.agreement} for r in evaluation.results()}


def read_evaluation(path: Path) -> dict[int, dict[str, Any]]:
    """Level -> top1 and agreement, from the JSON of ``haste-edge evaluate``. Raises DataError."""
    from haste_edge.evaluate import DataError

    try:
        content = json_.loads(path.read_text(encoding="utf-8"))
        return {int(row["level"]): {key: row[key] for key in ("top1", "agreement")} for row in content["levels"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} is not what `haste-edge evaluate --json` writes ({error}).", "Write it anew, or give --data."
        ) from error
