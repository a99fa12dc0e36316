"""source.pt2 -> model.tflite, with litert-torch. Maps enter with channels last.

python export_tflite.py FOLDER SHAPE
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    torch: Any = importlib.import_module("torch")
    litert_torch: Any = importlib.import_module("litert_torch")
    folder, shape = Path(sys.argv[1]), [int(size) for size in sys.argv[2].split("x")]
    program = torch.export.load(folder / "source.pt2").module()

    class Module(torch.nn.Module):  # a module that can be put in eval mode, as a program cannot
        def forward(self, x: Any) -> Any:
            return program(x)

    module, example = Module().eval(), torch.zeros(shape)
    if len(shape) == 4:
        module, example = litert_torch.to_channel_last_io(module, args=[0]), example.permute(0, 2, 3, 1).contiguous()
    litert_torch.convert(module, (example,)).export(str(folder / "model.tflite"))


if __name__ == "__main__":
    main()
