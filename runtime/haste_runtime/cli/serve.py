"""``haste-run serve``: a network as a service, steered by a policy."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from haste_runtime.backends import NAMES
from haste_runtime.cli.common import latency, level_that_meets, note, positive_integer, print_json, thread_count
from haste_runtime.errors import InputError
from haste_runtime.service.addresses import (
    DEFAULT_NAME,
    checked_service_name,
    parse_address,
    state_folder,
)

if TYPE_CHECKING:
    from haste_runtime.governor.policy import Policy
    from haste_runtime.service.loop import Service
    from haste_runtime.session import Session
    from haste_runtime.signals.signal import Source

FRAMINGS = ("raw", "packets")
STARTING_S = 300.0  # what compiling the kernels may take on a small board, at the first start
PASSWORD = "HASTE_MQTT_PASSWORD"
EPILOG = """sources of frames:
  dir:FOLDER     its pictures, once; with --watch also those that come later
  npy:FILE       pictures, uint8 (N, H, W, 3), or the network's own input, float (N, ...)
  camera:0       a camera over OpenCV; also a device, the URL of a stream, or a video file
  serial:PORT    packets over a serial port; serial:PORT@BAUD
  stdin          pictures of the network's size, RGB, one after the other (--framing packets: packets)

examples:
  haste-run serve net.haste --source camera:0 --policy policy.toml
  haste-run serve net.haste --source dir:incoming --watch --policy policy.toml --serial "/dev/ttyUSB0?names=battery"
  haste-run serve net.haste --source npy:frames.npy --output results.jsonl
  ffmpeg -i clip.mp4 -vf scale=224:224 -f rawvideo -pix_fmt rgb24 - | haste-run serve net.haste --source stdin
  haste-run serve net.haste --source camera:0 --mqtt "mqtt://broker.local?battery=home/battery" --page

Watch it with `haste-run top`; write a unit file for systemd with `haste-run install-service`."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.epilog, parser.formatter_class = EPILOG, argparse.RawDescriptionHelpFormatter
    parser.add_argument("bundle", help="the .haste file")
    parser.add_argument("--source", required=True, help="where frames come from, as below")
    parser.add_argument("--watch", action="store_true", help="of a folder: wait for more pictures")
    parser.add_argument("--repeat", action="store_true", help="of a folder or .npy: begin again at the end")
    parser.add_argument("--framing", choices=FRAMINGS, help="of stdin (raw) and serial (packets)")
    parser.add_argument("--fps", type=float, help="begin at most this many frames a second")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--policy", type=Path, help="a TOML file that says how the level is chosen (docs/steering.md)")
    how.add_argument("--level", type=int, help="instead of a policy: always this level (0)")
    how.add_argument("--latency-ms", type=latency, metavar="MS", help="instead of a policy: keep the p90 under this")
    serial_help = "a serial port whose lines give signals, such as /dev/ttyUSB0?names=battery,charging&baud=9600"
    parser.add_argument("--serial", metavar="URL", help=serial_help)
    mqtt_help = f"a broker, with topics by the name of their signal; a password may stand in {PASSWORD}"
    parser.add_argument("--mqtt", metavar="URL", help=mqtt_help)
    listen_help = "who may hear the results: unix (the default), unix:PATH, tcp:PORT, tcp:HOST:PORT; may be repeated"
    parser.add_argument("--listen", action="append", metavar="ADDRESS", help=listen_help)
    page_help = "a status page for browsers, on loopback alone unless a host is named (8765)"
    parser.add_argument("--page", nargs="?", const="8765", metavar="[HOST:]PORT", help=page_help)
    parser.add_argument("--output", type=Path, help="a file for every result, as JSON lines; it rotates")
    parser.add_argument("--values", action="store_true", help="results hold all numbers of the outputs")
    log_help = "the file for events, such as changes of level with their reason; none for none; it rotates"
    parser.add_argument("--log", help=log_help)
    parser.add_argument(
        "--log-bytes", type=positive_integer, default=1_000_000, help="of a file until it rotates (1e6)"
    )
    parser.add_argument("--log-files", type=positive_integer, default=3, help="how many files are kept (3)")
    parser.add_argument("--name", default=DEFAULT_NAME, help=f"of the service: for its socket and log ({DEFAULT_NAME})")
    parser.add_argument("--trace", type=Path, help="a file for every decision, for haste-run replay")
    parser.add_argument("--backend", choices=NAMES, default="auto")
    parser.add_argument(
        "--threads", type=thread_count, default="auto", help="a number, or auto (by haste-run calibrate)"
    )


