"""Who hears of the results: any number of connections, each of which gets every line of JSON. Nothing is read of them.

A thread of its own accepts and sends, so that a client that is slow, hangs or is killed costs no frame: of what it does
not take in time, lines are left out, and it is told how many.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import selectors
import socket
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from haste_runtime.errors import InputError
from haste_runtime.service.addresses import Address

LOG = logging.getLogger("haste_runtime")
MOST_BYTES = 1 << 20  # that wait for one client
MOST_CLIENTS = 32
TICK_S = 1.0
JOIN_S = 2.0


class _Client:
    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.lines: deque[bytes] = deque()
        self.size, self.lost = 0, 0
        self.sent = 0  # of the first line

    def add(self, line: bytes) -> None:
        if self.size + len(line) > MOST_BYTES:
            self.lost += 1
            return
        if self.lost:
            gap = json.dumps({"event": "lines_lost", "lines": self.lost}).encode() + b"\n"
            self.lines.append(gap)
            self.size, self.lost = self.size + len(gap), 0
        self.lines.append(line)
        self.size += len(line)

    def send(self) -> None:
        """As much as it takes now. Raises OSError where it has gone."""
        while self.lines:
            line = self.lines[0]
            try:
                self.sent += self.connection.send(line[self.sent :])
            except BlockingIOError:
                return
            if self.sent < len(line):
                return
            self.lines.popleft()
            self.size, self.sent = self.size - len(line), 0


class Listeners:
    """Listens on ``addresses`` from `start` to `close`. hello: the first entry for a new client. tick: called about
    once per second by the thread; what it returns is sent to all. Raises InputError for an address that cannot be
    had."""

    def __init__(
        self,
        addresses: Sequence[Address],
        hello: Callable[[], Mapping[str, Any]],
        tick: Callable[[], Mapping[str, Any]],
    ) -> None:
        self._hello, self._tick = hello, tick
        self._clients: dict[socket.socket, _Client] = {}
        self._queue: deque[bytes] = deque(maxlen=1 << 14)
        self._selector, self._stop = selectors.DefaultSelector(), threading.Event()
        self._wake, self._woken = socket.socketpair()
        self._servers: list[tuple[Address, socket.socket]] = []
        self._thread: threading.Thread | None = None
        for end in (self._wake, self._woken):
            end.setblocking(False)
        try:
            for address in addresses:
                self._servers.append(_server(address))
        except BaseException:
            self.close()
            raise

    @property
    def addresses(self) -> list[Address]:
        """As they really are: with the port that the system chose, where it was 0."""
        return [address for address, _ in self._servers]

    @property
    def clients(self) -> int:
        return len(self._clients)

    def start(self) -> None:
        self._thread = threading.Thread(target=self._serve, name="haste-listeners", daemon=True)
        self._thread.start()

    def tell(self, entry: Mapping[str, Any]) -> None:
        """Send to everybody; never waits. From any thread."""
        if self._clients:
            self._queue.append(json.dumps(entry, allow_nan=False).encode() + b"\n")
            with contextlib.suppress(OSError):
                self._wake.send(b"x")

    def _serve(self) -> None:
        for _, server in self._servers:
            self._selector.register(server, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        due = time.monotonic()
        while not self._stop.is_set():
            for key, events in self._selector.select(max(0.0, min(TICK_S, due - time.monotonic()))):
                self._event(key.fileobj, events)
            if time.monotonic() >= due:
                due = max(due + TICK_S, time.monotonic())
                self._ticked()
            self._spread()
        self._spread()

    def _ticked(self) -> None:
        try:
            entry = self._tick()
        except Exception:
            LOG.exception("The state of the service cannot be told. This is a defect: please report it.")
        else:
            self.tell(entry)

    def _event(self, which: Any, events: int) -> None:
        if which is self._woken:
            with contextlib.suppress(OSError):
                self._woken.recv(4096)
        elif which in self._clients:
            self._heard(self._clients[which], events)
        else:
            self._accept(which)

    def _accept(self, server: socket.socket) -> None:
        try:
            connection, _ = server.accept()
        except OSError as error:  # it has gone already, or there are no more descriptors
            LOG.debug("A client could not be accepted: %s", error)
            time.sleep(0.01)
            return
        connection.setblocking(False)
        if len(self._clients) >= MOST_CLIENTS:
            connection.close()
            return
        client = _Client(connection)
        try:
            client.add(json.dumps(self._hello(), allow_nan=False).encode() + b"\n")
        except Exception:
            LOG.exception("The state of the service cannot be told. This is a defect: please report it.")
        self._clients[connection] = client
        self._selector.register(connection, selectors.EVENT_READ | selectors.EVENT_WRITE)

    def _heard(self, client: _Client, events: int) -> None:
        try:
            if events & selectors.EVENT_READ and not client.connection.recv(4096):
                raise ConnectionError
            if events & selectors.EVENT_WRITE:
                client.send()
                self._watch(client)
        except BlockingIOError:
            pass
        except OSError:
            self._drop(client)

    def _watch(self, client: _Client) -> None:
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if client.lines else 0)
        self._selector.modify(client.connection, wanted)

    def _drop(self, client: _Client) -> None:
        self._clients.pop(client.connection, None)
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(client.connection)
        client.connection.close()

    def _spread(self) -> None:
        while self._queue:
            line = self._queue.popleft()
            for client in self._clients.values():
                client.add(line)
        for client in list(self._clients.values()):
            try:
                client.send()
                self._watch(client)
            except OSError:
                self._drop(client)

    def close(self) -> None:
        """What has been told is sent, as far as clients take it at once."""
        self._stop.set()
        with contextlib.suppress(OSError):
            self._wake.send(b"x")
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(JOIN_S)
        for client in list(self._clients.values()):
            self._drop(client)
        for address, server in self._servers:
            server.close()
            if address.path is not None:
                address.path.unlink(missing_ok=True)
        self._servers = []
        self._wake.close()
        self._woken.close()
        self._selector.close()


def _server(address: Address) -> tuple[Address, socket.socket]:
    """A socket that listens. Raises InputError."""
    try:
        if address.path is None:
            family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
            server = socket.create_server((address.host, address.port), family=family, backlog=8)
            address = Address(host=address.host, port=server.getsockname()[1])
        else:
            address.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _make_room(address)
            server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                server.bind(os.fspath(address.path))
                server.listen(8)
            except BaseException:
                server.close()
                raise
    except OSError as error:
        raise InputError(f"{address} cannot be listened on: {error}.", "Choose another with --listen.") from None
    server.setblocking(False)
    return address, server


def _make_room(address: Address) -> None:
    """Remove the socket of a service that has gone. Raises InputError where one is running."""
    assert address.path is not None
    if not address.path.exists():
        return
    if not stat.S_ISSOCK(address.path.stat().st_mode):
        raise InputError(f"{address.path} is there, and is no socket.", "Choose another with --listen.")
    try:
        address.connect(1.0).close()
    except ConnectionRefusedError:
        address.path.unlink(missing_ok=True)
    else:
        raise InputError(f"A service is running at {address} already.", "Give this one another --name.")
