"""``haste-run receive``: the device's side of ``haste-edge deploy --serial``."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from haste_runtime.cli.common import note, positive_integer, print_json

TELL_S = 5.0


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--serial", required=True, metavar="URL", help="such as /dev/ttyAMA0, or socket://host:port")
    parser.add_argument("--baudrate", type=positive_integer, default=115200, help="the same as the sender's (115200)")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder for bundles")
    parser.add_argument("--keep-going", action="store_true", help="wait for the next one after each, until Ctrl-C")


def run(options: argparse.Namespace) -> None:
    from haste_runtime.serial_transfer.port import receive

    last = 0.0

    def progress(what: str, done: int, total: int) -> None:
        nonlocal last
        if not total or time.monotonic() - last >= TELL_S:
            last = time.monotonic()
            note(f"{what}: {done} of {total} bytes" if total else what)

    def arrived(answer: dict[str, Any]) -> None:
        if options.json:
            print_json(answer)
        else:
            print(f"{answer['path']}: checked, sha256 {answer['sha256']}", flush=True)

    note(f"Waiting at {options.serial}, {options.baudrate} baud; the sender: haste-edge deploy BUNDLE --serial URL")
    receive(options.output, options.serial, options.baudrate, progress, arrived, options.keep_going)
