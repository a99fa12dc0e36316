"""Build both wheels and use them as somebody does who never saw this checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def run(*command: str | Path, cwd: Path, code: int = 0) -> str:
    """Standard output of a command that sees no variable leading to this checkout. Its exit code is checked."""
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "NUMBA"))}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=variables, capture_output=True, text=True)
    assert done.returncode == code, f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}"
    return done.stdout


def install(python: Path, wheel: Path) -> None:
    """Put the wheel, and nothing that it asks for, into the environment of that Python, anew if it is there."""
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index"]
    run(*pip, "--force-reinstall", wheel, cwd=wheel.parent)


def build(folder: Path) -> dict[str, Path]:
    """``haste_edge`` and ``haste_runtime`` -> its wheel in the folder, built from this checkout without network."""
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    run(*pip, "--wheel-dir", folder, ROOT, ROOT / "runtime", cwd=folder)
    return {path.name.partition("-")[0]: path for path in folder.glob("*.whl")}
