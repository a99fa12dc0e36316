"""Debian packages and wheels for another architecture, downloaded without touching what is installed here.

apt works in a folder of its own, in which no package is installed and the other architecture is the only one; sources,
keys and proxies are this machine's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from zipfile import ZipFile

from emulation.architectures import Architecture, EmulationError

OLDEST_GLIBC = 17  # 2.17: manylinux2014, the oldest that wheels are still made for


def need(*programs: str) -> None:
    """Raises EmulationError where one of them is not there."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        raise EmulationError(
            f"ARM code cannot be emulated here: {', '.join(missing)} cannot be found.",
            "On Debian or Ubuntu: apt-get install qemu-user (apt-get and dpkg-deb are there already).",
        )


def say(command: Sequence[object], what: str, cwd: Path | None = None) -> str:
    """What a command prints, both streams. Raises EmulationError with its last lines."""
    variables = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(
        [*map(str, command)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=variables, cwd=cwd,
    )  # fmt: skip
    if done.returncode:
        raise EmulationError(
            f"{what} failed: {' / '.join(done.stdout.splitlines()[-6:])}.",
            "It needs a network, and says above what it missed.",
        )
    return done.stdout


def apt_options(state: Path, architecture: str = "") -> list[str]:
    """What makes apt-get work in ``state`` alone, for another architecture if one is named."""
    for folder in ("lists/partial", "cache/archives/partial"):
        (state / folder).mkdir(parents=True, exist_ok=True)
    (state / "status").touch()  # nothing is installed
    options = {
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
        "Debug::NoLocking": "true",
        "Dir::State": state,
        "Dir::State::status": state / "status",
        "Dir::State::lists": state / "lists",
        "Dir::Cache": state / "cache",
    }
    if architecture:
        options |= {"APT::Architecture": architecture, "APT::Architectures": architecture}
    return [part for name, value in options.items() for part in ("-o", f"{name}={value}")]


def download_debs(architecture: str, names: Sequence[str], state: Path) -> list[Path]:
    """The packages and all that they depend on. Raises EmulationError."""
    need("apt-get", "dpkg-deb")
    apt = ["apt-get", "-qq", *apt_options(state, architecture)]
    for attempt in range(3):
        try:
            say([*apt, "update"], "apt-get update")
            break
        except EmulationError:  # one source of several may be between two states; the others can do
            time.sleep(attempt)
    say([*apt, "install", "--download-only", "-y", *names], f"apt-get install of {architecture} packages")
    return sorted((state / "cache/archives").glob("*.deb"))


def unpack_debs(debs: Sequence[Path], root: Path) -> None:
    """Files alone: no script of a package runs."""
    for deb in debs:
        say(["dpkg-deb", "--extract", deb, root], f"Unpacking {deb.name}")


def platforms(machine: str, glibc: tuple[int, int]) -> list[str]:
    """Tags of wheels that run beside that C library, the most demanding first."""
    tags = [f"manylinux_{glibc[0]}_{minor}_{machine}" for minor in range(glibc[1], OLDEST_GLIBC - 1, -1)]
    return [*tags, f"manylinux2014_{machine}", f"linux_{machine}"]


def download_wheels(
    architecture: Architecture, python: tuple[int, int], glibc: tuple[int, int], requirements: Sequence[str],
    folder: Path, options: Sequence[str] = (),
) -> list[Path]:  # fmt: skip
    """Wheels of exactly these requirements, without what they in turn require. Raises EmulationError."""
    folder.mkdir(parents=True, exist_ok=True)
    tags = [part for tag in platforms(architecture.machine, glibc) for part in ("--platform", tag)]
    version = ["--python-version", ".".join(map(str, python)), "--implementation", "cp"]
    abis = ["--abi", f"cp{python[0]}{python[1]}", "--abi", "abi3", "--abi", "none"]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
    command = [*pip, "--only-binary=:all:", *version, *abis, *tags, "--dest", folder, *options, *requirements]
    say(command, f"pip download of {', '.join(requirements)} for {architecture.machine}")
    return sorted(folder.glob("*.whl"))


def unpack_wheels(wheels: Sequence[Path], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for wheel in wheels:
        with ZipFile(wheel) as archive:
            archive.extractall(folder)
