"""How people see a service: ``haste-run top``, the status page in a real browser, and the unit file."""

from __future__ import annotations

import configparser
import html
import json
import os
import pty
import re
import shlex
import shutil
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from builders import bundle_for, random_network
from waiting import heed_ctrl_c

from haste_runtime import Session, cli
from haste_runtime.bundle import write_bundle
from haste_runtime.cli import serve, top
from haste_runtime.cli.install_service import arguments
from haste_runtime.errors import InputError
from haste_runtime.service.addresses import Address
from haste_runtime.service.listeners import Listeners
from haste_runtime.service.page import Page, host_of, is_loopback
from haste_runtime.service.status import Status
from haste_runtime.service.unit import quoted, unit_text

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)  # in CI it must be there


@pytest.fixture
def status() -> Iterator[Status]:
    """Of a service that has run for a while, with a battery that falls."""
    with Session(bundle_for(random_network(5), levels=(12, 6, 2)), "numpy") as session:
        status = Status(session, "door-<camera>", "net.haste", "policy.toml")
        status.state = "running"
        status.source("camera:0", "open")
        rules = [{"when": "battery < 20", "min_level": 2}]
        session.when_level_changed = lambda old, new, reason: status.change(
            {"event": "level", "at": "2026-01-02T03:04:05.000+00:00", "old": old, "new": new, "reason": reason}
        )
        governor = session.follow(policy={"period_s": 1000, "dwell_s": 0, "rules": rules})
        for second in range(60):
            session.report("battery", 60 - second)
            session.report("temperature", 40 + second / 10)
            governor.step()
            status.frame(session.level, 20 - 5 * session.level)
            status._started -= 1  # a second has passed
            status.sample()
        yield status


# --- top -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def listening(status: Status, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Address]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    monkeypatch.delenv("HASTE_DEBUG", raising=False)
    listeners = Listeners([Address(path=tmp_path / "haste-edge/cam.sock")], status.hello, status.sample)
    listeners.start()
    yield listeners.addresses[0]
    listeners.close()


def test_top_prints_lines_where_nobody_looks(listening: Address, capsys: pytest.CaptureFixture[str]) -> None:
    for which in (["cam"], [str(listening)], [str(listening.path)]):
        assert cli.run(["top", *which, "--lines", "2"]) == 0
        first, second = capsys.readouterr().out.splitlines()
        for line in (first, second):
            assert "level 2  p90 20 ms  battery 1 %  temperature 45.9 °C" in line
            assert line.endswith("battery 1 % is below 20 %: at least level 2")
            assert "\x1b" not in line
    assert cli.run(["top", "cam", "--lines", "1", "--json"]) == 0
    state = json.loads(capsys.readouterr().out)
    assert state["level"] == 2
    assert len(state["history"]) >= 60


def test_top_without_a_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    monkeypatch.setattr(top, "running", lambda: [])
    with pytest.raises(InputError, match="No service runs here"):
        top.find(None)
    with pytest.raises(InputError, match="No service answers at"):
        next(top.states_of(top.find("nobody")))
    monkeypatch.setattr(top, "running", lambda: [Path("/run/a.sock"), Path("/run/b.sock")])
    with pytest.raises(InputError, match="Several services run here: a, b"):
        top.find(None)
    assert top.find("b").path == Path("/run/b.sock")


def test_the_view_fits_any_terminal(status: Status) -> None:
    state, history = status.now(), status.history()
    for width, height in ((30, 5), (79, 24), (200, 60)):
        lines = top.view(state, history, width, height)
        assert len(lines) <= height
        assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert "door-<camera>: running" in text
    assert "Level 2 of 3" in text
    assert "battery 1 % is below 20 %: at least level 2" in text
    assert re.search(r"battery +1 %  █.*▁", text)
    assert re.search(r"level +2  ▁+█+", text)
    assert "Frames by level: 0: 41, 2: 19" in text
    assert "0 -> 2  battery 19 % is below 20 %" in text
    plain = "\n".join(top.view(state, history, 200, 60, unicode=False))
    assert re.search(r"level +2  _+@+", plain)


