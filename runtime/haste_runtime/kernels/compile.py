"""Machine code for this CPU: compiled once with Numba, kept on disk as an object file, loaded with llvmlite alone.

The file's name is a digest of everything it depends on: every kernel's source, the versions of numba and llvmlite, the
CPU and the vector width. It is written under a temporary name and renamed, so a reader never sees half of one.
"""

from __future__ import annotations

import contextlib
import ctypes
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

from haste_runtime.kernels.lanes import lanes

log = logging.getLogger("haste_runtime")
CACHE_VARIABLE = "HASTE_CACHE"
SYMBOL = "haste_frame"


def cache_folder() -> Path | None:
    """The first writable folder of: $HASTE_CACHE, the user's cache folder, the temporary folder. None if none is.

    The folder must belong to this user: its contents are run as code.
    """
    user = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    candidates = [Path(user) / "haste-edge", Path(tempfile.gettempdir()) / f"haste-edge-{os.getuid()}"]
    if os.environ.get(CACHE_VARIABLE):
        candidates.insert(0, Path(os.environ[CACHE_VARIABLE]))
    for folder in candidates:
        with contextlib.suppress(OSError):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if folder.stat().st_uid == os.getuid() and os.access(folder, os.W_OK | os.X_OK):
                return folder
    return None


@functools.cache
def digest() -> str:
    """Names the machine code that the kernels as they are would give on this CPU."""
    parts = [metadata.version("numba"), metadata.version("llvmlite"), str(lanes())]
    parts += [llvm.get_process_triple(), llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()]
    key = hashlib.sha256("\n".join(parts).encode())
    folder = resources.files("haste_runtime.kernels")
    for source in sorted((f for f in folder.iterdir() if f.name.endswith(".py")), key=lambda f: f.name):
        key.update(source.name.encode() + source.read_bytes())
    return key.hexdigest()[:24]


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, so that of many processes that start together one compiles and the others wait."""
    import fcntl

    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def compile_frame(progress: Callable[[str], None]) -> bytes:
    """The object file with the frame walker and all kernels. Imports numba; takes a quarter of a minute or more."""
    progress("compiling the kernels for this CPU, once; this takes about half a minute")
    started = time.perf_counter()
    from numba import types

    from haste_runtime.kernels import frame
    from haste_runtime.kernels.codegen import compile_object, this_machine
    from haste_runtime.kernels.simd import float_ptr, int_ptr, long_ptr

    integer = types.int64
    signature = types.void(
        long_ptr, integer, long_ptr, integer, float_ptr, float_ptr, int_ptr, integer, integer, long_ptr, int_ptr,
        long_ptr, integer, integer,
    )  # fmt: skip
    made = compile_object({SYMBOL: (frame.run_frame, signature)}, this_machine(), progress=progress)
    progress(f"kernels compiled in {time.perf_counter() - started:.0f} s")
    return made.code


def _load(code: bytes) -> tuple[int, Any]:
    """Address of the walker, and the engine that owns its memory."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    return engine.get_function_address(SYMBOL), engine


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


def _object(progress: Callable[[str], None]) -> tuple[bytes, str]:
    """The object file, and where it came from in words."""
    folder = cache_folder()
    if folder is None:
        log.warning("no folder is writable for compiled kernels, so every start compiles them; set %s", CACHE_VARIABLE)
        return compile_frame(progress), "compiled, not kept: no folder is writable"
    path = folder / f"{digest()}.o"
    code = _read(path)
    if code is not None:
        return code, f"from {path}"
    with _alone(folder):
        code = _read(path)  # another process may have been quicker
        if code is None:
            code = compile_frame(progress)
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
    code, source = _object(log.info)
    address, engine = _load(code)
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    kind = ctypes.CFUNCTYPE(
        None, pointer, number, pointer, number, pointer, pointer, pointer, number, number, pointer, pointer,
        pointer, number, number,
    )  # fmt: skip
    return Frame(kind(address), source, engine)
