"""Count the instructions that networks take on an emulated ARM processor, here and in other runtimes.

    python tools/measure_arm.py --models FOLDER --data pictures.npz [--native FOLDER | --wheel FILE]
    python tools/write_arm.py

No board is needed and none is imitated in its speed: these are counts, not times. FOLDER holds ``nets.py`` with
factories and ``NAME.safetensors`` with their weights; the demo network is always there. Bundles, accuracy and the
other runtimes' files are made as tools/measure_performance.py makes them, and kept in --work. What runs under emulation
is this checkout's haste_runtime with the kernels of --native (a folder with index.json) or of a wheel that
`haste-edge build-runtime` has made. Cycles of inner loops are estimated with llvm-mca, where it is installed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from emulation import mca
from emulation.architectures import ARM64, EmulationError, architecture_of
from emulation.counting import Block, Counted, count
from emulation.machine import Machine
from emulation.options import add_options
from emulation.root import REPOSITORY, Root
from measure_performance import DROP, SHAPE, SUBJECTS, CommandError, Commands, Subject, get_ready, model
from numpy.typing import NDArray

from haste_edge.bench import compare, peers
from haste_edge.bench.rounds import largest_error
from haste_edge.bench.source import Source, read_source
from haste_edge.evaluate import read_pictures
from haste_runtime.bundle import read_bundle
from haste_runtime.preprocessing import images_to_inputs

# The newest releases that this emulator runs. numpy 1 is what tflite-runtime was built against.
PEERS: dict[str, tuple[str, ...]] = {
    "ncnn": ("ncnn==1.0.20261020",),
    "onnxruntime": ("onnxruntime==1.22.0",),
    "litert": ("ai-edge-litert==2.1.0",),
    "tflite": ("tflite-runtime==2.14.0", "numpy==1.26.4"),
}
NETWORKS = "resnet20,resnet34,demo,resnet56"
SAME = 2e-3  # of the largest output, as `haste-edge bench` asks of others


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def rows_of(
    name: str, counted: Counted, expected: NDArray[np.float32], top1: Mapping[int, float | None]
) -> list[dict[str, Any]]:
    """One row for each variant. expected: what level 0 of ours gives, for the others to agree with."""
    rows = []
    for variant, taken in counted.variants.items():
        level = int(variant.split()[1]) if variant.startswith("level ") else None
        rows.append(
            {
                "runtime": name, "version": counted.version, "settings": counted.settings, "variant": variant,
                "level": level, "instructions": round(taken.mean), "frames": taken.frames, "start": counted.start,
                "largest_error": float(f"{largest_error(taken.outputs, expected):.3g}"), "top1": top1.get(level or 0),
            }
        )  # fmt: skip
    return rows


def chosen_level(rows: Sequence[Mapping[str, Any]], drop: float = DROP) -> int:
    """Of the native backend's levels that lose at most ``drop`` points of top-1, the one with fewest instructions."""
    own = [row for row in rows if row["runtime"] == "native"]
    exact = next(row["top1"] for row in own if row["level"] == 0)
    allowed = [row for row in own if exact - row["top1"] <= drop]
    return int(min(allowed, key=lambda row: row["instructions"])["level"])


def loops_of(blocks: Sequence[Block], wanted: int = 2) -> list[dict[str, Any]]:
    """The blocks with most vector multiply-adds, as assembly, with what llvm-mca estimates of them."""
    found = []
    for block in blocks:
        lines = mca.disassemble(block.code)
        multiplies = sum(mca.is_multiply_add(line) for line in lines)
        if multiplies >= 4:
            found.append((block.executions * multiplies, block, lines, multiplies))
    loops = []
    for _, block, lines, multiplies in sorted(found, key=lambda each: -each[0])[:wanted]:
        loops.append(
            {
                "executions": block.executions, "instructions": len(lines), "multiply_adds": multiplies,
                "cycles": mca.estimate(lines), "assembly": lines,
            }
        )  # fmt: skip
    return loops


def peer_rows(
    subject: Subject, source: Source, frames: NDArray[np.float32], expected: NDArray[np.float32],
    args: argparse.Namespace, machine: Machine,
) -> dict[str, Any]:  # fmt: skip
    """The other runtimes' "rows", and those that are "missing"; kept in --work, as our kernels do not change them."""
    kept = args.work / f"{subject.name}.peers.json"
    key = [machine.cpu, len(frames), {name: list(requirements) for name, requirements in PEERS.items()}]
    if kept.exists() and (found := json.loads(kept.read_text()))["key"] == key:
        return dict(found)
    rows: list[dict[str, Any]] = []
    comparison = compare.Comparison()
    ready = compare.prepare(peers.choose(",".join(PEERS)), source, comparison, say)
    missing = [vars(one) for one in comparison.missing]
    for one in ready:
        name = one.peer.name
        say(f"{subject.name}: counting {name}")
        try:
            overlay = machine.root.overlay(f"peer-{name}", PEERS[name], ())
            counted = count(machine, one.peer.adapter, one.folder, frames, (overlay,), {})
        except EmulationError as error:
            missing.append({"runtime": name, "reason": error.message})
            continue
        for row in rows_of(name, counted, expected, {}):
            if row["largest_error"] <= SAME:
                rows.append(row)
            else:
                reason = f"its output differs by {row['largest_error']} of the largest"
                missing.append({"runtime": f"{name} {row['variant']}".strip(), "reason": reason})
    result = {"key": key, "rows": rows, "missing": missing}
    kept.write_text(json.dumps(result, indent=1) + "\n")
    return result


