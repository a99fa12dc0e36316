"""The kernels as an object file for a named core: compiled once, then kept where the host's own are."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable
from pathlib import Path

from haste_edge.cross.cores import Core
from haste_edge.cross.elf import SYSTEM, offered, undefined
from haste_edge.errors import BuildError
from haste_runtime.kernels.compile import cached, digest_of
from haste_runtime.kernels.exports import ARGUMENTS
from haste_runtime.kernels.lanes import REGISTERS_VARIABLE, VARIABLE

LAST_LINES = 5  # of what a failed compilation said


def object_for(core: Core, progress: Callable[[str], None]) -> bytes:
    """The object file with all kernels for one core; the same bytes wherever and whenever it is compiled with the same
    versions of numba and llvmlite. Raises BuildError if it needs anything that a device might not have."""
    llvm = core.llvm
    key = digest_of(llvm.triple, llvm.cpu, llvm.features, llvm.relocation, str(core.lanes), str(core.registers))
    code, _ = cached(lambda tell: _compile(core, tell), progress, prefix=f"{llvm.cpu}-", key=key)
    check(core, code)
    return code


def check(core: Core, code: bytes) -> None:
    """Raises BuildError unless the code offers `haste_runtime.kernels.exports` and needs nothing but `elf.SYSTEM`."""
    strangers = sorted(set(undefined(code)) - SYSTEM)
    if strangers:
        raise BuildError(
            f"The kernels for {core.name} call {', '.join(strangers)}, which a device may not have.",
            "Write the operation so that LLVM has an instruction for it, and compile again.",
        )
    if offered(code) != sorted(ARGUMENTS):
        raise BuildError(
            f"The kernels for {core.name} offer {', '.join(offered(code)) or 'nothing'} "
            f"instead of {', '.join(sorted(ARGUMENTS))}.",
            "Compare haste_runtime/kernels/exports.py with what was compiled.",
        )


def _compile(core: Core, progress: Callable[[str], None]) -> bytes:
    # Numba's own variables change what it makes of the same kernels.
    variables = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
    variables |= {VARIABLE: str(core.lanes), REGISTERS_VARIABLE: str(core.registers)}
    variables |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with tempfile.TemporaryDirectory(prefix="haste-cross-") as folder:
        file = Path(folder) / "kernels.o"
        command = [sys.executable, "-m", "haste_edge.cross.worker", core.name, str(file)]
        last: deque[str] = deque(maxlen=LAST_LINES)
        with subprocess.Popen(
            command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                last.append(line.rstrip())
                progress(f"{core.name}: {line.rstrip()}")
        if process.returncode != 0:
            raise BuildError(
                f"The kernels could not be compiled for {core.name}: {' / '.join(last)}",
                "Check that numba and llvmlite are the versions that pyproject.toml asks for.",
            )
        return file.read_bytes()
