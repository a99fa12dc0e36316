"""``haste-run simulate``: a policy's day on a board that is not there, beside the exact network and fixed levels."""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from haste_runtime.cli.common import note, positive_integer, print_json, seconds
from haste_runtime.errors import InputError

if TYPE_CHECKING:
    from haste_runtime.governor.policy import Policy
    from haste_runtime.simulation.day import Day, Scenario
    from haste_runtime.simulation.device import Device
    from haste_runtime.simulation.ladder import Ladder

EXAMPLES = """
examples:
  haste-run calibrate net.haste                          # best on the board itself
  haste-run simulate net.haste --policy p.toml --device rpi4.sim --hours 8
  haste-run bench net.haste --json > times.json
  haste-run simulate --times times.json --policy p.toml
  haste-run simulate net.haste --policy p.toml --time-scale 7 --sensitivity --plot day.svg
  haste-run simulate net.haste --policy p.toml --ambient 0:15,4h:35 --charge 0:0,2h:6,6h:0 --script motion=0:0,1h:1
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EXAMPLES
    parser.add_argument(
        "bundle", nargs="?", help="the .haste file; by default the only one in this folder, or none with --times"
    )
    parser.add_argument("--policy", required=True, help="the policy, a TOML file")
    parser.add_argument("--device", default="rpi4", help="rpi4, rpi-zero2w, or the path of a .sim file (rpi4)")
    parser.add_argument("--hours", type=float, default=8.0, help="how long the day is (8)")
    parser.add_argument("--fps", type=float, default=10.0, help="frames a second that the camera offers (10)")
    times_help = "a calibration (net.haste.calibration.json), or what `bench --json` wrote; else those of this computer"
    parser.add_argument("--times", help=times_help)
    scale_help = "the device takes so many times as long as the times say (1)"
    parser.add_argument("--time-scale", type=float, default=1.0, help=scale_help)
    parser.add_argument("--evaluated", help="agreement by level from what `haste-edge evaluate --json` wrote")
    parser.add_argument("--threads", type=positive_integer, help="cores that a frame keeps busy (those of the times)")
    parser.add_argument("--percent", type=float, default=100.0, help="of the battery at the start (100)")
    parser.add_argument("--battery-wh", type=float, help="of the full battery, instead of the device's")
    parser.add_argument("--ambient", help="°C of the air, 25 or by time as in 0:15,4h:35, instead of the device's")
    parser.add_argument("--charge", help="watts into the battery, as in 0:0,2h:6,6h:0")
    script_help = "a signal of the policy's own by time, as in motion=0:0,90m:1 (may be repeated)"
    parser.add_argument("--script", action="append", default=[], metavar="NAME=SCRIPT", help=script_help)
    sensitivity_help = "also with each constant less and more by so many percent (30), one at a time"
    parser.add_argument("--sensitivity", type=float, nargs="?", const=30.0, metavar="PERCENT", help=sensitivity_help)
    parser.add_argument("--trace", help="write every decision to this file, which `haste-run replay` reads")
    parser.add_argument("--plot", type=Path, help="draw the day into this .svg, .png or .pdf (extra: plots)")


def run(options: argparse.Namespace) -> None:
    from haste_runtime.cli.charts import check_plot
    from haste_runtime.governor.decide import State
    from haste_runtime.governor.policy import read_policy, with_levels
    from haste_runtime.governor.trace import TraceWriter
    from haste_runtime.simulation.day import simulate
    from haste_runtime.simulation.device import load_device

    check_plot(options.plot)
    policy, device = read_policy(options.policy), load_device(options.device)
    if options.battery_wh is not None:
        device = replace(device, battery_wh=_positive(options.battery_wh, "--battery-wh", 1e6))
    ladder = _ladder(options)
    policy = with_levels(policy, ladder.calibration.level_for)
    scenario = _scenario(options, ladder, device)
    _warn(policy, scenario, ladder)
    dense = simulate(device, ladder, scenario, name="dense")
    trace = None
    if options.trace is not None:
        trace = TraceWriter(options.trace, policy, State.start(policy, 0, ladder.calibration.relative()))
    governed = simulate(
        device, ladder, scenario, policy, name="governor", trace=trace, progress=_Progress("governor", scenario.hours)
    )
    if trace is not None:
        trace.close()
    fixed = [simulate(device, ladder, scenario, level=n, name=f"level {n}") for n in range(1, len(ladder.ms))]
    result: dict[str, Any] = {
        "policy": options.policy,
        "device": asdict(device),
        "scenario": asdict(scenario),
        "times": {"about": ladder.about, "time_scale": options.time_scale},
        "levels": [
            {"level": n, "ms": round(ms, 4), "agreement": agreement}
            for n, (ms, agreement) in enumerate(zip(ladder.ms, ladder.agreement, strict=True))
        ],
        "days": [_row(day, dense) for day in (governed, dense, *fixed)],
        "samples": {day.name: [vars(sample) for sample in day.samples] for day in (dense, governed)},
    }
    if not options.json:
        _print(result, device)
    if options.sensitivity is not None:
        result["sensitivity"] = _sensitivity(options, device, ladder, scenario, policy)
    if options.plot is not None:
        from haste_runtime.cli.plot import draw_day

        draw_day(result, options.plot)
        note(f"Plot: {options.plot}")
    if options.json:
        print_json(result)


class _Progress:
    """A line on stderr every two simulated hours: a policy with a short period takes long."""

    def __init__(self, name: str, hours: float) -> None:
        self._name, self._hours, self._told = name, hours, 0.0

    def __call__(self, hours: float) -> None:
        if hours - self._told >= 2:
            self._told = hours
            note(f"{self._name}: {hours:.0f} of {self._hours:g} hours")


# --- what is simulated -----------------------------------------------------------------------------------------------


def _ladder(options: argparse.Namespace) -> Ladder:
    from haste_runtime.simulation.ladder import read_json, with_agreement

    ladder = _at_hand(options) if options.times is None else _given(options)
    if options.evaluated is not None:
        ladder = with_agreement(ladder, read_json(options.evaluated), options.evaluated)
    return ladder.slower(_positive(options.time_scale, "--time-scale", 1e6))


def _given(options: argparse.Namespace) -> Ladder:
    """The times of a file: a calibration, or what bench told."""
    from haste_runtime.bundle import read_bundle
    from haste_runtime.calibration.sidecar import read
    from haste_runtime.simulation.ladder import TimesError, ladder_calibrated, ladder_of, read_json

    content = read_json(options.times)
    if "haste_calibration" not in content:
        return ladder_of(content, options.times)
    calibration, reason = read(Path(options.times))
    if calibration is None:
        raise TimesError(f"{reason}.", "Calibrate again with this release.")
    levels = read_bundle(options.bundle).plan.levels if options.bundle else ()
    return ladder_calibrated(calibration, options.threads or 1, [level.agreement for level in levels])


def _at_hand(options: argparse.Namespace) -> Ladder:
    """The times of this computer: by its calibration, else measured now."""
    from haste_runtime.session import Session
    from haste_runtime.simulation.ladder import ladder_calibrated, ladder_of

    bundle = _bundle(options.bundle)
    with Session(bundle) as session:
        if session.calibration is not None:
            agreement = [level.agreement for level in session.levels]
            return ladder_calibrated(session.calibration, options.threads or 1, agreement)
        note(f"{bundle} is measured on this computer now: {session.calibration_reason}")
    return ladder_of(_measured(bundle), "What was measured")


def _bundle(path: str | None) -> str:
    if path is not None:
        return path
    found = sorted(Path().glob("*.haste"))
    if len(found) != 1:
        there = f"{len(found)} bundles" if found else "no bundle"
        raise InputError(
            f"There is {there} in this folder, and neither a bundle nor --times is given.",
            "Name the bundle, or give --times with what `haste-run bench --json` wrote.",
        )
    return str(found[0])


def _measured(bundle: str) -> dict[str, Any]:
    from haste_runtime.cli import bench

    parser = argparse.ArgumentParser()
    bench.add_options(parser)
    return bench.measure(parser.parse_args([bundle]), say=lambda line: None)


def _scenario(options: argparse.Namespace, ladder: Ladder, device: Device) -> Scenario:
    from haste_runtime.simulation.day import Scenario

    threads = options.threads or ladder.threads
    if threads > device.cores:
        raise InputError(f"{threads} threads keep more cores busy than {device.name} has.", "Give fewer --threads.")
    signals = {}
    for text in options.script:
        name, equals, script = text.partition("=")
        if not equals:
            raise InputError(f"--script {text!r} has no name.", "Write it as in --script motion=0:0,90m:1.")
        signals[name] = _script(script, "--script")
    return Scenario(
        hours=_positive(options.hours, "--hours", 1e4),
        fps=_positive(options.fps, "--fps", 1e4),
        threads=threads,
        percent=_positive(options.percent, "--percent", 100),
        ambient=_script(options.ambient, "--ambient"),
        charge=_script(options.charge, "--charge"),
        signals=signals,
    )


def _script(text: str | None, option: str) -> list[tuple[float, float]]:
    """Pairs (seconds, value) of "0:15,4h:35"; a number alone holds from the start."""
    points = []
    for part in text.split(",") if text else []:
        time, colon, value = part.rpartition(":")
        try:
            points.append((seconds(time) if colon else 0.0, float(value)))
        except ValueError:
            raise InputError(f"{option} {text!r} is not a script.", "Write it as in 0:15,90m:20,4h:35.") from None
    return sorted(points)


def _positive(value: float, option: str, most: float) -> float:
    if not 0 < value <= most:
        raise InputError(f"{option} {value:g} makes no sense.", f"Give a number above 0, at most {most:g}.")
    return value


def _warn(policy: Policy, scenario: Scenario, ladder: Ladder) -> None:
    """Of what the policy names and the simulation does not have."""
    given = {"battery", "charging", "temperature", "power", "frequency_share", "throttled", *scenario.signals}
    given |= {"latency", "latency_p50", "frame_age", "duty"}
    for name in policy.signals:
        if name not in given:
            note(f"The policy needs {name}, which is missing all day: give --script {name}=...")
    for key, level in policy.levels():
        if level >= len(ladder.ms):
            note(f"{key} is {level}, but the top level of this bundle is {len(ladder.ms) - 1}: it counts.")


# --- what came of it -------------------------------------------------------------------------------------------------


def _row(day: Day, dense: Day) -> dict[str, Any]:
    row = {key: value for key, value in vars(day).items() if key != "samples"}
    row = {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}
    return row | {"frames_over_dense": round(day.frames / max(dense.frames, 1), 4)}


def _print(result: dict[str, Any], device: Device) -> None:
    scenario, rows = result["scenario"], result["days"]
    print(
        f"{device.title}; {device.battery_wh:g} Wh, {scenario['hours']:g} hours, {scenario['fps']:g} frames/s offered"
    )
    scale = f", taken {result['times']['time_scale']:g} times" if result["times"]["time_scale"] != 1 else ""
    print(f"frame times: {result['times']['about']}{scale}; {scenario['threads']} core(s) busy in a frame")
    print("who        frames  x dense  served  mean level  agreement    hours  left  hottest  throttled  changes")
    for row in rows:
        agreement = "-" if row["agreement"] is None else f"{row['agreement']:.2f} %"
        hours = f"{row['hours']:.2f}" if row["empty"] else f">{row['hours']:g}"
        print(
            f"{row['name']:<8}{row['frames']:9d}  {row['frames_over_dense']:7.3f}  {row['served']:4.0f} %"
            f"  {row['mean_level']:10.2f}  {agreement:>9}  {hours:>7}  {row['battery_left']:2.0f} %"
            f"  {row['hottest']:4.0f} °C  {row['throttled']:7.0f} %  {row['changes']:7d}"
        )
    print("hours: of life; served: of all frames that the camera offers in the whole day; agreement: expected")


def _sensitivity(
    options: argparse.Namespace, device: Device, ladder: Ladder, scenario: Scenario, policy: Policy
) -> list[dict[str, Any]]:
    from haste_runtime.simulation.sensitivity import changes, sensitivity

    percent = _positive(options.sensitivity, "--sensitivity", 99)
    rows: list[dict[str, Any]] = []
    total = 2 * len(changes(device))
    if not options.json:
        print(f"\nEach constant by {percent:g} % less and more, one at a time:")
        print("constant           change     value   governor frames  x dense  agreement    hours  throttled")
    for number, changed in enumerate(sensitivity(device, ladder, scenario, policy, percent), 1):
        row = _row(changed.governed, changed.dense)
        rows.append({"figure": changed.figure, "percent": changed.percent, "value": changed.value} | row)
        if options.json:
            note(f"sensitivity: {number} of {total}")
            continue
        agreement = "-" if row["agreement"] is None else f"{row['agreement']:.2f} %"
        hours = f"{row['hours']:.2f}" if row["empty"] else f">{row['hours']:g}"
        print(
            f"{changed.figure:<17}{changed.percent:+6.0f} %  {changed.value:8.4g}  {row['frames']:16d}"
            f"  {row['frames_over_dense']:7.3f}  {agreement:>9}  {hours:>7}  {row['throttled']:7.0f} %",
            flush=True,
        )
    return rows
