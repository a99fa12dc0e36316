"""Which shared objects there are: the folder, and what its ``index.json`` says of them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from os.path import basename, dirname, join
from typing import Any, NamedTuple

from haste_runtime import __version__
from haste_runtime.errors import NativeError
from haste_runtime.kernels.layout import ABI
from haste_runtime.native.cpu import Part

FOLDER_VARIABLE = "HASTE_NATIVE"
INDEX = "index.json"
MOST_BYTES = 1 << 20  # of an index
ADVICE = (
    f"Install the wheel of haste-runtime {__version__} for this machine again (`haste-edge build-runtime` makes it on "
    "the laptop), or use another backend."
)


class Library(NamedTuple):
    """One shared object. name: the core that it was compiled for; machine and features: as in `native.cpu.Cpu`; parts:
    the cores that it fits best; lanes: float32 in a vector; sha256: of the file."""

    name: str
    path: str
    machine: str
    lanes: int
    features: frozenset[str]
    parts: frozenset[Part]
    sha256: str


class Index(NamedTuple):
    """libraries: in order, of one machine the most capable first. version: the release of haste_runtime that they were
    made from."""

    folder: str
    version: str
    libraries: tuple[Library, ...]


def folder() -> str:
    """Where the libraries lie: $HASTE_NATIVE, or this package."""
    return os.environ.get(FOLDER_VARIABLE) or dirname(__file__)


def read_index(place: str) -> Index:
    """Raises NativeError where there is none, where it is not what it should be, and where the kernels were made for
    another `haste_runtime.kernels.layout.ABI` than this."""
    path = join(place, INDEX)
    try:
        with open(path, "rb") as file:
            text = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        if os.environ.get(FOLDER_VARIABLE):
            hint = f"Unset {FOLDER_VARIABLE}, or let it name a folder with {INDEX} in it."
            raise NativeError(f"{FOLDER_VARIABLE} names {place}, where there is no {INDEX}.", hint) from None
        hint = "The wheels that `haste-edge build-runtime` makes have them. The other backends run without."
        raise NativeError("No native kernels are installed.", hint, damaged=False) from None
    except (OSError, ValueError) as error:
        raise NativeError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.", ADVICE) from error
    try:
        if len(text) > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES} bytes")
        return _index(place, json.loads(text))
    except (ValueError, RecursionError) as error:
        raise NativeError(f"{path} is not a list of native kernels: {error}.", ADVICE) from error


def _index(place: str, value: Any) -> Index:
    """ValueError for everything that is not as it should be."""
    if not isinstance(value, dict):
        raise ValueError("it holds no object")
    abi, version = _get(value, "abi", int), _get(value, "runtime_version", str)
    if abi != ABI:
        raise NativeError(
            f"The native kernels in {place} do not belong to this haste-runtime: theirs is the interface {abi} "
            f"(release {version}), and {ABI} is needed (release {__version__}).",
            ADVICE,
        )
    return Index(place, version, tuple(_library(place, entry) for entry in _get(value, "libraries", list)))


def _library(place: str, value: Any) -> Library:
    if not isinstance(value, dict):
        raise ValueError("a library is no object")
    name, file, machine = (_get(value, key, str) for key in ("name", "file", "machine"))
    lanes, sha256 = _get(value, "lanes", int), _get(value, "sha256", str)
    if basename(file) != file or file in ("", ".", ".."):
        raise ValueError(f"{file!r} is not the name of a file beside it")
    if lanes not in (4, 8, 16):
        raise ValueError(f"{name} has vectors of {lanes} lanes")
    if not re.fullmatch("[0-9a-f]{64}", sha256):
        raise ValueError(f"the checksum of {name} is none")
    features = _get(value, "features", list)
    if not all(isinstance(word, str) for word in features):
        raise ValueError(f"the features of {name} are no words")
    parts = frozenset(_part(name, pair) for pair in _get(value, "parts", list))
    return Library(name, join(place, file), machine, lanes, frozenset(features), parts, sha256)


def _part(name: str, pair: Any) -> Part:
    if isinstance(pair, list) and len(pair) == 2 and all(isinstance(number, str) for number in pair):
        implementer, part = pair
        return int(implementer, 16), int(part, 16)
    raise ValueError(f"a part of {name} is no pair of numbers")


def _get(value: Mapping[str, Any], key: str, kind: type[Any]) -> Any:
    found = value.get(key)
    if type(found) is not kind:
        raise ValueError(f"{key!r} is {'missing' if found is None else 'no ' + kind.__name__}")
    return found
