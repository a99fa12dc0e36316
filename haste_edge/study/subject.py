"""What is studied: a network as a graph, pictures, and the layers that may merge. Loaded once in every process.

A `Source` says where all of it comes from. It is small and can be sent to other processes and machines, which load the
network and the pictures themselves, from files at the same paths.
"""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from haste_edge import torch_graph
from haste_edge.evaluate import DataError, Images, Labels, read_pictures
from haste_edge.frontends import load_model
from haste_edge.passes import run_passes
from haste_edge.study.configuration import StudyError
from haste_runtime.bundle import Bundle, read_bundle
from haste_runtime.errors import InputError
from haste_runtime.flops import conv_geometries, dense_flops, linear_flops
from haste_runtime.graph import Graph
from haste_runtime.operators import check_graph, may_merge
from haste_runtime.preprocessing import Preprocessing, images_to_inputs
from haste_runtime.weights import float_weight

SPATIAL, ALL = "spatial", "all"  # which layers may merge, beside shell patterns of their names
MOST_PICTURES = 100  # of a batch
BATCH_BYTES = 128 << 20  # largest value of a batch
DIGITS = 12  # of checksums that name a subject or a bundle
# Largest relative error of weights that a bundle stores rounded
ROUNDING = {"fp32": 1e-3, "fp16": 1e-3, "int8": 1 / 250}


@dataclass(frozen=True)
class Source:
    """Where a subject comes from.

    model, weights, input_shape: as for `haste_edge.frontends.load_model`. data: pictures, and labels if there are any,
    as `haste_edge.evaluate.read_pictures` reads them.

    limit: take only the first pictures. layers: "spatial" for the convolutions of 3x3 and more but the first, "all" for
    those of 1x1, too, or shell patterns of names with commas between, for just these. bundles: .haste files made of the
    same model, whose levels are studied as well.
    """

    model: str
    data: str
    weights: str | None = None
    input_shape: str | None = None
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    limit: int | None = None
    layers: str = SPATIAL
    bundles: tuple[str, ...] = ()


