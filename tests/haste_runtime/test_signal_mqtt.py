"""Numbers from an MQTT broker: a small one of our own over real sockets, and mosquitto where it is installed."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import waiting

from haste_runtime.errors import SignalError
from haste_runtime.signals import mqtt
from haste_runtime.signals.mqtt import Mqtt

client_module = pytest.importorskip("paho.mqtt.client")
MISSING = not shutil.which("mosquitto") and not os.environ.get("CI")  # in CI it must not be
BROKERS = ["ours", pytest.param("mosquitto", marks=pytest.mark.skipif(MISSING, reason="mosquitto is not installed"))]


eventually = partial(waiting.eventually, seconds=20)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class OurBroker:
    """Enough of MQTT 3.1.1 for clients that subscribe at QoS 0 (OASIS standard, sections 2 and 3)."""

    def __init__(self, port: int, answer: int = 0) -> None:
        self.code, self.hello = answer, b""  # 5: not authorised
        self.subscribed: list[tuple[socket.socket, str]] = []
        self.connections: list[socket.socket] = []
        self.server = socket.create_server(("127.0.0.1", port))
        self.threads = [threading.Thread(target=self.accept)]
        self.threads[0].start()

    def accept(self) -> None:
        while True:
            try:
                connection, _ = self.server.accept()
            except OSError:
                return
            self.connections.append(connection)
            self.threads.append(threading.Thread(target=self.serve, args=(connection,)))
            self.threads[-1].start()

    def serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as stream:
            while True:
                try:
                    kind, size, shift = stream.read(1), 0, 0
                    while kind:
                        (byte,) = stream.read(1)
                        size, shift = size | (byte & 127) << shift, shift + 7
                        if byte < 128:
                            break
                    body = stream.read(size)
                    if not kind:
                        return
                    self.answer(connection, kind[0] >> 4, body)
                except (OSError, ValueError):
                    return

    def answer(self, connection: socket.socket, kind: int, body: bytes) -> None:
        if kind == 1:  # CONNECT
            self.hello = body
            connection.sendall(bytes([0x20, 2, 0, self.code]))
        elif kind == 8:  # SUBSCRIBE
            topics, at = [], 2
            while at < len(body):
                (size,) = struct.unpack(">H", body[at : at + 2])
                topics.append(body[at + 2 : at + 2 + size].decode())
                at += 3 + size
            connection.sendall(bytes([0x90, 2 + len(topics)]) + body[:2] + bytes(len(topics)))
            self.subscribed += [(connection, topic) for topic in topics]
        elif kind == 12:  # PINGREQ
            connection.sendall(b"\xd0\x00")

    def publish(self, topic: str, payload: bytes) -> None:
        body = struct.pack(">H", len(topic)) + topic.encode() + payload
        head, size = [0x30], len(body)
        while size > 127:
            head, size = [*head, size & 127 | 128], size >> 7
        for connection, wanted in list(self.subscribed):
            if wanted == topic:
                with contextlib.suppress(OSError):  # it has gone
                    connection.sendall(bytes([*head, size]) + body)

    def stop(self) -> None:
        self.server.shutdown(socket.SHUT_RDWR)
        self.server.close()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join(10)


class Mosquitto:
    def __init__(self, port: int) -> None:
        self.process = subprocess.Popen(
            ["mosquitto", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.port = port
        self.client: Any = None

    def publish(self, topic: str, payload: bytes) -> None:
        if self.client is None:
            self.client = client_module.Client(client_module.CallbackAPIVersion.VERSION2)

            def connected() -> bool:
                try:
                    return bool(self.client.connect("127.0.0.1", self.port) == 0)
                except OSError:
                    return False

            eventually(connected)
            self.client.loop_start()
        self.client.publish(topic, payload).wait_for_publish(10)

    def stop(self) -> None:
        if self.client is not None:
            self.client.disconnect()
            self.client.loop_stop()
        self.process.terminate()
        self.process.wait(10)


@pytest.fixture(params=BROKERS)
def broker(request: pytest.FixtureRequest) -> Callable[[int], Any]:
    return OurBroker if request.param == "ours" else Mosquitto


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(mqtt, "LONGEST_RETRY_S", 1)
    before = threading.active_count()
    yield
    assert threading.active_count() == before


TOPICS = {"home/battery": "battery", "home/all": "other"}


def value(source: Mqtt, name: str = "battery") -> float | None:
    reading = source.readings(time.monotonic()).get(name)
    return reading.value if reading is not None and reading.ok else None


def test_values_garbage_and_a_broker_that_restarts(
    broker: Callable[[int], Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "haste_runtime")
    port = free_port()
    source = Mqtt("127.0.0.1", TOPICS, port)
    assert source.names == ("battery", "other")
    source.start(1.0)
    try:
        assert "cannot be heard" in source.readings(0.0)["battery"].reason  # there is no broker yet
        first = broker(port)

        def heard(running: Any, topic: str, payload: bytes, name: str, wanted: float) -> None:
            def again() -> bool:  # what is published before the subscription is lost
                running.publish(topic, payload)
                return value(source, name) == wanted

            eventually(again)

        try:
            heard(first, "home/battery", b"57.5", "battery", 57.5)
            heard(first, "home/battery", b'{"battery": 41, "ambient": 20}', "ambient", 20)
            assert value(source) == 41
            for garbage in (b"", b"\xff\xfe", b"{", b"x" * 10_000, b"full", b"battery=1=2"):
                first.publish("home/battery", garbage)
            heard(first, "home/all", b"yes", "other", 1)
            assert value(source) == 41
            first.publish("home/battery", b"nan")
            eventually(lambda: source.readings(0.0)["battery"].reason == "it gave nan")
            heard(first, "home/battery", b"40", "battery", 40)
        finally:
            first.stop()
        eventually(source.trouble)
        assert value(source) == 40  # holds
        old = source.readings(time.monotonic() + 301)["battery"]
        assert "cannot be heard" in old.reason
        second = broker(port)
        try:
            heard(second, "home/battery", b"39", "battery", 39)
            source.close()
            source.start(1.0)  # followed once more
            heard(second, "home/battery", b"38", "battery", 38)
        finally:
            source.close()
            second.stop()
    finally:
        source.close()
    told = [record.getMessage() for record in caplog.records]
    assert [("is there" in line) for line in told][:3] == [True, False, True], told
    assert not [line for line in told if "Normal" in line]


def test_it_is_closed_while_nobody_answers() -> None:
    source = Mqtt("127.0.0.1", TOPICS, free_port())
    source.start(1.0)
    eventually(lambda: "nobody answers" in source.trouble())
    source.close()
    source.close()


def test_a_broker_that_knows_us_not(caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()
    broker = OurBroker(port, answer=5)
    source = Mqtt("127.0.0.1", TOPICS, port, username="camera", password="secret")
    source.start(1.0)
    try:
        eventually(lambda: "uthori" in source.trouble())
        assert b"camera" in broker.hello
        assert b"secret" in broker.hello
        assert broker.subscribed == []
        assert "secret" not in caplog.text
    finally:
        source.close()
        broker.stop()


@pytest.mark.parametrize("topics", [{}, {"home/#": "battery"}, {"+/battery": "battery"}, {"home": "Battery"}])
def test_topics_are_checked(topics: dict[str, str]) -> None:
    with pytest.raises(SignalError):
        Mqtt("127.0.0.1", topics)
