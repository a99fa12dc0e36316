"""The runtime's wheel for a device: taken from a folder, or built for its kind of machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from haste_edge.deploy.remote import Remote
from haste_edge.deploy.steps import Delivery, Step
from haste_edge.errors import DeployError

OLDEST_PYTHON = (3, 10)
TARGETS = {"aarch64": "generic-aarch64", "armv7l": "generic-armv7", "x86_64": "host"}


def check_python(state: dict[str, Any], remote: Remote) -> None:
    """Raises DeployError if the device's Python is too old for the runtime."""
    version = tuple(int(part) for part in state["python"].split(".")[:2])
    if version < OLDEST_PYTHON:
        raise DeployError(
            f"{remote.host} has Python {state['python']}, and haste-runtime needs 3.10 or newer.",
            "Name a newer one there: --python python3.11; runtime/README.md says how to get one.",
        )


def find_wheel(folder: Path, machine: str) -> Path:
    """The wheel of haste-runtime for that machine in a folder. Raises DeployError unless there is one."""
    found = sorted(folder.glob(f"haste_runtime-*-py3-none-*_{machine}.whl")) if folder.is_dir() else []
    found = found or (sorted(folder.glob("haste_runtime-*-py3-none-any.whl")) if folder.is_dir() else [])
    if len(found) != 1:
        raise DeployError(
            f"{folder} holds {len(found)} wheels of haste-runtime for {machine}, not one.",
            "Make it: haste-edge build-runtime -o DIR, and give --wheels DIR.",
        )
    return found[0]


class Installation:
    """The steps that make a wheel that was delivered the runtime in use: an environment of its own, tried first."""

    def __init__(self, remote: Remote, delivery: Delivery) -> None:
        self._remote, self._delivery = remote, delivery

    def steps(self) -> Iterator[Step]:
        wheel, folder = self._delivery.sent, self._delivery.folder
        yield from self._delivery.upload()
        request = {"folder": folder, "version": wheel.version, "file": wheel.file}
        works = False
        if self._delivery.state["whole"]:
            works = self._remote.ask("installed", **request)["runtime"] is not None
        if not works:
            home = f"{folder}/versions/{wheel.version}"
            commands = (
                f"{self._remote.python} -m venv --system-site-packages {home}/venv && "
                f"{home}/venv/bin/python -m pip install {home}/{wheel.file}"
            )
            yield Step("install it into an environment of its own, and try it", commands, self._install(request))
        yield from self._delivery.switch()

    def _install(self, request: dict[str, Any]) -> Any:
        return lambda: self._remote.ask("install", **request)

    @property
    def command(self) -> str:
        """haste-run on the device."""
        return haste_run(self._delivery.folder)


def haste_run(folder: str) -> str:
    """The command of the runtime that is current in a folder: by the link, so that a unit file stays right when the
    runtime is renewed."""
    return f"{folder}/current/venv/bin/python -m haste_runtime.cli"


def built(machine: str, folder: Path, target: str | None, report: Any) -> Path:
    """Build the wheel for that machine into a folder, for a board or any of its kind. Raises DeployError for a board
    of another kind, BuildError."""
    from haste_edge.cross.wheels import build_runtime

    wheels = build_runtime([target or TARGETS[machine]], folder, report)
    for wheel in wheels:
        if wheel.machine == machine:
            return wheel.path
    raise DeployError(
        f"{target} is no {machine}, which the device is.", "Leave --target out, or give the device's own board."
    )
