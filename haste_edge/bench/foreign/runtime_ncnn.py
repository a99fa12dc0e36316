"""ncnn on the CPU in float32, with its Winograd convolutions and without."""

from __future__ import annotations

import importlib
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np


def load(model: Path, threads: int) -> dict[str, Any]:
    ncnn: Any = importlib.import_module("ncnn")

    def variant(winograd: bool) -> Any:
        net = ncnn.Net()
        options = net.opt
        options.num_threads, options.use_winograd_convolution = threads, winograd
        for half in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
            setattr(options, f"use_{half}", False)
        for load, file in ((net.load_param, "model.ncnn.param"), (net.load_model, "model.ncnn.bin")):
            if load(str(model / file)) != 0:
                raise ValueError(f"ncnn does not load {file}")

        def run(x: Any) -> Any:
            extractor = net.create_extractor()
            extractor.input("in0", ncnn.Mat(x))
            return np.array(extractor.extract("out0")[1])

        return run

    return {
        "version": metadata.version("ncnn"),
        "settings": "fp16 and bf16 off",
        "variants": {"Winograd": variant(True), "no Winograd": variant(False)},
        "prepare": lambda x: np.ascontiguousarray(x[0]),  # ncnn has no batch
        "networks": 2,
    }