def test_sparklines() -> None:
    assert top.sparkline([0, 7, None, 3.5], 9) == "▁█ ▅"
    assert top.sparkline([1, 2, 3], 2) == "▁█"
    assert top.sparkline([5, 5], 9) == "▁▁"
    assert top.sparkline([5, 10], 9, low=0) == "▅█"
    assert top.sparkline([None], 9) == ""


def test_top_on_a_terminal(listening: Address) -> None:
    """In a real pseudo-terminal: the view is drawn, and Ctrl-C gives the terminal back."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-m", "haste_runtime.cli", "top", "cam"]
    process = subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
        start_new_session=True,
        preexec_fn=heed_ctrl_c,
    )
    os.close(theirs)
    shown = b""
    while b"Ctrl-C ends the view" not in shown:
        shown += os.read(ours, 65536)
    assert "Level 2 of 3" in shown.decode()
    process.send_signal(2)
    while True:
        try:
            more = os.read(ours, 65536)
        except OSError:  # how Linux says that the other end is closed
            break
        if not more:
            break
        shown += more
    assert process.wait(30) == 0
    os.close(ours)
    assert shown.endswith(b"\x1b[?1049l")


# --- the page --------------------------------------------------------------------------------------------------------


@pytest.fixture
def page(status: Status) -> Iterator[Page]:
    page = Page(("127.0.0.1", 0), status)
    page.start()
    yield page
    page.close()
    assert not [t for t in threading.enumerate() if t.name == "haste-page"]


def fetch(url: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=20) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read()


def test_the_page_and_its_data(page: Page) -> None:
    code, headers, body = fetch(page.url)
    assert code == 200
    text = body.decode()
    assert not re.search(r"""(src|href)=["'](?!data:)""", text), "nothing comes from elsewhere"
    assert "://" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert json.loads(fetch(f"{page.url}status.json")[2])["level"] == 2
    assert len(json.loads(fetch(f"{page.url}history.json")[2])) == 60
    assert len(json.loads(fetch(f"{page.url}history.json?points=20")[2])) == 20
    assert fetch(f"{page.url}../etc/passwd")[0] == 404


def test_the_page_can_only_be_looked_at(page: Page) -> None:
    for method in ("POST", "PUT", "DELETE"):
        request = urllib.request.Request(page.url, method=method, data=b"level=3")
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=20)
        caught.value.close()
        assert caught.value.code == 501
    with urllib.request.urlopen(urllib.request.Request(page.url, method="HEAD"), timeout=20) as answer:
        assert answer.read() == b""


def test_another_host_that_points_here_is_refused(page: Page) -> None:
    assert fetch(f"{page.url}status.json", Host="evil.example")[0] == 403
    assert fetch(f"{page.url}status.json", Host="localhost:1")[0] == 200
    assert [is_loopback(host_of(h)) for h in ("127.0.0.1:80", "[::1]:80", "localhost", "", "x.localhost.example")] == [
        True, True, True, False, False
    ]  # fmt: skip


def test_a_port_that_is_taken(page: Page, status: Status) -> None:
    with pytest.raises(InputError, match="cannot be at"):
        Page(("127.0.0.1", int(page.url.rstrip("/").rpartition(":")[2])), status)


