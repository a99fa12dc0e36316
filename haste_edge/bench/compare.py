"""The comparison from end to end: set up, export, start, compare outputs, take time. What cannot take part is named."""

from __future__ import annotations

import contextlib
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import haste_runtime
from haste_edge.bench.environments import bench_folder, python_of
from haste_edge.bench.own_exports import write_own
from haste_edge.bench.peers import Export, Own, Peer, requirements
from haste_edge.bench.rounds import Contestant, laid_out_like, largest_error, relative, summary
from haste_edge.bench.source import FOREIGN, Source, export, folder_of, save_program
from haste_edge.compile import VerificationError
from haste_edge.errors import ModelError, UnsupportedModelError
from haste_edge.processes import ProcessError, Worker, environment
from haste_runtime.bundle import Bundle
from haste_runtime.cli.system import cpu
from haste_runtime.errors import HasteError
from haste_runtime.kernels.compile import compiled_frame

OURS = "haste-edge"
SAME = 2e-3  # of the largest output: float32 in another order, Winograd included
ALLOWED = {"fp32": SAME, "fp16": 0.02, "int8": 0.3}  # what storing weights like that may change at level 0
OnStep = Callable[[str], None]


@dataclass(frozen=True)
class Missing:
    """A runtime that takes no part, and why, in a line."""

    runtime: str
    reason: str


@dataclass(frozen=True)
class Ready:
    """A peer that can be started: its interpreter, and the folder with the network in its format."""

    peer: Peer
    python: Path
    folder: Path


@dataclass
class Comparison:
    """Everything that has been found out. contestants: ours first. about: version and settings of each runtime."""

    contestants: list[Contestant] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    about: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    def skip(self, runtime: str, error: HasteError, on_step: OnStep) -> None:
        reason = " ".join(error.message.split())
        self.missing.append(Missing(runtime, reason))
        on_step(f"{runtime} is left out: {reason}")


def prepare(peers: Sequence[Peer], source: Source, comparison: Comparison, on_step: OnStep) -> list[Ready]:
    """Environments and exported files for the peers; those that fail are skipped. Raises ModelError.

    Our own kernels are compiled too, if they are not: a worker that had to would show the memory that takes.
    """
    compiled_frame()
    root = bench_folder()
    networks, homes = root / "networks", root / "environments"
    for folder in (networks, homes):
        folder.mkdir(exist_ok=True)
    folder = folder_of(source, networks) if peers else networks
    if peers and source.own is None:
        save_program(source, folder)
    ready = []
    for peer in peers:
        try:
            ready.append(_prepared(peer, source, folder, homes, on_step))
        except (ProcessError, ModelError, UnsupportedModelError) as error:
            comparison.skip(peer.name, error, on_step)
    return ready


def _prepared(peer: Peer, source: Source, folder: Path, homes: Path, on_step: OnStep) -> Ready:
    """The files that it reads are made first, for they are what may be refused, and costs little."""
    steps = peer.exports if source.own is None else peer.own
    for own in steps:
        if isinstance(own, Own) and source.own is not None:
            write_own(own, folder, source.own, on_step)
    scripts = [step for step in steps if isinstance(step, Export)]
    if any(not step.read.endswith(".onnx") for step in scripts):
        save_program(source, folder)
    names = dict.fromkeys([*(step.environment for step in scripts), peer.environment])
    pythons = {name: python_of(name, requirements(name), homes, on_step) for name in names}
    for step in scripts:
        export(step, folder, source.shape, pythons, on_step)
    return Ready(peer, pythons[peer.environment], folder)


def ours(bundle: Path, log: Path, threads: int) -> Worker:
    """Our own worker, which runs where we do. Raises HasteError."""
    runtime = Path(haste_runtime.__file__).parents[1]
    command = [sys.executable, FOREIGN / "worker.py", FOREIGN / "runtime_haste.py", bundle, str(threads)]
    try:
        return Worker(command, log, environment(threads, runtime))
    except ProcessError as error:
        raise HasteError(f"The bundle does not run: {error.message}.", "Try it with haste-run bench.") from error


