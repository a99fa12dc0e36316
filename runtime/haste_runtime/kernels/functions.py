"""exp, tanh and their like on vectors, by polynomials that `tools/fit_functions.py` finds.

No function of the C library is called, and every operation is exact or rounded once, so the same bytes come out on
every CPU and at every vector width. Errors, as measured by tests/haste_runtime/test_functions.py: `exp` and
`tanh` are within 2e-7 and 4e-7 of the result, `logarithm` of numbers from 1 to 1000 within 6e-7, `erf` within 4e-7.
"""

from __future__ import annotations

import math

import numpy as np

from haste_runtime.kernels import layout as t
from haste_runtime.kernels.jit import kernel, simd

f32 = np.float32
fill, fma, scale = simd.vector_fill, simd.vector_fma, simd.vector_scale
add, subtract, multiply, divide = simd.vector_add, simd.vector_subtract, simd.vector_multiply, simd.vector_divide
larger, smaller, where_below = simd.vector_larger, simd.vector_smaller, simd.vector_where_below
absolute, with_sign, power_of_two = simd.vector_absolute, simd.vector_with_sign, simd.vector_power_of_two
polynomial = simd.vector_polynomial

ZERO, HALF, ONE, TWO, MINUS_ONE = f32(0), f32(0.5), f32(1), f32(2), f32(-1)
LOG2_E = f32(1 / math.log(2))
LN2_HIGH = f32(0.693359375)  # few bits, so that products with small whole numbers are exact
LN2_LOW = f32(math.log(2) - 0.693359375)
LOWEST, HIGHEST = f32(-104), f32(89)  # beyond these exp is 0 and infinite
TANH_LIMIT, ERF_LIMIT, ERFC_LIMIT = f32(0.625), f32(1), f32(4)
ROOT_HALF = f32(math.sqrt(0.5))
GELU_FACTOR, GELU_CUBIC = f32(math.sqrt(2 / math.pi)), f32(0.044715)
MISH_LIMIT = f32(20)  # from here on mish(x) is x

EXP = tuple(map(f32, (1.0, 1.0, 0.49999991059303284, 0.1666642129421234, 0.0416683591902256, 0.008374771103262901,
                      0.0013829420786350965)))  # fmt: skip
TANH = tuple(map(f32, (1.0, -0.3333325982093811, 0.13331091403961182, -0.053718484938144684, 0.020583489909768105,
                       -0.005652355495840311)))  # fmt: skip
ERF = tuple(map(f32, (1.128379225730896, -0.37612637877464294, 0.11283782124519348, -0.026865392923355103,
                      0.0052209231071174145, -0.0008482507546432316, 0.00011254641140112653,
                      -9.63499132922152e-06)))  # fmt: skip
ERFC = tuple(map(f32, (-0.0003032129898201674, 1.1301666498184204, 0.6319370865821838, 0.10997824370861053,
                       -0.02636471763253212, 0.004740222357213497, -0.0005927695310674608, 4.559062290354632e-05,
                       -1.6140616025950294e-06)))  # fmt: skip
LOG = tuple(map(f32, (-0.4999999403953552, 0.333333283662796, -0.2500113844871521, 0.20001466572284698,
                      -0.16617164015769958, 0.14195434749126434, -0.13200196623802185, 0.12808193266391754,
                      -0.07596085220575333)))  # fmt: skip


@kernel
def exp(x):
    """2^n e^r: n is the whole number nearest to x / ln 2. Two powers of two, for 2^n alone may be no normal number."""
    x = smaller(larger(x, fill(LOWEST)), fill(HIGHEST))
    n = simd.vector_round(scale(x, LOG2_E))
    r = fma(fma(x, n, fill(-LN2_HIGH)), n, fill(-LN2_LOW))
    half = simd.vector_round(scale(n, HALF))
    return multiply(multiply(polynomial(r, EXP), power_of_two(half)), power_of_two(subtract(n, half)))


