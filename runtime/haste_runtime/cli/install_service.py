"""``haste-run install-service``: have systemd run ``haste-run serve``. A unit of the user's own needs no root."""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from pathlib import Path

from haste_runtime.cache import write_whole
from haste_runtime.cli import serve
from haste_runtime.cli.common import note, print_json
from haste_runtime.errors import HasteError, InputError

PATHS = ("bundle", "policy", "output", "trace")
OWN = ("command", "json", "debug", "system", "print", "uninstall", "user")
EPILOG = """examples:
  haste-run install-service net.haste --source camera:0 --policy policy.toml --name door-camera
  haste-run install-service net.haste --source camera:0 --print         look at the unit file first
  sudo haste-run install-service net.haste --source camera:0 --system   for the whole system, without anyone's login
  haste-run install-service --uninstall --name door-camera

All options of haste-run serve are allowed; see haste-run serve --help."""


def add_options(parser: argparse.ArgumentParser) -> None:
    serve.add_options(parser)
    parser.epilog = EPILOG
    for action in parser._actions:  # to uninstall, a name is enough
        if action.dest == "bundle":
            action.nargs = "?"
        action.required = False
    parser.add_argument("--print", action="store_true", help="print the unit file, and write nothing")
    parser.add_argument("--system", action="store_true", help="a unit of the system, in /etc/systemd/system")
    parser.add_argument("--user", help="who runs a unit of the system (who called sudo)")
    parser.add_argument("--uninstall", action="store_true", help="remove the unit file of --name")


def run(options: argparse.Namespace) -> None:
    from haste_runtime.service.unit import unit_path, unit_text

    path = unit_path(options.name, options.system)
    control = "systemctl" if options.system else "systemctl --user"
    if options.uninstall:
        serve.checked_service_name(options.name)
        _uninstall(path, options, control)
        return
    if options.bundle is None or options.source is None:
        raise InputError("A service needs a bundle and --source.", "As in: net.haste --source camera:0")
    serve.check(options)
    if not Path(options.bundle).is_file():
        raise InputError(f"There is no file {options.bundle}.", "Give the .haste file that the service is to run.")
    user = options.user or os.environ.get("SUDO_USER") or getpass.getuser()
    text = unit_text(
        options.name,
        [sys.executable, "-m", "haste_runtime.cli", "serve", *arguments(options)],
        Path.cwd(),
        system=options.system,
        user=user,
    )
    if options.print:
        print_json({"path": os.fspath(path), "unit": text}) if options.json else print(text, end="")
        return
    try:
        write_whole(path, text)
    except OSError as error:
        hint = "With --system this needs root: put sudo before it." if options.system else "Use --print to see it."
        raise HasteError(f"The unit file {path} cannot be written: {error.strerror or error}.", hint) from None
    steps = [f"{control} daemon-reload", f"{control} enable --now {options.name}"]
    if not options.system:
        steps.append(f"loginctl enable-linger {getpass.getuser()}")
    if options.json:
        print_json({"path": os.fspath(path), "unit": text, "next": steps})
        return
    print(f"Written: {path}")
    print(f"Next:    {steps[0]} && {steps[1]}")
    if not options.system:
        print(f"         {steps[2]}    so that it runs without a login, too")
    print(f"Watch:   haste-run top {options.name}; journalctl {'' if options.system else '--user '}-u {options.name}")


def _uninstall(path: Path, options: argparse.Namespace, control: str) -> None:
    try:
        path.unlink()
    except FileNotFoundError:
        raise InputError(f"There is no unit file {path}.", "Give the --name it was installed with.") from None
    except OSError as error:
        raise HasteError(f"{path} cannot be removed: {error.strerror or error}.", "Is root needed for it?") from None
    if options.json:
        print_json({"removed": os.fspath(path)})
    else:
        print(f"Removed: {path}")
    note(f"If it runs: {control} stop {options.name} && {control} daemon-reload")


def arguments(options: argparse.Namespace) -> list[str]:
    """The options as words for serve, without those that have their default; paths of files are absolute."""
    parser = argparse.ArgumentParser()
    serve.add_options(parser)
    words: list[str] = []
    for action in parser._actions:
        value = getattr(options, action.dest, None)
        if action.dest in ("help", *OWN) or value in (None, False) or value == action.default:
            continue
        for one in value if isinstance(value, list) else [value]:
            text = os.fspath(Path(one).absolute()) if action.dest in PATHS else str(one)
            if action.dest == "source":
                text = absolute_source(text)
            if action.dest == "log" and text != "none":
                text = os.fspath(Path(text).absolute())
            if not action.option_strings:
                words.append(text)
            elif value is True:
                words.append(action.option_strings[0])
            else:
                words.append(f"{action.option_strings[0]}={text}")
    return words


def absolute_source(text: str) -> str:
    kind, colon, where = text.partition(":")
    return f"{kind}:{Path(where).absolute()}" if colon and kind in ("dir", "npy") else text
