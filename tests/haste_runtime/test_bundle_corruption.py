"""Bundles that are not as they should be: each cause gives its own error with advice, and nothing else comes out."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import struct
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import GraphBuilder, bundle_for
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from haste_runtime import bundle_container
from haste_runtime import bundle_errors as errors
from haste_runtime.bundle import Bundle, inspect_bundle, read_bundle, write_bundle
from haste_runtime.bundle_container import MAX_FILE, MAX_HEADER, open_container, seal
from haste_runtime.bundle_errors import BundleFileError
from haste_runtime.session import Session


def small_bundle() -> Bundle:
    b = GraphBuilder(0, x=(2, 4, 4))
    b.conv("c", "x", 2, 3, 3, activation="relu")
    b.node("m", "mean", "c", keepdim=0)
    return replace(bundle_for(b.graph(), patch=2, bits=3, levels=[2]), classes=("cat", "dog", "eel"), dtype="fp16")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("good") / "net.haste"
    write_bundle(path, small_bundle())
    return path.read_bytes()


def refused(path: Path, data: bytes | None = None) -> BundleFileError:
    """What every way of opening the file raises."""
    if data is not None:
        path.write_bytes(data)
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


# --- taken apart and put together wrong ------------------------------------------------------------------------------

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


def nan_weight(dtype: type, size: int, value: float) -> np.ndarray:
    array = np.zeros(size, dtype)
    array[size // 2] = value
    return array


def test_taking_apart_and_putting_together_is_right(good: bytes, tmp_path: Path) -> None:
    path = tmp_path / "net.haste"
    for data in (with_manifest(good), with_header(good), with_text(good, str), with_header_text(good, str)):
        path.write_bytes(data)
        assert read_bundle(path).classes == ("cat", "dog", "eel")
    assert with_header_text(good, str) == good


WEIGHT, BIAS, MATRIX = "c.weight", "c.bias", "c.projection2"
DEEP = 100_000
HUGE = 10**5000

DAMAGE: list[tuple[str, Callable[[bytes], bytes], type[BundleFileError], str]] = [
    # the header
    ("zip", lambda g: b"PK\x03\x04" + g, errors.HeaderSizeError, "not a bundle, or damaged"),
    ("all ones", lambda g: b"\xff" * 64, errors.HeaderSizeError, "header of 18446744073709551615 bytes"),
    ("just too long", lambda g: struct.pack("<Q", MAX_HEADER + 1) + g, errors.HeaderSizeError, "header of 4194305"),
    ("no header", lambda g: framed(""), errors.NotABundleError, "not a safetensors file"),
    ("onnx-like", lambda g: framed("\x08\x08\x12\x07pytorch"), errors.NotABundleError, "not a safetensors file"),
    ("latin-1", lambda g: framed('{"\xe9": 1}'.encode("latin-1")), errors.HeaderEncodingError, "not UTF-8 at byte 10"),
    ("half a header", lambda g: framed("{"), errors.HeaderSyntaxError, "the header is not JSON"),
    ("two headers", lambda g: framed("{}{}"), errors.HeaderSyntaxError, "the header is not JSON"),
    ("nan", lambda g: framed('{"a": NaN}'), errors.HeaderSyntaxError, "NaN is not JSON"),
    ("digits", lambda g: framed('{"a": ' + "9" * 10**6 + "}"), errors.HeaderSyntaxError, "too many digits"),
    ("deep", lambda g: framed('{"a": ' + "[" * DEEP), errors.HeaderDepthError, "deeper than 12"),
    ("deep and closed", lambda g: framed('{"a":' * DEEP + "1" + "}" * DEEP), errors.HeaderDepthError, "deeper than 12"),
    ("rather deep", lambda g: framed('{"a":' + "[" * 12 + "]" * 12 + "}"), errors.HeaderDepthError, "deeper than 12"),
    ("twice", lambda g: framed('{"a": 1, "b": 2, "a": 3}'), errors.DuplicateKeyError, "key 'a' twice"),
    (
        "tensor twice",
        lambda g: with_header_text(g, lambda t: t.replace(f'"{BIAS}":', f'"{WEIGHT}":', 1)),
        errors.DuplicateKeyError,
        f"key '{WEIGHT}' twice",
    ),
    ("safetensors", lambda g: framed("{}"), errors.NotABundleError, "without 'haste'"),
    ("of another tool", lambda g: with_metadata(g, {"format": "pt"}), errors.NotABundleError, "without 'haste'"),
    ("metadata a list", lambda g: with_metadata(g, ["haste"]), errors.HeaderSyntaxError, "metadata is not an object"),
    ("metadata more", lambda g: with_metadata(g, {"haste": "", "x": ""}), errors.HeaderSyntaxError, "more than one"),
    ("metadata a number", lambda g: with_metadata(g, {"haste": 1}), errors.HeaderSyntaxError, "more than one"),
    ("entry a list", lambda g: with_header(g, **{"c/bias": []}), errors.HeaderSyntaxError, f"tensor '{BIAS}' is not"),
    (
        "entry short",
        lambda g: with_header(g, **{"c/bias__shape": REMOVE}),
        errors.HeaderSyntaxError,
        "is not described",
    ),
    ("entry long", lambda g: with_header(g, **{"c/bias__x": 1}), errors.HeaderSyntaxError, "is not described"),
    ("shape text", lambda g: with_header(g, **{"c/bias__shape": "3"}), errors.HeaderSyntaxError, "whole numbers"),
    ("shape bool", lambda g: with_header(g, **{"c/bias__shape": [True]}), errors.HeaderSyntaxError, "whole numbers"),
    ("shape negative", lambda g: with_header(g, **{"c/bias__shape": [-3]}), errors.HeaderSyntaxError, "whole numbers"),
    ("shape 2**64", lambda g: with_header(g, **{"c/bias__shape": [2**64]}), errors.HeaderSyntaxError, "whole numbers"),
    (
        "offsets float",
        lambda g: with_header(g, **{"c/bias__data_offsets": [0, 12.0]}),
        errors.HeaderSyntaxError,
        "whole",
    ),
    (
        "offsets one",
        lambda g: with_header(g, **{"c/bias__data_offsets": [0]}),
        errors.HeaderSyntaxError,
        "whole numbers",
    ),
    ("name", lambda g: with_header(g, **{"n" * 600: {}}), errors.HeaderSyntaxError, "name has 600 characters"),
    ("dtype unknown", lambda g: with_header(g, **{"c/bias__dtype": "F64"}), errors.TensorTypeError, "type 'F64'"),
    ("dtype a list", lambda g: with_header(g, **{"c/bias__dtype": ["F32"]}), errors.TensorTypeError, "type"),
    (
        "dimensions",
        lambda g: with_header(g, **{"c/bias__shape": [1, 1, 1, 1, 3]}),
        errors.TensorShapeError,
        "at most 4",
    ),
    # the layout
    ("overlap", lambda g: with_header(g, **{"c/weight__data_offsets": [8, 116]}), errors.TensorLayoutError, "overlaps"),
    ("hole", lambda g: with_header(g, **{"c/weight__data_offsets": [16, 124]}), errors.TensorLayoutError, "hole"),
    ("backwards", lambda g: with_header(g, **{"c/bias__data_offsets": [0, 0]}), errors.TensorLayoutError, "takes 0"),
    ("turned", lambda g: with_header(g, **{"c/bias__data_offsets": [12, 0]}), errors.TensorLayoutError, "hole"),
    ("smaller", lambda g: with_header(g, **{"c/bias__shape": [2]}), errors.TensorLayoutError, "takes 12 bytes"),
    ("larger", lambda g: with_header(g, **{"c/bias__shape": [2**62, 3]}), errors.TensorLayoutError, "takes 12 bytes"),
    ("cut data", lambda g: g[:-1], errors.TruncatedBundleError, "ends 1 bytes before its last tensor"),
    # the seal
    ("seal", lambda g: with_metadata(g, {"haste": "0" * 64 + " {}"}), errors.ManifestChecksumError, "is damaged"),
    ("no seal", lambda g: with_metadata(g, {"haste": ""}), errors.ManifestChecksumError, "is damaged"),
    ("surrogate", lambda g: with_metadata(g, {"haste": "\ud800"}), errors.ManifestChecksumError, "is damaged"),
    ("not json", lambda g: with_text(g, lambda t: t + "}"), errors.HeaderSyntaxError, "the manifest is not JSON"),
    ("a list", lambda g: with_text(g, lambda t: "[]"), errors.HeaderSyntaxError, "not a JSON object"),
    ("manifest deep", lambda g: with_text(g, lambda t: "[" * DEEP), errors.HeaderDepthError, "the manifest nests"),
    (
        "manifest twice",
        lambda g: with_text(g, lambda t: t.replace("{", '{"dtype":"fp32",', 1)),
        errors.DuplicateKeyError,
        "the manifest has the key 'dtype' twice",
    ),
    # the version
    ("newer", lambda g: with_manifest(g, format_version=2), errors.NewerVersionError, "format 2 (made by tests)"),
    ("much newer", lambda g: with_text(g, lambda t: '{"format_version":99}'), errors.NewerVersionError, "format 99;"),
    ("older", lambda g: with_manifest(g, format_version=0), errors.OlderVersionError, "format 0 (made by tests)"),
    ("version text", lambda g: with_manifest(g, format_version="1"), errors.ManifestError, "format_version is missing"),
    (
        "no version",
        lambda g: with_manifest(g, format_version=REMOVE),
        errors.ManifestError,
        "format_version is missing",
    ),
    (
        "version true",
        lambda g: with_manifest(g, format_version=True),
        errors.ManifestError,
        "format_version is missing",
    ),
    # the manifest
    ("key missing", lambda g: with_manifest(g, plan=REMOVE), errors.ManifestError, "manifest lacks ['plan']"),
    ("key unknown", lambda g: with_manifest(g, licence="MIT"), errors.ManifestError, "unknown keys ['licence']"),
    ("not an object", lambda g: with_manifest(g, graph=[]), errors.ManifestError, "manifest.graph is not an object"),
    (
        "not an array",
        lambda g: with_manifest(g, graph__nodes={}),
        errors.ManifestError,
        "manifest.graph.nodes is not an",
    ),
    ("not a text", lambda g: with_manifest(g, target=7), errors.ManifestError, "manifest.target is not a printable"),
    ("escape codes", lambda g: with_manifest(g, made_by="\x1b[2J"), errors.ManifestError, "manifest.made_by is not a"),
    ("lone surrogate", lambda g: with_manifest(g, target="\ud800"), errors.ManifestError, "manifest.target is not a"),
    ("long text", lambda g: with_manifest(g, target="x" * 5000), errors.ManifestError, "at most 4096"),
    ("no name", lambda g: with_manifest(g, graph__nodes__0__name=""), errors.ManifestError, "nodes[0].name is empty"),
    (
        "dtype",
        lambda g: with_manifest(g, dtype="int8"),
        errors.ManifestError,
        "manifest.dtype is not one of fp32, fp16",
    ),
    (
        "arena",
        lambda g: with_manifest(g, arena_bytes=2**41),
        errors.ManifestError,
        "manifest.arena_bytes is not an int",
    ),
    (
        "arena float",
        lambda g: with_manifest(g, arena_bytes=1.0),
        errors.ManifestError,
        "manifest.arena_bytes is not an",
    ),
    ("classes", lambda g: with_manifest(g, classes=["a", 1, "b"]), errors.ManifestError, "manifest.classes is not an"),
    (
        "two classes",
        lambda g: with_manifest(g, classes=["a", "b"]),
        errors.ManifestError,
        "2 class names for an output",
    ),
    (
        "std",
        lambda g: with_manifest(g, preprocessing__std=[0.0]),
        errors.ManifestError,
        "manifest.preprocessing is wrong",
    ),
    (
        "mean",
        lambda g: with_manifest(g, preprocessing__mean=["a"]),
        errors.ManifestError,
        "preprocessing.mean is not an",
    ),
    (
        "scale",
        lambda g: with_text(g, lambda t: t.replace("255.0", "1e999")),
        errors.ManifestError,
        "scale is not a finite",
    ),
    (
        "input",
        lambda g: with_manifest(g, graph__inputs__0__shape=[2, 0, 4]),
        errors.ManifestError,
        "inputs[0].shape is",
    ),
    (
        "choices",
        lambda g: with_manifest(g, ladder__1__choices={"\n": {}}),
        errors.ManifestError,
        "unprintable name '\\n'",
    ),
    (
        "seed",
        lambda g: with_manifest(g, plan__layers__0__variants__0__seed=-1),
        errors.ManifestError,
        "variants[0].seed",
    ),
    (
        "patch",
        lambda g: with_manifest(g, plan__layers__0__variants__0__patch=0),
        errors.ManifestError,
        "variants[0].patch",
    ),
    (
        "bits",
        lambda g: with_manifest(g, plan__layers__0__variants__0__bits=32),
        errors.ManifestError,
        "variants[0].bits",
    ),
    (
        "no bits",
        lambda g: with_manifest(g, ladder__1__choices__c__bits=0),
        errors.ManifestError,
        "ladder[1].choices.c.bits",
    ),
    # the graph
    (
        "operator",
        lambda g: with_manifest(g, graph__nodes__1__op="softmax"),
        errors.UnsupportedError,
        "operator 'softmax'",
    ),
    (
        "stride",
        lambda g: with_manifest(g, graph__nodes__0__attributes__stride=[0, 1]),
        errors.BundleGraphError,
        "'stride'",
    ),
    (
        "stride text",
        lambda g: with_manifest(g, graph__nodes__0__attributes__stride="1"),
        errors.BundleGraphError,
        "'stride'",
    ),
    (
        "stride deep",
        lambda g: with_manifest(g, graph__nodes__0__attributes__stride=[[1]]),
        errors.ManifestError,
        "stride",
    ),
    (
        "attribute",
        lambda g: with_manifest(g, graph__nodes__1__attributes={}),
        errors.BundleGraphError,
        "has attributes []",
    ),
    ("reads", lambda g: with_manifest(g, graph__nodes__1__inputs=["z"]), errors.BundleGraphError, "reads 'z'"),
    ("output", lambda g: with_manifest(g, graph__outputs=["z"]), errors.BundleGraphError, "Output 'z'"),
    (
        "input shape",
        lambda g: with_manifest(g, graph__inputs__0__shape=[5, 4, 4]),
        errors.BundleGraphError,
        "its weight",
    ),
    (
        "enormous",
        lambda g: with_manifest(g, graph__inputs__0__shape=[2, 2**30, 4]),
        errors.BundleGraphError,
        "more than",
    ),
    # the plan
    ("plan node", lambda g: with_manifest(g, plan__layers__0__node="d"), errors.PlanError, "differ in 'd'"),
    (
        "policy",
        lambda g: with_manifest(g, plan__layers__0__variants__0__policy="x"),
        errors.UnsupportedError,
        "policy 'x'",
    ),
    (
        "sparsity",
        lambda g: with_manifest(g, plan__layers__0__variants__0__sparsity=1),
        errors.PlanError,
        "sparsity of 1",
    ),
    ("objective", lambda g: with_manifest(g, plan__objective="joules"), errors.PlanError, "objective 'joules'"),
    ("no ladder", lambda g: with_manifest(g, ladder=[]), errors.PlanError, "no levels"),
    (
        "level 0",
        lambda g: with_manifest(g, ladder__0__choices={"c": {"variant": 0, "bits": 1}}),
        errors.PlanError,
        "level 0",
    ),
    (
        "level node",
        lambda g: with_manifest(g, ladder__1__choices={"m": {"variant": 0, "bits": 1}}),
        errors.PlanError,
        "'m'",
    ),
    (
        "level variant",
        lambda g: with_manifest(g, ladder__1__choices__c__variant=1),
        errors.PlanError,
        "variant 1 of 'c'",
    ),
    ("level bits", lambda g: with_manifest(g, ladder__1__choices__c__bits=4), errors.PlanError, "uses 4 bits of 'c'"),
    ("level saving", lambda g: with_manifest(g, ladder__1__flops_reduction=100.5), errors.PlanError, "save 100.5 %"),
    (
        "same name",
        lambda g: with_manifest(g, plan__layers__0__variants__0__projection=BIAS),
        errors.PlanError,
        "names a",
    ),
    # the tensors
    ("tensor missing", lambda g: without_tensor(g, MATRIX), errors.MissingTensorError, f"tensor '{MATRIX}'"),
    ("not listed", lambda g: with_manifest(g, **{"tensors__c/bias": REMOVE}), errors.MissingTensorError, f"'{BIAS}'"),
    ("renamed", lambda g: with_manifest(g, graph__nodes__0__constants__bias="b"), errors.MissingTensorError, "'b'"),
    ("spare", lambda g: with_another_tensor(g, False), errors.ExtraTensorError, "the tensor 'spare'"),
    ("spare, listed", lambda g: with_another_tensor(g, True), errors.ExtraTensorError, "the tensor 'spare'"),
    (
        "unused",
        lambda g: with_manifest(g, graph__nodes__0__constants__bias=REMOVE),
        errors.ExtraTensorError,
        f"'{BIAS}'",
    ),
    ("shape", lambda g: with_manifest(g, **{"tensors__c/weight__shape": [54]}), errors.TensorShapeError, f"'{WEIGHT}'"),
    (
        "shape turned",
        lambda g: with_header(g, **{"c/weight__shape": [2, 3, 3, 3]}),
        errors.TensorShapeError,
        "has shape [2, 3, 3, 3]; the manifest says [3, 2, 3, 3]",
    ),
    (
        "shape turned twice",
        lambda g: with_manifest(
            with_header(g, **{"c/weight__shape": [2, 3, 3, 3]}), **{"tensors__c/weight__shape": [2, 3, 3, 3]}
        ),
        errors.BundleGraphError,
        "its weight has shape (2, 3, 3, 3)",
    ),
    (
        "type",
        lambda g: with_manifest(g, **{"tensors__c/bias__dtype": "F16"}),
        errors.TensorTypeError,
        "is F16 where F32",
    ),
    ("storage", lambda g: with_manifest(g, dtype="fp32"), errors.TensorTypeError, f"'{WEIGHT}' is F16 where F32"),
    (
        "checksum",
        lambda g: g[:-1] + bytes([g[-1] ^ 4]),
        errors.TensorChecksumError,
        f"tensor '{MATRIX}' does not match",
    ),
    ("sha256", lambda g: with_manifest(g, **{"tensors__c/bias__sha256": ""}), errors.TensorChecksumError, f"'{BIAS}'"),
    ("nan", lambda g: with_tensor(g, BIAS, nan_weight(np.float32, 3, np.nan)), errors.NonFiniteError, f"'{BIAS}'"),
    (
        "inf",
        lambda g: with_tensor(g, WEIGHT, nan_weight(np.float16, 54, -np.inf)),
        errors.NonFiniteError,
        f"'{WEIGHT}'",
    ),
    ("code 3", lambda g: with_tensor(g, MATRIX, np.full(12, 255, np.uint8)), errors.ProjectionError, "not a packed"),
    ("zeros", lambda g: with_tensor(g, MATRIX, np.zeros(12, np.uint8)), errors.ProjectionError, "not a packed"),
    ("tile", lambda g: with_manifest(g, plan__layers__0__variants__0__patch=3), errors.ProjectionError, "3 rows of 25"),
    ("rows", lambda g: with_manifest(g, plan__layers__0__variants__0__bits=2), errors.ProjectionError, "2 rows of 16"),
]


@pytest.mark.parametrize(("make", "cause", "message"), [row[1:] for row in DAMAGE], ids=[row[0] for row in DAMAGE])
def test_each_cause_has_its_error(
    good: bytes, tmp_path: Path, make: Callable[[bytes], bytes], cause: type[BundleFileError], message: str
) -> None:
    error = refused(tmp_path / "net.haste", make(good))
    assert type(error) is cause
    assert message in error.message
    assert len(error.message) < 1000
    assert str(error).encode()  # it can be printed


def test_every_cause_is_met_in_this_file() -> None:
    elsewhere = {
        errors.BundleMissingError,
        errors.BundleNotAFileError,
        errors.BundleUnreadableError,
        errors.BundleTooLargeError,
        errors.EmptyBundleError,
        errors.TrailingBytesError,
        errors.BundleWriteError,  # in test_bundle.py
    }
    assert {cause for _, _, cause, _ in DAMAGE} | elsewhere == set(BundleFileError.__subclasses__())


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
        (tmp_path / "net.haste").write_bytes(data)
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
    (tmp_path / "net.haste").write_bytes(framed(b"{" + data) if as_header else data)
    with pytest.raises(BundleFileError):
        read_bundle(tmp_path / "net.haste")


@RANDOM
@given(edits=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4))
def test_several_bytes_changed(good: bytes, tmp_path: Path, edits: list[tuple[int, int]]) -> None:
    data = bytearray(good)
    for place, value in edits:
        data[place % len(data)] = value
    (tmp_path / "net.haste").write_bytes(data)
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
    path.write_bytes(put_together(header, {"haste": seal(manifest)}, data))
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
    tensor=st.sampled_from([WEIGHT, BIAS, MATRIX]),
    entry=st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["F32", "F16", "U8", "F64"]),
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
        size = {"F32": 4, "F16": 2, "U8": 1, "F64": 8}[entry["dtype"]]
        entry["data_offsets"] = (begin, begin + size * int(np.prod(entry["shape"])))
    header[tensor] = entry
    end = max(e["data_offsets"][1] for e in header.values())
    path = tmp_path / "net.haste"
    path.write_bytes(put_together(header, {"haste": seal(manifest)}, (data + bytes(400))[: max(0, end + cut)]))
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
