"""A simulated day: frames at a cadence, and once per period the real decision about the level.

What a policy sees is what the signals of a real device tell: whole percents of battery, the temperature, the clock,
throttling, and the `Latency` of the session itself, which is fed with the simulated frames.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from haste_runtime.governor.decide import Decision, State, decide
from haste_runtime.governor.policy import Policy, with_levels
from haste_runtime.governor.trace import TraceWriter
from haste_runtime.signals.latency import Frame, Latency
from haste_runtime.signals.reading import Reading, judge, judge_named
from haste_runtime.signals.scripted import Scripted
from haste_runtime.simulation.board import SECONDS, Board, clock, step
from haste_runtime.simulation.device import Device
from haste_runtime.simulation.ladder import Ladder

SAMPLE_S = 60.0  # of what is drawn: means over so long


@dataclass(frozen=True)
class Scenario:
    """hours: how long the day is. fps: frames a second that the camera offers. threads: cores busy during a frame.

    percent: of the battery at the start. ambient, charge: scripts of the air in °C (instead of the device's own) and of
    watts into the battery. signals: scripts of a policy's own signals. Scripts are (seconds, value), as `Scripted` has.
    """

    hours: float = 8.0
    fps: float = 10.0
    threads: int = 1
    percent: float = 100.0
    ambient: Sequence[tuple[float, float]] = ()
    charge: Sequence[tuple[float, float]] = ()
    signals: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """Means over a minute, except for level (the last one). hours: since the start. fps: frames served a second."""

    hours: float
    battery: float
    temperature: float
    clock: float
    level: int
    fps: float
    power_w: float


@dataclass(frozen=True)
class Day:
    """What came of it. hours: until the battery was empty, or the whole day (then ``empty`` is False).

    frames: served. served: their share of those that the camera offered over the whole day, in percent. mean_level,
    agreement: over the frames that were served; agreement is None where a level that ran has none. throttled: percent
    of the time. changes: of the level.
    """

    name: str
    hours: float
    empty: bool
    battery_left: float
    frames: int
    served: float
    mean_level: float
    agreement: float | None
    hottest: float
    throttled: float
    changes: int
    samples: tuple[Sample, ...]


class _Camera:
    """Frames that begin at a cadence, as `haste-run bench --fps` has it: one that is due while another runs begins when
    that one has ended, and whatever else was due in the meantime is lost."""

    def __init__(self, fps: float) -> None:
        self._period, self._due, self._free = 1.0 / fps, 0.0, 0.0
        self._running: Frame | None = None  # begun, and not ended when the last span did

    def run(self, begin: float, end: float, level: int, seconds: float) -> tuple[list[Frame], float]:
        """From ``begin`` to ``end``, where a frame takes ``seconds``: those that end, and how long one was running."""
        ended: list[Frame] = []
        busy = 0.0
        if self._running is not None:
            busy = min(self._free, end) - begin
            if self._free > end:
                return ended, busy
            ended.append(self._running)
            self._running = None
        while (start := max(self._due, self._free, begin)) < end:
            self._due, self._free = max(self._due + self._period, start), start + seconds
            busy += min(self._free, end) - start
            frame = Frame(self._free, level, seconds)
            if self._free > end:
                self._running = frame
                break
            ended.append(frame)
        return ended, busy


def simulate(
    device: Device,
    ladder: Ladder,
    scenario: Scenario,
    policy: Policy | None = None,
    level: int = 0,
    name: str = "",
    trace: TraceWriter | None = None,
    progress: Callable[[float], None] = lambda hours: None,
) -> Day:
    """The day of a policy, or without one of a fixed ``level``. trace: told of every decision. progress: of hours."""
    period = 1.0 if policy is None else policy.period_s
    board, camera, latency = Board.start(device, scenario.percent), _Camera(scenario.fps), Latency()
    costs = ladder.calibration.relative()
    policy = None if policy is None else with_levels(policy, ladder.calibration.level_for)
    state = None if policy is None else State.start(policy, level, costs)
    own = [Scripted(name, script) for name, script in scenario.signals.items()]
    ambient = Scripted("ambient", scenario.ambient or [(0.0, device.ambient_c)])
    charge = Scripted("charge", scenario.charge or [(0.0, 0.0)])
    timed = trace is not None or (policy is not None and _needs(policy, latency.names))
    served = [0] * len(ladder.ms)
    samples: list[Sample] = []
    hottest, throttled, changes, since = board.temperature, 0.0, 0, 0.0
    sums = [0.0] * 5  # over a sample: battery, temperature, clock and power by time, and frames
    steps, now = round(scenario.hours * SECONDS / period), 0.0
    latency.level_changed(now)
    for number in range(steps):
        now, end = number * period, (number + 1) * period
        speed, charge_w = clock(device, board.temperature), charge.read(now).value or 0.0
        if policy is not None and state is not None:
            readings = _readings(device, board, speed, charge_w, now, own)
            if timed:
                readings |= latency.readings(now)
            decision = decide(policy, state, readings, now)
            changes += _told(decision, level, now, readings, latency, trace)
            state, level = decision.state, decision.level
        frames, busy = camera.run(now, end, level, ladder.ms[level] / 1000 / speed)
        for frame in frames:
            latency.add(frame)
            served[frame.level] += 1
        air = ambient.read(now).value
        busy_cores = scenario.threads * busy / period
        board = step(device, board, busy_cores, period, device.ambient_c if air is None else air, charge_w)
        hottest, throttled = max(hottest, board.temperature), throttled + period * (speed < 1)
        for i, value in enumerate((board.percent(device), board.temperature, speed, board.power_w)):
            sums[i] += value * period
        sums[4] += len(frames)
        if end - since >= SAMPLE_S or number == steps - 1 or not board.stored_wh:
            battery, celsius, share, power, fps = (value / (end - since) for value in sums)
            samples.append(Sample(end / SECONDS, battery, celsius, share, level, fps, power))
            sums, since = [0.0] * 5, end
            progress(end / SECONDS)
        now = end
        if not board.stored_wh:
            break
    count = sum(served)
    return Day(
        name=name,
        hours=now / SECONDS,
        empty=not board.stored_wh,
        battery_left=board.percent(device),
        frames=count,
        served=100 * count / (scenario.hours * SECONDS * scenario.fps),
        mean_level=sum(level * frames for level, frames in enumerate(served)) / max(count, 1),
        agreement=ladder.expected_agreement(served),
        hottest=hottest,
        throttled=100 * throttled / max(now, period),
        changes=changes,
        samples=tuple(samples),
    )


def _needs(policy: Policy, names: Sequence[str]) -> bool:
    """Whether a decision depends on what frames take: their readings are the most work of a simulated second."""
    targets = policy.targets
    return targets.latency_ms is not None or targets.max_duty is not None or not set(policy.signals).isdisjoint(names)


def _readings(
    device: Device,
    board: Board,
    speed: float,
    charge_w: float,
    now: float,
    own: Sequence[Scripted],
) -> dict[str, Reading]:
    charging = charge_w > board.power_w / device.efficiency
    values = {
        "battery": float(int(board.percent(device) + 1e-9)),  # the kernel tells whole percents
        "charging": float(charging),
        "temperature": board.temperature,
        "power": board.power_w,
    }
    readings = {name: judge_named(name, value, "", now) for name, value in values.items()}
    readings["frequency_share"] = judge(100 * speed, "%", now)
    readings["throttled"] = judge(float(speed < 1), "", now)
    for signal in own:
        readings[signal.name] = replace(signal.read(now), at=now)
    return readings


def _told(
    decision: Decision,
    level: int,
    now: float,
    readings: Mapping[str, Reading],
    latency: Latency,
    trace: TraceWriter | None,
) -> int:
    """What the governor does after a decision; how often the level changed, 0 or 1."""
    if trace is not None:
        trace.add(now, readings, decision)
    if decision.level == level:
        return 0
    latency.level_changed(now)
    return 1
