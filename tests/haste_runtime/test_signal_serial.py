"""Lines over a real serial port: a pseudo-terminal that pyserial opens, with everything that happens to wires."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from builders import bundle_for, random_network, sign_changing
from hypothesis import given
from hypothesis import strategies as st
from numpy.random import default_rng
from waiting import eventually, our_threads

from haste_runtime.errors import SignalError
from haste_runtime.session import Session
from haste_runtime.signals import serial_port, smoothed
from haste_runtime.signals.lines import LONGEST, Splitter, number_in, parse_line
from haste_runtime.signals.serial_port import SerialPort

# --- lines -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "readings"),
    [
        ("battery=57.5", {"battery": 57.5}),
        ("  battery = -3e1\r", {"battery": -30}),
        ("battery=57.5 charging=0, ambient=21;x=1", {"battery": 57.5, "charging": 0, "ambient": 21, "x": 1}),
        ("motion=yes door=OFF", {"motion": 1, "door": 0}),
        ('{"battery": 57.5, "charging": true, "name": "x", "Bad": 1, "list": [1], "none": null}', None),
        ("{}", {}),
        ('{"battery": ', {}),
        ("[1, 2]", {}),
        ("", {}),
        ("57.5", {}),
        ("battery", {}),
        ("battery=", {}),
        ("battery=full", {}),
        ("battery=57.5 and more", {}),
        ("Battery=57.5", {}),
        ("\x00\xff battery=57.5", {}),
        ("and=1", {}),
        ('{"battery": 1' + "0" * 400 + "}", {}),
        ("[" * 2000, {}),
        ("{" * 3000, {}),
    ],
)
def test_what_lines_mean(line: str, readings: dict[str, float] | None) -> None:
    assert parse_line(line) == ({"battery": 57.5, "charging": 1} if readings is None else readings)


def test_numbers_and_words() -> None:
    assert [number_in(text) for text in (" 1.5 ", "true", "No", "x", "")] == [1.5, 1, 0, None, None]


@given(st.text())
def test_no_line_raises(line: str) -> None:
    assert all(isinstance(value, float) for value in parse_line(line).values())


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=20)), st.data())
def test_lines_come_together_from_any_pieces(lines: list[str], data: st.DataObject) -> None:
    stream, splitter, found = "".join(f"{line}\n" for line in lines).encode(), Splitter(), list[str]()
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += splitter.feed(stream[:size])
        stream = stream[size:]
    assert found == lines


def test_a_line_that_never_ends_is_dropped() -> None:
    splitter = Splitter()
    for _ in range(3):
        assert splitter.feed(b"x" * LONGEST) == []
        assert len(splitter._rest) <= LONGEST
    assert splitter.feed(b"yy\nbattery=1\n") == ["battery=1"]
    assert splitter.feed(b"x" * (LONGEST + 1) + b"\nbattery=2\n") == ["battery=2"]


# --- a port ----------------------------------------------------------------------------------------------------------


class Wire:
    """A pseudo-terminal under a path that stays the same while devices are plugged in and out."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ends: tuple[int, int] | None = None

    def plug(self) -> None:
        self.ends = os.openpty()
        self.path.symlink_to(os.ttyname(self.ends[1]))

    def unplug(self) -> None:
        if self.ends is not None:
            self.path.unlink()
            for end in self.ends:
                os.close(end)
            self.ends = None

    def send(self, data: bytes, port: SerialPort | None = None) -> None:
        """Once the port is open: pyserial drops what came before."""
        assert self.ends is not None
        if port is not None:
            eventually(lambda: not port.trouble())
        os.write(self.ends[0], data)


@pytest.fixture
def wire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    if sys.platform == "win32":
        pytest.skip("pseudo-terminals are of Unix")
    pytest.importorskip("serial")
    monkeypatch.setattr(serial_port, "FIRST_RETRY_S", 0.01)
    monkeypatch.setattr(serial_port, "LONGEST_RETRY_S", 0.02)
    wire = Wire(tmp_path / "ttyUSB0")
    yield wire
    wire.unplug()
    assert our_threads() == []


