"""What a measurement runs on: a file of the user's, or pictures of pink noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from haste_runtime.cli.synthetic import synthetic_inputs
from haste_runtime.errors import InputError
from haste_runtime.preprocessing import read_input
from haste_runtime.session import Session

SYNTHETIC_FRAMES = 4  # taken in turn, so that no frame is measured on the data of the one before


def frames_for(session: Session, path: str | None) -> list[dict[str, NDArray[np.float32]]]:
    """Batches of one frame each. Raises InputError for a file that does not fit."""
    inputs, preprocessing = session.bundle.graph.inputs, session.bundle.preprocessing
    if path is None:
        batches = {v.name: synthetic_inputs(SYNTHETIC_FRAMES, v.shape, preprocessing) for v in inputs}
    elif len(inputs) == 1:
        batches = {inputs[0].name: read_input(path, inputs[0].shape, preprocessing)}
    else:
        raise InputError(f"This network has {len(inputs)} inputs; a file can feed only one.", "Leave the file out.")
    count = len(next(iter(batches.values())))
    return [{name: batch[i : i + 1] for name, batch in batches.items()} for i in range(count)]
