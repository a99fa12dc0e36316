"""Which processor is imitated, and whose kernels run there: the options of the tools that run compiled code."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_options(parser: argparse.ArgumentParser) -> None:
    """--cpu, --haste-cpu, and either --native or --wheel."""
    parser.add_argument("--cpu", default="cortex-a72", help="QEMU's name of the processor (default: cortex-a72)")
    parser.add_argument("--haste-cpu", default="cortex-a72", help="name of the kernels to take (default: cortex-a72)")
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--native", type=Path, help="folder with index.json and the kernels")
    given.add_argument(
        "--wheel", type=Path, help="what haste-edge build-runtime has made for the processor's architecture"
    )
