"""Simulated days: the physics by its own laws, the level by the governor's own decisions, and the command."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders import bundle_for, random_network
from hypothesis import given, settings
from hypothesis import strategies as st

from haste_runtime import cli
from haste_runtime.bundle import write_bundle
from haste_runtime.governor.decide import State
from haste_runtime.governor.policy import Policy, read_policy
from haste_runtime.governor.trace import TraceWriter, replay
from haste_runtime.simulation.board import Board, clock, step
from haste_runtime.simulation.day import Scenario, simulate
from haste_runtime.simulation.device import BOUNDS, DeviceError, list_devices, load_device
from haste_runtime.simulation.ladder import Ladder, TimesError, ladder_calibrated
from haste_runtime.simulation.sensitivity import changes, sensitivity

PI = load_device("rpi4")
LADDER = Ladder((200.0, 150.0, 100.0), (100.0, 98.0, 90.0), 1, "made up")
TIMES = {
    "cpu": {"model": "made up"},
    "backend": "numpy",
    "threads": 1,
    "levels": [
        {"level": n, "inference_ms": {"median": ms}, "flops_reduction_network": 25.0 * n, "agreement": agreement}
        for n, (ms, agreement) in enumerate(zip(LADDER.ms, LADDER.agreement, strict=True))
    ],
}
POLICY = """
[[rules]]
when = "battery < 50"
leave = 55
min_level = 2
"""

# --- the board -------------------------------------------------------------------------------------------------------


def test_it_warms_up_exponentially_to_what_its_power_makes_of_it() -> None:
    board = replace(Board.start(PI), temperature=PI.ambient_c)
    after = step(PI, board, 1.0, PI.time_constant_s, PI.ambient_c, 0.0)
    rise = PI.resistance_c_w * (PI.idle_w + PI.core_w)
    assert after.power_w == PI.idle_w + PI.core_w
    assert after.temperature == pytest.approx(PI.ambient_c + rise * (1 - math.exp(-1)))
    settled = step(PI, board, 1.0, 100 * PI.time_constant_s, PI.ambient_c, 0.0)
    assert settled.temperature == pytest.approx(PI.ambient_c + rise)


def test_many_short_steps_are_one_long_step() -> None:
    board = many = Board.start(PI, 50)
    for _ in range(600):
        many = step(PI, many, 0.7, 0.1, 30.0, 2.0)
    once = step(PI, board, 0.7, 60, 30.0, 2.0)
    assert many.temperature == pytest.approx(once.temperature)
    assert many.stored_wh == pytest.approx(once.stored_wh)


def test_the_battery_loses_what_the_board_takes_and_the_conversion_wastes() -> None:
    after = step(PI, Board.start(PI), 0.0, 3600, PI.ambient_c, 0.0)
    assert after.stored_wh == pytest.approx(PI.battery_wh - PI.idle_w / PI.efficiency)
    assert step(PI, after, 0.0, 1e6, PI.ambient_c, 0.0).stored_wh == 0
    assert step(PI, after, 0.0, 1e6, PI.ambient_c, 100.0).stored_wh == PI.battery_wh


def test_the_clock_falls_between_the_two_limits() -> None:
    assert [clock(PI, t) for t in (20, 80)] == [1, 1]
    assert clock(PI, 82.5) == pytest.approx((1 + PI.slowest_clock) / 2)
    assert [clock(PI, t) for t in (85, 120)] == [PI.slowest_clock] * 2


# --- a day -----------------------------------------------------------------------------------------------------------


def test_a_cadence_that_can_be_kept_is_kept_and_one_that_cannot_goes_from_frame_to_frame() -> None:
    slow = simulate(PI, LADDER, Scenario(hours=0.5, fps=2))
    assert slow.frames == pytest.approx(3600, abs=1)
    assert slow.served == pytest.approx(100, abs=0.1)
    fast = simulate(PI, LADDER, Scenario(hours=0.5, fps=30))
    assert fast.frames == pytest.approx(1800 / 0.2, abs=1)
    assert fast.served == pytest.approx(100 * 5 / 30, abs=0.1)
    assert (slow.agreement, slow.mean_level, slow.changes) == (100, 0, 0)


def test_frames_longer_than_a_period_are_counted_once() -> None:
    slow = simulate(PI, LADDER.slower(37.5), Scenario(hours=0.5, fps=30))  # 7.5 s each
    assert slow.frames == 1800 / 7.5


def test_a_fixed_level_lasts_as_long_as_its_power_says() -> None:
    small = replace(PI, battery_wh=5.0)
    day = simulate(small, LADDER, Scenario(hours=8, fps=30), level=1)
    power = (PI.idle_w + PI.core_w) / PI.efficiency
    assert day.empty
    assert day.hours == pytest.approx(5.0 / power, abs=2 / 3600)
    assert day.battery_left == 0
    assert (day.agreement, day.mean_level) == (98, 1)
    idle = simulate(small, LADDER, Scenario(hours=8, fps=0.001), level=1)
    assert idle.hours == pytest.approx(5.0 * PI.efficiency / PI.idle_w, abs=0.01)


def test_heat_slows_frames_down() -> None:
    hot = Scenario(hours=1, fps=30, threads=4, ambient=[(0, 45)])
    day = simulate(PI, LADDER, hot)
    assert 80 < day.hottest < 85
    assert day.throttled > 80
    assert day.frames < 0.9 * simulate(PI, LADDER, replace(hot, ambient=[(0, 10)])).frames


def test_the_policy_decides_as_it_does_on_a_device() -> None:
    policy = read_policy(POLICY)
    small = replace(PI, battery_wh=4.0)
    day = simulate(small, LADDER, Scenario(hours=8, fps=30), policy)
    assert day.changes == 1
    assert {s.level for s in day.samples if s.battery > 51} == {0}
    assert {s.level for s in day.samples if s.battery < 49} == {2}
    assert day.agreement is not None
    assert 90 < day.agreement < 100
    dense = simulate(small, LADDER, Scenario(hours=8, fps=30))
    assert day.frames == pytest.approx(1.5 * dense.frames, rel=0.02)  # half of the battery at twice the frames
    assert day.hours == pytest.approx(dense.hours, abs=0.01)  # a core is busy all the time in both


def test_latency_and_duty_come_from_the_frames() -> None:
    day = simulate(PI, LADDER, Scenario(hours=0.2, fps=4), read_policy({"targets": {"latency_ms": 170}}))
    assert {s.level for s in day.samples[1:]} == {1}
    day = simulate(PI, LADDER, Scenario(hours=0.2, fps=4), read_policy({"targets": {"max_duty": 0.5}}))
    assert {s.level for s in day.samples[1:]} == {2}


def test_scripts_drive_what_the_policy_follows() -> None:
    policy = read_policy({"rules": [{"when": "motion", "min_level": 1}, {"when": "charging", "max_level": 0}]})
    scenario = Scenario(hours=1, fps=2, signals={"motion": [(0, 0), (1200, 1)]}, charge=[(0, 0), (2400, 20)])
    day = simulate(replace(PI, battery_wh=100), LADDER, scenario, policy)
    levels = [sample.level for sample in day.samples]
    assert levels[5] == 0
    assert levels[30] == 1
    assert day.samples[-1].battery > day.samples[38].battery


def test_a_trace_of_a_day_is_replayed_alike(tmp_path: Path) -> None:
    policy = read_policy(POLICY + "[targets]\nlatency_ms = 180\ntemperature_c = 75\nbattery_hours = 2\n")
    trace = TraceWriter(tmp_path / "trace.jsonl", policy, State.start(policy, 0, LADDER.calibration.relative()))
    day = simulate(replace(PI, battery_wh=2.0), LADDER, Scenario(hours=0.5, fps=30), policy, trace=trace)
    trace.close()
    decisions = list(replay(tmp_path / "trace.jsonl"))
    assert day.empty
    assert len(decisions) == round(day.hours * 3600)
    assert day.changes >= 2
    assert all(d.level == d.level_again and d.reason == d.reason_again for d in decisions)


@settings(max_examples=25, deadline=None)
@given(st.floats(0.5, 3), st.floats(1.0, 2.0), st.sampled_from(["idle_w", "core_w", "battery_wh", "efficiency"]))
def test_more_power_never_lasts_longer_and_more_battery_never_shorter(wh: float, factor: float, name: str) -> None:
    device = replace(PI, battery_wh=wh, efficiency=0.4)
    other = replace(device, **{name: factor * getattr(device, name)})
    scenario = Scenario(hours=2, fps=1)
    less, more = (simulate(d, LADDER, scenario).hours for d in (device, other))
    assert less <= more if name in ("battery_wh", "efficiency") else more <= less


def test_sensitivity_changes_one_figure_at_a_time() -> None:
    scenario = Scenario(hours=0.05, fps=10)
    rows = list(sensitivity(PI, LADDER, scenario, Policy(min_level=1), 30))
    assert [row.figure for row in rows[::2]] == changes(PI)
    assert {row.percent for row in rows} == {-30, 30}
    by_figure = {(row.figure, row.percent): row for row in rows}
    assert by_figure["idle_w", 30].value == pytest.approx(1.3 * PI.idle_w)
    assert by_figure["efficiency", 30].value == 1  # no more than all of it
    slow, fast = by_figure["frame time", 30], by_figure["frame time", -30]
    assert slow.dense.frames == pytest.approx(fast.dense.frames * 0.7 / 1.3, rel=0.02)


# --- devices ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list_devices())
def test_every_device_has_a_source_for_every_figure(name: str) -> None:
    device = load_device(f"{name}.sim")
    assert device.name == name
    assert set(device.sources) == set(BOUNDS) == set(device.figures())
    assert all(len(source) > 15 for source in device.sources.values())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("idle_w = 2.7", "idle_w = 0", "idle_w is 0. Allowed is a number above 0"),
        ("idle_w = 2.7", "idle_w = true", "idle_w is True"),
        ("idle_w = 2.7", 'idle_w = "much"', "idle_w is 'much'"),
        ("idle_w = 2.7", "", "idle_w is missing"),
        ("idle_w = 2.7", "idle_w = 2.7\nfan_w = 1", "fan_w is unknown"),
        ("limit_c = 85", "limit_c = 80", "limit_c is 80. It has to be above throttle_c"),
        ("efficiency = 0.85", "efficiency = 1.2", "efficiency is 1.2"),
        ('name = "rpi4"', 'name = ""', "name is ''"),
        ("[sources]", "[source]", "source is unknown"),
        ('efficiency = "makers', 'efficient = "makers', "sources has to name each"),
        ("idle_w = 2.7", "idle_w 2.7", "is not TOML"),
    ],
)
def test_what_is_wrong_with_a_device(tmp_path: Path, old: str, new: str, message: str) -> None:
    pytest.importorskip("tomllib")
    import haste_runtime.simulation.device as module

    text = (Path(module.__file__).parent / "devices" / "rpi4.sim").read_text("utf-8")
    assert text.count(old) == 1
    (tmp_path / "mine.sim").write_text(text.replace(old, new))
    with pytest.raises(DeviceError) as caught:
        load_device(str(tmp_path / "mine.sim"))
    assert message in str(caught.value)
    with pytest.raises(DeviceError, match="Known devices: rpi-zero2w, rpi4"):
        load_device("commodore64")


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("tomllib")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HASTE_DEBUG", raising=False)
    Path("p.toml").write_text(POLICY)
    Path("times.json").write_text(json.dumps(TIMES))
    return tmp_path


def simulated(capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, Any]:
    command = ["simulate", "--times", "times.json", "--policy", "p.toml", "--hours", "0.5", "--json", *more]
    assert cli.run(command) == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def test_the_day_is_told_beside_dense_and_fixed_levels(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = simulated(capsys, "--battery-wh", "2", "--fps", "20", "--trace", "trace.jsonl")
    assert [row["name"] for row in answer["days"]] == ["governor", "dense", "level 1", "level 2"]
    governor, dense, _, top = answer["days"]
    assert dense["frames_over_dense"] == 1
    assert 1 < governor["frames_over_dense"] < top["frames_over_dense"] == pytest.approx(2, rel=0.01)
    assert governor["agreement"] == pytest.approx(
        (100 * 1 + 90 * 2) / 3, abs=0.3
    )  # half of the time at 5 frames a second, half of it at 10
    assert governor["empty"]
    assert answer["device"]["battery_wh"] == 2
    assert answer["samples"]["governor"][-1]["battery"] < 5
    assert cli.run(["replay", "trace.jsonl"]) == 0
    assert capsys.readouterr().out.endswith("All decisions are the same.\n")


def test_options_change_the_scenario(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = simulated(
        capsys, "--time-scale", "2", "--ambient", "0:10,15m:40", "--charge", "5", "--script", "motion=0:0,0.1h:1"
    )
    scenario = answer["scenario"]
    assert [level["ms"] for level in answer["levels"]] == [400, 300, 200]
    assert scenario["ambient"] == [[0, 10], [900, 40]]
    assert scenario["charge"] == [[0, 5]]
    assert scenario["signals"] == {"motion": [[0, 0], [360, 1]]}


def test_agreement_can_come_from_pictures(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("evaluated.json").write_text(json.dumps({"levels": [{"level": n, "agreement": 100 - n} for n in range(3)]}))
    assert [row["agreement"] for row in simulated(capsys, "--evaluated", "evaluated.json")["days"][1:]] == [100, 99, 98]


def test_the_table_for_people(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["simulate", "--times", "times.json", "--policy", "p.toml", "--hours", "0.02", "--sensitivity"]
    assert cli.run(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Raspberry Pi 4 Model B")
    assert [line.split()[0] for line in lines[3:5]] == ["governor", "dense"]
    assert ">0.02" in lines[4]
    assert len([line for line in lines if " +30 % " in line]) == len(changes(PI))


def test_without_times_the_bundle_is_measured(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_bundle("net.haste", bundle_for(random_network(3)))
    assert cli.run(["simulate", "--policy", "p.toml", "--hours", "0.01", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert len(answer["levels"]) == 4
    assert all(level["ms"] > 0 for level in answer["levels"])
    assert answer["days"][0]["agreement"] is None  # nobody measured it for this bundle


def test_a_calibration_gives_times_and_deadlines(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_bundle("net.haste", bundle_for(random_network(3)))
    assert cli.run(["calibrate", "net.haste", "--quick", "--backend", "numpy", "--threads", "1", "--json"]) == 0
    file = "net.haste.calibration.json"
    content = json.loads(Path(file).read_text())
    for cost, ms in zip(content["costs"], (200, 150, 100, 120), strict=True):
        cost["ms"] = cost["p90_ms"] = ms
    Path(file).write_text(json.dumps(content))
    Path("p.toml").write_text('[[rules]]\nwhen = "battery < 101"\nlatency_ms = 160\n')
    capsys.readouterr()
    for more in ([], ["net.haste"]):
        answer = simulated(capsys, *more, "--times", file)
        assert [level["ms"] for level in answer["levels"]] == [200, 150, 100, 120]
        assert answer["days"][0]["mean_level"] == pytest.approx(1, abs=0.01)
    Path(file).write_text(json.dumps(content | {"costs": []}))
    assert cli.run(["simulate", "--times", file, "--policy", "p.toml"]) == 3
    assert "is not a calibration" in capsys.readouterr().err
    other = Ladder((1.0,), (100.0,), 1, "x").calibration
    with pytest.raises(TimesError, match="has 1 levels, and the bundle 2"):
        ladder_calibrated(other, 1, [100.0, 99.0])


def test_a_signal_that_is_not_there_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("p.toml").write_text('[[rules]]\nwhen = "motion"\nmin_level = 7\n')
    simulated(capsys)
    command = ["simulate", "--times", "times.json", "--policy", "p.toml", "--hours", "0.01"]
    assert cli.run(command) == 0
    said = capsys.readouterr().err
    assert "The policy needs motion, which is missing all day" in said
    assert "is 7, but the top level of this bundle is 2" in said


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--hours", "0"], 2, "--hours 0 makes no sense"),
        (["--fps", "-1"], 2, "--fps -1 makes no sense"),
        (["--percent", "101"], 2, "--percent 101 makes no sense"),
        (["--threads", "5"], 2, "5 threads keep more cores busy than rpi4 has"),
        (["--ambient", "warm"], 2, "--ambient 'warm' is not a script"),
        (["--script", "0:1"], 2, "--script '0:1' has no name"),
        (["--device", "pdp11"], 2, "pdp11 cannot be read"),
        (["--policy", "nothing.toml"], 2, "cannot be read"),
        (["--times", "nothing.json"], 3, "cannot be read as JSON"),
        (["--times", "list.json"], 3, "is not a JSON object"),
        (["--times", "empty.json"], 3, "does not tell what a frame costs"),
        (["--times", "holes.json"], 3, "does not have all levels"),
        (["--evaluated", "empty.json"], 3, "does not have the agreement of every level"),
        (["--plot", "day.gif"], 2, "does not say what kind of picture"),
        (["--plot", "nowhere/day.svg"], 2, "There is no folder"),
    ],
)
def test_what_cannot_be_simulated(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    Path("list.json").write_text("[]")
    Path("empty.json").write_text("{}")
    Path("holes.json").write_text(json.dumps(TIMES | {"levels": TIMES["levels"][1:]}))  # type: ignore[index]
    assert cli.run(["simulate", "--times", "times.json", "--policy", "p.toml", *arguments]) == code
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.out == ""


def test_neither_bundle_nor_times(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["simulate", "--policy", "p.toml"]) == 2
    assert "There is no bundle in this folder" in capsys.readouterr().err


def test_the_plot_at_once_and_later(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    answer = simulated(capsys, "--plot", "day.svg")
    Path("day.json").write_text(json.dumps(answer))
    assert cli.run(["plot", "day.json", "-o", "again.svg"]) == 0
    for name in ("day.svg", "again.svg"):
        assert "<svg" in Path(name).read_text()
    assert sorted(p.name for p in Path().iterdir() if "partial" in p.name) == []
    Path("bad.json").write_text(json.dumps({"samples": {"governor": [{}]}}))
    assert cli.run(["plot", "bad.json", "-o", "again.svg"]) == 2
    assert cli.run(["plot", "times.json", "-o", "again.svg"]) == 2


# --- docs/simulation.md ----------------------------------------------------------------------------------------------

TEXT = (Path(__file__).resolve().parents[2] / "docs/simulation.md").read_text("utf-8")


def test_the_documentation_names_every_device_and_every_constant() -> None:
    assert [name for name in (*list_devices(), *BOUNDS) if f"`{name}`" not in TEXT] == []
    (example,) = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
    assert read_policy(example).max_level == 6


def test_the_documented_options_exist(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.run(["simulate", "--help"])
    known = capsys.readouterr().out
    used = set(re.findall(r"(--[a-z-]+)", "".join(re.findall(r"haste-run simulate[^\n`]*", TEXT))))
    assert used
    assert [option for option in used if option not in known] == []
