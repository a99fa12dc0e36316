"""What only the extra ``haste-edge[cross]`` installs."""

from __future__ import annotations

from importlib.util import find_spec

from haste_edge.errors import BuildError


def needed(module: str, distribution: str) -> None:
    """Raises BuildError, with what to do, where the module is not installed."""
    if find_spec(module) is None:
        raise BuildError(
            f"Building for other computers needs the package {distribution}.",
            'Install it: pip install "haste-edge[cross]"',
        )
