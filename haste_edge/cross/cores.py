"""The CPU cores that machine code is made for, and which of them a board has.

A board's file in ``targets/`` names its core in LLVM's words (``llvm_cpu``); one library may serve several cores.
Names and MIDR numbers of ARM's own cores: Arm, Technical Reference Manuals, "Main ID Register"; Carmel's: the Linux
kernel's ``arch/arm64/include/asm/cputype.h``. Words of /proc/cpuinfo: the kernel's ``Documentation/arch/arm64/
elf_hwcaps.rst`` and ``arch/x86/include/asm/cpufeatures.h``.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

from haste_edge.errors import TargetError
from haste_edge.targets import Target
from haste_runtime.kernels.codegen import Machine

ARM = "0x41"  # MIDR implementers
NVIDIA = "0x4e"

V8 = ("fp", "asimd")
# What LLVM may use for a core of ARMv8.2: one atomic instruction, rounding doubling multiplies, half precision.
V8_2 = (*V8, "atomics", "asimdrdm", "fphp", "asimdhp")
DOT_PRODUCT = (*V8_2, "asimddp", "lrcpc")
X86_64_V3 = ("avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe")
X86_64_V4 = (*X86_64_V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")


@dataclass(frozen=True)
class Core:
    """One library of kernels.

    name: the library's. machine: what `platform.machine` says there. triple, llvm_cpu, llvm_features: LLVM's words for
    what it may use and how it schedules. lanes: float32 numbers in a vector. registers: vectors that
    the core holds, which decide how large a tile is computed at a time. features: words of /proc/cpuinfo without
    which the library must not run. parts: MIDR implementer and part of the cores it was made for. serves: LLVM's names
    of all cores it is meant for.
    """

    name: str
    machine: str
    triple: str
    llvm_cpu: str
    llvm_features: str
    lanes: int
    registers: int
    features: tuple[str, ...]
    parts: tuple[tuple[str, str], ...]
    serves: tuple[str, ...]

    @property
    def llvm(self) -> Machine:
        """Position-independent code, so that it can be a shared object."""
        return Machine(self.triple, self.llvm_cpu, self.llvm_features, relocation="pic", code_model="default")


def _aarch64(
    name: str, features: tuple[str, ...], parts: tuple[tuple[str, str], ...], also: tuple[str, ...], llvm_cpu: str = ""
) -> Core:
    return Core(
        name, "aarch64", "aarch64-unknown-linux-gnu", llvm_cpu or name, "", 4, 32, features, parts, (name, *also)
    )  # fmt: skip


# Of one machine the most capable comes first and the most general last: a device takes the first that it can run, if
# none was made for its core. LLVM schedules A76 and A78 as if they were A57 with one vector pipe; Neoverse N1, which is
# an A76 for servers, it knows properly.
CORES: tuple[Core, ...] = (
    _aarch64(
        "cortex-a78", DOT_PRODUCT, ((ARM, "0xd41"), (ARM, "0xd42"), (ARM, "0xd44"), (ARM, "0xd4b")),
        ("cortex-a78ae", "cortex-a78c", "cortex-x1"), "neoverse-n1",
    ),
    _aarch64(
        "cortex-a76", DOT_PRODUCT, ((ARM, "0xd0b"), (ARM, "0xd0c"), (ARM, "0xd0d"), (ARM, "0xd0e")),
        ("cortex-a76ae", "cortex-a77", "neoverse-n1"), "neoverse-n1",
    ),
    _aarch64("cortex-a55", DOT_PRODUCT, ((ARM, "0xd05"),), ()),
    _aarch64("carmel", V8_2, ((NVIDIA, "0x004"),), ()),
    _aarch64("cortex-a72", V8, ((ARM, "0xd08"), (ARM, "0xd09")), ("cortex-a73",)),
    _aarch64("cortex-a57", V8, ((ARM, "0xd07"),), ()),
    _aarch64("cortex-a53", V8, ((ARM, "0xd03"), (ARM, "0xd04")), ("cortex-a35", "generic")),
    Core(
        "armv7-neon-vfpv4", "armv7l", "armv7-unknown-linux-gnueabihf", "cortex-a7", "+neon,+fp16", 4, 16,
        ("neon", "vfpv4", "idiva"), (), ("cortex-a7", "cortex-a15", "cortex-a17"),
    ),
    Core(
        "x86-64-v4", "x86_64", "x86_64-unknown-linux-gnu", "x86-64-v4", "+f16c", 16, 32, X86_64_V4, (), ("x86-64-v4",),
    ),
    Core(
        "x86-64-v3", "x86_64", "x86_64-unknown-linux-gnu", "x86-64-v3", "+f16c", 8, 16, X86_64_V3, (),
        ("x86-64-v3", "haswell", "znver1"),
    ),
)  # fmt: skip

MACHINES = tuple(dict.fromkeys(core.machine for core in CORES))


def cores_of(machine: str) -> list[Core]:
    """All of one machine, the most capable first, the most general last."""
    return [core for core in CORES if core.machine == machine]


def core_named(name: str) -> Core:
    """Raises TargetError where there is none."""
    for core in CORES:
        if core.name == name:
            return core
    raise TargetError(f"There is no core {name!r}.", f"Known cores: {', '.join(core.name for core in CORES)}.")


def core_of(target: Target, root: Path = Path("/")) -> Core:
    """The core of a board; of the target ``host`` the most capable that this computer can run.

    root: where /proc lies. Raises TargetError where there is none for it.
    """
    if target.architecture == "native":
        return _own(root)
    for core in cores_of(target.architecture):
        if target.llvm_cpu in core.serves:
            return core
    known = ", ".join(name for core in cores_of(target.architecture) for name in core.serves)
    raise TargetError(
        f"The target {target.name} has the core {target.llvm_cpu!r}, which kernels are not compiled for.",
        f"Set llvm_cpu in its file to the most similar of: {known}.",
    )


def _own(root: Path) -> Core:
    words = set((root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split())
    for core in cores_of(platform.machine()):
        if words.issuperset(core.features):
            return core
    raise TargetError(
        f"There are no kernels that this computer ({platform.machine()}) can run.",
        "Name a board: `haste-edge targets` lists them.",
    )
