"""Processes that end when we do: short ones that do a job, and workers that answer over a pipe.

Each leads a process group of its own. So Ctrl-C reaches us alone, and we end whole groups; and a worker whose pipe
closes ends by itself, even where we were killed without a chance to say goodbye.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from haste_runtime.errors import HasteError

NOT_INHERITED = (
    "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE",  # somebody's choice for another program
    "PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP", "VIRTUAL_ENV", "NUMBA_DISABLE_JIT",
)  # fmt: skip
GRACE = 3.0  # seconds between asking a process to end and ending it
TAIL = 65536  # bytes of a log that are searched for a reason


class ProcessError(HasteError, RuntimeError):
    """A process that was started failed; the message is its reason in a line."""


def environment(threads: int = 1, path: Path | None = None) -> dict[str, str]:
    """Variables for a child: ours without what would leak into it; the usual thread variables all say ``threads``."""
    kept = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}
    counts = {f"{library}_NUM_THREADS": str(threads) for library in ("OMP", "OPENBLAS", "MKL", "NUMEXPR")}
    return kept | counts | ({} if path is None else {"PYTHONPATH": str(path)})


def reason_in(log: Path) -> str:
    """The line of a log that says why: the last with "error" in it, else the last one."""
    with contextlib.suppress(OSError):
        lines = [line.strip() for line in log.read_bytes()[-TAIL:].decode(errors="replace").splitlines()]
        lines = [line for line in lines if line]
        told = [line for line in lines if "error" in line.lower()]
        if lines:
            return (told or lines)[-1][:300]
    return "it said nothing"


def end(process: subprocess.Popen[Any]) -> None:
    """End a process and all it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
            break
    with contextlib.suppress(ProcessLookupError):  # children that outlived it
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run(command: Sequence[object], log: Path, variables: Mapping[str, str], timeout: float = 3600) -> None:
    """Run to the end; what it prints goes to ``log``. Raises ProcessError with a reason from there."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*map(str, command)], stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=variables,
            start_new_session=True,
        )  # fmt: skip
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            end(process)
            raise ProcessError(f"it did not end within {timeout:.0f} s") from None
        except BaseException:
            end(process)
            raise
    if code:
        raise ProcessError(reason_in(log))


class Worker:
    """A process that answers each line of JSON with one. The first answer comes by itself: `hello`.

    Raises ProcessError where the process fails, says {"failed": reason}, ends, or does not answer in time.
    """

    def __init__(self, command: Sequence[object], log: Path, variables: Mapping[str, str], timeout: float = 300):
        self._log, self._timeout, self._rest = log, timeout, b""
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                [*map(str, command)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=variables,
                start_new_session=True,
            )  # fmt: skip
        try:
            self.hello = self._answer()
        except BaseException:
            self.close()
            raise

    def ask(self, **message: Any) -> dict[str, Any]:
        assert self._process.stdin is not None  # a pipe was asked for
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise self._gone() from None
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        pipe, deadline = self._process.stdout.fileno(), time.monotonic() + self._timeout
        while b"\n" not in self._rest:
            ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise ProcessError(f"it did not answer within {self._timeout:.0f} s")
            part = os.read(pipe, 1 << 16)
            if not part:
                raise self._gone()
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        if "failed" in answer:
            raise ProcessError(answer["failed"])
        return answer

    def _gone(self) -> ProcessError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE)
        code = self._process.returncode
        how = "ended" if code is None or code >= 0 else f"was ended by {signal.Signals(-code).name}"
        return ProcessError(f"its process {how}: {reason_in(self._log)}")

    def close(self) -> None:
        """Ends the process; may be called again."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE)
        end(self._process)
        self._process.stdout.close()


@contextlib.contextmanager
def terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM ends us as Ctrl-C does: on the way out everything that was started is ended."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
