"""Measuring a bundle on pictures: against counting by hand, on data that is wrong, and when it is cut short."""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import GraphBuilder, bundle_for, random_network
from files import write_anew

from haste_edge import evaluate
from haste_edge.evaluate import DataError, Evaluation, LevelResult, read_pictures
from haste_edge.plot import save_ladder_plot
from haste_runtime import Session
from haste_runtime.errors import InputError
from haste_runtime.flops import Totals
from haste_runtime.preprocessing import images_to_inputs

PICTURES = 5


@pytest.fixture(scope="module")
def session() -> Session:
    return Session(bundle_for(random_network(5)), backend="numpy")


@pytest.fixture(scope="module")
def images() -> evaluate.Images:
    return np.random.default_rng(1).integers(0, 256, (PICTURES, 12, 12, 3), np.uint8)


def run(session: Session, images: evaluate.Images, labels: Any, levels: list[int]) -> list[LevelResult]:
    evaluation = Evaluation(session, images, labels, levels)
    assert sum(1 for _ in evaluation.run()) == evaluation.steps
    return evaluation.results()


def by_hand(session: Session, images: evaluate.Images, level: int) -> tuple[list[int], Totals]:
    x = images_to_inputs(images, session.bundle.graph.inputs[0].shape, session.bundle.preprocessing)
    session.level = level
    answers, totals = [], Totals(0, 0, 0, 0)
    for frame in x:
        answers.append(int(session.run(frame[None]).argmax()))
        totals += session.stats.totals
    return answers, totals


def test_it_counts_right_answers_agreement_and_flops(session: Session, images: evaluate.Images) -> None:
    exact, _ = by_hand(session, images, 0)
    labels = np.array(exact)
    labels[0] = (labels[0] + 1) % 5
    for result in run(session, images, labels, [0, 1, 3]):
        answers, totals = by_hand(session, images, result.level)
        assert result.frames == PICTURES
        assert result.top1 == pytest.approx(100 * np.mean(np.array(answers) == labels))
        assert result.agreement == pytest.approx(100 * np.mean(np.array(answers) == exact))
        assert result.flops_reduction == pytest.approx(totals.flops_reduction)
        assert result.flops_reduction_network == pytest.approx(totals.flops_reduction_network)
        assert 0 < result.ms_p50 <= result.ms_p90


def test_level_0_is_the_measure_of_all(session: Session, images: evaluate.Images) -> None:
    first, *_ = run(session, images, None, [0])
    assert (first.agreement, first.flops_reduction, first.flops_reduction_network) == (100.0, 0.0, 0.0)


def test_agreement_is_with_level_0_even_if_nobody_asked_for_it(session: Session, images: evaluate.Images) -> None:
    both, alone = run(session, images, None, [0, 3])[1], run(session, images, None, [3])
    assert [result.level for result in alone] == [3]
    assert alone[0].agreement == both.agreement


def test_results_come_in_the_order_asked_for(session: Session, images: evaluate.Images) -> None:
    assert [result.level for result in run(session, images, None, [2, 0])] == [2, 0]


def test_without_labels_there_is_no_top1(session: Session, images: evaluate.Images) -> None:
    assert all(result.top1 is None for result in run(session, images, None, [0, 1]))


def test_what_was_measured_is_kept_when_it_is_cut_short(
    session: Session, images: evaluate.Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "BLOCK", 2)
    evaluation = Evaluation(session, images, None, [0, 1, 2])
    assert evaluation.results() == []
    for _ in itertools.islice(evaluation.run(), 9):  # two of level 0, 1 and 2, two more of level 0, one of level 1
        pass
    assert [(result.level, result.frames) for result in evaluation.results()] == [(0, 4), (1, 3), (2, 2)]


def test_json_has_the_promised_keys(session: Session, images: evaluate.Images) -> None:
    result = run(session, images, np.zeros(PICTURES, np.int64), [1])[0]
    promised = {"level", "top1", "agreement", "flops_reduction", "flops_reduction_network", "ms_p50", "ms_p90"}
    assert set(result.as_json()) == promised | {"frames"}


# --- data that does not do ------------------------------------------------------------------------------------------


