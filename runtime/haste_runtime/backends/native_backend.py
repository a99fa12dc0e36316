"""The compiled backend with kernels from `haste_runtime.native`, compiled ahead of time on another computer."""

from __future__ import annotations

from haste_runtime.backends.compiled_backend import CompiledBackend, Frame
from haste_runtime.bundle import Bundle
from haste_runtime.native.load import native_kernels


class NativeBackend(CompiledBackend):
    """See `haste_runtime.backends.compiled_backend.CompiledBackend`.

    Raises NativeError where no kernels are installed, or none that can run here.
    """

    name = "native"

    def __init__(self, bundle: Bundle, threads: int = 1, trace: bool = False) -> None:
        kernels = native_kernels()
        library = kernels.library
        super().__init__(
            bundle, Frame(kernels.call, library.lanes, kernels.source, library.sha256[:24]), threads, trace
        )
