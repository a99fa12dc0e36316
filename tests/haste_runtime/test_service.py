"""The service end to end, in a process of its own: nothing is pretended but the hardware at the end of a wire."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import waiting
from builders import bundle_for, random_network, sign_changing

from haste_runtime import Session, cli
from haste_runtime.bundle import write_bundle
from haste_runtime.service.addresses import parse_address
from haste_runtime.service.sources.packets import pack_input

CLASSES = ("ant", "bee", "cat", "dog", "elk")
FRAMES = 5


eventually = partial(waiting.eventually, seconds=60)


def lines_of(path: Path) -> list[dict[str, Any]]:
    """What is complete of a file of JSON lines."""
    text = path.read_text("utf-8") if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


class Running:
    """``haste-run serve net.haste OPTIONS`` in ``folder``, with the files it writes."""

    def __init__(self, folder: Path, *options: str, **keywords: Any) -> None:
        command = [sys.executable, "-m", "haste_runtime.cli", "serve", "net.haste", "--backend", "numpy"]
        command += ["--log", "events.jsonl", "--output", "results.jsonl", "--log-bytes", "100000000"]
        self.folder, self.log = folder, (folder / "stderr").open("wb")
        environment = os.environ | {"XDG_RUNTIME_DIR": str(folder / "run"), "HASTE_CACHE": str(folder / "cache")}
        environment |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))} | keywords.pop("environment", {})
        self.process = subprocess.Popen([*command, *options], cwd=folder, env=environment, stderr=self.log, **keywords)

    def events(self, kind: str = "") -> list[dict[str, Any]]:
        return [event for event in lines_of(self.folder / "events.jsonl") if kind in ("", event["event"])]

    def results(self) -> list[dict[str, Any]]:
        return [line for line in lines_of(self.folder / "results.jsonl") if line["event"] == "frame"]

    def ready(self) -> None:
        eventually(lambda: self.process.poll() is not None or self.results())
        assert self.process.poll() is None, self.told()

    def told(self) -> str:
        return (self.folder / "stderr").read_text()

    def end(self) -> int:
        """SIGTERM, and the exit code."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(60)
        self.log.close()
        return code


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """net.haste with the levels 0 to 3, and five frames for it."""
    write_bundle(tmp_path / "net.haste", replace(bundle_for(random_network(5), levels=(12, 6, 2)), classes=CLASSES))
    shape = random_network(5).inputs[0].shape
    np.save(tmp_path / "frames.npy", sign_changing(np.random.default_rng(0), (FRAMES, *shape)))
    return tmp_path


@contextlib.contextmanager
def serving(folder: Path, *options: str, **keywords: Any) -> Iterator[Running]:
    running = Running(folder, *options, **keywords)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.process.kill()
            running.process.wait()
        if running.process.stdin is not None:
            running.process.stdin.close()
        running.log.close()


def expected(folder: Path) -> dict[tuple[int, int], list[float]]:
    """The outputs of every frame at every level."""
    frames, table = np.load(folder / "frames.npy"), {}
    with Session(folder / "net.haste", "numpy") as session:
        for level in range(len(session.levels)):
            session.level = level
            for number in range(FRAMES):
                (output,) = session.run({session.inputs[0].name: frames[number : number + 1]}).values()
                table[number, level] = output[0].tolist()
    return table


POLICY = """
period_s = 0.05
dwell_s = 0.3
[[rules]]
when = "battery < 20"
leave = 25
min_level = 3
[missing]
hold_s = 0.2
min_level = 2
"""


def test_a_battery_on_a_wire_raises_and_lowers_the_level(folder: Path) -> None:
    """Readings over a pseudo-terminal move the level within a dwell time; no frame is dropped, every one is, to the
    bit, what its level computes, and the log has each change with its reason."""
    pytest.importorskip("serial")
    pytest.importorskip("tomllib")
    (folder / "policy.toml").write_text(POLICY)
    ours, theirs = os.openpty()
    options = ["--source", "npy:frames.npy", "--repeat", "--policy", "policy.toml", "--values"]
    options += ["--serial", f"{os.ttyname(theirs)}?names=battery&stale=60"]
    with serving(folder, *options) as running:
        running.ready()

        def send(percent: float) -> None:
            os.write(ours, b"battery=%g\n" % percent)

        def changed(number: int, percent: float) -> dict[str, Any]:
            """After so many changes in all, the newest."""

            def told() -> Any:
                send(percent)
                changes = [e for e in running.events("level") if "battery is missing" not in e["reason"]]
                return len(changes) >= number and changes[-1]

            return eventually(told)  # type: ignore[no-any-return]

        seen = [(3, 12.0), (0, 80.0), (3, 5.0), (0, 60.0)]
        for number, (level, percent) in enumerate(seen, 1):
            event = changed(number, percent)
            assert event["new"] == level
            assert f"battery {percent:g} % is" in event["reason"]
            count = len(running.results())
            eventually(lambda count=count: len(running.results()) > count + 2)
        assert running.end() == 0, running.told()
    results, right = running.results(), expected(folder)
    assert [result["frame"] for result in results] == list(range(1, len(results) + 1)), "none is missing"
    for number, result in enumerate(results):
        assert result["source"] == f"frames.npy[{number % FRAMES}]"
        (values,) = result["outputs"].values()
        assert values == right[number % FRAMES, result["level"]]
        best = max(range(len(values)), key=lambda i: values[i])
        assert result["top"][0]["name"] == CLASSES[best]
    assert {result["level"] for result in results} >= {0, 3}
    (stopped,) = running.events("stopped")
    assert stopped["reason"] == "signal SIGTERM"
    assert stopped["frames"] == len(results) == sum(stopped["per_level"])
    for old, new in zip(running.events("level"), running.events("level")[1:], strict=False):
        assert old["new"] == new["old"]
    os.close(ours)
    os.close(theirs)


