"""``haste-run doctor``: what this computer can do, and what to do about what it can't. It never fails.

Advice goes with each finding, because the usual questions are always the same ones: why is it slow (no compiled
kernels), why does a package not install (a 32-bit Python on a 64-bit kernel, or one that is too old), why does every
start take long (no folder to keep compiled code in), why does it slow down after a while (heat, or too weak a supply).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import sys
from collections.abc import Callable
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from haste_runtime.cli import system
from haste_runtime.cli.common import print_json

OLDEST_PYTHON = (3, 10)
OLD_PYTHON = (
    "haste-runtime needs Python 3.10 or newer. On Raspberry Pi OS use the release with Bookworm or later; on a Jetson "
    "Nano, whose system Python is 3.6, install a newer Python beside it (see the runtime's README)."
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Only those that every command has."""


def run(options: argparse.Namespace) -> None:
    findings = report()
    print_json(findings) if options.json else print_findings(findings)


def report(root: Path = Path("/")) -> dict[str, Any]:
    """Findings by topic, each a dict or None, and ``advice``, a list of sentences.

    root: for tests, a folder with /proc and /sys. A probe that breaks is reported as {"error": ...}; nothing is raised.
    """
    probes: dict[str, Callable[[], Any]] = {
        "haste_runtime": _runtime,
        "python": _python,
        "system": _system,
        "cpu": lambda: system.cpu(root),
        "numpy": _numpy,
        "native": _native,
        "numba": _numba,
        "backend": _backend,
        "cache": _cache,
        "pillow": lambda: _package("PIL", "pillow"),
        "temperature": lambda: system.temperature(root),
        "throttling": lambda: system.throttling(root),
    }
    findings = {topic: probe(examine) for topic, examine in probes.items()}
    findings["advice"] = advise(findings)
    return findings


def probe(examine: Callable[[], Any]) -> Any:
    """What ``examine`` returns, or {"error": ...}: one broken package must not keep the rest from being told."""
    try:
        return examine()
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def _runtime() -> dict[str, Any]:
    from haste_runtime import __version__
    from haste_runtime.bundle import FORMAT_VERSION

    return {"version": __version__, "bundle_format": FORMAT_VERSION}


def _python() -> dict[str, Any]:
    version = platform.python_version()
    return {"version": version, "bits": system.python_bits(), "executable": sys.executable}


def _system() -> dict[str, Any]:
    uname = platform.uname()
    return {"os": uname.system, "kernel": uname.release, "machine": uname.machine}


def _numpy() -> dict[str, Any]:
    import numpy as np

    blas: Any = {}
    with contextlib.suppress(TypeError, KeyError):  # numpy 1.24 only prints, and does not know the argument
        blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    name = " ".join(str(blas[key]) for key in ("name", "version") if blas.get(key))
    return {
        "version": np.__version__,
        "blas": name or "unknown",
        "blas_threads": os.environ.get("OPENBLAS_NUM_THREADS"),
    }


def _package(module: str, distribution: str) -> dict[str, Any]:
    """Whether a module can really be imported; having it installed is not enough."""
    try:
        import_module(module)
    except Exception as error:
        return {"available": False, "reason": f"{type(error).__name__}: {error}"}
    return {"available": True, "version": metadata.version(distribution)}


def _numba() -> dict[str, Any]:
    return _package("numba", "numba")


def _native() -> dict[str, Any]:
    """The kernels compiled ahead of time that fit this CPU, loaded to be sure; or why there are none, and with a hint
    where that should be mended."""
    from haste_runtime.errors import NativeError
    from haste_runtime.native.load import native_kernels

    try:
        kernels = native_kernels()
    except NativeError as error:
        hint = {"hint": error.hint} if error.damaged else {}
        return {"available": False, "reason": error.message, **hint}
    library = kernels.library
    return {
        "available": True, "kernels": library.name, "reason": kernels.reason, "lanes": library.lanes,
        "file": library.path,
    }  # fmt: skip


