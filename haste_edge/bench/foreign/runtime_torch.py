"""PyTorch on the CPU: the module as it is, and as TorchScript that was frozen and optimised for inference."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any


def load(model: Path, threads: int) -> dict[str, Any]:
    torch: Any = importlib.import_module("torch")
    torch.set_num_threads(threads)
    eager = torch.export.load(model / "source.pt2").module()  # made by haste-edge, or it would not be unpickled
    script = torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.load(str(model / "model.pt")).eval()))

    def variant(module: Any) -> Any:
        def run(x: Any) -> Any:
            with torch.inference_mode():
                return module(x).numpy()

        return run

    return {
        "version": torch.__version__,
        "settings": "fp32",
        "variants": {"eager": variant(eager), "TorchScript, frozen": variant(script)},
        "prepare": torch.from_numpy,
        "networks": 2,
    }
