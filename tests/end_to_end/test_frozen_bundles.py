"""Bundles written by earlier versions keep loading and keep giving the same answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from haste_runtime import Session
from haste_runtime.bundle import FORMAT_VERSION, inspect_bundle
from haste_runtime.plan import POLICIES

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
        assert len(session.levels) == {"bundle_v1": 4, "bundle_v4": 9, "bundle_v5": 9}.get(folder.name, 7)
        for level in session.levels:
            session.level = level.number
            y, expected = session.run(samples["x"]), samples[f"level {level.number}"]
            # Of the last frame. Another BLAS may round an earlier layer differently and flip one in very many.
            traced = [key.split(" ") for key in samples if key.startswith(f"level {level.number} ")]
            assert len(traced) == len(session.codes) * (1 if folder.name == "bundle_v1" else 2)
            equal = [
                getattr(session, what)[name] == samples[f"level {level.number} {what} {name}"]
                for *_, what, name in traced
            ]
            assert all(np.mean(e) > 0.98 for e in equal)
            if all(e.all() for e in equal):
                np.testing.assert_allclose(y, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("folder", FROZEN, ids=lambda folder: folder.name)
def test_frozen_bundles_are_sound(folder: Path) -> None:
    summary = inspect_bundle(folder / "net.haste", verify=True)
    assert f"bundle_v{summary['format_version']}" == folder.name
    assert summary["classes"] == [f"class {i}" for i in range(5)]


@pytest.mark.parametrize("folder", FROZEN, ids=lambda folder: folder.name)
def test_frozen_plans(folder: Path) -> None:
    """What a version can say is in its sample, and what it can't is read as unknown."""
    summary = inspect_bundle(folder / "net.haste")
    policies = {variant["policy"] for layer in summary["layers"] for variant in layer["variants"]}
    budgets = {choice["budget"] for level in summary["levels"] for choice in level["choices"].values()}
    agreements = [level["agreement"] for level in summary["levels"]]
    agreed = [100.0, None, 99.5, 98.0, 95.0, 90.0, 80.5]
    later = {"mean", "scaled", "budget"}, {0.0, 0.1, 0.75}, agreed
    planned = [plan for layer in summary["layers"] for plan in (layer, *layer["variants"])]
    direct, every = {"direct"}, {"direct", "winograd2", "winograd4"}
    assert (summary["dtype"], {plan["algorithm"] for plan in planned}, policies, budgets, agreements) == {
        "bundle_v1": ("fp16", direct, {"mean"}, {0.0}, [None] * 4),
        "bundle_v2": ("fp16", direct, *later),
        "bundle_v3": ("int8", every, *later),
        "bundle_v4": ("int8", every, set(POLICIES), {0.0, 0.1, 0.3, 1.0, 0.75}, [*agreed, 70.0, 60.0]),
        "bundle_v5": ("int8", every, set(POLICIES), {0.0, 0.1, 0.3, 1.0, 0.75}, [*agreed, 70.0, 60.0]),
    }[folder.name]
    shares = {variant["dense_above"] for layer in summary["layers"] for variant in layer["variants"]}
    assert shares == ({0.25, 0.5, 0.75} if folder.name >= "bundle_v4" else {1.0})
    preprocessing = [summary["preprocessing"][key] for key in ("fit", "crop", "fill")]
    assert preprocessing == (["contain", 1.0, 114.0] if folder.name >= "bundle_v5" else ["cover", 1.0, 0.0])
