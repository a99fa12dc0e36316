"""haste-edge: compile a pre-trained CNN for a small ARM computer, and study the method in torch.

    haste_edge.apply(model, bits=12)     # the paper's method on any torch model; model.haste.level is the knob
    haste_edge.remove(model)

The compiler is the command ``haste-edge``. torch is imported when first needed, so that the command's help is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from haste_edge.module import apply, remove, set_level

__version__ = "0.1.0"
__all__ = ["__version__", "apply", "remove", "set_level"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("haste_edge.module"), name)
    raise AttributeError(f"module 'haste_edge' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
