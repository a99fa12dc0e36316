"""A real OpenSSH server on loopback, private to a test: its own keys, configuration, port and home folder."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")


@dataclass(frozen=True)
class Server:
    """ssh: the command that reaches it, with options. home: the folder that the user lands in."""

    folder: Path
    home: Path
    port: int
    host: str
    ssh: str
    log: Path
    pid: int

    def cut(self) -> None:
        """End every connection, as a cable that is pulled: kills what the server has started, not itself."""
        parents = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        ours = {self.pid}
        for _ in range(10):
            ours |= {pid for pid, parent in parents.items() if parent in ours}
        for pid in ours - {self.pid}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def require(*programs: str) -> None:
    """Skips where one of them is not installed; in continuous integration that is a failure."""
    there = {"sshd": SSHD, **{name: shutil.which(name) for name in programs}}
    missing = [name for name, path in there.items() if path is None]
    if missing:
        told = f"not installed: {', '.join(missing)} (Debian: apt install openssh-server openssh-client rsync)"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(told)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def key(path: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path


@contextmanager
def running(folder: Path, variables: dict[str, str]) -> Iterator[Server]:
    """variables: what commands on the "device" see beside PATH, which may be among them."""
    home, port = folder / "home", free_port()
    home.mkdir()
    folder.chmod(0o700)
    host_key, user_key = key(folder / "host_key"), key(folder / "user_key")
    known, log = folder / "known_hosts", folder / "sshd.log"
    kind, public, *_ = (folder / "host_key.pub").read_text().split()
    known.write_text(f"[127.0.0.1]:{port} {kind} {public}\n")
    settings = " ".join(f'"{name}={value}"' for name, value in ({"HOME": str(home)} | variables).items())
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {host_key}\nPidFile {folder}/pid\n"
        f"AuthorizedKeysFile {folder}/user_key.pub\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        f"UsePAM no\nStrictModes no\nPermitRootLogin prohibit-password\nSetEnv {settings}\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where its unprivileged half lives
    assert SSHD is not None
    with log.open("wb") as stderr:
        process = subprocess.Popen([SSHD, "-D", "-e", "-f", folder / "sshd_config"], stderr=stderr)
    try:
        end = time.monotonic() + 20
        while "Server listening" not in log.read_text(errors="replace"):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end
            time.sleep(0.02)
        options = ["-F", "none", "-p", str(port), "-i", str(user_key), "-o", "IdentitiesOnly=yes"]
        options += ["-o", f"UserKnownHostsFile={known}", "-o", "StrictHostKeyChecking=yes"]
        ssh = " ".join(["ssh", *options])
        yield Server(folder, home, port, f"{getpass.getuser()}@127.0.0.1", ssh, log, process.pid)
    finally:
        process.terminate()
        process.wait(20)
