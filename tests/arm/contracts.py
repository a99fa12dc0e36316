"""What compiled code and numpy promise on ARM, against what the host has computed (`cases`). Run under emulation.

HASTE_ARM_CASES is the host's folder. Named so that pytest does not collect it by itself: tests/packaging/test_arm.py
starts it.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path

import numpy as np
import pytest
from run_levels import run_levels

CASES = Path(os.environ["HASTE_ARM_CASES"])
ABOUT = json.loads((CASES / "cases.json").read_text())
TOLERANCE = 1e-4  # of the largest expected output


def close(found: np.ndarray, expected: np.ndarray, name: str) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max(), err_msg=name)


def test_this_is_arm() -> None:
    assert platform.machine() in ("aarch64", "armv7l")
    assert sys.byteorder == "little"


@pytest.mark.parametrize("name", ABOUT)
def test_compiled_code_gives_the_hosts_bytes(name: str, tmp_path: Path) -> None:
    """The frame contract: outputs, codes and groups of every level, byte for byte, also by Winograd's algorithms."""
    run_levels(CASES / f"{name}.haste", CASES / f"{name}.x.npz", tmp_path / "found.npz", "native")
    with np.load(tmp_path / "found.npz") as found, np.load(CASES / f"{name}.numba.npz") as expected:
        assert set(found) == set(expected)
        differ = [key for key in expected if found[key].tobytes() != expected[key].tobytes()]
        assert not differ


@pytest.mark.parametrize("name", ABOUT)
def test_numpy_computes_what_it_computes_on_the_host(name: str, tmp_path: Path) -> None:
    """The layer contract: from the same input the same groups. Where a layer reads another's output, whose last digits
    depend on numpy's BLAS, level 0 alone must agree."""
    run_levels(CASES / f"{name}.haste", CASES / f"{name}.x.npz", tmp_path / "found.npz", "numpy")
    with np.load(tmp_path / "found.npz") as found, np.load(CASES / f"{name}.numpy.npz") as expected:
        assert set(found) == set(expected)
        for key in expected:
            exact = "/output/" not in key
            if not ABOUT[name]["same"] and not key.startswith("0/"):
                assert found[key].shape == expected[key].shape
                assert np.isfinite(found[key]).all()
            elif exact:
                np.testing.assert_array_equal(found[key], expected[key], err_msg=key)
            else:
                close(found[key], expected[key], key)
        answers = [key for key in expected if key.endswith("/output/logits")]
        same = [(found[key].argmax(1) == expected[key].argmax(1)).mean() for key in answers]
        assert not answers or np.mean(same) >= 0.9