@contextlib.contextmanager
def started(
    ready: Sequence[Ready], bundle: Path, threads: int, logs: Path, comparison: Comparison, on_step: OnStep
) -> Iterator[dict[str, Worker]]:
    """The workers by name, ours first; all of them have ended when this is left."""
    workers: dict[str, Worker] = {}
    with contextlib.ExitStack() as stack:
        workers[OURS] = ours(bundle, logs / "ours.log", threads)
        stack.callback(workers[OURS].close)
        for one in ready:
            name, adapter = one.peer.name, FOREIGN / one.peer.adapter
            command = [one.python, FOREIGN / "worker.py", adapter, one.folder, str(threads)]
            try:
                workers[name] = Worker(command, logs / f"{name}.log", environment(threads))
            except ProcessError as error:
                comparison.skip(name, error, on_step)
                continue
            stack.callback(workers[name].close)
        yield workers


def check_outputs(
    workers: Mapping[str, Worker], levels: Sequence[int], frames: NDArray[np.float32], expected: NDArray[np.float32],
    bundle: Bundle, scratch: Path, comparison: Comparison, on_step: OnStep, own_exports: bool = False,
) -> None:  # fmt: skip
    """Fills ``comparison`` with contestants whose outputs are right.

    frames: (N, C, H, W) or (N, F). expected: what the source gives for them. Our level 0 must be the source's function
    within what the bundle's weights allow, or this raises VerificationError; others must be too, or they are left out.
    own_exports: the others have the bundle's weights, and so must compute what level 0 does, however these are stored.
    """
    inputs, outputs = scratch / "frames.npy", scratch / "outputs.npy"
    np.save(inputs, frames)
    exact: NDArray[np.float32] | None = None
    for name, worker in workers.items():
        try:
            comparison.about[name] = worker.hello
            worker.ask(do="inputs", path=str(inputs))
            own = [f"level {number}" for number in dict.fromkeys([0, *levels])]
            for variant in own if name == OURS else worker.hello["variants"]:
                answer = worker.ask(do="outputs", variant=variant, path=str(outputs))
                got = laid_out_like(expected, np.load(outputs, allow_pickle=False))
                level = int(variant.split()[1]) if name == OURS else None
                error = largest_error(got, expected)
                allowed = ALLOWED[bundle.dtype] if name == OURS or own_exports else SAME
                apart = 0.0  # from our level 0
                if name == OURS and level == 0:
                    exact = got
                    if error > allowed:
                        raise VerificationError(
                            f"Level 0 of the bundle differs from the source by {error:.1e} of the largest output.",
                            "Give the model and weights that the bundle was compiled from.",
                        )
                if level is None and exact is not None and (own_exports or bundle.dtype == "fp32"):
                    apart = largest_error(got, exact)
                    error = max(error, apart)
                if level is None and (error > allowed or apart > SAME):
                    said = ProcessError(f"{variant or 'its output'} differs by {error:.1e} of the largest output")
                    comparison.skip(f"{name} {variant}".rstrip(), said, on_step)
                    continue
                comparison.contestants.append(
                    Contestant(name, variant, worker, level, error, answer["memory_mb"] if not level else None)
                )
        except ProcessError as error:
            if name == OURS:
                raise HasteError(f"The bundle does not run: {error.message}.") from error
            comparison.skip(name, error, on_step)


def as_json(comparison: Comparison, accuracy: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Rows and what is missing. accuracy: level -> top1 and agreement, where they were measured; a dense peer computes
    what level 0 does."""
    base = comparison.contestants[0]
    rows = []
    for one in comparison.contestants:
        about = comparison.about[one.runtime]
        row: dict[str, Any] = {
            "runtime": one.runtime,
            "version": about["version"],
            "settings": about["settings"],
            "variant": one.variant,
            "level": one.level,
            "largest_error": float(f"{one.error:.3g}"),
            "memory_mb": None if one.memory_mb is None else round(one.memory_mb, 1),
            "kernels_mb": None if one.memory_mb is None else about["kernels_mb"],
            "rounds": len(one.wall),
            "frames": sum(map(len, one.wall)),
            "failure": one.failure,
            "wall_ms": None,
            "cpu_ms": None,
            "relative": None,
            "top1": None,
            "agreement": None,
        }
        if one.wall:
            share = relative(one, base)
            row |= {"wall_ms": summary(one.wall), "cpu_ms": summary(one.cpu)}
            row["relative"] = None if share is None else round(share, 4)
        row |= {k: accuracy.get(one.level or 0, {}).get(k) for k in ("top1", "agreement")}
        rows.append(row)
    return {"rows": rows, "missing": [vars(missing) for missing in comparison.missing]}


def machine() -> dict[str, Any]:
    """What a reader must know to compare the numbers with his own."""
    return {
        "cpu": cpu(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "numba": metadata.version("numba"),
        "date": time.strftime("%Y-%m-%d"),
    }
