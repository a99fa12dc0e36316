"""Measure a bundle on pictures: per level accuracy, agreement with the exact network, FLOPs and milliseconds.

Levels take turns on small blocks of pictures, so that a machine that slows down while it gets warm slows all of them
alike, and an interrupted evaluation has something to say about every level.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haste_runtime import Session
from haste_runtime.errors import HasteError, InputError
from haste_runtime.flops import Totals
from haste_runtime.preprocessing import image_to_input

# What zipfile and numpy raise on a file that is not what it should be; RuntimeError: encrypted
UNREADABLE = (OSError, ValueError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error)
BLOCK = 20  # pictures a level gets before the next level's turn

Images = NDArray[np.uint8]
Pictures = Images | Sequence[Images]
Labels = NDArray[np.int64]


class DataError(HasteError, ValueError):
    """A file of pictures or labels can't be read, or does not fit the network."""

    exit_code = 3


@dataclass(frozen=True)
class LevelResult:
    """One level. Percentages are 0 to 100.

    frames: pictures measured. top1: right answers, None without labels. agreement: answers equal to those of the same
    backend's level 0. flops_reduction: measured on these pictures, over the layers that may merge;
    flops_reduction_network: over all convolutions and linear layers. ms_p50, ms_p90: milliseconds of the network alone,
    batch 1.
    """

    level: int
    frames: int
    top1: float | None
    agreement: float
    flops_reduction: float
    flops_reduction_network: float
    ms_p50: float
    ms_p90: float

    def as_json(self) -> dict[str, Any]:
        digits = {"ms_p50": 4, "ms_p90": 4}
        return {k: round(v, digits.get(k, 3)) if isinstance(v, float) else v for k, v in asdict(self).items()}


@dataclass
class _Tally:
    """What a level has shown so far."""

    right: int = 0
    agreed: int = 0
    totals: Totals = field(default_factory=lambda: Totals(0, 0, 0, 0))
    ms: list[float] = field(default_factory=list)


def read_pictures(path: str | Path) -> tuple[Images, Labels | None]:
    """Pictures and labels from an ``.npz``: x uint8 (N, H, W, 3) RGB and, if there, y integers (N,).

    Raises DataError for a file that can't be read or holds something else; nothing in it is ever unpickled.
    """
    hint = "It must be made by numpy.savez: x uint8 [N, H, W, 3] and, for top-1, y int64 [N]."
    try:
        arrays = _read_npz(path)
    except FileNotFoundError as error:
        raise DataError(f"There is no file {path}.", hint) from error
    except UNREADABLE as error:
        raise DataError(f"{path} cannot be read as an .npz file ({error}).", hint) from error
    if "x" not in arrays:
        raise DataError(f"{path} has no array called x.", hint)
    x, y = arrays["x"], arrays.get("y")
    if x.dtype != np.uint8 or x.ndim != 4 or x.shape[3] != 3 or 0 in x.shape:
        raise DataError(f"{path}: x is {x.dtype} of shape {x.shape}, not pictures.", hint)
    if y is not None and (y.dtype.kind not in "iu" or y.shape != x.shape[:1]):
        raise DataError(
            f"{path}: y is {y.dtype} of shape {y.shape}, not one label for each of {len(x)} pictures.", hint
        )
    return x, None if y is None else y.astype(np.int64)


def _read_npz(path: str | Path) -> dict[str, NDArray[Any]]:
    """The arrays x and y of the file, as far as it has them."""
    with zipfile.ZipFile(path) as archive:
        members = {name: f"{name}.npy" for name in ("x", "y") if f"{name}.npy" in archive.namelist()}
        arrays = {}
        for name, member in members.items():
            with archive.open(member) as file:
                arrays[name] = np.lib.format.read_array(file, allow_pickle=False)
        return arrays


class Evaluation:
    """One measurement of a session.

    images: uint8 (N, H, W, 3) RGB, or N of (H, W, 3) of any sizes, preprocessed as the bundle says. labels: integers
    (N,), or None. levels: those to report; level 0 runs in any case, because agreement is with it. Raises DataError for
    pictures without labels that fit, and InputError for a network that does not turn one picture into one vector of
    scores.

        evaluation = Evaluation(session, images, labels, levels)
        for _ in evaluation.run():  # a frame has been measured
            ...
        evaluation.results()
    """

    def __init__(self, session: Session, images: Pictures, labels: Labels | None, levels: Sequence[int]) -> None:
        inputs, outputs = session.bundle.graph.inputs, session.outputs
        if len(inputs) != 1 or len(outputs) != 1 or len(outputs[0].shape) != 2:
            raise InputError(
                "Only a network with one picture as input and one vector of class scores as output can be evaluated; "
                f"this one has inputs {[v.shape for v in inputs]} and outputs {[o.shape[1:] for o in outputs]}.",
                "Use haste_runtime.Session in a script of your own.",
            )
        scores = outputs[0].shape[1]
        if labels is not None and scores is not None and len(labels) and not 0 <= labels.min() <= labels.max() < scores:
            raise DataError(
                f"Labels go from {labels.min()} to {labels.max()}, but the network has {scores} classes.",
                "Labels count from 0, in the order of the network's outputs.",
            )
        self._session, self._images, self._labels = session, images, labels
        self._levels = list(levels)
        self._shape = inputs[0].shape
        self._reference = np.zeros(len(images), np.int64)
        self._tallies = {level: _Tally() for level in sorted({0, *levels})}

    @property
    def steps(self) -> int:
        """How many frames `run` will measure."""
        return len(self._images) * len(self._tallies)

    def run(self) -> Iterator[int]:
        """Measures; yields the level after every frame. May be given up at any time."""
        for level in self._tallies:
            self._answer(0, level)  # the first frame at a level touches memory that no later frame has to
        for start in range(0, len(self._images), BLOCK):
            for level in self._tallies:  # level 0 first: the others are compared with its answers
                for index in range(start, min(start + BLOCK, len(self._images))):
                    self._measure(index, level)
                    yield level

    def _answer(self, index: int, level: int) -> int:
        x = image_to_input(self._images[index], self._shape, self._session.bundle.preprocessing)
        self._session.level = level
        return int(self._session.run(x[np.newaxis]).argmax())

    def _measure(self, index: int, level: int) -> None:
        answer = self._answer(index, level)
        stats, tally = self._session.stats, self._tallies[level]
        if level == 0:
            self._reference[index] = answer
        tally.ms.append(stats.ms)
        tally.totals += stats.totals
        tally.agreed += answer == self._reference[index]
        tally.right += self._labels is not None and answer == self._labels[index]

    def results(self) -> list[LevelResult]:
        """What was measured so far, in the order the levels were asked for; levels without a frame are left out."""
        return [self._result(level, self._tallies[level]) for level in self._levels if self._tallies[level].ms]

    def _result(self, level: int, tally: _Tally) -> LevelResult:
        frames = len(tally.ms)
        p50, p90 = np.percentile(tally.ms, [50, 90])
        return LevelResult(
            level=level,
            frames=frames,
            top1=None if self._labels is None else 100.0 * tally.right / frames,
            agreement=100.0 * tally.agreed / frames,
            flops_reduction=tally.totals.flops_reduction,
            flops_reduction_network=tally.totals.flops_reduction_network,
            ms_p50=float(p50),
            ms_p90=float(p90),
        )
