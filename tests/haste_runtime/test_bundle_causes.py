"""A table of everything that can be wrong inside a bundle: each cause gives its own error, with advice."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from bundle_parts import (
    BIAS,
    IMPORTANCE,
    MATRIX,
    REMOVE,
    SCALE,
    WEIGHT,
    Damage,
    as_version_2,
    framed,
    in_header,
    in_manifest,
    refused,
    small_bytes,
    with_another_tensor,
    with_header,
    with_header_text,
    with_manifest,
    with_metadata,
    with_tensor,
    with_text,
    without_tensor,
)

from haste_runtime import bundle_errors as e
from haste_runtime.bundle import read_bundle
from haste_runtime.bundle_container import MAX_HEADER
from haste_runtime.bundle_errors import BundleFileError


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return small_bytes(tmp_path_factory.mktemp("good"))


@pytest.fixture(scope="module")
def good_int8(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return small_bytes(tmp_path_factory.mktemp("good_int8"), "int8")


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


DEEP = 100_000
CHOICE = {"variant": 0, "bits": 1, "budget": 0.0}

DAMAGE: list[tuple[str, Damage, type[BundleFileError], str]] = [
    # the header
    ("zip", lambda g: b"PK\x03\x04" + g, e.HeaderSizeError, "not a bundle, or damaged"),
    ("all ones", lambda g: b"\xff" * 64, e.HeaderSizeError, "header of 18446744073709551615 bytes"),
    ("just too long", lambda g: struct.pack("<Q", MAX_HEADER + 1) + g, e.HeaderSizeError, "header of 4194305"),
    ("no header", lambda g: framed(""), e.NotABundleError, "not a safetensors file"),
    ("onnx-like", lambda g: framed("\x08\x08\x12\x07pytorch"), e.NotABundleError, "not a safetensors file"),
    ("latin-1", lambda g: framed('{"\xe9": 1}'.encode("latin-1")), e.HeaderEncodingError, "not UTF-8 at byte 10"),
    ("half a header", lambda g: framed("{"), e.HeaderSyntaxError, "the header is not JSON"),
    ("two headers", lambda g: framed("{}{}"), e.HeaderSyntaxError, "the header is not JSON"),
    ("nan", lambda g: framed('{"a": NaN}'), e.HeaderSyntaxError, "NaN is not JSON"),
    ("digits", lambda g: framed('{"a": ' + "9" * 10**6 + "}"), e.HeaderSyntaxError, "too many digits"),
    ("deep", lambda g: framed('{"a": ' + "[" * DEEP), e.HeaderDepthError, "deeper than 12"),
    ("deep and closed", lambda g: framed('{"a":' * DEEP + "1" + "}" * DEEP), e.HeaderDepthError, "deeper than 12"),
    ("rather deep", lambda g: framed('{"a":' + "[" * 12 + "]" * 12 + "}"), e.HeaderDepthError, "deeper than 12"),
    ("twice", lambda g: framed('{"a": 1, "b": 2, "a": 3}'), e.DuplicateKeyError, "key 'a' twice"),
    (
        "tensor twice",
        lambda g: with_header_text(g, lambda t: t.replace(f'"{BIAS}":', f'"{WEIGHT}":', 1)),
        e.DuplicateKeyError,
        f"key '{WEIGHT}' twice",
    ),
    ("safetensors", lambda g: framed("{}"), e.NotABundleError, "without 'haste'"),
    ("of another tool", lambda g: with_metadata(g, {"format": "pt"}), e.NotABundleError, "without 'haste'"),
    ("metadata a list", lambda g: with_metadata(g, ["haste"]), e.HeaderSyntaxError, "metadata is not an object"),
    ("metadata more", lambda g: with_metadata(g, {"haste": "", "x": ""}), e.HeaderSyntaxError, "more than one"),
    ("metadata a number", lambda g: with_metadata(g, {"haste": 1}), e.HeaderSyntaxError, "more than one"),
    ("entry a list", in_header(**{"c/bias": []}), e.HeaderSyntaxError, f"tensor '{BIAS}' is not"),
    ("entry short", in_header(**{"c/bias__shape": REMOVE}), e.HeaderSyntaxError, "is not described"),
    ("entry long", in_header(**{"c/bias__x": 1}), e.HeaderSyntaxError, "is not described"),
    ("shape text", in_header(**{"c/bias__shape": "3"}), e.HeaderSyntaxError, "whole numbers"),
    ("shape bool", in_header(**{"c/bias__shape": [True]}), e.HeaderSyntaxError, "whole numbers"),
    ("shape negative", in_header(**{"c/bias__shape": [-3]}), e.HeaderSyntaxError, "whole numbers"),
    ("shape 2**64", in_header(**{"c/bias__shape": [2**64]}), e.HeaderSyntaxError, "whole numbers"),
    ("offsets float", in_header(**{"c/bias__data_offsets": [0, 12.0]}), e.HeaderSyntaxError, "whole"),
    ("offsets one", in_header(**{"c/bias__data_offsets": [0]}), e.HeaderSyntaxError, "whole numbers"),
    ("name", in_header(**{"n" * 600: {}}), e.HeaderSyntaxError, "name has 600 characters"),
    ("dtype unknown", in_header(**{"c/bias__dtype": "F64"}), e.TensorTypeError, "type 'F64'"),
    ("dtype a list", in_header(**{"c/bias__dtype": ["F32"]}), e.TensorTypeError, "type"),
    ("dimensions", in_header(**{"c/bias__shape": [1, 1, 1, 1, 3]}), e.TensorShapeError, "at most 4"),
    # the layout
    ("overlap", in_header(**{"c/weight__data_offsets": [8, 116]}), e.TensorLayoutError, "overlaps"),
    ("hole", in_header(**{"c/weight__data_offsets": [16, 124]}), e.TensorLayoutError, "hole"),
    ("backwards", in_header(**{"c/bias__data_offsets": [0, 0]}), e.TensorLayoutError, "takes 0"),
    ("turned", in_header(**{"c/bias__data_offsets": [12, 0]}), e.TensorLayoutError, "hole"),
    ("smaller", in_header(**{"c/bias__shape": [2]}), e.TensorLayoutError, "takes 12 bytes"),
    ("larger", in_header(**{"c/bias__shape": [2**62, 3]}), e.TensorLayoutError, "takes 12 bytes"),
    ("cut data", lambda g: g[:-1], e.TruncatedBundleError, "ends 1 bytes before its last tensor"),
    # the seal
    ("seal", lambda g: with_metadata(g, {"haste": "0" * 64 + " {}"}), e.ManifestChecksumError, "is damaged"),
    ("no seal", lambda g: with_metadata(g, {"haste": ""}), e.ManifestChecksumError, "is damaged"),
    ("surrogate", lambda g: with_metadata(g, {"haste": "\ud800"}), e.ManifestChecksumError, "is damaged"),
    ("not json", lambda g: with_text(g, lambda t: t + "}"), e.HeaderSyntaxError, "the manifest is not JSON"),
    ("a list", lambda g: with_text(g, lambda t: "[]"), e.HeaderSyntaxError, "not a JSON object"),
    ("manifest deep", lambda g: with_text(g, lambda t: "[" * DEEP), e.HeaderDepthError, "the manifest nests"),
    (
        "manifest twice",
        lambda g: with_text(g, lambda t: t.replace("{", '{"dtype":"fp32",', 1)),
        e.DuplicateKeyError,
        "the manifest has the key 'dtype' twice",
    ),
    # the version
    ("newer", in_manifest(format_version=6), e.NewerVersionError, "format 6 (made by tests)"),
    ("much newer", lambda g: with_text(g, lambda t: '{"format_version":99}'), e.NewerVersionError, "format 99;"),
    ("older", in_manifest(format_version=0), e.OlderVersionError, "format 0 (made by tests)"),
    ("keys of another", in_manifest(format_version=2), e.ManifestError, "layers[0] has unknown keys ['algorithm']"),
    ("version text", in_manifest(format_version="4"), e.ManifestError, "format_version is missing"),
    ("no version", in_manifest(format_version=REMOVE), e.ManifestError, "format_version is missing"),
    ("version true", in_manifest(format_version=True), e.ManifestError, "format_version is missing"),
    # the manifest
    ("key missing", in_manifest(plan=REMOVE), e.ManifestError, "manifest lacks ['plan']"),
    ("key unknown", in_manifest(licence="MIT"), e.ManifestError, "unknown keys ['licence']"),
    ("not an object", in_manifest(graph=[]), e.ManifestError, "manifest.graph is not an object"),
    ("not an array", in_manifest(graph__nodes={}), e.ManifestError, "manifest.graph.nodes is not an"),
    ("not a text", in_manifest(target=7), e.ManifestError, "manifest.target is not a printable"),
    ("escape codes", in_manifest(made_by="\x1b[2J"), e.ManifestError, "manifest.made_by is not a"),
    ("lone surrogate", in_manifest(target="\ud800"), e.ManifestError, "manifest.target is not a"),
    ("long text", in_manifest(target="x" * 5000), e.ManifestError, "at most 4096"),
    ("no name", in_manifest(graph__nodes__0__name=""), e.ManifestError, "nodes[0].name is empty"),
    ("dtype", in_manifest(dtype="int4"), e.ManifestError, "manifest.dtype is not one of fp32, fp16, int8"),
    ("arena", in_manifest(arena_bytes=2**41), e.ManifestError, "manifest.arena_bytes is not an int"),
    ("arena float", in_manifest(arena_bytes=1.0), e.ManifestError, "manifest.arena_bytes is not an"),
    ("classes", in_manifest(classes=["a", 1, "b"]), e.ManifestError, "manifest.classes is not an"),
    ("two classes", in_manifest(classes=["a", "b"]), e.ManifestError, "2 class names for an output"),
    ("std", in_manifest(preprocessing__std=[0.0]), e.ManifestError, "manifest.preprocessing is wrong"),
    ("mean", in_manifest(preprocessing__mean=["a"]), e.ManifestError, "preprocessing.mean is not an"),
    ("scale", lambda g: with_text(g, lambda t: t.replace("255.0", "1e999")), e.ManifestError, "scale is not a finite"),
    ("input", in_manifest(graph__inputs__0__shape=[2, 0, 4]), e.ManifestError, "inputs[0].shape is"),
    ("choices", in_manifest(ladder__1__choices={"\n": {}}), e.ManifestError, "unprintable name '\\n'"),
    ("seed", in_manifest(plan__layers__0__variants__0__seed=-1), e.ManifestError, "variants[0].seed"),
    ("patch", in_manifest(plan__layers__0__variants__0__patch=0), e.ManifestError, "variants[0].patch"),
    ("bits", in_manifest(plan__layers__0__variants__0__bits=32), e.ManifestError, "variants[0].bits"),
    ("no bits", in_manifest(ladder__1__choices__c__bits=0), e.PlanError, "uses 0 bits"),
    (
        "budget missing",
        in_manifest(ladder__1__choices__c__budget=REMOVE),
        e.ManifestError,
        "choices.c lacks ['budget']",
    ),
    (
        "budget null",
        in_manifest(ladder__1__choices__c__budget=None),
        e.ManifestError,
        "choices.c.budget is not a finite",
    ),
    (
        "budget true",
        in_manifest(ladder__1__choices__c__budget=True),
        e.ManifestError,
        "choices.c.budget is not a finite",
    ),
    (
        "budget infinite",
        lambda g: with_text(g, lambda t: t.replace('"budget":0.25', '"budget":1e999', 1)),
        e.ManifestError,
        "choices.c.budget is not a finite",
    ),
    ("agreement missing", in_manifest(ladder__1__agreement=REMOVE), e.ManifestError, "ladder[1] lacks ['agreement']"),
    ("agreement text", in_manifest(ladder__1__agreement="99"), e.ManifestError, "ladder[1].agreement is not a finite"),
    ("agreement true", in_manifest(ladder__1__agreement=True), e.ManifestError, "ladder[1].agreement is not a finite"),
    (
        "importance missing",
        in_manifest(plan__layers__0__variants__0__importance=REMOVE),
        e.ManifestError,
        "variants[0] lacks ['importance']",
    ),
    (
        "importance null",
        in_manifest(plan__layers__0__variants__0__importance=None),
        e.ManifestError,
        "variants[0].importance is not a printable text",
    ),
    ("no algorithm", in_manifest(plan__layers__0__algorithm=REMOVE), e.ManifestError, "layers[0] lacks ['algorithm']"),
    ("algorithm null", in_manifest(plan__layers__0__algorithm=None), e.ManifestError, "layers[0].algorithm is not a"),
    (
        "variant without algorithm",
        in_manifest(plan__layers__0__variants__0__algorithm=REMOVE),
        e.ManifestError,
        "variants[0] lacks ['algorithm']",
    ),
    (
        "algorithm empty",
        in_manifest(plan__layers__0__variants__0__algorithm=""),
        e.ManifestError,
        "variants[0].algorithm is empty",
    ),
    # the graph
    ("operator", in_manifest(graph__nodes__1__op="attention"), e.UnsupportedError, "operator 'attention'"),
    ("stride", in_manifest(graph__nodes__0__attributes__stride=[0, 1]), e.BundleGraphError, "'stride'"),
    ("stride text", in_manifest(graph__nodes__0__attributes__stride="1"), e.BundleGraphError, "'stride'"),
    ("stride deep", in_manifest(graph__nodes__0__attributes__stride=[[1]]), e.ManifestError, "stride"),
    ("attribute", in_manifest(graph__nodes__1__attributes={}), e.BundleGraphError, "has attributes []"),
    ("reads", in_manifest(graph__nodes__1__inputs=["z"]), e.BundleGraphError, "reads 'z'"),
    ("output", in_manifest(graph__outputs=["z"]), e.BundleGraphError, "Output 'z'"),
    ("input shape", in_manifest(graph__inputs__0__shape=[5, 4, 4]), e.BundleGraphError, "its weight"),
    ("enormous", in_manifest(graph__inputs__0__shape=[2, 2**30, 4]), e.BundleGraphError, "more than"),
    # the plan
    ("plan node", in_manifest(plan__layers__0__node="d"), e.PlanError, "differ in 'd'"),
    ("policy", in_manifest(plan__layers__0__variants__0__policy="x"), e.UnsupportedError, "policy 'x'"),
    ("algorithm", in_manifest(plan__layers__0__algorithm="fft"), e.UnsupportedError, "algorithm 'fft', unknown here"),
    (
        "variant's algorithm",
        in_manifest(plan__layers__0__variants__0__algorithm="fft"),
        e.UnsupportedError,
        "'c' is computed by the algorithm 'fft'",
    ),
    ("dense above", in_manifest(plan__layers__0__variants__0__dense_above=1.5), e.PlanError, "above a share of 1.5"),
    ("sparsity", in_manifest(plan__layers__0__variants__0__sparsity=1), e.PlanError, "sparsity of 1"),
    ("objective", in_manifest(plan__objective="joules"), e.PlanError, "objective 'joules'"),
    ("no ladder", in_manifest(ladder=[]), e.PlanError, "no levels"),
    ("level 0", in_manifest(ladder__0__choices={"c": CHOICE}), e.PlanError, "level 0"),
    ("level node", in_manifest(ladder__1__choices={"m": CHOICE}), e.PlanError, "'m'"),
    ("level variant", in_manifest(ladder__1__choices__c__variant=1), e.PlanError, "variant 1 of 'c'"),
    ("level bits", in_manifest(ladder__1__choices__c__bits=4), e.PlanError, "uses 4 bits of 'c'"),
    ("level saving", in_manifest(ladder__1__flops_reduction=100.5), e.PlanError, "save 100.5 %"),
    ("level budget", in_manifest(ladder__1__choices__c__budget=-0.5), e.PlanError, "'c' an error budget of -0.5"),
    ("huge budget", in_manifest(ladder__1__choices__c__budget=1e7), e.PlanError, "'c' an error budget of 10000000.0"),
    (
        "agreement",
        in_manifest(ladder__1__agreement=100.5),
        e.PlanError,
        "level 1 claims to agree with level 0 in 100.5",
    ),
    ("negative agreement", in_manifest(ladder__1__agreement=-1), e.PlanError, "level 0 in -1.0 %"),
    ("same name", in_manifest(plan__layers__0__variants__0__projection=BIAS), e.PlanError, f"'{BIAS}' names two of"),
    ("name again", in_manifest(plan__layers__0__variants__0__importance=BIAS), e.PlanError, f"'{BIAS}' names two of"),
    ("one name", in_manifest(plan__layers__0__variants__0__importance=MATRIX), e.PlanError, f"'{MATRIX}' names two of"),
    (
        "importance of a policy without",
        in_manifest(plan__layers__0__variants__0__policy="scaled"),
        e.PlanError,
        f"'c' merges by the policy 'scaled', with importance '{IMPORTANCE}'",
    ),
    # the tensors
    ("tensor missing", lambda g: without_tensor(g, MATRIX), e.MissingTensorError, f"tensor '{MATRIX}'"),
    (
        "importance renamed",
        in_manifest(plan__layers__0__variants__0__importance="w"),
        e.MissingTensorError,
        "tensor 'w'",
    ),
    (
        "importance unused",
        in_manifest(plan__layers__0__variants__0__importance=""),
        e.ExtraTensorError,
        f"the tensor '{IMPORTANCE}'",
    ),
    ("not listed", in_manifest(**{"tensors__c/bias": REMOVE}), e.MissingTensorError, f"'{BIAS}'"),
    ("renamed", in_manifest(graph__nodes__0__constants__bias="b"), e.MissingTensorError, "'b'"),
    ("spare", lambda g: with_another_tensor(g, False), e.ExtraTensorError, "the tensor 'spare'"),
    ("spare, listed", lambda g: with_another_tensor(g, True), e.ExtraTensorError, "the tensor 'spare'"),
    ("unused", in_manifest(graph__nodes__0__constants__bias=REMOVE), e.ExtraTensorError, f"'{BIAS}'"),
    ("shape", in_manifest(**{"tensors__c/weight__shape": [54]}), e.TensorShapeError, f"'{WEIGHT}'"),
    (
        "shape turned",
        in_header(**{"c/weight__shape": [2, 3, 3, 3]}),
        e.TensorShapeError,
        "has shape [2, 3, 3, 3]; the manifest says [3, 2, 3, 3]",
    ),
    (
        "shape turned twice",
        lambda g: with_manifest(
            with_header(g, **{"c/weight__shape": [2, 3, 3, 3]}), **{"tensors__c/weight__shape": [2, 3, 3, 3]}
        ),
        e.BundleGraphError,
        "its weight has shape (2, 3, 3, 3)",
    ),
    (
        "importance shape",
        lambda g: with_manifest(
            with_header(g, **{"c/importance__shape": [2, 1]}), **{"tensors__c/importance__shape": [2, 1]}
        ),
        e.TensorShapeError,
        f"importance '{IMPORTANCE}' is uint16 [2, 1]; 2 uint16 are needed",
    ),
    ("importance type", in_header(**{"c/importance__dtype": "F16"}), e.TensorTypeError, "is F16 where U16"),
    ("type", in_manifest(**{"tensors__c/bias__dtype": "F16"}), e.TensorTypeError, "is F16 where F32"),
    ("storage", in_manifest(dtype="fp32"), e.TensorTypeError, f"'{WEIGHT}' is F16 where F32"),
    ("storage int8", in_manifest(dtype="int8"), e.TensorTypeError, f"'{WEIGHT}' is F16 where I8"),
    ("checksum", lambda g: g[:-1] + bytes([g[-1] ^ 4]), e.TensorChecksumError, f"tensor '{MATRIX}' does not match"),
    ("sha256", in_manifest(**{"tensors__c/bias__sha256": ""}), e.TensorChecksumError, f"'{BIAS}'"),
    ("nan", lambda g: with_tensor(g, BIAS, nan_weight(np.float32, 3, np.nan)), e.NonFiniteError, f"'{BIAS}'"),
    ("inf", lambda g: with_tensor(g, WEIGHT, nan_weight(np.float16, 54, -np.inf)), e.NonFiniteError, f"'{WEIGHT}'"),
    ("code 3", lambda g: with_tensor(g, MATRIX, np.full(12, 255, np.uint8)), e.ProjectionError, "not a packed"),
    ("zeros", lambda g: with_tensor(g, MATRIX, np.zeros(12, np.uint8)), e.ProjectionError, "not a packed"),
    ("tile", in_manifest(plan__layers__0__variants__0__patch=3), e.ProjectionError, "3 rows of 25"),
    ("rows", in_manifest(plan__layers__0__variants__0__bits=2), e.ProjectionError, "2 rows of 16"),
]


DAMAGE_INT8: list[tuple[str, Damage, type[BundleFileError], str]] = [
    ("storage", in_manifest(dtype="fp16"), e.TensorTypeError, f"'{WEIGHT}' is I8 where F16"),
    (
        "no scale",
        in_manifest(**{"graph__nodes__0__constants__weight_scale": REMOVE}),
        e.ExtraTensorError,
        f"the tensor '{SCALE}'",
    ),
    (
        "bias for scale",
        lambda g: with_manifest(
            g, **{"graph__nodes__0__constants__weight_scale": REMOVE, "graph__nodes__0__constants__bias": SCALE}
        ),
        e.ExtraTensorError,
        f"the tensor '{BIAS}'",
    ),
    (
        "scale shape",
        lambda g: with_manifest(
            with_header(g, **{"c/weight/scale__shape": [1, 3]}), **{"tensors__c/weight/scale__shape": [1, 3]}
        ),
        e.BundleGraphError,
        "its weight_scale has shape (1, 3) where (3,) is needed",
    ),
    ("-128", lambda g: with_tensor(g, WEIGHT, nan_weight(np.int8, 54, -128)), e.WeightRangeError, "'c' holds -128"),
    ("scale 0", lambda g: with_tensor(g, SCALE, np.zeros(3, np.float32)), e.WeightRangeError, "scale of 'c' is not"),
    (
        "scale < 0",
        lambda g: with_tensor(g, SCALE, np.full(3, -1, np.float32)),
        e.WeightRangeError,
        "scale of 'c' is not",
    ),
    ("scale large", lambda g: with_tensor(g, SCALE, np.full(3, 1e37, np.float32)), e.WeightRangeError, "or too large"),
    ("scale nan", lambda g: with_tensor(g, SCALE, nan_weight(np.float32, 3, np.nan)), e.NonFiniteError, f"'{SCALE}'"),
    ("version 2", lambda g: as_version_2(g), e.ManifestError, "manifest.dtype is not one of fp32, fp16."),
]


@pytest.mark.parametrize(("make", "cause", "message"), [row[1:] for row in DAMAGE], ids=[row[0] for row in DAMAGE])
def test_each_cause_has_its_error(
    good: bytes, tmp_path: Path, make: Damage, cause: type[BundleFileError], message: str
) -> None:
    error = refused(tmp_path / "net.haste", make(good))
    assert type(error) is cause
    assert message in error.message
    assert len(error.message) < 1000
    assert str(error).encode()  # it can be printed


@pytest.mark.parametrize(
    ("make", "cause", "message"), [row[1:] for row in DAMAGE_INT8], ids=[row[0] for row in DAMAGE_INT8]
)
def test_each_cause_has_its_error_in_int8(
    good_int8: bytes, tmp_path: Path, make: Damage, cause: type[BundleFileError], message: str
) -> None:
    error = refused(tmp_path / "net.haste", make(good_int8))
    assert type(error) is cause
    assert message in error.message


def test_every_cause_is_met() -> None:
    elsewhere = {  # in test_bundle_corruption.py
        e.BundleMissingError,
        e.BundleNotAFileError,
        e.BundleUnreadableError,
        e.BundleTooLargeError,
        e.EmptyBundleError,
        e.TrailingBytesError,
        e.BundleWriteError,  # in test_bundle.py
    }
    assert {cause for _, _, cause, _ in DAMAGE + DAMAGE_INT8} | elsewhere == set(BundleFileError.__subclasses__())
