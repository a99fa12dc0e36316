"""Shared objects of the kernels, and the index from which a device chooses its own (`haste_runtime.native`)."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import haste_runtime
from haste_edge.cross.cores import Core
from haste_edge.cross.elf import undefined
from haste_edge.cross.extra import needed
from haste_edge.cross.objects import check, object_for
from haste_edge.errors import BuildError
from haste_runtime.kernels.layout import ABI

Progress = Callable[[str, int, int], None]
INDEX = "index.json"
LINKER = (
    "-shared",
    "--strip-all",
    "--build-id=none",
    "--hash-style=gnu",
    "-z", "now",  # what is missing shows when the library is loaded, not in the middle of a frame
    "-z", "noexecstack",
    "-O2",
)  # fmt: skip


@dataclass(frozen=True)
class Library:
    """A core's shared object. file: its name, shared by cores for which the code is the same."""

    core: Core
    file: str
    code: bytes

    @property
    def entry(self) -> dict[str, object]:
        """Its record in the index."""
        return {
            "name": self.core.name,
            "file": self.file,
            "machine": self.core.machine,
            "lanes": self.core.lanes,
            "features": list(self.core.features),
            "parts": [list(part) for part in self.core.parts],
            "sha256": hashlib.sha256(self.code).hexdigest(),
            "undefined": undefined(self.code),
        }


def link(core: Core, code: bytes) -> bytes:
    """The shared object made of an object file. It names no other library: what it refers to, every process has.

    Raises BuildError where the linker is missing or fails.
    """
    needed("ziglang", "ziglang")
    with tempfile.TemporaryDirectory(prefix="haste-link-") as folder:
        source, target = Path(folder) / "kernels.o", Path(folder) / "kernels.so"
        source.write_bytes(code)
        command = [sys.executable, "-m", "ziglang", "ld.lld", *LINKER, "-o", str(target), str(source)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise BuildError(
                f"The kernels for {core.name} could not be linked: {done.stderr.strip()}",
                "Check that `python -m ziglang ld.lld --version` runs.",
            )
        made = target.read_bytes()
    check(core, made)
    return made


def build_libraries(cores: Sequence[Core], progress: Progress, jobs: int = 1) -> list[Library]:
    """Compile and link for each core, ``jobs`` at a time. Equal code is kept once: later cores name the first's file.

    progress: told what is being done, how many cores are done, and of how many. Raises BuildError.
    """
    done = 0

    def build(core: Core) -> bytes:
        nonlocal done
        made = link(core, object_for(core, lambda line: progress(line, done, len(cores))))
        done += 1
        progress(f"{core.name}: done", done, len(cores))
        return made

    with ThreadPoolExecutor(jobs) as pool:
        codes = list(pool.map(build, cores))
    files: dict[bytes, str] = {}
    return [
        Library(core, files.setdefault(code, f"haste-{core.name}.so"), code)
        for core, code in zip(cores, codes, strict=True)
    ]


def index(libraries: Iterable[Library]) -> str:
    """JSON: what each library is for, of one machine the most capable first."""
    content = {
        "abi": ABI,
        "runtime_version": haste_runtime.__version__,
        "libraries": [library.entry for library in libraries],
    }
    return json.dumps(content, indent=2) + "\n"


def files(libraries: Iterable[Library]) -> dict[str, bytes]:
    """{name: content} of the folder that the device reads."""
    libraries = list(libraries)
    return {INDEX: index(libraries).encode()} | {library.file: library.code for library in libraries}


def write_libraries(folder: Path, libraries: Iterable[Library]) -> None:
    """A folder that HASTE_NATIVE can name, to try machine code without installing it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files(libraries).items():
        (folder / name).write_bytes(content)