@kernel
def logarithm(x):
    """Of positive normal numbers."""
    m = subtract(simd.vector_mantissa(x), fill(ONE))
    n = simd.vector_exponent(x)
    small = fma(multiply(n, fill(LN2_LOW)), multiply(m, m), polynomial(m, LOG))
    return fma(add(small, m), n, fill(LN2_HIGH))


@kernel
def sigmoid(x):
    return divide(fill(ONE), add(fill(ONE), exp(scale(x, MINUS_ONE))))


@kernel
def tanh(x):
    size = absolute(x)
    near = multiply(x, polynomial(multiply(x, x), TANH))
    far = subtract(fill(ONE), divide(fill(TWO), add(exp(scale(size, TWO)), fill(ONE))))
    return where_below(size, fill(TANH_LIMIT), near, with_sign(far, x))


@kernel
def erf(x):
    """x P(x^2) up to 1, then 1 - e^-Q(x)."""
    size = smaller(absolute(x), fill(ERFC_LIMIT))
    near = multiply(x, polynomial(multiply(size, size), ERF))
    far = subtract(fill(ONE), exp(scale(polynomial(size, ERFC), MINUS_ONE)))
    return where_below(size, fill(ERF_LIMIT), near, with_sign(far, x))


@kernel
def ramp(x, alpha, beta):
    """min(max(alpha x + beta, 0), 1)"""
    return simd.vector_clip(add(scale(x, alpha), fill(beta)), ONE)


@kernel
def softplus(x):
    """log(1 + e^x), without an e^x that overflows."""
    small = exp(scale(absolute(x), MINUS_ONE))
    return add(larger(x, fill(ZERO)), logarithm(add(fill(ONE), small)))


@kernel
def mish(x):
    """x tanh(log(1 + e^x)) = x (e^2x + 2 e^x) / (e^2x + 2 e^x + 2)"""
    e = exp(smaller(x, fill(MISH_LIMIT)))
    both = multiply(e, add(e, fill(TWO)))
    return multiply(x, divide(both, add(both, fill(TWO))))


@kernel
def gelu(x):
    return multiply(scale(x, HALF), add(fill(ONE), erf(scale(x, ROOT_HALF))))


@kernel
def gelu_tanh(x):
    cube = multiply(multiply(x, x), x)
    inner = scale(add(x, scale(cube, GELU_CUBIC)), GELU_FACTOR)
    return multiply(scale(x, HALF), add(fill(ONE), tanh(inner)))


@kernel
def piecewise(x, function, alpha, beta):
    """The functions without a polynomial."""
    if function == t.LEAKY_RELU:
        return where_below(x, fill(ZERO), scale(x, alpha), x)
    if function == t.CLIP:
        return smaller(larger(x, fill(alpha)), fill(beta))
    if function == t.HARD_SIGMOID:
        return ramp(x, alpha, beta)
    if function == t.HARD_SWISH:
        return multiply(x, ramp(x, alpha, beta))
    if function == t.SQRT:
        return simd.vector_square_root(x)
    if function == t.ABSOLUTE:
        return absolute(x)
    if function == t.NEGATIVE:
        return scale(x, MINUS_ONE)
    return divide(fill(ONE), x)  # RECIPROCAL


@kernel
def apply(x, function, alpha, beta):
    """What `haste_runtime.reference_elementwise.unary` defines, on a vector."""
    if function == t.SIGMOID:
        return sigmoid(x)
    if function == t.SILU:
        return multiply(x, sigmoid(x))
    if function == t.TANH:
        return tanh(x)
    if function == t.EXP:
        return exp(x)
    if function == t.GELU:
        return gelu(x)
    if function == t.GELU_TANH:
        return gelu_tanh(x)
    if function == t.SOFTPLUS:
        return softplus(x)
    if function == t.MISH:
        return mish(x)
    if function == t.ELU:
        below = scale(subtract(exp(smaller(x, fill(ZERO))), fill(ONE)), alpha)
        return where_below(x, fill(ZERO), below, x)
    return piecewise(x, function, alpha, beta)
