"""What every command shares, on the device and on the laptop: how errors end, how levels are spelt, where JSON goes."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal

from haste_runtime.errors import HasteError, LevelError

if TYPE_CHECKING:
    from haste_runtime.session import Session

LOG_SECONDS = 10.0
INTERNAL_ERROR = 70  # as sysexits.h has it
INTERRUPTED = 130  # as shells have it: 128 + SIGINT
EXIT_CODES = {
    0: "done",
    1: "another error that the message explains",
    2: "wrong usage: a model, input, level or target that does not exist or fit",
    3: "a bundle or data file that cannot be used",
    4: "a backend that cannot run here",
    5: "the model holds something that cannot be compiled",
    6: "the compiled network does not compute what the original does",
    INTERNAL_ERROR: "a defect of haste-edge: please report it",
    INTERRUPTED: "interrupted with Ctrl-C",
}


def debugging() -> bool:
    """HASTE_DEBUG=1 in the environment: show tracebacks."""
    return os.environ.get("HASTE_DEBUG", "") not in ("", "0")


class _Notes(logging.Handler):
    """What the runtime logs, such as that kernels are being compiled, as lines for people.

    Warnings are all shown; of progress a line every `LOG_SECONDS`, so that nobody has to read how each kernel gets on.
    Which backend was chosen is left to the commands.
    """

    last = -math.inf

    def emit(self, record: logging.LogRecord) -> None:
        progress = record.name != "haste_runtime.backends" and record.created - self.last >= LOG_SECONDS
        if record.levelno > logging.INFO or progress:
            self.last = record.created
            note(record.getMessage())


@contextlib.contextmanager
def log_shown() -> Iterator[None]:
    """Meanwhile, the log of ``haste_runtime`` goes to stderr, from INFO on."""
    log, handler = logging.getLogger("haste_runtime"), _Notes()
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.setLevel(level)
        log.removeHandler(handler)


def guarded(command: Callable[[], None], debug: bool = False) -> int:
    """Runs a command and returns its exit code; every error becomes a sentence and a hint on stderr."""
    try:
        with log_shown():
            command()
        return 0
    except HasteError as error:
        _complain(f"Error: {error.message}", error.hint, debug)
        return error.exit_code
    except KeyboardInterrupt:
        _complain("Interrupted.", "", debug)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read the output has gone: no complaint
        return 0
    except MemoryError:
        _complain("Error: The memory does not suffice.", "Use a smaller network or input, or close programs.", debug)
        return 1
    except Exception as error:
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        hint = "Please report it with the command and the traceback, which --debug or HASTE_DEBUG=1 prints."
        _complain(f"Error: This is a defect of haste-edge ({what}).", hint, debug)
        return INTERNAL_ERROR


def _complain(sentence: str, hint: str, debug: bool) -> None:
    if debug or debugging():
        traceback.print_exc()
    print(sentence, file=sys.stderr)
    if hint:
        print(f"Hint: {hint}", file=sys.stderr)


def note(line: str) -> None:
    """A line for people, on stderr, so that stdout stays the result alone."""
    print(line, file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """The result on stdout, and nothing else goes there. NaN and infinity would not be JSON and are a ValueError."""
    print(json.dumps(value, indent=2, allow_nan=False))


def parse_levels(text: str, count: int) -> list[int]:
    """The levels meant by ``text``, each once, in the order given: "all", "3", "0,2,4", "0..3" or a mix of them.

    count: how many levels the bundle has, level 0 included. Raises LevelError.
    """
    hint = f'This bundle has levels 0 to {count - 1}: give "all", or levels and ranges such as 0,2,4..6.'
    if text.strip() == "all":
        return list(range(count))
    levels: list[int] = []
    for part in text.split(","):
        first, dots, last = (piece.strip() for piece in part.partition(".."))
        if not first.isdecimal() or (dots and not last.isdecimal()):
            raise LevelError(f"{text!r} is not a list of levels.", hint)
        chosen = range(int(first), int(last if dots else first) + 1)
        if not chosen or chosen[-1] >= count:
            raise LevelError(f"There is no level {part.strip()}.", hint)
        levels += chosen
    return list(dict.fromkeys(levels))


UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def seconds(text: str) -> float:
    """Seconds of "90", "90s", "30m" or "8h". For argparse, which turns the ValueError into its own usage message."""
    match = re.fullmatch(r"(\d+\.?\d*|\.\d+)(s|m|min|h)?", text.strip())
    if match is None:
        raise ValueError("must be a time such as 90s, 30m or 8h")
    return float(match[1]) * UNITS[match[2] or ""]


def positive_integer(text: str) -> int:
    """For argparse, which turns the ValueError into its own usage message."""
    number = int(text)
    if number < 1:
        raise ValueError("must be 1 or more")
    return number


def thread_count(text: str) -> int | Literal["auto"]:
    """The same, or "auto": what ``haste-run calibrate`` found to be best."""
    return "auto" if text == "auto" else positive_integer(text)


def latency(text: str) -> float:
    """Milliseconds, above 0; for argparse."""
    number = float(text)
    if not 0 < number < math.inf:
        raise ValueError("must be above 0")
    return number


def level_that_meets(session: Session, latency_ms: float) -> int:
    """The level for ``--latency-ms``; says so where even the quickest is slower. Raises CalibrationError."""
    level = session.level_for(latency_ms)
    calibration = session.calibration
    assert calibration is not None
    ms = calibration.at_threads(session.threads)[level].ms
    if ms > latency_ms:
        note(f"No level meets {latency_ms:g} ms here; level {level} is the quickest, and takes {ms:.2f} ms.")
    return level
