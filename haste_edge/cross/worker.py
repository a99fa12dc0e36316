"""``python -m haste_edge.cross.worker CORE FILE``: compile the kernels for one core and write the object file.

A process of its own because a process has one vector width (`haste_runtime.kernels.lanes`). Lines on stdout say how it
gets on.
"""

from __future__ import annotations

import sys
from pathlib import Path

from haste_edge.cross.cores import core_named
from haste_runtime.kernels.codegen import compile_object
from haste_runtime.kernels.exports import exports


def main(name: str, file: str) -> None:
    made = compile_object(exports(), core_named(name).llvm, progress=lambda line: print(line, flush=True))
    Path(file).write_bytes(made.code)


if __name__ == "__main__":
    main(*sys.argv[1:])
