"""The unit file that lets systemd run a service: at boot, again when it fails, and watched by its watchdog."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

PLAIN = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789@+=:,./-_")

UNIT = """[Unit]
Description=haste-run serve {name}
Documentation=man:systemd.service(5)
{after}StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart={command}
WorkingDirectory={folder}
{user}Environment=PYTHONUNBUFFERED=1
{environment}# The first start compiles; the service asks for more time itself.
TimeoutStartSec=120
# A frame that runs is finished first.
TimeoutStopSec=30
WatchdogSec=60
Restart=on-failure
RestartSec=2
StateDirectory=haste-edge
CacheDirectory=haste-edge
RuntimeDirectory=haste-edge/{name}
NoNewPrivileges=yes
RestrictSUIDSGID=yes
{protected}
[Install]
WantedBy={target}
"""


def unit_text(
    name: str,
    command: Sequence[str],
    folder: Path,
    *,
    system: bool = False,
    user: str = "",
    environment: Mapping[str, str] | None = None,
) -> str:
    """The file. command: program and arguments. folder: for relative paths. user: who runs a unit of the system."""
    variables = {"HASTE_CACHE": "%C/haste-edge", **(environment or {})}
    lines = [f"Environment={quoted(f'{key}={value}', specifiers=True)}\n" for key, value in variables.items()]
    return UNIT.format(
        name=name,
        command=" ".join(quoted(word) for word in command),
        folder=os.fspath(folder).replace("%", "%%"),
        after="After=network.target\n" if system else "",
        user=f"User={user}\n" if system and user else "",
        environment="".join(lines),
        protected="ProtectKernelTunables=yes\n" if system else "",  # a user's systemd may lack the right to do so
        target="multi-user.target" if system else "default.target",
    )


def quoted(word: str, specifiers: bool = False) -> str:
    """A word of a command as systemd reads it (systemd.service(5), "Command lines"). specifiers: % has its meaning."""
    word = word if specifiers else word.replace("%", "%%")
    if word and set(word) <= PLAIN | {"%"}:
        return word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("$", "$$")
    return f'"{escaped}"'


def unit_path(name: str, system: bool, environment: Mapping[str, str] = os.environ) -> Path:
    """Where systemd looks for it."""
    if system:
        return Path("/etc/systemd/system") / f"{name}.service"
    config = environment.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return Path(config) / "systemd/user" / f"{name}.service"
