"""A small bundle file, taken apart and put together wrong, for the tests of what readers refuse."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import GraphBuilder, bundle_for
from files import write_anew

from haste_runtime.bundle import Bundle, inspect_bundle, read_bundle, write_bundle
from haste_runtime.bundle_container import seal
from haste_runtime.bundle_errors import BundleFileError
from haste_runtime.session import Session

WEIGHT, BIAS, MATRIX, IMPORTANCE = "c.weight", "c.bias", "c.projection2", "c.importance"
SCALE = "c.weight.scale"  # of the int8 weights


def small_bundle(dtype: str = "fp16") -> Bundle:
    b = GraphBuilder(0, x=(2, 4, 4))
    b.conv("c", "x", 2, 3, 3, activation="relu")
    b.node("m", "mean", "c", keepdim=0)
    bundle = bundle_for(b.graph(), patch=2, bits=3, levels=[2], policy="budget", budget=0.25, dtype=dtype)
    return replace(bundle, classes=("cat", "dog", "eel"))


def small_bytes(folder: Path, dtype: str = "fp16") -> bytes:
    """The file of `small_bundle`, written to ``folder`` on the way."""
    write_bundle(folder / "small.haste", small_bundle(dtype))
    return (folder / "small.haste").read_bytes()


def refused(path: Path, data: bytes | None = None) -> BundleFileError:
    """What every way of opening the file raises."""
    if data is not None:
        write_anew(path, data)
    with pytest.raises(BundleFileError) as caught:
        read_bundle(path)
    with pytest.raises(type(caught.value)):
        inspect_bundle(path, verify=True)
    with pytest.raises(type(caught.value)):
        Session(path, backend="numpy")
    assert path.name in caught.value.message
    assert caught.value.message.endswith(".")
    assert caught.value.hint
    return caught.value


Parts = tuple[dict[str, Any], dict[str, Any], bytes]  # header without metadata, manifest, data


def take_apart(data: bytes) -> Parts:
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    manifest = json.loads(header.pop("__metadata__")["haste"].split(" ", 1)[1])
    return header, manifest, data[8 + length :]


def framed(header: bytes | str, data: bytes = b"") -> bytes:
    raw = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(raw)) + raw + data


def put_together(header: dict[str, Any], metadata: object, data: bytes) -> bytes:
    return framed(json.dumps({"__metadata__": metadata, **header}), data)


def sealed(text: str) -> str:
    return f"{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()} {text}"


def lookup(tree: Any, keys: str) -> tuple[Any, Any]:
    """The container and key at the end of a path such as ``plan.layers.0.node``; names in it have ``/`` for ``.``"""
    *parents, last = (int(k) if k.isdigit() else k.replace("/", ".") for k in keys.split("."))
    for key in parents:
        tree = tree[key]
    return tree, last


REMOVE = object()


def change(tree: Any, keys: str, value: object) -> None:
    parent, last = lookup(tree, keys)
    if value is REMOVE:
        del parent[last]
    else:
        parent[last] = value


def with_manifest(good: bytes, **changes: object) -> bytes:
    """The file with the manifest changed and its checksum right. Keys are as in `lookup`, with ``__`` for ``.``"""
    header, manifest, data = take_apart(good)
    for keys, value in changes.items():
        change(manifest, keys.replace("__", "."), value)
    return put_together(header, {"haste": seal(manifest)}, data)


def as_version_4(good: bytes) -> bytes:
    """The file as version 4 would have it: the same without the keys that are new in version 5."""
    header, manifest, data = take_apart(good)
    manifest["format_version"] = 4
    for key in ("fit", "crop", "fill"):
        del manifest["preprocessing"][key]
    return put_together(header, {"haste": seal(manifest)}, data)


def as_version_3(good: bytes) -> bytes:
    """The file as version 3 would have it: the same without the keys that are new in versions 4 and 5."""
    header, manifest, data = take_apart(as_version_4(good))
    manifest["format_version"] = 3
    for layer in manifest["plan"]["layers"]:
        for variant in layer["variants"]:
            del variant["dense_above"]
    return put_together(header, {"haste": seal(manifest)}, data)


def as_version_2(good: bytes) -> bytes:
    """The file as version 2 would have it: the same without the keys that are new in versions 3 to 5."""
    header, manifest, data = take_apart(as_version_3(good))
    manifest["format_version"] = 2
    for layer in manifest["plan"]["layers"]:
        for planned in (layer, *layer["variants"]):
            del planned["algorithm"]
    return put_together(header, {"haste": seal(manifest)}, data)


def as_version_1(good: bytes) -> bytes:
    """The file as version 1 would have it: the same without the keys that are new in versions 2 to 5."""
    header, manifest, data = take_apart(as_version_2(good))
    manifest["format_version"] = 1
    for layer in manifest["plan"]["layers"]:
        for variant in layer["variants"]:
            del variant["importance"]
    for level in manifest["ladder"]:
        del level["agreement"]
        for choice in level["choices"].values():
            del choice["budget"]
    return put_together(header, {"haste": seal(manifest)}, data)


def with_header(good: bytes, **changes: object) -> bytes:
    header, manifest, data = take_apart(good)
    for keys, value in changes.items():
        change(header, keys.replace("__", "."), value)
    return put_together(header, {"haste": seal(manifest)}, data)


def with_tensor(good: bytes, name: str, array: np.ndarray) -> bytes:
    """The file with the bytes of a tensor replaced, and its checksum right."""
    header, manifest, data = take_apart(good)
    begin, end = header[name]["data_offsets"]
    assert array.nbytes == end - begin
    manifest["tensors"][name]["sha256"] = hashlib.sha256(array.tobytes()).hexdigest()
    return put_together(header, {"haste": seal(manifest)}, data[:begin] + array.tobytes() + data[end:])


def without_tensor(good: bytes, name: str) -> bytes:
    """The file without the last tensor, which ``name`` must be, and without its entry in the header."""
    header, manifest, data = take_apart(good)
    begin, end = header.pop(name)["data_offsets"]
    assert end == len(data)
    return put_together(header, {"haste": seal(manifest)}, data[:begin])


def with_another_tensor(good: bytes, listed: bool) -> bytes:
    header, manifest, data = take_apart(good)
    header["spare"] = {"dtype": "U8", "shape": [4], "data_offsets": [len(data), len(data) + 4]}
    if listed:
        digest = hashlib.sha256(bytes(4)).hexdigest()
        manifest["tensors"]["spare"] = {"dtype": "U8", "shape": [4], "sha256": digest}
    return put_together(header, {"haste": seal(manifest)}, data + bytes(4))


def with_metadata(good: bytes, metadata: object) -> bytes:
    header, _, data = take_apart(good)
    return put_together(header, metadata, data)


def with_text(good: bytes, edit: Callable[[str], str]) -> bytes:
    """The file with the manifest's text edited and its checksum right."""
    header, manifest, data = take_apart(good)
    return put_together(header, {"haste": sealed(edit(seal(manifest).split(" ", 1)[1]))}, data)


def with_header_text(good: bytes, edit: Callable[[str], str]) -> bytes:
    length = int.from_bytes(good[:8], "little")
    return framed(edit(good[8 : 8 + length].decode()), good[8 + length :])


Damage = Callable[[bytes], bytes]


def in_manifest(**changes: object) -> Damage:
    return lambda good: with_manifest(good, **changes)


def in_header(**changes: object) -> Damage:
    return lambda good: with_header(good, **changes)
