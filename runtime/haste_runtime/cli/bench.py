"""``haste-run bench``: how long a frame takes at each level, in the words of TFLite's benchmark tool."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haste_runtime.backends import NAMES
from haste_runtime.cli.common import note, parse_levels, positive_integer, print_json
from haste_runtime.errors import InputError
from haste_runtime.flops import Totals
from haste_runtime.session import Session

SYNTHETIC_FRAMES = 4  # taken in turn, so that no frame is measured on the data of the one before
MIN_RUNS, MIN_SECONDS = 10, 1.0  # both must be reached where --runs does not say


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", help="the .haste file")
    parser.add_argument("input", nargs="?", help="a picture or .npy as for infer; without it, pictures of pink noise")
    parser.add_argument("--levels", default="all", help='"all" (the default), or levels and ranges such as 0,2,4..6')
    parser.add_argument("--backend", choices=NAMES, default="auto")
    parser.add_argument("--threads", type=positive_integer, default=1)
    runs_help = f"frames per level (without it at least {MIN_RUNS}, for at least {MIN_SECONDS:g} s)"
    parser.add_argument("--runs", type=positive_integer, help=runs_help)
    parser.add_argument("--warmup", type=positive_integer, default=3, help="frames per level that are not counted (3)")
    parser.add_argument("--fps", type=float, help="start this many frames a second, as a camera does, and rest between")


def run(options: argparse.Namespace) -> None:
    from haste_runtime.cli import system

    if options.fps is not None and not 0 < options.fps <= 1e4:
        raise InputError(f"A camera of {options.fps:g} frames a second makes no sense.", "Give --fps as in --fps 15.")
    started = time.perf_counter()
    with Session(options.bundle, options.backend, options.threads) as session:
        init_ms = 1000 * (time.perf_counter() - started)
        levels = parse_levels(options.levels, len(session.levels))
        x = _frames(session, options.input)
        result: dict[str, Any] = {
            "bundle": options.bundle,
            "input": options.input or "pink noise",
            "backend": session.backend,
            "threads": options.threads,
            "fps": options.fps,
            "cpu": system.cpu(),
            "init_ms": round(init_ms, 3),
            "levels": [],
        }
        say = note if options.json else print
        say(f"{options.bundle}: {session.backend} backend ({session.backend_reason}), threads: {options.threads}")
        say(f"input: {result['input']}; milliseconds, batch 1")
        say(f"Init: {init_ms:.1f} ms")
        say("level  First inference    Warmup  Inference min    median       p90  FLOPs saved  agreement (expected)")
        for level in levels:
            row = _measure(session, level, x, options)
            result["levels"].append(row)
            inference = row["inference_ms"]
            agreement = "-" if row["agreement"] is None else f"{row['agreement']:.1f} %"
            say(
                f"{level:5d}  {row['first_inference_ms']:15.2f}  {row['warmup_ms']:8.2f}  {inference['min']:13.2f}"
                f"  {inference['median']:8.2f}  {inference['p90']:8.2f}  {row['flops_reduction_network']:9.1f} %"
                f"  {agreement:>20}"
            )
    result["peak_memory_mb"] = system.peak_memory_mb()
    result["temperature"] = system.temperature()
    result["throttling"] = system.throttling()
    if result["peak_memory_mb"] is not None:
        say(f"peak memory: {result['peak_memory_mb']:.1f} MB")
    if result["throttling"] and result["throttling"]["now"]:
        say(f"The processor is held back now: {', '.join(result['throttling']['now'])}.")
    if options.json:
        print_json(result)


def _frames(session: Session, path: str | None) -> list[dict[str, NDArray[np.float32]]]:
    """Batches of one frame each."""
    from haste_runtime.cli.synthetic import synthetic_inputs
    from haste_runtime.preprocessing import read_input

    inputs, preprocessing = session.bundle.graph.inputs, session.bundle.preprocessing
    if path is None:
        batches = {v.name: synthetic_inputs(SYNTHETIC_FRAMES, v.shape, preprocessing) for v in inputs}
    elif len(inputs) == 1:
        batches = {inputs[0].name: read_input(path, inputs[0].shape, preprocessing)}
    else:
        raise InputError(f"This network has {len(inputs)} inputs; a file can feed only one.", "Leave the file out.")
    count = len(next(iter(batches.values())))
    return [{name: batch[i : i + 1] for name, batch in batches.items()} for i in range(count)]


def _measure(
    session: Session, level: int, x: list[dict[str, NDArray[np.float32]]], options: argparse.Namespace
) -> dict[str, Any]:
    """One level. "First inference" is its first frame, warm-up the ones after that, inference what is then counted."""
    session.level = level
    period = 0.0 if options.fps is None else 1.0 / options.fps
    totals = Totals(0, 0, 0, 0)

    def frames() -> Iterator[float]:
        """Milliseconds of one frame after the other, for ever, at the cadence asked for."""
        nonlocal totals
        number, due = 0, time.perf_counter()
        while True:
            time.sleep(max(0.0, due - time.perf_counter()))
            due = max(due + period, time.perf_counter())
            session.run(x[number % len(x)])
            totals += session.stats.totals
            number += 1
            yield session.stats.ms

    stream = frames()
    first = next(stream)
    warmup = [next(stream) for _ in range(options.warmup)]
    totals = Totals(0, 0, 0, 0)
    counted: list[float] = []
    started = time.perf_counter()
    while len(counted) < (options.runs or MIN_RUNS) or (
        options.runs is None and time.perf_counter() - started < MIN_SECONDS
    ):
        counted.append(next(stream))
    p50, p90 = np.percentile(counted, [50, 90])
    return {
        "level": level,
        "first_inference_ms": round(first, 4),
        "warmup_ms": round(float(np.mean(warmup)), 4),
        "warmup_runs": len(warmup),
        "runs": len(counted),
        "inference_ms": {"min": round(min(counted), 4), "median": round(float(p50), 4), "p90": round(float(p90), 4)},
        "flops_reduction": round(totals.flops_reduction, 3),
        "flops_reduction_network": round(totals.flops_reduction_network, 3),
        "agreement": session.levels[level].agreement,
    }
