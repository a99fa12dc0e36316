"""Packages that need not be installed, and what to do where one is missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from haste_edge.errors import ModelError

PACKAGES = {"onnx": ("onnx", "google"), "tflite": ("tflite", "flatbuffers")}  # that an extra's files are read with


@contextmanager
def needing(extra: str, doing: str) -> Iterator[None]:
    """Raises ModelError where one of the extra's packages is missing. doing: "Reading" or "Writing" its files."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in PACKAGES[extra]:
            raise
        raise ModelError(
            f"{doing} .{extra} files needs the package {PACKAGES[extra][0]}.",
            f'Install it: pip install "haste-edge[{extra}]"',
        ) from error
