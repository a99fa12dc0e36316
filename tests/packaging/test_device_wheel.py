"""A wheel for devices of this machine's kind, installed by pip in a fresh environment, with the metadata of the
haste-runtime that is installed here. Its kernels are small: what all of them compute, other tests show."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from wheel_tools import install, run

from haste_edge.cross import libraries as made_here
from haste_edge.cross.wheels import build_runtime
from haste_runtime.kernels import layout
from haste_runtime.kernels.codegen import compile_object
from haste_runtime.kernels.exports import ABOUT, FRAME, exports
from haste_runtime.kernels.jit import kernel

pytestmark = pytest.mark.packaging

ASK = """
import ctypes, json, os
import haste_runtime
from importlib.metadata import distribution
from haste_runtime.kernels.exports import ABOUT, prototypes
from haste_runtime.native.libraries import folder, read_index

library = read_index(folder()).libraries[0]
out = (ctypes.c_int64 * 2)()
address = ctypes.cast(getattr(ctypes.CDLL(library.path), ABOUT), ctypes.c_void_p).value
prototypes()[ABOUT](address)(ctypes.addressof(out))
here = distribution("haste-runtime")
print(json.dumps({
    "file": haste_runtime.__file__, "abi": out[0], "version": here.version, "requires": here.requires,
    "recorded": sum(file.locate().is_file() for file in here.files), "files": len(here.files),
}))
"""


@kernel
def nothing(
    table, operations, levels, slots, arena, packed, index, scratch, room, counters, trace, staged, inputs, given,
    meeting, worker, workers,
):  # fmt: skip
    arena[0] = packed[0]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the target host is one that kernels are compiled for")
def test_pip_installs_it_and_the_library_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = exports()
    functions = {FRAME: (nothing, known[FRAME][1]), ABOUT: known[ABOUT]}
    monkeypatch.setattr(made_here, "object_for", lambda core, progress: compile_object(functions, core.llvm).code)
    (wheel,) = build_runtime(["host"], tmp_path / "wheels", lambda *_: None)
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    scripts = environment / Path(sysconfig.get_path("scripts")).name
    install(scripts / "python", wheel.path)
    (site_packages,) = environment.rglob("site-packages")
    (site_packages / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
    told = json.loads(run(scripts / "python", "-c", ASK, cwd=tmp_path))
    assert Path(told["file"]).is_relative_to(environment)
    assert told["abi"] == layout.ABI
    assert told["recorded"] == told["files"]
    assert any(line.startswith("numpy") for line in told["requires"])
    assert "infer" in run(scripts / "haste-run", "--help", cwd=tmp_path)
