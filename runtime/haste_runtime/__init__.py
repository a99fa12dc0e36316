"""haste-runtime: run a compiled ``.haste`` bundle on a small computer and steer how strongly it compresses.

    from haste_runtime import Session
    with Session("net.haste") as session:
        y = session.run(x)
        session.level = 3          # takes effect at the next frame; 0 is the exact network

Needs numpy and safetensors only. Numba, if present, makes it fast. Names are imported when they are first used, so that
``haste-run doctor`` can tell what is missing where numpy itself is.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from haste_runtime.errors import BundleError, HasteError
    from haste_runtime.session import Session

__version__ = "0.1.0"
__all__ = ["BundleError", "HasteError", "Session", "__version__"]
_PLACES = {"BundleError": "errors", "HasteError": "errors", "Session": "session"}


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(import_module(f"haste_runtime.{_PLACES[name]}"), name)
    raise AttributeError(f"module 'haste_runtime' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
