"""A bundle over a serial line: frames, the conversation over any bad line, and both commands over a real one."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import select
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from builders import GraphBuilder, bundle_for
from hypothesis import given, settings
from hypothesis import strategies as st

from haste_runtime.bundle import write_bundle
from haste_runtime.serial_transfer import folder as folder_module
from haste_runtime.serial_transfer import port as port_module
from haste_runtime.serial_transfer.folder import Folder
from haste_runtime.serial_transfer.framing import (
    LONGEST,
    PAYLOAD,
    Frame,
    Kind,
    Splitter,
    decode,
    encode,
    stuff,
    unstuff,
)
from haste_runtime.serial_transfer.protocol import (
    CHUNK,
    NOBODY,
    PATIENCE,
    VERSION,
    WINDOW,
    Offer,
    Receiver,
    Sender,
    TransferError,
)

BAUDRATE = 921600  # only sets how long the two sides wait for each other: a pseudo-terminal has no speed
FRAMES = st.builds(Frame, st.sampled_from(Kind), st.integers(0, 2**32 - 1), st.binary(max_size=600))

# --- frames ----------------------------------------------------------------------------------------------------------


@given(st.one_of(st.binary(max_size=600), st.lists(st.sampled_from([0, 1, 255]), max_size=600).map(bytes)))
def test_stuffing_takes_zeros_out_and_brings_them_back(content: bytes) -> None:
    stuffed = stuff(content)
    assert 0 not in stuffed
    assert unstuff(stuffed) == content
    assert len(stuffed) <= len(content) + 1 + len(content) // 254


@pytest.mark.parametrize("size", [0, 1, 253, 254, 255, 507, 508, 509, PAYLOAD])
def test_stuffing_at_the_ends_of_blocks(size: int) -> None:
    for content in (b"x" * size, b"x" * size + b"\0", b"\0" + b"x" * size, b"\0" * size):
        assert unstuff(stuff(content)) == content
    assert len(encode(Frame(Kind.DATA, 0, b"x" * size))) - 2 <= LONGEST


@given(st.binary(max_size=600))
def test_no_bytes_raise(garbage: bytes) -> None:
    assert decode(garbage) is None or isinstance(decode(garbage), Frame)


@given(st.lists(FRAMES, max_size=5), st.binary(max_size=40), st.data())
def test_frames_come_together_from_any_pieces_after_any_garbage(
    frames: list[Frame], garbage: bytes, data: st.DataObject
) -> None:
    stream, splitter, found = garbage + b"".join(map(encode, frames)), Splitter(), list[Frame]()
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += splitter.feed(stream[:size])
        stream = stream[size:]
    assert found[len(found) - len(frames) :] == frames


@given(FRAMES, st.data())
def test_a_frame_with_a_flipped_bit_is_none(frame: Frame, data: st.DataObject) -> None:
    stuffed = bytearray(encode(frame)[1:-1])
    bit = data.draw(st.integers(0, 8 * len(stuffed) - 1))
    stuffed[bit // 8] ^= 1 << bit % 8
    assert [f for f in Splitter().feed(b"\0" + bytes(stuffed) + b"\0") if f == frame] == []
    assert not any(decode(part) for part in bytes(stuffed).split(b"\0"))


@given(FRAMES, st.data())
def test_a_frame_that_lost_bytes_is_none(frame: Frame, data: st.DataObject) -> None:
    stuffed = encode(frame)[1:-1]
    begin = data.draw(st.integers(0, len(stuffed) - 1))
    end = data.draw(st.integers(begin + 1, len(stuffed)))
    assert decode(stuffed[:begin] + stuffed[end:]) is None


def test_a_stream_without_borders_takes_no_memory() -> None:
    splitter = Splitter()
    for _ in range(5):
        assert splitter.feed(b"x" * LONGEST) == []
        assert len(splitter._rest) <= LONGEST + 1
    frame = Frame(Kind.ACK, 7)
    assert splitter.feed(encode(frame)) == [frame]
    assert splitter.strange > LONGEST


# --- the conversation ------------------------------------------------------------------------------------------------


class Memory:
    """A store without a disk."""

    def __init__(self, there: bytes = b"") -> None:
        self.content = bytearray(there)

    def open(self, offer: Offer) -> int:
        return len(self.content)

    def write(self, offset: int, block: bytes) -> None:
        assert offset == len(self.content)
        self.content += block

    def finish(self) -> dict[str, Any]:
        return {"path": "somewhere"}


def offer_of(content: bytes) -> Offer:
    return Offer("net.haste", len(content), hashlib.sha256(content).hexdigest())


def converse(
    content: bytes, store: Memory, damage: Callable[[bytes], bytes], seconds: float = 600
) -> tuple[Sender, Receiver, int]:
    """Until the sender is done, over a line that does to each piece what ``damage`` does; how many bytes it took."""
    sender, receiver = Sender(offer_of(content), lambda at, size: content[at : at + size]), Receiver(store)
    there, back, now, bytes_sent = Splitter(), Splitter(), 0.0, 0
    while sender.answer is None:
        assert now < seconds
        for frame in sender.send(now):
            bytes_sent += len(encode(frame))
            for arrived in there.feed(damage(encode(frame))):
                for answer in receiver.take(arrived):
                    for returned in back.feed(damage(encode(answer))):
                        sender.take(returned, now)
        now += 0.25
    return sender, receiver, bytes_sent


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 40_000), st.integers(0, 40_000), st.sampled_from([0, 0.05, 0.3]))
def test_whatever_a_line_does_the_file_arrives(seed: int, size: int, part: int, rate: float) -> None:
    rng = random.Random(seed)
    content = rng.randbytes(size)
    store = Memory(content[:part])

    def damage(data: bytes) -> bytes:
        chance = rng.random()
        if chance >= rate:
            return data
        if chance < rate / 4:
            return b""
        if chance < rate / 2:
            return data + data  # doubled
        at = rng.randrange(len(data))
        if chance < 3 * rate / 4:
            return data[:at] + data[at + rng.randrange(1, 20) :]
        return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]

    sender, _, sent = converse(content, store, damage)
    assert bytes(store.content) == content
    assert sender.answer == {"path": "somewhere"}
    if not rate:
        assert sent < 1.03 * (size - min(part, size)) + 400  # nothing is sent twice, nor what was there


def test_a_cut_line_is_told_after_patience_and_the_next_attempt_goes_on() -> None:
    content, store = random.Random(0).randbytes(50_000), Memory()
    alive = [True]

    def damage(data: bytes) -> bytes:
        if len(store.content) > 20_000:
            alive[0] = False
        return data if alive[0] else b""

    with pytest.raises(TransferError, match=r"was cut after \d{5} of 50000 bytes") as caught:
        converse(content, store, damage)
    assert "goes on there" in caught.value.hint
    sender, _, sent = converse(content, store, lambda data: data)
    assert sender.began > 20_000
    assert sent < 31_000
    assert bytes(store.content) == content


def test_no_more_than_a_window_is_on_the_way() -> None:
    sender = Sender(Offer("net.haste", 10**6, ""), lambda at, size: bytes(size))
    assert [f.kind for f in sender.send(0)] == [Kind.HELLO]
    sender.take(Frame(Kind.READY, 0), 0)
    frames = sender.send(0)
    assert [f.number for f in frames] == [CHUNK * n for n in range(WINDOW)]
    assert sender.send(0.5) == []
    sender.take(Frame(Kind.ACK, CHUNK), 0.5)
    assert [f.number for f in sender.send(0.5)] == [CHUNK * WINDOW]
    sender.take(Frame(Kind.ACK, CHUNK), 0.6)  # something was lost: all again, once
    assert len(sender.send(0.6)) == WINDOW
    sender.take(Frame(Kind.ACK, CHUNK), 0.7)
    assert sender.send(0.7) == []
    sender.take(Frame(Kind.ACK, 10**7), 0.7)  # nonsense
    assert sender.there == CHUNK


def test_nobody_and_only_an_echo() -> None:
    def say(echo: bool) -> None:
        sender = Sender(Offer("net.haste", 10, ""), lambda at, size: bytes(size))
        for second in range(3 * PATIENCE):
            for frame in sender.send(second):
                if echo:
                    sender.take(frame, second)

    for echo in (False, True):
        with pytest.raises(TransferError, match=NOBODY):
            say(echo)


def test_another_version_is_refused_on_both_sides() -> None:
    (answer,) = Receiver(Memory()).take(Frame(Kind.HELLO, VERSION + 1, offer_of(b"x").encode()))
    assert answer == Frame(Kind.FAIL, VERSION, b"{}")
    sender = Sender(offer_of(b"x"), lambda at, size: b"x")
    with pytest.raises(TransferError, match=f"speaks version {VERSION + 1}"):
        sender.take(Frame(Kind.FAIL, VERSION + 1, b"{}"), 0)


@pytest.mark.parametrize(
    "payload", [b"", b"[]", b"{}", b'{"name": 1, "size": 1, "sha256": ""}', b"\xff", b'{"name": "']
)
def test_an_offer_that_is_none(payload: bytes) -> None:
    (answer,) = Receiver(Memory()).take(Frame(Kind.HELLO, VERSION, payload))
    assert answer.kind is Kind.FAIL


@given(st.lists(FRAMES, max_size=20))
def test_a_receiver_survives_any_frames(frames: list[Frame]) -> None:
    receiver = Receiver(Memory())
    for frame in frames:
        for answer in receiver.take(frame):
            assert answer.kind in (Kind.READY, Kind.ACK, Kind.DONE, Kind.FAIL)


def test_more_than_was_offered() -> None:
    receiver = Receiver(Memory())
    receiver.take(Frame(Kind.HELLO, VERSION, offer_of(b"12").encode()))
    (answer,) = receiver.take(Frame(Kind.DATA, 0, b"123"))
    assert b"more was sent" in answer.payload


# --- the folder ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some 90 kB."""
    builder = GraphBuilder(0, x=(150,))
    builder.linear("logits", "x", 150, 150)
    path = tmp_path_factory.mktemp("bundle") / "net.haste"
    write_bundle(path, bundle_for(builder.graph("logits")))
    return path


