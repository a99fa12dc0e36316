"""Where the runs of a study are done: joblib's backends by name, among them a Dask cluster."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import joblib

from haste_edge.study.configuration import StudyError

BACKENDS = ("loky", "threading", "dask")  # processes, threads, a cluster


@contextlib.contextmanager
def backend(name: str, jobs: int = 1, scheduler: str | None = None) -> Iterator[None]:
    """Meanwhile, joblib uses this backend.

    scheduler: address of a Dask scheduler; without it, "dask" makes a cluster of ``jobs`` worker processes on this
    machine (-1: one per core), which ends with the context. Raises StudyError where that can't be.
    """
    if name not in BACKENDS:
        raise StudyError(f"There is no backend {name!r}.", f"Choose one of: {', '.join(BACKENDS)}.")
    if scheduler is not None and name != "dask":
        raise StudyError("A scheduler is for the backend dask.", "Give --backend dask with --scheduler.")
    if jobs == 0 or jobs < -1:
        raise StudyError(f"{jobs} runs at once make no sense.", "Give 1 or more, or -1 for one per core.")
    with contextlib.ExitStack() as stack:
        if name == "dask":
            _connect(scheduler, jobs, stack)
        stack.enter_context(joblib.parallel_config(backend=name))
        yield


def _connect(scheduler: str | None, jobs: int, stack: contextlib.ExitStack) -> None:
    """To the cluster, until the stack is closed."""
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        raise StudyError("Dask is not installed.", 'Install it with pip install "haste-edge[dask]".') from None
    at: Any = scheduler
    if scheduler is None:
        workers = jobs if jobs > 0 else os.cpu_count() or 1
        at = stack.enter_context(LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None))
    try:
        stack.enter_context(Client(at))
    except (OSError, ValueError) as error:
        raise StudyError(f"There is no Dask scheduler at {scheduler}.", "Start one with `dask scheduler`.") from error
