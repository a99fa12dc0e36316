"""Kernels as machine code for other computers: what is called, what is offered, what is inside, and that it repeats."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from disassembly import Instruction, innermost_loops, instructions

from haste_edge.cross import libraries as made_here
from haste_edge.cross.cores import CORES, MACHINES, Core, core_named, core_of, cores_of
from haste_edge.cross.elf import SYSTEM, offered, undefined
from haste_edge.cross.libraries import build_libraries, link, write_libraries
from haste_edge.cross.objects import check, object_for
from haste_edge.errors import BuildError, TargetError
from haste_edge.targets import list_targets, load_target
from haste_runtime.kernels import layout
from haste_runtime.kernels.codegen import compile_object
from haste_runtime.kernels.exports import ABOUT, FRAME, exports, prototypes
from haste_runtime.kernels.jit import kernel
from haste_runtime.kernels.lanes import lanes

NAMES = {
    "cortex-a53", "cortex-a55", "cortex-a57", "cortex-a72", "cortex-a76", "cortex-a78", "carmel",
    "armv7-neon-vfpv4", "x86-64-v3", "x86-64-v4",
}  # fmt: skip


def say_nothing(*_: object) -> None:
    pass


# --- the table of cores ---------------------------------------------------------------------------------------------


def test_every_promised_core_is_there() -> None:
    assert {core.name for core in CORES} == NAMES
    assert len({name for core in CORES for name in core.serves}) == sum(len(core.serves) for core in CORES)


@pytest.mark.parametrize("machine", MACHINES)
def test_the_last_core_of_a_machine_runs_wherever_another_does(machine: str) -> None:
    *others, general = cores_of(machine)
    assert all(set(general.features) <= set(core.features) for core in others)


@pytest.mark.parametrize("name", [name for name in list_targets() if name != "host"])
def test_every_board_has_a_core(name: str) -> None:
    target = load_target(name)
    core = core_of(target)
    assert (core.machine, core.lanes) == (target.architecture, target.simd.lanes)


def test_the_hosts_core_is_the_best_it_can_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    (tmp_path / "proc").mkdir()
    cpuinfo = tmp_path / "proc" / "cpuinfo"
    for name in ("x86-64-v4", "x86-64-v3"):
        cpuinfo.write_text(f"flags\t\t: fpu vme {' '.join(core_named(name).features)}\n")
        assert core_of(load_target("host"), tmp_path).name == name
    cpuinfo.write_text("flags\t\t: fpu vme sse2\n")
    with pytest.raises(TargetError, match="no kernels that this computer"):
        core_of(load_target("host"), tmp_path)


def test_a_board_with_an_unknown_core_is_told_the_known_ones(tmp_path: Path) -> None:
    text = Path(str(made_here.__file__)).parents[2].joinpath("targets", "rpi4.toml").read_text("utf-8")
    file = tmp_path / "mine.toml"
    file.write_text(text.replace('llvm_cpu = "cortex-a72"', 'llvm_cpu = "cortex-m4"'), "utf-8")
    with pytest.raises(TargetError) as caught:
        core_of(load_target(file))
    assert "cortex-m4" in caught.value.message
    assert "llvm_cpu" in caught.value.hint
    assert "cortex-a72" in caught.value.hint


# --- small kernels --------------------------------------------------------------------------------------------------


@kernel
def copies(
    table, operations, levels, slots, arena, packed, index, scratch, room, counters, trace, staged, inputs, given,
    meeting, worker, workers,
):  # fmt: skip
    """Stands where the frame does: long enough to have a loop, short enough to be compiled for every core."""
    for i in range(operations):
        arena[i] = packed[i] * 2


def small_object(core: Core) -> bytes:
    known = exports()
    return compile_object({FRAME: (copies, known[FRAME][1]), ABOUT: known[ABOUT]}, core.llvm).code


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Callable[[Core], bytes]:
    """Libraries are made of `small_object` in place of all kernels."""
    monkeypatch.setattr(made_here, "object_for", lambda core, progress: small_object(core))
    return small_object


@pytest.mark.parametrize("name", ["cortex-a53", "armv7-neon-vfpv4", "x86-64-v3"])
def test_a_shared_object_offers_the_functions_and_needs_only_the_system(name: str) -> None:
    core = core_named(name)
    made = link(core, small_object(core))
    assert offered(made) == [ABOUT, FRAME]
    assert set(undefined(made)) <= SYSTEM
    assert link(core, small_object(core)) == made, "the same kernels give other bytes"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="loads code for x86-64")
def test_it_loads_and_tells_abi_and_lanes(tmp_path: Path) -> None:
    core = core_named("x86-64-v3")
    (tmp_path / "kernels.so").write_bytes(link(core, small_object(core)))
    library = ctypes.CDLL(str(tmp_path / "kernels.so"))
    out = (ctypes.c_int64 * 2)()
    about = prototypes()[ABOUT](ctypes.cast(library.haste_about, ctypes.c_void_p).value)
    about(ctypes.addressof(out))
    assert list(out) == [layout.ABI, lanes()]


def test_equal_code_is_kept_once_and_found_by_both_names(small: object, tmp_path: Path) -> None:
    cores = [core_named(name) for name in ("cortex-a76", "cortex-a78", "armv7-neon-vfpv4")]
    told: list[tuple[str, int, int]] = []
    libraries = build_libraries(cores, lambda *report: told.append(report))
    write_libraries(tmp_path, libraries)
    assert [report[1:] for report in told] == [(1, 3), (2, 3), (3, 3)]
    index = json.loads((tmp_path / "index.json").read_text("utf-8"))
    assert index["abi"] == layout.ABI
    assert [(entry["name"], entry["file"]) for entry in index["libraries"]] == [
        ("cortex-a76", "haste-cortex-a76.so"),
        ("cortex-a78", "haste-cortex-a76.so"),
        ("armv7-neon-vfpv4", "haste-armv7-neon-vfpv4.so"),
    ]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "haste-armv7-neon-vfpv4.so", "haste-cortex-a76.so", "index.json",
    ]  # fmt: skip


@kernel
def divides(out):
    out[0] = out[0] // out[1] + out[0] % 7
    out[1] = np.int64(np.int32(np.rint(np.float64(np.int32(out[0])) * 0.3))) + np.int32(np.float32(out[2]))


@kernel
def longs_from_doubles(out):
    out[0] = np.int64(np.float64(np.int32(out[0])) * 0.5)


def code_with(core: Core, about: object) -> bytes:
    known = exports()
    return compile_object({FRAME: (copies, known[FRAME][1]), ABOUT: (about, known[ABOUT][1])}, core.llvm).code


def test_32_bit_arm_divides_and_rounds_without_helpers() -> None:
    core = core_named("armv7-neon-vfpv4")
    code = code_with(core, divides)
    check(core, code)
    assert set(undefined(code)) <= SYSTEM


def test_helpers_that_a_device_may_not_have_are_noticed() -> None:
    """LLVM's own functions, which no module lists: 32-bit ARM makes no 64-bit integer of a double by itself."""
    core = core_named("armv7-neon-vfpv4")
    with pytest.raises(BuildError, match="__aeabi_d2lz"):
        check(core, code_with(core, longs_from_doubles))


