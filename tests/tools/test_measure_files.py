"""The tools behind docs/files.md: boxes out of a detector's numbers, what levels are compared by, lines that stay."""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

import sample_pictures
import wheels
import write_files
from boxes import Boxes, decode, detect, match, overlaps, suppress
from measure_files import Lines, compare_boxes, compare_scores, failures, same_boxes, share_of_largest


def output(*anchors: tuple[float, float, float, float, tuple[float, ...]]) -> np.ndarray:
    """(4 + classes, anchors) of (middle x, middle y, width, height, scores)."""
    return np.array([[*place, *scores] for *place, scores in anchors], np.float32).T


def boxes(*rows: tuple[float, float, float, float, int]) -> Boxes:
    """Of (left, top, right, bottom, class), best first."""
    table = np.array(rows, np.float64).reshape(-1, 5)
    return Boxes(table[:, :4], np.linspace(0.9, 0.5, len(table)), table[:, 4].astype(np.int64))


# --- boxes -----------------------------------------------------------------------------------------------------------


def test_an_anchor_is_a_box_of_its_best_class() -> None:
    found = decode(output((10, 20, 4, 8, (0.1, 0.6)), (50, 50, 10, 10, (0.24, 0.2)), (30, 40, 2, 2, (0.9, 0.3))))
    assert found.corners.tolist() == [[29, 39, 31, 41], [8, 16, 12, 24]]  # best first, and none below the threshold
    assert found.classes.tolist() == [0, 1]
    assert found.scores == pytest.approx([0.9, 0.6])
    assert len(decode(output((50, 50, 10, 10, (0.24, 0.2))))) == 0


@pytest.mark.parametrize("shape", [(4, 9), (6,), (1, 6, 9)])
def test_other_shapes_are_no_boxes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="anchors"):
        decode(np.zeros(shape, np.float32))


def test_of_boxes_that_overlap_the_best_of_each_class_stays() -> None:
    same, other = (10, 10, 8, 8, (0.8, 0.0)), (11, 10, 8, 8, (0.0, 0.6))
    found = detect(output((10.5, 10, 8, 8, (0.7, 0.0)), same, other, (40, 40, 8, 8, (0.5, 0.0))))
    assert found.classes.tolist() == [0, 1, 0]
    assert found.scores == pytest.approx([0.8, 0.6, 0.5])


def test_what_was_suppressed_suppresses_nothing() -> None:
    """In a row of boxes, each overlapping its neighbours alone, every other one stays."""
    row = [(4.0 * i, 0.0, 4.0 * i + 10, 10.0, 0) for i in range(5)]
    assert overlaps(boxes(*row).corners, boxes(*row).corners)[0, 1] == pytest.approx(60 / 140)
    kept = suppress(boxes(*row), overlap=0.4)
    assert kept.corners[:, 0].tolist() == [0, 8, 16]


@given(st.lists(st.tuples(*[st.integers(0, 12)] * 4), min_size=1, max_size=6))
def test_overlap_is_that_of_the_pixels(corners: list[tuple[int, int, int, int]]) -> None:
    def pixels(box: np.ndarray) -> np.ndarray:
        picture = np.zeros((13, 13), bool)
        picture[int(box[1]) : int(box[3]), int(box[0]) : int(box[2])] = True
        return picture

    table = np.array(corners, np.float64)
    shared = overlaps(table, table)
    for i, a in enumerate(table):
        for j, b in enumerate(table):
            union = (pixels(a) | pixels(b)).sum()
            wanted = (pixels(a) & pixels(b)).sum() / union if union else 0.0
            assert shared[i, j] == pytest.approx(wanted)


def test_boxes_that_show_the_same_are_matched_once() -> None:
    exact = boxes((0, 0, 10, 10, 1), (20, 20, 30, 30, 1), (50, 50, 60, 60, 2))
    found = boxes((1, 0, 11, 10, 1), (0, 0, 10, 10, 1), (50, 50, 60, 60, 1))
    matched = match(found, exact)
    assert matched.pairs == ((1, 0),)  # the better of two; another class shows something else
    assert matched.overlaps == (1.0,)
    assert (matched.lost, matched.gained) == (2, 2)
    nothing = boxes()
    assert (match(nothing, exact).lost, match(exact, nothing).gained, match(nothing, nothing).pairs) == (3, 3, ())


