"""Instructions that a runtime takes for a frame under emulation, and where most of them are spent."""

from __future__ import annotations

import itertools
import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emulation import plugin
from emulation.architectures import EmulationError
from emulation.machine import Machine, environment
from haste_edge.bench.source import FOREIGN

SCRIPT = Path(__file__).parent / "count_frames.py"


@dataclass(frozen=True)
class Block:
    """A stretch of machine code without a jump in it, how often it ran, and its bytes."""

    executions: int
    address: int
    code: bytes


@dataclass(frozen=True)
class Variant:
    """frames: instructions of each. blocks: of the last frame, those that took most. outputs: (frames, elements)."""

    frames: list[int]
    blocks: list[Block]
    outputs: NDArray[np.float32]

    @property
    def mean(self) -> float:
        return float(np.mean(self.frames))


@dataclass(frozen=True)
class Counted:
    """start: instructions from where numpy is imported until the runtime is ready for a frame."""

    version: str
    settings: str
    start: int
    variants: dict[str, Variant]


def read_marks(text: str) -> tuple[list[int], list[list[Block]]]:
    """The totals at the marks, and the hottest blocks before each, of what the plugin has written."""
    totals: list[int] = []
    blocks: list[list[Block]] = []
    for line in text.splitlines():
        kind, first, *rest = line.split()
        if kind == "mark":
            totals.append(int(first))
            blocks.append([])
        else:
            blocks[-1].append(Block(int(first), int(rest[0], 16), bytes.fromhex(rest[1])))
    return totals, blocks


def count(
    machine: Machine, adapter: str, model: Path, frames: NDArray[np.float32], overlays: Sequence[Path],
    variables: Mapping[str, str], variants: Sequence[str] = (), blocks: int = 0, timeout: float = 3600,
) -> Counted:  # fmt: skip
    """Run an adapter of haste_edge/bench/foreign. frames: (N, C, H, W). variants: their names, by default all.

    Raises EmulationError where the runtime fails or crashes the emulator.
    """
    library = plugin.build()
    with tempfile.TemporaryDirectory(prefix="haste-count-") as scratch:
        marks, inputs = Path(scratch) / "marks", Path(scratch) / "frames.npy"
        np.save(inputs, frames)
        command = machine.qemu(("-plugin", f"{library},out={marks},blocks={blocks}"))
        command += [str(part) for part in (SCRIPT, FOREIGN, adapter, model, inputs, *variants)]
        try:
            done = subprocess.run(
                command, env=environment(overlays, variables), capture_output=True, text=True, timeout=timeout
            )
        except subprocess.TimeoutExpired:
            raise EmulationError(f"{adapter} did not end within {timeout:.0f} s.") from None
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise EmulationError(f"{adapter} failed under emulation ({done.returncode}): {said[:200]}")
        totals, hottest = read_marks(marks.read_text())
    about: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    taken, place, n = {}, 3, len(frames)
    for name in about["variants"]:
        span = totals[place : place + n + 1]
        outputs = np.array(about["outputs"][name], np.float32)
        taken[name] = Variant([b - a for a, b in itertools.pairwise(span)], hottest[place + n], outputs)
        place += n + 1
    return Counted(about["version"], about["settings"], totals[2] - totals[1], taken)
