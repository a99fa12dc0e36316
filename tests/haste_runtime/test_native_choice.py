"""Which CPU this is, and which kernels fit it: boards as their /proc and /sys show them, and files full of nonsense."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from haste_runtime.errors import NativeError
from haste_runtime.kernels.layout import ABI
from haste_runtime.native.choose import choose
from haste_runtime.native.cpu import Cpu, read_cpu, this_cpu
from haste_runtime.native.libraries import Index, Library, read_index

V8, DOT = {"fp", "asimd"}, {"fp", "asimd", "asimdhp", "asimddp"}
AVX2 = {"avx2", "fma", "f16c"}


def library(name: str, machine: str, features: set[str], *parts: int) -> Library:
    return Library(name, f"/{name}.so", machine, 4, frozenset(features), frozenset((0x41, part) for part in parts), "")


INDEX = Index(
    "/native", "0.1.0",
    (
        library("cortex-a76", "aarch64", DOT, 0xD0B, 0xD0C), library("cortex-a72", "aarch64", V8, 0xD08),
        library("cortex-a53", "aarch64", V8, 0xD03), library("armv7", "armv7l", {"neon", "vfpv4"}),
        library("v4", "x86_64", AVX2 | {"avx512f"}), library("v3", "x86_64", AVX2),
    ),
)  # fmt: skip


def board(root: Path, *parts: int | str, features: str = "fp asimd", midr: bool = True, listed: bool = True) -> Path:
    """A computer with one core for each of ``parts``."""
    cores = []
    for number, part in enumerate(parts):
        core = f"processor\t: {number}\nFeatures\t: {features}\n"
        if listed:
            core += f"CPU implementer\t: 0x41\nCPU part\t: {part if isinstance(part, str) else hex(part)}\n"
        cores.append(core)
        if midr:
            register = root / f"sys/devices/system/cpu/cpu{number}/regs/identification/midr_el1"
            register.parent.mkdir(parents=True, exist_ok=True)
            value = part if isinstance(part, str) else hex(0x41 << 24 | 0xF << 16 | part << 4 | 3)
            register.write_text(f"{value}\n")
    (root / "proc").mkdir(parents=True, exist_ok=True)
    (root / "proc/cpuinfo").write_text("\n".join(cores))
    return root


def auxiliary(root: Path, width: int, *pairs: tuple[int, int]) -> None:
    (root / "proc/self").mkdir(parents=True, exist_ok=True)
    layout = "=QQ" if width == 8 else "=LL"
    (root / "proc/self/auxv").write_bytes(b"".join(struct.pack(layout, *pair) for pair in (*pairs, (0, 0), (16, 2))))


@pytest.fixture(autouse=True)
def unforced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HASTE_CPU", raising=False)


@pytest.mark.parametrize(("midr", "listed"), [(True, True), (True, False), (False, True)])
def test_the_core_chooses(tmp_path: Path, midr: bool, listed: bool) -> None:
    cpu = read_cpu(board(tmp_path, 0xD08, 0xD08, midr=midr, listed=listed), "aarch64", 64)
    assert cpu == Cpu("aarch64", frozenset({(0x41, 0xD08)}), frozenset(V8))
    choice = choose(INDEX, cpu)
    assert choice.library.name == "cortex-a72"
    assert "implementer 0x41 part 0xd08" in choice.reason


def test_unlike_cores_get_what_all_can_run(tmp_path: Path) -> None:
    """A53 with A72 (RK3399): neither's own kernels fit both, so features decide."""
    cpu = read_cpu(board(tmp_path, 0xD03, 0xD08), "aarch64", 64)
    assert len(cpu.parts) == 2
    choice = choose(INDEX, cpu)
    assert choice.library.name == "cortex-a72"
    assert "no others are made for its cores" in choice.reason


def test_features_are_those_of_every_core(tmp_path: Path) -> None:
    first = board(tmp_path, 0xD0B, 0xD03, midr=False, features="fp asimd asimdhp asimddp")
    text = (first / "proc/cpuinfo").read_text().rsplit(" asimdhp asimddp", 1)
    (first / "proc/cpuinfo").write_text("".join(text))
    assert read_cpu(first, "aarch64", 64).features == V8


def test_an_unknown_core_gets_the_most_capable_that_it_can_run(tmp_path: Path) -> None:
    cpu = read_cpu(board(tmp_path, 0xD4F, features=" ".join(DOT | {"sve2"})), "aarch64", 64)
    assert choose(INDEX, cpu).library.name == "cortex-a76"


def test_32_bit_python_on_a_64_bit_kernel(tmp_path: Path) -> None:
    """/proc/cpuinfo speaks of the 64-bit world; the auxiliary vector tells what this process has."""
    root = board(tmp_path, 0xD08)
    auxiliary(root, 4, (16, 1 << 12 | 1 << 16 | 1 << 17))
    cpu = read_cpu(root, "aarch64", 32)
    assert cpu.machine == "armv7l"
    assert {"neon", "vfpv4", "idiva"} <= cpu.features
    assert choose(INDEX, cpu).library.name == "armv7"
    assert read_cpu(root, "armv8l", 32).machine == "armv7l"
    assert read_cpu(root, "x86_64", 32).machine == "i686"


