"""``haste-run bench --profile``: the kernels that measure, the roofline, and the parts of a frame."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import GraphBuilder, alike_channels, bundle_for, random_network

from haste_runtime import Session, cli
from haste_runtime.bundle import write_bundle
from haste_runtime.cli.profile_report import table
from haste_runtime.errors import BackendError
from haste_runtime.graph import Graph
from haste_runtime.kernels import layout as t
from haste_runtime.profile import GROUP, HASH, Profiler
from haste_runtime.roofline import CHAINS, STREAMS, Roofline, cache_sizes, measure_roofline, probes

COMPILED = pytest.mark.skipif(
    os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"), reason="needs compiled kernels"
)
ROOFLINE = Roofline(50e9, {"L1": 200e9, "L2": 100e9, "memory": 20e9}, {"L1": 32768, "L2": 1 << 19})

# Runs the kernels on arrays, compiled or interpreted, and prints what they leave in memory.
RUN = """
import json, os, sys
import numpy as np
from haste_runtime.kernels.lanes import lanes
from haste_runtime.roofline import CHAINS, STREAMS, probes
width = lanes()
memory = np.arange((CHAINS + 2) * width, dtype=np.float32)
memory[CHAINS * width :] = 0.5
floats, sums = np.arange(2 * STREAMS * width, dtype=np.float32), np.zeros(STREAMS * width, np.float32)
if os.environ.get("NUMBA_DISABLE_JIT"):
    from haste_runtime.kernels import probe
    probe.multiply_add(3, memory)
    probe.read_through(2, floats, floats.size, sums)
else:
    probes()["multiply_add"](3, memory.ctypes.data)
    probes()["read_through"](2, floats.ctypes.data, floats.size, sums.ctypes.data)
