"""Machine code: what it refers to, that it is reproducible, and how it is kept on disk."""

from __future__ import annotations

import ctypes
import os
import re
from pathlib import Path

import numpy as np
import pytest

from haste_runtime.cache import CACHE_VARIABLE
from haste_runtime.kernels import compile as kernels
from haste_runtime.kernels.exports import FRAME
from haste_runtime.kernels.jit import kernel, simd

pytestmark = pytest.mark.skipif(
    os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"), reason="nothing is compiled with NUMBA_DISABLE_JIT"
)
if not pytestmark.args[0]:
    from haste_runtime.kernels.codegen import Machine, compile_object, this_machine
OF_THE_SYSTEM = {"memset", "memcpy", "memmove", "sched_yield"}


def small_object(**machine: str):
    from numba import types

    from haste_runtime.kernels import pool
    from haste_runtime.kernels.simd_types import float_ptr, long_ptr

    signature = types.void(long_ptr, float_ptr, types.int64, types.int64)
    target = Machine(**machine) if machine else this_machine()
    return compile_object({"pool": (pool.max_pool, signature)}, target, assembly=True)


def test_the_same_kernel_gives_the_same_bytes() -> None:
    first, second = small_object(), small_object()
    assert first.code == second.code
    assert first.code[:4] == b"\x7fELF"


def test_objects_refer_to_nothing_of_python_or_numba() -> None:
    made = small_object()
    assert set(made.undefined) <= OF_THE_SYSTEM
    assert not any(word in made.assembly for word in ("NRT_", "Py", "numba_"))


def test_another_machine_can_be_compiled_for() -> None:
    made = small_object(triple="aarch64-unknown-linux-gnu", cpu="cortex-a72", relocation="pic", code_model="default")
    assert made.code[18:20] == b"\xb7\x00"  # e_machine: AArch64
    assert "fcmgt" in made.assembly or "fmax" in made.assembly, "the maximum is not taken in vector registers"


THREE_MACHINES = [
    ("x86_64-unknown-linux-gnu", "haswell", "", "vpmaddwd"),
    ("aarch64-unknown-linux-gnu", "cortex-a72", "", "smlal"),
    ("armv7-unknown-linux-gnueabihf", "cortex-a7", "+neon", "vmlal.s16"),
]
FUSED = re.compile(r"\b(vfn?m(add|sub)\w*|fn?m(add|sub|la|ls)|vfn?m[as]|vn?ml[as]\.f\d+)\b")


@pytest.mark.parametrize(("triple", "cpu", "features", "product"), THREE_MACHINES, ids=lambda value: value[:6])
def test_decisions_are_not_contracted_and_products_are_vectors(
    triple: str, cpu: str, features: str, product: str
) -> None:
    """Grouping compares doubles that were rounded after every operation. It has no function to call on any machine."""
    from numba import types

    from haste_runtime.kernels import group_patch
    from haste_runtime.kernels.simd_types import float_ptr, int_ptr, long_ptr

    signature = types.void(long_ptr, long_ptr, float_ptr, int_ptr, types.int64, long_ptr)
    target = Machine(triple, cpu, features, relocation="pic", code_model="default")
    made = compile_object({"choose": (group_patch.choose_leaders, signature)}, target, assembly=True)
    assert set(made.undefined) <= OF_THE_SYSTEM
    called = set(re.findall(r"__aeabi_\w+|__\w+[ds]i\w*", made.assembly)) - {"__aeabi_unwind_cpp_pr0"}
    assert not called, "the compiler's own helpers would be needed"
    assert product in made.assembly
    assert not FUSED.search(made.assembly)


@kernel
def decode(halves, from_halves, integers, from_integers, count):
    for i in range(0, count, simd.W):
        simd.vector_store(from_halves, i, simd.vector_load(simd.as_halves(halves), i))
        simd.vector_store(from_integers, i, simd.vector_load(simd.as_bytes(integers), i))


def compiled_decode(**machine: str):
    from numba import types

    from haste_runtime.kernels.simd_types import float_ptr

    target = Machine(**machine) if machine else this_machine()
    signature = types.void(float_ptr, float_ptr, float_ptr, float_ptr, types.int64)
    return compile_object({FRAME: (decode, signature)}, target, assembly=True)


