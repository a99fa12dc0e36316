"""The folder that bundles arrive in: parts are kept beside, and only what was checked completely gets its name."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from io import BufferedRandom
from pathlib import Path
from typing import Any

from haste_runtime.bundle import read_bundle
from haste_runtime.bundle_container import MAX_FILE
from haste_runtime.errors import HasteError
from haste_runtime.serial_transfer.protocol import Offer, TransferError

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,120}\.haste")
SHA256 = re.compile(r"[0-9a-f]{64}")
SPARE = 1 << 20  # bytes that stay free
BLOCK = 1 << 20


class Folder:
    """A `Store` in a folder, which is made if it is not there. Raises TransferError where that cannot be."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offer: Offer | None = None
        self._file: BufferedRandom | None = None
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TransferError(f"{path} cannot be made: {error.strerror}.", "Give another folder: -o") from None

    def open(self, offer: Offer) -> int:
        if not NAME.fullmatch(offer.name) or not SHA256.fullmatch(offer.sha256):
            raise TransferError(f"{offer.name!r} is not the name of a bundle.", "Name it as in net.haste.")
        if not 0 < offer.size <= MAX_FILE:
            raise TransferError(f"a bundle cannot have {offer.size} bytes.")
        self.close()
        self._offer = offer
        if self._is_there(offer):
            return offer.size
        with _told(self._path):
            part = self._part(offer)
            self._file = part.open("r+b" if part.exists() else "w+b")
            there = min(self._file.seek(0, os.SEEK_END), offer.size)
            self._file.truncate(there)
            self._file.seek(there)
            free = shutil.disk_usage(self._path).free
        if offer.size - there + SPARE > free:
            raise TransferError(f"there are {free} bytes left, and {offer.size - there} have to come.", "Make room.")
        return there

    def write(self, offset: int, block: bytes) -> None:
        assert self._file is not None
        with _told(self._path):
            self._file.write(block)

    def finish(self) -> dict[str, Any]:
        assert self._offer is not None
        offer, target = self._offer, self._path / self._offer.name
        if self._file is not None:
            part = self._part(offer)
            with _told(self._path):
                self._file.flush()
                os.fsync(self._file.fileno())
                self.close()
                if _sha256(part) != offer.sha256:
                    part.unlink()
                    raise TransferError("what arrived has another checksum.", "Send it again.")
                try:
                    read_bundle(part)
                except HasteError as error:
                    part.unlink()
                    raise TransferError(f"it is no sound bundle: {error.message}", "Compile it anew.") from None
                os.replace(part, target)
                descriptor = os.open(self._path, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
        return {"path": str(target), "sha256": offer.sha256}

    def close(self) -> None:
        """What has arrived of a part stays."""
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):
                file.close()

    def _part(self, offer: Offer) -> Path:
        return self._path / f".{offer.sha256[:16]}.part"

    def _is_there(self, offer: Offer) -> bool:
        target = self._path / offer.name
        return target.is_file() and target.stat().st_size == offer.size and _sha256(target) == offer.sha256


class _told(contextlib.AbstractContextManager[None]):
    """Errors of the disk become refusals that the sender hears."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if isinstance(error, OSError):
            raise TransferError(f"{self._path} cannot be written: {error.strerror or error}.", "Look there.") from None


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
