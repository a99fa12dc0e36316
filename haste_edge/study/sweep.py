"""Many runs through joblib, resumable: a finished run is a line of a file, and a run whose line is there is not run.

joblib's backend decides where: `joblib.parallel_config` around `sweep` sends the runs to threads, processes or a
cluster. What is sent is a `Source` and a `Configuration`; each process loads the network and the pictures itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import joblib

from haste_edge.study.configuration import Configuration, StudyError
from haste_edge.study.run import run
from haste_edge.study.subject import Source, load

Line = dict[str, Any]
"""A finished run: "subject" (`Subject.digest`), "configuration", and what `Result` has."""

Progress = Callable[[int, int], None]


def sweep(
    source: Source,
    configurations: Sequence[Configuration],
    path: str | Path,
    *,
    jobs: int = 1,
    on_progress: Progress = lambda done, total: None,
) -> list[Line]:
    """The lines of all these configurations, in their order; those that ``path`` doesn't have yet are run and added.

    path: JSON lines; may have lines of other configurations and subjects, which are left alone. jobs: how many runs at
    once, -1 for one per core; clusters take as many as they have cores. on_progress: gets runs done, and all.

    A line is written as soon as its run has ended, so an interruption loses the runs under way and nothing else.
    Raises StudyError where the file can't be used, and whatever a run raises (what was finished before stays).
    """
    subject, path = load(source).digest, Path(path)
    keys = {configuration.key() for configuration in configurations}
    lines = {key: line for line in read_lines(path) if line["subject"] == subject and (key := _key(line)) in keys}
    missing = [c for c in configurations if c.key() not in lines]
    on_progress(len(lines), len(keys))
    if missing:
        with _Appending(path) as write:
            for line in _results(source, missing, jobs):
                if line["subject"] != subject:
                    raise StudyError(
                        "A worker found another network or other pictures than this process at the same paths.",
                        "Give all machines the same files.",
                    )
                write(line)
                lines[_key(line)] = line
                on_progress(len(lines), len(keys))
    return [lines[configuration.key()] for configuration in configurations]


def read_lines(path: str | Path) -> list[Line]:
    """All finished runs in a file, none where there is no file. A last line that was cut off is left out.

    Raises StudyError for a file that can't be read, or a line that is no result.
    """
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StudyError(f"The results in {path} cannot be read ({error}).", "Give another --out.") from error
    complete = text[: text.rfind("\n") + 1]
    return [_parse(line, f"{path}, line {number}") for number, line in enumerate(complete.splitlines(), 1)]


def _parse(text: str, where: str) -> Line:
    try:
        line = json.loads(text)
        if not isinstance(line, dict) or not isinstance(line["subject"], str) or not isinstance(line["kept"], dict):
            raise StudyError("It has no subject.")
        for name in ("flops_reduction_network", "flops_reduction_half_adds", "flops_reduction_kept", "agreement"):
            float(line[name])
        Configuration.from_json(line["configuration"])
    except (ValueError, KeyError, TypeError) as error:
        raise StudyError(
            f"{where}, is not the result of a run ({error}).", "Delete the line, or give another --out."
        ) from error
    return line


def _key(line: Line) -> str:
    return Configuration.from_json(line["configuration"]).key()


class _Appending:
    """Opens the file to add lines to it, without whatever was cut off at its end."""

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab+")
        except OSError as error:
            raise StudyError(f"The results cannot be written to {path} ({error}).", "Give another --out.") from error
        self._file.seek(0)
        self._file.truncate(self._file.read().rfind(b"\n") + 1)

    def __enter__(self) -> Callable[[Line], None]:
        return self._write

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def _write(self, line: Line) -> None:
        try:
            self._file.write(json.dumps(line, allow_nan=False).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise StudyError(f"The results cannot be written ({error}).", "Make room on the disk.") from error


def _results(source: Source, configurations: Sequence[Configuration], jobs: int) -> Iterator[Line]:
    """Lines as they come, in any order. One run is one task, so that it is written when it ends."""
    parallel = joblib.Parallel(n_jobs=jobs, batch_size=1, return_as="generator_unordered")
    with closing(parallel(joblib.delayed(one)(source, c) for c in configurations)) as lines:
        yield from lines


def one(source: Source, configuration: Configuration) -> Line:
    """One run, as its line: what is done in the workers."""
    subject = load(source)
    result = run(subject, configuration)
    return {"subject": subject.digest, "configuration": asdict(configuration), **result.as_json()}
