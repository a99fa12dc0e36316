"""What deploying does, step by step: first looked at, so that it can be told before it is done.

Whatever the first look finds decides: a version that is there is not sent again, a part that arrived before is gone on
with, and where rsync is missing on either side, ssh alone brings the rest.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from haste_edge.deploy.remote import Remote
from haste_edge.errors import DeployError

PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
FOLDER = re.compile(r"(?:~/)?[A-Za-z0-9._/-]+")
SPARE = 16 << 20  # bytes that are to be left on the device beside what is sent
BLOCK = 1 << 20
MACHINES = {"aarch64": (64, "aarch64"), "x86_64": (64, "x86_64"), "amd64": (64, "x86_64")}
ARM_32 = ("aarch64", "armv8l", "armv7l")
Report = Callable[[str, int, int], None]  # what is going on, done, total


@dataclass(frozen=True)
class Step:
    """what: in words. command: what happens for it, as one would type it; empty for our own script on the device.
    run: does it."""

    what: str
    command: str
    run: Callable[[], Any]


@dataclass(frozen=True)
class Parcel:
    """A file to be deployed as a version of something. name: of that something. version: the beginning of sha256."""

    path: Path
    name: str
    sha256: str
    size: int

    @property
    def version(self) -> str:
        return self.sha256[:16]

    @property
    def file(self) -> str:
        return self.path.name


def plain(name: str) -> str:
    """The same. Raises DeployError for a name that a shell would take apart."""
    if not PLAIN.fullmatch(name):
        raise DeployError(f"{name!r} is no plain name.", "Rename the file: letters, digits, dots and dashes.")
    return name


def parcel(path: Path, name: str) -> Parcel:
    """Read the file and sum it up. Raises DeployError for a name that a shell would take apart."""
    plain(path.name)
    try:
        with path.open("rb") as file:
            return Parcel(path, plain(name), hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size)
    except OSError as error:
        raise DeployError(f"{path} cannot be read: {error.strerror}.", "Check the path.") from error


def place(folder: str, name: str) -> str:
    """The folder of a thing on the device. Raises DeployError for one that a shell would take apart."""
    if not FOLDER.fullmatch(folder) or ".." in folder.split("/"):
        raise DeployError(f"--to {folder!r} is no plain folder.", "Give one such as haste, ~/haste or /opt/haste.")
    plain(name)
    home = "" if folder.startswith(("/", "~/")) else "~/"
    return f"{home}{folder.rstrip('/')}/{name}"


def machine_of(state: dict[str, Any], host: str) -> str:
    """The kind of machine whose wheels fit: what counts is the width of its Python. Raises DeployError."""
    machine, bits = state["machine"].lower(), state["bits"]
    if machine in MACHINES and MACHINES[machine][0] == bits:
        return MACHINES[machine][1]
    if machine in ARM_32 and bits == 32:
        return "armv7l"
    raise DeployError(
        f"There is no wheel for {host}: {machine} with a Python of {bits} bits.",
        "haste-run needs aarch64, armv7l (with NEON) or x86_64.",
    )


class Delivery:
    """The steps that bring a parcel to a device and make it the current version.

    state: what `device_side.state` answered for it. report: is told how far an upload has come.
    """

    def __init__(self, remote: Remote, sent: Parcel, state: dict[str, Any], report: Report) -> None:
        self.remote, self.sent, self.state, self._report = remote, sent, state, report
        self.folder = state["folder"]
        self._request = {
            "folder": self.folder, "version": sent.version, "file": sent.file, "sha256": sent.sha256,
        }  # fmt: skip
        if not state["writable"]:
            raise DeployError(f"{remote.host}: {self.folder} cannot be written to.", "Give another folder: --to")
        missing = sent.size - state["part"]
        if not state["whole"] and missing + SPARE > state["free"]:
            raise DeployError(
                f"{remote.host} has {state['free'] / 1e6:.0f} MB left, and {missing / 1e6:.0f} MB have to go there.",
                "Remove something there, or give a folder on another disk: --to",
            )

    @property
    def with_rsync(self) -> bool:
        """Whether both sides have it."""
        return bool(self.state["rsync"]) and shutil.which("rsync") is not None

    @property
    def target(self) -> str:
        """Where the file arrives."""
        return f"{self.folder}/incoming/{self.sent.version}/{self.sent.file}"

    def upload(self) -> Iterator[Step]:
        """Until the file has its place among the versions; nothing if it has."""
        sent, state = self.sent, self.state
        if state["whole"]:
            return
        request = self._request
        yield Step(f"make {self.folder}/incoming/{sent.version}", "", lambda: self.remote.ask("prepare", **request))
        there = f", {state['part'] / 1e6:.1f} MB of which are there already" if state["part"] else ""
        what = f"send {sent.file}, {sent.size / 1e6:.1f} MB{there}"
        if self.with_rsync:
            yield Step(what, self.remote.rsync_shown(sent.path, self.target), self._rsync)
        else:
            who = f"{self.remote.host} has" if shutil.which("rsync") else "this computer has"
            command_there = f"cat >> {self.target}"
            yield Step(f"{what} ({who} no rsync: by ssh alone)", self.remote.shown(command_there), self._stream)
        what = f"compare sha256 {sent.sha256[:16]}... on the device, flush to its disk, move to versions/{sent.version}"
        yield Step(what, "", lambda: self.remote.ask("finish", **request))

    def switch(self) -> Iterator[Step]:
        """Make it the current version; nothing if it is. Older ones than the previous one are removed."""
        current, version = self.state["current"], self.sent.version
        if current == version:
            return
        was = f", so far {current}, which stays as the previous one" if current else ""
        request = {"folder": self.folder, "version": version}
        yield Step(f"current -> versions/{version}{was}", "", lambda: self.remote.ask("switch", **request))
        old = [name for name in self.state["versions"] if name not in (current, version)]
        if old:
            yield Step(f"remove {', '.join(old)}", "", lambda: self.remote.ask("prune", folder=self.folder))

    def _rsync(self) -> None:
        seen = sys.stderr.isatty()
        command = self.remote.rsync(self.sent.path, self.target, seen)
        shown = sys.stderr if seen else subprocess.DEVNULL
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=shown, stderr=subprocess.PIPE)
        if done.returncode != 0:
            raise self.remote.error(done.returncode, done.stderr.decode(errors="replace"), "rsync")

    def _stream(self) -> None:
        """The rest of the file, after what is there and right."""
        sent = self.sent
        part = int(self.remote.ask("prepare", **self._request)["part"])
        with sent.path.open("rb") as file:
            if part:
                there = self.remote.ask("prefix", **self._request, size=part)["sha256"]
                if part > sent.size or hashlib.sha256(file.read(part)).hexdigest() != there:
                    self.remote.ask("discard", **self._request)
                    self.remote.ask("prepare", **self._request)
                    part = 0
            file.seek(part)
            with self.remote.pipe(f"cat >> {self.target}") as pipe:
                assert pipe.stdin is not None
                assert pipe.stderr is not None
                try:
                    while block := file.read(BLOCK):
                        pipe.stdin.write(block)
                        part += len(block)
                        self._report(f"Sending {sent.file}", part, sent.size)
                except BrokenPipeError:
                    pass  # what happened there is told below
                except BaseException:
                    pipe.kill()
                    raise
                pipe.stdin.close()
                said = pipe.stderr.read().decode(errors="replace")
            if pipe.returncode != 0:
                raise self.remote.error(pipe.returncode, said, "Sending")


def look(remote: Remote, sent: Parcel, folder: str) -> dict[str, Any]:
    """What is on the device. Changes nothing there."""
    return remote.ask("state", folder=folder, version=sent.version, file=sent.file, sha256=sent.sha256)


def rollback(remote: Remote, folder: str) -> tuple[dict[str, Any], list[Step]]:
    """The state, and the step back to the previous version. Raises DeployError where there is none."""
    state = remote.ask("state", folder=folder, version="none", file="none", sha256="")
    previous, current = state["previous"], state["current"]
    if previous is None or previous == current:
        kept = f"only {current} is there" if current else "nothing is there"
        raise DeployError(f"{remote.host} has no previous version in {state['folder']}: {kept}.", "Deploy one first.")
    request = {"folder": state["folder"], "version": previous}
    what = f"current -> versions/{previous}, so far {current}, which becomes the previous one"
    return state, [Step(what, "", lambda: remote.ask("switch", **request))]
