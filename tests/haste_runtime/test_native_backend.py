"""The native backend: the numba backend's own machine code, linked as a shared object, and so the same bytes."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from builders import bundle_for, conv_graph, random_network, with_algorithms
from layer_contract import INTERPRETED, frame_for
from native_parts import NAME, entry, native_folder, write_index

from haste_runtime import Session, cli
from haste_runtime.backends import choose_backend
from haste_runtime.backends.native_backend import NativeBackend
from haste_runtime.backends.numba_backend import NumbaBackend
from haste_runtime.bundle import STORAGE, Bundle, stored, write_bundle
from haste_runtime.cli import doctor
from haste_runtime.errors import BackendError, NativeError
from haste_runtime.kernels import layout
from haste_runtime.native import load as native_load
from haste_runtime.plan import POLICIES
from haste_runtime.profile import Profiler
from haste_runtime.roofline import Roofline

pytestmark = pytest.mark.skipif(INTERPRETED, reason="nothing is compiled with NUMBA_DISABLE_JIT")


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return native_folder(tmp_path_factory.mktemp("native"))


@pytest.fixture(autouse=True)
def installed(kernels: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As if a wheel with kernels for this computer were installed."""
    monkeypatch.setenv("HASTE_NATIVE", str(kernels))
    return kernels


def bundle_of(seed: int, kind: str) -> Bundle:
    bundle = bundle_for(
        random_network(seed), [3, 4, 5, 4], 10, [10, 10, 9, 5], policy=POLICIES, budget=0.2,
        dtype=kind if kind in STORAGE else "fp32",
    )  # fmt: skip
    return stored(bundle) if kind in STORAGE else with_algorithms(bundle, kind, kind, "winograd2")


@pytest.mark.parametrize("kind", [*STORAGE, "winograd2", "winograd4"])
@pytest.mark.parametrize("threads", [1, 3])
def test_frames_are_numbas_byte_for_byte(kind: str, threads: int) -> None:
    """Outputs, codes, groups and counts, at every level."""
    bundle = bundle_of(3, kind)
    native, numba = NativeBackend(bundle, threads, trace=True), NumbaBackend(bundle, trace=True)
    assert native.lanes == numba.lanes
    for level in range(len(bundle.plan.levels)):
        frame = frame_for(bundle.graph, level)
        for _ in range(2):
            found, wanted = native.run(frame, level), numba.run(frame, level)
            assert found.keys() == wanted.keys()
            assert all(found[name].tobytes() == wanted[name].tobytes() for name in wanted)
            assert native.counts() == numba.counts()
            for mine, others in ((native.codes(), numba.codes()), (native.groups(), numba.groups())):
                assert mine.keys() == others.keys()
                assert all(np.array_equal(mine[name], others[name]) for name in others)
    native.close()


def test_operations_run_alone_and_levels_change_between_frames() -> None:
    bundle = bundle_of(5, "fp32")
    backend, frame = NativeBackend(bundle, 2), frame_for(bundle.graph)
    expected = [backend.run(frame, level)["logits"] for level in range(3)]
    assert backend.workers == 2
    backend.use_threads(1)
    for level in (2, 0, 1):
        backend.fill(frame)
        for number in range(len(backend.table.operations)):
            backend.run_operations(level, number, 1)
        assert backend._output("logits").tobytes() == expected[level].tobytes()
    assert len(set(backend.addresses)) == 5
    backend.close()


def test_a_native_session_is_profiled_and_keeps_weights_once(tmp_path: Path) -> None:
    write_bundle(tmp_path / "net.haste", bundle_of(1, "fp32"))
    with Session(tmp_path / "net.haste", "native") as session:
        assert session.bundle.graph.constants == {}
        frames = [{"x": frame_for(session.bundle.graph)["x"][np.newaxis]}]
        roofline = Roofline(50e9, {"L1": 200e9, "memory": 20e9}, {"L1": 32768})
        profile = Profiler(session, frames, roofline, rounds=2).level(1)
        assert len(profile.layers) >= len(session.bundle.graph.nodes)
        assert any(layer.stages for layer in profile.layers)
        session._backend.lanes *= 2  # type: ignore[union-attr]
        with pytest.raises(BackendError, match="lanes") as caught:
            Profiler(session, frames, roofline)
        assert "HASTE_LANES" in caught.value.hint


def test_auto_is_native_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "haste_runtime")
    with Session(bundle_for(conv_graph(3, 2, 3))) as session:
        assert session.backend == "native"
        assert session.backend_reason == (
            f"kernels compiled ahead of time for {NAME}: this CPU has the features they need"
        )
    assert f"backend native: {session.backend_reason}" in caplog.messages
    assert not [record for record in caplog.records if record.levelno > logging.INFO]
    assert choose_backend("native", bundle_for(conv_graph(3, 2, 3)))[1].startswith("asked for; kernels compiled ahead")