def refused(act: Callable[[], Any]) -> str:
    with pytest.raises(TransferError) as caught:
        act()
    return str(caught.value)


@pytest.mark.parametrize(
    "name", ["../net.haste", "/etc/net.haste", ".haste", "net.txt", "a/b.haste", "net.haste\n", ""]
)
def test_names_that_lead_elsewhere(tmp_path: Path, name: str) -> None:
    folder = Folder(tmp_path / "in")
    assert "is not the name of a bundle" in refused(lambda: folder.open(Offer(name, 1, "0" * 64)))
    assert list((tmp_path / "in").iterdir()) == []


def test_what_cannot_be_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(tmp_path)
    assert "not the name" in refused(lambda: folder.open(Offer("net.haste", 1, "../" + "0" * 61)))
    assert "cannot have" in refused(lambda: folder.open(Offer("net.haste", 2**40, "0" * 64)))
    monkeypatch.setattr(folder_module, "SPARE", 1 << 60)
    assert "bytes left" in refused(lambda: folder.open(Offer("net.haste", 10, "0" * 64)))
    folder.close()
    (tmp_path / "file").touch()
    assert "cannot be made" in refused(lambda: Folder(tmp_path / "file"))


def test_what_arrives_wrong_is_not_kept(tmp_path: Path, bundle: Path) -> None:
    content = bundle.read_bytes()
    folder = Folder(tmp_path)
    assert folder.open(offer_of(content)) == 0
    folder.write(0, content[:-1] + b"\0")
    assert "another checksum" in refused(folder.finish)
    assert list(tmp_path.iterdir()) == []
    folder.open(offer_of(b"no bundle"))
    folder.write(0, b"no bundle")
    assert "no sound bundle" in refused(folder.finish)
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_that_is_there_is_told_at_once(tmp_path: Path, bundle: Path) -> None:
    content = bundle.read_bytes()
    (tmp_path / "net.haste").write_bytes(content)
    folder = Folder(tmp_path)
    assert folder.open(offer_of(content)) == len(content)
    assert folder.finish()["path"] == str(tmp_path / "net.haste")


