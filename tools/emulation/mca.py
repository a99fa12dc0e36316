"""What LLVM knows of ARM cores: machine code as assembly, and how many cycles a loop takes when nothing is missed.

llvm-mca assumes that every load hits the nearest cache and every jump is foreseen: a lower bound, core by core, by
LLVM's models of their pipelines. They are as good as somebody made them; LLVM has none for Cortex-A76 and A78, for
which Neoverse N1's stands in, nor for Carmel.
"""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
from collections.abc import Sequence

from emulation.architectures import EmulationError

CORES = ("cortex-a53", "cortex-a55", "cortex-a57", "cortex-a72", "neoverse-n1")
TRIPLE = "aarch64-linux-gnu"
NEWEST, OLDEST = 40, 16  # releases of LLVM; 16 is the first with a model of its own for Neoverse N1
PASSES = 100
MULTIPLY_ADD = re.compile(r"\b(fmla|fmls|fmadd|sdot|smlal2?|smull2?)\b")


@functools.cache
def tool(name: str) -> str:
    """The newest of a tool of LLVM's that is installed. Raises EmulationError."""
    for release in range(NEWEST, OLDEST - 1, -1):
        if path := shutil.which(f"{name}-{release}"):
            return path
    raise EmulationError(f"{name} cannot be found.", "On Debian: apt-get install llvm-19, or another release from 16.")


def _run(command: Sequence[str], given: str) -> str:
    done = subprocess.run(command, input=given, capture_output=True, text=True)
    if done.returncode:
        raise EmulationError(f"{command[0]} failed: {done.stderr[-300:]}.")
    return done.stdout


def disassemble(code: bytes) -> list[str]:
    """A line for each instruction of 64-bit ARM machine code."""
    listed = " ".join(f"0x{byte:02x}" for byte in code)
    said = _run([tool("llvm-mc"), "--disassemble", f"--triple={TRIPLE}", "--mattr=+v8.2a,+fullfp16"], listed)
    lines = [" ".join(line.split()) for line in said.splitlines()]
    return [line for line in lines if line and not line.startswith(".")]


def is_multiply_add(line: str) -> bool:
    return MULTIPLY_ADD.search(line) is not None


def estimate(lines: Sequence[str]) -> dict[str, float]:
    """Cycles of one pass through a loop of these instructions, by core. The jump back is left out of the model."""
    body = [line for line in lines if not re.match(r"(b|b\.\w+|cbn?z|tbn?z|ret|br|bl|blr)\b", line)]
    cycles = {}
    for core in CORES:
        said = _run([tool("llvm-mca"), f"-mtriple={TRIPLE}", f"-mcpu={core}", f"-iterations={PASSES}"], "\n".join(body))
        found = re.search(r"Total Cycles:\s+(\d+)", said)
        if found is None:
            raise EmulationError(f"llvm-mca did not tell cycles: {said[:200]}.")
        cycles[core] = int(found[1]) / PASSES
    return cycles
