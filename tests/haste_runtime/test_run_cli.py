"""``haste-run``: what it prints where, how it ends, and that it starts at once."""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import bundle_for, random_network
from waiting import heed_ctrl_c

import haste_runtime
from haste_runtime import Session, cli
from haste_runtime.bundle import read_bundle, write_bundle
from haste_runtime.cli.common import EXIT_CODES, parse_levels
from haste_runtime.cli.synthetic import synthetic_inputs
from haste_runtime.errors import LevelError
from haste_runtime.preprocessing import Preprocessing, image_to_input

CLASSES = ("ant", "bee", "cat", "dog", "elk")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """net.haste (3x9..14 pixels, five classes), picture.npy, the same as picture.png, and frames.npy, two of floats."""
    folder = tmp_path_factory.mktemp("run_cli")
    graph = random_network(3)
    write_bundle(folder / "net.haste", replace(bundle_for(graph), classes=CLASSES))
    rng = np.random.default_rng(0)
    np.save(folder / "picture.npy", rng.integers(0, 256, (20, 30, 3), np.uint8))
    np.save(folder / "frames.npy", rng.standard_normal((2, *graph.inputs[0].shape), np.float32))
    return folder


@pytest.fixture
def in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    monkeypatch.delenv("HASTE_DEBUG", raising=False)
    return folder


@pytest.fixture
def measured(in_folder: Path) -> Path:
    """measured.haste: as net.haste, with an agreement for the levels 0 to 2, but not for 3."""
    bundle = read_bundle("net.haste")
    levels = [
        replace(level, agreement=agreement)
        for level, agreement in zip(bundle.plan.levels, (100.0, 98.44, 95.0, None), strict=True)
    ]
    write_bundle("measured.haste", replace(bundle, plan=replace(bundle.plan, levels=tuple(levels))))
    return Path("measured.haste")


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert cli.run(arguments) == 0
    return json.loads(capsys.readouterr().out)  # fails if anything but JSON is there