def test_boxes_of_a_level_beside_those_of_level_0() -> None:
    exact = [boxes((0, 0, 10, 10, 1), (20, 20, 30, 30, 1)), boxes(), boxes((0, 0, 4, 4, 0))]
    found = [boxes((0, 0, 10, 8, 1)), boxes((1, 1, 2, 2, 0)), boxes((0, 0, 4, 4, 0))]
    assert compare_boxes(found, exact) == {
        "boxes": 3,
        "boxes_exact": 3,
        "pictures_with_boxes": 2,
        "mean_iou": pytest.approx(0.9),
        "lost": 1,
        "gained": 1,
    }
    assert compare_boxes([boxes()], [boxes()])["mean_iou"] is None


def test_the_files_own_boxes() -> None:
    wanted = [boxes((0, 0, 10, 10, 1), (20, 20, 30, 30, 0))]
    assert same_boxes(wanted, wanted) == {"same": True, "boxes": 2, "largest_pixels": 0.0, "largest_score": 0.0}
    near = [boxes((0, 0, 10, 10.01, 1), (20, 20, 30, 30, 0))]
    assert same_boxes(near, wanted)["same"]
    assert same_boxes(near, wanted)["largest_pixels"] == pytest.approx(0.01)
    for other in (
        boxes((0, 0, 10, 10.1, 1), (20, 20, 30, 30, 0)),
        boxes((0, 0, 10, 10, 0), (20, 20, 30, 30, 0)),
        boxes((0, 0, 10, 10, 1)),
        boxes((0, 0, 10, 10, 1), (20, 20, 30, 30, 0), (40, 40, 50, 50, 0)),
    ):
        assert not same_boxes([other], wanted)["same"]


# --- scores ----------------------------------------------------------------------------------------------------------


def test_scores_of_a_level_beside_those_of_level_0() -> None:
    exact = np.zeros((2, 12), np.float32)
    exact[:, :6] = [6, 5, 4, 3, 2, 1]
    scores = exact.copy()
    scores[1, [0, 1]] = 5, 6  # another answer, of the same five
    scores[0, [4, 5]] = 1, 2  # one of the five
    found = compare_scores(scores, exact, np.array([0, 1]))
    assert found["agreement"] == 50.0
    assert found["top5_in_common"] == pytest.approx(90.0)
    assert found["top1"] == 100.0
    assert found["mean_difference"] == pytest.approx(4 / 24 / 6)
    two = compare_scores(exact[:, :2], exact[:, :2], None)
    assert (two["agreement"], two["top5_in_common"], two["top1"]) == (100.0, None, None)


def test_the_error_is_a_share_of_each_outputs_largest_number() -> None:
    wanted = [np.float32([[1, -4]]), np.float32([[100.0]])]
    assert share_of_largest([np.float32([[1.5, -4]]), np.float32([[101.0]])], wanted) == pytest.approx(0.125)


@pytest.mark.parametrize(
    ("changed", "failed"),
    [({}, False), ({"error": 2e-3}, True), ({"error": float("nan")}, True), ({"boxes": {"same": False}}, True)],
)
def test_a_level_0_that_is_not_the_file_is_a_failure(changed: dict[str, Any], failed: bool) -> None:
    about = {"name": "net", "kind": "about", "error": 1e-6, **changed}
    assert bool(failures([about, {"kind": "level"}])) == failed


# --- lines -----------------------------------------------------------------------------------------------------------


def test_lines_stay_until_the_bundle_changes(tmp_path: Path) -> None:
    path = tmp_path / "files.jsonl"
    lines = Lines(path)
    for name, objective, bundle in (("a", "time", "1"), ("a", "flops", "1"), ("b", "time", "1"), ("a", "time", "2")):
        lines.add({"name": name, "objective": objective, "bundle": bundle, "kind": "level", "level": 0})
    again = Lines(path)
    assert again.rows == lines.rows
    assert again.find(name="a", objective="flops", level=0) == lines.rows[1]
    assert again.find(name="a", objective="flops", level=1) is None
    again.forget("a", "time", "2")
    assert [(r["name"], r["objective"], r["bundle"]) for r in map(json.loads, path.read_text().splitlines())] == [
        ("a", "flops", "1"),
        ("b", "time", "1"),
        ("a", "time", "2"),
    ]


# --- pictures and wheels ---------------------------------------------------------------------------------------------


