"""Damaged and malicious TFLite files end in an error of ours, within bounded memory and time."""

from __future__ import annotations

import resource
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tflite_models import TfliteBuilder, load, small_network

from haste_edge.errors import ModelError, UnsupportedModelError
from haste_edge.frontends.tflite_file import MOST_OPERATIONS, read_tflite
from haste_runtime.errors import GraphError, HasteError

VALID = small_network().model()


def assert_sensible(data: bytes, folder: Path) -> None:
    """It loads, or ends in an error for people."""
    error: HasteError | None = None
    try:
        load(data, folder)
    except HasteError as raised:
        error = raised
    assert error is None or isinstance(error, ModelError | UnsupportedModelError | GraphError)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), min_size=1, max_size=4),
    end=st.one_of(st.none(), st.integers(0, len(VALID))),
)
def test_any_bytes_end_in_a_graph_or_in_an_error_of_ours(
    tmp_path: Path, changes: list[tuple[int, int]], end: int | None
) -> None:
    data = bytearray(VALID)
    for place, value in changes:
        data[place] = value
    assert_sensible(bytes(data[:end]), tmp_path)


def test_every_cut_is_an_error(tmp_path: Path) -> None:
    load(VALID, tmp_path)
    for end in range(0, len(VALID), 7):
        with pytest.raises(ModelError):
            load(VALID[:end], tmp_path)


@pytest.mark.parametrize("value", [0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_wild_numbers_anywhere(tmp_path: Path, value: int) -> None:
    """Offsets, lengths and sizes are all of four bytes."""
    for place in range(0, 1024, 4):
        data = bytearray(VALID)
        data[place : place + 4] = struct.pack("<I", value)
        assert_sensible(bytes(data), tmp_path)


def test_other_files(tmp_path: Path) -> None:
    for data in (b"", b"TFL3", b"\x80\x04pickle", b"\0" * 4 + b"TFL3", b"\xff" * 4 + b"TFL3" + b"\xff" * 100):
        with pytest.raises(ModelError):
            load(data, tmp_path)
    with pytest.raises(ModelError, match="There is no file"):
        read_tflite(tmp_path / "none.tflite")
    with pytest.raises(ModelError, match="cannot be read"):
        read_tflite(tmp_path)


def test_parts_that_overlap_cost_no_more_than_the_file(tmp_path: Path) -> None:
    """Thousands of values, all with the same long name and shape."""
    b = TfliteBuilder((1, 4))
    for _ in range(3000):
        b.value((1, 4), name="n")
    b.tensors[0]["name"] = "x" * 20_000  # written first, so behind all that will point to it
    b("RELU", b.inputs, (1, 4))
    data = bytearray(b.model())
    long = data.index(b"x" * 100) - 4
    names = [place for place in range(0, len(data) - 8, 4) if data[place : place + 6] == b"\x01\0\0\0n\0"]
    assert len(names) == 3000
    tables = np.frombuffer(bytes(data[: len(data) // 4 * 4]), np.uint32)
    for place in names:  # every offset that led to such a name leads to the long one
        for index in np.flatnonzero(tables + np.arange(len(tables)) * 4 == place):
            data[index * 4 : index * 4 + 4] = struct.pack("<I", long - int(index) * 4)
    with pytest.raises(ModelError, match=r"parts overlap"):
        load(bytes(data), tmp_path)


def test_too_many_operations(tmp_path: Path) -> None:
    b = TfliteBuilder((1, 1))
    b("RELU", b.inputs, (1, 1))
    b.operations *= MOST_OPERATIONS + 1
    with pytest.raises(ModelError, match="20001 operations"):
        load(b.model(), tmp_path)


def test_constants_read_again_and_again(tmp_path: Path) -> None:
    b = TfliteBuilder((1, 1, 1, 1000))
    weight = b.random(1000, 1, 1, 1000)
    x = b.inputs[0]
    options = {"options": "Conv2DOptions", "StrideH": 1, "StrideW": 1, "DilationHFactor": 1, "DilationWFactor": 1}
    for _ in range(40):
        x = b("CONV_2D", [x, weight, -1], (1, 1, 1, 1000), **options)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelError, match="far too often"):
        load(b.model(), tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000  # kB
