"""for_pnnx.pt or for_pnnx.onnx -> model.ncnn.param and model.ncnn.bin in float32, with pnnx.

python export_ncnn.py FOLDER SHAPE FILE
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path


def main() -> None:
    folder, shape = Path(sys.argv[1]), ",".join(sys.argv[2].split("x"))
    given = folder / sys.argv[3]
    tool = Path(sysconfig.get_path("scripts")) / "pnnx"
    with tempfile.TemporaryDirectory(dir=folder) as work:  # pnnx writes a dozen files beside its input
        model = Path(work) / f"model{given.suffix}"
        shutil.copyfile(given, model)
        subprocess.run([tool, str(model), f"inputshape=[{shape}]", "fp16=0"], cwd=work, check=True)
        for name in ("model.ncnn.param", "model.ncnn.bin"):
            shutil.move(Path(work) / name, folder / name)


if __name__ == "__main__":
    main()
