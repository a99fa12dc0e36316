"""``haste-run replay``: the same decisions with the same policy, the differences with another."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from haste_runtime import cli
from haste_runtime.governor.decide import State, decide
from haste_runtime.governor.policy import read_policy
from haste_runtime.governor.trace import TraceWriter
from haste_runtime.signals.scripted import Scripted

POLICY = {"dwell_s": 2, "rules": [{"signal": "battery", "below": 20, "leave": 25, "min_level": 2}]}
OTHER = '[[rules]]\nwhen = "battery < 15"\nmin_level = 4\n'


@pytest.fixture
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A minute of a battery at 50, 18, 10 and 40 percent, a quarter of a minute each, and a policy beside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HASTE_DEBUG", raising=False)
    policy, battery = read_policy(POLICY), Scripted("battery", [(0, 50), (15, 18), (30, 10), (45, 40)], "%")
    state = State.start(policy, 0, [1.0, 0.9, 0.8, 0.7, 0.6])
    writer = TraceWriter("trace.jsonl", policy, state)
    for second in range(60):
        readings = battery.readings(1000.0 + second)
        decision = decide(policy, state, readings, 1000.0 + second)
        state = decision.state
        writer.add(1000.0 + second, readings, decision)
    writer.close()
    (tmp_path / "other.toml").write_text(OTHER)
    return tmp_path


def test_the_same_policy_decides_the_same(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["replay", "trace.jsonl"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "      0.0 s  level 0          no rule and no target asks for more",
        "     15.0 s  level 2          battery 18 % is below 20 %: at least level 2",
        "     45.0 s  level 0          battery 40 % is not below 20 %",
    ]
    assert lines[-1] == "All decisions are the same."
    assert lines[-3] == "recorded:  mean level 1, changes 2, highest 2"


def test_another_policy_differs(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["replay", "trace.jsonl", "--policy", "other.toml"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "     15.0 s  level 0, was 2   no rule and no target asks for more" in lines
    assert "     30.0 s  level 4, was 2   battery 10 % is below 15 %: at least level 4" in lines
    assert lines[-1] == "30 of 60 decisions differ."

    assert cli.run(["replay", "trace.jsonl", "--policy", "other.toml", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["decisions"] == 60
    assert answer["different"] == len(answer["differences"]) == 30
    assert answer["again"] == {"mean_level": 1.0, "changes": 2, "highest": 4}
    assert answer["differences"][0]["at"] == 15
    assert answer["seconds"] == 59


def test_what_cannot_be_replayed(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (trace / "empty.jsonl").write_text((trace / "trace.jsonl").read_text().splitlines()[0] + "\n")
    for arguments, code, message in [
        (["replay", "nothing.jsonl"], 3, "cannot be read"),
        (["replay", "other.toml"], 3, "not JSON lines"),
        (["replay", "empty.jsonl"], 2, "holds no decision"),
        (["replay", "trace.jsonl", "--policy", "nothing.toml"], 2, "cannot be read"),
    ]:
        assert cli.run(arguments) == code
        printed = capsys.readouterr()
        assert message in printed.err
        assert printed.out == ""
