"""``haste-edge deploy``: a bundle goes to a device, over ssh or over a serial line."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from haste_edge.cli.common import Debug, Json, Reporter
from haste_edge.errors import DeployError
from haste_runtime.cli.common import print_json

if TYPE_CHECKING:
    from haste_edge.deploy.remote import Remote
    from haste_edge.deploy.steps import Step

HELP = """Bring a bundle to a device, over the system's ssh and rsync, or with --serial over a serial line.

The file is sent beside what runs there, compared by its checksum on the device, flushed to its disk, and only then made
the current version, at once. The version before is kept: --rollback goes back to it. After an interruption the same
command goes on where it was. Programs on the device use ~/haste/NAME/current/NAME.haste.

\b
Examples:
  haste-edge deploy net.haste pi@raspberrypi.local --dry-run      what would be done, and nothing else
  haste-edge deploy net.haste pi@raspberrypi.local --with-runtime
  haste-edge deploy net.haste pi@raspberrypi.local --service --source camera:0 --policy policy.toml
  haste-edge deploy net.haste pi@raspberrypi.local --rollback
  haste-edge deploy net.haste --serial /dev/ttyUSB0               there: haste-run receive --serial /dev/ttyAMA0 -o .
"""


def deploy(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The .haste file; for --rollback its name will do.")],
    host: Annotated[str | None, typer.Argument(metavar="USER@HOST", help="As ssh takes it; not with --serial.")] = None,
    with_runtime: Annotated[
        bool, typer.Option("--with-runtime", help="Also install haste-runtime there, in an environment of its own.")
    ] = False,
    wheels: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="With --with-runtime: what `haste-edge build-runtime` wrote; without it, it is built."
        ),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="With --with-runtime: build it for this board, which is quicker there.")
    ] = None,
    service: Annotated[
        bool, typer.Option("--service", help="Also let it run there as a service (haste-run install-service).")
    ] = False,
    source: Annotated[str, typer.Option(help="With --service: where its frames come from.")] = "camera:0",
    policy: Annotated[Path | None, typer.Option(help="With --service: a policy, which is sent along.")] = None,
    serve_options: Annotated[
        str, typer.Option(help='With --service: more options of haste-run serve, as in "--fps 5 --page 8080".')
    ] = "",
    rollback: Annotated[bool, typer.Option("--rollback", help="Go back to the version before, and end.")] = False,
    to: Annotated[str, typer.Option(metavar="DIR", help="Folder on the device.")] = "~/haste",
    python: Annotated[str, typer.Option(help="The device's Python.")] = "python3",
    ssh: Annotated[str, typer.Option(help='ssh with options, as in "ssh -p 2222".')] = "ssh",
    serial: Annotated[
        str | None, typer.Option(metavar="URL", help="Send it over this serial port: /dev/ttyUSB0, socket://host:port.")
    ] = None,
    baudrate: Annotated[int, typer.Option(min=300, help="With --serial.")] = 115200,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Look, tell what would be done, change nothing.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    if (host is None) == (serial is None):
        raise DeployError(
            f"{'Both a host and --serial are' if host else 'Neither a host nor --serial is'} given.",
            "Give one of them, as in: haste-edge deploy net.haste pi@raspberrypi.local",
        )
    if serial is not None:
        if with_runtime or service or rollback:
            raise DeployError("Over a serial line only the bundle itself goes.", "Leave the other options out.")
        _over_serial(bundle, serial, baudrate, dry_run, json)
        return
    assert host is not None
    from haste_edge.deploy.remote import Remote
    from haste_edge.deploy.service import Service, split_options

    with Reporter() as reporter, Remote(host, ssh, python) as remote, ExitStack() as stack:
        result: dict[str, Any] = {"host": host, "bundle": str(bundle), "dry_run": dry_run, "steps": []}
        if rollback:
            from haste_edge.deploy import steps

            state, planned = steps.rollback(remote, steps.place(to, bundle.stem))
            result |= {"folder": state["folder"], "current": state["previous"], "previous": state["current"]}
            restart = Service(remote, "", steps.plain(bundle.stem)).restart() if service else ()
            stages: Iterator[Step] = chain(planned, restart)
        else:
            stages = _stages(
                remote, bundle, to, result, reporter, stack, with_runtime=with_runtime, wheels=wheels,
                target=target, service=service, options=[f"--source={source}", *split_options(serve_options)],
                policy=policy,
            )  # fmt: skip
        for step in stages:
            result["steps"].append({"what": step.what, "command": step.command or None})
            if dry_run:
                _tell(step, len(result["steps"]), json)
                continue
            reporter.step(step.what)
            step.run()
    if json:
        print_json(result)
    elif dry_run:
        print("Nothing was changed." if result["steps"] else "Nothing is to be done.")
    elif not result["steps"]:
        print(f"{host} has it already: {result['path']}")
    else:
        print(f"{host}: {result['folder']}, version {result['current']}")
        if not rollback:
            print(f"Next: {remote.shown(result['next'])}")


def _stages(
    remote: Remote,
    bundle: Path,
    to: str,
    result: dict[str, Any],
    reporter: Reporter,
    stack: ExitStack,
    *,
    with_runtime: bool,
    wheels: Path | None,
    target: str | None,
    service: bool,
    options: list[str],
    policy: Path | None,
) -> Iterator[Step]:
    """Everything that is to be done, in order: the runtime, the bundle, the service. The bundle is checked first."""
    from haste_edge.deploy import runtime, steps
    from haste_edge.deploy.service import Service, checked_policy
    from haste_runtime.bundle import read_bundle

    read_bundle(bundle)
    if policy is not None:
        checked_policy(policy)
    sent = steps.parcel(bundle, bundle.stem)
    delivery = steps.Delivery(remote, sent, steps.look(remote, sent, steps.place(to, sent.name)), reporter.progress)
    command = f"{remote.python} -m haste_runtime.cli"
    if with_runtime:
        runtime.check_python(delivery.state, remote)
        machine = steps.machine_of(delivery.state, remote.host)
        if wheels is not None:
            wheel = runtime.find_wheel(wheels, machine)
        else:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="haste-wheel-")))
            wheel = runtime.built(machine, scratch, target, reporter.progress)
        sent_wheel = steps.parcel(wheel, "runtime")
        state = steps.look(remote, sent_wheel, steps.place(to, "runtime"))
        installation = runtime.Installation(remote, steps.Delivery(remote, sent_wheel, state, reporter.progress))
        command = installation.command
        result["runtime"] = {"wheel": wheel.name, "version": sent_wheel.version, "machine": machine}
        yield from installation.steps()
    else:
        state = remote.ask("state", folder=steps.place(to, "runtime"), version="none", file="none", sha256="")
        if state["current"] is not None:
            command = runtime.haste_run(state["folder"])
    path = f"{delivery.folder}/current/{sent.file}"
    was = delivery.state["current"]
    result |= {
        "folder": delivery.folder, "path": path, "sha256": sent.sha256, "current": sent.version,
        "previous": was if was != sent.version else delivery.state["previous"],
        "next": f"{command} bench {path}",
    }  # fmt: skip
    yield from delivery.upload()
    yield from delivery.switch()
    if service:
        yield from Service(remote, command, sent.name, options, policy).steps(delivery.folder, path)


def _tell(step: Step, number: int, json: bool) -> None:
    if json:
        return
    print(f"{number}. {step.what}")
    if step.command:
        print(f"   {step.command}")


def _over_serial(bundle: Path, url: str, baudrate: int, dry_run: bool, json: bool) -> None:
    from haste_runtime.serial_transfer.port import send

    with Reporter() as reporter:
        answer = send(bundle, url, baudrate, reporter.progress, dry_run)
    if json:
        print_json(answer)
    elif dry_run:
        print(f"{url} answers; {answer['there']} of {answer['size']} bytes are there. Nothing was sent.")
    else:
        print(f"{url}: {answer['path']}, {answer['sent']} of {answer['size']} bytes sent, checksum compared")
