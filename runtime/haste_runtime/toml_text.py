"""TOML, which Python reads by itself from 3.11 on."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from haste_runtime.errors import HasteError


def parse_toml(text: str, what: str, error: type[HasteError], hint: str) -> Mapping[str, Any]:
    """The table in ``text``. Raises ``error``: ``what`` is not TOML, or Python 3.10 lacks the package that reads it."""
    name = "tomllib" if sys.version_info >= (3, 11) else "tomli"
    try:
        parser = import_module(name)
    except ImportError:
        raise error(
            "Reading TOML on Python 3.10 needs the package tomli.",
            'Install it: pip install "haste-runtime[toml]"; a policy may also be given as a dict.',
        ) from None
    try:
        table: Mapping[str, Any] = parser.loads(text)
        return table
    except ValueError as wrong:
        raise error(f"{what} is not TOML: {wrong}.", hint) from None
