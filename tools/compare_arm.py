"""Whether compiled ARM code gives the very bytes that this computer's compiled code gives, on real pictures.

    python tools/compare_arm.py NET.haste [...] --data pictures.npz [--native FOLDER | --wheel FILE]

Both run every level, this computer with vectors as long as ARM's (HASTE_LANES=4). Prints a line for each level and
writes JSON to --out; ends with 1 if bytes differ. A hundred pictures of a small network take some minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from emulation.architectures import EmulationError, architecture_of
from emulation.machine import Machine
from emulation.options import add_options
from emulation.root import REPOSITORY, Root
from numpy.typing import NDArray

from haste_edge.evaluate import read_pictures
from haste_runtime.bundle import read_bundle
from haste_runtime.preprocessing import images_to_inputs

RUN_LEVELS = REPOSITORY / "tests/run_levels.py"


def rows_of(found: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]]) -> list[dict[str, Any]]:
    """One for each level, of what tests/run_levels.py has written on both sides."""
    rows = []
    for level in sorted({int(key.partition("/")[0]) for key in expected}):
        mine = [key for key in expected if key.startswith(f"{level}/")]
        outputs = [key for key in mine if "/output/" in key]
        identical = [
            all(found[key][i].tobytes() == expected[key][i].tobytes() for key in outputs)
            for i in range(len(expected[outputs[0]]))
        ]
        error = max(float(np.abs(found[key] - expected[key]).max() / np.abs(expected[key]).max()) for key in outputs)
        same = [(found[key].argmax(-1) == expected[key].argmax(-1)).mean() for key in outputs]
        rows.append(
            {
                "level": level, "pictures": len(identical), "identical": sum(identical), "largest_error": error,
                "same_top1": float(np.mean(same)),
            }
        )  # fmt: skip
    return rows


def compare(bundle: Path, machine: Machine, args: argparse.Namespace) -> dict[str, Any]:
    """Run both sides. Raises EmulationError."""
    content = read_bundle(bundle)
    (value,) = content.graph.inputs
    x = images_to_inputs(read_pictures(args.data)[0][: args.pictures], value.shape, content.preprocessing)
    layers = content.plan.layers
    algorithms = {layer.algorithm for layer in layers} | {v.algorithm for layer in layers for v in layer.variants}
    with tempfile.TemporaryDirectory(prefix="haste-compare-") as scratch:
        inputs, here, there = (Path(scratch) / name for name in ("x.npz", "here.npz", "there.npz"))
        arrays: dict[str, Any] = {value.name: x}
        np.savez(inputs, **arrays)
        command = [sys.executable, RUN_LEVELS, bundle, inputs, here, "numba"]
        subprocess.run([*map(str, command)], env=os.environ | {"HASTE_LANES": "4"}, check=True)
        overlay = machine.root.wheel(args.wheel) if args.wheel else REPOSITORY / "runtime"
        native = {"HASTE_NATIVE": str(args.native.resolve())} if args.native else {}
        variables = {"HASTE_CPU": args.haste_cpu, **native}
        done = machine.run(RUN_LEVELS, bundle, inputs, there, "native", overlays=(overlay,), variables=variables)
        if done.returncode:
            raise EmulationError(f"{bundle.name} does not run under emulation: {done.stdout[-300:]}.")
        with np.load(here) as expected, np.load(there) as found:
            rows = rows_of(dict(found), dict(expected))
    return {
        "bundle": bundle.stem, "cpu": machine.cpu, "kernels": args.haste_cpu, "algorithms": sorted(algorithms),
        "date": time.strftime("%Y-%m-%d"), "levels": rows,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=Path, metavar="BUNDLE", help="networks with one input")
    parser.add_argument("--data", type=Path, required=True, help=".npz with x, pictures")
    parser.add_argument("--pictures", type=int, default=100, help="how many (default: 100)")
    add_options(parser)
    parser.add_argument("--out", type=Path, default=Path("docs/results/arm"), help="folder for NAME.same.json")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    differ = False
    try:
        machine = Machine(Root(architecture_of(args.cpu)), args.cpu)
        for bundle in args.bundles:
            result = compare(bundle, machine, args)
            (args.out / f"{bundle.stem}.same.json").write_text(json.dumps(result, indent=1) + "\n")
            for row in result["levels"]:
                print(
                    f"{bundle.stem} level {row['level']}: {row['identical']} of {row['pictures']} identical, "
                    f"same top-1 {100 * row['same_top1']:.1f} %, largest difference {row['largest_error']:.1e}",
                    flush=True,
                )  # fmt: skip
                differ |= row["identical"] < row["pictures"]
    except EmulationError as error:
        sys.exit(str(error))
    sys.exit(1 if differ else 0)


if __name__ == "__main__":
    main()