# --- over a real line ------------------------------------------------------------------------------------------------


class Line:
    """Two pseudo-terminals with a wire between them that a test can spoil. damage: what it does to each piece."""

    def __init__(self, folder: Path) -> None:
        self.ends = [os.openpty() for _ in range(2)]
        self.paths = [folder / "here", folder / "there"]
        for path, (_, slave) in zip(self.paths, self.ends, strict=True):
            path.symlink_to(os.ttyname(slave))
        self.damage: Callable[[bytes], bytes] = lambda data: data
        self.passed = 0
        self._stop = False
        self._thread = threading.Thread(target=self._carry)
        self._thread.start()

    def _carry(self) -> None:
        masters = [master for master, _ in self.ends]
        waiting: dict[int, deque[bytes]] = {master: deque() for master in masters}
        while not self._stop:
            writing = [master for master in masters if waiting[master]]
            readable, writable, _ = select.select(masters, writing, [], 0.05)
            for master in readable:
                data = self.damage(os.read(master, 512))
                self.passed += len(data)
                if data:
                    waiting[masters[1 - masters.index(master)]].append(data)
            for master in writable:
                data = waiting[master].popleft()
                done = os.write(master, data)
                if done < len(data):
                    waiting[master].appendleft(data[done:])

    def close(self) -> None:
        self._stop = True
        self._thread.join(20)
        for end in self.ends:
            for descriptor in end:
                os.close(descriptor)


