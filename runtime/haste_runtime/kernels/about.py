"""What machine code says of itself before it is used."""

from __future__ import annotations

from haste_runtime.kernels import layout as t
from haste_runtime.kernels.jit import kernel, simd

W = simd.W


@kernel
def about(out):
    """out, two int64: the layout's number (`haste_runtime.kernels.layout.ABI`) and the lanes of a vector."""
    out[0] = t.ABI
    out[1] = W