def run(options: argparse.Namespace) -> None:
    from haste_runtime.service.notify import Notifier

    check(options)
    notifier = Notifier()
    notifier.starting(f"loading {options.bundle}; the first start compiles, which takes a while", STARTING_S)
    try:
        with contextlib.ExitStack() as stack:
            service = build(options, notifier, stack)
            with _signals(service):
                service.run()
            if options.json:
                print_json(service.summary())
    finally:
        notifier.close()


def check(options: argparse.Namespace) -> None:
    """What can be wrong with the options alone. Raises InputError or PolicyError."""
    from haste_runtime.governor.policy import read_policy

    checked_service_name(options.name)
    if options.fps is not None and not 0 < options.fps <= 1e4:
        raise InputError(f"{options.fps:g} frames a second make no sense.", "Give --fps as in --fps 15.")
    if options.policy is not None:
        read_policy(options.policy)
    for address in options.listen or []:
        parse_address(address, options.name)
    if options.page is not None:
        page_address(options.page)


def build(options: argparse.Namespace, notifier: Any, stack: contextlib.ExitStack) -> Service:
    """Everything that a service needs, opened; ``stack`` closes it. Raises HasteError."""
    from haste_runtime.service.journal import Journal
    from haste_runtime.service.listeners import Listeners
    from haste_runtime.service.loop import Service
    from haste_runtime.service.sources import open_source
    from haste_runtime.service.status import Status
    from haste_runtime.session import Session

    session = stack.enter_context(Session(options.bundle, options.backend, options.threads))
    source = open_source(options.source, session, watch=options.watch, repeat=options.repeat, framing=options.framing)
    policy, signals = policy_of(options, session), signals_of(options)
    status = Status(session, options.name, os.fspath(options.bundle), None if policy is None else str(options.policy))
    addresses = [parse_address(text, options.name) for text in options.listen or ["unix"]]
    listeners = Listeners(addresses, status.hello, status.sample)
    stack.callback(listeners.close)
    size = {"most_bytes": options.log_bytes, "keep": options.log_files}
    path = Path(options.log) if options.log else state_folder() / f"{options.name}.jsonl"
    journal = None if options.log == "none" else Journal(path, **size)
    results = None if options.output is None else Journal(options.output, **size)
    for file in (journal, results):
        if file is not None:
            stack.callback(file.close)
    service = Service(
        session,
        source,
        status,
        listeners=listeners,
        journal=journal,
        results=results,
        notifier=notifier,
        values=options.values,
        fps=options.fps,
    )
    session.when_level_changed = service.level_changed
    stack.enter_context(_log_to(service))
    listeners.start()
    session.follow(*signals, policy=policy, trace=options.trace)
    about = [
        f"{session.backend} backend",
        f"threads: {session.threads}",
        f"level {session.level}",
        f"from {source.name}",
    ]
    note(f"{options.name}: {', '.join(about)}")
    note(
        f"results and status: {', '.join(map(str, listeners.addresses))}; events: {journal.path if journal else 'none'}"
    )
    if options.page is not None:
        from haste_runtime.service.page import Page

        page = Page(page_address(options.page), status)
        stack.callback(page.close)
        page.start()
        note(f"status page: {page.url}")
    return service


def policy_of(options: argparse.Namespace, session: Session) -> Policy:
    """The policy, or one that only keeps a level or a latency. Raises PolicyError or LevelError."""
    from haste_runtime.governor.policy import read_policy

    if options.policy is not None:
        return read_policy(options.policy)
    if options.latency_ms is not None:
        if session.calibration is not None:
            session.level = level_that_meets(session, options.latency_ms)
        return read_policy({"targets": {"latency_ms": options.latency_ms}})
    level = options.level or 0
    session.level = level  # raises where there is none
    return read_policy({"min_level": level, "max_level": level})


