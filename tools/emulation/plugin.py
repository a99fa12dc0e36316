"""Build the plugin that counts instructions (count.c), against the header in Debian's source package of QEMU."""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import tarfile
import tempfile
from pathlib import Path

from emulation import packages
from emulation.architectures import EmulationError
from emulation.root import FOLDER

SOURCE = Path(__file__).parent / "count.c"
HEADER = "include/qemu/qemu-plugin.h"
SOURCES_LISTS = (Path("/etc/apt/sources.list"), Path("/etc/apt/sources.list.d"))


def source_lists(folder: Path) -> None:
    """This machine's package sources again, but of source code."""
    folder.mkdir(parents=True, exist_ok=True)
    for place in SOURCES_LISTS:
        for path in [place] if place.is_file() else sorted(place.glob("*")):
            text = path.read_text(encoding="utf-8")
            if path.suffix == ".sources":
                text = re.sub(r"(?m)^Types:.*$", "Types: deb-src", text)
            elif path.suffix == ".list":
                text = re.sub(r"(?m)^deb\s", "deb-src ", text)
            else:
                continue
            (folder / path.name).write_text(text, encoding="utf-8")


def header(state: Path) -> bytes:
    """qemu-plugin.h of the release that this machine's packages have. Raises EmulationError."""
    source_lists(state / "sources")
    lists = ["-o", "Dir::Etc::sourcelist=/dev/null", "-o", f"Dir::Etc::sourceparts={state / 'sources'}"]
    apt = ["apt-get", "-qq", *packages.apt_options(state), *lists]
    with contextlib.suppress(EmulationError):  # a source that has no source code is no loss
        packages.say([*apt, "update"], "apt-get update")
    packages.say([*apt, "source", "--download-only", "qemu"], "Downloading the source package of QEMU", state)
    archives = sorted(state.glob("qemu_*.orig.tar.*"))
    with tarfile.open(archives[0]) as archive:
        for member in archive:
            if member.name.endswith(HEADER) and (file := archive.extractfile(member)):
                return file.read()
    raise EmulationError(f"QEMU's source package has no {HEADER}.")


def build(folder: Path = FOLDER / "plugin") -> Path:
    """The plugin, built unless it is there. Raises EmulationError."""
    packages.need("apt-get", "gcc")
    version = packages.say(["qemu-aarch64", "--version"], "qemu-aarch64").splitlines()[0]
    key = hashlib.sha256(version.encode() + SOURCE.read_bytes()).hexdigest()[:16]
    library = folder / f"count-{key}.so"
    if library.exists():
        return library
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as scratch:
        state = Path(scratch)
        (state / "qemu-plugin.h").write_bytes(header(state))
        partial = library.with_suffix(".partial")
        compile_ = ["gcc", "-O2", "-fPIC", "-shared", "-I", state, SOURCE, "-o", partial]
        packages.say(compile_, "Compiling the plugin")
        partial.rename(library)
    return library
