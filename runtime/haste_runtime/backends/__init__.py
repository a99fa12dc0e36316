"""Backends run a bundle's graph, one frame at a time. All choose the same groups for the same layer input, bit for bit.

``numpy`` is the reference: it needs nothing but numpy and defines what is right. ``numba`` is the same, compiled.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from haste_runtime.bundle import Bundle
from haste_runtime.errors import BackendError
from haste_runtime.flops import LayerCounts

__all__ = ["NAMES", "Backend", "LayerCounts", "choose_backend"]

NAMES = ("auto", "numba", "numpy")


class Backend(Protocol):
    """What a session needs. Made as ``Backend(bundle, threads=1, trace=False)``; used by one thread at a time."""

    name: str

    def run(self, frames: Mapping[str, NDArray[np.float32]], level: int) -> dict[str, NDArray[np.float32]]:
        """One frame: every graph input by name, (C, H, W) or (F,), to every graph output, in fresh arrays."""

    def counts(self) -> dict[str, LayerCounts]:
        """What merging did in the last frame, for the layers that its level merges."""

    def codes(self) -> dict[str, NDArray[np.int32]]:
        """With ``trace``: for the same layers the codes (patches, C), -1 throughout on dead patches."""

    def groups(self) -> dict[str, NDArray[np.int32]]:
        """With ``trace``: the leader of each channel's group, in the same form (`haste_runtime.grouping`)."""

    def close(self) -> None:
        """End threads and let go of the weights; nothing runs after that."""


def choose_backend(name: str, bundle: Bundle, threads: int = 1, trace: bool = False) -> tuple[Backend, str]:
    """Make the backend called ``name``, one of `NAMES`; returns it and, in words, why it is this one.

    "auto" is numba where numba can be imported and numpy elsewhere. Raises BackendError for an unknown name, for numba
    where it is missing, and for a thread count below one.
    """
    if name not in NAMES:
        raise BackendError(f"There is no backend called {name!r}.", f"Choose one of: {', '.join(NAMES)}.")
    if threads < 1:
        raise BackendError(f"A session cannot run on {threads} threads.", "Give 1 or more.")
    if name == "numpy":
        return _make("numpy", bundle, threads, trace), "asked for"
    try:
        backend: Any = _make("numba", bundle, threads, trace)
    except ImportError as error:  # importing is the only honest test: numba refuses numpy versions it does not know
        reason = f"numba cannot be imported ({error})"
        if name == "auto":
            return _make("numpy", bundle, threads, trace), reason
        raise BackendError(
            f"The numba backend cannot run here: {reason}.",
            'Install it with `pip install "haste-runtime[jit]"`, or use backend="numpy".',
        ) from error
    asked = "asked for" if name == "numba" else "numba is installed"
    return backend, f"{asked}; kernels {backend.source}"


def _make(name: str, bundle: Bundle, threads: int, trace: bool) -> Backend:
    """Backends are imported when they are used, so that numpy alone is enough to start."""
    module: Any = importlib.import_module(f"haste_runtime.backends.{name}_backend")
    backend: Backend = getattr(module, f"{name.capitalize()}Backend")(bundle, threads=threads, trace=trace)
    return backend
