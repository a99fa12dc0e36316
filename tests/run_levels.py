"""A device at work: ``python run_levels.py BUNDLE INPUTS.npz OUT.npz``, beside numpy and safetensors alone.

Runs the inputs at every level with the reference backend. OUT has ``LEVEL/output/NAME`` for each output and
``LEVEL/codes/LAYER`` and ``LEVEL/groups/LAYER`` for each merged layer.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from haste_runtime import Session

bundle, inputs, out = sys.argv[1:]
with np.load(inputs) as file:
    frames = dict(file)
results: dict[str, Any] = {}
with Session(bundle, backend="numpy", trace=True) as session:
    for level in session.levels:
        session.level = level.number
        results |= {f"{level.number}/output/{name}": array for name, array in session.run(frames).items()}
        results |= {f"{level.number}/codes/{name}": array for name, array in session.codes.items()}
        results |= {f"{level.number}/groups/{name}": array for name, array in session.groups.items()}
np.savez(out, **results)
