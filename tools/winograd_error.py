"""How exact Winograd's algorithms are in float32, on a layer of random numbers and on those of a real network.

    python tools/winograd_error.py
    python tools/winograd_error.py NETWORK.haste --data pictures.npz

Prints for each layer that may use them the largest error of direct convolution, F(2x2,3x3) and F(4x4,3x3) against the
same in float64, as a share of the layer's largest output, in numpy (`haste_runtime.winograd`) on the inputs that the
layers see at level 0. Then the same of the network's outputs when the numba backend computes all such layers by one
algorithm. --data: .npz with uint8 ``x``, (N, H, W, 3); without it pictures are noise.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from haste_edge.evaluate import read_pictures
from haste_runtime.backends import choose_backend
from haste_runtime.bundle import Bundle, read_bundle
from haste_runtime.geometry import ConvGeometry
from haste_runtime.graph import Graph, Node
from haste_runtime.operators import check_graph, may_use_winograd
from haste_runtime.plan import ALGORITHMS, Level
from haste_runtime.preprocessing import images_to_inputs
from haste_runtime.reference_ops import convolve as convolve_directly
from haste_runtime.weights import float_weight
from haste_runtime.winograd import TILE_SIDES, convolve

Array = NDArray[np.float32]


def exact(x: Array, weight: Array, geometry: ConvGeometry) -> NDArray[np.float64]:
    """The convolution in float64, without bias."""
    top, left = geometry.padding[:2]
    height, width = geometry.out
    padded = np.zeros((len(x), height + 2, width + 2))
    padded[:, top : top + x.shape[1], left : left + x.shape[2]] = x[:, : height + 2 - top, : width + 2 - left]
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    return np.einsum("chwij,ocij->ohw", windows, weight.astype(np.float64), optimize=True)


def layer_errors(x: Array, weight: Array, geometry: ConvGeometry) -> list[float]:
    """Largest error over largest output, for each of `ALGORITHMS`."""
    wanted = exact(x, weight, geometry)
    top, left = geometry.padding[:2]
    padded = np.pad(x, ((0, 0), (top, geometry.padding[2]), (left, geometry.padding[3])))
    found = [convolve_directly(padded, weight, stride=(1, 1), dilation=(1, 1), groups=1, out=geometry.out)]
    found += [convolve(x, weight, None, (top, left), geometry.out, TILE_SIDES[name]) for name in ALGORITHMS[1:]]
    return [float(np.abs(y - wanted).max() / np.abs(wanted).max()) for y in found]


def show(name: str, errors: list[float]) -> None:
    print(f"{name:40}", *(f"{algorithm} {error:.1e}" for algorithm, error in zip(ALGORITHMS, errors, strict=True)))


def random_layers(seeds: int = 5) -> None:
    """Normal weights and rectified normal inputs, C channels in and out on maps of 16 x 16."""
    for channels in (16, 64, 256):
        geometry = ConvGeometry(channels, channels, (3, 3), (1, 1), (1, 1), (1, 1, 1, 1), 1, (16, 16))
        errors = []
        for seed in range(seeds):
            rng = np.random.default_rng(seed)
            x = np.maximum(rng.standard_normal((channels, 16, 16)), 0).astype(np.float32)
            weight = rng.standard_normal((channels, channels, 3, 3)).astype(np.float32)
            errors.append(layer_errors(x, weight, geometry))
        show(f"random, {channels} channels", np.max(errors, axis=0).tolist())


def inputs_of(graph: Graph, nodes: list[Node]) -> Graph:
    """The graph with the nodes' inputs as its outputs."""
    return replace(graph, outputs=tuple(dict.fromkeys(node.inputs[0] for node in nodes)))


def real_layers(bundle: Bundle, frames: Array) -> None:
    graph, shapes = bundle.graph, check_graph(bundle.graph)
    nodes = [n for n in graph.nodes if n.op == "conv" and not may_use_winograd(n, graph)]
    dense = replace(bundle.plan, levels=(Level({}, 0.0, 0.0),))
    backend = choose_backend("numpy", replace(bundle, graph=inputs_of(graph, nodes), plan=dense, classes=()))[0]
    worst: dict[str, list[float]] = {}
    for frame in frames:
        seen = backend.run({graph.inputs[0].name: frame}, 0)
        for node in nodes:
            weight = float_weight(graph, node)
            geometry = ConvGeometry.from_node(node, shapes[node.inputs[0]], weight.shape)
            errors = layer_errors(seen[node.inputs[0]], weight, geometry)
            worst[node.name] = np.maximum(worst.get(node.name, errors), errors).tolist()
    for name, errors in worst.items():
        show(name, errors)
    show("largest of all layers", np.max(list(worst.values()), axis=0).tolist())


def whole_network(bundle: Bundle, frames: Array) -> None:
    """Errors of the outputs against the numpy backend's, the plan's algorithms replaced by one at a time."""
    graph = bundle.graph
    name, output = graph.inputs[0].name, graph.outputs[0]
    reference = choose_backend("numpy", bundle)[0]
    wanted = np.stack([reference.run({name: frame}, 0)[output] for frame in frames])
    errors = []
    for algorithm in ALGORITHMS:
        layers = tuple(
            replace(p, algorithm=algorithm if not may_use_winograd(graph.node(p.node), graph) else "direct")
            for p in bundle.plan.layers
        )
        backend = choose_backend("numba", replace(bundle, plan=replace(bundle.plan, layers=layers)))[0]
        found = np.stack([backend.run({name: frame}, 0)[output] for frame in frames])
        errors.append(float(np.abs(found - wanted).max() / np.abs(wanted).max()))
    show("network's outputs against numpy", errors)


def main() -> None:
    parser = argparse.ArgumentParser(description="How exact Winograd's algorithms are in float32.")
    parser.add_argument("bundle", type=Path, nargs="?", help="a network; without it, layers of random numbers only")
    parser.add_argument("--data", type=Path, help=".npz with uint8 x; without it pictures are noise")
    parser.add_argument("--limit", type=int, default=3, help="pictures (default: 3)")
    options = parser.parse_args()
    random_layers()
    if options.bundle is None:
        return
    bundle = read_bundle(options.bundle)
    _, height, width = bundle.graph.inputs[0].shape
    if options.data is None:
        pictures = np.random.default_rng(0).integers(0, 256, (options.limit, height, width, 3), np.uint8)
    else:
        pictures = read_pictures(options.data)[0][: options.limit]
    frames = images_to_inputs(pictures, bundle.graph.inputs[0].shape, bundle.preprocessing)
    real_layers(bundle, frames)
    whole_network(bundle, frames)


if __name__ == "__main__":
    main()