@contextlib.contextmanager
def listening(wire: Wire, **options: Any) -> Iterator[SerialPort]:
    port = SerialPort(str(wire.path), **options)
    port.start(1.0)
    try:
        eventually(lambda: not wire.ends or not port.trouble())
        yield port
    finally:
        port.close()
        port.close()


def value(port: SerialPort, name: str = "battery") -> float | None:
    reading = port.readings(time.monotonic()).get(name)
    return reading.value if reading is not None and reading.ok else None


def test_lines_become_readings(wire: Wire) -> None:
    wire.plug()
    with listening(wire, names=["battery"]) as port:
        assert port.readings(0.0)["battery"].reason == "nothing has been heard of it yet"
        wire.send(b"battery=57.5\n")
        eventually(lambda: value(port) == 57.5)
        assert port.readings(time.monotonic())["battery"].unit == "%"
        wire.send(b'{"battery": 41, "ambient": -3}\nbattery=40')
        eventually(lambda: value(port, "ambient") == -3)
        assert value(port) == 41  # the last line is not complete
        wire.send(b"\n")
        eventually(lambda: value(port) == 40)
        assert port.names == ("battery", "ambient")
        assert port.ignored == 0


def test_garbage_between_lines(wire: Wire) -> None:
    wire.plug()
    with listening(wire) as port:
        for garbage in (b"\xff\xfe\x80\n", b"battery=\n", bytes(range(128, 256)) * 20, b"\nErr: 5\n"):
            wire.send(garbage)
        wire.send(b"battery=57.5\n")
        eventually(lambda: value(port) == 57.5)
        assert port.ignored >= 3
        wire.send(b"battery=-5\n")
        eventually(lambda: "only from 0 to 100 is plausible" in port.readings(time.monotonic())["battery"].reason)
        wire.send(b"battery=12\nbattery=nan\n")
        eventually(lambda: port.readings(time.monotonic())["battery"].reason == "it gave nan")
        wire.send(b"battery=13\n")
        eventually(lambda: value(port) == 13)


def test_unplugged_and_plugged_in_again(wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "haste_runtime")
    with listening(wire, names=["battery"], stale_after_s=30) as port:
        # Nothing is there: the first attempt has failed, which is more than not to have been made yet.
        eventually(lambda: "could not open" in port.readings(0.0)["battery"].reason)
        wire.plug()
        wire.send(b"battery=57\n", port)
        eventually(lambda: value(port) == 57)
        for charge in (56, 55):
            wire.send(b"battery=9")  # half a line is lost with the device
            wire.unplug()
            eventually(port.trouble)
            assert value(port) is not None  # the last value holds for a while
            old = port.readings(time.monotonic() + 31)["battery"]
            assert not old.ok
            assert "s old, and" in old.reason
            assert "cannot be read" in old.reason
            wire.plug()
            wire.send(b"battery=%d\n" % charge, port)
            eventually(lambda charge=charge: value(port) == charge)
    told = [record.getMessage() for record in caplog.records]
    assert ["cannot be read" in line for line in told] == [True, False, True, False, True, False], told


def test_a_parser_of_ones_own(wire: Wire) -> None:
    def parser(line: str) -> Any:
        return {"V": lambda: float(line[1:]) * 10, "M": lambda: {"battery": 3}, "N": lambda: None}[line[0]]()

    wire.plug()
    with listening(wire, names=["battery"], parser=parser) as port:
        wire.send(b"V5.7\n")
        eventually(lambda: value(port) == 57)
        wire.send(b"Voops\nZ\n\nN\nM\n")
        eventually(lambda: value(port) == 3)
        assert port.ignored == 3


