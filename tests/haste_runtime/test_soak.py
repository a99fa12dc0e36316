"""``haste-run bench --soak``: rows as they come, and nothing lost however it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from builders import bundle_for, random_network
from waiting import eventually, heed_ctrl_c

from haste_runtime import cli
from haste_runtime.bundle import write_bundle
from haste_runtime.cli import soak, system


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HASTE_DEBUG", raising=False)
    write_bundle("net.haste", bundle_for(random_network(3)))
    return tmp_path


def lines(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


COMMAND = ["bench", "net.haste", "--backend", "numpy"]


def test_a_row_for_every_span(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    soaked = [*COMMAND, "--soak", "0.5s", "--every", "0.2s", "--levels", "2", "--out", "rows.jsonl", "--json"]
    assert cli.run(soaked) == 0
    answer = json.loads(capsys.readouterr().out)
    rows = answer["rows"]
    assert answer["complete"]
    assert (answer["haste_soak"], answer["seconds"], answer["every"], answer["backend"]) == (1, 0.5, 0.2, "numpy")
    assert 1 <= len(rows) <= 3
    assert rows[-1]["at"] >= 0.5
    for row in rows:
        assert row["frames"] > 0
        assert 0 < row["ms"]["p50"] <= row["ms"]["p90"]
        assert row["level"] == row["mean_level"] == 2
        assert set(row) == {
            *("at", "seconds", "frames", "ms", "level", "mean_level", "celsius", "mhz", "held_back", "memory_mb")
        }
    head, *written = lines("rows.jsonl")
    assert written == rows
    assert head["bundle"] == "net.haste"


def test_the_cadence_is_kept_and_the_table_is_for_people(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([*COMMAND, "--soak", "0.4s", "--fps", "10"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert len(table) == 3
    assert int(table[2].split()[2]) <= 6


def test_what_the_computer_tells_is_in_the_row(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "temperature", lambda: {"zone": "cpu", "celsius": 61.5})
    monkeypatch.setattr(system, "throttling", lambda: {"now": ["throttled"]})
    row = soak._machine()
    assert (row["celsius"], row["held_back"]) == (61.5, ["throttled"])
    assert "61.5 °C" in soak._line({"at": 60.0, "frames": 3, "ms": {"p50": 1.0, "p90": 2.0}, "mean_level": 1.0, **row})


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_is_that_of_this_process(tmp_path: Path) -> None:
    before = system.resident_memory_mb()
    block = bytearray(os.urandom(1024) * 50_000)
    after = system.resident_memory_mb()
    assert before is not None
    assert after is not None
    assert after - before > 0.8 * len(block) / 1e6
    assert system.resident_memory_mb(tmp_path) is None


def test_a_policy_steers_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tomllib")
    Path("p.toml").write_text("period_s = 0.02\ndwell_s = 0.02\nmin_level = 3\n")
    assert cli.run([*COMMAND, "--soak", "0.5s", "--every", "0.25s", "--policy", "p.toml", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["rows"][-1]["level"] == 3


def test_a_full_disk_ends_the_file_and_not_the_soak(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    assert cli.run([*COMMAND, "--soak", "0.1s", "--every", "0.05s", "--out", "/dev/full", "--json"]) == 0
    printed = capsys.readouterr()
    assert "/dev/full ends here" in printed.err
    assert json.loads(printed.out)["rows"]


def start(folder: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "haste_runtime.cli", *COMMAND, "--soak", "10m", "--every", "0.1s"]
    return subprocess.Popen(
        [*command, "--out", "rows.jsonl", *more],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_ctrl_c,
    )


def wait_for_rows(path: Path) -> None:
    eventually(lambda: path.exists() and path.read_text().count("\n") >= 3, 60)


def test_interrupted_it_tells_what_it_has(folder: Path) -> None:
    with start(folder, "--json") as process:
        wait_for_rows(folder / "rows.jsonl")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    answer = json.loads(out)
    assert not answer["complete"]
    assert answer["rows"] == lines("rows.jsonl")[1:]
    assert "all rows are in rows.jsonl" in err


def test_killed_it_leaves_its_rows_and_they_can_be_drawn(folder: Path) -> None:
    with start(folder) as process:
        wait_for_rows(folder / "rows.jsonl")
        process.kill()
    written = Path("rows.jsonl").read_text()
    assert written.count("\n") >= 3
    Path("rows.jsonl").write_text(written + '{"at": 1')  # and what was cut in the middle does not matter
    pytest.importorskip("matplotlib")
    assert cli.run(["plot", "rows.jsonl", "-o", "soak.svg"]) == 0
    assert "<svg" in Path("soak.svg").read_text()


def test_the_plot_goes_with_it(folder: Path) -> None:
    pytest.importorskip("matplotlib")
    assert cli.run([*COMMAND, "--soak", "0.1s", "--plot", "soak.png"]) == 0
    assert Path("soak.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--soak", "0s"], 2, "A soak of no time"),
        (["--soak", "1s", "--levels", "0,1"], 2, "are 2 levels"),
        (["--soak", "1s", "--out", "nowhere/rows.jsonl"], 2, "cannot be written"),
        (["--soak", "1s", "--plot", "soak.txt"], 2, "does not say what kind of picture"),
        (["--policy", "p.toml"], 2, "--policy goes with --soak"),
        (["--out", "x"], 2, "--out goes with --soak"),
    ],
)
def test_what_makes_no_sense(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    assert cli.run([*COMMAND, *arguments]) == code
    assert message in capsys.readouterr().err


def test_times_are_written_with_units(folder: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.run([*COMMAND, "--soak", "soon"])
    assert caught.value.code == 2