# --- signals ---------------------------------------------------------------------------------------------------------


def signals_of(options: argparse.Namespace) -> list[Source]:
    """What is named, and whatever this board has. Raises SignalError or InputError."""
    from haste_runtime.signals import Battery, Frequency, JetsonPower, Load, Thermal, Throttle

    found: list[Source] = []
    if options.serial:
        found.append(serial_of(options.serial))
    if options.mqtt:
        found.append(mqtt_of(options.mqtt, os.environ.get(PASSWORD)))
    return [*found, Battery(), Thermal(), Frequency(), Throttle(), Load(), JetsonPower()]


def serial_of(text: str) -> Source:
    """PORT?names=battery,charging&baud=9600&stale=30."""
    from haste_runtime.signals import SerialPort

    url, _, query = text.partition("?")
    options = _query(query, ("names", "baud", "stale"), text)
    names = [name for name in options.get("names", "").split(",") if name]
    baud, stale = (_positive(options.get(key, usual), text) for key, usual in (("baud", "115200"), ("stale", "30")))
    return SerialPort(url, int(baud), names=names, stale_after_s=stale)


def mqtt_of(text: str, password: str | None = None) -> Source:
    """mqtt://USER:PASSWORD@HOST:PORT?NAME=TOPIC&NAME=TOPIC; mqtts:// encrypts."""
    from haste_runtime.signals import Mqtt

    try:
        url = urlsplit(text)
        port = url.port
    except ValueError as error:
        raise InputError(f"{text!r} is no URL: {error}.", "Give mqtt://HOST?battery=TOPIC.") from None
    topics = {topic: name for name, topic in parse_qsl(url.query)}
    if url.scheme not in ("mqtt", "mqtts") or not url.hostname or not topics:
        raise InputError(f"{text!r} is no broker with topics.", 'Give "mqtt://HOST?battery=home/battery".')
    tls = url.scheme == "mqtts"
    return Mqtt(
        url.hostname,
        topics,
        port or (8883 if tls else 1883),
        username=unquote(url.username) if url.username else None,
        password=unquote(url.password) if url.password else password,
        tls=tls,
    )


def _query(query: str, known: tuple[str, ...], text: str) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise InputError(f"{text!r} has {', '.join(unknown)}.", f"Known behind the question mark: {', '.join(known)}.")
    return options


def _positive(number: str, text: str) -> float:
    try:
        value = float(number)
        if 0 < value < 1e9:
            return value
    except ValueError:
        pass
    raise InputError(f"{number!r} in {text!r} makes no sense.", "Give a number above 0.")


def page_address(text: str) -> tuple[str, int]:
    """Host and port. Raises InputError."""
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) >= 1 << 16:
        raise InputError(f"{text!r} is no port.", "Give --page 8765, or --page HOST:PORT.")
    return host.strip("[]") or "127.0.0.1", int(port)


# --- the process -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _signals(service: Service) -> Iterator[None]:
    """SIGTERM and SIGINT end the service after the frame that runs; a second SIGINT ends it at once."""

    def asked(number: int, frame: FrameType | None) -> None:
        service.stop(f"signal {signal.Signals(number).name}")
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, asked) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Events(logging.Handler):
    """Warnings of the runtime, such as a signal that is missing, become events."""

    def __init__(self, service: Service) -> None:
        super().__init__(logging.INFO)
        self._service = service

    def emit(self, record: logging.LogRecord) -> None:
        told = record.getMessage()
        if record.levelno > logging.INFO or told.endswith(("is back.", "is open.", "is there.")):
            kind = "warning" if record.levelno > logging.INFO else "info"
            self._service.event(kind, message=told)


@contextlib.contextmanager
def _log_to(service: Service) -> Iterator[None]:
    handler = _Events(service)
    log = logging.getLogger("haste_runtime")
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
