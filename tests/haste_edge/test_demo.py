"""The demo: its files, and the whole path with weights that are not trained."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from haste_edge import cli, demo
from haste_edge.demo.network import network
from haste_runtime.bundle import inspect_bundle


def test_the_pictures_of_the_demo_are_500_of_ten_classes() -> None:
    x, y = demo.images()
    assert (x.shape, x.dtype) == ((500, 32, 32, 3), np.uint8)
    np.testing.assert_array_equal(np.bincount(y), [50] * 10)
    assert 80 < x.mean() < 160


def test_a_missing_file_of_the_demo_is_an_error_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "files", lambda package: tmp_path)
    for path in (demo.weights_path, demo.images_path):
        with pytest.raises(demo.DemoError, match=r"not in the package") as missing:
            path()
        assert "tools/" in missing.value.hint


@pytest.mark.slow
def test_the_demo_compiles_measures_and_plots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    state = {key: value for key, value in network().state_dict().items() if value.is_floating_point()}
    save_file(state, tmp_path / "random.safetensors")
    out = tmp_path / "out"
    arguments = ("--out", str(out), "--limit", "4", "--levels", "4", "--weights", str(tmp_path / "random.safetensors"))
    monkeypatch.setattr(sys, "argv", ["haste-edge", "demo", *arguments, "--json"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 0
    about = json.loads(capfd.readouterr().out)
    assert len(about["levels"]) == 5
    assert all(row["frames"] == 4 and 0 <= row["top1"] <= 100 for row in about["levels"])
    assert sorted(path.name for path in out.iterdir()) == ["accuracy.png", "demo.haste"]
    assert Path(about["plot"]).read_bytes().startswith(b"\x89PNG")
    assert inspect_bundle(about["bundle"])["classes"][3] == "cat"
