"""Runs under emulation: frames of the native backend, operation by operation, with a mark (see count.c) after each.

    python count_operations.py BUNDLE FRAMES.npy LEVEL

One frame goes before, uncounted. Marks: one before the operations of each frame, one after each of them.
"""

from __future__ import annotations

import sys

import numpy as np
from count_frames import mark  # type: ignore[import-not-found]  # lies beside this file where it runs

from haste_runtime.backends.native_backend import NativeBackend
from haste_runtime.bundle import read_bundle


def main() -> None:
    bundle, frames, level = sys.argv[1], np.load(sys.argv[2], allow_pickle=False), int(sys.argv[3])
    content = read_bundle(bundle)
    backend, (value,) = NativeBackend(content), content.graph.inputs
    backend.run({value.name: frames[0]}, level)
    for frame in frames:
        backend.fill({value.name: frame})
        mark()
        for number in range(len(backend.table.operations)):
            backend.run_operations(level, number, 1)
            mark()


if __name__ == "__main__":
    main()
