"""Functions of one number and of two: compiled kernels against the definitions, over shapes around the vector width."""

from __future__ import annotations

import numpy as np
import pytest
from builders import GraphBuilder, bundle_for
from layer_contract import check_against_numpy, frame_for

from haste_runtime.attributes import BINARY, UNARY
from haste_runtime.graph import Shape

SHAPES: list[Shape] = [(1,), (15,), (40,), (3, 7), (17, 3, 4), (3, 5, 7), (2, 3, 4, 5)]


@pytest.mark.parametrize("shape", SHAPES)
def test_functions_of_one_number(shape: Shape) -> None:
    """All in one graph; those that need it get positive numbers."""
    b = GraphBuilder(0, x=shape)
    positive = b.node("positive", "unary", "x", function="absolute", alpha=0.0, beta=0.0)
    shifted = b.node("shifted", "unary", positive, function="clip", alpha=0.1, beta=100.0)
    for function in UNARY:
        source = shifted if function in ("sqrt", "reciprocal") else "x"
        b.node(function, "unary", source, function=function, alpha=0.3, beta=0.6)
    b.node("prelu", "prelu", "x", constants={"slope": np.linspace(-1, 2, shape[0])})
    graph = b.graph(*UNARY, "prelu")
    check_against_numpy(bundle_for(graph), frame_for(graph), tolerance=2e-6)


PAIRS: list[tuple[Shape, Shape]] = [
    ((17, 4, 5), (17, 1, 1)), ((3, 4, 5), (3, 4, 5)), ((9, 1, 1), (9, 4, 5)), ((17, 4, 1), (17, 1, 5)),
    ((1, 4, 5), (33, 4, 5)), ((9, 1, 1), (1, 4, 5)), ((5,), (1,)), ((40,), (40,)), ((6, 7), (6, 1)), ((6, 1), (1, 7)),
    ((2, 3, 4, 5), (1, 1, 4, 5)), ((2, 3, 4, 5), (2, 3, 1, 1)),
]  # fmt: skip


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_functions_of_two_numbers(first: Shape, second: Shape) -> None:
    """With a value and with a constant as the second, and a border around the result that must stay zero."""
    b = GraphBuilder(0, x=first, y=second)
    other = np.random.default_rng(1).standard_normal(second)
    for function in BINARY:
        b.node(function, "binary", "x", "y", function=function, activation="relu6")
        b.node(f"{function}_constant", "binary", "x", constants={"other": other}, function=function, activation="none")
    outputs = [node.name for node in b.nodes]
    if len(first) == 3:
        channels = max(first[0], second[0])
        outputs += [b.conv(f"after_{name}", name, channels, 3, 3) for name in ("multiply", "add_constant")]
    graph = b.graph(*outputs)
    check_against_numpy(bundle_for(graph, levels=[]), frame_for(graph), tolerance=1e-5)
