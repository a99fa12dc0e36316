"""The Python of a root as a command, for one processor.

The command is a script that starts QEMU, and that is what Python takes itself for (`sys.executable`): what a program
starts in turn runs under emulation too, and nothing has to be registered with the system.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from emulation.architectures import EmulationError, architecture_of
from emulation.root import Root, python_version

# Of our own variables none may leak in, as they speak of this computer; Python's would name packages of this one.
NOT_INHERITED = ("HASTE_", "NUMBA_", "OPENBLAS_", "PYTHON")


def environment(overlays: Sequence[Path], variables: Mapping[str, str]) -> dict[str, str]:
    """Variables for emulated programs: one thread, the overlays, and ``variables``."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(NOT_INHERITED)}
    threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS")}
    return kept | threads | {"PYTHONPATH": os.pathsep.join(map(str, overlays))} | dict(variables)


@dataclass(frozen=True)
class Machine:
    """cpu: QEMU's name of a processor that the root's architecture has."""

    root: Root
    cpu: str

    def __post_init__(self) -> None:
        if architecture_of(self.cpu) is not self.root.architecture:
            raise EmulationError(f"{self.cpu} is no processor of {self.root.architecture.debian}.")

    def qemu(self, options: Sequence[str] = ()) -> list[str]:
        """QEMU and Python, to be followed by Python's arguments. options: more of QEMU's."""
        root = self.root.make()
        major, minor = python_version(root)
        return [
            self.root.architecture.qemu, "-cpu", self.cpu, "-L", str(root), "-E", f"PYTHONHOME={root / 'usr'}",
            *options, str(root / f"usr/bin/python{major}.{minor}"),
        ]  # fmt: skip

    def python(self) -> Path:
        """The script that is this machine's Python."""
        script = self.root.folder / "bin" / self.cpu / "python"
        content = f'#!/bin/sh\nexec {shlex.join(self.qemu(("-0", str(script))))} "$@"\n'
        if not script.exists() or script.read_text() != content:
            script.parent.mkdir(parents=True, exist_ok=True)
            partial = script.with_name(f"python.{os.getpid()}")
            partial.write_text(content)
            partial.chmod(0o755)
            partial.replace(script)
        return script

    def run(
        self, *arguments: object, overlays: Sequence[Path] = (), variables: Mapping[str, str] | None = None,
        cwd: Path | None = None, timeout: float | None = None,
    ) -> subprocess.CompletedProcess[str]:  # fmt: skip
        """Run Python there to the end; output is captured, the exit code is the caller's to check."""
        return subprocess.run(
            [str(self.python()), *map(str, arguments)], env=environment(overlays, variables or {}), cwd=cwd, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout,
        )  # fmt: skip
