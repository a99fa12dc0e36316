"""A virtual environment for each runtime, in the user's cache folder, made when it is first needed."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from haste_edge import processes
from haste_runtime.cache import CACHE_VARIABLE
from haste_runtime.errors import HasteError
from haste_runtime.kernels.compile import cache_folder

COMPLETE = "complete"  # a file that is there once everything is installed


def bench_folder() -> Path:
    """Where environments and exported networks are kept. Raises HasteError where no folder is writable."""
    folder = cache_folder()
    if folder is None:
        raise HasteError("No folder is writable to set up other runtimes in.", f"Set {CACHE_VARIABLE} to one.")
    made = folder / "bench"
    made.mkdir(mode=0o700, exist_ok=True)
    return made


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One process at a time makes things there; the others wait."""
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def folder_for(name: str, requirements: Sequence[str], root: Path) -> Path:
    """Another one for other requirements or another Python."""
    key = hashlib.sha256("\n".join([sys.version, *requirements]).encode()).hexdigest()[:12]
    return root / f"{name}-{key}"


def python_of(name: str, requirements: Sequence[str], root: Path, on_step: Callable[[str], None]) -> Path:
    """The interpreter of the environment ``name``, which is made if it is not there. root: its parent folder.

    Raises ProcessError, with pip's reason in a line, where it cannot be made; nothing is left of it then.
    """
    folder = folder_for(name, requirements, root)
    python = folder / "bin" / "python"
    with alone(root):
        if (folder / COMPLETE).exists():
            return python
        on_step(f"Setting up an environment with {', '.join(requirements)}, once; this may download a lot")
        shutil.rmtree(folder, ignore_errors=True)
        log = root / f"{folder.name}.log"
        try:
            variables = processes.environment()
            processes.run([sys.executable, "-m", "venv", folder], log, variables)
            pip = [python, "-m", "pip", "--disable-pip-version-check", "--no-input", "install"]
            processes.run([*pip, *requirements], log, variables)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        (folder / COMPLETE).write_text("\n".join(requirements) + "\n")
    return python
