from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "tools/size_report.py"


def test_marks_long_modules_and_long_kernels_only(tmp_path: Path) -> None:
    body = "    x = 1\n"
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels/conv.py").write_text("def fits():\n" + 79 * body + "def long():\n" + 80 * body)
    (tmp_path / "plain.py").write_text("def long():\n" + 399 * body)
    (tmp_path / "big.py").write_text("def long():\n" + 400 * body)
    done = subprocess.run([sys.executable, SCRIPT, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1:] == [
        "   401  big.py  <- over 400 lines",
        "   161  kernels/conv.py  <- kernel over 80: long (81)",
        "   400  plain.py",
        "   962  in all",
    ]
