"""OpenVINO on the CPU, told not to compute in less than float32."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any


def load(model: Path, threads: int) -> dict[str, Any]:
    ov: Any = importlib.import_module("openvino")
    options = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
    }
    request = ov.Core().compile_model(str(model / "model.onnx"), "CPU", options).create_infer_request()
    return {
        "version": ov.__version__.partition("-")[0],
        "settings": "fp32 forced, one stream, no pinning",
        "variants": {"": lambda x: request.infer({0: x})[0]},
        "prepare": lambda x: x,
        "networks": 1,
    }
