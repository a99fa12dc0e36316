"""The steps that let a deployed bundle run as a systemd service of the device's user."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from haste_edge.deploy.remote import Remote
from haste_edge.deploy.steps import Step
from haste_edge.errors import DeployError

SYSTEMCTL = "systemctl --user"


@dataclass(frozen=True)
class Service:
    """runtime: the command that is haste-run there. name: of the unit. options: of haste-run serve, one word each.

    policy: a file of ours that is sent along.
    """

    remote: Remote
    runtime: str
    name: str
    options: Sequence[str] = ()
    policy: Path | None = None

    def steps(self, folder: str, path: str) -> Iterator[Step]:
        """path: the bundle on the device; its folder is where the policy goes, too."""
        words = [path, f"--name={self.name}", *self.options]
        if self.policy is not None:
            there = f"{folder}/policy.toml"
            words.append(f"--policy={there}")
            text = checked_policy(self.policy)
            yield Step(f"send {self.policy.name} to {there}", "", self._writing(folder, text))
        install = f"{self.runtime} install-service {shlex.join(words)}"
        yield Step("write the unit file of the service", self.remote.shown(install), lambda: self.remote.run(install))
        yield from self.restart(enable=True)

    def restart(self, enable: bool = False) -> Iterator[Step]:
        """So that it runs what is current now."""
        commands = [f"{SYSTEMCTL} daemon-reload", f"{SYSTEMCTL} enable {self.name}"] if enable else []
        line = " && ".join([*commands, f"{SYSTEMCTL} restart {self.name}"])
        yield Step(f"start the service {self.name} anew", self.remote.shown(line), lambda: self.remote.run(line))

    def _writing(self, folder: str, text: str) -> Any:
        return lambda: self.remote.ask("write", folder=folder, file="policy.toml", text=text)


def checked_policy(path: Path) -> str:
    """The text of a policy that this release understands. Raises PolicyError, and DeployError if it is not text."""
    from haste_runtime.governor.policy import read_policy

    read_policy(path)
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DeployError(f"{path} cannot be read: {error}.", "Check the path.") from error


def split_options(text: str) -> list[str]:
    """The words of --serve-options. Raises DeployError for a quote that is never closed."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise DeployError(f"--serve-options {text!r} cannot be read: {error}.", "Close the quote.") from None
