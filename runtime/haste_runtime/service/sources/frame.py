"""What every source of frames has in common."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from haste_runtime.errors import HasteError, InputError
from haste_runtime.graph import Shape
from haste_runtime.preprocessing import Preprocessing, image_to_input


@dataclass(frozen=True)
class Frame:
    """name: for people, such as a file. data: a picture, uint8 (H, W, 3) RGB, or the network's own input as floats,
    without a batch axis."""

    name: str
    data: NDArray[np.uint8] | NDArray[np.float32]

    def to_input(self, shape: Shape, preprocessing: Preprocessing) -> NDArray[np.float32]:
        """A batch of one. Raises InputError."""
        if self.data.dtype.kind != "f":
            return image_to_input(self.data, shape, preprocessing)[np.newaxis]
        return np.ascontiguousarray(self.data, np.float32)[np.newaxis]


class BadFrame(InputError):
    """One frame cannot be used: a picture that is none, a broken packet. The next one may be well."""


class SourceEnded(HasteError):
    """There are no more frames, and there will be none."""


class FrameSource:
    """Gives frames, one at a time, to one thread. Opened before the first, and again after it broke."""

    name = "source"

    def open(self) -> None:
        """May raise whatever went wrong."""

    def next(self, timeout_s: float) -> Frame | None:
        """The next frame; None if none has come in this time. Raises `BadFrame` for one that is lost, `SourceEnded`,
        or whatever breaks the source, which is then closed and opened again."""
        raise NotImplementedError

    def close(self) -> None:
        """Closing twice is harmless, and so is closing what never opened."""
