"""haste-runtime: run a compiled ``.haste`` bundle on a small computer and steer how strongly it compresses.

    from haste_runtime import Session
    with Session("net.haste") as session:
        y = session.run(x)
        session.level = 3          # takes effect at the next frame; 0 is the exact network

Needs numpy and safetensors only. Numba, if present, makes it fast.
"""

from haste_runtime.errors import BundleError, HasteError
from haste_runtime.session import Session

__version__ = "0.1.0"
__all__ = ["BundleError", "HasteError", "Session", "__version__"]
