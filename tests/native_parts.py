"""Native kernels for tests: a shared object for this very computer, and indexes around it."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from haste_runtime.kernels.compile import cache_folder, cached, compile_frame, digest
from haste_runtime.kernels.lanes import lanes
from haste_runtime.kernels.layout import ABI

NAME = "this-computer"


def linker() -> list[str]:
    """The start of a command that links; text relocations are allowed, since the object was made for loading here."""
    if find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "ld.lld", "-z", "notext"]
    for name in ("ld", "cc"):
        if shutil.which(name):
            return [name] if name == "ld" else [name, "-nostdlib"]
    raise AssertionError("there is no linker: install ziglang")


@functools.cache
def shared_object() -> Path:
    """The very machine code of the numba backend as a shared object, kept beside it and linked once."""
    folder = cache_folder()
    assert folder is not None
    path = folder / f"native-{digest()}.so"
    if not path.exists():
        code, _ = cached(compile_frame, print)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            source, target = Path(scratch) / "kernels.o", Path(scratch) / "kernels.so"
            source.write_bytes(code)
            subprocess.run([*linker(), "-shared", "-o", str(target), str(source)], check=True, capture_output=True)
            os.replace(target, path)
    return path


def entry(path: Path, **changes: Any) -> dict[str, Any]:
    """What an index says of a shared object that any CPU like this can run."""
    about = {
        "name": NAME, "file": path.name, "machine": os.uname().machine, "lanes": lanes(), "features": [], "parts": [],
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "undefined": [],
    }  # fmt: skip
    return about | changes


def write_index(folder: Path, *entries: dict[str, Any], **changes: Any) -> None:
    index = {"abi": ABI, "runtime_version": "0", "libraries": list(entries)} | changes
    (folder / "index.json").write_text(json.dumps(index))


def native_folder(folder: Path) -> Path:
    """What HASTE_NATIVE may name."""
    path = folder / f"haste-{NAME}.so"
    shutil.copyfile(shared_object(), path)
    write_index(folder, entry(path))
    return folder
