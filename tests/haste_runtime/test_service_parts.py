"""The parts of a service, each with what goes wrong around it: full disks, broken wires, clients that hang."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import waiting
from builders import bundle_for, random_network
from hypothesis import given
from hypothesis import strategies as st
from waiting import our_threads

from haste_runtime import Session
from haste_runtime.errors import InputError
from haste_runtime.preprocessing import Preprocessing
from haste_runtime.service import journal as journal_module
from haste_runtime.service import loop
from haste_runtime.service.addresses import Address, parse_address, running, runtime_folder, state_folder
from haste_runtime.service.journal import Journal
from haste_runtime.service.listeners import MOST_BYTES, Listeners
from haste_runtime.service.loop import Service
from haste_runtime.service.notify import Notifier
from haste_runtime.service.sources import open_source
from haste_runtime.service.sources.camera import Camera
from haste_runtime.service.sources.files import Folder, Npy
from haste_runtime.service.sources.frame import BadFrame, Frame, FrameSource, SourceEnded
from haste_runtime.service.sources.packets import MAGIC, Packets, RawPictures, pack_input, pack_picture
from haste_runtime.service.sources.stream import SerialFrames, Stdin
from haste_runtime.service.status import Status

eventually = partial(waiting.eventually, seconds=20)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert our_threads() == []


@pytest.fixture
def session() -> Iterator[Session]:
    with Session(bundle_for(random_network(5), levels=(12, 6, 2)), "numpy") as session:
        yield session


# --- journals --------------------------------------------------------------------------------------------------------


def entries(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_a_journal_rotates_and_keeps_the_newest(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "sub" / "log", most_bytes=100, keep=3)
    for number in range(100):
        journal.write({"number": number, "text": "ü"})
    journal.close()
    files = [tmp_path / "sub" / name for name in ("log.2", "log.1", "log")]
    assert sorted(tmp_path.glob("sub/*")) == sorted(files)
    assert all(file.stat().st_size <= 100 for file in files)
    numbers = [entry["number"] for file in files for entry in entries(file)]
    assert numbers == list(range(numbers[0], 100))
    assert len(numbers) >= 6


def test_one_file_alone_may_be_kept(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "log", most_bytes=50, keep=1)
    for number in range(20):
        journal.write({"number": number})
    journal.close()
    assert list(tmp_path.iterdir()) == [tmp_path / "log"]
    assert entries(tmp_path / "log")[-1] == {"number": 19}


def test_a_journal_that_somebody_took_away_begins_anew(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "log")
    journal.write({"number": 1})
    (tmp_path / "log").rename(tmp_path / "elsewhere")
    journal.write({"number": 2})
    journal.close()
    assert entries(tmp_path / "log") == [{"number": 2}]


def test_a_full_disk_costs_lines_not_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The kernel's own full disk, /dev/full, behind a link; then there is room again, and the gap is told."""
    if not Path("/dev/full").exists():
        pytest.skip("/dev/full is of Linux")
    monkeypatch.setattr(journal_module, "RETRY_S", 0)
    (tmp_path / "log").symlink_to("/dev/full")
    journal = Journal(tmp_path / "log")
    for number in range(3):
        journal.write({"number": number})
    assert journal.lost == 3
    assert caplog.text.count("cannot be written") == 1
    assert "No space left on device" in caplog.text
    (tmp_path / "log").unlink()
    journal.write({"number": 3})
    journal.close()
    assert entries(tmp_path / "log") == [{"event": "lines_lost", "lines": 3}, {"number": 3}]


def test_half_a_line_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "RETRY_S", 0)
    journal, write = Journal(tmp_path / "log"), os.write
    journal.write({"number": 1})
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:5]))
    journal.write({"number": 2})
    monkeypatch.undo()
    monkeypatch.setattr(journal_module, "RETRY_S", 0)
    journal.write({"number": 3})
    journal.close()
    assert entries(tmp_path / "log") == [{"number": 1}, {"event": "lines_lost", "lines": 1}, {"number": 3}]


# --- listeners -------------------------------------------------------------------------------------------------------


