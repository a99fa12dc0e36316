from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def run() -> ModuleType:
    spec = importlib.util.spec_from_file_location("run_for_test", ROOT / "tools/run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_an_environment_is_made_kept_and_mended(
    run: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    environment = tmp_path / "environment"
    python = Path(run.executable(environment, "python"))
    run.prepare(environment, [])
    assert "making" in capsys.readouterr().out
    kept = environment / "kept"
    kept.touch()
    run.prepare(environment, [])
    assert capsys.readouterr().out == ""
    (environment / "ready").write_text("what was wanted before")
    run.prepare(environment, [])
    assert kept.exists(), "new requirements go into the environment that is there"
    python.unlink()  # as after an interruption, or an upgrade of the system's Python
    run.prepare(environment, [])
    assert run.works(environment)
    assert not kept.exists()


def test_what_has_to_be_installed_decides_whether_an_environment_is_up_to_date(run: ModuleType) -> None:
    assert run.fingerprint([["numpy"]]) == run.fingerprint([["numpy"]])
    assert run.fingerprint([["numpy"]]) != run.fingerprint([["numpy<2"]])


def test_a_failed_installation_stops_with_what_pip_said(run: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    pip = Path(run.executable(tmp_path, "python"))
    pip.write_text("#!/bin/sh\necho no such release\nexit 1\n")
    pip.chmod(0o755)
    with pytest.raises(SystemExit, match=r"no such release[\s\S]*Hint"):
        run.install(tmp_path, ["numpy"])


def test_counts_are_read_from_the_report_of_pytest(run: ModuleType, tmp_path: Path) -> None:
    report = tmp_path / "tests.xml"
    assert run.read_counts(report) == (0, 0, 0)
    report.write_text('<testsuites><testsuite tests="9" failures="1" errors="2" skipped="3"/></testsuites>')
    assert run.read_counts(report) == (3, 3, 3)


def test_an_unknown_option_of_test_is_refused_before_anything_is_set_up(run: ModuleType) -> None:
    with pytest.raises(SystemExit) as stopped:
        run.main(["test", "--unknown"])
    assert stopped.value.code == 2


def test_options_of_demo_reach_it(run: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(run, "prepare", lambda *_: None)
    monkeypatch.setattr(run.subprocess, "call", lambda command, **_: calls.append(command) or 7)
    assert run.main(["demo", "--limit", "50", "--help"]) == 7
    assert calls == [[run.executable(run.MAIN, "haste-edge"), "demo", "--limit", "50", "--help"]]
