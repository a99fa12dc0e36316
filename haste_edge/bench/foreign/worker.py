"""One runtime in a process of its own: told in turn, over a pipe, to run a burst of frames and to say how long it took.

    python worker.py ADAPTER.py MODEL THREADS

ADAPTER.py defines ``load(model, threads)``, which returns a dict: version; settings, in words; variants, name -> a
function from one prepared frame to an array; prepare, from a frame (1, C, H, W) or (1, F) to what those take; networks,
how many of them are now in memory. If it also defines ``load_kernels()``, that is called first, and what memory it took
is told apart: it is the same for any network.

Messages are lines of JSON, one answer to each. The end of the input ends the process, so that none is left behind
whatever becomes of the parent. What the runtime itself prints goes to stderr.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def load_adapter(path: str) -> Any:
    spec = importlib.util.spec_from_file_location("adapter", path)
    assert spec is not None  # it is a .py file
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def resident_mb() -> float | None:
    """Resident memory of this process in MB (10**6 bytes); None where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def load_kernels(adapter: Any) -> float | None:
    """MB that are the same for any network; None where the adapter does not tell them apart."""
    before = resident_mb()
    if before is None or not hasattr(adapter, "load_kernels"):
        return None
    adapter.load_kernels()
    return (resident_mb() or before) - before


class Runtime:
    """What the messages mean. before: resident MB before the runtime was imported."""

    def __init__(self, loaded: Mapping[str, Any], before: float | None) -> None:
        self._variants, self._prepare = loaded["variants"], loaded["prepare"]
        self._alone, self._before = loaded["networks"] == 1, before
        self._frames: list[Any] = []

    def take(self, message: Mapping[str, Any]) -> dict[str, Any]:
        if message["do"] == "inputs":
            self._frames = [self._prepare(x[np.newaxis]) for x in np.load(message["path"], allow_pickle=False)]
            return {}
        run = self._variants[message["variant"]]
        if message["do"] == "outputs":
            outputs = [np.array(run(frame), dtype=np.float32) for frame in self._frames]
            np.save(message["path"], np.stack(outputs), allow_pickle=False)
            after = resident_mb()
            known = self._alone and after is not None and self._before is not None
            return {"memory_mb": after - self._before if known and after and self._before else None}
        return self._burst(run, message["warm"], message["frames"])

    def _burst(self, run: Any, warm: int, count: int) -> dict[str, Any]:
        """Nanoseconds of each frame, by the clock on the wall and of this process's processor time, all threads."""
        frames, wall, cpu = self._frames, [], []
        for i in range(warm):
            run(frames[i % len(frames)])
        gc.disable()
        for i in range(count):
            frame = frames[i % len(frames)]
            c0, w0 = time.process_time_ns(), time.perf_counter_ns()
            run(frame)
            w1, c1 = time.perf_counter_ns(), time.process_time_ns()
            wall.append(w1 - w0)
            cpu.append(c1 - c0)
        gc.enable()
        return {"wall": wall, "cpu": cpu}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(answer: Mapping[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    adapter, model, threads = sys.argv[1:4]
    before = resident_mb()
    try:
        module = load_adapter(adapter)
        kernels_mb = load_kernels(module)
        loaded = module.load(Path(model), int(threads))
        runtime = Runtime(loaded, before)
        about = {key: loaded[key] for key in ("version", "settings")}
        say(about | {"variants": list(loaded["variants"]), "kernels_mb": kernels_mb})
        for line in sys.stdin:
            say(runtime.take(json.loads(line)))
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:
        pass
    except Exception as error:  # whatever the runtime raises is an answer
        say({"failed": f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]})


if __name__ == "__main__":
    main()
