"""``haste-run bench``: how long a frame takes at each level, in the words of TFLite's benchmark tool."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haste_runtime.backends import NAMES
from haste_runtime.cli.common import (
    latency,
    level_that_meets,
    note,
    parse_levels,
    positive_integer,
    print_json,
    seconds,
    thread_count,
)
from haste_runtime.errors import InputError
from haste_runtime.flops import Totals
from haste_runtime.session import Session

MIN_RUNS, MIN_SECONDS = 10, 1.0  # both must be reached where --runs does not say


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", help="the .haste file")
    parser.add_argument("input", nargs="?", help="a picture or .npy as for infer; without it, pictures of pink noise")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--levels", help='"all" (the default), or levels and ranges such as 0,2,4..6; with --soak one')
    latency_help = "the most exact level that takes no longer (needs haste-run calibrate, once), and level 0"
    how.add_argument("--latency-ms", type=latency, metavar="MS", help=latency_help)
    parser.add_argument("--backend", choices=NAMES, default="auto")
    threads_help = "a number, or auto: the best one by haste-run calibrate (1)"
    parser.add_argument("--threads", type=thread_count, default=1, help=threads_help)
    runs_help = f"frames per level (without it at least {MIN_RUNS}, for at least {MIN_SECONDS:g} s)"
    parser.add_argument("--runs", type=positive_integer, help=runs_help)
    parser.add_argument("--warmup", type=positive_integer, default=3, help="frames per level that are not counted (3)")
    parser.add_argument("--profile", action="store_true", help="time every layer, beside the best possible")
    parser.add_argument("--fps", type=float, help="start this many frames a second, as a camera does, and rest between")
    soak_help = "run for so long, as in 30m, and tell of every minute what became of time, heat, clock and memory"
    parser.add_argument("--soak", type=seconds, metavar="TIME", help=soak_help)
    parser.add_argument("--every", type=seconds, default=60.0, metavar="TIME", help="a row of the soak (1m)")
    parser.add_argument("--policy", help="with --soak: let this policy choose the level, by this computer's signals")
    parser.add_argument("--out", type=Path, help="with --soak: append each row to this file, JSON lines, as it comes")
    parser.add_argument("--plot", type=Path, help="with --soak: draw it into this .svg, .png or .pdf (extra: plots)")


def run(options: argparse.Namespace) -> None:
    if options.soak is not None:
        from haste_runtime.cli import soak

        soak.run(options)
        return
    for option in ("policy", "out", "plot"):
        if getattr(options, option) is not None:
            raise InputError(f"--{option} goes with --soak.", "Give --soak 30m, or leave it out.")
    result = measure(options, note if options.json else print)
    if options.json:
        print_json(result)


def measure(options: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """Every level that the options ask for. say: is told the lines of the table as they come."""
    from haste_runtime.cli import system
    from haste_runtime.cli.frames import frames_for
    from haste_runtime.cli.profile_report import profile

    check_cadence(options.fps)
    started = time.perf_counter()
    with Session(options.bundle, options.backend, options.threads) as session:
        init_ms = 1000 * (time.perf_counter() - started)
        levels = parse_levels(options.levels or "all", len(session.levels))
        if options.latency_ms is not None:
            levels = sorted({0, level_that_meets(session, options.latency_ms)})
        x = frames_for(session, options.input)
        result = about(session, options) | {"init_ms": round(init_ms, 3), "levels": []}
        say(f"{options.bundle}: {describe(session)}")
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
        if options.profile:
            result["profile"] = profile(session, levels, x, say)
    result["peak_memory_mb"] = system.peak_memory_mb()
    result["temperature"] = system.temperature()
    result["throttling"] = system.throttling()
    if result["peak_memory_mb"] is not None:
        say(f"peak memory: {result['peak_memory_mb']:.1f} MB")
    if result["throttling"] and result["throttling"]["now"]:
        say(f"The processor is held back now: {', '.join(result['throttling']['now'])}.")
    return result


def check_cadence(fps: float | None) -> None:
    """Raises InputError for a cadence that no camera has."""
    if fps is not None and not 0 < fps <= 1e4:
        raise InputError(f"A camera of {fps:g} frames a second makes no sense.", "Give --fps as in --fps 15.")


def about(session: Session, options: argparse.Namespace) -> dict[str, Any]:
    """What is measured on what, for the head of the result."""
    from haste_runtime.cli import system

    return {
        "bundle": options.bundle,
        "input": options.input or "pink noise",
        "backend": session.backend,
        "dtype": session.dtype,
        "threads": session.threads,
        "fps": options.fps,
        "cpu": system.cpu(),
    }


def describe(session: Session) -> str:
    """The same in a line."""
    backend = f"{session.backend} backend ({session.backend_reason})"
    return f"{session.dtype} weights, {backend}, threads: {session.threads}"


def at_cadence(session: Session, x: list[dict[str, NDArray[np.float32]]], fps: float | None) -> Iterator[float]:
    """Milliseconds of one frame after the other, for ever, at the cadence asked for."""
    period, due = 0.0 if fps is None else 1.0 / fps, time.perf_counter()
    for number in count():
        time.sleep(max(0.0, due - time.perf_counter()))
        due = max(due + period, time.perf_counter())
        session.run(x[number % len(x)])
        yield session.stats.ms


def _measure(
    session: Session, level: int, x: list[dict[str, NDArray[np.float32]]], options: argparse.Namespace
) -> dict[str, Any]:
    """One level. "First inference" is its first frame, warm-up the ones after that, inference what is then counted."""
    session.level = level
    totals = Totals(0, 0, 0, 0)

    def measured() -> Iterator[float]:
        nonlocal totals
        for ms in at_cadence(session, x, options.fps):
            totals += session.stats.totals
            yield ms

    stream = measured()
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
