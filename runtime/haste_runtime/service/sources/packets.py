"""How frames stand in a stream of bytes: one after the other, or as packets that survive a bad wire.

``raw``: every frame is a picture of the network's own height and width, three bytes RGB a pixel, row by row, and
nothing in between: what ``ffmpeg -f rawvideo -pix_fmt rgb24`` writes.

``packets``: sixteen bytes of head, then the payload. All numbers are little-endian.

    4 bytes   "HSTF"
    1 byte    kind: 1 a picture (height and width as 4 bytes each, then RGB), 2 the network's input as float32,
              3 a picture file such as a JPEG
    3 bytes   zero
    4 bytes   length of the payload
    4 bytes   CRC-32 of the payload, as zlib has it

What is no packet, or is damaged, is passed over up to the next "HSTF".
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from haste_runtime.errors import InputError
from haste_runtime.graph import Shape
from haste_runtime.preprocessing import decode_image
from haste_runtime.service.sources.frame import BadFrame

MAGIC = b"HSTF"
HEAD = struct.Struct("<4sB3xII")
PICTURE, INPUT, FILE = 1, 2, 3
LONGEST = 1 << 26


def pack_picture(image: NDArray[np.uint8]) -> bytes:
    """A picture, uint8 (H, W, 3) RGB, as a packet."""
    height, width, _ = image.shape
    return _pack(PICTURE, struct.pack("<II", height, width) + image.tobytes())


def pack_input(x: NDArray[np.float32]) -> bytes:
    """One frame of the network's own input, without a batch axis, as a packet."""
    return _pack(INPUT, np.ascontiguousarray(x, "<f4").tobytes())


def pack_file(data: bytes) -> bytes:
    """A picture file as a packet."""
    return _pack(FILE, data)


def _pack(kind: int, payload: bytes) -> bytes:
    return HEAD.pack(MAGIC, kind, len(payload), zlib.crc32(payload)) + payload


class RawPictures:
    """Cuts a stream into pictures of one size. shape: the network's input, (C, height, width)."""

    def __init__(self, shape: Shape) -> None:
        if len(shape) != 3:
            raise InputError(f"The network's input {shape} is no picture.", "Send packets: --framing packets.")
        self._shape = (*shape[1:], 3)
        self._size = shape[1] * shape[2] * 3
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[NDArray[np.uint8] | NDArray[np.float32] | BadFrame]:
        """The pictures that ``data`` completes."""
        self._rest += data
        while len(self._rest) >= self._size:
            picture, self._rest = self._rest[: self._size], self._rest[self._size :]
            yield np.frombuffer(bytes(picture), np.uint8).reshape(self._shape)


class Packets:
    """Cuts a stream into packets. shape: of the network's input as the source model has it, without a batch axis."""

    def __init__(self, shape: Shape) -> None:
        self._shape, self._rest = shape, bytearray()

    def feed(self, data: bytes) -> Iterator[NDArray[np.uint8] | NDArray[np.float32] | BadFrame]:
        """The frames that ``data`` completes, and a `BadFrame` for each that is damaged."""
        self._rest += data
        while True:
            start = self._rest.find(MAGIC)
            if start < 0:
                del self._rest[: -(len(MAGIC) - 1)]  # it may have begun
                return
            del self._rest[:start]
            if len(self._rest) < HEAD.size:
                return
            _, kind, length, checksum = HEAD.unpack_from(self._rest)
            if length > LONGEST or kind not in (PICTURE, INPUT, FILE):
                del self._rest[: len(MAGIC)]
                yield BadFrame("A packet has a head that cannot be.")
                continue
            if len(self._rest) < HEAD.size + length:
                return
            payload = bytes(self._rest[HEAD.size : HEAD.size + length])
            if zlib.crc32(payload) != checksum:
                del self._rest[: len(MAGIC)]  # the next may have begun within: only this much is known to be bad
                yield BadFrame("A packet is damaged: its checksum is wrong.")
                continue
            del self._rest[: HEAD.size + length]
            try:
                yield self._decode(kind, payload)
            except BadFrame as error:
                yield error

    def _decode(self, kind: int, payload: bytes) -> NDArray[np.uint8] | NDArray[np.float32]:
        if kind == INPUT:
            if len(payload) != 4 * int(np.prod(self._shape)):
                raise BadFrame(f"A packet holds {len(payload)} bytes, which are no input of shape {self._shape}.")
            return np.frombuffer(payload, "<f4").reshape(self._shape).astype(np.float32)
        if kind == FILE:
            try:
                return decode_image(io.BytesIO(payload), "A picture in a packet")
            except InputError as error:
                raise BadFrame(error.message, error.hint) from None
        height, width = struct.unpack_from("<II", payload) if len(payload) >= 8 else (0, 0)
        if not height or not width or len(payload) != 8 + 3 * height * width:
            raise BadFrame(f"A packet says {height} x {width} pixels, and holds {len(payload)} bytes.")
        return np.frombuffer(payload, np.uint8, offset=8).reshape(height, width, 3)