def test_the_end_of_the_frames_ends_the_service(folder: Path) -> None:
    with serving(folder, "--source", "npy:frames.npy", "--level", "2", "--json", stdout=subprocess.PIPE) as running:
        out, _ = running.process.communicate(timeout=60)
        assert running.process.returncode == 0, running.told()
    assert [result["level"] for result in running.results()] == [2] * FRAMES
    summary = json.loads(out)
    assert summary["frames"] == FRAMES
    assert summary["per_level"] == [0, 0, FRAMES, 0]
    assert "has no more frames" in summary["reason"]
    assert {event["event"] for event in running.events()} >= {"started", "stopped"}


def test_sigterm_within_a_frame_finishes_it(folder: Path) -> None:
    """Frames over standard input; the last is on its way when the signal comes, and is answered all the same."""
    frames = np.load(folder / "frames.npy")
    slow = folder / "sitecustomize.py"
    slow.write_text(
        "import time\nfrom haste_runtime.backends import numpy_backend\n"
        "run = numpy_backend.NumpyBackend.run\n"
        "def slowly(self, frames, level):\n"
        "    open('in_frame', 'w').close()\n    time.sleep(1)\n    return run(self, frames, level)\n"
        "numpy_backend.NumpyBackend.run = slowly\n"
    )
    environment = {"PYTHONPATH": os.pathsep.join([str(folder), *filter(None, sys.path)])}
    options = ["--source", "stdin", "--framing", "packets"]
    with serving(folder, *options, environment=environment, stdin=subprocess.PIPE) as running:
        assert running.process.stdin is not None
        running.process.stdin.write(pack_input(frames[0]))
        running.process.stdin.flush()
        eventually((folder / "in_frame").exists)
        assert running.end() == 0, running.told()
    assert len(running.results()) == 1
    assert running.events()[-1]["event"] == "stopped"
    assert running.events()[-1]["reason"] == "signal SIGTERM"


def test_systemd_is_told(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(folder / "notify"))
        systemd.settimeout(60)
        environment = {"NOTIFY_SOCKET": str(folder / "notify"), "WATCHDOG_USEC": "300000"}
        options = ["--source", "npy:frames.npy", "--repeat", "--fps", "20"]
        with serving(folder, *options, environment=environment) as running:
            heard = [systemd.recv(4096).decode()]
            assert heard[0].startswith("STATUS=loading net.haste")
            assert "EXTEND_TIMEOUT_USEC=" in heard[0]
            while heard.count("WATCHDOG=1") < 3:
                heard.append(systemd.recv(4096).decode())
            assert any(told.startswith("READY=1") for told in heard)
            assert running.end() == 0, running.told()
            while not heard[-1].startswith("STOPPING=1"):
                heard.append(systemd.recv(4096).decode())


def test_clients_may_come_hang_and_be_killed(folder: Path) -> None:
    options = ["--source", "npy:frames.npy", "--repeat", "--listen", "unix:here.sock", "--listen", "tcp:0", "--values"]
    with serving(folder, *options) as running:
        running.ready()
        address = parse_address(f"unix:{folder / 'here.sock'}")
        hanging = address.connect(10)
        killed = subprocess.Popen(
            [sys.executable, "-c", "import socket, sys, time\ns = socket.socket(socket.AF_UNIX)\n"
             "s.connect(sys.argv[1])\nprint(len(s.recv(99)), flush=True)\ntime.sleep(99)", str(address.path)],
            stdout=subprocess.PIPE,
        )  # fmt: skip
        assert killed.stdout is not None
        assert int(killed.stdout.readline()) > 0
        killed.kill()
        killed.wait()
        killed.stdout.close()
        with address.connect(10) as client, client.makefile("rb") as stream:
            hello = json.loads(stream.readline())
            assert hello["event"] == "status"
            assert hello["state"] == "running"
            kinds, status = set[str](), hello
            while kinds != {"frame", "status"} or status["frames"] < hello["frames"] + 5:
                entry = json.loads(stream.readline())
                kinds.add(entry["event"])
                status = entry if entry["event"] == "status" else status
            assert sum(status["per_level"]) == status["frames"]
        hanging.close()
        before = len(running.results())
        eventually(lambda: len(running.results()) > before + 5)
        assert running.end() == 0, running.told()
    assert not (folder / "here.sock").exists()


