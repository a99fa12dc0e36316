"""Run a ``.tflite`` file in LiteRT or, where that is what is installed, in the older tflite-runtime.

    python tflite_process.py MODEL FOLDER BATCH

Reads the model's inputs 0, 1, ... from FOLDER/inputs.npz, all frames along the first axis, runs BATCH frames at a time
and writes outputs 0, 1, ... to FOLDER/outputs.npz. With a BATCH of 0 it runs the model once, on zeros of the shapes
in FOLDER/inputs.npz, and writes the shape of every value instead. A process of its own, as the runtimes take little
care what is in a file; it needs nothing but numpy and one of them.
"""

from __future__ import annotations

import importlib
import sys
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np

PACKAGES = ("ai_edge_litert", "tflite_runtime")


def installed() -> str:
    """The package that is there, else nothing."""
    return next((package for package in PACKAGES if util.find_spec(package)), "")


def interpreter(model: str, shapes: list[tuple[int, ...]], plain: bool = False) -> Any:
    """Ready to run on inputs of these shapes, batch and all. plain: without XNNPACK, which hides values inside."""
    module: Any = importlib.import_module(f"{installed()}.interpreter")
    kind = module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES if plain else module.OpResolverType.AUTO
    made = module.Interpreter(model, num_threads=1, experimental_op_resolver_type=kind)
    for details, shape in zip(made.get_input_details(), shapes, strict=True):
        if tuple(details["shape"]) != shape:
            made.resize_tensor_input(details["index"], shape)
    made.allocate_tensors()
    return made


def run(model: str, inputs: list[Any], batch: int) -> list[Any]:
    """All frames; the last group is filled up."""
    made = interpreter(model, [(batch, *x.shape[1:]) for x in inputs])
    places = [details["index"] for details in made.get_input_details()]
    parts = []
    for start in range(0, len(inputs[0]), batch):
        frames = np.minimum(np.arange(start, start + batch), len(inputs[0]) - 1)
        for place, x in zip(places, inputs, strict=True):
            made.set_tensor(place, np.ascontiguousarray(x[frames]))
        made.invoke()
        parts.append([made.get_tensor(details["index"]) for details in made.get_output_details()])
    return [np.concatenate(column)[: len(inputs[0])] for column in zip(*parts, strict=True)]


def shapes_of(model: str, inputs: list[Any]) -> dict[str, Any]:
    """Tensor's number -> its shape."""
    made = interpreter(model, [tuple(map(int, x)) for x in inputs], plain=True)
    made.invoke()
    return {str(details["index"]): np.asarray(details["shape"], np.int64) for details in made.get_tensor_details()}


def main() -> None:
    model, folder, batch = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    with np.load(folder / "inputs.npz", allow_pickle=False) as archive:
        inputs = [archive[str(number)] for number in range(len(archive.files))]
    if batch:
        outputs = {str(number): y for number, y in enumerate(run(model, inputs, batch))}
    else:
        outputs = shapes_of(model, inputs)
    np.savez(folder / "outputs.npz", **outputs)


if __name__ == "__main__":
    main()
