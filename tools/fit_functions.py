"""Coefficients of the polynomials in `haste_runtime.kernels.functions`, and how far off they are.

    python tools/fit_functions.py

Each polynomial is fitted at Chebyshev's points, by least squares of the relative error, in double precision; what is
printed are the coefficients as float32, lowest first, and the largest error of the polynomial with these.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.polynomial import Polynomial
from numpy.typing import NDArray

POINTS = 4000


class Fit(NamedTuple):
    """``function`` is approximated on low .. high by a polynomial of ``degree``. relative: of what the error is a
    share, as a function of x."""

    name: str
    function: Callable[[float], float]
    low: float
    high: float
    degree: int
    relative: Callable[[float], float]


def _tanh_over_x(square: float) -> float:
    x = math.sqrt(square)
    return math.tanh(x) / x if x else 1.0


def _erf_over_x(square: float) -> float:
    x = math.sqrt(square)
    return math.erf(x) / x if x else 2 / math.sqrt(math.pi)


def _log_remainder(x: float) -> float:
    """(log(1 + x) - x) / x^2"""
    if abs(x) < 1e-3:
        return sum((-1) ** (k + 1) / k * x ** (k - 2) for k in range(2, 9))
    return (math.log1p(x) - x) / (x * x)


HALF_LN2 = math.log(2) / 2
FITS = (
    Fit("EXP", lambda x: math.exp(x), -HALF_LN2, HALF_LN2, 6, math.exp),
    Fit("TANH", _tanh_over_x, 0.0, 0.625**2, 5, _tanh_over_x),
    Fit("ERF", _erf_over_x, 0.0, 1.0, 7, _erf_over_x),
    Fit("ERFC", lambda x: -math.log(math.erfc(x)), 1.0, 4.0, 8, lambda x: min(1.0, math.log(2) / math.erfc(x))),
    Fit("LOG", _log_remainder, math.sqrt(0.5) - 1, math.sqrt(2) - 1, 8, lambda x: 1 / (x * x + 0.05)),
)


def coefficients(fit: Fit) -> NDArray[np.float32]:
    middle, half = (fit.high + fit.low) / 2, (fit.high - fit.low) / 2
    x = middle + half * np.cos(np.pi * (np.arange(POINTS) + 0.5) / POINTS)
    y, weight = (np.array([f(v) for v in x]) for f in (fit.function, fit.relative))
    return Polynomial.fit(x, y, fit.degree, w=1 / weight).convert().coef.astype(np.float32)


def main() -> None:
    for fit in FITS:
        found = coefficients(fit)
        x = np.linspace(fit.low, fit.high, POINTS)
        wanted, weight = (np.array([f(v) for v in x]) for f in (fit.function, fit.relative))
        error = np.abs((Polynomial(found.astype(np.float64))(x) - wanted) / weight).max()
        print(f"{fit.name} = {', '.join(repr(float(c)) for c in found)}  # {error:.1e}")


if __name__ == "__main__":
    main()
