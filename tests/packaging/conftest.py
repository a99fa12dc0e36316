from __future__ import annotations

from pathlib import Path

import pytest
from wheel_tools import build


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """``haste_edge`` and ``haste_runtime`` -> its wheel."""
    return build(tmp_path_factory.mktemp("wheels"))