def test_native_needs_neither_numba_nor_llvm(tmp_path: Path) -> None:
    write_bundle(tmp_path / "net.haste", bundle_of(1, "fp32"))
    script = (
        "import sys\nfor name in ('numba', 'llvmlite'): sys.modules[name] = None\n"
        "from haste_runtime import Session\nprint(Session(sys.argv[1]).backend)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "net.haste")], capture_output=True, text=True)
    assert done.stdout == "native\n", done.stderr


def test_doctor_and_commands_know_native(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    findings = doctor.report()
    assert findings["native"]["kernels"] == NAME
    assert findings["backend"]["auto"] == "native"
    assert json.loads(json.dumps(findings))["native"]["available"] is True
    write_bundle(tmp_path / "net.haste", bundle_of(1, "fp32"))
    arguments = ["bench", str(tmp_path / "net.haste"), "--backend", "native", "--runs", "1", "--levels", "0", "--json"]
    assert cli.run(arguments) == 0
    assert json.loads(capsys.readouterr().out)["backend"] == "native"


# ---- what is broken is refused, and the next backend taken


def flip(folder: Path, path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def not_a_library(folder: Path, path: Path) -> None:
    path.write_bytes(b"\x7fELF and nothing else")
    write_index(folder, entry(path))


def without_symbols(folder: Path, path: Path) -> None:
    """A library, but not of kernels: one that this Python has anyway."""
    import _ctypes

    path.write_bytes(Path(_ctypes.__file__).read_bytes())
    write_index(folder, entry(path))


def of_another_width(folder: Path, path: Path) -> None:
    write_index(folder, entry(path, lanes=4 if entry(path)["lanes"] != 4 else 8))


BROKEN = {
    "flipped": (flip, "does not match its checksum"),
    "missing": (lambda folder, path: path.unlink(), "cannot be read"),
    "no library": (not_a_library, "cannot be loaded"),
    "no kernels": (without_symbols, "cannot be loaded"),
    "another width": (of_another_width, "lanes, not the"),
    "another interface": (lambda folder, path: write_index(folder, entry(path), abi=layout.ABI + 1), "do not belong"),
    "no index": (lambda folder, path: (folder / "index.json").unlink(), "there is no index.json"),
    "index of nothing": (lambda folder, path: (folder / "index.json").write_text("{}"), "'abi' is missing"),
    "index is garbage": (lambda folder, path: (folder / "index.json").write_bytes(b"\xff\0["), "is not a list of"),
    "index is a folder": (
        lambda folder, path: ((folder / "index.json").unlink(), (folder / "index.json").mkdir()), "cannot be read"
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", BROKEN)
def test_broken_kernels_are_refused_and_auto_goes_on(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    breaks, words = BROKEN[damage]
    monkeypatch.setenv("HASTE_NATIVE", str(native_folder(tmp_path)))
    breaks(tmp_path, tmp_path / f"haste-{NAME}.so")  # type: ignore[no-untyped-call]
    bundle = bundle_for(conv_graph(3, 2, 3))
    with pytest.raises(NativeError, match=words) as caught:
        choose_backend("native", bundle)
    assert caught.value.hint
    assert caught.value.exit_code == 4
    backend, reason = choose_backend("auto", bundle)
    assert backend.name == "numba"
    assert words in reason
    assert "numba is installed" in reason
    assert any(caught.value.message in record.message for record in caplog.records if record.levelname == "WARNING")
    advice = doctor.report()["advice"]
    assert any(caught.value.message in sentence for sentence in advice)


def test_code_of_another_interface_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the index does not tell: the code itself is asked."""
    monkeypatch.setenv("HASTE_NATIVE", str(native_folder(tmp_path)))
    write_index(tmp_path, entry(tmp_path / f"haste-{NAME}.so"), abi=layout.ABI + 1)
    monkeypatch.setattr("haste_runtime.native.libraries.ABI", layout.ABI + 1)
    monkeypatch.setattr(native_load, "ABI", layout.ABI + 1)
    with pytest.raises(NativeError, match=f"has the interface {layout.ABI}"):
        choose_backend("native", bundle_for(conv_graph(3, 2, 3)))


def test_without_kernels_auto_is_numba_and_nobody_is_warned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("HASTE_NATIVE")
    monkeypatch.setattr("haste_runtime.native.libraries.__file__", str(tmp_path / "libraries.py"))
    backend, reason = choose_backend("auto", bundle_for(conv_graph(3, 2, 3)))
    assert backend.name == "numba"
    assert reason.startswith("native cannot run (No native kernels are installed); numba is installed; kernels ")
    assert not [record for record in caplog.records if record.levelno > logging.INFO]
    with pytest.raises(NativeError, match="No native kernels are installed"):
        choose_backend("native", bundle_for(conv_graph(3, 2, 3)))