# --- infer ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0, 2])
def test_infer_gives_the_five_best_classes_of_a_picture(
    in_folder: Path, capsys: pytest.CaptureFixture[str], level: int
) -> None:
    arguments = ("infer", "net.haste", "picture.npy", "--level", str(level), "--backend", "numpy")
    answer = run_json(capsys, *arguments, "--json")
    assert {k: answer[k] for k in ("bundle", "input", "backend", "dtype", "level", "agreement")} == {
        "bundle": "net.haste",
        "input": "picture.npy",
        "backend": "numpy",
        "dtype": "fp32",
        "level": level,
        "agreement": None,
    }
    (frame,) = answer["frames"]
    with Session("net.haste", backend="numpy") as session:
        session.level = level
        value, preprocessing = session.bundle.graph.inputs[0], session.bundle.preprocessing
        scores = session.run(image_to_input(np.load("picture.npy"), value.shape, preprocessing)[None])[0]
    np.testing.assert_array_equal(np.float32(frame["outputs"]["logits"]["values"]), scores)
    assert [entry["index"] for entry in frame["top"]] == list(np.argsort(-scores))
    assert [entry["name"] for entry in frame["top"]] == [CLASSES[i] for i in np.argsort(-scores)]
    assert sum(entry["probability"] for entry in frame["top"]) == pytest.approx(1)
    assert frame["ms"] > 0

    assert cli.run(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith(f"%  {frame['top'][0]['name']}")
    assert lines[-1].startswith(f"level {level}, ")


def test_infer_tells_how_far_to_trust_its_level(measured: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sentence = "98.4 % of answers are expected to be those of level 0"
    for level, agreement in ((0, 100.0), (1, 98.44), (3, None)):
        arguments = ("infer", str(measured), "frames.npy", "--level", str(level), "--backend", "numpy")
        assert run_json(capsys, *arguments, "--json")["agreement"] == agreement
        assert cli.run(arguments) == 0
        printed = capsys.readouterr().out
        assert printed.count(sentence) == (level == 1)
        assert printed.count("expected") == (level == 1)


def test_infer_takes_floats_as_they_are(in_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = run_json(capsys, "infer", "net.haste", "frames.npy", "--backend", "numpy", "--json")
    with Session("net.haste", backend="numpy") as session:
        wanted = session.run(np.load("frames.npy"))
    got = np.float32([frame["outputs"]["logits"]["values"] for frame in answer["frames"]])
    np.testing.assert_array_equal(got, wanted)


def test_infer_reads_image_files(in_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = pytest.importorskip("PIL.Image")
    image.fromarray(np.load("picture.npy")).save("picture.png")
    png, npy = (
        run_json(capsys, "infer", "net.haste", name, "--backend", "numpy", "--json")["frames"][0]["outputs"]
        for name in ("picture.png", "picture.npy")
    )
    assert png == npy


def test_infer_describes_outputs_that_are_no_classes(
    in_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = random_network(3)
    write_bundle(tmp_path / "map.haste", bundle_for(replace(graph, outputs=("stem", "logits"))))
    answer = run_json(capsys, "infer", str(tmp_path / "map.haste"), "frames.npy", "--backend", "numpy", "--json")
    assert answer["frames"][0]["top"] == []
    stem = answer["frames"][0]["outputs"]["stem"]
    assert len(stem["shape"]) == 3
    assert stem["min"] <= stem["max"]
    assert cli.run(["infer", str(tmp_path / "map.haste"), "frames.npy", "--backend", "numpy"]) == 0
    assert "stem: shape" in capsys.readouterr().out


# --- bench ----------------------------------------------------------------------------------------------------------


def test_bench_keeps_the_usual_words(in_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["bench", "net.haste", "--backend", "numpy", "--runs", "2", "--warmup", "1"]) == 0
    printed = capsys.readouterr().out
    for word in ("Init", "First inference", "Warmup", "Inference", "min", "median", "p90", "peak memory"):
        assert word in printed
    assert [line.split()[0] for line in printed.splitlines() if line[:5].strip().isdigit()] == ["0", "1", "2", "3"]


def test_bench_measures_the_levels_asked_for(in_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = run_json(
        capsys, "bench", "net.haste", "--levels", "2,0", "--backend", "numpy", "--runs", "5", "--warmup", "2", "--json"
    )
    assert [row["level"] for row in answer["levels"]] == [2, 0]
    for row in answer["levels"]:
        assert (row["runs"], row["warmup_runs"]) == (5, 2)
        inference = row["inference_ms"]
        assert 0 < inference["min"] <= inference["median"] <= inference["p90"]
        assert min(row["first_inference_ms"], row["warmup_ms"]) > 0
    assert answer["levels"][1]["flops_reduction_network"] == 0
    assert answer["levels"][0]["flops_reduction_network"] != 0
    assert answer["peak_memory_mb"] > 1
    assert answer["init_ms"] > 0
    assert (answer["backend"], answer["dtype"], answer["threads"]) == ("numpy", "fp32", 1)
    assert answer["input"] == "pink noise"


def test_bench_shows_the_agreement_that_a_level_promises(measured: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("bench", str(measured), "--backend", "numpy", "--runs", "1", "--warmup", "1")
    rows = run_json(capsys, *arguments, "--json")["levels"]
    assert [row["agreement"] for row in rows] == [100.0, 98.44, 95.0, None]
    assert cli.run(arguments) == 0
    printed = capsys.readouterr().out.splitlines()
    head, *lines = (line for line in printed if line[:5].strip().isdigit() or line.startswith("level"))
    assert head.endswith("agreement (expected)")
    assert [line.split()[-2:] for line in lines[:3]] == [["100.0", "%"], ["98.4", "%"], ["95.0", "%"]]
    assert lines[3].endswith(" -")
    assert {len(line) for line in (head, *lines)} == {len(head)}


def test_bench_keeps_a_cadence(in_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    started = time.monotonic()
    cli.run(
        ["bench", "net.haste", "--levels", "0", "--backend", "numpy", "--runs", "6", "--warmup", "1", "--fps", "20"]
    )
    assert time.monotonic() - started >= 7 / 20  # eight frames, seven pauses


def test_bench_takes_a_picture(in_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("bench", "net.haste", "picture.npy", "--levels", "1", "--runs", "1", "--backend", "numpy", "--json")
    assert run_json(capsys, *arguments)["input"] == "picture.npy"


@pytest.mark.parametrize(
    ("shape", "layout", "wanted"),
    [
        ((3, 8, 6), "NCHW", (4, 3, 8, 6)),
        ((3, 8, 6), "NHWC", (4, 8, 6, 3)),
        ((5, 8, 6), "NHWC", (4, 8, 6, 5)),
        ((1, 1, 1), "NCHW", (4, 1, 1, 1)),
        ((7,), "NCHW", (4, 7)),
    ],
)
def test_synthetic_inputs_fit_the_network(shape: tuple[int, ...], layout: str, wanted: tuple[int, ...]) -> None:
    x = synthetic_inputs(4, shape, Preprocessing(layout=layout))
    assert x.shape == wanted
    assert x.dtype == np.float32
    assert np.isfinite(x).all()


# --- how it ends ----------------------------------------------------------------------------------------------------


def failing(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str]]:
    """Exit code and the lines on stderr; nothing may be on stdout."""
    code = cli.run(arguments)
    captured = capsys.readouterr()
    assert captured.out == ""
    return code, captured.err.splitlines()


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("infer", "net.haste", "picture.npy", "--level", "9"), 2, "Error: There is no level 9."),
        (("infer", "net.haste", "nothing.png"), 2, "Error: There is no file nothing.png."),
        (("bench", "net.haste", "--levels", "7"), 2, "Error: There is no level 7."),
        (("bench", "net.haste", "--fps", "0"), 2, "Error: A camera of 0 frames a second makes no sense."),
        (("infer", "nothing.haste", "picture.npy"), 3, "Error: nothing.haste"),
        (("bench", "picture.npy"), 3, "Error: picture.npy"),
    ],
)
def test_an_error_is_a_sentence_and_a_hint(
    in_folder: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, sentence: str
) -> None:
    got, lines = failing(capsys, *arguments, "--json", *(("--backend", "numpy")))
    assert got == code
    assert lines[0].startswith(sentence)
    assert lines[0].endswith(".")
    assert len(lines) <= 2
    assert all(line.startswith("Hint: ") for line in lines[1:])


def test_a_missing_backend_has_its_own_code(
    in_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "haste_runtime.backends.numba_backend", None)  # as where numba is not installed
    code, lines = failing(capsys, "infer", "net.haste", "picture.npy", "--backend", "numba")
    assert code == 4
    assert "numba" in lines[0]


def test_a_defect_asks_for_a_report(
    in_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any) -> None:
        raise RuntimeError("something odd\nand more of it")

    monkeypatch.setattr("haste_runtime.session.choose_backend", broken)
    code, lines = failing(capsys, "infer", "net.haste", "picture.npy")
    assert code == 70
    assert lines[0] == "Error: This is a defect of haste-edge (RuntimeError: something odd)."
    assert "report" in lines[1]
    assert "Traceback" not in "".join(lines)
    code, lines = failing(capsys, "infer", "net.haste", "picture.npy", "--debug")
    assert (code, lines[0]) == (70, "Traceback (most recent call last):")
    monkeypatch.setenv("HASTE_DEBUG", "1")
    assert failing(capsys, "infer", "net.haste", "picture.npy")[1][0] == "Traceback (most recent call last):"


def test_what_the_runtime_logs_is_told(
    in_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = logging.getLogger("haste_runtime")
    choose = haste_runtime.session.choose_backend

    def slow(*arguments: Any) -> Any:
        for number in range(3):
            log.info("compiling the %s, %d", "kernels", number)
        log.warning("no cache")
        return choose(*arguments)

    monkeypatch.setattr("haste_runtime.session.choose_backend", slow)
    before = log.level, list(log.handlers)
    assert cli.run(["infer", "net.haste", "picture.npy", "--backend", "numpy", "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == "compiling the kernels, 0\nno cache\n"  # progress in quick succession is left out
    json.loads(captured.out)
    assert (log.level, list(log.handlers)) == before


def test_usage_errors_and_help_end_as_usual(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, code in ((["infer"], 2), (["nonsense"], 2), ([], 2), (["--help"], 0), (["bench", "--help"], 0)):
        with pytest.raises(SystemExit) as end:
            cli.run(arguments)
        assert end.value.code == code
    capsys.readouterr()
    with pytest.raises(SystemExit):
        cli.run(["--help"])
    printed = capsys.readouterr().out
    for code, meaning in EXIT_CODES.items():
        assert f"{code:<4} {meaning}" in printed


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """The real command in its own process."""
    path = str(Path(haste_runtime.__file__).parents[1])
    return subprocess.Popen(
        [sys.executable, "-m", "haste_runtime.cli", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_ctrl_c,
    )


def test_ctrl_c_ends_with_130(folder: Path) -> None:
    with start(folder, "bench", "net.haste", "--levels", "0", "--runs", "1000000", "--backend", "numpy") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        while not process.stdout.readline().startswith("level"):  # the measurement has begun
            pass
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(20) == 130
        finally:
            process.kill()  # or leaving this block would wait for all the frames
        assert process.stderr.read() == "Interrupted.\n"


def test_a_closed_pipe_is_no_error(folder: Path) -> None:
    with start(folder, "doctor") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait(60) == 0
        assert process.stderr.read() == ""


def test_it_starts_at_once() -> None:
    """In processor time, the best of three, since the machine may be busy."""

    def seconds(*arguments: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    numpy = min(seconds("-c", "import numpy") for _ in range(3))
    command = min(seconds("-m", "haste_runtime.cli", "infer", "--help") for _ in range(3))
    assert command - numpy < 0.3


def test_heavy_packages_wait_until_they_are_needed() -> None:
    script = "import sys, haste_runtime.cli as cli\ncli.build_parser('bench')\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert not {"numba", "torch", "PIL", "haste_edge"} & set(done.stdout.split())


# --- levels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "levels"),
    [("all", [0, 1, 2, 3, 4]), ("3", [3]), ("4, 0", [4, 0]), ("1..3", [1, 2, 3]), ("0,2..4,2", [0, 2, 3, 4])],
)
def test_levels_are_listed(text: str, levels: list[int]) -> None:
    assert parse_levels(text, 5) == levels


@pytest.mark.parametrize("text", ["", "5", "-1", "1..", "..3", "3..1", "0..5", "a", "1,,2", "1.5", "0..99999999999999"])
def test_wrong_levels_are_refused(text: str) -> None:
    with pytest.raises(LevelError, match="0 to 4"):
        parse_levels(text, 5)
