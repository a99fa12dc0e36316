"""Runs under emulation: a runtime computes frames, and marks the moments between which instructions are counted.

    python count_frames.py FOREIGN ADAPTER MODEL FRAMES.npy [VARIANT ...]

FOREIGN is haste_edge/bench/foreign, ADAPTER one of its files for a runtime. Marks (see count.c): at the start, when
numpy is there, when the runtime is ready, then for each variant before the first counted frame and after each. One
frame goes before, uncounted. Prints a line of JSON: version, settings, variants, and the outputs of each.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path

MARK = 0x4A57E  # as in count.c


def mark() -> None:
    with contextlib.suppress(ProcessLookupError):
        os.getpgid(MARK)


def main() -> None:
    mark()
    import numpy as np

    mark()
    foreign, adapter, model, frames, *wanted = sys.argv[1:]
    sys.path.insert(0, foreign)
    from worker import load_adapter  # type: ignore[import-not-found]

    loaded = load_adapter(str(Path(foreign) / adapter)).load(Path(model), 1)
    mark()
    inputs = [loaded["prepare"](x[np.newaxis]) for x in np.load(frames, allow_pickle=False)]
    variants = {name: run for name, run in loaded["variants"].items() if not wanted or name in wanted}
    outputs = {}
    for name, run in variants.items():
        run(inputs[0])
        mark()
        given = []
        for x in inputs:
            y = run(x)
            mark()
            given.append(np.array(y, np.float32).reshape(-1).tolist())
        outputs[name] = given
    about = {key: loaded[key] for key in ("version", "settings")}
    print(json.dumps(about | {"variants": list(variants), "outputs": outputs}), flush=True)


if __name__ == "__main__":
    main()
