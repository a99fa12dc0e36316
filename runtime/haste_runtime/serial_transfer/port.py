"""The two sides on a port of pyserial's ``serial_for_url``. Needs ``haste-runtime[serial]``."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from haste_runtime.serial_transfer.folder import Folder
from haste_runtime.serial_transfer.framing import Splitter, encode
from haste_runtime.serial_transfer.protocol import CHUNK, NOBODY, TIMEOUT_S, Offer, Receiver, Sender, TransferError
from haste_runtime.signals.signal import describe, require

READ_S = 0.02
LINGER = 4  # of the sender's timeouts after the last frame: it may not have heard that it is done, and ask again
RETRY_S = 1.0

Progress = Callable[[str, int, int], None]
Opener = Callable[..., Any]


def opener() -> Opener:
    """pyserial's serial_for_url. Raises SignalError without pyserial."""
    found: Opener = require("serial", "serial", "A serial line").serial_for_url
    return found


def timeout_s(baudrate: int) -> float:
    """How long no progress is normal: a few frames may stand in the buffers of both sides, at ten bits a byte."""
    return TIMEOUT_S + 4 * 10 * CHUNK / baudrate


def send(path: Path, url: str, baudrate: int, progress: Progress, dry_run: bool = False) -> dict[str, Any]:
    """Send a bundle, and go on where an earlier attempt was cut. dry_run: only ask how much is there.

    Returns what the receiver told, and how many bytes were sent. Raises TransferError, SignalError without pyserial, or
    a subclass of BundleError for what is no bundle.
    """
    from haste_runtime.bundle import read_bundle

    read_bundle(path)
    open_port, content = opener(), path.read_bytes()
    offer = Offer(path.name, len(content), hashlib.sha256(content).hexdigest())
    sender = Sender(offer, lambda offset, size: content[offset : offset + size], timeout_s(baudrate))
    splitter, heard = Splitter(), 0
    try:
        with open_port(url, baudrate=baudrate, timeout=READ_S) as port:
            while sender.answer is None:
                for frame in sender.send(time.monotonic()):
                    port.write(encode(frame))
                data = port.read(max(1, min(port.in_waiting, 4096)))
                heard += len(data)
                for frame in splitter.feed(data):
                    sender.take(frame, time.monotonic())
                if sender.there is not None:
                    progress(f"Sending {path.name}", sender.there, offer.size)
                    if dry_run:
                        return {"there": sender.there, "size": offer.size}
    except TransferError as error:
        if sender.there is None and heard and error.message == NOBODY:
            raise TransferError(
                f"What answers at {url} is not `haste-run receive`: {heard} bytes came, and none of them is an answer.",
                "Start it on the device, at the same baud rate, and nothing else on that port, such as a login.",
            ) from None
        raise
    except Exception as error:  # pyserial raises SerialException, OSError, TypeError, termios.error ...
        told = "cannot be opened" if sender.there is None else f"was lost after {sender.there} of {offer.size} bytes"
        hint = "Check the cable and the name. Then run the same command again: it goes on where it was."
        raise TransferError(f"{url} {told}: {describe(error)}", hint) from error
    return sender.answer | {"size": offer.size, "there": sender.began, "sent": offer.size - sender.began}


def receive(
    folder: Path,
    url: str,
    baudrate: int,
    progress: Progress,
    arrived: Callable[[dict[str, Any]], None],
    keep_going: bool = False,
) -> None:
    """Wait for a bundle, check it, and name it in the folder; with keep_going, for ever. arrived: told of each.

    A port that is lost, or not there yet, is tried again. Raises TransferError, and SignalError without pyserial.
    """
    open_port, store = opener(), Folder(folder)
    receiver = Receiver(store)
    linger_s = math.inf if keep_going else LINGER * timeout_s(baudrate)
    told = ""
    try:
        while True:
            try:
                with open_port(url, baudrate=baudrate, timeout=READ_S) as port:
                    told = ""
                    if _listen(port, receiver, progress, arrived, linger_s):
                        return
            except TransferError:
                raise
            except Exception as error:
                said = describe(error)
                if said != told:
                    progress(f"{url} cannot be used now ({said}); trying again", 0, 0)
                told = said
                time.sleep(RETRY_S)
    finally:
        store.close()


def _listen(
    port: Any,
    receiver: Receiver,
    progress: Progress,
    arrived: Callable[[dict[str, Any]], None],
    linger_s: float,
) -> bool:
    """True once a bundle is there and nothing came for linger_s: the sender has heard of it, most probably."""
    splitter, told, last = Splitter(), receiver.done, 0.0
    while True:
        data = port.read(max(1, min(port.in_waiting, 4096)))
        for frame in splitter.feed(data):
            for answer in receiver.take(frame):
                port.write(encode(answer))
            last = time.monotonic()
            if receiver.offer is not None and receiver.done is None:
                progress(f"Receiving {receiver.offer.name}", receiver.there, receiver.offer.size)
        if receiver.done is not None and receiver.done is not told:
            told = receiver.done
            arrived(told)
        if told is not None and told is receiver.done and time.monotonic() - last > linger_s:
            return True
