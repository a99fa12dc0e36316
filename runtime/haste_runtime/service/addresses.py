"""Where a service can be reached: the socket that ``haste-run top`` looks for, and what a user may write instead."""

from __future__ import annotations

import os
import re
import socket
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from haste_runtime.errors import InputError

DEFAULT_NAME = "haste"


@dataclass(frozen=True)
class Address:
    """A socket in the file system, or a host with a port."""

    path: Path | None = None
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        return f"unix:{self.path}" if self.path is not None else f"tcp:{self.host}:{self.port}"

    def connect(self, timeout_s: float) -> socket.socket:
        """Raises OSError."""
        if self.path is None:
            return socket.create_connection((self.host, self.port), timeout_s)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(timeout_s)
        try:
            connection.connect(os.fspath(self.path))
        except BaseException:
            connection.close()
            raise
        return connection


def checked_service_name(name: str) -> str:
    """It becomes the name of files. Raises InputError."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,60}", name):
        raise InputError(
            f"{name!r} cannot be the name of a service.", "Use letters, digits, - and _, such as door-camera."
        )
    return name


def runtime_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Where sockets belong: systemd's RuntimeDirectory=, the user's own, or one of ours in the temporary folder."""
    if environment.get("RUNTIME_DIRECTORY"):
        return Path(environment["RUNTIME_DIRECTORY"].split(":")[0])
    if environment.get("XDG_RUNTIME_DIR"):
        return Path(environment["XDG_RUNTIME_DIR"]) / "haste-edge"
    return Path(tempfile.gettempdir()) / f"haste-edge-{os.getuid()}"


def state_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Where logs belong, by the same rules."""
    if environment.get("STATE_DIRECTORY"):
        return Path(environment["STATE_DIRECTORY"].split(":")[0])
    if environment.get("XDG_STATE_HOME"):
        return Path(environment["XDG_STATE_HOME"]) / "haste-edge"
    return Path(os.path.expanduser("~/.local/state/haste-edge"))


def running(environment: Mapping[str, str] = os.environ) -> list[Path]:
    """The sockets that are there, of services of this user and of the system."""
    folders = [runtime_folder(environment), runtime_folder({}), Path("/run/haste-edge")]
    found = [path for folder in folders for path in sorted([*folder.glob("*.sock"), *folder.glob("*/*.sock")])]
    return list(dict.fromkeys(found))


def parse_address(text: str, name: str = DEFAULT_NAME) -> Address:
    """``unix``, ``unix:PATH``, ``tcp:PORT`` (loopback) or ``tcp:HOST:PORT``. Raises InputError."""
    kind, _, where = text.partition(":")
    if kind == "unix":
        return Address(path=Path(where) if where else runtime_folder() / f"{name}.sock")
    host, _, port = where.rpartition(":")
    if kind == "tcp" and port.isdecimal() and int(port) < 1 << 16:
        return Address(host=host.strip("[]") or "127.0.0.1", port=int(port))
    raise InputError(f"{text!r} is no address.", "Give unix, unix:PATH, tcp:PORT or tcp:HOST:PORT.")