@pytest.fixture
def line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
    if sys.platform == "win32":
        pytest.skip("pseudo-terminals are of Unix")
    pytest.importorskip("serial")
    monkeypatch.setattr(port_module, "TIMEOUT_S", 0.2)
    line = Line(tmp_path)
    yield line
    line.close()


@contextlib.contextmanager
def receiving(line: Line, folder: Path, arrived: list[dict[str, Any]]) -> Iterator[threading.Thread]:
    thread = threading.Thread(
        target=port_module.receive,
        args=(folder, str(line.paths[1]), BAUDRATE, lambda *told: None, arrived.append),
    )
    thread.start()
    yield thread
    thread.join(60)
    assert not thread.is_alive()


def send(line: Line, bundle: Path, **options: Any) -> dict[str, Any]:
    return port_module.send(bundle, str(line.paths[0]), BAUDRATE, lambda *told: None, **options)


@pytest.mark.parametrize("kind", ["clean", "lossy", "flipping"])
def test_a_bundle_goes_over_the_line(line: Line, tmp_path: Path, bundle: Path, kind: str) -> None:
    rng = random.Random(1)

    def spoil(data: bytes) -> bytes:
        at = rng.randrange(len(data))
        if kind == "clean" or rng.random() > 0.08:
            return data
        if kind == "lossy":
            return data[:at] + data[at + 5 :]
        return data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :]

    line.damage = spoil
    arrived: list[dict[str, Any]] = []
    with receiving(line, tmp_path / "in", arrived):
        assert send(line, bundle, dry_run=True) == {"there": 0, "size": bundle.stat().st_size}
        answer = send(line, bundle)
    assert (tmp_path / "in/net.haste").read_bytes() == bundle.read_bytes()
    assert answer["path"] == str(tmp_path / "in/net.haste")
    assert answer["sent"] == answer["size"] == bundle.stat().st_size
    assert [one["path"] for one in arrived] == [answer["path"]]
    assert [p.name for p in (tmp_path / "in").iterdir()] == ["net.haste"]


