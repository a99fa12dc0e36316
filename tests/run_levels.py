"""A device at work: ``python run_levels.py BUNDLE INPUTS.npz OUT.npz [BACKEND]``, beside numpy and safetensors alone.

Runs the inputs at every level, with the reference backend unless told otherwise. OUT has ``LEVEL/output/NAME`` for each
output, ``LEVEL/flops`` (done and dense) and, for each merged layer, ``LEVEL/codes/LAYER`` and ``LEVEL/groups/LAYER``;
these three are of the last frame.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from haste_runtime import Session


def run_levels(bundle: Path, inputs: Path, out: Path, backend: str = "numpy") -> None:
    with np.load(inputs) as file:
        frames = dict(file)
    results: dict[str, Any] = {}
    with Session(bundle, backend=backend, trace=True) as session:
        for level in session.levels:
            n = session.level = level.number
            results |= {f"{n}/output/{name}": array for name, array in session.run(frames).items()}
            results |= {f"{n}/codes/{name}": array for name, array in session.codes.items()}
            results |= {f"{n}/groups/{name}": array for name, array in session.groups.items()}
            results |= {f"{n}/flops": np.array([session.stats.flops_done, session.stats.flops_dense], np.int64)}
    np.savez(out, **results)


if __name__ == "__main__":
    run_levels(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), *sys.argv[4:])