def measure(subject: Subject, args: argparse.Namespace, machine: Machine, ours: Sequence[Path]) -> dict[str, Any]:
    """All rows of one network. Runtimes that fail are named in "missing"."""
    bundle = args.work / f"{subject.name}.haste"
    content = read_bundle(bundle)
    frames = images_to_inputs(read_pictures(args.data)[0][: args.frames], SHAPE, subject.preprocessing)
    evaluated = json.loads((args.work / f"{subject.name}.evaluated.json").read_text())
    top1 = {row["level"]: row["top1"] for row in evaluated["levels"]}
    factory, weights = model(subject, args.models)
    sys.path.insert(0, str(args.models.resolve()))
    source = read_source(content, factory, Path(weights), None)
    expected = source.outputs(frames).reshape(len(frames), -1)
    rows: list[dict[str, Any]] = []
    say(f"{subject.name}: counting haste-edge, native")
    native = {"HASTE_CPU": args.haste_cpu} | ({"HASTE_NATIVE": str(args.native.resolve())} if args.native else {})
    counted = count(machine, "runtime_haste.py", bundle, frames, ours, native, blocks=30)
    if not counted.settings.startswith("native"):
        raise EmulationError(f"The native backend does not run there: {counted.settings}.")
    rows += rows_of("native", counted, expected, top1)
    chosen = chosen_level(rows)
    loops = {
        f"level {n}": loops_of(counted.variants[f"level {n}"].blocks) for n in sorted({0, chosen})
    }  # fmt: skip
    say(f"{subject.name}: counting haste-edge, numpy")
    some = [f"level {n}" for n in sorted({0, chosen})]
    runtime = (REPOSITORY / "runtime",)
    counted = count(machine, "runtime_haste.py", bundle, frames[:2], runtime, {"HASTE_NATIVE": ""}, some)
    rows += rows_of("numpy", counted, expected[:2], top1)
    others = peer_rows(subject, source, frames, expected, args, machine)
    rows += [row | {"top1": top1.get(0)} for row in others["rows"]]
    return {
        "name": subject.name, "options": list(subject.options), "cpu": machine.cpu, "target": content.target,
        "pictures": evaluated["pictures"], "chosen_level": chosen, "rows": rows, "missing": others["missing"],
        "loops": loops,
        "abi": json.loads(((args.native or ours[0] / "haste_runtime/native") / "index.json").read_text())["abi"],
        "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True, help="folder of nets.py and NAME.safetensors")
    parser.add_argument("--data", type=Path, required=True, help=".npz with x and y, for accuracy and as frames")
    parser.add_argument("--networks", default=NETWORKS, help=f"names, with commas (default: {NETWORKS})")
    parser.add_argument("--target", default="rpi4", help="board that bundles are planned for (default: rpi4)")
    parser.add_argument("--pictures", type=int, default=1000, help="for top-1 (default: 1000)")
    parser.add_argument("--frames", type=int, default=4, help="counted for each variant (default: 4)")
    add_options(parser)
    parser.add_argument("--work", type=Path, default=Path("build/arm"), help="bundles and accuracy, kept")
    parser.add_argument("--out", type=Path, default=Path("docs/results/arm"))
    args = parser.parse_args()
    named = [subject for name in args.networks.split(",") for subject in SUBJECTS if subject.name == name]
    chosen = [replace(subject, peers="") for subject in named]  # `peer_rows` gets the others ready
    for folder in (args.work, args.out):
        folder.mkdir(parents=True, exist_ok=True)
    commands = Commands(args.work, args.models, ())
    try:
        machine = Machine(Root(architecture_of(args.cpu), on_step=say), args.cpu)
        if machine.root.architecture is not ARM64:
            parser.error("the other runtimes are for 64-bit ARM alone")
        machine.root.make()
        ours = [machine.root.wheel(args.wheel) if args.wheel else REPOSITORY / "runtime"]
        for subject in chosen:
            get_ready(subject, commands, args.models, args.data, args.pictures, args.work, args.target)
            result = measure(subject, args, machine, ours)
            (args.out / f"{subject.name}.json").write_text(json.dumps(result, indent=1) + "\n")
    except (EmulationError, CommandError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
