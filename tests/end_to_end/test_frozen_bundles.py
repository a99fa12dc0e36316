"""Bundles written by earlier versions keep loading and keep giving the same answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from haste_runtime import Session
from haste_runtime.bundle import FORMAT_VERSION, inspect_bundle

FIXTURES = Path(__file__).parent.parent / "fixtures"
FROZEN = sorted(FIXTURES.glob("bundle_v*"))


def test_every_format_version_has_a_sample() -> None:
    assert [folder.name for folder in FROZEN] == [f"bundle_v{n}" for n in range(1, FORMAT_VERSION + 1)]


@pytest.mark.parametrize("folder", FROZEN, ids=lambda folder: folder.name)
@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_frozen_outputs(folder: Path, backend: str) -> None:
    with (
        Session(folder / "net.haste", backend, trace=True) as session,
        np.load(folder / "samples.npz") as samples,
    ):
        assert len(session.levels) == 4
        for level in session.levels:
            session.level = level.number
            y, expected = session.run(samples["x"]), samples[f"level {level.number}"]
            # Codes of the last frame. Another BLAS may round an earlier layer differently and flip one in very many.
            pairs = [(c, samples[f"level {level.number} codes {name}"]) for name, c in session.codes.items()]
            equal = [c == frozen for c, frozen in pairs]
            assert all(np.mean(e) > 0.98 for e in equal)
            if all(e.all() for e in equal):
                np.testing.assert_allclose(y, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("folder", FROZEN, ids=lambda folder: folder.name)
def test_frozen_bundles_are_sound(folder: Path) -> None:
    assert inspect_bundle(folder / "net.haste", verify=True)["classes"] == [f"class {i}" for i in range(5)]
