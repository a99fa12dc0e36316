"""Bundles that are not as they should be: each cause gives its own error with advice, and nothing else comes out."""

from __future__ import annotations

import errno
import os
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import GraphBuilder, bundle_for
from bundle_parts import (
    BIAS,
    IMPORTANCE,
    MATRIX,
    WEIGHT,
    framed,
    put_together,
    refused,
    small_bytes,
    take_apart,
    with_header,
    with_header_text,
    with_manifest,
)
from files import write_anew
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from haste_runtime import bundle_container
from haste_runtime import bundle_errors as errors
from haste_runtime.bundle import read_bundle, write_bundle
from haste_runtime.bundle_container import MAX_FILE, MAX_HEADER, open_container, seal
from haste_runtime.bundle_errors import BundleFileError
from haste_runtime.session import Session


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return small_bytes(tmp_path_factory.mktemp("good"))


# --- every length, every byte ----------------------------------------------------------------------------------------


def test_cut_off_at_any_byte(good: bytes, tmp_path: Path) -> None:
    path = tmp_path / "net.haste"
    path.write_bytes(good)
    for length in reversed(range(len(good))):
        os.truncate(path, length)
        with pytest.raises(errors.TruncatedBundleError if length else errors.EmptyBundleError):
            read_bundle(path)


def test_any_byte_changed(good: bytes, tmp_path: Path) -> None:
    path = tmp_path / "net.haste"
    path.write_bytes(good)
    causes = set()
    with open(path, "r+b", buffering=0) as file:
        for place, byte in enumerate(good):
            os.pwrite(file.fileno(), bytes([byte ^ 1 << (place * 5 % 8)]), place)  # each of the bits has its turn
            with pytest.raises(BundleFileError) as caught:
                read_bundle(path)
            causes.add(type(caught.value))
            os.pwrite(file.fileno(), bytes([byte]), place)
    assert {errors.ManifestChecksumError, errors.TensorChecksumError, errors.HeaderSyntaxError} <= causes
    assert path.read_bytes() == good


def test_bytes_added(good: bytes, tmp_path: Path) -> None:
    assert isinstance(refused(tmp_path / "net.haste", good + b"\0"), errors.TrailingBytesError)


# --- what is no file, or no readable one -----------------------------------------------------------------------------


def test_no_such_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in ("no.haste", "no/such/folder.haste", "file/net.haste"):
        assert isinstance(refused(tmp_path / name), errors.BundleMissingError)
    with pytest.raises(errors.BundleMissingError, match="can't be the name"):
        read_bundle(f"{tmp_path}/zero\0byte")


def test_a_folder_and_a_pipe(tmp_path: Path) -> None:
    assert isinstance(refused(tmp_path), errors.BundleNotAFileError)
    os.mkfifo(tmp_path / "pipe")
    assert isinstance(refused(tmp_path / "pipe"), errors.BundleNotAFileError)  # and does not wait for a writer


def test_no_permission(good: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "net.haste").write_bytes(good)

    def forbidden(*_: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(bundle_container.os, "open", forbidden)
    error = refused(tmp_path / "net.haste")
    assert isinstance(error, errors.BundleUnreadableError)
    assert "Permission denied" in error.message


def test_far_too_large(tmp_path: Path) -> None:
    with open(tmp_path / "net.haste", "wb") as file:
        file.truncate(MAX_FILE + 1)  # a sparse file: it takes no room
    assert isinstance(refused(tmp_path / "net.haste"), errors.BundleTooLargeError)


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    """As when it is copied over in place. A memory map would end the process with a bus error."""
    b = GraphBuilder(0, x=(100,))
    b.linear("fc", "x", 100, 200, bias=False)
    path = tmp_path / "net.haste"
    write_bundle(path, bundle_for(b.graph()))
    with open_container(path) as container:
        os.truncate(path, path.stat().st_size - 1)
        with pytest.raises(errors.TruncatedBundleError, match="became shorter"):
            container.read("fc.weight")


def test_hostile_headers_take_little_memory(good: bytes, tmp_path: Path) -> None:
    """Nothing is allocated for what a header claims before the file is seen to hold it."""
    hostile = [
        struct.pack("<Q", 2**63) + good,
        struct.pack("<Q", MAX_HEADER) + good,
        with_header(good, **{"c/bias__shape": [2**31], "c/bias__data_offsets": [0, 2**33]}),
        with_manifest(good, **{"tensors__c/weight__shape": [2**30, 2, 3, 3]}),
        with_manifest(good, plan__layers__0__variants__0__patch=60000),
        with_header_text(good, lambda text: "[" * len(text)),
    ]
    for data in hostile:
        write_anew(tmp_path / "net.haste", data)
        tracemalloc.start()
        try:
            with pytest.raises(BundleFileError):
                read_bundle(tmp_path / "net.haste")
            assert tracemalloc.get_traced_memory()[1] < 2**20
        finally:
            tracemalloc.stop()


# --- at random -------------------------------------------------------------------------------------------------------

RANDOM = settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])


