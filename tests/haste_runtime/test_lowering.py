"""What stands in for missing instructions computes the same: run here, where the instructions exist."""

from __future__ import annotations

import ctypes
import os
import random

import numpy as np
import pytest

if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
    pytest.skip("nothing is compiled with NUMBA_DISABLE_JIT", allow_module_level=True)

from haste_runtime.kernels.compile import load
from haste_runtime.kernels.lowering import replace_arithmetic, replace_divisions

LONG, UNSIGNED, FLOAT, DOUBLE = ctypes.c_int64, ctypes.c_uint64, ctypes.c_float, ctypes.c_double
FUNCTIONS = "\n".join(
    f"define i64 @{name}(i64 %a, i64 %b) {{\n  %r = {name} i64 %a, %b\n  ret i64 %r\n}}"
    for name in ("sdiv", "udiv", "srem", "urem")
)
FUNCTIONS += """
declare double @rint(double)
declare double @llvm.floor.f64(double)
declare <8 x float> @llvm.roundeven.v8f32(<8 x float>)
define double @round(double %x) {
  %r = call double @rint(double %x)
  ret double %r
}
define double @lower(double %x) {
  %r = call double @llvm.floor.f64(double %x)
  ret double %r
}
define float @sixth(float %x) {
  %v = insertelement <8 x float> zeroinitializer, float %x, i32 5
  %r = call <8 x float> @llvm.roundeven.v8f32(<8 x float> %v)
  %e = extractelement <8 x float> %r, i32 5
  ret float %e
}
define float @convert(i64 %x) {
  %r = sitofp i64 %x to float
  ret float %r
}
"""


@pytest.fixture(scope="module")
def engine():
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    text = replace_divisions(replace_arithmetic(FUNCTIONS))
    for gone in ("sdiv i64", "udiv i64", "srem i64", "urem i64", "sitofp i64", "roundeven", "@rint", "@llvm.floor"):
        assert f" {gone}" not in text
    module = llvm.parse_assembly(text)
    module.verify()
    machine = llvm.Target.from_default_triple().create_target_machine()
    return load(machine.emit_object(module))


def function(engine, name: str, result: type, *arguments: type):
    return ctypes.CFUNCTYPE(result, *arguments)(engine.get_function_address(name))


def test_division_is_exact_for_every_length(engine) -> None:
    numbers = random.Random(1)
    sdiv, srem = (function(engine, name, LONG, LONG, LONG) for name in ("sdiv", "srem"))
    udiv, urem = (function(engine, name, UNSIGNED, UNSIGNED, UNSIGNED) for name in ("udiv", "urem"))
    for _ in range(5000):
        a, b = (numbers.getrandbits(numbers.randint(1, 64)) for _ in range(2))
        b = b or 1
        assert (udiv(a, b), urem(a, b)) == divmod(a, b)
        a, b = LONG(a).value, LONG(b).value
        quotient = abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
        assert sdiv(a, b) == LONG(quotient).value
        assert srem(a, b) == a - quotient * b


def test_rounding_is_numpys_bit_for_bit(engine) -> None:
    numbers = np.random.default_rng(2)
    x = numbers.standard_normal(3000) * 10.0 ** numbers.integers(-3, 18, 3000)
    x = np.concatenate([x, [0.5, 1.5, 2.5, -0.5, -0.0, np.inf, -np.inf, 2.0**52 + 1, 2.0**51 + 0.5, 2.0**23 + 1]])
    round_, lower, sixth = (
        function(engine, "round", DOUBLE, DOUBLE), function(engine, "lower", DOUBLE, DOUBLE),
        function(engine, "sixth", FLOAT, FLOAT),
    )  # fmt: skip
    assert np.array([round_(v) for v in x]).tobytes() == np.rint(x).tobytes()
    assert np.array([lower(v) for v in x]).tobytes() == np.floor(x).tobytes()
    short = x.astype(np.float32)
    assert np.array([sixth(v) for v in short], np.float32).tobytes() == np.rint(short).tobytes()
    assert np.isnan(round_(np.nan))


def test_integers_become_the_nearest_float(engine) -> None:
    numbers, convert = random.Random(3), function(engine, "convert", FLOAT, LONG)
    for _ in range(3000):
        x = numbers.getrandbits(numbers.randint(1, 53)) * numbers.choice([1, -1])
        assert convert(x) == float(np.float32(x))
