"""From the graph as the front end made it to the graph that runs: one idea per file, each ``Graph -> Graph``.

Every pass keeps the function that the graph computes, up to rounding, and can be run and printed alone
(`haste_edge.show_graph.format_graph`). To add one: write a file, and name it in `PIPELINE` where it belongs.
"""

from __future__ import annotations

from collections.abc import Callable

from haste_edge.passes.eliminate import eliminate
from haste_edge.passes.fold_batchnorm import fold_batchnorm
from haste_edge.passes.fold_padding import fold_padding
from haste_edge.passes.fuse_epilogue import fuse_epilogue
from haste_edge.passes.hoist import hoist
from haste_edge.passes.join_moves import join_moves
from haste_edge.passes.name_outputs import name_outputs
from haste_edge.passes.trim_taps import trim_taps
from haste_runtime.graph import Graph
from haste_runtime.operators import check_graph

__all__ = [
    "PIPELINE",
    "Pass",
    "eliminate",
    "fold_batchnorm",
    "fold_padding",
    "fuse_epilogue",
    "hoist",
    "join_moves",
    "name_outputs",
    "run_passes",
    "trim_taps",
]

Pass = Callable[[Graph], Graph]

# Identities go first, for a fold sees one node only; joined moves may be such, too. Folding comes before fusing, which
# needs bare layers, and both behind what brings to a layer what can be folded into it. Padding is whole before taps are
# held against it.
PIPELINE: tuple[Pass, ...] = (
    eliminate,
    join_moves,
    eliminate,
    hoist,
    fold_batchnorm,
    fold_padding,
    trim_taps,
    fuse_epilogue,
    eliminate,
)


def run_passes(graph: Graph, log: Callable[[str], None] | None = None) -> Graph:
    """Run `PIPELINE`, checking the graph after each pass. log: gets a line per pass. Raises GraphError."""
    for step in PIPELINE:
        before = len(graph.nodes)
        graph = step(graph)
        check_graph(graph)
        if log is not None:
            log(f"{step.__name__}: {before} -> {len(graph.nodes)} nodes")
    return graph
