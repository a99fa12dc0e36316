"""The file around a bundle: safetensors with the manifest as its one piece of metadata.

Files are written by the safetensors library. They are read here, from one open file and never through a memory map:
the library maps the file, so a bundle that is overwritten in place while it loads would end the process with a bus
error, and it opens the file by name again, so what was checked need not be what is read. The checks below refuse
whatever the library refuses (a test compares the two), and tell the causes apart.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from io import BufferedReader
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from haste_runtime import bundle_errors as errors
from haste_runtime.attributes import MAX_CONSTANT_RANK

METADATA_KEY = "haste"
MAX_FILE = 2**31  # bytes; offsets then fit 32 bits with a sign
MAX_HEADER = 2**22  # bytes; a few hundred layers need a tenth of it
MAX_NAME = 512  # characters of a tensor's name
MAX_DEPTH = 12  # of arrays and objects in each other
LINE = 64  # bytes of a cache line
TOGETHER = 1 << 24  # bytes of weights that are read into one piece of memory
DTYPES: Mapping[str, Any] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "U16": np.dtype("<u2"),
}


class Entry(NamedTuple):
    """A tensor as the header describes it; begin and end are counted from the end of the header, in bytes."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class Container(NamedTuple):
    """An open bundle file whose header has been checked. manifest: the metadata text, not yet looked at."""

    path: str
    file: BufferedReader
    size: int
    header_bytes: int
    manifest: str
    tensors: Mapping[str, Entry]

    def room(self, names: Iterable[str]) -> dict[str, NDArray[Any]]:
        """Arrays to `read` tensors into, in one piece of memory, which is quicker to touch than many. None where they
        are so large that it is better to let go of them one by one."""
        entries = {name: self.tensors[name] for name in names if name in self.tensors}
        sizes = {name: -(-(entry.end - entry.begin) // LINE) * LINE for name, entry in entries.items()}
        if sum(sizes.values()) > TOGETHER:
            return {}
        memory, arrays, begin = np.empty(sum(sizes.values()), np.uint8), {}, 0
        for name, entry in entries.items():
            own = memory[begin : begin + entry.end - entry.begin]
            arrays[name] = own.view(DTYPES[entry.dtype]).reshape(entry.shape)
            begin += sizes[name]
        return arrays

    def read(self, name: str, array: NDArray[Any] | None = None) -> NDArray[Any]:
        """A tensor, into an array of its shape and type if one is given, else in memory of its own. Raises
        TruncatedBundleError or BundleUnreadableError."""
        entry = self.tensors[name]
        array = np.empty(entry.shape, DTYPES[entry.dtype]) if array is None else array
        with _os_errors(self.path):
            self.file.seek(8 + self.header_bytes + entry.begin)
            got = self.file.readinto(array.reshape(-1).view(np.uint8).data)
        if got != array.nbytes:
            raise errors.TruncatedBundleError(f"{self.path}: the file became shorter while it was read.")
        return array


@contextmanager
def open_container(path: str | os.PathLike[str]) -> Iterator[Container]:
    """Open a bundle file and check its header. Raises a subclass of BundleFileError."""
    name = os.fspath(path)
    with _os_errors(name):
        # Without O_NONBLOCK, opening a named pipe would wait for a writer.
        descriptor = os.open(name, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        kind = "a directory" if stat.S_ISDIR(status.st_mode) else "a pipe or device"
        raise errors.BundleNotAFileError(f"{name} is {kind}, not a file.")
    with os.fdopen(descriptor, "rb") as file:
        yield _check_header(name, file, status.st_size)


@contextmanager
def _os_errors(path: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise errors.BundleMissingError(f"{path}: there is no such file.") from None
    except IsADirectoryError:
        raise errors.BundleNotAFileError(f"{path} is a directory, not a file.") from None
    except OSError as error:
        raise errors.BundleUnreadableError(f"{path} can't be read: {error.strerror or error}.") from error
    except ValueError:  # a zero byte in the name
        raise errors.BundleMissingError(f"{path!r} can't be the name of a file.") from None


def _check_header(path: str, file: BufferedReader, size: int) -> Container:
    if size == 0:
        raise errors.EmptyBundleError(f"{path} is empty.")
    if size > MAX_FILE:
        raise errors.BundleTooLargeError(f"{path} has {size} bytes; a bundle has at most {MAX_FILE}.")
    with _os_errors(path):
        prefix = file.read(8)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8:
        raise errors.TruncatedBundleError(f"{path} ends after {size} bytes, in the middle of its header's length.")
    if length > MAX_HEADER:
        raise errors.HeaderSizeError(f"{path} is not a bundle, or damaged: it claims a header of {length} bytes.")
    if 8 + length > size:
        raise errors.TruncatedBundleError(f"{path} ends after {size} bytes, in the middle of its header.")
    with _os_errors(path):
        raw = file.read(length)
    if raw[:1] != b"{":
        raise errors.NotABundleError(f"{path} is not a bundle: it is not a safetensors file.")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise errors.HeaderEncodingError(f"{path} has a header that is not UTF-8 at byte {8 + error.start}.") from None
    header = parse_json(text, path, "header")
    manifest = _metadata(path, header.pop("__metadata__", None))
    tensors = {name: _entry(path, name, value) for name, value in header.items()}
    _check_layout(path, tensors, size - 8 - length)
    return Container(path, file, size, length, manifest, tensors)


def _metadata(path: str, metadata: object) -> str:
    if metadata is not None and not isinstance(metadata, dict):
        raise errors.HeaderSyntaxError(f"{path}: the header's metadata is not an object.")
    if not metadata or METADATA_KEY not in metadata:
        raise errors.NotABundleError(f"{path} is not a bundle: a safetensors file, but without {METADATA_KEY!r} in it.")
    text = metadata[METADATA_KEY]
    if len(metadata) != 1 or not isinstance(text, str):
        raise errors.HeaderSyntaxError(f"{path}: the header's metadata is more than one {METADATA_KEY!r} text.")
    return text


def _entry(path: str, name: str, value: object) -> Entry:
    if len(name) > MAX_NAME:
        raise errors.HeaderSyntaxError(f"{path}: a tensor's name has {len(name)} characters, more than {MAX_NAME}.")
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise errors.HeaderSyntaxError(f"{path}: tensor {name!r} is not described by dtype, shape and data_offsets.")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise errors.HeaderSyntaxError(f"{path}: tensor {name!r} has a shape or offsets that are not whole numbers.")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise errors.TensorTypeError(f"{path}: tensor {name!r} has type {dtype!r}; a bundle holds {', '.join(DTYPES)}.")
    if len(shape) > MAX_CONSTANT_RANK:
        raise errors.TensorShapeError(
            f"{path}: tensor {name!r} has {len(shape)} dimensions; at most {MAX_CONSTANT_RANK} are allowed."
        )
    return Entry(dtype, tuple(shape), *offsets)


def _are_sizes(value: object) -> bool:
    return isinstance(value, list) and all(type(i) is int and 0 <= i < 2**63 for i in value)


def _check_layout(path: str, tensors: Mapping[str, Entry], room: int) -> None:
    """Tensors must fill the ``room`` bytes after the header exactly, without holes or overlap."""
    end = 0
    for name, entry in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != end:
            what = "overlaps another" if entry.begin < end else "leaves a hole before it"
            raise errors.TensorLayoutError(f"{path}: tensor {name!r} {what}, at byte {entry.begin} of the data.")
        if entry.end - entry.begin != math.prod(entry.shape) * DTYPES[entry.dtype].itemsize:
            raise errors.TensorLayoutError(
                f"{path}: tensor {name!r} takes {entry.end - entry.begin} bytes, which {entry.dtype} of shape "
                f"{list(entry.shape)} does not."
            )
        end = entry.end
    if end > room:
        raise errors.TruncatedBundleError(f"{path} ends {end - room} bytes before its last tensor does.")
    if end < room:
        raise errors.TrailingBytesError(f"{path} goes on for {room - end} bytes after its last tensor.")


# --- JSON ------------------------------------------------------------------------------------------------------------


def parse_json(text: str, path: str, what: str) -> dict[str, Any]:
    """A JSON object, or HeaderSyntaxError, HeaderDepthError or DuplicateKeyError. ``what`` is named in the message.

    Refused besides bad syntax: a key twice in one object, NaN and Infinity, integers of more than 20 digits, more than
    `MAX_DEPTH` levels of nesting.
    """

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(items)
        if len(result) != len(items):
            twice, _ = Counter(key for key, _ in items).most_common(1)[0]
            raise errors.DuplicateKeyError(f"{path}: the {what} has the key {twice[:MAX_NAME]!r} twice in one object.")
        return result

    def integer(digits: str) -> int:
        if len(digits) > 20:  # longer ones take quadratic time
            raise ValueError("a number has too many digits")
        return int(digits)

    def constant(word: str) -> None:
        raise ValueError(f"{word} is not JSON")

    try:
        value = json.loads(text, object_pairs_hook=pairs, parse_int=integer, parse_constant=constant)
    except RecursionError:
        raise errors.HeaderDepthError(f"{path}: the {what} nests deeper than {MAX_DEPTH} levels.") from None
    except ValueError as error:
        if isinstance(error, errors.BundleFileError):
            raise
        raise errors.HeaderSyntaxError(f"{path}: the {what} is not JSON: {error}.") from None
    if not isinstance(value, dict):
        raise errors.HeaderSyntaxError(f"{path}: the {what} is not a JSON object.")
    if _deeper_than(value, MAX_DEPTH):
        raise errors.HeaderDepthError(f"{path}: the {what} nests deeper than {MAX_DEPTH} levels.")
    return value


def _deeper_than(value: object, depth: int) -> bool:
    layer = [value] if isinstance(value, (dict, list)) else []
    for _ in range(depth):
        children = (child for each in layer for child in (each.values() if isinstance(each, dict) else each))
        layer = [child for child in children if isinstance(child, (dict, list))]
        if not layer:
            return False
    return bool(layer)


# --- checksums -------------------------------------------------------------------------------------------------------


def sha256(array: NDArray[Any]) -> str:
    """SHA-256 of a tensor's bytes as they lie in the file: little-endian, C order. 64 lower-case hex digits."""
    return hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data).hexdigest()


def seal(manifest: Mapping[str, Any]) -> str:
    """The metadata text: the SHA-256 of the manifest's JSON, a space, and that JSON, which is plain ASCII."""
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return f"{hashlib.sha256(text.encode()).hexdigest()} {text}"


def unseal(metadata: str, path: str) -> dict[str, Any]:
    """Inverse of `seal`. Raises ManifestChecksumError, or what `parse_json` raises."""
    digest, _, text = metadata.partition(" ")
    if hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest() != digest:
        raise errors.ManifestChecksumError(f"{path} is damaged: its manifest does not match the checksum beside it.")
    return parse_json(text, path, "manifest")


# --- writing ---------------------------------------------------------------------------------------------------------


def write_container(path: str | os.PathLike[str], tensors: Mapping[str, NDArray[Any]], metadata: str) -> None:
    """Write the file at once or not at all: a temporary file beside it, synced, then renamed over it.

    Raises BundleWriteError, and then leaves a file that was there before as it was.
    """
    from pathlib import Path  # this and the library are needed for writing alone

    from safetensors.numpy import save

    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.urandom(4).hex()}.tmp")
    data = save({name: np.ascontiguousarray(array) for name, array in tensors.items()}, {METADATA_KEY: metadata})
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
        _sync_folder(target.parent)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise errors.BundleWriteError(f"{target} can't be written: {reason}.") from error
    finally:
        with suppress(OSError, ValueError):
            temporary.unlink()


def _sync_folder(folder: os.PathLike[str]) -> None:
    """Make the rename itself last through a power cut, where the file system can promise that (FAT can't)."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
