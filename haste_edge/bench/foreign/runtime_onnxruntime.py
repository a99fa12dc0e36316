"""ONNX Runtime on the CPU."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any


def load(model: Path, threads: int) -> dict[str, Any]:
    ort: Any = importlib.import_module("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = ort.InferenceSession(str(model / "model.onnx"), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return {
        "version": ort.__version__,
        "settings": "CPU provider, all graph optimisations, fp32",
        "variants": {"": lambda x: session.run(None, {name: x})[0]},
        "prepare": lambda x: x,
        "networks": 1,
    }
