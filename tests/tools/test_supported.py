"""docs/supported.md is what tools/write_supported.py writes, and that sees what rules make."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("onnx")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

import write_supported

from haste_edge.frontends.aten_rules import RULES
from haste_runtime.operators import OPERATORS


def test_the_page_is_up_to_date() -> None:
    assert write_supported.PAGE.read_text() == write_supported.page(), "run python tools/write_supported.py"


@pytest.mark.parametrize(
    ("operation", "made"),
    [
        ("conv2d.default", {"conv", "rearrange", "slice"}),  # or transposed
        ("silu.default", {"unary"}),
        ("div.Tensor", {"unary", "add", "binary", "scale"}),
        ("mean.dim", {"mean", "reduce"}),
        ("pixel_shuffle.default", {"rearrange"}),
        ("detach.default", set()),
    ],
)
def test_what_a_rule_makes_is_read_from_its_source(operation: str, made: set[str]) -> None:
    assert write_supported.emitted(RULES[operation]) == made


def test_every_operator_runs_everywhere() -> None:
    lines = [line for line in write_supported.page().splitlines() if line.startswith("| `")]
    assert [line.split("`")[1] for line in lines] == list(OPERATORS)
    assert all("| yes | yes |" in line for line in lines)