@pytest.fixture
def listeners(tmp_path: Path) -> Iterator[Listeners]:
    listeners = Listeners([Address(path=tmp_path / "x.sock")], lambda: {"hello": 1}, lambda: {"tick": 1})
    listeners.start()
    yield listeners
    listeners.close()
    assert not (tmp_path / "x.sock").exists()


def test_a_client_that_hangs_loses_lines_and_others_none(listeners: Listeners) -> None:
    (address,) = listeners.addresses
    hanging, reading = address.connect(5), address.connect(5)
    eventually(lambda: listeners.clients == 2)
    line, count = {"text": "x" * 1000}, 2 * MOST_BYTES // 1000
    heard: list[dict[str, Any]] = []

    def read() -> None:
        with reading.makefile("rb") as stream:
            while not heard or heard[-1].get("number") != count - 1:
                heard.append(json.loads(stream.readline()))

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(count):
        listeners.tell({"number": number, **line})
        if number % 50 == 0:
            eventually(lambda number=number: len([e for e in heard if "number" in e]) >= number - 50)
    reader.join(20)
    assert [entry["number"] for entry in heard if "number" in entry] == list(range(count))
    assert heard[0] == {"hello": 1}
    lost = 0
    with hanging, hanging.makefile("rb") as stream:  # it wakes up
        entry: dict[str, Any] = {}
        while not lost:
            listeners.tell({"later": 1})
            entry = json.loads(stream.readline())
            lost = entry.get("lines", 0) if entry.get("event") == "lines_lost" else 0
    assert lost > 0
    reading.close()
    eventually(lambda: listeners.clients == 0)


def test_nothing_that_clients_send_matters(listeners: Listeners) -> None:
    (address,) = listeners.addresses
    with address.connect(5) as client:
        client.sendall(b"\x00\xffGET / HTTP/1.1\r\n" * 500)
        with client.makefile("rb") as stream:
            assert json.loads(stream.readline()) == {"hello": 1}
            while json.loads(stream.readline()) != {"tick": 1}:
                pass


def test_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    assert parse_address("unix", "cam").path == tmp_path / "haste-edge/cam.sock"
    assert str(parse_address("tcp:7000")) == "tcp:127.0.0.1:7000"
    assert str(parse_address("tcp:[::1]:7000")) == "tcp:::1:7000"
    assert runtime_folder({"RUNTIME_DIRECTORY": "/run/haste-edge/x:/run/y"}) == Path("/run/haste-edge/x")
    assert state_folder({"STATE_DIRECTORY": "/var/lib/haste-edge"}) == Path("/var/lib/haste-edge")
    (tmp_path / "haste-edge/sub").mkdir(parents=True)
    for name in ("a.sock", "sub/b.sock"):
        (tmp_path / "haste-edge" / name).touch()
    assert [path.stem for path in running()][:2] == ["a", "b"]
    (tmp_path / "file").touch()
    for address in (Address(path=tmp_path / "file"), Address(path=Path("/proc/x.sock")), Address(host="192.0.2.1")):
        with pytest.raises(InputError):
            Listeners([address], dict, dict)


# --- systemd ---------------------------------------------------------------------------------------------------------


def test_without_systemd_nothing_is_sent() -> None:
    notifier = Notifier({})
    notifier.ready("x")
    notifier.alive()
    assert notifier.watchdog_s is None
    assert Notifier({"WATCHDOG_USEC": "5000000", "WATCHDOG_PID": "1"}).watchdog_s is None
    assert Notifier({"WATCHDOG_USEC": "5000000", "WATCHDOG_PID": str(os.getpid())}).watchdog_s == 5
    gone = Notifier({"NOTIFY_SOCKET": "/nothing/there"})
    gone.ready("x")
    gone.close()


def test_abstract_sockets_are_known() -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("of Linux")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(f"\0haste-test-{os.getpid()}")
        notifier = Notifier({"NOTIFY_SOCKET": f"@haste-test-{os.getpid()}"})
        notifier.ready("all is well")
        notifier.close()
        assert systemd.recv(100) == b"READY=1\nSTATUS=all is well"


# --- frames from streams ---------------------------------------------------------------------------------------------