def test_what_is_missing_of_the_functions_is_noticed() -> None:
    core = core_named("cortex-a72")
    code = compile_object({ABOUT: exports()[ABOUT]}, core.llvm).code
    with pytest.raises(BuildError, match="offer haste_about instead of haste_about, haste_frame"):
        check(core, code)


def test_a_missing_linker_is_told_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("haste_edge.cross.extra.find_spec", lambda name: None)
    with pytest.raises(BuildError) as caught:
        link(core_named("cortex-a72"), b"")
    assert "haste-edge[cross]" in caught.value.hint


def test_a_file_that_is_no_object_is_told() -> None:
    with pytest.raises(BuildError, match="could not be linked"):
        link(core_named("cortex-a72"), b"not an object")


DIGEST = """
import hashlib
from numba import types
from haste_edge.cross.cores import core_named
from haste_runtime.kernels import group_patch
from haste_runtime.kernels.codegen import compile_object
from haste_runtime.kernels.simd_types import float_ptr, int_ptr, long_ptr

choose = types.void(long_ptr, long_ptr, float_ptr, int_ptr, types.int64, long_ptr)
made = compile_object({"choose": (group_patch.choose_leaders, choose)}, core_named("cortex-a72").llvm)
print(hashlib.sha256(made.code).hexdigest())
"""


def test_another_process_with_another_hash_seed_gives_the_same_bytes() -> None:
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    digests = {
        subprocess.run(
            [sys.executable, "-c", DIGEST], env=variables | {"PYTHONHASHSEED": seed}, capture_output=True, text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(digests) == 1
    assert len(digests.pop().strip()) == 64


# --- all kernels ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_cortex_a72_multiplies_in_registers_and_spills_nothing() -> None:
    """The loop over input channels and taps of a full tile: 6 pixels x 4 vectors, all of it in registers."""
    code = object_for(core_named("cortex-a72"), say_nothing)
    tiles = [loop for loop in innermost_loops(code) if is_tile(loop, 24)]
    assert len(tiles) >= 3, "float32, float16 and int8 weights each have such a loop"
    for loop in tiles:
        assert not any(instruction.touches_stack for instruction in loop)
    assert min(map(len, tiles)) <= 40, "a tap costs more than its 24 multiplications, 10 loads and the loop"


@pytest.mark.slow
def test_armv7_keeps_its_smaller_tile_in_registers() -> None:
    code = object_for(core_named("armv7-neon-vfpv4"), say_nothing)
    tiles = [loop for loop in innermost_loops(code) if is_tile(loop, 12)]
    assert tiles
    assert not any(instruction.touches_stack for instruction in min(tiles, key=len))
    assert min(map(len, tiles)) <= 40


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cortex-a72", "armv7-neon-vfpv4"])
def test_everything_that_is_called_was_compiled_for_the_device(name: str) -> None:
    code = object_for(core_named(name), say_nothing)
    assert set(undefined(code)) <= SYSTEM
    assert offered(code) == [ABOUT, FRAME]
    listing = instructions(code)
    assert len(listing) > 10_000
    strange = sum(not instruction.name for instruction in listing)
    assert strange <= len(listing) // 500, "constants between the functions of 32-bit ARM are no instructions"


def is_tile(loop: list[Instruction], multiplications: int) -> bool:
    """One tap of a tile: longer loops with as many are Winograd's transforms, which change whole tiles."""
    return len(loop) < 60 and sum(i.multiplies_and_adds_vectors for i in loop) == multiplications