def test_an_end_that_the_sender_does_not_hear_is_told_again(line: Line, tmp_path: Path, bundle: Path) -> None:
    """At any speed of the line the receiver stays until the sender has asked again, and once more."""
    lost: list[bytes] = []

    def spoil(data: bytes) -> bytes:
        if b'"path"' in data and len(lost) < 2:
            lost.append(data)
            return b""
        return data

    line.damage = spoil
    with receiving(line, tmp_path / "in", []):
        answer = send(line, bundle)
    assert len(lost) == 2
    assert answer["path"] == str(tmp_path / "in/net.haste")


def test_cut_in_the_middle_and_resumed(line: Line, tmp_path: Path, bundle: Path) -> None:
    size, arrived = bundle.stat().st_size, list[dict[str, Any]]()

    def cut(data: bytes) -> bytes:
        return data if line.passed < size // 2 else b""

    line.damage = cut
    with receiving(line, tmp_path / "in", arrived):
        with pytest.raises(TransferError, match=r"was cut after \d+ of"):
            send(line, bundle)
        assert arrived == []
        assert not (tmp_path / "in/net.haste").exists()
        line.damage = lambda data: data
        answer = send(line, bundle)
    assert 0 < answer["sent"] < size
    assert answer["there"] + answer["sent"] == size
    assert (tmp_path / "in/net.haste").read_bytes() == bundle.read_bytes()


def test_a_wrong_peer(line: Line, bundle: Path) -> None:
    """A login prompt that echoes what it hears."""
    stop = threading.Event()

    def login() -> None:
        import serial

        with serial.serial_for_url(str(line.paths[1]), timeout=0.05) as port:
            while not stop.is_set():
                data = port.read(256)
                port.write(b"raspberrypi login: " + data)

    thread = threading.Thread(target=login)
    thread.start()
    try:
        with pytest.raises(TransferError, match="is not `haste-run receive`") as caught:
            send(line, bundle)
    finally:
        stop.set()
        thread.join(20)
    assert "such as a login" in caught.value.hint


def test_a_port_that_is_not_there(bundle: Path) -> None:
    pytest.importorskip("serial")
    with pytest.raises(TransferError, match="/dev/no-such-port cannot be opened"):
        port_module.send(bundle, "/dev/no-such-port", 115200, lambda *told: None)


def test_a_refusal_is_heard(line: Line, tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_module, "SPARE", 1 << 60)
    arrived: list[dict[str, Any]] = []
    with receiving(line, tmp_path / "in", arrived):
        with pytest.raises(TransferError, match=r"The receiver refuses: there are \d+ bytes left"):
            send(line, bundle)
        monkeypatch.setattr(folder_module, "SPARE", 0)
        send(line, bundle)
    assert len(arrived) == 1


def test_both_commands(line: Line, tmp_path: Path, bundle: Path) -> None:
    """`haste-run receive` in a process of its own, which waits for a port that comes later."""
    place = tmp_path / "ttyLATER"
    command = [sys.executable, "-m", "haste_runtime.cli", "receive", "--serial", str(place), "-o", "in", "--json"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while "cannot be used now" not in (said := process.stderr.readline()):
            assert said
        place.symlink_to(os.readlink(line.paths[1]))
        end = time.monotonic() + 60
        while True:
            try:
                answer = send(line, bundle)
                break
            except TransferError:
                assert time.monotonic() < end
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert json.loads(out) == {"path": "in/net.haste", "sha256": offer_of(bundle.read_bytes()).sha256}
    assert answer["path"] == "in/net.haste"