PICTURE = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
INPUT = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 2, 2)


@given(st.lists(st.sampled_from(["picture", "input", "noise", "broken", "magic"]), max_size=8), st.data())
def test_packets_come_through_any_pieces_and_noise(kinds: list[str], data: st.DataObject) -> None:
    """Every whole packet comes out, in order, whatever stands between them."""
    pieces = {
        "picture": pack_picture(PICTURE),
        "input": pack_input(INPUT),
        "noise": b"\x00\xffnoise",
        "broken": pack_input(INPUT)[:-1] + b"\x55",
        "magic": MAGIC + b"\x09" * 12,
    }
    stream, cutter, found = b"".join(pieces[kind] for kind in kinds), Packets((3, 2, 2)), list[str]()
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        for frame in cutter.feed(stream[:size]):
            if not isinstance(frame, BadFrame):
                wanted = PICTURE if frame.dtype == np.uint8 else INPUT
                np.testing.assert_array_equal(frame, wanted)
                found.append("picture" if frame.dtype == np.uint8 else "input")
        stream = stream[size:]
    assert found == [kind for kind in kinds if kind in ("picture", "input")]
    assert len(cutter._rest) < 200


def test_packets_that_cannot_be() -> None:
    def bad(data: bytes) -> str:
        (error,) = Packets((3, 2, 2)).feed(data)
        assert isinstance(error, BadFrame)
        return error.message

    assert "no input of shape" in bad(pack_input(INPUT[0]))
    assert "pixels" in bad(pack_picture(PICTURE[:0]))
    assert "a head that cannot be" in bad(MAGIC + b"\x01" * 4 + b"\xff" * 8)


def test_raw_pictures() -> None:
    cutter, data = RawPictures((3, 2, 3)), PICTURE.tobytes() * 3
    found = [frame for i in range(0, len(data), 7) for frame in cutter.feed(data[i : i + 7])]
    assert len(found) == 3
    np.testing.assert_array_equal(found[2], PICTURE)
    with pytest.raises(InputError, match="is no picture"):
        RawPictures((8,))


def test_standard_input_makes_its_writer_wait_and_loses_nothing() -> None:
    reader, writer = os.pipe()
    source = Stdin(lambda: Packets((3, 2, 2)), reader)
    source.open()
    assert source.next(0.01) is None

    def write() -> None:
        with os.fdopen(writer, "wb") as file:
            for number in range(5000):
                file.write(pack_input(INPUT + np.float32(number)))

    thread = threading.Thread(target=write)
    thread.start()
    for number in range(5000):
        frame = eventually(lambda: source.next(1))
        assert frame.data[0, 0, 0] == np.float32(number - 1)
    with pytest.raises(SourceEnded):
        eventually(lambda: source.next(1))
    thread.join()
    source.close()
    source.close()
    os.close(reader)


def test_a_serial_port_that_is_unplugged_is_told(tmp_path: Path) -> None:
    pytest.importorskip("serial")
    ours, theirs = os.openpty()
    source = SerialFrames(f"{os.ttyname(theirs)}@57600", lambda: Packets((3, 2, 2)))
    source.open()
    os.write(ours, b"garbage" + pack_input(INPUT))
    np.testing.assert_array_equal(eventually(lambda: source.next(1)).data, INPUT)
    os.close(ours)
    os.close(theirs)
    with pytest.raises(Exception):  # noqa: B017, PT011  # pyserial's own, or OSError
        eventually(lambda: source.next(1))
    source.close()


# --- frames from files and cameras -----------------------------------------------------------------------------------


def names(source: FrameSource, count: int) -> list[str]:
    return [eventually(lambda: source.next(0.05)).name for _ in range(count)]


