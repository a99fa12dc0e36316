"""Commands on the device through the system's ssh, and errors with advice for what ssh and rsync say."""

from __future__ import annotations

import base64
import errno
import json
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from haste_edge.deploy import device_side
from haste_edge.errors import DeployError

SSH_FAILED = 255  # ssh's own exit code, when it is not that of the command
WAIT_S = 15
HOST = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.+-]*@)?[A-Za-z0-9\[][A-Za-z0-9_.:%\[\]-]*")

LOST = ("The connection to {host} was lost.", "Run the same command again: it goes on where it was interrupted.")

# What ssh says on stderr, and what to do about it; the first that is found counts.
SAYINGS = (
    (
        r"REMOTE HOST IDENTIFICATION HAS CHANGED",
        "{host} shows another host key than before.",
        "If it was set up anew, forget the old one: ssh-keygen -R {name}; else somebody may be in between.",
    ),
    (
        r"Host key verification failed|No .* host key is known",
        "The host key of {host} is not known here.",
        "Compare and accept it once: {ssh} {host}",
    ),
    (
        r"Permission denied|Too many authentication failures",
        "{host} does not let us in.",
        "Check the user's name, or bring a key there once: ssh-copy-id {host}",
    ),
    (
        r"Could not resolve hostname",
        "There is no computer by the name of {name}.",
        "Check the name, or use the address; many boards answer to NAME.local.",
    ),
    (
        r"Connection refused",
        "{name} does not accept ssh.",
        "Switch it on there: sudo systemctl enable --now ssh",
    ),
    (
        r"timed out|No route to host|Network is unreachable|Host is down",
        "{name} does not answer.",
        "Check that it is on, and in the same network.",
    ),
    (
        r"[Cc]onnection (?:unexpectedly )?(?:closed|reset)|Broken pipe|lost connection|client_loop|mux_client",
        *LOST,
    ),
    (r"No space left on device|Disk quota exceeded", "There is no space left on {host}.", "Remove something there."),
    (
        r"python\S*: (?:command )?not found|python\S*: No such file",
        "{host} has no {python}.",
        "Install it there: sudo apt install python3, or name another one: --python",
    ),
)


class Remote:
    """A device, over one connection that all commands share; a context manager that closes it.

    host: as ssh takes it, "user@host" or a name of ~/.ssh/config. ssh: the command, with options. python: the device's
    own. Raises DeployError where ssh is not installed or the host is no such name.
    """

    def __init__(self, host: str, ssh: str = "ssh", python: str = "python3") -> None:
        if not HOST.fullmatch(host):
            raise DeployError(f"{host!r} is not a host.", "Give user@host, or a name of your ssh configuration.")
        if not re.fullmatch(r"[\w./+-]+", python) or python.startswith("-"):
            raise DeployError(f"--python {python!r} is not a command.", "Give a name or a path, such as python3.11.")
        self.host, self.python, self._asked = host, python, shlex.split(ssh)
        if not self._asked or shutil.which(self._asked[0]) is None:
            raise DeployError(
                f"There is no {self._asked[0] if self._asked else 'ssh'} on this computer.",
                "Install it, on Debian and Ubuntu: sudo apt install openssh-client",
            )
        self._connected = False
        self._scratch = tempfile.TemporaryDirectory(prefix="haste-ssh-")
        quiet = [] if sys.stdin.isatty() else ["-o", "BatchMode=yes"]
        patience = ["-o", f"ConnectTimeout={WAIT_S}", "-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=3"]
        self._ssh = [*self._asked, "-o", f"ControlPath={self._scratch.name}/%C", *quiet, *patience]

    def __enter__(self) -> Remote:
        """Connect; a password is asked for once. Raises DeployError."""
        said = Path(self._scratch.name) / "said"
        with said.open("wb") as stderr:  # a file: the connection stays in the background, and would keep a pipe open
            command = [*self._ssh, "-o", "ControlMaster=yes", "-o", "ControlPersist=yes", "-f", "-N", "--", self.host]
            done = subprocess.run(command, stdin=None if sys.stdin.isatty() else subprocess.DEVNULL, stderr=stderr)
        if done.returncode != 0:
            error = self.error(SSH_FAILED, said.read_text("utf-8", "replace"), "ssh")
            self._scratch.cleanup()
            raise error
        self._connected = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        closing = [*self._ssh, "-O", "exit", "--", self.host]
        subprocess.run(closing, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        self._scratch.cleanup()

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """One operation of `device_side`, and its answer. Raises DeployError."""
        argument = base64.b64encode(json.dumps({"do": do, **request}).encode()).decode()
        script = Path(device_side.__file__).read_bytes()
        done = subprocess.run(
            [*self._ssh, "--", self.host, f"{self.python} - {argument}"], input=script, capture_output=True, check=False
        )
        marked = [line for line in done.stdout.decode(errors="replace").splitlines() if device_side.MARK in line]
        if not marked:  # a greeting that a shell prints may well stand before it
            raise self.error(done.returncode, done.stderr.decode(errors="replace"), f"The operation {do!r}")
        answer: dict[str, Any] = json.loads(marked[-1].partition(device_side.MARK)[2])
        if not answer["ok"]:
            if answer.get("errno") in (errno.ENOSPC, errno.EDQUOT):
                raise DeployError(f"There is no space left on {self.host}.", "Remove something there.")
            raise DeployError(f"{self.host}: {answer['reason']}.", "Nothing has been switched: what ran there runs on.")
        return answer

    def run(self, command: str, stdin: IO[bytes] | int = subprocess.DEVNULL) -> str:
        """A command line there, with standard input from a file; what it prints. Raises DeployError."""
        done = subprocess.run([*self._ssh, "--", self.host, command], stdin=stdin, capture_output=True, check=False)
        if done.returncode != 0:
            raise self.error(done.returncode, (done.stderr or done.stdout).decode(errors="replace"), f"`{command}`")
        return done.stdout.decode(errors="replace")

    def pipe(self, command: str) -> subprocess.Popen[bytes]:
        """A command line there that is fed by us."""
        return subprocess.Popen(
            [*self._ssh, "--", self.host, command],
            bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip

    def rsync(self, file: Path, target: str, progress: bool = False) -> list[str]:
        """The command that copies a file to an absolute path there, and goes on with a part that is there."""
        shown = ["--info=progress2"] if progress else []
        return self._copying(file, target, self._ssh, [*shown, "--timeout=60"])

    def rsync_shown(self, file: Path, target: str) -> str:
        """The same, as a person would type it."""
        return shlex.join(self._copying(file, target, self._asked, []))

    def _copying(self, file: Path, target: str, ssh: list[str], options: list[str]) -> list[str]:
        kept = ["--append-verify", "--inplace", "--protect-args"]
        over = [] if ssh == ["ssh"] else ["-e", shlex.join(ssh)]
        return ["rsync", *kept, *options, *over, "--", str(file), f"{self.host}:{target}"]

    def shown(self, command: str) -> str:
        """How a person would type it."""
        return f"{shlex.join(self._asked)} {self.host} {shlex.quote(command)}"

    def error(self, code: int, said: str, what: str) -> DeployError:
        """The sentence for what ssh, rsync or the command said."""
        names = {
            "host": self.host,
            "name": self.host.rpartition("@")[2],
            "ssh": shlex.join(self._asked),
            "python": self.python,
        }
        for pattern, sentence, hint in SAYINGS:
            if re.search(pattern, said):
                return DeployError(sentence.format(**names), hint.format(**names))
        last = [line.strip() for line in said.splitlines() if line.strip()]
        told = f": {last[-1]}" if last else ""
        if code == SSH_FAILED and self._connected:
            return DeployError(LOST[0].format(**names), LOST[1])
        if code == SSH_FAILED:
            return DeployError(f"{self.host} cannot be reached{told}.", f"Try it by hand: {names['ssh']} {self.host}")
        return DeployError(f"{what} failed on {self.host} with exit code {code}{told}.", "Try it there by hand.")