@pytest.mark.skipif(CHROMIUM is None and not os.environ.get("CI"), reason="there is no Chromium here")
def test_the_page_in_a_browser(page: Page, tmp_path: Path) -> None:
    """What the browser made of it: charts with a description for those who cannot see them, tables, no error."""
    command = [str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"]
    command += ["--enable-logging=stderr", "--virtual-time-budget=4000", "--dump-dom", page.url]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    dom = html.unescape(ran.stdout)
    assert "CONSOLE" not in ran.stderr, ran.stderr
    labels = re.findall(r'<svg[^>]*role="img"[^>]*aria-label="([^"]*)"', dom)
    assert [label.split()[0] for label in labels] == ["Level", "Latency", "Battery", "Temperature"]
    assert "battery now 1, from 1 to 60" in labels[2]
    assert "door-<camera>" in dom, "a name is text, not markup"
    assert "Why this level: battery 1 % is below 20 %: at least level 2" in dom
    assert "0 → 2" in dom
    assert dom.count('<path class="series') == 5


# --- the unit file ---------------------------------------------------------------------------------------------------

SERVE = ["net.haste", "--source", "dir:pictures", "--watch", "--policy", "policy.toml", "--fps", "2.5", "--page"]
SERVE += ["--listen", "unix", "--listen", "tcp:7000", "--mqtt", "mqtt://host?battery=a/b", "--name", "door-cam"]


def unit(text: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=False, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(text)
    return parser


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("HASTE_DEBUG", raising=False)
    write_bundle(tmp_path / "net.haste", bundle_for(random_network(5)))
    (tmp_path / "policy.toml").write_text("max_level = 1\n")
    return tmp_path


def test_a_unit_of_the_user_is_written_and_removed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tomllib")
    assert cli.run(["install-service", *SERVE]) == 0
    told = capsys.readouterr().out
    path = folder / "config/systemd/user/door-cam.service"
    assert str(path) in told
    assert "systemctl --user enable --now door-cam" in told
    written = unit(path.read_text())
    assert written["Service"]["Type"] == "notify"
    words = shlex.split(written["Service"]["ExecStart"])
    assert words[:4] == [sys.executable, "-m", "haste_runtime.cli", "serve"]
    parser = cli.build_parser("serve")
    again = parser.parse_args(words[3:])
    assert again.bundle == str(folder / "net.haste")
    assert again.policy == folder / "policy.toml"
    assert again.source == f"dir:{folder / 'pictures'}"
    first = parser.parse_args(["serve", *SERVE])
    same = ("watch", "fps", "page", "listen", "mqtt", "name", "threads", "repeat", "level")
    assert [getattr(again, key) for key in same] == [getattr(first, key) for key in same]
    assert arguments(again) == words[4:]
    if shutil.which("systemd-analyze"):
        checked = subprocess.run(["systemd-analyze", "--user", "verify", path], capture_output=True, text=True)
        assert "door-cam.service:" not in checked.stderr, checked.stderr
    assert cli.run(["install-service", "--uninstall", "--name", "door-cam"]) == 0
    assert not path.exists()
    assert cli.run(["install-service", "--uninstall", "--name", "door-cam"]) == 2


def test_a_unit_can_be_looked_at_first(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["install-service", "net.haste", "--source", "stdin", "--print", "--system", "--user", "pi"]) == 0
    written = unit(capsys.readouterr().out)
    assert written["Service"]["User"] == "pi"
    assert written["Install"]["WantedBy"] == "multi-user.target"
    assert not (folder / "config").exists()
    for wrong, message in [
        (["net.haste"], "needs a bundle and --source"),
        (["other.haste", "--source", "stdin"], "There is no file"),
        (["net.haste", "--source", "stdin", "--name", "a b"], "cannot be the name"),
        (["net.haste", "--source", "stdin", "--policy", "nothing.toml"], "cannot be read"),
    ]:
        assert cli.run(["install-service", *wrong, "--print"]) == 2
        assert message in capsys.readouterr().err


def test_words_are_quoted_as_systemd_reads_them() -> None:
    assert quoted("--page=8765") == "--page=8765"
    assert quoted("a b") == '"a b"'
    assert quoted('50% of "$HOME"\\') == '"50%% of \\"$$HOME\\"\\\\"'
    assert quoted("") == '""'
    assert "Environment=HASTE_CACHE=%C/haste-edge\n" in unit_text("x", ["y"], Path("/z"))


def test_signals_are_made_from_their_urls(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("serial")
    pytest.importorskip("paho.mqtt.client")
    port: Any = serve.serial_of("/dev/ttyUSB0?names=battery,charging&baud=9600&stale=5")
    assert (port._url, port._baudrate, port.names, port._stale_after_s) == (
        "/dev/ttyUSB0", 9600, ("battery", "charging"), 5
    )  # fmt: skip
    broker: Any = serve.mqtt_of("mqtts://me:p%40ss@host?battery=home/battery&charging=home/c", None)
    assert (broker._host, broker._port, broker._login) == ("host", 8883, ("me", "p@ss"))
    assert broker._topics == {"home/battery": "battery", "home/c": "charging"}
    other: Any = serve.mqtt_of("mqtt://me@host:1884?battery=b", "secret")
    assert (other._port, other._login, other._tls) == (1884, ("me", "secret"), False)