def _backend() -> dict[str, Any]:
    """What "auto" means here, and why."""
    native, numba = _native(), _numba()
    if native["available"]:
        return {"auto": "native", "reason": f"kernels for {native['kernels']}: {native['reason']}"}
    why = f"native cannot run ({native['reason'].rstrip('.')})"
    if numba["available"]:
        return {"auto": "numba", "reason": f"{why}; numba is installed"}
    return {"auto": "numpy", "reason": f"{why}; numba cannot be imported ({numba['reason']})"}


def _cache() -> dict[str, Any]:
    """Where kernels that numba compiles are kept."""
    if not _numba()["available"]:
        return {"reason": "not needed without numba"}
    from haste_runtime.cache import CACHE_VARIABLE
    from haste_runtime.kernels.compile import cache_folder

    folder = cache_folder()
    return {"folder": None if folder is None else str(folder), "writable": folder is not None, "set_by": CACHE_VARIABLE}


def advise(findings: dict[str, Any]) -> list[str]:
    """What should be done, in order of weight; empty where all is well."""
    advice = []
    machine = str(findings["system"].get("machine", ""))
    bits = findings["python"].get("bits")
    if sys.version_info[:2] < OLDEST_PYTHON:
        advice.append(OLD_PYTHON)
    native, quick = findings["native"], findings["native"].get("available")
    if native.get("hint"):
        advice.append(f"{native['reason']} {native['hint']}".strip())
    if bits == 32 and not quick:
        system = "although the kernel is 64-bit" if machine in ("aarch64", "arm64", "x86_64") else "as the kernel is"
        advice.append(
            f"Python is 32-bit {system}, and numba has no 32-bit wheels: only the slow numpy backend runs here. "
            "Install the wheel of haste-runtime for armv7l, which `haste-edge build-runtime` makes on the laptop, or "
            "the 64-bit edition of the operating system."
        )
    elif not quick and not findings["numba"].get("available"):
        advice.append(
            "Frames are slow without compiled kernels. Install the wheel of haste-runtime for this machine, which "
            '`haste-edge build-runtime` makes on the laptop, or numba: pip install "haste-runtime[jit]"'
        )
    if not quick and findings["numba"].get("available") and findings["cache"].get("writable") is False:
        advice.append(
            f"No folder can be written to, so the kernels are compiled at every start. "
            f"Set {findings['cache']['set_by']} to a folder that this user may write to."
        )
    if not findings["pillow"].get("available"):
        advice.append('Only .npy pictures can be read. For others install Pillow: pip install "haste-runtime[images]"')
    throttling = findings["throttling"] or {}
    if "under-voltage" in [*throttling.get("now", []), *throttling.get("since_boot", [])]:
        advice.append("The supply voltage was too low: use the board's own power supply and a short cable.")
    if {"throttled", "soft temperature limit", "frequency capped"} & set(throttling.get("now", [])):
        advice.append("The processor is held back now: cool it, or run at a higher level.")
    return advice


def print_findings(findings: dict[str, Any]) -> None:
    """One line a topic, then the advice."""
    for topic, finding in findings.items():
        if topic != "advice":
            print(f"{topic.replace('_', '-') + ':':<14} {describe(finding)}")
    print()
    for sentence in findings["advice"]:
        print(f"* {sentence}")
    if not findings["advice"]:
        print("Nothing stands in the way.")


def describe(finding: Any) -> str:
    """A finding in one line."""
    if finding is None:
        return "cannot be read here"
    if isinstance(finding, dict):
        told = {key.replace("_", " "): describe(value) for key, value in finding.items() if value is not None}
        return ", ".join(f"{key} {value}" for key, value in told.items())
    if isinstance(finding, (list, tuple)):
        return " ".join(map(str, finding)) or "none"
    if isinstance(finding, bool):
        return "yes" if finding else "no"
    return str(finding)
