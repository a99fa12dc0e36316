"""``haste-edge deploy`` against a real sshd on loopback, with everything that may stand in the way."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sshd
from builders import GraphBuilder, bundle_for, random_network
from sshd import Server
from waiting import heed_ctrl_c

import haste_runtime
from haste_edge.cli import app
from haste_edge.cross import wheels
from haste_edge.cross.wheels import Wheel
from haste_edge.deploy import device_side, runtime, steps
from haste_edge.deploy.remote import Remote
from haste_edge.errors import DeployError
from haste_edge.targets import list_targets
from haste_runtime.bundle import write_bundle
from haste_runtime.cli.common import guarded

PYTHON = sys.executable
COMMAND = [PYTHON, "-c", "from haste_edge.cli import main; main()", "deploy"]

SLOW = """
steps.Delivery.with_rsync, steps.BLOCK = False, 100_000
steps.Reported = steps.Delivery._stream
def slowly(self):
    self._report = lambda what, done, total: time.sleep(0.2)
    steps.Reported(self)
steps.Delivery._stream = slowly
"""


def bundle(path: Path, seed: int = 3) -> str:
    """Writes one; its version."""
    write_bundle(path, bundle_for(random_network(seed)))
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    sshd.require("rsync", "ssh", "ssh-keygen")
    folder = tmp_path_factory.mktemp("device")
    with sshd.running(folder, {"PATH": f"/usr/local/bin:{Path(PYTHON).parent}:/usr/bin:/bin"}) as server:
        yield server


@pytest.fixture
def here(device: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of someone who deploys, with a bundle; nothing is on the device."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HASTE_DEBUG", raising=False)
    for path in device.home.iterdir():
        shutil.rmtree(path)
    return tmp_path


def run(*arguments: str) -> int:
    return guarded(lambda: app(["deploy", *arguments], standalone_mode=False))


def deploy(device: Server, *arguments: str) -> int:
    """To the device, with the Python that the tests run on as its own."""
    return run(*arguments, device.host, "--ssh", device.ssh, "--python", PYTHON)


def told(capsys: pytest.CaptureFixture[str], device: Server, *arguments: str) -> dict[str, Any]:
    assert deploy(device, *arguments, "--json") == 0, capsys.readouterr().err
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def on_device(device: Server, name: str = "net") -> dict[str, Any]:
    folder = device.home / "haste" / name
    links = {link: os.readlink(folder / link)[9:] for link in ("current", "previous") if (folder / link).is_symlink()}
    return {"versions": {p.name for p in (folder / "versions").iterdir()}, **links}


# --- the way of a bundle ---------------------------------------------------------------------------------------------


def test_versions_come_go_and_come_back(device: Server, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    versions = []
    for seed in (3, 4, 5):
        versions.append(bundle(here / "net.haste", seed))
        answer = told(capsys, device, "net.haste")
        current = device.home / "haste/net/current/net.haste"
        assert current.read_bytes() == (here / "net.haste").read_bytes()
        assert answer["path"] == str(device.home / "haste/net/current/net.haste")
        assert answer["current"] == versions[-1]
    _, second, third = versions
    assert on_device(device) == {"versions": {second, third}, "current": third, "previous": second}
    assert not list((device.home / "haste/net/incoming").iterdir())

    again = told(capsys, device, "net.haste")
    assert again["steps"] == []
    assert on_device(device)["current"] == third

    assert told(capsys, device, "net.haste", "--rollback")["current"] == second
    assert on_device(device) == {"versions": {second, third}, "current": second, "previous": third}
    told(capsys, device, "net.haste", "--rollback")
    assert on_device(device)["current"] == third
    bundle(here / "net.haste", 4)  # one that is there already is not sent again
    answer = told(capsys, device, "net.haste")
    assert [step["what"].split()[0] for step in answer["steps"]] == ["current"]
    assert answer["previous"] == third


def test_a_dry_run_tells_the_steps_and_changes_nothing(
    device: Server, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    version = bundle(here / "net.haste")
    assert deploy(device, "net.haste", "--dry-run") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("1. make ")
    assert said[1].startswith("2. send net.haste")
    assert said[2].startswith("   rsync --append-verify")
    assert said[3].startswith("3. compare sha256")
    assert said[4] == f"4. current -> versions/{version}"
    assert said[5] == "Nothing was changed."
    assert list(device.home.iterdir()) == []
    planned = told(capsys, device, "net.haste", "--dry-run")
    assert list(device.home.iterdir()) == []
    assert told(capsys, device, "net.haste")["steps"] == planned["steps"]
    assert shlex.split(said[2])[-2:] == ["net.haste", f"{device.host}:{planned['steps'][1]['command'].split(':')[-1]}"]
    assert deploy(device, "net.haste", "--dry-run") == 0
    assert capsys.readouterr().out == "Nothing is to be done.\n"


@pytest.mark.parametrize("rsync", [True, False], ids=["rsync", "without"])
@pytest.mark.parametrize("damaged", [False, True], ids=["sound", "damaged"])
def test_a_part_that_arrived_is_gone_on_with(
    device: Server, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    rsync: bool, damaged: bool,
) -> None:  # fmt: skip
    version = bundle(here / "net.haste")
    content = (here / "net.haste").read_bytes()
    part = device.home / "haste/net/incoming" / version / "net.haste"
    part.parent.mkdir(parents=True)
    half = bytearray(content[: len(content) // 2])
    if damaged:
        half[100] ^= 1
    part.write_bytes(half)
    monkeypatch.setattr(steps.Delivery, "with_rsync", rsync)
    answer = told(capsys, device, "net.haste")
    assert "of which are there already" in answer["steps"][1]["what"]
    assert (device.home / "haste/net/current/net.haste").read_bytes() == content


def test_a_file_that_arrives_wrong_is_not_used(device: Server, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = bundle(here / "net.haste", 3)
    told(capsys, device, "net.haste")
    bundle(here / "net.haste", 4)
    version = hashlib.sha256((here / "net.haste").read_bytes()).hexdigest()[:16]
    size = (here / "net.haste").stat().st_size
    part = device.home / "haste/net/incoming" / version / "net.haste"
    part.parent.mkdir(parents=True)
    part.write_bytes(bytes(size))  # as long as it should be: rsync has nothing to append
    assert deploy(device, "net.haste") == 1
    assert "its checksum on the device is" in capsys.readouterr().err
    assert on_device(device) == {"versions": {first}, "current": first}
    told(capsys, device, "net.haste")  # what was wrong is gone, so it goes the second time
    assert on_device(device)["current"] == version


@pytest.mark.parametrize(("way", "end"), [("rsync", "interrupted"), ("rsync", "cut"), ("ssh", "cut")])
def test_ended_in_the_middle_it_goes_on(
    device: Server, here: Path, capsys: pytest.CaptureFixture[str], way: str, end: str
) -> None:
    """By Ctrl-C here, or by a connection that is lost."""
    old = bundle(here / "net.haste")
    told(capsys, device, "net.haste")
    small = (here / "net.haste").read_bytes()
    builder = GraphBuilder(0, x=(1000,))
    builder.linear("logits", "x", 1000, 1000)
    big = here / "net.haste"
    write_bundle(big, bundle_for(builder.graph("logits")))
    version = hashlib.sha256(big.read_bytes()).hexdigest()[:16]
    part = device.home / "haste/net/incoming" / version / "net.haste"
    code = "from haste_edge.cli import main; main()"
    variables = dict(os.environ)
    if way == "rsync":
        slow = here / "rsync"
        slow.write_text(f'#!/bin/sh\nexec {shutil.which("rsync")} --bwlimit=500 "$@"\n')
        slow.chmod(0o755)
        variables["PATH"] = f"{here}{os.pathsep}{os.environ['PATH']}"
    else:  # blocks of a size that lets the test see one before the next
        code = f"import time\nfrom haste_edge.deploy import steps\n{SLOW}\n{code}"
    command = [PYTHON, "-c", code, "deploy", "net.haste", device.host, "--ssh", device.ssh, "--python", PYTHON]
    with subprocess.Popen(
        command, cwd=here, env=variables, stderr=subprocess.PIPE, start_new_session=True, preexec_fn=heed_ctrl_c
    ) as process:
        late = time.monotonic() + 60
        while not part.exists() or not part.stat().st_size:
            assert time.monotonic() < late
            assert process.poll() is None, process.stderr and process.stderr.read().decode()
            time.sleep(0.01)
        if end == "interrupted":
            os.killpg(process.pid, signal.SIGINT)
        else:
            device.cut()
        _, said = process.communicate(timeout=30)
    assert process.returncode == (130 if end == "interrupted" else 1)
    assert b"Interrupted." in said or b"goes on where it was interrupted" in said
    assert 0 < part.stat().st_size < big.stat().st_size
    assert (device.home / "haste/net/current/net.haste").read_bytes() == small
    assert on_device(device)["current"] == old
    assert "of which are there already" in told(capsys, device, "net.haste")["steps"][1]["what"]
    assert (device.home / "haste/net/current/net.haste").read_bytes() == big.read_bytes()


def test_without_rsync_on_the_device(device: Server, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle(here / "net.haste")
    with Remote(device.host, device.ssh, PYTHON) as remote:
        sent = steps.parcel(here / "net.haste", "net")
        state = steps.look(remote, sent, steps.place("haste", "net")) | {"rsync": False}
        delivery = steps.Delivery(remote, sent, state, lambda what, done, total: None)
        planned = [*delivery.upload(), *delivery.switch()]
        assert "127.0.0.1 has no rsync: by ssh alone" in planned[1].what
        for step in planned:
            step.run()
    assert (device.home / "haste/net/current/net.haste").read_bytes() == (here / "net.haste").read_bytes()


# --- the runtime -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_wheel_is_installed_into_its_own_environment(
    here: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a wheel of the right name that holds what matters here; numpy and safetensors are there already."""
    sshd.require("rsync", "ssh", "ssh-keygen")
    folder = tmp_path_factory.mktemp("bare")
    machine = os.uname().machine
    folder_of_wheels = here / "wheels"
    folder_of_wheels.mkdir()
    name = "haste_runtime-0.1.0"
    path = folder_of_wheels / f"{name}-py3-none-manylinux_2_17_{machine}.manylinux2014_{machine}.whl"
    files = {
        "haste_runtime/__init__.py": "",
        "haste_runtime/cli.py": "print('haste-run 0.1.0')\n",
        f"{name}.dist-info/METADATA": "Metadata-Version: 2.1\nName: haste-runtime\nVersion: 0.1.0\n",
        f"{name}.dist-info/WHEEL": f"Wheel-Version: 1.0\nTag: py3-none-manylinux2014_{machine}\n",
    }
    files[f"{name}.dist-info/RECORD"] = "".join(f"{file},,\n" for file in [*files, f"{name}.dist-info/RECORD"])
    with zipfile.ZipFile(path, "w") as wheel:
        for file, content in files.items():
            wheel.writestr(file, content)
    version = bundle(here / "net.haste")
    with sshd.running(
        folder, {"PATH": "/usr/bin:/bin", "PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    ) as device:
        answer = told(capsys, device, "net.haste", "--with-runtime", "--wheels", "wheels")
        assert answer["runtime"]["machine"] == machine
        command = device.home / "haste/runtime/current/venv/bin/python"
        done = subprocess.run([command, "-m", "haste_runtime.cli"], capture_output=True, text=True, cwd="/", env={})
        assert done.stdout == "haste-run 0.1.0\n"
        assert on_device(device)["current"] == version
        assert told(capsys, device, "net.haste", "--with-runtime", "--wheels", "wheels")["steps"] == []


def test_an_installation_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = tmp_path / "versions/v/venv"

    def failing(command: list[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
        environment.mkdir(parents=True, exist_ok=True)
        return subprocess.CompletedProcess(command, "pip" in command, b"no such\nwheel")

    monkeypatch.setattr(subprocess, "run", failing)
    with pytest.raises(device_side.Refused, match=r"pip install .* failed there: no such\nwheel"):
        device_side.install({"folder": str(tmp_path), "version": "v", "file": "x.whl"})
    assert not environment.exists()


@pytest.mark.parametrize(
    ("machine", "bits", "kind"),
    [
        ("aarch64", 64, "aarch64"),
        ("aarch64", 32, "armv7l"),  # a 32-bit userland on a 64-bit kernel
        ("armv7l", 32, "armv7l"),
        ("armv8l", 32, "armv7l"),
        ("x86_64", 64, "x86_64"),
        ("AMD64", 64, "x86_64"),
    ],
)
def test_the_kind_of_machine(machine: str, bits: int, kind: str) -> None:
    assert steps.machine_of({"machine": machine, "bits": bits}, "pi") == kind


@pytest.mark.parametrize(("machine", "bits"), [("armv6l", 32), ("x86_64", 32), ("riscv64", 64)])
def test_machines_without_a_wheel(machine: str, bits: int) -> None:
    with pytest.raises(DeployError, match=f"no wheel for pi: {machine} with a Python of {bits} bits"):
        steps.machine_of({"machine": machine, "bits": bits}, "pi")


def test_wheels_are_found_by_machine(tmp_path: Path) -> None:
    for machine in ("aarch64", "armv7l"):
        (tmp_path / f"haste_runtime-0.1.0-py3-none-manylinux_2_17_{machine}.manylinux2014_{machine}.whl").touch()
    assert "armv7l" in runtime.find_wheel(tmp_path, "armv7l").name
    with pytest.raises(DeployError, match="holds 0 wheels of haste-runtime for x86_64"):
        runtime.find_wheel(tmp_path, "x86_64")
    (tmp_path / "haste_runtime-0.1.0-py3-none-any.whl").touch()
    assert runtime.find_wheel(tmp_path, "x86_64").name.endswith("any.whl")


def test_a_wheel_is_built_for_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def build(targets: list[str], folder: Path, progress: Any) -> list[Wheel]:
        asked.append(targets)
        return [Wheel(folder / "x.whl", "aarch64", (), (), 0, "", 0, 0)]

    monkeypatch.setattr(wheels, "build_runtime", build)
    assert runtime.built("aarch64", tmp_path, None, print) == tmp_path / "x.whl"
    runtime.built("aarch64", tmp_path, "rpi4", print)
    with pytest.raises(DeployError, match="rpi4 is no armv7l, which the device is"):
        runtime.built("armv7l", tmp_path, "rpi4", print)
    assert asked == [["generic-aarch64"], ["rpi4"], ["rpi4"]]
    known = list_targets()
    assert all(name in known for name in runtime.TARGETS.values())


def test_an_old_python_is_refused(device: Server) -> None:
    with Remote(device.host, device.ssh, PYTHON) as remote:
        runtime.check_python({"python": "3.10.4"}, remote)
        with pytest.raises(DeployError, match=r"has Python 3\.9\.2"):
            runtime.check_python({"python": "3.9.2"}, remote)


def test_a_service_is_installed_started_and_renewed(
    here: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the real install-service of the runtime there; systemctl, which needs an init, only notes what it is told."""
    sshd.require("rsync", "ssh", "ssh-keygen")
    folder = tmp_path_factory.mktemp("service")
    systemctl = folder / "bin/systemctl"
    systemctl.parent.mkdir()
    systemctl.write_text(f'#!/bin/sh\necho "$@" >> {folder}/told\n')
    systemctl.chmod(0o755)
    source = Path(haste_runtime.__file__).parents[1]
    version = bundle(here / "net.haste")
    Path("p.toml").write_text("min_level = 1\n")
    variables = {"PATH": f"{systemctl.parent}:/usr/bin:/bin", "PYTHONPATH": str(source)}
    options = ["--service", "--source", "dir:/pictures of mine", "--policy", "p.toml", "--serve-options", "--fps 5"]
    with sshd.running(folder, variables) as device:
        assert deploy(device, "net.haste", *options, "--dry-run") == 0
        said = capsys.readouterr().out
        assert "install-service" in said
        assert not (folder / "told").exists()
        assert list(device.home.iterdir()) == []
        answer = told(capsys, device, "net.haste", *options)
        assert "systemctl --user restart net" in answer["steps"][-1]["command"]
        unit = (device.home / ".config/systemd/user/net.service").read_text()
        assert f"{device.home}/haste/net/current/net.haste" in unit
        assert "dir:/pictures of mine" in unit
        assert "--fps=5" in unit
        assert (device.home / "haste/net/policy.toml").read_text() == "min_level = 1\n"
        assert (folder / "told").read_text().splitlines() == [
            "--user daemon-reload",
            "--user enable net",
            "--user restart net",
        ]
        bundle(here / "net.haste", 4)
        told(capsys, device, "net.haste")
        assert told(capsys, device, "net.haste", "--rollback", "--service")["current"] == version
        assert (folder / "told").read_text().splitlines()[3:] == ["--user restart net"]
        systemctl.write_text("#!/bin/sh\necho Failed to connect to bus >&2\nexit 1\n")
        assert deploy(device, "net.haste", "--rollback", "--service") == 1
        assert "Failed to connect to bus" in capsys.readouterr().err
        Path("p.toml").write_text("min_levels = 1\n")
        assert deploy(device, "net.haste", *options) == 2
        assert deploy(device, "net.haste", "--service", "--serve-options", "'") == 1


# --- what stands in the way ------------------------------------------------------------------------------------------


def failed(capsys: pytest.CaptureFixture[str], code: int = 1) -> str:
    printed = capsys.readouterr()
    assert printed.out == ""
    return printed.err


def test_an_unknown_host_key(device: Server, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle(here / "net.haste")
    other = device.ssh.replace("known_hosts", "nobody")
    assert run("net.haste", device.host, "--ssh", other) == 1
    assert f"The host key of {device.host} is not known here." in failed(capsys)


def test_a_changed_host_key(device: Server, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle(here / "net.haste")
    public = sshd.key(here / "other").with_suffix(".pub").read_text()
    (here / "known").write_text(f"[127.0.0.1]:{device.port} {public}")
    changed = device.ssh.replace(str(device.folder / "known_hosts"), str(here / "known"))
    assert run("net.haste", device.host, "--ssh", changed) == 1
    said = failed(capsys)
    assert "shows another host key than before" in said
    assert "ssh-keygen -R 127.0.0.1" in said


def test_no_key_that_fits(device: Server, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle(here / "net.haste")
    stranger = device.ssh.replace(str(device.folder / "user_key"), str(sshd.key(here / "stranger")))
    assert run("net.haste", device.host, "--ssh", stranger) == 1
    said = failed(capsys)
    assert f"{device.host} does not let us in." in said
    assert f"ssh-copy-id {device.host}" in said


def test_nobody_listens(device: Server, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle(here / "net.haste")
    closed = device.ssh.replace(f"-p {device.port}", f"-p {sshd.free_port()}")
    assert run("net.haste", device.host, "--ssh", closed) == 1
    assert "127.0.0.1 does not accept ssh." in failed(capsys)


def test_no_such_computer(device: Server, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle(here / "net.haste")
    assert run("net.haste", "pi@nowhere.invalid", "--ssh", device.ssh) == 1
    assert "There is no computer by the name of nowhere.invalid." in failed(capsys)


def test_no_python_there(device: Server, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle(here / "net.haste")
    assert run("net.haste", device.host, "--ssh", device.ssh, "--python", "python9") == 1
    assert f"{device.host} has no python9." in failed(capsys)


def test_no_space_there(
    device: Server, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle(here / "net.haste")
    monkeypatch.setattr(steps, "SPARE", 1 << 60)
    assert deploy(device, "net.haste") == 1
    assert "MB left" in failed(capsys)
    assert list(device.home.iterdir()) == []


def test_a_disk_that_fills_up_on_the_way(device: Server, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Remote(device.host, device.ssh, PYTHON) as remote:
        for said in (
            'rsync: [receiver] write failed on "/x": No space left on device (28)\nrsync error: error in file IO (11)',
            "cat: write error: No space left on device",
        ):
            error = remote.error(11, said, "rsync")
            assert error.message == f"There is no space left on {device.host}."


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(device: Server, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle(here / "net.haste")
    assert deploy(device, "net.haste", "--to", "/etc/haste") == 1
    assert "cannot be written to" in failed(capsys)


def test_nothing_to_go_back_to(device: Server, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle(here / "net.haste")
    assert deploy(device, "net.haste", "--rollback") == 1
    assert "nothing is there" in failed(capsys)
    told(capsys, device, "net.haste")
    assert deploy(device, "net.haste", "--rollback") == 1
    assert "has no previous version" in failed(capsys)


def test_no_ssh_here(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle(here / "net.haste")
    assert run("net.haste", "pi@board", "--ssh", "no-such-ssh -p 22") == 1
    assert "There is no no-such-ssh on this computer." in failed(capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["net.haste"], "Neither a host nor --serial is given."),
        (["net.haste", "pi@board", "--serial", "loop://"], "Both a host and --serial are given."),
        (["net.haste", "--serial", "loop://", "--rollback"], "Over a serial line only the bundle itself goes."),
        (["net.haste", "-oProxyCommand=x"], "No such option"),
        (["net.haste", "pi@-oProxyCommand=x"], "is not a host"),
        (["net.haste", "pi@board;reboot"], "is not a host"),
        (["net.haste", "pi@board", "--python", "python3; reboot"], "is not a command"),
    ],
)
def test_what_makes_no_sense(here: Path, arguments: list[str], message: str) -> None:
    bundle(here / "net.haste")
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True)
    assert done.returncode in (1, 2)
    assert message in done.stderr


def test_names_that_a_shell_would_take_apart(device: Server, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle(here / "my net.haste")
    assert deploy(device, "my net.haste") == 1
    assert "'my net.haste' is no plain name" in failed(capsys)
    bundle(here / "net.haste")
    assert deploy(device, "net.haste", "--to", "~/$(reboot)") == 1
    assert "is no plain folder" in failed(capsys)
    assert deploy(device, "net.haste", "--to", "../elsewhere") == 1
    assert "is no plain folder" in failed(capsys)


def test_what_is_no_bundle_is_not_sent(device: Server, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("net.haste").write_bytes(b"no bundle")
    assert deploy(device, "net.haste") == 3
    assert list(device.home.iterdir()) == []
    assert "net.haste" in failed(capsys)


def test_the_script_for_the_device_is_understood_by_an_old_python() -> None:
    source = Path(device_side.__file__).read_text("utf-8")
    ast.parse(source, feature_version=(3, 6))
    imported = {n.name for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import) for n in node.names}
    assert imported <= {"base64", "hashlib", "json", "os", "platform", "shutil", "struct", "subprocess", "sys"}
    assert not [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)]


def test_the_documentation_names_every_option() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs/deploy.md").read_text("utf-8")
    help_text = subprocess.run(
        [*COMMAND, "--help"], capture_output=True, text=True, env=os.environ | {"COLUMNS": "200"}
    )
    known = set(re.findall(r"(--[a-z][a-z-]+)", help_text.stdout))
    told = set(re.findall(r"(--[a-z][a-z-]+)", text))
    assert told - {"--now", *known} == set()
    assert known - told - {"--debug", "--help", "--fps", "--page"} == set()  # two of haste-run serve, in an example