@RANDOM
@given(data=st.binary(max_size=200), as_header=st.booleans())
def test_garbage(tmp_path: Path, data: bytes, as_header: bool) -> None:
    write_anew(tmp_path / "net.haste", framed(b"{" + data) if as_header else data)
    with pytest.raises(BundleFileError):
        read_bundle(tmp_path / "net.haste")


@RANDOM
@given(edits=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4))
def test_several_bytes_changed(good: bytes, tmp_path: Path, edits: list[tuple[int, int]]) -> None:
    data = bytearray(good)
    for place, value in edits:
        data[place % len(data)] = value
    write_anew(tmp_path / "net.haste", data)
    if bytes(data) == good:
        read_bundle(tmp_path / "net.haste")
    else:
        with pytest.raises(BundleFileError):
            read_bundle(tmp_path / "net.haste")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


def places(tree: Any) -> list[tuple[Any, Any]]:
    """Every container and key in a JSON tree."""
    if not isinstance(tree, dict | list):
        return []
    keys = list(tree) if isinstance(tree, dict) else range(len(tree))
    return [(tree, key) for key in keys] + [place for key in keys for place in places(tree[key])]


@settings(RANDOM, max_examples=400)
@given(place=st.integers(0, 10**6), value=JSON)
def test_anything_anywhere_in_a_sealed_manifest(good: bytes, tmp_path: Path, place: int, value: object) -> None:
    """However the manifest is changed, with its checksum right, the bundle is refused or makes a whole session."""
    header, manifest, data = take_apart(good)
    spots = places(manifest)
    tree, key = spots[place % len(spots)]
    tree[key] = value
    path = tmp_path / "net.haste"
    write_anew(path, put_together(header, {"haste": seal(manifest)}, data))
    try:
        read_bundle(path)
    except BundleFileError:
        return
    session = Session(path, backend="numpy")
    session.level = len(session.levels) - 1
    (info,) = session.inputs
    assert np.isfinite(session.run(np.ones((1, *(int(n) for n in info.shape[1:] if n)), np.float32))).all()


@settings(RANDOM, max_examples=400)
@given(
    tensor=st.sampled_from([WEIGHT, BIAS, IMPORTANCE, MATRIX]),
    entry=st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["F32", "F16", "U16", "U8", "I8", "F64"]),
            "shape": st.lists(st.integers(0, 30), max_size=4),
            "data_offsets": st.tuples(st.integers(0, 140), st.integers(0, 140)),
        }
    ),
    cut=st.integers(-1, 1),
)
def test_whatever_is_accepted_the_library_accepts(
    good: bytes, tmp_path: Path, tensor: str, entry: dict[str, Any], cut: int
) -> None:
    """The header checks written here are no laxer than those of safetensors, and find the same tensors."""
    header, manifest, data = take_apart(good)
    begin = header[tensor]["data_offsets"][0]
    if entry["data_offsets"][0] % 2:  # else hardly any would be right
        size = {"F32": 4, "F16": 2, "U16": 2, "U8": 1, "I8": 1, "F64": 8}[entry["dtype"]]
        entry["data_offsets"] = (begin, begin + size * int(np.prod(entry["shape"])))
    header[tensor] = entry
    end = max(e["data_offsets"][1] for e in header.values())
    path = tmp_path / "net.haste"
    write_anew(path, put_together(header, {"haste": seal(manifest)}, (data + bytes(400))[: max(0, end + cut)]))
    try:
        with open_container(path) as container:
            ours = {name: container.read(name) for name in container.tensors}
    except BundleFileError:
        return
    with safe_open(path, framework="np") as file:
        theirs = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dictionary)
    assert set(ours) == set(theirs)
    for name, array in ours.items():
        assert (array.dtype, array.shape, array.tobytes()) == (
            theirs[name].dtype,
            theirs[name].shape,
            theirs[name].tobytes(),
        )