def test_pictures_are_the_same_every_time() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    first, second = (sample_pictures.crops(picture, 5, np.random.default_rng(1)) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert np.array_equal(a, b)
        assert a.shape[0] == a.shape[1]
        assert 16 <= len(a) <= 38
    assert sample_pictures.in_size([picture, *first], 16).shape == (6, 16, 16, 3)


def test_a_whole_picture_keeps_its_shape_in_a_black_square() -> None:
    square = sample_pictures.squared(np.full((4, 6, 3), 200, np.uint8))
    assert square.shape == (6, 6, 3)
    assert (square[:4] == 200).all()
    assert (square[4:] == 0).all()


def test_faces_side_by_side() -> None:
    some = np.arange(6, dtype=np.uint8)[:, None, None, None] + np.zeros((1, 25, 25, 3), np.uint8)
    picture = sample_pictures.side_by_side(some, 2, np.random.default_rng(0))
    margin = (len(picture) // 2 - 25) // 2
    tile = 25 + 2 * margin
    assert picture.shape == (2 * tile, 2 * tile, 3)
    seen = {int(picture[margin + tile * i, margin + tile * j, 0]) for i in range(2) for j in range(2)}
    assert len(seen) == 4
    assert seen < set(range(6))
    assert (picture[0] == sample_pictures.GREY).all()


def test_what_is_planned_with_is_not_measured_on() -> None:
    assert not set(sample_pictures.PLANNED) & set(sample_pictures.MEASURED)


def test_nothing_is_fetched_into_the_repository() -> None:
    with pytest.raises(SystemExit, match="inside the repository"):
        wheels.wheel("nudenet", wheels.ROOT / "build" / "wheels")


def test_a_wheel_that_is_there_is_not_fetched(tmp_path: Path) -> None:
    path = tmp_path / f"nudenet-{wheels.VERSIONS['nudenet']}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("nudenet/320n.onnx", b"model")
    assert wheels.member("nudenet", "nudenet/320n.onnx", tmp_path) == b"model"


# --- the page --------------------------------------------------------------------------------------------------------


def rows_of(name: str, objective: str, *levels: dict[str, Any], **about: Any) -> list[dict[str, Any]]:
    key = {"name": name, "objective": objective, "bundle": "1"}
    known = {
        "source": "A network", "sha256": "abc", "runtime": "onnxruntime 1", "input": [3, 8, 8], "gmacs": 0.5,
        "merging": 3, "convolutions": 4, "objective_used": objective, "planned_on": 7, "measured_on": 9, "error": 2e-7,
    }  # fmt: skip
    return [
        {**key, "kind": "about", **known, **about},
        *({**key, "kind": "level", "level": i, **level} for i, level in enumerate(levels)),
    ]


def test_the_page_has_a_table_for_each_network_and_objective() -> None:
    scores = {"agreement": 99.0, "top5_in_common": None, "top1": 88.0, "mean_difference": 0.0123}
    found = {"boxes": 10, "pictures_with_boxes": 4, "mean_iou": None, "lost": 10, "gained": 0}
    exact = {"same": True, "boxes": 10, "largest_pixels": 2e-4}
    rows = [
        *rows_of("nudenet", "time", {"saved": 0.0, **found}, boxes=exact),
        *rows_of("nudenet", "flops", {"saved": 0.0, **found}, boxes=exact),
        *rows_of("resnet8", "time", {"saved": 0.0, **scores}, {"saved": 12.34, **scores}, same_answers=100.0),
        *rows_of("resnet8", "flops", {"saved": 30.0, **scores}, same_answers=100.0),
    ]
    cpu = {"model": "a processor", "features": ["avx2"]}
    times = {"kind": "time", "ms": [2.0, 1.5], "cpu": cpu, "backend": "numba", "threads": 1, "rounds": 5, "runs": 16}
    rows.append({"name": "resnet8", "objective": "time", "bundle": "1", **times})
    top = [{"index": 3, "name": "a cat", "probability": 0.875}, {"index": 1, "name": "a dog", "probability": 0.125}]
    rows.append({**rows[-1], "objective": "flops", "kind": "named", "pictures": {"chelsea.png": top}})
    page = write_files.page(rows)
    assert "| chelsea.png | a cat 88 %, a dog 12 % |" in page
    assert page.index("## ResNet-8") < page.index("## YOLOv8n")
    assert "| level | saved % | agreement % | difference % | top-1 % | ms |" in page
    assert "| 1 | 12.3 | 99.0 | 1.23 | 88.0 | 1.50 |" in page
    assert "| 0 | 30.0 | 99.0 | 1.23 | 88.0 |\n" in page
    assert "| 0 | 0.0 | 10 | - | 10 | 0 |" in page
    assert "all of 10 boxes, within 0.0002 pixels" in page
    assert page.count("Planned to save FLOPs:\n") == 2
    assert "\n\n\n" not in page
    assert "Planned to save time, as usual; level 1, the quickest, takes 75 % of level 0's time:" in page
    assert write_files.quickest({"ms": [1.0, 2.0]}) == "; no level is quicker than level 0"
    assert write_files.quickest({"ms": [1.0]}) == "; no level would be quicker and of use, so there is level 0 alone"
    assert "a processor (avx2), numba" in page
    assert max(map(len, page.partition("\n|")[0].splitlines())) <= 120
