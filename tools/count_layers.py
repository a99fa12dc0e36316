"""How many instructions each operation of a network takes on an emulated ARM processor.

    python tools/count_layers.py NET.haste --data pictures.npz [--levels 0,3] (--native FOLDER | --wheel FILE)

Prints a line for each operation and level: thousands of instructions, and how many for four multiply-adds of the dense
layer (a vector's worth; one is what a direct convolution takes at least). What Python takes between operations is left
out, but for a call of about ten thousand. For the whole frame see tools/measure_arm.py.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from emulation import plugin
from emulation.architectures import EmulationError, architecture_of
from emulation.counting import read_marks
from emulation.machine import Machine, environment
from emulation.options import add_options
from emulation.root import REPOSITORY, Root

from haste_edge.evaluate import read_pictures
from haste_runtime.bundle import Bundle, read_bundle
from haste_runtime.flops import conv_geometries
from haste_runtime.operators import check_graph
from haste_runtime.preprocessing import images_to_inputs

SCRIPT = Path(__file__).parent / "emulation/count_operations.py"


def operations(bundle: Bundle, level: int) -> list[tuple[str, str, int]]:
    """Name, kind and dense multiply-adds of each row of the execution table. A concat has a row for each input."""
    plans, choices = {layer.node: layer for layer in bundle.plan.layers}, bundle.plan.levels[level].choices
    found = []
    geometries = conv_geometries(bundle.graph, check_graph(bundle.graph))
    for node in bundle.graph.nodes:
        what, macs = node.op, 0
        if node.op == "conv":
            g, plan, choice = geometries[node.name], plans.get(node.name), choices.get(node.name)
            kernel = f"{g.kernel[0]}x{g.kernel[1]}" + (f"/{g.stride[0]}" if max(g.stride) > 1 else "")
            how = "" if plan is None else plan.algorithm
            if plan is not None and choice is not None:
                variant = plan.variants[choice.variant]
                how = f"{variant.policy} {variant.patch} {variant.algorithm}"
            what = f"{kernel} {g.channels_in}-{g.channels_out} {g.out[0]}x{g.out[1]} {how}".rstrip()
            macs = g.out[0] * g.out[1] * g.channels_out * g.channels_in // g.groups * g.kernel[0] * g.kernel[1]
        found += [(node.name, what, macs)] * (len(node.inputs) if node.op == "concat" else 1)
    return found


def count(bundle: Path, level: int, machine: Machine, args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each operation: means over the frames. Raises EmulationError."""
    content = read_bundle(bundle)
    (value,) = content.graph.inputs
    frames = images_to_inputs(read_pictures(args.data)[0][: args.frames], value.shape, content.preprocessing)
    rows = operations(content, level)
    native = {"HASTE_CPU": args.haste_cpu} | ({"HASTE_NATIVE": str(args.native.resolve())} if args.native else {})
    overlay = machine.root.wheel(args.wheel) if args.wheel else REPOSITORY / "runtime"
    with tempfile.TemporaryDirectory(prefix="haste-count-") as scratch:
        marks, inputs = Path(scratch) / "marks", Path(scratch) / "frames.npy"
        np.save(inputs, frames)
        command = machine.qemu(("-plugin", f"{plugin.build()},out={marks}"))
        command += [str(part) for part in (SCRIPT, bundle, inputs, level)]
        done = subprocess.run(command, env=environment((overlay,), native), capture_output=True, text=True)
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise EmulationError(f"{bundle.name} does not run under emulation: {said[:200]}")
        totals, _ = read_marks(marks.read_text())
    spans = np.diff(np.reshape(totals, (len(frames), len(rows) + 1)), axis=1).mean(0)
    return [
        {"level": level, "operation": name, "what": what, "macs": macs, "instructions": round(float(taken))}
        for (name, what, macs), taken in zip(rows, spans, strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="a network with one input")
    parser.add_argument("--data", type=Path, required=True, help=".npz with x, pictures")
    parser.add_argument("--levels", default="0", help="with commas (default: 0)")
    parser.add_argument("--frames", type=int, default=2, help="counted for each level (default: 2)")
    add_options(parser)
    parser.add_argument("--json", action="store_true", help="print JSON on stdout")
    args = parser.parse_args()
    rows = []
    try:
        machine = Machine(Root(architecture_of(args.cpu)), args.cpu)
        for level in map(int, args.levels.split(",")):
            rows += count(args.bundle, level, machine, args)
    except EmulationError as error:
        sys.exit(str(error))
    if args.json:
        print(json.dumps(rows, indent=1))
        return
    for level, group in itertools.groupby(rows, lambda row: row["level"]):
        own = list(group)
        print(f"level {level}: {sum(row['instructions'] for row in own) / 1e6:.2f} million instructions")
        for row in own:
            vectors = f"{4 * row['instructions'] / row['macs']:6.2f}" if row["macs"] else ""
            print(f"  {row['instructions'] / 1e3:9.1f}  {vectors:6}  {row['operation']:28} {row['what']}")


if __name__ == "__main__":
    main()