@pytest.mark.parametrize("instruction", [True, False], ids=["by one instruction", "by integers"])
def test_every_stored_number_is_decoded_exactly(monkeypatch: pytest.MonkeyPatch, instruction: bool) -> None:
    """All finite float16, small ones too, and all int8, with and without the CPU's own conversion."""
    if instruction and not this_machine().converts_halves:
        pytest.skip("this CPU has none")
    monkeypatch.setattr(Machine, "converts_halves", instruction)
    engine = kernels.load(compiled_decode().code)
    address = engine.get_function_address(FRAME)
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)]
    integers = np.arange(halves.size).astype(np.int8)
    assert halves.size % 16 == 0
    targets = np.full((2, halves.size), np.nan, np.float32)
    pointers = [a.ctypes.data for a in (halves, targets[0], integers, targets[1])]
    ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 4, ctypes.c_int64)(address)(*pointers, halves.size)
    assert targets[0].tobytes() == halves.astype(np.float32).tobytes()
    assert targets[1].tobytes() == integers.astype(np.float32).tobytes()


CONVERTING = [
    ("x86_64-unknown-linux-gnu", "x86-64-v3", "+f16c", "vcvtph2ps"),
    ("x86_64-unknown-linux-gnu", "x86-64", "", ""),
    ("aarch64-unknown-linux-gnu", "cortex-a72", "", "fcvtl"),
    ("armv7-unknown-linux-gnueabihf", "cortex-a7", "+neon,+fp16", "vcvtb.f32.f16" if simd.W > 4 else "vcvt.f32.f16"),
    ("armv7-unknown-linux-gnueabihf", "cortex-a9", "+neon", ""),
]


@pytest.mark.parametrize(("triple", "cpu", "features", "instruction"), CONVERTING)
def test_decoding_calls_no_function(triple: str, cpu: str, features: str, instruction: str) -> None:
    made = compiled_decode(triple=triple, cpu=cpu, features=features, relocation="pic", code_model="default")
    assert set(made.undefined) <= OF_THE_SYSTEM
    assert not re.search(r"__\w*(hf|h2f)\w*", made.assembly)
    assert instruction in made.assembly
    assert bool(instruction) == bool(re.search(r"fcvtl|vcvtph2ps|vcvtb?\.f32\.f16", made.assembly))


def test_kept_code_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "kernels.o"
    kernels._keep(path, b"machine code")
    assert kernels._read(path) == b"machine code"
    assert list(tmp_path.iterdir()) == [path], "nothing temporary is left"


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "missing"])
def test_damaged_code_is_not_run(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "kernels.o"
    kernels._keep(path, bytes(range(200)))
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[17] ^= 1
    path.write_bytes({"truncate": content[:-1], "empty": b""}.get(damage, content))
    if damage == "missing":
        path.unlink()
    assert kernels._read(path) is None


def test_compiled_once_then_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "new" / "folder"))
    compiled: list[str] = []

    def make(progress: object) -> bytes:
        compiled.append("once")
        return b"code"

    first, second = kernels.cached(make, print), kernels.cached(make, print)
    assert first[0] == second[0] == b"code"
    assert compiled == ["once"]
    assert kernels.cached(lambda progress: b"others", print, "probes-")[0] == b"others"
    assert first[1].startswith("compiled, kept in ")
    assert second[1].startswith("from ")


def test_a_folder_that_cannot_be_written_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file where the folder should be fails for root too."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert kernels.cache_folder() == tmp_path / "cache" / "haste-edge"


def test_without_any_folder_kernels_are_compiled_and_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(kernels, "cache_folder", lambda: None)
    assert kernels.cached(lambda progress: b"code", print) == (b"code", "compiled, not kept: no folder is writable")
    assert CACHE_VARIABLE in caplog.text


def test_the_name_depends_on_the_kernels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "frame.py").write_text("a = 1")
    monkeypatch.setattr(kernels.resources, "files", lambda package: tmp_path)
    names = set()
    for text in ("a = 1", "a = 2"):
        (tmp_path / "frame.py").write_text(text)
        kernels.digest.cache_clear()
        names.add(kernels.digest())
    kernels.digest.cache_clear()
    assert len(names) == 2
