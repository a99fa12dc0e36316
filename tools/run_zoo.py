"""Compile published architectures with random weights, and record what came of each: docs/results/zoo.jsonl.

    python tools/run_zoo.py                        # all that is not recorded yet; go on after an interruption with it
    python tools/run_zoo.py --only resnet18,unet   # these, if they are not recorded yet; --force: again in any case
    python tools/run_zoo.py --again                # those that were refused, failed or came out wrong
    python tools/write_zoo.py                      # docs/zoo.md out of it

The architectures (tools/zoo_members.py) come from torchvision and timm, whose environment is set up in the cache folder
at the first run and takes about 6 GB; --python names one that has them already. Each model has processes of its own,
under --minutes and --memory, which harm no other: tools/zoo_export.py writes the ONNX file, tools/zoo_measure.py
compiles it, compares level 0 with ONNX Runtime and times it. Those with a ladder, which takes minutes, come last. A
line is written as soon as a model is done. The files of a model, up to some GB, are deleted then, unless --keep is
given.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from zoo_members import BY_NAME, MEMBERS, Member

from haste_edge import processes
from haste_edge.bench.compare import machine
from haste_edge.bench.environments import bench_folder, python_of
from haste_edge.processes import ProcessError
from haste_runtime.errors import HasteError

TOOLS = Path(__file__).resolve().parent
RESULTS = TOOLS.parent / "docs" / "results" / "zoo.jsonl"
REQUIREMENTS = (
    "torch==2.14.1", "torchvision==0.29.1", "timm==1.0.31", "onnx==1.23.2", "onnxscript==0.7.2",
    "pixeltable-yolox==0.4.3",
)  # fmt: skip
ENVIRONMENT = "environment"  # the name of the record that is no model's
OURS = ("haste-edge", "onnx", "onnxruntime")

Record = dict[str, Any]


@dataclass
class Records:
    """What is known, by name, in a file of one JSON object a line. Every `put` leaves the whole file or the old one."""

    file: Path
    found: dict[str, Record] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.file.exists():
            lines = self.file.read_text().splitlines()
            self.found = {record["name"]: record for record in map(json.loads, filter(None, lines))}

    def put(self, record: Record) -> None:
        self.found[record["name"]] = record
        order = {name: index for index, name in enumerate([ENVIRONMENT, *BY_NAME])}
        kept = sorted(self.found.values(), key=lambda r: order.get(r["name"], len(order)))
        partial = self.file.with_suffix(".partial")
        self.file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text("".join(json.dumps(r) + "\n" for r in kept))
        os.replace(partial, self.file)


@dataclass(frozen=True)
class Limits:
    """Of one process. minutes: of wall time. memory: GB. alone: a command put before the one that takes time."""

    minutes: float
    memory: float
    alone: tuple[str, ...] = ()


def choose(members: Sequence[Member], known: Mapping[str, Record], only: str, force: bool, again: bool) -> list[Member]:
    """Those that are left to do. only: names with commas between them, which are done in that order, or "" for all,
    those with a ladder last. Raises SystemExit for others."""
    names = [name.strip() for name in only.split(",") if name.strip()]
    known_as = {member.name: member for member in members}
    unknown = [name for name in names if name not in known_as]
    if unknown:
        raise SystemExit(f"{', '.join(unknown)}: no member of the zoo. tools/zoo_members.py has them all.")
    wanted = [known_as[name] for name in names] or sorted(members, key=lambda member: member.ladder)
    if force:
        return wanted
    todo = {m.name for m in wanted if m.name not in known}
    if again:
        todo |= {m.name for m in wanted if m.name in known and known[m.name]["state"] != "compiled"}
    return [member for member in wanted if member.name in todo]


def run_json(command: Sequence[object], log: Path, minutes: float) -> dict[str, Any]:
    """The last line that a command prints. Raises ProcessError with its reason."""
    paths = os.pathsep.join(str(TOOLS.parent / folder) for folder in (".", "runtime"))
    processes.run(command, log, processes.environment(1, Path(paths)), 60 * minutes)
    lines = log.read_text(errors="replace").splitlines()
    for line in reversed(lines):
        if line.startswith("{"):
            found: dict[str, Any] = json.loads(line)
            return found
    raise ProcessError(processes.reason_in(log))


def export(member: Member, python: Path, folder: Path, limits: Limits) -> tuple[Path, dict[str, Any]]:
    """The ONNX file, which is made if it is not there, and what the exporter says of it."""
    model, said = folder / f"{member.name}.onnx", folder / f"{member.name}.export.json"
    if not (model.exists() and said.exists()):
        command = [
            python, TOOLS / "zoo_export.py", member.source, member.name, "--size", member.size, "--channels",
            member.channels, "--memory", limits.memory, "--out", model,
        ]  # fmt: skip
        facts = run_json(command, folder / f"{member.name}.export.log", limits.minutes)
        said.write_text(json.dumps(facts))
    return model, json.loads(said.read_text())


def measure(member: Member, model: Path, folder: Path, limits: Limits) -> Record:
    """Compiles and times. Raises ProcessError where a process fails; a refusal is a result."""
    script, bundle = [sys.executable, TOOLS / "zoo_measure.py"], folder / f"{member.name}.haste"
    ladder = ["--ladder"] if member.ladder else []
    shared = [model, bundle, "--memory", limits.memory]
    what = "compile" if limits.alone else "both"
    result = run_json([*script, what, *shared, *ladder], folder / f"{member.name}.compile.log", limits.minutes)
    if result["state"] == "compiled" and limits.alone:
        timed = [*limits.alone, *script, "time", *shared]
        result |= run_json(timed, folder / f"{member.name}.time.log", limits.minutes)
    return result | {"alone": bool(limits.alone)}


def do(member: Member, python: Path, folder: Path, limits: Limits) -> Record:
    """Everything about one model; never raises but for an interruption."""
    record: Record = {**asdict(member), "date": datetime.now(UTC).date().isoformat()}
    begun = time.perf_counter()
    try:
        step = "exporting it"
        model, facts = export(member, python, folder, limits)
        record |= facts
        record["onnx_mb"] = round(sum(f.stat().st_size for f in folder.glob(f"{model.name}*")) / 1e6, 1)
        step = "compiling or timing it"
        record |= measure(member, model, folder, limits)
    except (HasteError, OSError, ValueError) as error:
        record |= {"state": "failed", "reason": f"{step}: {error}"}
    if "reason" in record:
        record["reason"] = record["reason"].replace(f"{folder}{os.sep}", "")  # where it lay on this machine
    return record | {"seconds": round(time.perf_counter() - begun, 1)}


def told(record: Record) -> str:
    """In a few words, for a terminal."""
    if record["state"] != "compiled":
        return f"{record['state']}: {record['reason']}"[:150]
    share = 100 * record["may_merge_flops"] / max(record["flops"], 1)
    times = " ".join(f"{ms:.4g}" for ms in record["cpu_ms"])
    return (
        f"error {record['error']:.1e}, {record['flops'] / 1e9:.2f} GFLOPs, {share:.0f} % may merge, ms {times}, "
        f"ONNX Runtime {record['onnxruntime_cpu_ms']:.4g}"
    )


def of_environment(python: Path, folder: Path) -> Record:
    """Versions there and here, and the names of torchvision's classifiers."""
    there = run_json([python, TOOLS / "zoo_export.py", "--versions"], folder / "versions.log", 10)
    ours = {}
    for package in OURS:
        try:
            ours[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {"name": ENVIRONMENT, "machine": machine(), "ours": ours, **there}


def say(text: str) -> None:
    print(text, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="names, with commas between them (default: all)")
    parser.add_argument("--force", action="store_true", help="those too that are recorded already")
    parser.add_argument("--again", action="store_true", help="those too that are recorded, but did not compile")
    parser.add_argument("--no-ladders", action="store_true", help="level 0 alone, which is quick, for all of them")
    parser.add_argument("--python", type=Path, help="the interpreter of an environment with torchvision and the rest")
    parser.add_argument("--alone", default="", help="command to put before the one that times, such as a chrt")
    parser.add_argument("--minutes", type=float, default=20, help="wall time of one process (default: 20)")
    parser.add_argument("--memory", type=float, default=12, help="GB of one process, on Linux (default: 12)")
    parser.add_argument("--work", type=Path, default=Path("build/zoo"), help="for files while they are needed")
    parser.add_argument("--keep", action="store_true", help="keep the ONNX files and bundles")
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    records = Records(args.results)
    todo = choose(MEMBERS, records.found, args.only, args.force, args.again)
    say(f"{len(todo)} of {len(MEMBERS)} models to do; {len(records.found)} records in {args.results}")
    if not todo:
        return
    folder = args.work.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with processes.terminated_like_interrupted():
        python = args.python or python_of("zoo", REQUIREMENTS, bench_folder(), say)
        records.put(of_environment(python, folder))
        limits = Limits(args.minutes, args.memory, tuple(shlex.split(args.alone)))
        for number, member in enumerate(todo, start=1):
            member = replace(member, ladder=member.ladder and not args.no_ladders)
            say(f"[{number}/{len(todo)}] {member.name} ...")
            record = do(member, python, folder, limits)
            records.put(record)
            say(f"[{number}/{len(todo)}] {member.name}: {told(record)} ({record['seconds']:.0f} s)")
            if not args.keep:
                for file in folder.glob(f"{member.name}.*"):
                    if file.suffix != ".log":
                        file.unlink() if file.is_file() else shutil.rmtree(file)


if __name__ == "__main__":
    main()