def test_under_emulation_the_auxiliary_vector_tells(tmp_path: Path) -> None:
    """The emulator shows the host's /proc/cpuinfo, but a vector of its own."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("processor\t: 0\nflags\t\t: fpu avx2 fma asimddp\n")
    assert read_cpu(tmp_path, "aarch64", 64).features == set()
    auxiliary(tmp_path, 8, (3, 0xFFFF), (16, 0b11 | 1 << 10 | 1 << 20), (26, 1 << 13))
    cpu = read_cpu(tmp_path, "aarch64", 64)
    assert cpu.features == DOT | {"i8mm"}
    assert choose(INDEX, cpu).library.name == "cortex-a76"


@pytest.mark.parametrize(("flags", "name"), [("fma avx2 f16c avx512f", "v4"), ("fma avx2 f16c", "v3")])
def test_x86_is_told_by_its_flags(tmp_path: Path, flags: str, name: str) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(
        f"processor\t: 0\nflags\t\t: fpu {flags}\n\nprocessor : 1\nflags : {flags}\n"
    )
    cpu = read_cpu(tmp_path, "x86_64", 64)
    assert not cpu.parts
    assert choose(INDEX, cpu).library.name == name


def test_a_cpu_without_what_they_need(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("processor: 0\nflags: sse4_2 avx\n")
    with pytest.raises(NativeError, match="even those for v3 need avx2 f16c fma, which it lacks") as caught:
        choose(INDEX, read_cpu(tmp_path, "x86_64", 64))
    assert not caught.value.damaged


GARBAGE = [b"", b"\xff\xfe\0", b"::::\n\n:\n\n", b"processor: x\nCPU part: cow\nCPU implementer: 0x41", b"\n" * 99]


@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_tells_nothing(tmp_path: Path, garbage: bytes) -> None:
    for name in ("proc/cpuinfo", "proc/self/auxv", "sys/devices/system/cpu/cpu0/regs/identification/midr_el1"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(garbage)
    for machine in ("aarch64", "armv7l", "x86_64", ""):
        cpu = read_cpu(tmp_path, machine)
        assert not cpu.parts
        assert not cpu.features


def test_a_cpu_that_nobody_tells_of_must_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = read_cpu(tmp_path, "aarch64", 64)
    with pytest.raises(NativeError, match="what this CPU can do") as caught:
        choose(INDEX, cpu)
    assert "HASTE_CPU=cortex-a76 or cortex-a72 or cortex-a53" in caught.value.hint
    monkeypatch.setenv("HASTE_CPU", "cortex-a53")
    choice = choose(INDEX, cpu)
    assert (choice.library.name, choice.reason) == ("cortex-a53", "asked for by HASTE_CPU")


@pytest.mark.parametrize(
    ("name", "words"),
    [("cortex-x9", "no kernels that are here"), ("v3", "kernels for x86_64, and this is aarch64"),
     ("cortex-a76", "asimddp asimdhp, which this CPU lacks")],
)  # fmt: skip
def test_what_cannot_be_forced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str) -> None:
    monkeypatch.setenv("HASTE_CPU", name)
    with pytest.raises(NativeError, match=words) as caught:
        choose(INDEX, read_cpu(board(tmp_path, 0xD08), "aarch64", 64))
    assert caught.value.hint


def test_kernels_for_other_machines_only(tmp_path: Path) -> None:
    with pytest.raises(NativeError, match="are for aarch64, armv7l, x86_64, and this is riscv64"):
        choose(INDEX, read_cpu(tmp_path, "riscv64", 64))


ENTRY = (
    '{"name": "a", "file": "a.so", "machine": "x86_64", "lanes": 8, "features": [], "parts": [["0x41", "0xd08"]], '
    f'"sha256": "{64 * "0"}"}}'
)
WRONG = [
    ("[]", "no object"), ("{", "Expecting"), ('{"abi": true}', "'abi' is no int"),
    (f'{{"abi": {ABI}}}', "'runtime_version'"),
    (f'{{"abi": {ABI}, "runtime_version": "0", "libraries": [1]}}', "no object"),
    (ENTRY.replace('"a.so"', '"../a.so"'), "not the name of a file"), (ENTRY.replace('"a.so"', '".."'), "not the name"),
    (ENTRY.replace(": 8", ": 5"), "5 lanes"), (ENTRY.replace("00", "0x", 1), "checksum"),
    (ENTRY.replace('"0xd08"', "3"), "no pair"), (ENTRY.replace('"0xd08"', '"cow"'), "invalid literal"),
    (ENTRY.replace('"features": []', '"features": [1]'), "no words"), (ENTRY.replace('"x86_64"', "7"), "'machine'"),
    ("[" * 100000, "not a list of native kernels"), (" " * (1 << 20) + "{}", "more than"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "words"), WRONG, ids=range(len(WRONG)))
def test_a_wrong_index_is_told(tmp_path: Path, text: str, words: str) -> None:
    if text.startswith('{"name"'):
        text = f'{{"abi": {ABI}, "runtime_version": "0", "libraries": [{text}]}}'
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(NativeError, match=words) as caught:
        read_index(str(tmp_path))
    assert "Install the wheel" in caught.value.hint


def test_a_good_index_is_read(tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text(f'{{"abi": {ABI}, "runtime_version": "0", "libraries": [{ENTRY}], "more": 1}}')
    (found,) = read_index(str(tmp_path)).libraries
    assert found == Library("a", str(tmp_path / "a.so"), "x86_64", 8, frozenset(), frozenset({(0x41, 0xD08)}), 64 * "0")


def test_this_cpu_is_read_once() -> None:
    assert this_cpu() is this_cpu()