def test_a_folder_is_walked_once_or_again(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Folder(tmp_path / "nothing").open()
    with pytest.raises(InputError, match="There is no picture"):
        Folder(tmp_path).open()
    (tmp_path / "sub").mkdir()
    for name in ("b.npy", "a.npy", "sub/c.npy"):
        np.save(tmp_path / name, PICTURE)
    (tmp_path / "notes.txt").touch()
    source = Folder(tmp_path)
    source.open()
    assert names(source, 3) == ["a.npy", "b.npy", "sub/c.npy"]
    with pytest.raises(SourceEnded):
        source.next(0.01)
    source = Folder(tmp_path, repeat=True)
    source.open()
    assert names(source, 5) == ["a.npy", "b.npy", "sub/c.npy", "a.npy", "b.npy"]
    (tmp_path / "a.npy").write_bytes(b"no picture")
    source.open()
    with pytest.raises(BadFrame):
        source.next(0.01)
    assert names(source, 1) == ["b.npy"]


def test_a_folder_is_watched_and_half_a_file_waits(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", PICTURE)
    whole = (tmp_path / "a.npy").read_bytes()
    source = Folder(tmp_path, watch=True)
    source.open()
    assert names(source, 1) == ["a.npy"]
    with (tmp_path / "b.npy").open("wb", buffering=0) as file:
        for byte in (whole[:50], whole[50:90]):
            file.write(byte)
            assert source.next(0.05) is None, "it still grows"
        file.write(whole[90:])
    assert names(source, 1) == ["b.npy"]
    (tmp_path / "a.npy").unlink()
    np.save(tmp_path / "a.npy", PICTURE)
    assert names(source, 1) == ["a.npy"]
    for path in tmp_path.iterdir():
        path.unlink()
    source.next(0.05)
    assert source._done == {}, "what has gone is forgotten"
    tmp_path.rmdir()
    with pytest.raises(FileNotFoundError):
        eventually(lambda: source.next(0.05))
    tmp_path.mkdir()


def test_an_array_of_frames(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    for array in (np.zeros((2, 3), np.int64), np.zeros(3, np.float32), np.zeros((0, 2, 2), np.float32)):
        np.save(path, array)
        with pytest.raises(InputError):
            Npy(path).open()
    path.write_bytes(b"x")
    with pytest.raises(InputError, match="can't be read"):
        Npy(path).open()
    np.save(path, PICTURE)
    source = Npy(path, repeat=True)
    source.open()
    assert names(source, 2) == ["x.npy[0]", "x.npy[0]"]
    source.close()


class FakeCapture:
    """As cv2.VideoCapture: ``pictures``, then nothing."""

    def __init__(self, pictures: list[Any]) -> None:
        self.pictures, self.released = pictures, False

    def isOpened(self) -> bool:
        return bool(self.pictures)

    def read(self) -> tuple[bool, Any]:
        time.sleep(0.002)
        picture = self.pictures.pop(0) if self.pictures else None
        if isinstance(picture, Exception):
            raise picture
        return picture is not None, picture

    def release(self) -> None:
        self.released = True


def test_a_camera(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(InputError, match="needs OpenCV") as caught:
        Camera("0")
    assert "pip install opencv-python-headless" in caught.value.hint
    captures: list[FakeCapture] = []
    content: list[Any] = [PICTURE]

    class Cv2:
        @staticmethod
        def VideoCapture(where: Any) -> FakeCapture:
            captures.append(FakeCapture(list(content)))
            return captures[-1]

    source = Camera("0", Cv2)
    source.open()
    np.testing.assert_array_equal(eventually(lambda: source.next(0.05)).data, PICTURE[:, :, ::-1])
    with pytest.raises(OSError, match="no more pictures"):
        eventually(lambda: source.next(0.05))
    source.close()
    assert captures[-1].released
    content[:] = [ValueError("the cable")]
    source.open()
    with pytest.raises(OSError, match="the cable"):
        eventually(lambda: source.next(0.05))
    source.close()
    content[:] = []
    with pytest.raises(OSError, match="cannot be opened"):
        source.open()
    (tmp_path / "clip.mp4").touch()  # of a file no picture is left out, and it ends
    content[:] = [PICTURE + np.uint8(n) for n in range(5)]
    clip = Camera(str(tmp_path / "clip.mp4"), Cv2)
    clip.open()
    assert [int(eventually(lambda: clip.next(0.05)).data[0, 0, 2]) for _ in range(5)] == list(range(5))
    with pytest.raises(SourceEnded):
        eventually(lambda: clip.next(0.05))
    clip.close()


def test_frames_become_inputs() -> None:
    frame = Frame("x", np.full((4, 4, 3), 255, np.uint8))
    assert frame.to_input((3, 4, 4), Preprocessing()).shape == (1, 3, 4, 4)
    assert Frame("x", INPUT).to_input((3, 2, 2), Preprocessing()).dtype == np.float32
    with pytest.raises(InputError):
        frame.to_input((7, 4, 4), Preprocessing())


# --- the loop --------------------------------------------------------------------------------------------------------


class Breaking(FrameSource):
    """Gives what a script says: frames, None, and exceptions; opening may fail too."""

    name = "script"

    def __init__(self, script: list[Any]) -> None:
        self.script, self.opened, self.closed = script, 0, 0

    def open(self) -> None:
        self.opened += 1
        if self.script and self.script[0] == "no":
            self.script.pop(0)
            raise OSError("not yet")

    def next(self, timeout_s: float) -> Frame | None:
        step = self.script.pop(0) if self.script else SourceEnded("The script has ended.")
        if isinstance(step, Exception):
            raise step
        return step  # type: ignore[no-any-return]

    def close(self) -> None:
        self.closed += 1


def served(session: Session, source: FrameSource, tmp_path: Path, **options: Any) -> list[dict[str, Any]]:
    """The events of a service that runs to its end."""
    journal = Journal(tmp_path / "events")
    Service(session, source, Status(session, "test", "x", None), journal=journal, **options).run()
    journal.close()
    return entries(tmp_path / "events")


def test_a_source_that_breaks_is_opened_again(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "FIRST_RETRY_S", 0.01)
    shape, results = session.bundle.graph.inputs[0].shape, list[Any]()
    good = Frame("good", np.zeros(shape, np.float32))
    bad = [Frame("wrong", np.zeros(3, np.float32)), Frame("nan", np.full(shape, np.nan, np.float32)), BadFrame("torn")]
    source = Breaking([good, OSError("unplugged"), "no", "no", good, *bad, None, good])
    events = served(session, source, tmp_path, on_result=results.append)
    assert [result["source"] for result in results] == ["good"] * 3
    assert [event["event"] for event in events] == [
        "started", "source_lost", "source_back", "bad_frame", "stopped"
    ]  # fmt: skip
    assert events[1]["reason"] == "OSError: unplugged"
    assert source.opened == 4
    assert events[-1]["reason"] == "The script has ended."


def test_the_clock_of_the_day_may_jump(session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steering and pace go by the monotonic clock; only the times that are written change."""
    real, shift = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: real() + shift[0])
    frame = Frame("x", np.zeros(session.bundle.graph.inputs[0].shape, np.float32))
    levels: list[int] = []

    def result(entry: Any) -> None:
        levels.append(entry["level"])
        shift[0] = (-1e8, 1e8)[len(levels) % 2]
        session.report("battery", 10 if len(levels) > 20 else 90)

    rules = [{"when": "battery < 20", "min_level": 2}]
    session.follow(policy={"period_s": 0.01, "dwell_s": 0.01, "rules": rules})
    served(session, Breaking([frame] * 60), tmp_path, on_result=result, fps=200)
    assert set(levels[:20]) == {0}
    assert levels[-1] == 2


def test_what_a_source_may_be(session: Session) -> None:
    for text in ("dir:", "npy:", "serial:", "stdin:x", "x", ""):
        with pytest.raises(InputError, match="is no source of frames"):
            open_source(text, session)


def test_the_history_is_thinned_from_its_end(session: Session) -> None:
    status = Status(session, "test", "x", None)
    for _ in range(25):
        status.frame(0, 1.0)
        status.sample()
    times = [id(sample) for sample in status.history()]
    assert [id(sample) for sample in status.history(points=10)] == times[::3]
    assert [id(sample) for sample in status.history(points=13)] == times[::2]
    assert [id(sample) for sample in status.history(5)] == times[-5:]
    assert status.now()["latency_ms"] == {"p50": 1.0, "p90": 1.0}
    json.dumps(status.hello(), allow_nan=False)
