"""Backends run a bundle's graph, one frame at a time. All choose the same groups for the same layer input, bit for bit.

``numpy`` is the reference: it needs nothing but numpy and defines what is right. ``numba`` is the same, compiled on
this computer; ``native`` is that, compiled ahead of time on another one.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from haste_runtime.bundle import Bundle
from haste_runtime.errors import BackendError, InputError, NativeError
from haste_runtime.flops import LayerCounts

if TYPE_CHECKING:
    import logging

__all__ = ["NAMES", "Backend", "LayerCounts", "check_threads", "choose_backend", "not_finite"]

NAMES = ("auto", "native", "numba", "numpy")


class Backend(Protocol):
    """What a session needs. Made as ``Backend(bundle, threads=1, trace=False)``; used by one thread at a time."""

    name: str
    code: str  # names what is run, so that what was measured of it holds as long as this stays the same
    workers: int  # threads that share a frame

    def run(self, frames: Mapping[str, NDArray[np.float32]], level: int) -> dict[str, NDArray[np.float32]]:
        """One frame: every graph input by name, float32 (C, H, W) or (F,), in whatever order its numbers lie, to every
        graph output, in fresh arrays. Raises InputError for NaN and infinity."""

    def run_only(self, x: NDArray[np.float32], level: int) -> NDArray[np.float32]:
        """The same of a network with one input and one output, both with a batch axis of 1 before all others."""

    def counts(self) -> Mapping[str, LayerCounts]:
        """What merging did in the last frame, for the layers that its level merges."""

    def codes(self) -> dict[str, NDArray[np.int32]]:
        """With ``trace``: for the same layers the codes (patches, C), -1 throughout on dead patches."""

    def groups(self) -> dict[str, NDArray[np.int32]]:
        """With ``trace``: the leader of each channel's group, in the same form (`haste_runtime.grouping`)."""

    def use_threads(self, count: int) -> None:
        """Share the frames that come among so many threads, at most those it was made with. Raises BackendError."""

    def close(self) -> None:
        """End threads and let go of the weights; nothing runs after that."""


def choose_backend(name: str, bundle: Bundle, threads: int = 1, trace: bool = False) -> tuple[Backend, str]:
    """Make the backend called ``name``, one of `NAMES`; returns it and, in words, why it is this one.

    "auto" is native where there are kernels for this CPU, else numba where it can be imported, else numpy; the log
    tells which, with a warning where there are native kernels that should run but cannot. Raises BackendError for an
    unknown name, for a thread count below one, for numba where it is missing, and for native, as NativeError, where
    no kernels are installed or none that can run here.
    """
    if name not in NAMES:
        raise BackendError(f"There is no backend called {name!r}.", f"Choose one of: {', '.join(NAMES)}.")
    if threads < 1:
        raise BackendError(f"A session cannot run on {threads} threads.", "Give 1 or more.")
    backend, reason = _first(name, bundle, threads, trace)
    if "logging" in sys.modules:  # whoever has not imported it listens to nothing, and starts sooner
        _log().info("backend %s: %s", backend.name, reason)
    return backend, reason


def _first(name: str, bundle: Bundle, threads: int, trace: bool) -> tuple[Backend, str]:
    """Of ``name``, or of all in order, the first backend that runs here; the reason tells what became of the others."""
    auto, reasons = name == "auto", [] if name == "auto" else ["asked for"]
    if auto or name == "native":
        try:
            backend: Any = _make("native", bundle, threads, trace)
            return backend, "; ".join([*reasons, f"kernels {backend.source}"])
        except NativeError as error:
            if not auto:
                raise
            if error.damaged:
                _log().warning("%s Another backend is used.", error)
            reasons.append(f"native cannot run ({error.message.rstrip('.')})")
    if auto or name == "numba":
        try:
            backend = _make("numba", bundle, threads, trace)
            return backend, "; ".join([*reasons, *["numba is installed"] * auto, f"kernels {backend.source}"])
        except ImportError as error:  # importing is the only honest test: numba refuses numpy versions it does not know
            reasons.append(f"numba cannot be imported ({error})")
            if not auto:
                raise BackendError(
                    f"The numba backend cannot run here: {reasons[-1]}.",
                    'Install it with `pip install "haste-runtime[jit]"`, or use backend="numpy".',
                ) from error
    return _make("numpy", bundle, threads, trace), "; ".join(reasons)


def _log() -> logging.Logger:
    import logging

    return logging.getLogger(__name__)


def check_threads(count: int, most: int) -> None:
    """Raises BackendError unless a backend that was made with ``most`` threads can run on ``count``."""
    if not 1 <= count <= most:
        raise BackendError(
            f"A session opened with threads={most} cannot run on {count} threads.", "Open it with more threads."
        )


def not_finite(name: str) -> InputError:
    """What a backend raises for an input that holds NaN or infinity."""
    return InputError(f"Input {name!r} holds NaN or infinity.", "Check where the array comes from.")


def _make(name: str, bundle: Bundle, threads: int, trace: bool) -> Backend:
    """Backends are imported when they are used, so that numpy alone is enough to start."""
    module: Any = importlib.import_module(f"haste_runtime.backends.{name}_backend")
    backend: Backend = getattr(module, f"{name.capitalize()}Backend")(bundle, threads=threads, trace=trace)
    return backend