print(json.dumps([width, memory.tolist(), sums.tolist()]))
"""


@pytest.mark.parametrize(("lanes", "interpreted"), [("4", True), ("8", True), ("16", True), ("4", False), ("", False)])
def test_the_measuring_kernels_really_compute(lanes: str, interpreted: bool) -> None:
    variables = {"HASTE_LANES": lanes, "NUMBA_DISABLE_JIT": "1" if interpreted else ""}
    made = subprocess.run(
        [sys.executable, "-c", RUN], capture_output=True, text=True, check=True,
        env=os.environ | {name: value for name, value in variables.items() if value},
    )  # fmt: skip
    width, memory, sums = json.loads(made.stdout)
    assert not lanes or width == int(lanes)
    begun = np.arange(CHAINS * width)
    np.testing.assert_array_equal(memory[: CHAINS * width], begun + 3 * 0.25)
    step = STREAMS * width
    np.testing.assert_array_equal(sums, 2 * (2 * np.arange(step) + step))


def test_cache_sizes_are_the_systems_or_typical_ones(tmp_path: Path) -> None:
    assert cache_sizes(tmp_path) == {"L1": 32768, "L2": 524288}
    described = [("1", "Data", "48K"), ("1", "Instruction", "32K"), ("2", "Unified", "2M"), ("3", "Unified", "?")]
    for number, (level, kind, size) in enumerate(described):
        folder = tmp_path / f"sys/devices/system/cpu/cpu0/cache/index{number}"
        folder.mkdir(parents=True)
        for name, text in (("level", level), ("type", kind), ("size", size)):
            (folder / name).write_text(f"{text}\n")
    assert cache_sizes(tmp_path) == {"L1": 48 << 10, "L2": 2 << 20}


def test_the_roofline_is_the_slower_of_arithmetic_and_reading() -> None:
    assert [ROOFLINE.place(size) for size in (100, 32768, 32769, 1 << 20)] == ["L1", "L1", "L2", "memory"]
    assert ROOFLINE.seconds(50e6, 1000, "memory") == pytest.approx(1e-3)
    assert ROOFLINE.seconds(50e6, 40e6, "memory") == pytest.approx(2e-3)
    assert ROOFLINE.seconds(50e6, 40e6, "L2") == pytest.approx(1e-3)


@COMPILED
def test_measuring_finds_a_speed_for_every_place() -> None:
    found = measure_roofline({"L1": 16384, "L2": 65536})
    assert list(found.reads) == ["L1", "L2", "memory"]
    assert min(found.macs, *found.reads.values()) > 1e7
    assert json.loads(json.dumps(found.as_json()))["cache_bytes"] == {"L1": 16384, "L2": 65536}


def merging_network() -> Graph:
    """Two mergeable convolutions, one of stride 2 with a residual, a concat, and a linear layer."""
    b = GraphBuilder(0, x=(32, 12, 12))
    first = b.conv("first", "x", 32, 32, 3, activation="relu")
    second = b.conv("second", first, 32, 32, 3, residual="x")
    b.conv("third", second, 32, 48, 3, stride=2)
    b.conv("fourth", second, 32, 16, 1, stride=2)
    b.node("both", "concat", "third", "fourth", axis=0)
    b.node("mean", "mean", "both", keepdim=0)
    b.linear("linear", "mean", 64, 5)
    return b.graph()


@pytest.fixture(scope="module")
def session() -> Any:
    with Session(bundle_for(merging_network()), "numba") as session:
        yield session


@pytest.fixture(scope="module")
def frames() -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    return [{"x": alike_channels(rng, (32, 12, 12), kinds=8)[None]} for _ in range(3)]


@COMPILED
def test_the_first_stages_find_the_groups_of_the_frame(session: Session, frames: Any) -> None:
    profiler = Profiler(session, frames, ROOFLINE, rounds=1)
    level = len(session.levels) - 1
    session.level = level
    session.run(frames[0])
    backend: Any = session._backend
    counts = backend.counts()
    assert counts
    profiler.fill(0)
    for i, node in enumerate(profiler._nodes):
        if node.name in counts:
            count, found = counts[node.name], profiler.find_groups(level, i, GROUP)
            assert (found[t.KEPT], found[t.COMPARED], found[t.VERIFIED]) == (count.kept, count.compared, count.verified)
            assert not profiler.find_groups(level, i, HASH).any()
        backend.run_operations(level, i, 1)


def test_operations_one_by_one_are_the_frame(session: Session, frames: Any) -> None:
    profiler = Profiler(session, frames, ROOFLINE, rounds=1)
    backend: Any = session._backend
    for level in range(len(session.levels)):
        session.level = level
        expected = session.run({"x": frames[1]["x"]})
        profiler.fill(1)
        for i in range(len(profiler._nodes)):
            backend.run_operations(level, i, 1)
        for name, output in expected.items():
            np.testing.assert_array_equal(backend._output(name)[None], output)


@COMPILED
def test_a_profile_has_every_operation_and_its_parts(session: Session, frames: Any) -> None:
    profiler = Profiler(session, frames, ROOFLINE, rounds=3)
    graph, last = session.bundle.graph, len(session.levels) - 1
    exact, merged = profiler.level(0), profiler.level(last)
    names = [layer.name for layer in exact.layers]
    assert names == ["first", "second", "third", "fourth", "both", "both", "mean", "linear"]
    assert [layer.operation for layer in exact.layers[:4]] == ["conv 3x3", "conv 3x3", "conv 3x3/2", "conv 1x1/2"]
    assert exact.layers[2].shape == "32x12x12 -> 48x6x6"
    assert exact.layers[0].macs == 32 * 32 * 9 * 12 * 12
    sizes = [graph.constants[node.constants["weight"]].nbytes if node.constants else 0 for node in graph.nodes]
    assert [layer.weight_bytes for layer in exact.layers] == [*sizes[:4], 0, *sizes[4:]]
    assert [layer.algorithm for layer in exact.layers[3:5]] == ["direct", ""]
    assert all(layer.stages is None and layer.executed == layer.macs for layer in exact.layers)
    assert profiler.place == "L2"
    choices = session.bundle.plan.levels[last].choices
    for layer in merged.layers:
        assert (layer.stages is not None) == (layer.name in choices)
        if layer.stages is not None:
            assert layer.kept is not None
            assert 0 < layer.kept <= 1
            assert sum(vars(layer.stages).values()) >= layer.ms * 0.999
    for profile in (exact, merged):
        assert 0 <= profile.outside < 1
        assert len(table(profile)) == 2 + len(profile.layers)
        assert json.loads(json.dumps(profile.as_json()))["layers"][0]["name"] == "first"


@pytest.mark.parametrize(("backend", "threads"), [("numpy", 1), pytest.param("numba", 2, marks=COMPILED)])
def test_only_one_compiled_thread_is_profiled(backend: str, threads: int, frames: Any) -> None:
    with (
        Session(bundle_for(merging_network()), backend, threads) as session,
        pytest.raises(BackendError, match="one thread"),
    ):
        Profiler(session, frames, ROOFLINE)


@COMPILED
def test_bench_prints_profiles_and_gives_them_as_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("haste_runtime.cli.profile_report.measure_roofline", lambda: ROOFLINE)
    path = tmp_path / "net.haste"
    write_bundle(path, bundle_for(random_network(3)))
    arguments = ("bench", str(path), "--levels", "0,2", "--runs", "2", "--backend", "numba", "--profile")
    assert cli.run(arguments) == 0
    out = capsys.readouterr().out
    assert "at best: 50.0 GMAC/s" in out
    assert "level 2: " in out
    assert cli.run((*arguments, "--json")) == 0
    made = json.loads(capsys.readouterr().out)["profile"]
    assert made["roofline"]["gmacs_per_second"] == 50
    assert [level["level"] for level in made["levels"]] == [0, 2]
    assert {"name", "ms", "dense_ms", "bound_ms", "bound_by", "stages", "kept"} <= set(made["levels"][0]["layers"][0])
    assert cli.run(("bench", str(path), "--backend", "numpy", "--profile", "--runs", "1", "--levels", "0")) == 4


@COMPILED
def test_probes_are_compiled_once() -> None:
    assert probes() is probes()
