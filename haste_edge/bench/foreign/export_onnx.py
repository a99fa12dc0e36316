"""source.pt2 -> model.onnx, with PyTorch's exporter.

python export_onnx.py FOLDER SHAPE
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    torch: Any = importlib.import_module("torch")
    folder, shape = Path(sys.argv[1]), [int(size) for size in sys.argv[2].split("x")]
    module = torch.export.load(folder / "source.pt2").module()
    example = torch.zeros(shape)
    torch.onnx.export(
        torch.jit.trace(module, example), (example,), str(folder / "model.onnx"), dynamo=False, input_names=["x"]
    )


if __name__ == "__main__":
    main()
