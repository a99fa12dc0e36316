"""Machine code from a shared object, checked before it is used: its checksum, and what it says of itself."""

from __future__ import annotations

import ctypes
import functools
import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

from haste_runtime.errors import NativeError
from haste_runtime.kernels.exports import ABOUT, FRAME, prototypes
from haste_runtime.kernels.layout import ABI
from haste_runtime.native.choose import choose
from haste_runtime.native.cpu import this_cpu
from haste_runtime.native.libraries import ADVICE, Library, folder, read_index


class Kernels(NamedTuple):
    """A library that is loaded. call: its frame walker (`haste_runtime.kernels.frame.run_frame`); reason: why this
    library, in words; shared: the object itself, which owns the code."""

    library: Library
    call: Callable[..., None]
    reason: str
    shared: Any

    @property
    def source(self) -> str:
        return f"compiled ahead of time for {self.library.name}: {self.reason}"


def native_kernels() -> Kernels:
    """The kernels that fit this CPU. Raises NativeError where none can be used, which says why and what to do."""
    choice = choose(read_index(folder()), this_cpu())
    shared, call = load(choice.library)
    return Kernels(choice.library, call, choice.reason, shared)


@functools.cache
def load(library: Library) -> tuple[Any, Callable[..., None]]:
    """The shared object and its frame walker, which releases the GIL.

    Raises NativeError where the file is not the one that the index means, the system cannot load it, or it has another
    interface or vector width than the index says.
    """
    try:
        with open(library.path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise NativeError(f"{library.path} cannot be read: {error.strerror or error}.", ADVICE) from error
    if hashlib.sha256(content).hexdigest() != library.sha256:
        raise NativeError(f"{library.path} is damaged: it does not match its checksum.", ADVICE)
    del content
    try:
        shared = ctypes.CDLL(library.path)
        addresses = {symbol: ctypes.cast(getattr(shared, symbol), ctypes.c_void_p).value for symbol in (FRAME, ABOUT)}
    except (OSError, AttributeError, ValueError) as error:
        raise NativeError(f"{library.path} cannot be loaded: {error}.", ADVICE) from error
    kinds = prototypes()
    told = (ctypes.c_int64 * 2)()
    kinds[ABOUT](addresses[ABOUT])(ctypes.addressof(told))
    abi, lanes = told
    if abi != ABI:
        raise NativeError(f"{library.path} has the interface {abi}, and this haste-runtime needs {ABI}.", ADVICE)
    if lanes != library.lanes:
        raise NativeError(f"{library.path} has vectors of {lanes} lanes, not the {library.lanes} of its index.", ADVICE)
    return shared, kinds[FRAME](addresses[FRAME])
