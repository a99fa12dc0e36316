"""Frames over a line that loses and flips bytes: COBS with a zero byte between frames, and a CRC-32 in each.

    zero | COBS(kind (1 byte) | number (4 bytes, little endian) | payload | CRC-32 of all before (4 bytes)) | zero

COBS (Cheshire and Baker, Consistent Overhead Byte Stuffing, 1999) takes zeros out of the content at a cost of one byte
in 254, so that a zero always is a border: whatever happened before it, the next frame begins there.
"""

from __future__ import annotations

import struct
import zlib
from enum import IntEnum
from typing import NamedTuple

PAYLOAD = 4096  # the most bytes in a frame
HEAD = struct.Struct("<BI")
CRC = struct.Struct("<I")
LONGEST = (HEAD.size + PAYLOAD + CRC.size) * 255 // 254 + 2  # of a frame as it is sent, without zeros


class Kind(IntEnum):
    """What a frame says. What its number is: behind the colon."""

    HELLO = 1  # sender: the version of the protocol; payload: what comes, in JSON
    READY = 2  # receiver: bytes that are there already
    DATA = 3  # sender: offset of the payload
    ACK = 4  # receiver: bytes that are there
    END = 5  # sender: bytes in all
    DONE = 6  # receiver: bytes in all; payload: where it is, in JSON
    FAIL = 7  # receiver: the version of the protocol; payload: why not, in JSON


class Frame(NamedTuple):
    kind: Kind
    number: int
    payload: bytes = b""


def encode(frame: Frame) -> bytes:
    """As it goes over the line. A zero stands before it too: what came before cannot spoil it."""
    content = HEAD.pack(frame.kind, frame.number) + frame.payload
    return b"\0" + stuff(content + CRC.pack(zlib.crc32(content))) + b"\0"


def decode(stuffed: bytes) -> Frame | None:
    """What stands between two zeros; None if it is no frame, or not any more."""
    content = unstuff(stuffed)
    if content is None or len(content) < HEAD.size + CRC.size:
        return None
    body, (crc,) = content[: -CRC.size], CRC.unpack(content[-CRC.size :])
    kind, number = HEAD.unpack(body[: HEAD.size])
    if zlib.crc32(body) != crc or kind not in Kind.__members__.values():
        return None
    return Frame(Kind(kind), number, body[HEAD.size :])


def stuff(content: bytes) -> bytes:
    """COBS: the same without zeros. Each block of at most 254 bytes follows its length + 1."""
    stuffed = bytearray()
    for part in content.split(b"\0"):
        while len(part) >= 254:
            stuffed += b"\xff" + part[:254]
            part = part[254:]
        stuffed += bytes([len(part) + 1]) + part
    return bytes(stuffed)


def unstuff(stuffed: bytes) -> bytes | None:
    """The content; None if these bytes are not the COBS of any."""
    content, at = bytearray(), 0
    while at < len(stuffed):
        code = stuffed[at]
        block = stuffed[at + 1 : at + code]
        if code == 0 or len(block) != code - 1 or 0 in block:
            return None
        at += code
        content += block
        if code < 255 and at < len(stuffed):
            content.append(0)
    return bytes(content)


class Splitter:
    """Turns pieces of a stream into frames; what is none is left out, and counted."""

    def __init__(self) -> None:
        self._rest = b""
        self.strange = 0  # bytes between zeros that were no frame

    def feed(self, data: bytes) -> list[Frame]:
        *whole, rest = (self._rest + data).split(b"\0")
        if len(rest) > LONGEST:  # no frame is so long: it will not become one either
            rest = rest[: LONGEST + 1]
        self._rest = rest
        frames = []
        for stuffed in filter(None, whole):
            frame = decode(stuffed) if len(stuffed) <= LONGEST else None
            if frame is None:
                self.strange += len(stuffed)
            else:
                frames.append(frame)
        return frames
