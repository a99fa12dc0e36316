"""Bundles of older format versions: what they lack has its default, and everything else is as today."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from builders import alike_channels, bundle_for, random_network
from bundle_parts import (
    as_version_1,
    as_version_2,
    as_version_3,
    as_version_4,
    change,
    put_together,
    refused,
    take_apart,
    with_manifest,
)

from haste_runtime import bundle_errors as e
from haste_runtime.bundle import FORMAT_VERSION, inspect_bundle, read_bundle, write_bundle
from haste_runtime.bundle_container import seal
from haste_runtime.preprocessing import Preprocessing
from haste_runtime.session import Session


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file of today's version with nothing in it that version 1 could not hold."""
    path = tmp_path_factory.mktemp("newer") / "net.haste"
    write_bundle(path, bundle_for(random_network(3), patch=(2, 4), bits=9))
    return path.read_bytes()


@pytest.fixture
def older(newer: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "older.haste"
    path.write_bytes(as_version_1(newer))
    return path


def test_version_1_is_read(newer: bytes, older: Path, tmp_path: Path) -> None:
    (tmp_path / "newer.haste").write_bytes(newer)
    ours, today = read_bundle(older), read_bundle(tmp_path / "newer.haste")
    assert (ours.format_version, today.format_version) == (1, FORMAT_VERSION)
    assert ours.plan == today.plan
    assert replace(ours.graph, constants={}) == replace(today.graph, constants={})
    assert ours.importance == {}
    for variant in ours.plan.layer("strided").variants:
        assert (variant.policy, variant.importance) == ("mean", "")
    for level in ours.plan.levels:
        assert level.agreement is None
        assert {choice.budget for choice in level.choices.values()} <= {0.0}
    summary = inspect_bundle(older, verify=True)
    assert summary["format_version"] == 1
    assert [level["agreement"] for level in summary["levels"]] == [None] * 4
    assert summary["bytes"]["importance"] == 0


def test_version_1_runs_as_ever(newer: bytes, older: Path, tmp_path: Path) -> None:
    (tmp_path / "newer.haste").write_bytes(newer)
    with Session(older, "numpy", trace=True) as old, Session(tmp_path / "newer.haste", "numpy", trace=True) as new:
        x = alike_channels(np.random.default_rng(0), (1, *old.bundle.graph.inputs[0].shape))
        assert old.levels == new.levels
        for level in range(len(old.levels)):
            old.level = new.level = level
            assert np.array_equal(old.run(x), new.run(x))
            assert set(old.codes) == set(old.groups) == set(new.codes)
            for name, leaders in old.groups.items():
                assert np.array_equal(leaders, new.groups[name])


def test_version_1_is_written_as_today(newer: bytes, older: Path, tmp_path: Path) -> None:
    write_bundle(tmp_path / "again.haste", read_bundle(older))
    assert (tmp_path / "again.haste").read_bytes() == newer


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_version_2_is_read_and_written_as_today(tmp_path: Path, dtype: str) -> None:
    bundle = bundle_for(random_network(3), (2, 4), 9, policy=("budget", "scaled"), dtype=dtype)
    write_bundle(tmp_path / "newer.haste", bundle)
    newer = (tmp_path / "newer.haste").read_bytes()
    (tmp_path / "older.haste").write_bytes(as_version_2(newer))
    ours = read_bundle(tmp_path / "older.haste")
    assert (ours.format_version, ours.dtype, ours.plan) == (2, dtype, bundle.plan)
    for layer in ours.plan.layers:
        assert {layer.algorithm, *(variant.algorithm for variant in layer.variants)} == {"direct"}
    assert inspect_bundle(tmp_path / "older.haste", verify=True)["format_version"] == 2
    write_bundle(tmp_path / "again.haste", ours)
    assert (tmp_path / "again.haste").read_bytes() == newer


def test_version_3_merges_whatever_is_kept(tmp_path: Path) -> None:
    bundle = bundle_for(random_network(3), (2, 4), 9, dense_above=0.5)
    write_bundle(tmp_path / "newer.haste", bundle)
    assert read_bundle(tmp_path / "newer.haste").plan == bundle.plan
    (tmp_path / "older.haste").write_bytes(as_version_3((tmp_path / "newer.haste").read_bytes()))
    ours = read_bundle(tmp_path / "older.haste")
    assert (ours.format_version, ours.plan) == (3, bundle_for(random_network(3), (2, 4), 9).plan)


def test_version_4_covers_the_input_with_whole_pictures(tmp_path: Path) -> None:
    bundle = bundle_for(random_network(3), (2, 4), 9)
    other = replace(bundle, preprocessing=Preprocessing(fit="contain", fill=114.0))
    write_bundle(tmp_path / "newer.haste", other)
    assert read_bundle(tmp_path / "newer.haste").preprocessing == other.preprocessing
    (tmp_path / "older.haste").write_bytes(as_version_4((tmp_path / "newer.haste").read_bytes()))
    ours = read_bundle(tmp_path / "older.haste")
    assert (ours.format_version, ours.preprocessing) == (4, Preprocessing())


OLDER = {1: as_version_1, 2: as_version_2, 3: as_version_3, 4: as_version_4}


@pytest.mark.parametrize(
    ("version", "keys"),
    [
        (1, "plan.layers.0.variants.0.importance"),
        (1, "ladder.1.agreement"),
        (1, "ladder.1.choices.stem.budget"),
        (1, "plan.layers.0.algorithm"),
        (2, "plan.layers.0.algorithm"),
        (2, "plan.layers.0.variants.0.algorithm"),
        (3, "plan.layers.0.variants.0.dense_above"),
        (4, "preprocessing.fit"),
        (4, "preprocessing.crop"),
        (4, "preprocessing.fill"),
    ],
)
def test_older_versions_know_no_newer_key(newer: bytes, tmp_path: Path, version: int, keys: str) -> None:
    header, manifest, data = take_apart(OLDER[version](newer))
    change(manifest, keys, {"importance": "", "algorithm": "direct"}.get(keys.rpartition(".")[2], 0.0))
    error = refused(tmp_path / "net.haste", put_together(header, {"haste": seal(manifest)}, data))
    assert type(error) is e.ManifestError
    assert f"has unknown keys ['{keys.rpartition('.')[2]}']" in error.message


def test_policies_in_version_1(older: Path, tmp_path: Path) -> None:
    """Names of policies are open in every version, but one that needs more than version 1 holds cannot be in it."""
    data, policy = older.read_bytes(), "plan__layers__0__variants__0__policy"
    (tmp_path / "scaled.haste").write_bytes(with_manifest(data, **{policy: "scaled"}))
    assert read_bundle(tmp_path / "scaled.haste").plan.layers[0].variants[0].policy == "scaled"
    error = refused(tmp_path / "net.haste", with_manifest(data, **{policy: "budget"}))
    assert type(error) is e.PlanError
    assert "policy 'budget', with importance ''" in error.message
    assert type(refused(tmp_path / "net.haste", with_manifest(data, **{policy: "median"}))) is e.UnsupportedError