def test_pictures_and_labels_are_read(tmp_path: Path, images: evaluate.Images) -> None:
    np.savez(tmp_path / "both.npz", x=images, y=np.arange(PICTURES, dtype=np.uint8))
    x, y = read_pictures(tmp_path / "both.npz")
    np.testing.assert_array_equal(x, images)
    assert y is not None
    assert y.dtype == np.int64
    np.savez(tmp_path / "x.npz", x=images)
    assert read_pictures(tmp_path / "x.npz")[1] is None


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


WRONG: dict[str, Callable[[Path], Any]] = {
    "no such file": lambda path: None,
    "no npz": lambda path: path.write_bytes(b"PK\x03\x04 and so on"),
    "empty": lambda path: path.write_bytes(b""),
    "an npy": lambda path: path.write_bytes(npy(np.zeros(3))),
    "a pickle": lambda path: np.savez(path, x=np.array([None])),
    "no x": lambda path: np.savez(path, images=np.zeros((2, 4, 4, 3), np.uint8)),
    "floats": lambda path: np.savez(path, x=np.zeros((2, 4, 4, 3))),
    "channels first": lambda path: np.savez(path, x=np.zeros((2, 3, 4, 4), np.uint8)),
    "no pictures": lambda path: np.savez(path, x=np.zeros((0, 4, 4, 3), np.uint8)),
    "too few labels": lambda path: np.savez(path, x=np.zeros((2, 4, 4, 3), np.uint8), y=np.zeros(1, int)),
    "labels in words": lambda path: np.savez(path, x=np.zeros((1, 4, 4, 3), np.uint8), y=np.array(["cat"])),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_files_are_refused_by_name(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "data.npz"
    WRONG[kind](path)
    with pytest.raises(DataError, match=r"data\.npz") as refused:
        read_pictures(path)
    assert "numpy.savez" in refused.value.hint


def test_a_damaged_file_is_refused_or_read_never_more(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez_compressed(path, x=np.zeros((2, 4, 4, 3), np.uint8), y=np.zeros(2, int))
    sound = path.read_bytes()
    for position in range(len(sound)):
        write_anew(path, sound[:position] + bytes([sound[position] ^ 0x15]) + sound[position + 1 :])
        with contextlib.suppress(DataError):
            assert read_pictures(path)[0].shape == (2, 4, 4, 3)
    for length in range(len(sound)):
        write_anew(path, sound[:length])
        with pytest.raises(DataError):
            read_pictures(path)


def test_labels_must_be_classes(session: Session, images: evaluate.Images) -> None:
    for wrong in (-1, 5):
        with pytest.raises(DataError, match="5 classes"):
            Evaluation(session, images, np.array([0] * (PICTURES - 1) + [wrong]), [0])


def test_only_classifiers_of_one_picture_can_be_evaluated(images: evaluate.Images) -> None:
    graph = random_network(5)
    two = GraphBuilder(0, a=(3,), b=(3,))
    two.node("sum", "add", "a", "b", activation="none")
    for unfit in (replace(graph, outputs=("stem",)), replace(graph, outputs=("hidden", "logits")), two.graph()):
        with (
            Session(bundle_for(unfit), backend="numpy") as other,
            pytest.raises(InputError, match="one picture as input"),
        ):
            Evaluation(other, images, None, [0])


# --- the plot -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("top1", [93.0, None])
def test_the_plot_is_a_png_and_nothing_else_is_left(tmp_path: Path, top1: float | None) -> None:
    results = [LevelResult(n, 9, top1, 100.0 - n, 5.0 * n, 4.0 * n, 9.0 - n, 10.0) for n in range(4)]
    save_ladder_plot(results, tmp_path / "plot.png", "Title", "of 9 pictures")
    assert [path.name for path in tmp_path.iterdir()] == ["plot.png"]
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_a_single_level_can_be_plotted(tmp_path: Path) -> None:
    save_ladder_plot([LevelResult(0, 9, 90.0, 100.0, 0.0, 0.0, 1.0, 1.0)], tmp_path / "plot.png", "Title", "")
    assert (tmp_path / "plot.png").stat().st_size > 1000
