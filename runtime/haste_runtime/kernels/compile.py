"""Machine code for this CPU: compiled once with Numba, kept on disk as an object file, loaded with llvmlite alone.

The file's name is a digest of everything it depends on: every kernel's source, the versions of numba and llvmlite, the
CPU and the vector width. It is written under a temporary name and renamed, so a reader never sees half of one.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm

from haste_runtime.cache import CACHE_VARIABLE, cache_folders
from haste_runtime.kernels.exports import FRAME, exports, prototypes
from haste_runtime.kernels.lanes import lanes

log = logging.getLogger("haste_runtime")


def cache_folder() -> Path | None:
    """The first writable folder of: $HASTE_CACHE, the user's cache folder, the temporary folder. None if none is.

    The folder must belong to this user: its contents are run as code.
    """
    for folder in cache_folders():
        with contextlib.suppress(OSError):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if folder.stat().st_uid == os.getuid() and os.access(folder, os.W_OK | os.X_OK):
                return folder
    return None


def digest_of(*machine: str) -> str:
    """Names the machine code that the kernels as they are would give for a machine, which some words identify."""
    key = hashlib.sha256("\n".join([metadata.version("numba"), metadata.version("llvmlite"), *machine]).encode())
    folder = resources.files("haste_runtime.kernels")
    for source in sorted((f for f in folder.iterdir() if f.name.endswith(".py")), key=lambda f: f.name):
        key.update(source.name.encode() + source.read_bytes())
    return key.hexdigest()[:24]


@functools.cache
def digest() -> str:
    """The same for this CPU."""
    return digest_of(
        str(lanes()), llvm.get_process_triple(), llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()
    )  # fmt: skip


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a lock, so that of many processes that start together one compiles and the others wait."""
    import fcntl

    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def compile_frame(progress: Callable[[str], None]) -> bytes:
    """The object file with the frame walker and all kernels. Imports numba; takes a quarter of a minute or more."""
    progress("compiling the kernels for this CPU, once; this takes about half a minute")
    started = time.perf_counter()
    from haste_runtime.kernels.codegen import compile_object, this_machine

    made = compile_object(exports(), this_machine(), progress=progress)
    progress(f"kernels compiled in {time.perf_counter() - started:.0f} s")
    return made.code


def load(code: bytes) -> Any:
    """The engine that owns an object file's memory; ``get_function_address`` finds its symbols."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    return engine


def _read(path: Path) -> bytes | None:
    """A cached object whose last 32 bytes are the SHA-256 of the rest, or None: then it is compiled again."""
    with contextlib.suppress(OSError):
        content = path.read_bytes()
        if hashlib.sha256(content[:-32]).digest() == content[-32:]:
            return content[:-32]
    return None


def _keep(path: Path, code: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as partial:
        partial.write(code + hashlib.sha256(code).digest())
    os.replace(partial.name, path)


def cached(
    make: Callable[[Callable[[str], None]], bytes], progress: Callable[[str], None], prefix: str = "", key: str = ""
) -> tuple[bytes, str]:
    """The object file that ``make`` compiles, or one that was kept; and where it came from in words.

    prefix: tells apart what is compiled from the same kernels. key: `digest_of` the machine, if it is not this one.
    """
    folder = cache_folder()
    if folder is None:
        log.warning("no folder is writable for compiled kernels, so every start compiles them; set %s", CACHE_VARIABLE)
        return make(progress), "compiled, not kept: no folder is writable"
    path = folder / f"{prefix}{key or digest()}.o"
    code = _read(path)
    if code is not None:
        return code, f"from {path}"
    with _alone(folder / f"{prefix}lock"):
        code = _read(path)  # another process may have been quicker
        if code is None:
            code = make(progress)
            try:
                _keep(path, code)
            except OSError as error:
                log.warning("compiled kernels could not be kept in %s: %s", folder, error)
                return code, "compiled, not kept"
    return code, f"compiled, kept in {path}"


@dataclass(frozen=True)
class Frame:
    """call: the walker (`haste_runtime.kernels.frame.run_frame`) as a ctypes function, which releases the GIL."""

    call: Callable[..., None]
    source: str
    engine: Any


@functools.cache
def compiled_frame() -> Frame:
    """The walker for this CPU. The first time it is compiled, which the logger ``haste_runtime`` tells at INFO.

    Raises ImportError where numba is needed for that and missing.
    """
    code, source = cached(compile_frame, log.info)
    engine = load(code)
    return Frame(prototypes()[FRAME](engine.get_function_address(FRAME)), source, engine)
