"""source.pt2 -> model.pt, and for_pnnx.pt, where x[:, :, ::2] has become a max-pool of one pixel: the same numbers, and
ncnn's converter does not know slices with a step.

    python export_torchscript.py FOLDER SHAPE
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any


def pool_instead_of_slice(module: Any, aten: Any) -> None:
    """In place. Slices of rows or columns that begin at 0, run to the end and have a step."""
    for node in list(module.graph.nodes):
        if node.target is not aten.slice.Tensor:
            continue
        x, axis, first, end, step = list(node.args) + [0, 0, None, 1][len(node.args) - 1 :]
        if step > 1 and axis in (2, 3) and not first and (end is None or end >= 1 << 31):
            with module.graph.inserting_before(node):
                steps = [step, 1] if axis == 2 else [1, step]
                pool = module.graph.call_function(aten.max_pool2d.default, (x, [1, 1], steps))
            node.replace_all_uses_with(pool)
            module.graph.erase_node(node)
    module.recompile()


def main() -> None:
    torch: Any = importlib.import_module("torch")
    folder, shape = Path(sys.argv[1]), [int(size) for size in sys.argv[2].split("x")]
    module = torch.export.load(folder / "source.pt2").module()
    example = torch.zeros(shape)
    torch.jit.trace(module, example).save(str(folder / "model.pt"))
    pool_instead_of_slice(module, torch.ops.aten)
    torch.jit.trace(module, example).save(str(folder / "for_pnnx.pt"))


if __name__ == "__main__":
    main()
