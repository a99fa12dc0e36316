"""LiteRT or, where that is what is installed, the older tflite-runtime; both with XNNPACK. Channels come last."""

from __future__ import annotations

import importlib
from importlib import metadata, util
from pathlib import Path
from typing import Any

import numpy as np


def load(model: Path, threads: int) -> dict[str, Any]:
    package, distribution = "tflite_runtime", "tflite-runtime"
    if util.find_spec("ai_edge_litert"):
        package, distribution = "ai_edge_litert", "ai-edge-litert"
    module: Any = importlib.import_module(f"{package}.interpreter")
    interpreter = module.Interpreter(str(model / "model.tflite"), num_threads=threads)
    interpreter.allocate_tensors()
    given, got = (
        details[0]["index"] for details in (interpreter.get_input_details(), interpreter.get_output_details())
    )

    def run(x: Any) -> Any:
        interpreter.set_tensor(given, x)
        interpreter.invoke()
        return interpreter.get_tensor(got)

    return {
        "version": metadata.version(distribution),
        "settings": "XNNPACK, fp32, input with channels last",
        "variants": {"": run},
        "prepare": lambda x: np.ascontiguousarray(x.transpose(0, 2, 3, 1) if x.ndim == 4 else x),
        "networks": 1,
    }
