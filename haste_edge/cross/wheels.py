"""Wheels of the installed haste_runtime with machine code inside, for devices that have no Numba.

One wheel per kind of machine: ``py3-none`` and the tags of manylinux2014, since the code needs four functions of any C
library. The same input gives the same bytes: files are in order, carry no time, and the libraries are reproducible.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata, resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from haste_edge import __version__
from haste_edge.cross.cores import CORES, MACHINES, Core, core_of, cores_of
from haste_edge.cross.extra import needed
from haste_edge.cross.libraries import INDEX, Library, Progress, build_libraries, files
from haste_edge.errors import BuildError
from haste_edge.targets import load_target

DISTRIBUTION, PACKAGE = "haste-runtime", "haste_runtime"
NATIVE = f"{PACKAGE}/native"
ALL = "all"
MOMENT = (1980, 1, 1, 0, 0, 0)  # the first that a zip file can tell


@dataclass(frozen=True)
class Wheel:
    """A wheel that was written. unpacked: bytes of its libraries, each file once; packed: what they take in it."""

    path: Path
    machine: str
    tags: tuple[str, ...]
    libraries: tuple[Library, ...]
    size: int
    sha256: str
    unpacked: int
    packed: int

    @property
    def summary(self) -> dict[str, object]:
        """For JSON."""
        return {
            "file": str(self.path),
            "bytes": self.size,
            "sha256": self.sha256,
            "machine": self.machine,
            "tags": list(self.tags),
            "libraries": [
                {"name": library.core.name, "file": library.file, "bytes": len(library.code)}
                for library in self.libraries
            ],
            "libraries_bytes": self.unpacked,
            "libraries_packed_bytes": self.packed,
        }


def cores_for(targets: Sequence[str]) -> list[Core]:
    """The cores whose code the boards need, and the most general of each of their machines: any of that kind runs it.

    targets: names or files of targets, or "all" for every core there is. Raises TargetError.
    """
    if ALL in targets:
        return list(CORES)
    chosen = {core_of(load_target(target)) for target in targets}
    chosen |= {cores_of(core.machine)[-1] for core in chosen}
    return [core for core in CORES if core in chosen]


def build_runtime(
    targets: Sequence[str],
    folder: Path,
    progress: Progress,
    jobs: int = 1,
    distribution: metadata.Distribution | None = None,
) -> list[Wheel]:
    """Write a wheel for each kind of machine among the targets, and compile what is not kept from before.

    folder: made if it is not there. distribution: whose metadata the wheels get, the installed haste-runtime if not
    given. Raises TargetError, BuildError, and OSError where the folder cannot be written.
    """
    needed("wheel", "wheel")
    distribution = distribution or _installed()
    folder.mkdir(parents=True, exist_ok=True)
    libraries = build_libraries(cores_for(targets), progress, jobs)
    by_machine = {machine: [each for each in libraries if each.core.machine == machine] for machine in MACHINES}
    return [_write(folder, machine, some, distribution) for machine, some in by_machine.items() if some]


def _installed() -> metadata.Distribution:
    try:
        return metadata.distribution(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        raise BuildError(
            f"{DISTRIBUTION} is not installed, so that its metadata cannot go into a wheel.",
            "Install it: pip install haste-runtime, or pip install -e runtime in a checkout.",
        ) from None


def _write(folder: Path, machine: str, libraries: list[Library], distribution: metadata.Distribution) -> Wheel:
    """Written beside its place and renamed, so that nobody finds half a wheel."""
    from wheel.wheelfile import WheelFile

    class Reproducible(WheelFile):
        """Every file, RECORD too, carries the same time and the same rights."""

        def writestr(self, name: Any, data: Any, compress_type: Any = None) -> None:
            entry = zipfile.ZipInfo(getattr(name, "filename", name), date_time=MOMENT)
            entry.external_attr = (0o644 | stat.S_IFREG) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            super().writestr(entry, data, compress_type)

    platforms = (f"manylinux_2_17_{machine}", f"manylinux2014_{machine}")
    tags = tuple(f"py3-none-{platform}" for platform in platforms)
    name = f"{PACKAGE}-{distribution.version}"
    native = files(libraries)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".building-") as building:
        partial = Path(building) / f"{name}-py3-none-{'.'.join(platforms)}.whl"
        with Reproducible(partial, "w") as wheel:
            for path, content in sorted(package_files()):
                wheel.writestr(path, content)
            for file, code in sorted(native.items()):
                wheel.writestr(f"{NATIVE}/{file}", code)
            for file, text in sorted(_metadata(distribution, tags)):
                wheel.writestr(f"{name}.dist-info/{file}", text)
        with zipfile.ZipFile(partial) as written:
            packed = sum(written.getinfo(f"{NATIVE}/{file}").compress_size for file in native)
        whole = partial.read_bytes()
        made = folder / partial.name
        os.replace(partial, made)
    unpacked = sum(map(len, native.values()))
    digest = hashlib.sha256(whole).hexdigest()
    return Wheel(made, machine, tags, tuple(libraries), len(whole), digest, unpacked, packed)


def _metadata(distribution: metadata.Distribution, tags: Sequence[str]) -> Iterator[tuple[str, str]]:
    described = distribution.read_text("METADATA")
    if described is None:
        raise BuildError(f"{DISTRIBUTION} is installed without its metadata.", "Install it again.")
    yield "METADATA", described
    if commands := distribution.read_text("entry_points.txt"):
        yield "entry_points.txt", commands
    lines = ["Wheel-Version: 1.0", f"Generator: haste-edge {__version__}", "Root-Is-Purelib: false"]
    yield "WHEEL", "\n".join([*lines, *(f"Tag: {tag}" for tag in tags)]) + "\n"


def package_files() -> Iterator[tuple[str, bytes]]:
    """(path in the wheel, content) of the package as it is imported here, without machine code that it may have."""

    def walk(folder: Traversable, path: str) -> Iterator[tuple[str, bytes]]:
        for entry in folder.iterdir():
            inside = f"{path}/{entry.name}"
            if entry.is_dir():
                if entry.name != "__pycache__":
                    yield from walk(entry, inside)
            elif not (inside == f"{NATIVE}/{INDEX}" or entry.name.endswith((".pyc", ".so"))):
                yield inside, entry.read_bytes()

    return walk(resources.files(PACKAGE), PACKAGE)
