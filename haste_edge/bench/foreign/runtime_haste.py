"""haste-edge itself, where it is installed, by the same door as the others: an array goes in, an array comes out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from haste_runtime import Session, __version__


def load_kernels() -> None:
    """LLVM and the compiled kernels, which take the same memory whatever the network."""
    try:
        from haste_runtime.kernels.compile import compiled_frame

        compiled_frame()
    except ImportError:  # numpy then does the work
        pass


def load(model: Path, threads: int) -> dict[str, Any]:
    session = Session(model, "auto", threads)
    last = session.bundle.preprocessing.layout == "NHWC"

    def variant(level: int) -> Any:
        def run(x: Any) -> Any:
            session.level = level
            return session.run(x)

        return run

    return {
        "version": __version__,
        "settings": f"{session.backend} backend, {session.bundle.dtype} weights",
        "variants": {f"level {level.number}": variant(level.number) for level in session.levels},
        "prepare": lambda x: np.ascontiguousarray(x.transpose(0, 2, 3, 1) if last and x.ndim == 4 else x),
        "networks": 1,
    }
