"""A bundle's exact network, level 0, as a file for other runtimes that has proved itself.

    write down -> run beside the bundle -> rename

As with `haste_edge.compile`, the file appears under its name only after the last check.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haste_edge.compile import CHECK_FRAMES, TOLERANCE, VerificationError, difference, random_inputs, run_bundle
from haste_edge.errors import Refusal, UnsupportedModelError
from haste_edge.writing import check_place, replacing
from haste_runtime.bundle import Bundle, read_bundle
from haste_runtime.errors import HasteError
from haste_runtime.graph import Graph
from haste_runtime.weights import float_graph

MOST_BYTES = 2**31 - 1  # of a protobuf message, and of a flatbuffer
ROOM = 2**24  # of these for all but the weights
ABOUT = "Level 0, the exact network, of a bundle. Pictures: (x / scale - mean) / std, by its metadata."

Arrays = Mapping[str, NDArray[np.float32]]
Run = Callable[[Path, Bundle, Arrays], tuple[str, Arrays]]


@dataclass(frozen=True)
class Written:
    """A file's content. operations: how many it has, as its format counts them. version: of the operators, in words."""

    data: bytes
    operations: int
    version: str


@dataclass(frozen=True)
class Format:
    """A kind of file.

    write: raises UnsupportedModelError, which names every operator that has no place in it. run: the file on inputs as
    the bundle's graph has them, (frames, C, H, W) or (frames, F), by name: what ran it, and outputs laid out likewise.
    doubts: what may be wrong if it was not us, by what ran it.
    """

    write: Callable[[Bundle], Written]
    run: Run
    doubts: Mapping[str, str]


@dataclass(frozen=True)
class ExportReport:
    """What an export did.

    path: the file. runtime: what it was run in, such as "onnxruntime". largest_error: against level 0 of the bundle, on
    random input, as a share of the largest output; never above tolerance. nodes: operations of the file. version: of
    its operators, in words. bytes: of the file.
    """

    path: Path
    bundle: Path
    runtime: str
    largest_error: float
    tolerance: float
    version: str
    nodes: int
    bytes: int

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "path": str(self.path), "bundle": str(self.bundle)}


def export_bundle(path: Path, out: Path, kind: Format) -> ExportReport:
    """Write level 0 of the bundle in ``path`` to ``out``; a file that exists is replaced. Weights are float32.

    Raises BundleError for the bundle, UnsupportedModelError where an operator has no place in such a file or the
    weights are too large for one, VerificationError where the file does not compute what the bundle does, ModelError
    where nothing is installed that runs it, and BundleWriteError.
    """
    check_place(out, path)
    bundle = read_bundle(path)
    written = kind.write(bundle)
    with replacing(out) as partial:
        partial.write_bytes(written.data)
        runtime, largest_error = prove(partial, bundle, kind)
    return ExportReport(
        out, path, runtime, largest_error, TOLERANCE, written.version, written.operations, len(written.data)
    )


def float_network(bundle: Bundle, suffix: str, instead: str) -> Graph:
    """The bundle's graph with all constants float32. Raises UnsupportedModelError if a file can't hold them."""
    graph = float_graph(bundle.graph)
    weights = sum(constant.nbytes for constant in graph.constants.values())
    if weights > MOST_BYTES - ROOM:
        raise UnsupportedModelError(
            f"The network has {weights} bytes of weights in float32; {suffix} file holds 2 GB.", instead
        )
    return graph


def refuse(refusals: tuple[Refusal, ...], instead: str) -> None:
    """Raises UnsupportedModelError where there are any."""
    if refusals:
        lines = "".join(f"\n  {refusal}" for refusal in refusals)
        raise UnsupportedModelError(f"The network cannot be exported:{lines}", instead, refusals)


def metadata(bundle: Bundle) -> dict[str, str]:
    """How pictures become inputs, and what the outputs are called: each value is JSON."""
    properties = {**asdict(bundle.preprocessing), "classes": bundle.classes, "made_by": bundle.made_by}
    return {key: json.dumps(value, ensure_ascii=False) for key, value in properties.items()}


def prove(path: Path, bundle: Bundle, kind: Format) -> tuple[str, float]:
    """What ran the file, and by how much it differs from the bundle's level 0. Raises VerificationError, ModelError."""
    inputs = random_inputs(bundle.graph, bundle.preprocessing, CHECK_FRAMES, seed=0)
    wanted = run_bundle(bundle, inputs)
    try:
        runtime, got = kind.run(path, bundle, inputs)
    except (HasteError, MemoryError):
        raise
    except Exception as error:  # those of other runtimes have no common base class
        raise VerificationError(
            f"The exported network does not run: {' '.join(str(error).split())[:300]}",
            "Nothing was written; please report it with the bundle.",
        ) from error
    largest_error = difference(wanted, got)
    if largest_error > TOLERANCE:
        raise VerificationError(
            f"The exported network differs from the bundle by {largest_error:.1e} of the largest output in {runtime}.",
            f"Nothing was written. {kind.doubts.get(runtime, 'Please report it with the bundle.')}",
        )
    return runtime, largest_error


# --- layouts ---------------------------------------------------------------------------------------------------------


def channels_last(arrays: Arrays) -> dict[str, NDArray[np.float32]]:
    """Maps (frames, C, H, W) as (frames, H, W, C); vectors as they are."""
    return {k: np.ascontiguousarray(x.transpose(0, 2, 3, 1)) if x.ndim == 4 else x for k, x in arrays.items()}


def channels_first(arrays: Arrays) -> dict[str, NDArray[np.float32]]:
    """The other way round."""
    return {k: x.transpose(0, 3, 1, 2) if x.ndim == 4 else x for k, x in arrays.items()}