def test_names_do_not_fill_the_memory(wire: Wire) -> None:
    wire.plug()
    with listening(wire, names=["battery"]) as port:
        for first in range(0, 200, 20):
            wire.send(b"".join(b"x%d=1\n" % i for i in range(first, first + 20)))
            time.sleep(0.001)
        wire.send(b"battery=1\n")
        eventually(lambda: value(port) == 1)
        assert len(port.names) == 65


def test_one_of_its_names_can_be_filtered(wire: Wire) -> None:
    wire.plug()
    with listening(wire) as port:
        signal = smoothed(port.signal("battery", "%"), 0.001)
        assert signal.read(0.0).reason == "nothing has been heard of it yet"
        wire.send(b"battery=50\n")
        eventually(lambda: signal.read(time.monotonic()).ok)
        assert str(signal.read(time.monotonic())) == "50 %"


def test_loop_back_of_pyserial_needs_no_wire() -> None:
    serial = pytest.importorskip("serial")
    loop = serial.serial_for_url("loop://", timeout=0.05)
    port = SerialPort("loop://", opened=lambda *_, **__: contextlib.nullcontext(loop))
    port.start(1.0)
    with pytest.raises(SignalError, match="already"):
        port.start(1.0)
    loop.write(b"battery=57\n")
    eventually(lambda: value(port) == 57)
    port.close()
    loop.close()


def test_pyserial_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "serial", None)
    with pytest.raises(SignalError, match=r'pip install "haste-runtime\[serial\]"'):
        SerialPort("/dev/ttyUSB0")


def test_one_port_under_one_policy_after_the_other(wire: Wire) -> None:
    wire.plug()
    port = SerialPort(str(wire.path), names=["battery"])
    with Session(bundle_for(random_network(5), levels=(12, 6, 2)), backend="numpy") as session:
        for level in (1, 3, 2):
            policy = {"period_s": 0.01, "rules": [{"when": "battery < 20", "min_level": level}], "dwell_s": 0}
            session.follow(port, policy=policy)
            wire.send(b"battery=10\n", port)
            eventually(lambda level=level: session.level == level)


def test_a_battery_on_a_wire_steers_a_session_through_every_fault(wire: Wire) -> None:
    """Frames go on and are right all the while; the level follows within a dwell time, and fails safe in the end."""
    rules = [{"signal": "battery", "below": 20, "leave": 25, "min_level": 2}]
    policy = {"period_s": 0.01, "dwell_s": 0.05, "rules": rules, "missing": {"hold_s": 0.1, "min_level": 3}}
    told: list[tuple[int, int, str]] = []
    wire.plug()
    with Session(bundle_for(random_network(5), levels=(12, 6, 2)), backend="numpy") as session:
        (info,) = session.inputs
        x = sign_changing(default_rng(0), (1, *(int(n) for n in info.shape[1:] if n)))
        expected = []
        for session.level in range(4):
            expected.append(session.run(x).tobytes())
        session.level = 0

        def run_until(level: int) -> None:
            def right() -> bool:
                result = session.run(x).tobytes()
                assert result == expected[session.stats.level]
                return session.stats.level == level

            eventually(right)

        session.when_level_changed = lambda *change: told.append(change)
        port = SerialPort(str(wire.path), names=["battery"], stale_after_s=0.3)
        session.follow(port, policy=policy)
        wire.send(b"battery=80\n", port)
        run_until(0)
        sent = time.monotonic()
        wire.send(b"\xff\xffbattery=8\nbattery=18\n")
        run_until(2)
        assert time.monotonic() - sent < 5
        wire.send(b"batt\n\n\nbattery=30\n")
        run_until(0)
        wire.unplug()
        run_until(3)  # the value grows old, is held, then fails safe
        wire.plug()
        wire.send(b"battery=80\n", port)
        run_until(0)
    assert [change[:2] for change in told][:4] == [(0, 2), (2, 0), (0, 3), (3, 0)]
    assert told[0][2] == "battery 18 % is below 20 %: at least level 2"
    assert "cannot be read" in told[2][2]
    assert "the fail-safe: at least level 3" in told[2][2]
