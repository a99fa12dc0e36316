"""docs/steering.md says what is so: its policy has every key and is read, and its table has every signal."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from haste_runtime import signals
from haste_runtime.governor.policy import Missing, Policy, Targets, read_policy
from haste_runtime.signals.signal import Signal, Source

TEXT = (Path(__file__).resolve().parents[2] / "docs/steering.md").read_text("utf-8")


def test_the_example_policy_is_read_and_has_every_key() -> None:
    pytest.importorskip("tomllib")
    (example,) = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
    policy = read_policy(example)
    keys = set(re.findall(r"^(\w+) =", example, re.MULTILINE))
    told = {f.name for table in (Policy, Targets, Missing) for f in fields(table)} - {"rules", "targets", "missing"}
    assert keys == told | {"name", "when", "leave", "signal", "below", "dwell_s", "min_level", "max_level"}
    assert [rule.name for rule in policy.rules][:3] == ["low battery", "battery < 8", "motion"]
    assert policy.targets.latency_ms == 40
    assert policy.missing == Missing(30, 4)


def test_defaults_are_those_of_the_code() -> None:
    default, missing = Policy(), Missing()
    assert f"made; {default.period_s:g} if not given" in TEXT
    assert f"changes of level; {default.dwell_s:g} if not given" in TEXT
    assert f"hold_s ({missing.hold_s:g} if not given)" in TEXT


def test_every_signal_is_listed() -> None:
    for name in signals.__all__:
        found = getattr(signals, name)
        if name not in ("Reading", "Source", "Signal"):
            assert f"`{name}(" in TEXT, name
        if isinstance(found, type) and issubclass(found, Source) and found not in (Source, Signal):
            assert re.search(rf"^\| `{name}\(", TEXT, re.MULTILINE), f"{name} has no row"


def test_linked_files_exist() -> None:
    named = re.findall(r"`((?:tests|docs)/[\w/.]+)`", TEXT)
    assert named
    assert all((Path(__file__).resolve().parents[2] / name).exists() for name in named)