class Subject:
    """A network and pictures, ready to be run.

    graph: after the passes. images: uint8 (N, H, W, 3). labels: (N,) or None. layers: as in `Source`. bundles: by name.
    Raises InputError for a network that does not turn one picture into one vector of scores, DataError for labels that
    don't fit it, StudyError where no layer may merge or a bundle is of another network.
    """

    def __init__(
        self,
        graph: Graph,
        images: Images,
        labels: Labels | None = None,
        *,
        preprocessing: Preprocessing | None = None,
        layers: str = SPATIAL,
        bundles: Mapping[str, Bundle] | None = None,
    ) -> None:
        self.graph, self.images, self.labels = graph, images, labels
        self.preprocessing = replace(preprocessing or Preprocessing(), layout="NCHW")  # the graph's own
        self.shapes = check_graph(graph)
        self._check_ends()
        self.geometries = conv_geometries(graph, self.shapes)
        self.layers = choose_layers(graph, layers)
        self.bundles = dict(bundles or {})
        for name, bundle in self.bundles.items():
            self._check_bundle(name, bundle)
        self.prepared = torch_graph.prepare(graph)
        self.dense = {name: dense_flops(geometry) for name, geometry in self.geometries.items()}  # of one picture
        self.linear = sum(
            linear_flops(self.shapes[n.inputs[0]][0], self.shapes[n.name][0]) for n in graph.nodes if n.op == "linear"
        )

    def _check_ends(self) -> None:
        outputs = [self.shapes[name] for name in self.graph.outputs]
        if len(self.graph.inputs) != 1 or len(outputs) != 1 or len(outputs[0]) != 1:
            raise InputError(
                "Only a network with one picture as input and one vector of class scores as output can be studied; "
                f"this one has inputs {[v.shape for v in self.graph.inputs]} and outputs {outputs}.",
                "Wrap it in a module that gives the scores alone.",
            )
        if not len(self.images):
            raise DataError("There are no pictures to study the network on.", "Give one with at least one picture.")
        if self.labels is not None and not 0 <= self.labels.min() <= self.labels.max() < outputs[0][0]:
            raise DataError(
                f"Labels go from {self.labels.min()} to {self.labels.max()}, but the network has {outputs[0][0]} "
                "classes.",
                "Labels count from 0, in the order of the network's outputs.",
            )

    def _check_bundle(self, name: str, bundle: Bundle) -> None:
        hint = "Compile it from this very model and these weights."
        convs = {node.name: node for node in self.graph.nodes if node.op == "conv"}
        for node in bundle.graph.nodes:
            if node.op != "conv":
                continue
            own, theirs = convs.get(node.name), float_weight(bundle.graph, node)
            weight = None if own is None else self.graph.constants[own.constants["weight"]]
            if weight is None or weight.shape != theirs.shape:
                raise StudyError(f"The bundle {name} is of another network: it has a layer {node.name!r}.", hint)
            error = ROUNDING[bundle.dtype]
            if not np.allclose(weight, theirs, rtol=error, atol=error * float(np.abs(weight).max(initial=0.0))):
                raise StudyError(f"The bundle {name} has other weights in its layer {node.name!r}.", hint)
        p, ours = (
            bundle.preprocessing,
            self.preprocessing,
        )  # how pictures come to their size is the study's own business
        if replace(p, layout="NCHW", fit=ours.fit, crop=ours.crop, fill=ours.fill) != ours:
            raise StudyError(
                f"The bundle {name} was made for pictures of mean {p.mean}, std {p.std}, scale {p.scale:g} and colours "
                f"{p.colour}, not for those of this study.",
                "Give the same --mean, --std, --scale and --colour as when it was compiled.",
            )

    @cached_property
    def digest(self) -> str:
        """Names the network, its layers that may merge, and the pictures; results of others are no use for it."""
        sha = hashlib.sha256(repr((self.graph.nodes, self.layers, self.preprocessing)).encode())
        for key in sorted(self.graph.constants):
            sha.update(key.encode() + np.ascontiguousarray(self.graph.constants[key]).tobytes())
        sha.update(repr(self.images.shape).encode() + self.images.tobytes())
        sha.update(b"" if self.labels is None else self.labels.tobytes())
        return sha.hexdigest()[:DIGITS]

    @cached_property
    def exact(self) -> Tensor:
        """What the dense network answers, int64 (N,)."""
        runs = (torch_graph.run(self.prepared, batch) for _, batch in self.batches())
        return torch.cat([run.outputs[self.graph.outputs[0]].argmax(1) for run in runs])

    def batches(self) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """The number of the first picture, and network inputs, for all pictures in order."""
        value = self.graph.inputs[0]
        largest = 4 * max(math.prod(shape) for shape in self.shapes.values())
        size = max(1, min(MOST_PICTURES, BATCH_BYTES // largest))
        for start in range(0, len(self.images), size):
            x = images_to_inputs(self.images[start : start + size], value.shape, self.preprocessing)
            yield start, {value.name: torch.from_numpy(x)}

    def weight(self, node: str) -> Tensor:
        """Of a convolution, (O, C, K, K)."""
        return self.prepared.constants[self.graph.node(node).constants["weight"]]

    def bias(self, node: str) -> Tensor | None:
        key = self.graph.node(node).constants.get("bias")
        return None if key is None else self.prepared.constants[key]


def choose_layers(graph: Graph, layers: str) -> tuple[str, ...]:
    """The convolutions that ``layers`` means (see `Source`), in graph order. Raises StudyError if there are none."""
    convs = [node for node in graph.nodes if node.op == "conv"]
    able = [node for node in convs if not may_merge(node, graph)]
    if layers in (SPATIAL, ALL):
        least = 3 if layers == SPATIAL else 1
        chosen = [n.name for n in able if n is not convs[0] and min(_kernel(graph, n.name)) >= least]
    else:
        patterns = [pattern.strip() for pattern in layers.split(",")]
        chosen = [n.name for n in able if any(fnmatchcase(n.name, pattern) for pattern in patterns)]
    if not chosen:
        names = ", ".join(node.name for node in able) or "none"
        raise StudyError(f"None of the network's convolutions is meant by the layers {layers!r}.", f"It has: {names}.")
    return tuple(chosen)


def _kernel(graph: Graph, node: str) -> tuple[int, ...]:
    return graph.constants[graph.node(node).constants["weight"]].shape[2:]


def load(source: Source) -> Subject:
    """The subject, from this process's memory where it was loaded before, whatever became of its files since.

    Raises HasteError for whatever is wrong with them.
    """
    with _loading:  # threads that come together wait for the first, instead of loading it, too
        return _load(source)


_loading = threading.Lock()


@lru_cache(maxsize=1)
def _load(source: Source) -> Subject:
    images, labels = read_pictures(source.data)
    labels = None if labels is None else labels[: source.limit]
    bundles = {bundle_name(path): read_bundle(path) for path in source.bundles}
    loaded = load_model(source.model, source.weights, source.input_shape)
    return Subject(
        run_passes(loaded.graph),
        images[: source.limit],
        labels,
        preprocessing=source.preprocessing,
        layers=source.layers,
        bundles=bundles,
    )


def bundle_name(path: str) -> str:
    """The file's name and a checksum, so that results of a bundle compiled anew are not taken for the old one's.

    Raises StudyError where it can't be read.
    """
    try:
        return f"{Path(path).stem}-{hashlib.sha256(Path(path).read_bytes()).hexdigest()[:DIGITS]}"
    except OSError as error:
        raise StudyError(f"The bundle {path} cannot be read ({error}).", "Make it with haste-edge compile.") from error