def test_a_second_service_of_the_same_name_is_refused_and_a_dead_ones_socket_is_not(folder: Path) -> None:
    options = ["--source", "npy:frames.npy", "--repeat"]
    with serving(folder, *options) as running:
        running.ready()
        (folder / "other").mkdir()
        with serving(folder, *options) as second:
            assert second.process.wait(60) == 2
            assert "is running at" in second.told()
        running.process.kill()
        running.process.wait()
    (folder / "results.jsonl").unlink()
    with serving(folder, *options) as third:
        third.ready()
        assert third.end() == 0


def test_every_sensor_fails_and_frames_go_on(folder: Path) -> None:
    """A serial port that is not there, no broker, and whatever this computer lacks."""
    pytest.importorskip("serial")
    pytest.importorskip("paho.mqtt.client")
    pytest.importorskip("tomllib")
    (folder / "policy.toml").write_text(POLICY)
    options = ["--source", "npy:frames.npy", "--repeat", "--policy", "policy.toml", "--serial", "/dev/nothing"]
    options += ["--mqtt", "mqtt://127.0.0.1:1?battery=home/battery"]
    with serving(folder, *options) as running:
        running.ready()
        (event,) = eventually(lambda: running.events("level"))
        assert event["new"] == 2
        assert "the fail-safe" in event["reason"]
        eventually(lambda: running.results()[-1]["level"] == 2)
        assert running.end() == 0, running.told()
    assert any("/dev/nothing" in event["message"] for event in running.events("warning"))


def limit_files() -> None:
    """In the child: no file may grow beyond 3000 bytes, which is what a full disk looks like."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))


def test_a_full_disk_and_a_home_that_is_read_only(folder: Path) -> None:
    """Frames go on, are told to listeners, and the state says how many lines were lost."""
    home = {"HOME": "/proc/nowhere", "XDG_STATE_HOME": "", "XDG_CACHE_HOME": "", "HASTE_CACHE": "/proc/nowhere/cache"}
    options = ["--source", "npy:frames.npy", "--repeat", "--listen", "unix:here.sock", "--trace", "trace.jsonl"]
    with serving(folder, *options, environment=home, preexec_fn=limit_files) as running:
        running.ready()
        address = parse_address(f"unix:{folder / 'here.sock'}")
        with address.connect(10) as client, client.makefile("rb") as stream:
            entry: dict[str, Any] = {}
            while entry.get("event") != "status" or entry["lost_lines"] < 10:
                entry = json.loads(stream.readline())
            written = len(running.results())
            assert entry["frames"] > written, "more were answered than the disk took"
            assert entry["state"] == "running"
        assert running.end() == 0, running.told()
    assert "results.jsonl cannot be written" in running.told()
    assert (folder / "results.jsonl").stat().st_size <= 3000
    assert (folder / "results.jsonl").read_bytes().endswith(b"\n"), "no half of a line is left"


def test_a_log_that_nobody_named_in_a_home_that_is_read_only(folder: Path) -> None:
    home = {"HOME": "/proc/nowhere", "XDG_STATE_HOME": ""}
    with serving(folder, "--source", "npy:frames.npy", "--log", "", environment=home) as running:
        assert running.process.wait(60) == 0
    assert "/proc/nowhere/.local/state/haste-edge/haste.jsonl cannot be written" in running.told()
    assert len(running.results()) == FRAMES


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--source", "dir"], "is no source of frames"),
        (["--source", "stdin:x"], "is no source of frames"),
        (["--source", "tape:x"], "is no source of frames"),
        (["--source", "stdin", "--listen", "smoke"], "is no address"),
        (["--source", "stdin", "--listen", "tcp:99999"], "is no address"),
        (["--source", "stdin", "--name", "../x"], "cannot be the name"),
        (["--source", "stdin", "--fps", "0"], "make no sense"),
        (["--source", "stdin", "--policy", "nothing.toml"], "cannot be read"),
        (["--source", "stdin", "--level", "9"], "There is no level 9"),
        (["--source", "stdin", "--page", "x"], "is no port"),
        (["--source", "stdin", "--mqtt", "http://x"], "is no broker with topics"),
        (["--source", "stdin", "--mqtt", "mqtt://x:y?a=b"], "is no URL"),
        (["--source", "stdin", "--serial", "loop://?speed=3"], "Known behind the question mark"),
        (["--source", "stdin", "--serial", "loop://?baud=x"], "makes no sense"),
    ],
)
def test_wrong_options_are_told(
    folder: Path,
    options: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.delenv("HASTE_DEBUG", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    assert cli.run(["serve", "net.haste", "--backend", "numpy", "--log", "none", *options]) == 2
    assert message in capsys.readouterr().err
