"""What tests of all exports share: a bundle to export, and the command."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from builders import bundle_for, random_network

from haste_edge import cli
from haste_runtime.bundle import write_bundle
from haste_runtime.preprocessing import Preprocessing


def written(folder: Path, **options: Any) -> Path:
    """A bundle with classes and preprocessing. options: of `bundle_for`."""
    bundle = replace(bundle_for(random_network(1), **options), classes=("a", "b", "ç", "d", "e"))
    write_bundle(folder / "net.haste", replace(bundle, preprocessing=_preprocessing(bundle.preprocessing.layout)))
    return folder / "net.haste"


def _preprocessing(layout: str) -> Preprocessing:
    return Preprocessing((0.1, 0.2, 0.3), (0.5, 0.6, 0.7), 127.5, layout, "BGR")


def metadata(layout: str) -> dict[str, Any]:
    """What a file is to say of the bundle that `written` writes."""
    said = {**asdict(_preprocessing(layout)), "classes": ["a", "b", "ç", "d", "e"], "made_by": "tests"}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in said.items()}


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code of haste-edge export."""
    monkeypatch.setattr(sys, "argv", ["haste-edge", "export", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)
