"""A folder that holds Python, numpy and safetensors for one architecture and nothing else; and overlays on it.

An overlay is a folder with more packages, to be put on PYTHONPATH: the tests and what they need, another runtime, our
own wheel. So what a device is said to need stays apart from what testing needs. All are made once and kept until what
they are made of changes.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from emulation import packages
from emulation.architectures import ARMHF, Architecture, EmulationError

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = REPOSITORY / "build" / "emulation"
PINNED = ("-c", str(REPOSITORY / "constraints.txt"))
TESTS = ("pytest", "pluggy", "iniconfig", "packaging", "pygments", "hypothesis", "sortedcontainers")
# What Debian's alternatives system would link: numpy there asks for any BLAS and LAPACK.
ALTERNATIVES = ("blas/libblas.so.3", "lapack/liblapack.so.3")
Progress = Callable[[str], None]


def quiet(text: str) -> None:
    """Progress for nobody."""


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _key(*parts: object) -> str:
    """Of what goes in: names, versions that are pinned, and these modules."""
    digest = hashlib.sha256(repr(parts).encode())
    digest.update((REPOSITORY / "constraints.txt").read_bytes())
    for module in ("architectures.py", "packages.py", "root.py"):
        digest.update((Path(__file__).parent / module).read_bytes())
    return digest.hexdigest()


class Root:
    """What is at hand for one architecture, below ``folder``; made on demand by `make` and `overlay`."""

    def __init__(self, architecture: Architecture, folder: Path = FOLDER, on_step: Progress = quiet) -> None:
        self.architecture, self._on_step = architecture, on_step
        self.folder = folder / architecture.debian
        self.path = self.folder / "root"

    def make(self) -> Path:
        """The root itself, made if it is not there. Raises EmulationError."""
        one = self.architecture
        packages.need(one.qemu)
        with self._made("root", _key(one)) as partial:
            if partial is None:
                return self.path
            self._on_step(f"Making a Python root for {one.debian} from Debian packages, once")
            with self._scratch("apt") as state:
                debs = packages.download_debs(one.debian, one.packages, state)
                packages.unpack_debs(debs, partial)
                contents = [deb.name for deb in debs]
            if one is ARMHF:
                libraries = partial / "usr/lib" / one.triplet
                for target in ALTERNATIVES:
                    (libraries / Path(target).name).symlink_to(target)
            with self._scratch("wheels") as folder:
                wheels = packages.download_wheels(
                    one, python_version(partial), glibc_version(contents), one.wheels, folder, PINNED
                )
                packages.unpack_wheels(wheels, partial / "usr/lib/python3/dist-packages")
                contents += [wheel.name for wheel in wheels]
            (partial / "contents.json").write_text(json.dumps(contents, indent=1) + "\n")
        return self.path

    def overlay(self, name: str, requirements: Sequence[str], options: Sequence[str] = PINNED) -> Path:
        """A folder with wheels of these requirements (and not what those require). Raises EmulationError."""
        root = self.make()
        contents = json.loads((root / "contents.json").read_text())
        with self._made(name, _key(self.architecture, tuple(requirements), tuple(options))) as partial:
            if partial is not None:
                self._on_step(f"Downloading {', '.join(requirements)} for {self.architecture.debian}, once")
                with self._scratch("wheels") as folder:
                    wheels = packages.download_wheels(
                        self.architecture, python_version(root), glibc_version(contents), requirements, folder, options
                    )
                    packages.unpack_wheels(wheels, partial)
        return self.folder / name

    def tests(self) -> Path:
        """The overlay with what the tests need."""
        return self.overlay("tests", TESTS)

    def wheel(self, wheel: Path) -> Path:
        """The overlay that holds this wheel alone, such as haste-runtime's; anew for other contents of the file."""
        with self._made("runtime", hashlib.sha256(wheel.read_bytes()).hexdigest()) as partial:
            if partial is not None:
                packages.unpack_wheels([wheel], partial)
        return self.folder / "runtime"

    @contextlib.contextmanager
    def _made(self, name: str, key: str) -> Iterator[Path | None]:
        """An empty folder to fill, which then becomes the one called ``name``; None where that one is complete."""
        final, stamp = self.folder / name, self.folder / f"{name}.made"
        with _alone(self.folder):
            if final.is_dir() and stamp.exists() and stamp.read_text() == key:
                yield None
                return
            partial = self.folder / f"{name}.partial"
            stamp.unlink(missing_ok=True)
            for old in (partial, final):
                shutil.rmtree(old, ignore_errors=True)
            partial.mkdir(parents=True)
            yield partial
            partial.rename(final)
            stamp.write_text(key)

    @contextlib.contextmanager
    def _scratch(self, name: str) -> Iterator[Path]:
        folder = self.folder / f"{name}.scratch"
        folder.mkdir(parents=True, exist_ok=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def python_version(root: Path) -> tuple[int, int]:
    """Of the Python in a root. Raises EmulationError."""
    for path in root.glob("usr/bin/python3.*"):
        if found := re.fullmatch(r"python3\.(\d+)", path.name):
            return 3, int(found[1])
    raise EmulationError("There is no Python among the packages that apt-get has downloaded.")


def glibc_version(debs: Sequence[str]) -> tuple[int, int]:
    """Of the C library among packages; debs: names of their files. Raises EmulationError."""
    for name in debs:
        if found := re.match(r"libc6_(\d+)\.(\d+)", name):
            return int(found[1]), int(found[2])
    raise EmulationError("There is no C library among the packages that apt-get has downloaded.")
