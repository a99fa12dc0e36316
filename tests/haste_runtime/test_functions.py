"""exp, tanh and their like as the kernels compute them, run as plain Python: how far they are from the truth."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest

from haste_runtime.attributes import UNARY
from haste_runtime.reference_elementwise import UNARY_FUNCTIONS, unary

Computed = dict[str, tuple[np.ndarray, np.ndarray]]

POINTS = 4096
LIMITS = {
    "leaky_relu": (0.1, 0.0), "elu": (1.5, 0.0), "clip": (-3.0, 4.0), "hard_sigmoid": (0.2, 0.5),
    "hard_swish": (1 / 6, 0.5),
}  # fmt: skip
RANGES = {
    "exp": (-87, 88), "exp everywhere": (-200, 200), "logarithm": (1.0001, 1000), "tanh": (-12, 12), "erf": (-5, 5),
    "sqrt": (0.01, 30), "reciprocal": (0.01, 30),
}  # fmt: skip

PLAIN = f"""
import sys
import numpy as np
from haste_runtime.kernels import functions, layout
limits, ranges, points, width = {LIMITS}, {RANGES}, {POINTS}, functions.simd.W
found = {{}}
for name in {sorted({*RANGES, *UNARY})}:
    x = np.linspace(*ranges.get(name, (-30, 30)), points, dtype=np.float32)
    y = np.empty_like(x)
    function, (alpha, beta) = name.split()[0], map(np.float32, limits.get(name, (0, 0)))
    for i in range(0, points, width):
        lanes = slice(i, i + width)
        if function in ("erf", "logarithm"):
            y[lanes] = getattr(functions, function)(x[lanes])
        else:
            y[lanes] = functions.apply(x[lanes], getattr(layout, function.upper()), alpha, beta)
    found[name] = np.stack([x, y])
np.savez(sys.argv[1], **found)
"""


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory) -> Computed:
    """By name x and the function of x, from another process in which nothing is compiled."""
    path = tmp_path_factory.mktemp("functions") / "found.npz"
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1", "HASTE_LANES": "16", "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-W", "ignore", "-c", PLAIN, str(path)], env=environment, check=True)
    with np.load(path) as found:
        return {name: tuple(found[name]) for name in found}


@pytest.mark.parametrize(
    ("function", "exact", "relative", "most"),
    [
        ("exp", math.exp, True, 2e-7),
        ("logarithm", math.log, False, 6e-7),
        ("tanh", math.tanh, True, 4e-7),
        ("erf", math.erf, False, 4e-7),
    ],
)
def test_errors_are_as_stated(
    computed: Computed, function: str, exact: Callable[[float], float], relative: bool, most: float
) -> None:
    x, y = computed[function]
    wanted = np.array([exact(float(v)) for v in x])
    error = np.abs(y - wanted) / (np.abs(wanted) if relative else 1)
    assert most / 20 < error.max() <= most


def test_exp_ends_in_zero_and_infinity(computed: Computed) -> None:
    x, y = computed["exp everywhere"]
    assert y[x < -104].max() == 0
    assert np.isinf(y[x > 89]).all()
    assert np.isfinite(y[x < 88.7]).all()


@pytest.mark.parametrize("function", UNARY)
def test_every_function_is_near_its_definition(computed: Computed, function: str) -> None:
    x, y = computed[function]
    alpha, beta = LIMITS.get(function, (0.0, 0.0))
    expected = unary(x, function=function, alpha=alpha, beta=beta)
    assert np.abs(y - expected).max() <= 3e-7 * np.abs(expected).max()


def test_there_is_a_function_for_each_name() -> None:
    assert tuple(UNARY_FUNCTIONS) == UNARY
