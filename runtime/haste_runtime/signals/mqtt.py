"""Numbers from an MQTT broker: a home's battery, the weather, a command for a whole fleet.

    session.follow(Mqtt("broker.local", {"home/battery": "battery"}), policy="policy.toml")

A payload is a number, a word for yes or no, or what a line over a serial port would be (`haste_runtime.signals.lines`).
The connection is kept by paho-mqtt in a thread of its own; it is tried again when it is lost, and the topics are then
subscribed anew. Needs ``haste-runtime[mqtt]``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from haste_runtime.errors import SignalError
from haste_runtime.signals.heard import Heard
from haste_runtime.signals.lines import LONGEST, number_in, parse_line
from haste_runtime.signals.signal import describe, require

LOG = logging.getLogger("haste_runtime")
FIRST_RETRY_S, LONGEST_RETRY_S = 1, 30
KEEPALIVE_S = 30
NOT_YET = "it has not been reached yet"


class Mqtt(Heard):
    """Gives the names in ``topics``, a dict from topic to name; wildcards are not names, and not allowed.

    A payload that holds names itself (JSON, or pairs) gives those instead. stale_after_s: how long a value may be acted
    on; None, for topics that are published only when something changes, for ever. username, password: as the broker
    asks for them. tls: encrypt, with the certificates that the system trusts.
    """

    def __init__(
        self,
        host: str,
        topics: Mapping[str, str],
        port: int = 1883,
        *,
        stale_after_s: float | None = 300.0,
        username: str | None = None,
        password: str | None = None,
        tls: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(topics.values(), stale_after_s, clock)
        self._mqtt = require("paho.mqtt.client", "mqtt", "MQTT")
        if not topics or any("#" in topic or "+" in topic for topic in topics):
            raise SignalError(f"The topics are {list(topics)}.", "Give at least one topic, each without wildcards.")
        self._host, self._port, self._topics = host, port, dict(topics)
        self._failure = NOT_YET
        self._login, self._tls = (username, password), tls
        self._client: Any = None

    def trouble(self) -> str:
        return f"the broker {self._host}:{self._port} cannot be heard: {self._failure}" if self._failure else ""

    def start(self, period_s: float) -> None:
        client = self._mqtt.Client(self._mqtt.CallbackAPIVersion.VERSION2)
        client.reconnect_delay_set(FIRST_RETRY_S, LONGEST_RETRY_S)
        if self._login[0] is not None:
            client.username_pw_set(*self._login)
        if self._tls:
            client.tls_set()
        client.on_connect = self._connected
        client.on_connect_fail = lambda *_: self._told("nobody answers")
        client.on_disconnect = self._disconnected
        client.on_message = self._message
        client.connect_async(self._host, self._port, KEEPALIVE_S)
        client.loop_start()
        self._client = client

    def _connected(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            self._told(str(reason))
            return
        self._told("")
        client.subscribe([(topic, 0) for topic in self._topics])

    def _disconnected(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        # Where the broker refused us, its reason stays: that of the end of the connection, which follows, says less.
        if reason.is_failure:
            self._told(self._failure or str(reason))

    def _message(self, client: Any, userdata: Any, message: Any) -> None:
        try:
            text = bytes(message.payload[:LONGEST]).decode("utf-8", errors="replace")
            number = number_in(text)
            self.hear(parse_line(text) if number is None else {self._topics[message.topic]: number})
        except Exception as error:  # paho would end its thread
            LOG.debug("A message of %s could not be read: %s", self._host, describe(error))

    def _told(self, failure: str) -> None:
        """A line in the log when the broker is lost, and one when it is back."""
        if failure and not self._failure:
            LOG.warning("The broker %s:%d is lost: %s. Trying again.", self._host, self._port, failure)
        elif self._failure and not failure:
            LOG.info("The broker %s:%d is there.", self._host, self._port)
        self._failure = failure

    def close(self) -> None:
        client, self._client = self._client, None  # one that was stopped is not started again: paho would leak a socket
        if client is not None:
            client.disconnect()
            client.loop_stop()
        self._failure = NOT_YET
