"""Interleaved rounds: every contestant runs a short burst in every round, in an order drawn anew each time.

So a machine that slows down while it gets warm, or is busy with something else for a while, slows all alike.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from haste_edge.processes import ProcessError

WARM = 2  # frames at the beginning of a burst that are not counted: the last burst was another's
FEWEST, MOST = 3, 400  # frames counted in a burst


class Answers(Protocol):
    """A `haste_edge.processes.Worker`, or what a test puts in its place."""

    def ask(self, **message: Any) -> dict[str, Any]: ...


@dataclass
class Contestant:
    """One row of the comparison: a variant of a runtime. level: of ours, None for others'.

    wall, cpu: nanoseconds, one array a round. failure: why it stopped, if it did.
    """

    runtime: str
    variant: str
    worker: Answers
    level: int | None = None
    error: float = 0.0
    memory_mb: float | None = None
    frames: int = FEWEST
    wall: list[NDArray[np.int64]] = field(default_factory=list)
    cpu: list[NDArray[np.int64]] = field(default_factory=list)
    failure: str = ""

    def burst(self) -> None:
        answer = self.worker.ask(do="burst", variant=self.variant, warm=WARM, frames=self.frames)
        self.wall.append(np.array(answer["wall"], np.int64))
        self.cpu.append(np.array(answer["cpu"], np.int64))

    def choose_frames(self, seconds: float) -> None:
        """As many frames a burst as take about ``seconds``."""
        answer = self.worker.ask(do="burst", variant=self.variant, warm=WARM, frames=FEWEST)
        one = float(np.median(answer["wall"])) / 1e9
        self.frames = max(FEWEST, min(MOST, round(seconds / max(one, 1e-7))))


def largest_error(outputs: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """The largest difference as a share of the largest expected output; infinite for another size or for NaN."""
    if outputs.size != expected.size:
        return float("inf")
    error = float(np.abs(outputs.reshape(-1) - expected.reshape(-1)).max() / max(np.abs(expected).max(), 1e-30))
    return error if error == error else float("inf")


def laid_out_like(expected: NDArray[np.float32], outputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Outputs (N, 1, H, W, C) of a runtime that has channels last as the expected ones lie, (N, 1, C, H, W); others as
    they are. Where shapes do not tell, it is the order in which they are nearer."""
    turned = np.moveaxis(outputs, -1, 2) if outputs.ndim == 5 else outputs
    if turned.shape != expected.shape:
        return outputs
    if outputs.shape == expected.shape and largest_error(outputs, expected) <= largest_error(turned, expected):
        return outputs
    return turned


def run_rounds(
    contestants: Sequence[Contestant], rounds: int, seconds: float, seed: int = 0,
    on_failure: Callable[[Contestant], None] = lambda contestant: None,
) -> Iterator[int]:  # fmt: skip
    """Measures; yields the number of bursts done. May be given up at any time.

    A contestant whose process fails takes no further part, and keeps what it has measured.
    """
    order, chance, done = list(contestants), random.Random(seed), 0
    for number in range(-1, rounds):  # the first round finds out how long a burst is
        chance.shuffle(order)
        for contestant in order:
            if not contestant.failure:
                try:
                    contestant.burst() if number >= 0 else contestant.choose_frames(seconds)
                except ProcessError as error:
                    contestant.failure = error.message
                    on_failure(contestant)
            done += 1
            yield done


def steps(contestants: Sequence[Contestant], rounds: int) -> int:
    """How many bursts `run_rounds` will do."""
    return len(contestants) * (rounds + 1)


def summary(rounds: Sequence[NDArray[np.int64]]) -> dict[str, float]:
    """Milliseconds over all frames."""
    every = np.concatenate(rounds) / 1e6
    p50, p90 = np.percentile(every, [50, 90])
    return {"min": round(float(every.min()), 5), "median": round(float(p50), 5), "p90": round(float(p90), 5)}


def relative(contestant: Contestant, base: Contestant) -> float | None:
    """The median over rounds of (median time / base's median time in the same round); None without a common round."""
    pairs = list(zip(contestant.wall, base.wall, strict=False))
    return float(np.median([np.median(own) / np.median(other) for own, other in pairs])) if pairs else None
