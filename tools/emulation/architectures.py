"""The two kinds of ARM that are emulated, and the processors that QEMU imitates."""

from __future__ import annotations

from dataclasses import dataclass

from haste_runtime.errors import HasteError


class EmulationError(HasteError, RuntimeError):
    """ARM code cannot be run here; the hint says what is missing."""


@dataclass(frozen=True)
class Architecture:
    """debian: its name there. machine: what `platform.machine` says. cpus: QEMU's names, never its default, whose
    vectors of any length no board of ours has."""

    debian: str
    machine: str
    triplet: str
    qemu: str
    cpus: tuple[str, ...]
    packages: tuple[str, ...]  # of Debian
    wheels: tuple[str, ...]  # of PyPI


ARM64 = Architecture(
    "arm64", "aarch64", "aarch64-linux-gnu", "qemu-aarch64",
    ("cortex-a53", "cortex-a55", "cortex-a57", "cortex-a72", "cortex-a76", "neoverse-n1"),
    ("python3", "libstdc++6"), ("numpy", "safetensors"),
)  # fmt: skip
# PyPI has no numpy for 32-bit ARM, so this one is Debian's, as on a board with a 32-bit system.
ARMHF = Architecture(
    "armhf", "armv7l", "arm-linux-gnueabihf", "qemu-arm", ("cortex-a7", "cortex-a15"),
    ("python3", "python3-numpy"), ("safetensors",),
)  # fmt: skip
ARCHITECTURES = {one.debian: one for one in (ARM64, ARMHF)}


def architecture_of(cpu: str) -> Architecture:
    """The one that has the processor. Raises EmulationError."""
    for one in ARCHITECTURES.values():
        if cpu in one.cpus:
            return one
    known = ", ".join(cpu for one in ARCHITECTURES.values() for cpu in one.cpus)
    raise EmulationError(f"No processor called {cpu!r} is imitated.", f"Choose from {known}.")
