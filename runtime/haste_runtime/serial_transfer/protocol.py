"""The conversation, as two state machines that know neither port nor clock: frames in, frames out.

    sender                                   receiver
    HELLO name, size, sha256       ->
                                   <-        READY offset: so much is there from before
    DATA offset, bytes             ->        written if it is what comes next, else ignored
                                   <-        ACK offset: so much is there
    END                            ->        checksum, bundle checked, renamed
                                   <-        DONE path, or FAIL reason

The sender has up to `WINDOW` frames on the way and goes back to the last ACK when no progress is told (go-back-N), so
that a line may lose, flip and double whatever it likes. Every frame may be said again without harm.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from haste_runtime.errors import HasteError
from haste_runtime.serial_transfer.framing import Frame, Kind

VERSION = 1
CHUNK = 1024  # bytes in a DATA frame: little is lost with one of them, and little is added to them
WINDOW = 16
TIMEOUT_S = 1.0  # without progress: say it again
PATIENCE = 10  # times in a row: then the line is cut
CHECKING = 6  # times that patience at the end: checking a large bundle takes a small device long
NOBODY = "Nobody answers."


class TransferError(HasteError, RuntimeError):
    """A bundle did not get over the line; what arrived is kept, and the next attempt goes on there."""


@dataclass(frozen=True)
class Offer:
    """What is to come. name: of the file, without folders."""

    name: str
    size: int
    sha256: str

    def encode(self) -> bytes:
        return json.dumps(vars(self)).encode()

    @staticmethod
    def decode(payload: bytes) -> Offer:
        """Raises ValueError for what is no offer."""
        table = json.loads(payload)
        offer = Offer(**{key: table[key] for key in ("name", "size", "sha256")})
        if not isinstance(offer.name, str) or not isinstance(offer.sha256, str) or type(offer.size) is not int:
            raise ValueError("not an offer")
        return offer


class Sender:
    """Says what is to be sent next. read: bytes of the file from an offset on, at most so many. timeout_s: without
    progress, after which everything since the last ACK is said again."""

    def __init__(self, offer: Offer, read: Callable[[int, int], bytes], timeout_s: float = TIMEOUT_S) -> None:
        self.offer, self._read, self._timeout_s = offer, read, timeout_s
        self.there: int | None = None  # bytes that the receiver has told; None before its first answer
        self.began = 0  # of them, what was there before
        self.answer: dict[str, Any] | None = None  # of DONE
        self._next = 0  # offset of what has not been sent yet
        self._repeated = False  # gone back since the last progress
        self._since: float | None = None  # last progress, or last time that it was said again
        self._silent = 0

    def send(self, now: float) -> list[Frame]:
        """What is to go out at ``now``. Raises TransferError when nothing has come back for too long."""
        if self._since is None:
            self._since = now
            return [self._hello()]
        frames: list[Frame] = []
        if now - self._since >= self._timeout_s:
            self._silent += 1
            self._since = now
            if self._silent > PATIENCE * (CHECKING if self.there == self.offer.size else 1):
                raise TransferError(*self._lost())
            if self.there is None:
                return [self._hello()]
            self._next = self.there
        if self.there is None:
            return frames
        while self._next < min(self.offer.size, self.there + WINDOW * CHUNK):
            block = self._read(self._next, CHUNK)
            frames.append(Frame(Kind.DATA, self._next, block))
            self._next += len(block)
        if self.there == self.offer.size and self._next == self.offer.size:
            frames.append(Frame(Kind.END, self.offer.size))
            self._next += 1  # said; again after a timeout
        return frames

    def take(self, frame: Frame, now: float) -> None:
        """A frame from the receiver. Raises TransferError for its refusal."""
        if frame.kind is Kind.FAIL:
            raise TransferError(*self._refused(frame))
        if frame.kind is Kind.DONE and self.there == frame.number == self.offer.size:
            self.answer = _table(frame.payload)
        elif frame.kind is Kind.READY and self.there is None and frame.number <= self.offer.size:
            self.there = self.began = self._next = frame.number
            self._progress(now)
        elif frame.kind is Kind.ACK and self.there is not None and frame.number <= self.offer.size:
            if frame.number > self.there:
                self.there, self._next = frame.number, max(self._next, frame.number)
                self._progress(now)
            elif frame.number == self.there and not self._repeated and self._next > self.there:
                self._next, self._repeated = self.there, True  # something after that got lost: at once, once

    def _progress(self, now: float) -> None:
        self._since, self._silent, self._repeated = now, 0, False

    def _hello(self) -> Frame:
        return Frame(Kind.HELLO, VERSION, self.offer.encode())

    def _lost(self) -> tuple[str, str]:
        if self.there is None:
            return (
                NOBODY,
                "Start `haste-run receive --serial URL -o DIR` on the device, at the same baud rate.",
            )
        return (
            f"The line was cut after {self.there} of {self.offer.size} bytes.",
            "Run the same command again: it goes on there.",
        )

    def _refused(self, frame: Frame) -> tuple[str, str]:
        if frame.number != VERSION:
            told = f"The receiver speaks version {frame.number} of the protocol, and this release version {VERSION}."
            return told, "Use the same release on both sides."
        table = _table(frame.payload)
        return f"The receiver refuses: {table.get('reason', 'it does not say why')}", str(table.get("hint", ""))


class Store(Protocol):
    """Where a receiver puts what arrives."""

    def open(self, offer: Offer) -> int:
        """Ready for an offer; how much of it is there. Raises TransferError."""

    def write(self, offset: int, block: bytes) -> None:
        """The next bytes. Raises TransferError."""

    def finish(self) -> dict[str, Any]:
        """All is there: check it and give it its place; what to tell. Raises TransferError."""


class Receiver:
    """Answers frames. done: what was told of the last file that arrived completely."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.offer: Offer | None = None
        self.there = 0
        self.done: dict[str, Any] | None = None

    def take(self, frame: Frame) -> list[Frame]:
        """The answer to a frame from the sender."""
        try:
            if frame.kind is Kind.HELLO:
                return self._hello(frame)
            if self.offer is None:
                return []
            if frame.kind is Kind.DATA:
                return self._data(frame)
            if frame.kind is Kind.END and frame.number == self.offer.size:
                return self._end()
        except TransferError as error:
            self.offer = None
            table = {"reason": error.message, "hint": error.hint}
            return [Frame(Kind.FAIL, VERSION, json.dumps(table).encode())]
        return []  # READY, ACK, DONE, FAIL: our own words, come back as an echo

    def _hello(self, frame: Frame) -> list[Frame]:
        if frame.number != VERSION:
            return [Frame(Kind.FAIL, VERSION, b"{}")]
        try:
            offer = Offer.decode(frame.payload)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise TransferError("what was offered is not understood") from None
        if offer != self.offer or self.done is not None:
            self.offer, self.done = None, None
            self.there = self._store.open(offer)
            self.offer = offer
        return [Frame(Kind.READY, self.there)]

    def _data(self, frame: Frame) -> list[Frame]:
        assert self.offer is not None
        if frame.number == self.there and frame.payload and self.done is None:
            if self.there + len(frame.payload) > self.offer.size:
                raise TransferError("more was sent than was offered")
            self._store.write(self.there, frame.payload)
            self.there += len(frame.payload)
        return [Frame(Kind.ACK, self.there)]

    def _end(self) -> list[Frame]:
        assert self.offer is not None
        if self.there < self.offer.size:
            return [Frame(Kind.ACK, self.there)]
        if self.done is None:
            self.done = self._store.finish()
        return [Frame(Kind.DONE, self.offer.size, json.dumps(self.done).encode())]


def _table(payload: bytes) -> dict[str, Any]:
    try:
        table = json.loads(payload)
    except ValueError:
        return {}
    return table if isinstance(table, dict) else {}
